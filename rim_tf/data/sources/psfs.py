"""Measured PSFs for simulated lenses: stamps from a file, as instruments with wider pixels would see them as well."""

import numpy as np
from scipy import ndimage

from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, load_arrays

# Pixels of an instrument over those of the stamps.
_WIDER = (1.0, 1.2, 1.4, 1.7)


def load_psfs(path, pixels):
    """PSF stamps of sum 1, each in pixels of several widths, [n, pixels, pixels] float32.

    Args:
      path: .npz file whose array "psf" holds stamps [n, k, k] of odd side, centred on the middle pixel.
      pixels: side of the stamps to be made, odd; what lies beyond is cut off.

    Raises:
      InputError: no such file, none of that kind, or `pixels` is not odd.
    """
    if pixels == 0:
        raise InputError("The mocks of this experiment have Gaussian PSFs alone: their psf_pixels is 0.")
    if pixels % 2 == 0:
        raise InputError(f"PSFs from a file need stamps of an odd side; the mocks' psf_pixels is {pixels}.")
    try:
        stamps = load_arrays(path)["psf"]
    except DAMAGED as error:
        raise InputError(f"{path} is no .npz file with an array 'psf' of stamps ({type(error).__name__}).") from None
    wrong = stamps.ndim != 3 or stamps.shape[1] != stamps.shape[2] or stamps.shape[1] % 2 == 0
    if wrong or stamps.dtype.kind != "f" or not np.isfinite(stamps).all() or not (stamps.sum((1, 2)) > 0).all():
        raise InputError(
            f"{path}: psf is {stamps.dtype} {stamps.shape}; it must be finite stamps [n, k, k] of odd k, with light."
        )
    found = np.concatenate([[_seen(stamp, pixels, width) for stamp in stamps] for width in _WIDER])
    return (found / found.sum((1, 2), keepdims=True)).astype(np.float32)


def _seen(stamp, pixels, width):
    """The means of a stamp over pixels `width` times as wide about the same centre; dark beyond its edge."""
    samples = 5
    offset = (np.arange(pixels * samples) - (pixels * samples - 1) / 2) * width / samples
    at = np.stack(np.meshgrid(offset, offset, indexing="ij")) + (len(stamp) - 1) / 2
    # Not spline-filtered: a little blur, as pixels make it, is better than light below zero.
    fine = ndimage.map_coordinates(stamp.astype(float), at, order=1, mode="constant")
    return fine.reshape(pixels, samples, pixels, samples).mean((1, 3))
