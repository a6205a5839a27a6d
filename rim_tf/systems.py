"""Observations and their lenses as one batch, and the source grids that they get."""

import warnings

import numpy as np
from keras import ops

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.errors import InputError, InputWarning
from rim_tf.grids import PixelGrid
from rim_tf.observation import check_pixel_scale
from rim_tf.physics.deflection import ray_trace

# Warn where more than this share of an image's flux comes from outside the source grid.
_FLUX_OUTSIDE = 0.02
# Systems in one call of the network, which bounds the memory.
_BATCH = 16


def source_grid(observation, stride, pixel_scale, pixels):
    """(pixels on a side, pixel scale [arcsec]) of the source grid that `reconstruct` gives one observation."""
    if pixel_scale is None:
        pixel_scale = SOURCE_SCALE_RATIO * observation.pixel_scale
    pixel_scale = check_pixel_scale(pixel_scale, "source_pixel_scale")
    if pixels is None:
        pixels = max(observation.shape)
    if int(pixels) != pixels or pixels < 4:
        raise InputError(f"source_pixels is {pixels!r}; it must be a whole number of at least 4.")
    return -(-int(pixels) // stride) * stride, pixel_scale


def batches(observations, grids):
    """Lists of indices that can share one call: equal image and source shapes, the same kind of PSF."""
    groups = {}
    for i, (each, (pixels, _)) in enumerate(zip(observations, grids, strict=True)):
        groups.setdefault((each.shape, pixels, isinstance(each.psf, float)), []).append(i)
    for members in groups.values():
        for start in range(0, len(members), _BATCH):
            yield members[start : start + _BATCH]


def network_inputs(observations, lenses, source_pixel_scales):
    """The dictionary that `RIM.call` takes, as float32 tensors, for observations of one shape and kind of PSF.

    Brightness is in the `unit` of each observation.
    """
    arrays = {
        "image": [each.image / each.unit for each in observations],
        "noise_rms": [each.noise / each.unit for each in observations],
        "psf": _stack_psfs([each.psf for each in observations]),
        "lens": [lens.as_tuple() for lens in lenses],
        "pixel_scale": [each.pixel_scale for each in observations],
        "source_pixel_scale": list(source_pixel_scales),
    }
    inputs = {name: ops.convert_to_tensor(np.asarray(value, np.float32)) for name, value in arrays.items()}
    return inputs | {"mask": ops.convert_to_tensor(np.stack([each.mask for each in observations]))}


def _stack_psfs(psfs):
    """Gaussian sigmas [batch], or stamps padded with zeros to the largest of them [batch, k, l]."""
    if isinstance(psfs[0], float):
        return psfs
    largest = np.max([psf.shape for psf in psfs], axis=0)
    margins = [(largest - psf.shape) // 2 for psf in psfs]  # whole, as all sides are odd
    return [np.pad(psf, [(m, m) for m in margin]) for psf, margin in zip(psfs, margins, strict=True)]


def share_outside(observation, lens, pixels, pixel_scale):
    """Share of the flux in pixels 3 sigma above the noise whose rays miss the source grid; warns above 2 %."""
    grid = PixelGrid(*observation.shape, pixel_scale=np.float32(observation.pixel_scale))
    parameters = ops.convert_to_tensor(np.asarray([lens.as_tuple()], np.float32))
    beta_x, beta_y = (ops.convert_to_numpy(beta)[0] for beta in ray_trace(*grid.coordinates(), parameters))
    bright = observation.mask & (observation.image > 3 * observation.noise)
    half_width = pixels * pixel_scale / 2
    outside = np.maximum(np.abs(beta_x), np.abs(beta_y)) > half_width
    total = observation.image[bright].sum()
    share = float(observation.image[bright & outside].sum() / total) if total > 0 else 0.0
    if share > _FLUX_OUTSIDE:
        warnings.warn(
            f"{100 * share:.0f} % of the image's flux comes from outside the source grid, which is "
            f"{2 * half_width:.2f} arcsec wide; make it wider (source_pixels, source_pixel_scale), mask what is not "
            "the lensed source, or check the lens parameters.",
            InputWarning,
            stacklevel=5,
        )
    return share
