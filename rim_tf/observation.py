"""What a telescope gave: image, noise, PSF, mask and pixel scale, checked once at the entrance.

Everything past this module may rely on what it promises, so it is the one place where bad data is refused or mended,
and each mending is said aloud in an `InputWarning`.
"""

import dataclasses
import warnings
from collections.abc import Mapping

import numpy as np

from rim_tf.errors import InputError, InputWarning

# Many pipelines mark pixels that must not be used by an infinite noise, or one this many times the usual.
_NOISE_OF_MASKED = 1e6
# From VLBI to a survey of the whole sky; what is beyond is a mistake.
_PIXEL_SCALES = 1e-6, 1e3


@dataclasses.dataclass(frozen=True)
class Observation:
    """One image of a lens, its light already free of sky and lens galaxy.

    Args:
      image: surface brightness, [rows, columns], row 0 the smallest y. NaN or infinite pixels are masked, with an
        InputWarning.
      noise: standard deviation of the noise in the units of `image`: a number, or a map [rows, columns].
      psf: Gaussian sigma [arcsec], or a stamp [k, l] with odd sides, normalised here with an InputWarning where
        its sum is not 1.
      mask: boolean, true where a pixel is to be used, [rows, columns]; None uses all.
      pixel_scale: [arcsec].
      sky: the celestial coordinates of the image as a FITS header, CRPIX counted from the field's centre, or None; it
        is handed on to what `rim_tf.io` writes.

    Attributes: the same, as float32 arrays (psf a float where it was one), `mask` always an array; masked pixels
    hold image 0 and noise 1.

    Raises:
      InputError: anything else than the above, in one sentence that says what to do.
    """

    image: np.ndarray
    noise: np.ndarray | float
    psf: np.ndarray | float
    mask: np.ndarray | None = None
    pixel_scale: float = 0.05
    sky: Mapping | None = None

    def __post_init__(self):
        image = _array(self.image, "image")
        if image.ndim != 2:
            raise InputError(
                f"image has shape {image.shape}; it must be two-dimensional, [rows, columns]. Pick one plane of it."
            )
        if min(image.shape) < 4:
            raise InputError(f"image has shape {image.shape}; it must have at least 4 pixels on each side.")
        mask = _check_mask(self.mask, image)
        noise, mask = _check_noise(self.noise, image, mask)
        if not mask.any():
            raise InputError("All pixels of image are masked; at least one must be usable. Check mask and noise.")
        keep = {
            "image": np.where(mask, image, 0).astype(np.float32),
            "noise": np.where(mask, noise, 1).astype(np.float32),
            "psf": _check_psf(self.psf, image.shape),
            "mask": mask,
            "pixel_scale": check_pixel_scale(self.pixel_scale),
        }
        for name, value in keep.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self):
        """Rows and columns of the image."""
        return self.image.shape


def check_pixel_scale(value, name="pixel_scale"):
    """`value` as a float, where it is a number that pixels may have [arcsec]; InputError otherwise."""
    try:
        scale = float(value)
    except (TypeError, ValueError, OverflowError):
        scale = np.nan
    lowest, highest = _PIXEL_SCALES
    if not lowest <= scale <= highest:
        raise InputError(f"{name} is {value!r}; it must be a number above 0 [arcsec], from {lowest:g} to {highest:g}.")
    return scale


def _array(value, name):
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers; wanted floating-point values.") from None


def _same_shape(array, image, name):
    if array.shape != image.shape:
        raise InputError(
            f"{name} has shape {array.shape} and image {image.shape}; they must be the same. "
            "Cut both from the same region."
        )


def _check_mask(mask, image):
    finite = np.isfinite(image)
    if not finite.any():
        raise InputError("image has no finite pixel at all; check that the right file and HDU were given.")
    if mask is None:
        mask = np.ones(image.shape, bool)
    else:
        mask = np.asarray(mask)
        _same_shape(mask, image, "mask")
        if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise InputError("mask holds other values than 0 and 1; it must be 1 (true) where a pixel is to be used.")
        mask = mask.astype(bool)
    lost = mask & ~finite
    if lost.any():
        warnings.warn(f"{lost.sum()} pixels of image are NaN or infinite and are masked.", InputWarning, stacklevel=4)
    return mask & finite


def _check_noise(noise, image, mask):
    noise = _array(noise, "noise")
    if noise.ndim == 0:
        noise = np.full(image.shape, noise)
    _same_shape(noise, image, "noise")
    good = mask & np.isfinite(noise) & (noise > 0)
    if good.any():
        mask = mask & ~(noise >= _NOISE_OF_MASKED * np.median(noise[good]))
    bad = mask & ~(np.isfinite(noise) & (noise > 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"noise is {noise[row, column]:g} at row {row}, column {column} and bad at {bad.sum()} unmasked pixels; "
            "it must be above 0 and finite there. Mask those pixels or correct the map."
        )
    return noise, mask


def _check_psf(psf, image_shape):
    psf = _array(psf, "psf")
    if psf.ndim == 0:
        if not (np.isfinite(psf) and psf >= 0):
            raise InputError(f"psf is {psf}; a Gaussian sigma must be a number of at least 0 [arcsec].")
        return float(psf)
    if psf.ndim != 2:
        raise InputError(f"psf has shape {psf.shape}; it must be a number (Gaussian sigma) or a stamp [k, k].")
    if psf.shape[0] % 2 == 0 or psf.shape[1] % 2 == 0:
        raise InputError(
            f"psf has shape {psf.shape}; its sides must be odd, or every image shifts by half a pixel. Pad it, or "
            "resample it on an odd grid, so that its centre is in the middle pixel."
        )
    if not np.isfinite(psf).all():
        raise InputError(f"psf has {(~np.isfinite(psf)).sum()} NaN or infinite pixels; replace them, by 0 at its edge.")
    total = psf.sum()
    if total <= 0:
        raise InputError(f"psf sums to {total:g}; its sum must be above 0. Check its sky subtraction and its HDU.")
    if abs(total - 1) > 1e-3:
        warnings.warn(f"psf sums to {total:.4g}; it was normalised to 1.", InputWarning, stacklevel=4)
    return (psf / total).astype(np.float32)
