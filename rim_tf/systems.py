"""Observations and their lenses as one batch: the named specification of its tensors, and how batches are made up.

NumPy alone, so that clients of a model server can make batches without a machine-learning framework.
"""

import dataclasses

import numpy as np

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.errors import InputError
from rim_tf.observation import check_pixel_scale

# Systems in one call of the network, which bounds the memory.
_MOST_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of the tensors that describe a batch.

    Attributes:
      axes: names of its axes; the batch is the first, as model servers batch nothing else.
      dtype: of NumPy.
    """

    axes: tuple[str, ...]
    dtype: str = "float32"


_IMAGE = ("batch", "rows", "columns")
# What every model and signature of images takes.
IMAGING = {
    "image": Tensor(_IMAGE),  # surface brightness, any unit
    "noise_rms": Tensor(_IMAGE),  # its standard deviation, above 0 where the mask is true
    "mask": Tensor(_IMAGE, "bool"),  # true where a pixel is to be used
    "psf": Tensor(("batch", "stamp rows", "stamp columns")),  # stamps of odd sides and unit sum
    "lens": Tensor(("batch", "parameters")),  # in the order of the mass model's columns [arcsec where lengths]
    "pixel_scale": Tensor(("batch",)),  # of the image [arcsec]
    "source_pixel_scale": Tensor(("batch",)),  # of the source [arcsec]
}
# In place of a stamp: sigma of a Gaussian PSF [arcsec].
GAUSSIAN_PSF = Tensor(("batch",))
# A source where one is given: surface brightness, centred on (0, 0).
SOURCE = Tensor(("batch", "source rows", "source columns"))
# Of what is random, one for each system.
SEED = Tensor(("batch",), "int32")


def source_grid(observation, stride, pixel_scale=None, pixels=None):
    """The source grid of one observation.

    Args:
      observation: `Observation`.
      stride: the grid's sides are multiples of it.
      pixel_scale: [arcsec]; by default SOURCE_SCALE_RATIO times the image's, as in training.
      pixels: on a side; by default as many as the image's longer side. Rounded up to a multiple of the stride.

    Returns:
      Pixels on a side, and pixel scale [arcsec].

    Raises:
      InputError: a grid that is none.
    """
    if pixel_scale is None:
        pixel_scale = SOURCE_SCALE_RATIO * observation.pixel_scale
    pixel_scale = check_pixel_scale(pixel_scale, "source_pixel_scale")
    if pixels is None:
        pixels = max(observation.shape)
    if int(pixels) != pixels or pixels < 4:
        raise InputError(f"source_pixels is {pixels!r}; it must be a whole number of at least 4.")
    return -(-int(pixels) // stride) * stride, pixel_scale


def batches(observations, lenses, grids):
    """Lists of indices that can share one call: equal shapes of image and source, kind of PSF and mass model.

    Args:
      observations: list of `Observation`.
      lenses: as long a list of lenses.
      grids: what `source_grid` returned for each.
    """
    groups = {}
    for i, (each, lens, (pixels, _)) in enumerate(zip(observations, lenses, grids, strict=True)):
        groups.setdefault((each.shape, pixels, isinstance(each.psf, float), lens.mass), []).append(i)
    for members in groups.values():
        for start in range(0, len(members), _MOST_AT_ONCE):
            yield members[start : start + _MOST_AT_ONCE]


def batch_of(observations, lenses, source_pixel_scales, dtype="float32"):
    """The dictionary of arrays that IMAGING describes, its brightness in the `unit` of each observation.

    Args:
      observations: list of `Observation` of one shape and kind of PSF.
      lenses: as long a list of lenses of one mass model.
      source_pixel_scales: as long a list [arcsec].
      dtype: of all but the mask.
    """
    arrays = {
        "image": [each.image / each.unit for each in observations],
        "noise_rms": [each.noise / each.unit for each in observations],
        "mask": [each.mask for each in observations],
        "psf": _stack_psfs([each.psf for each in observations]),
        "lens": [lens.as_tuple() for lens in lenses],
        "pixel_scale": [each.pixel_scale for each in observations],
        "source_pixel_scale": list(source_pixel_scales),
    }
    return {name: np.asarray(value, bool if name == "mask" else dtype) for name, value in arrays.items()}


def _stack_psfs(psfs):
    """Gaussian sigmas [batch], or stamps padded with zeros to the largest of them [batch, k, l]."""
    if isinstance(psfs[0], float):
        return psfs
    largest = np.max([psf.shape for psf in psfs], axis=0)
    margins = [(largest - psf.shape) // 2 for psf in psfs]  # whole, as all sides are odd
    return [np.pad(psf, [(m, m) for m in margin]) for psf, margin in zip(psfs, margins, strict=True)]
