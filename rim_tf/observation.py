"""What a telescope gave: image, noise, PSF, mask and pixel scale, checked once at the entrance.

Everything past this module may rely on what it promises, so it is the one place where bad data is refused or mended.
Each mending is said aloud in an `InputWarning`, as is what can be used as it is but looks like a mistake.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping

import numpy as np

from rim_tf.errors import InputError, InputWarning

# Many pipelines mark pixels that must not be used by an infinite noise, or one this many times the usual.
_NOISE_OF_MASKED = 1e6
# A pixel whose noise is so many times below the usual would outweigh all others together.
_NOISE_TOO_SMALL = 1e-4
# From VLBI to a survey of the whole sky; what is beyond is a mistake.
_PIXEL_SCALES = 1e-6, 1e3
# Brightness outside these is brought to about one before float32, which loses the squares of what is far from one.
_PLAIN_UNITS = 1e-12, 1e12
# What is brighter than all but this share of the pixels sets the unit; a pixel so many times above it is no light.
_TYPICAL_SHARE, _BEYOND_BELIEF = 0.01, 1e6
# No image is so many times brighter than its noise, and float32 could not tell.
_SIGNAL_TO_NOISE = 1e9


@dataclasses.dataclass(frozen=True)
class Observation:
    """One image of a lens, its light already free of sky and lens galaxy.

    Args:
      image: surface brightness in any unit, [rows, columns], row 0 the smallest y. Pixels that are NaN, infinite or
        beyond belief are masked, with an InputWarning. The masks of NumPy's masked arrays are kept.
      noise: standard deviation of the noise in the units of `image`: a number, or a map [rows, columns]. Pixels of
        infinite noise are masked, with an InputWarning.
      psf: Gaussian sigma [arcsec], or a stamp [k, l] with odd sides, normalised here with an InputWarning where its sum
        is not 1.
      mask: boolean, true where a pixel is to be used, [rows, columns]; None uses all.
      pixel_scale: [arcsec].
      sky: the celestial coordinates of the image as a FITS header, CRPIX counted from the field's centre, or None; it
        is handed on to what `rim_tf.io` writes.

    Attributes: the same, as float32 arrays (float64 where float32 cannot hold the brightness; psf a float where it was
    one), `mask` always an array; masked pixels hold image 0 and noise of one `unit`; and
      unit: brightness that computations in float32 take as one, a power of two: 1 unless the image is so bright or so
        faint that float32 would lose it.

    Raises:
      InputError: anything else than the above, in one sentence that says what to do.
    """

    image: np.ndarray
    noise: np.ndarray | float
    psf: np.ndarray | float
    mask: np.ndarray | None = None
    pixel_scale: float | None = None
    sky: Mapping | None = None
    unit: float = dataclasses.field(init=False)

    def __post_init__(self):
        image = _array(self.image, "image")
        if image.ndim != 2:
            raise InputError(
                f"image has shape {image.shape}; it must be two-dimensional, [rows, columns]. Pick one plane of it."
            )
        if min(image.shape) < 4:
            raise InputError(f"image has shape {image.shape}; it must have at least 4 pixels on each side.")
        if self.pixel_scale is None:
            raise InputError("pixel_scale is missing; give the width of a pixel of the image [arcsec].")
        pixel_scale = check_pixel_scale(self.pixel_scale)
        mask = _check_mask(self.mask, image)
        noise, mask = _check_noise(self.noise, image, mask)
        level, mask = _check_brightness(image, noise, mask)
        psf = _check_psf(self.psf)
        unit = 1.0 if _PLAIN_UNITS[0] < level < _PLAIN_UNITS[1] else 2.0 ** round(math.log2(level))
        dtype = np.float32 if unit == 1 else np.float64
        keep = {
            "image": np.where(mask, image.data, 0).astype(dtype),
            "noise": np.where(mask, noise, unit).astype(dtype),
            "psf": psf,
            "mask": mask,
            "pixel_scale": pixel_scale,
            "unit": unit,
        }
        for name, value in keep.items():
            object.__setattr__(self, name, value)
        for doubt in _doubts(image.data, self):
            warnings.warn(doubt, InputWarning, stacklevel=3)

    @property
    def shape(self):
        """Rows and columns of the image."""
        return self.image.shape

    def in_data_units(self, brightness):
        """An array of brightness in `unit`s, as computations in float32 give it, in the units of the data."""
        return brightness if self.unit == 1 else self.unit * brightness.astype(np.float64)


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


def centred_psf(psf):
    """A PSF on a stamp of odd sides with its centre in the middle pixel.

    Args:
      psf: stamp [k, l] of any sides.

    Returns:
      The stamp resampled by cubic splines, which shifts it by a part of a pixel, [k or k + 1, l or l + 1]; its centre
      is that of the light above a tenth of its peak.

    Raises:
      InputError: no stamp, or one without light.
    """
    from scipy import ndimage

    psf = np.ma.filled(_array(psf, "psf"), 0.0)
    if psf.ndim != 2 or not np.isfinite(psf).all() or not psf.max(initial=0) > 0:
        raise InputError(f"psf has shape {psf.shape}; a stamp [k, l] of finite numbers, some above 0, can be centred.")
    row, column = _centre(psf)
    padded = np.pad(psf, [(0, 1 - n % 2) for n in psf.shape])
    # What is beyond a stamp of even sides was put behind it, so that its middle is half a pixel off.
    shift = [(1 - n % 2) / 2 - offset for n, offset in zip(psf.shape, (row, column), strict=True)]
    return ndimage.shift(padded, shift, order=3)


def _centre(psf):
    """Rows and columns from the middle of a stamp to the centre of its light above a tenth of its peak."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in psf.shape)
    core = np.maximum(psf - 0.1 * psf.max(), 0)
    return (core.sum(axis=1) @ rows) / core.sum(), (core.sum(axis=0) @ columns) / core.sum()


# ------------------------------------------------------------------------------------- what is refused or mended


def _array(value, name):
    """A masked array in float64; nothing in it is masked but what was so in `value`."""
    try:
        array = np.ma.asanyarray(value)
        if array.dtype.kind == "c":
            raise TypeError
        return np.ma.array(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is not an array of numbers; wanted floating-point values.") from None


def _same_shape(array, image, name):
    if array.shape != image.shape:
        raise InputError(
            f"{name} has shape {array.shape} and image {image.shape}; they must be the same. "
            "Cut both from the same region."
        )


def _check_mask(mask, image):
    finite, shown = np.isfinite(image.data), ~np.ma.getmaskarray(image)
    if not (finite & shown).any():
        raise InputError("image has no finite pixel at all; check that the right file and HDU were given.")
    if mask is None:
        mask = np.ones(image.shape, bool)
    else:
        mask = np.ma.filled(np.ma.asanyarray(mask), 0)
        _same_shape(mask, image, "mask")
        if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise InputError("mask holds other values than 0 and 1; it must be 1 (true) where a pixel is to be used.")
        mask = mask.astype(bool)
    mask = mask & shown
    lost = mask & ~finite
    if lost.any():
        _warn(f"{lost.sum()} pixels of image are NaN or infinite and are masked.")
    return mask & finite


def _check_noise(noise, image, mask):
    noise = _array(noise, "noise")
    if noise.ndim == 0:
        noise = np.ma.array(np.full(image.shape, noise.data), mask=np.full(image.shape, np.ma.getmaskarray(noise)))
    _same_shape(noise, image, "noise")
    mask, noise = mask & ~np.ma.getmaskarray(noise), noise.data
    good = mask & np.isfinite(noise) & (noise > 0)
    if good.any():
        usual = np.median(noise[good])
        huge = mask & (noise >= _NOISE_OF_MASKED * usual)
        if huge.any():
            _warn(f"{huge.sum()} pixels have a noise that is infinite or {_NOISE_OF_MASKED:g} times the usual; masked.")
        tiny = good & (noise < _NOISE_TOO_SMALL * usual)
        if tiny.any():
            row, column = np.argwhere(tiny)[0]
            _warn(
                f"noise is {noise[row, column]:.3g} at row {row}, column {column} and {usual:.3g} in most pixels; the "
                f"{tiny.sum()} pixels of so small a noise would outweigh all others and are masked. Correct the map."
            )
        mask = mask & ~huge & ~tiny
    bad = mask & ~(np.isfinite(noise) & (noise > 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"noise is {noise[row, column]:g} at row {row}, column {column} and bad at {bad.sum()} unmasked pixels; "
            "it must be above 0 and finite there. Mask those pixels or correct the map."
        )
    if not mask.any():
        raise InputError("All pixels of image are masked; at least one must be usable. Check mask and noise.")
    return noise, mask


def _check_brightness(image, noise, mask):
    """What is about the brightest in the image, whatever single pixels say, and the mask without those."""
    sizes, usual_noise = np.abs(image.data[mask]), np.median(noise[mask])
    k = int((1 - _TYPICAL_SHARE) * (sizes.size - 1))
    level = max(np.partition(sizes, k)[k], usual_noise)
    if level > _SIGNAL_TO_NOISE * usual_noise:
        raise InputError(
            f"image is as bright as {level:.3g} and noise is {usual_noise:.3g}, which no telescope reaches; noise must "
            "be a standard deviation in the units of image. Check both."
        )
    wild = mask & (np.abs(image.data) > _BEYOND_BELIEF * level)
    if wild.any():
        row, column = np.argwhere(wild)[0]
        _warn(
            f"image is {image.data[row, column]:.3g} at row {row}, column {column} and at most about {level:.3g} "
            f"elsewhere; {wild.sum()} pixels so far from all others are masked."
        )
    return level, mask & ~wild


def _check_psf(psf):
    psf = _array(psf, "psf")
    if psf.ndim == 0:
        psf = float(np.ma.filled(psf, np.nan))
        if not (np.isfinite(psf) and psf >= 0):
            raise InputError(f"psf is {psf}; a Gaussian sigma must be a number of at least 0 [arcsec].")
        return psf
    psf = np.ma.filled(psf, 0.0)
    if psf.ndim != 2:
        raise InputError(f"psf has shape {psf.shape}; it must be a number (Gaussian sigma) or a stamp [k, k].")
    if psf.shape[0] % 2 == 0 or psf.shape[1] % 2 == 0:
        raise InputError(
            f"psf has shape {psf.shape}; its sides must be odd, or every image shifts by half a pixel. Resample it on "
            "an odd grid, with its centre in the middle pixel (--centre-psf, rim_tf.centred_psf)."
        )
    if not np.isfinite(psf).all():
        raise InputError(f"psf has {(~np.isfinite(psf)).sum()} NaN or infinite pixels; replace them, by 0 at its edge.")
    total = psf.sum()
    if not (0 < total < np.inf):
        raise InputError(f"psf sums to {total:g}; its sum must be above 0. Check its sky subtraction and its HDU.")
    if abs(total - 1) > 1e-3:
        _warn(f"psf sums to {total:.4g}; it was normalised to 1.")
    return (psf / total).astype(np.float32)


def _warn(text):
    warnings.warn(text, InputWarning, stacklevel=5)


# ----------------------------------------------------------------------------- what is used but looks like a mistake

# The centre of a PSF may be so far from the middle pixel [pixels]; half a pixel, from stamps of even sides, is not.
_OFF_CENTRE = 0.45
# Width of a PSF at half its maximum that leaves anything to see, as a share of the field.
_WIDEST = 0.75
# Share of a PSF's light that noise or ringing may leave below zero, and depth of one pixel as a share of the peak.
_NEGATIVE_LIGHT, _NEGATIVE_PIXEL = 0.1, 0.1
# Bright pixels that a mask must leave out before it is doubted, and share of them that the rest then has at most.
_BRIGHT, _KEPT = 20, 0.02
# The noise map and the scatter of the image agree within this factor; what else it may be must fit better than that.
_AGREEMENT, _FIT = 5.0, 2.0


def _doubts(image, observation):
    """Sentences about what can be used as it is, but was probably not meant so."""
    found = [
        _doubt_of_image(observation),
        _doubt_of_mask(image, observation),
        _doubt_of_noise(observation),
        _doubt_of_psf_width(observation),
    ]
    if not isinstance(observation.psf, float):
        found += [_doubt_of_psf_centre(observation.psf), _doubt_of_psf_sign(observation.psf)]
    return [doubt for doubt in found if doubt is not None]


def _doubt_of_image(observation):
    if observation.image.max() > 0:
        return None
    if not observation.image.any():
        return "image is 0 in all pixels; check that the right file and HDU were given."
    return "image has no pixel above 0; check its sign and its sky subtraction."


def _doubt_of_mask(image, observation):
    """Of the other polarity: what is bright is left out, and what is kept is sky."""
    if observation.mask.all():
        return None
    noise = np.median(observation.noise[observation.mask])
    # Means of 3 x 3 pixels, in which an arc stands out that does not in a single one.
    bright = _smoothed(np.where(np.isfinite(image), image, 0.0)) > 5 / 3 * noise
    left_out, kept = (bright & ~observation.mask).sum(), (bright & observation.mask).sum()
    if left_out < _BRIGHT or kept > _KEPT * left_out:
        return None
    return (
        f"mask leaves out {left_out} bright pixels and keeps {kept}; it must be 1 (true) where a pixel is to be used, "
        "so it is probably the other way round."
    )


def _smoothed(image):
    """Means over 3 x 3 pixels, 0 beyond the edge."""
    padded = np.pad(image, 1)
    along = padded[:-2] + padded[1:-1] + padded[2:]
    return (along[:, :-2] + along[:, 1:-1] + along[:, 2:]) / 9


def _doubt_of_noise(observation):
    """A variance or an inverse variance in the place of a standard deviation."""
    image, used = observation.image / observation.unit, observation.mask
    # Second differences along rows know neither slopes nor, by their median, the few pixels that are bright.
    inner = used[:, :-2] & used[:, 1:-1] & used[:, 2:]
    if inner.sum() < 30:
        return None
    differences = (image[:, :-2] - 2 * image[:, 1:-1] + image[:, 2:])[inner]
    scatter = float(np.median(np.abs(differences))) * observation.unit / (0.6745 * math.sqrt(6))
    noise = float(np.median(observation.noise[used]))
    if scatter == 0 or 1 / _AGREEMENT < scatter / noise < _AGREEMENT:
        return None
    for what, value in (("a variance", math.sqrt(noise)), ("an inverse variance (a weight)", 1 / math.sqrt(noise))):
        if 1 / _FIT < scatter / value < _FIT:
            return (
                f"noise is {noise:.3g}, but the image scatters by {scatter:.3g} from pixel to pixel; it looks like "
                f"{what} where a standard deviation is wanted."
            )
    return None


def _doubt_of_psf_width(observation):
    psf, field = observation.psf, min(observation.shape)
    if isinstance(psf, float):
        width, advice = 2.355 * psf / observation.pixel_scale, "sigma must be in arcsec, not in pixels"
    else:
        width = 2 * math.sqrt((psf > psf.max() / 2).sum() / math.pi)
        advice = "check that the right file and HDU were given"
    if width <= _WIDEST * field:
        return None
    return f"psf is {width:.3g} pixels wide at half its maximum, and the image {field} in all; {advice}."


def _doubt_of_psf_centre(psf):
    row, column = _centre(psf)
    if math.hypot(row, column) < _OFF_CENTRE:
        return None
    return (
        f"psf has its centre {row:+.2f} rows and {column:+.2f} columns from the middle pixel, and so shifts every "
        "model image; cut it elsewhere, or resample it (--centre-psf, rim_tf.centred_psf)."
    )


def _doubt_of_psf_sign(psf):
    light, deepest = -psf[psf < 0].sum(), -psf.min()
    if light < _NEGATIVE_LIGHT and deepest < _NEGATIVE_PIXEL * psf.max():
        return None
    return (
        f"psf has pixels as low as {-deepest / psf.max():.2f} of its peak, and {100 * light:.0f} % of its light is "
        "below 0; check its sky subtraction."
    )
