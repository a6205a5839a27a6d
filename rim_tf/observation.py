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
# A saturated star is a plateau: so many pixels side by side, all as bright as the brightest to within this share of it
# and of their noise, which no measurement leaves alike; so many times brighter than the noise; and at most this share
# of the frame, as an image that is the same everywhere is another mistake.
_PLATEAU, _FLAT, _ALIKE, _BRIGHT_TOP, _LARGEST_PLATEAU = 5, 1e-3, 0.3, 10.0, 0.25


@dataclasses.dataclass(frozen=True)
class Observation:
    """One image of a lens, its light already free of sky and lens galaxy.

    Args:
      image: surface brightness in any unit, [rows, columns], row 0 the smallest y. Pixels that are NaN, infinite,
        beyond belief or saturated are masked, with an InputWarning. The masks of NumPy's masked arrays are kept.
      noise: standard deviation of the noise in the units of `image`: a number, or a map [rows, columns]. Pixels of
        infinite noise are masked, with an InputWarning.
      psf: Gaussian sigma [arcsec], or a stamp [k, l] with odd sides, normalised here with an InputWarning where its sum
        is not 1.
      mask: boolean, true where a pixel is to be used, [rows, columns]; None uses all.
      pixel_scale: [arcsec].
      sky: the celestial coordinates of the image as a FITS header, CRPIX counted from the field's centre, or None; it
        is handed on to what `rim_tf.io` writes.
      centre: x, y of the middle of this image [arcsec] in the frame that `recentred` cut it from, where (0, 0) is the
        middle of that; it too is for what is written, as all computations put (0, 0) into the middle of `image`.

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
    centre: tuple[float, float] = (0.0, 0.0)
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
        mask = _check_saturation(image, noise, mask, pixel_scale)
        psf = _check_psf(self.psf)
        unit = 1.0 if _PLAIN_UNITS[0] < level < _PLAIN_UNITS[1] else 2.0 ** round(math.log2(level))
        dtype = np.float32 if unit == 1 else np.float64
        keep = {
            "image": np.where(mask, image.data, 0).astype(dtype),
            "noise": np.where(mask, noise, unit).astype(dtype),
            "psf": psf,
            "mask": mask,
            "pixel_scale": pixel_scale,
            "centre": check_place(self.centre),
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


def check_place(value, name="centre"):
    """`value` as (x, y), where it is two finite numbers [arcsec]; InputError otherwise."""
    try:
        x, y = (float(each) for each in value)
    except (TypeError, ValueError, OverflowError):
        x = y = np.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError(f"{name} is {value!r}; it must be two numbers, x and y from the middle of the frame [arcsec].")
    return x, y


def recentred(observation, centre):
    """The largest part of an `Observation` that has a given point in its middle, to half a pixel.

    A lens off the centre of its frame is found by this part of it: the networks are trained on lenses in the middle.

    Args:
      observation: `Observation`.
      centre: x, y of the point from the middle of this frame [arcsec], +x along a row, +y towards later rows. In a
        frame that was cut before, a point of the frame as it was read is that less `observation.centre`.

    Returns:
      `Observation`, whose `centre` says where it lies in the frame.

    Raises:
      InputError: no such point in the frame, or no pixel about it that can be used.
    """
    offset, scale = check_place(centre), observation.pixel_scale
    inside, shift = [], []
    for n, along in zip(observation.shape, offset[::-1], strict=True):
        # Pixels that one side has more than the other; of numbers that are too large to be counted, too many.
        cut = round(2 * along / scale) if abs(2 * along / scale) < n else n
        if not n - abs(cut) >= 4:
            rows, columns = (0.5 * each * scale for each in observation.shape)
            raise InputError(
                f"centre is ({offset[0]:g}, {offset[1]:g}) arcsec, at or beyond the edge of the frame, which reaches "
                f"from -{columns:.4g} to {columns:.4g} in x and -{rows:.4g} to {rows:.4g} in y; it is counted from the "
                "frame's middle."
            )
        inside.append(slice(max(cut, 0), n + min(cut, 0)))
        shift.append(cut / 2)
    sky = observation.sky
    if sky is not None:
        sky = sky.copy()
        for axis, pixels in (("CRPIX1", shift[1]), ("CRPIX2", shift[0])):
            sky[axis] = sky.get(axis, 0.0) - pixels
    inside = tuple(inside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # what looks odd was said of the whole frame
        return dataclasses.replace(
            observation,
            image=observation.image[inside],
            noise=observation.noise[inside],
            mask=observation.mask[inside],
            sky=sky,
            centre=(observation.centre[0] + shift[1] * scale, observation.centre[1] + shift[0] * scale),
        )


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
        n, row, column = _largest_clump(lost)
        # A star or a nucleus that was cut out of the image is worth a look; single bad pixels are everywhere.
        where = f", {n} of them side by side about row {row:.0f}, column {column:.0f}" if n >= _PLATEAU else ""
        _warn(f"{lost.sum()} pixels of image are NaN or infinite and are masked{where}.")
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


def _check_saturation(image, noise, mask, pixel_scale):
    """The mask without the plateaus of saturated stars, and the pixels beside them."""
    top = np.max(image.data, where=mask, initial=-np.inf)
    alike = mask & (image.data >= top - np.minimum(_FLAT * abs(top), _ALIKE * noise)) & (top > _BRIGHT_TOP * noise)
    if not _PLATEAU <= alike.sum() <= _LARGEST_PLATEAU * mask.sum():
        return mask
    from scipy import ndimage

    labels, n = ndimage.label(alike)
    plateaus = np.isin(labels, 1 + np.flatnonzero(ndimage.sum(alike, labels, np.arange(1, n + 1)) >= _PLATEAU))
    left = mask & ~ndimage.binary_dilation(plateaus, np.ones((3, 3)))
    if not plateaus.any() or not left.any():
        return mask
    _, row, column = _largest_clump(plateaus)
    y, x = ((each - (n - 1) / 2) * pixel_scale for each, n in zip((row, column), image.shape, strict=True))
    n_masked = (mask & ~left).sum()
    _warn(
        f"{plateaus.sum()} pixels about row {row:.0f}, column {column:.0f} ({x:.2f}, {y:.2f} arcsec from the middle) "
        f"hold the same highest value, {top:.6g}, as in a saturated star; with those beside them, {n_masked} "
        "pixels are masked. What is left of its light around them is not: mask that too if it is a star's."
    )
    return left


def _largest_clump(where):
    """Of pixels side by side that are true in `where`: their number, and their mean row and column."""
    from scipy import ndimage

    labels, n = ndimage.label(where)
    sizes = ndimage.sum(where, labels, np.arange(1, n + 1))
    row, column = (float(each.mean()) for each in np.nonzero(labels == 1 + sizes.argmax()))
    return int(sizes.max()), row, column


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
# A point source outshines all that is beyond so many of its widths so many times, and is as the PSF to within this
# share of its peak, root mean square: lens galaxies, the most compact with a core unresolved from the ground too, are
# farther from it, and a star on a Gaussian PSF of its width nearer.
_POINT_WIDTHS, _POINT_OUTSHINES, _POINT_MISFIT = 3.0, 20.0, 0.04
# The noise map and the scatter of the image agree within this factor; what else it may be must fit better than that.
_AGREEMENT, _FIT = 5.0, 2.0


def _doubts(image, observation):
    """Sentences about what can be used as it is, but was probably not meant so."""
    found = [
        _doubt_of_image(observation),
        _doubt_of_mask(image, observation),
        _doubt_of_noise(observation),
        _doubt_of_psf_width(observation),
        _doubt_of_point_source(observation),
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
    width = _width(psf, observation.pixel_scale)
    if width <= _WIDEST * field:
        return None
    of_stamp = "check that the right file and HDU were given"
    advice = "sigma must be in arcsec, not in pixels" if isinstance(psf, float) else of_stamp
    return f"psf is {width:.3g} pixels wide at half its maximum, and the image {field} in all; {advice}."


def _doubt_of_point_source(observation):
    """A star, a nucleus or a hot pixel, beside which all else is faint."""
    used, scale = observation.mask, observation.pixel_scale
    image = np.where(used, observation.image / observation.unit, 0.0).astype(np.float64)
    row, column = np.unravel_index(image.argmax(), image.shape)
    width = max(_width(observation.psf, scale), 1.0)
    rows, columns = np.indices(image.shape, sparse=True)
    elsewhere = used & (np.hypot(rows - row, columns - column) > _POINT_WIDTHS * width)
    brightest = np.max(image, where=elsewhere, initial=0.0)
    noise = observation.noise[row, column] / observation.unit
    if not elsewhere.any() or image[row, column] <= _POINT_OUTSHINES * max(brightest, noise):
        return None
    half = max(2, math.ceil(1.5 * width))
    box = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    if min(row, column) < half or image[box].shape != (2 * half + 1,) * 2 or not used[box].all():
        return None
    if _unlike_a_point(image[box], observation.psf, scale) > _POINT_MISFIT:
        return None
    y, x = ((each - (n - 1) / 2) * scale for each, n in zip((row, column), image.shape, strict=True))
    return (
        f"The brightest light, {x:.2f}, {y:.2f} arcsec from the middle, is a point source "
        f"{image[row, column] / max(brightest, noise):.0f} times brighter than all that is more than "
        f"{_POINT_WIDTHS * width:.0f} pixels away: a star, an active nucleus or a hot pixel, and no lens galaxy. Mask "
        "it, or the lens is looked for in it."
    )


def _unlike_a_point(box, psf, scale):
    """Root-mean-square difference between an image [k, k] and the PSF at its best place and height, over its peak."""
    from scipy import ndimage

    half = len(box) // 2
    if isinstance(psf, float):
        along = np.exp(-(((np.arange(-half, half + 1) * scale) / max(psf, 0.2 * scale)) ** 2) / 2)
        psf = np.outer(along, along)
    else:
        psf = np.pad(psf.astype(np.float64), half)
        middle = [n // 2 for n in psf.shape]
        psf = psf[middle[0] - half : middle[0] + half + 1, middle[1] - half : middle[1] + half + 1]
    offset = np.subtract(_centre(box), _centre(psf))
    # The shift of a PSF that is hardly wider than a pixel is a matter of taste: the better of both.
    differences = []
    for each in (psf, ndimage.shift(psf, offset, order=3, mode="nearest")):
        height = float((each * box).sum() / (each**2).sum())
        differences.append(np.sqrt(((box - height * each) ** 2).mean()) / max(height * each.max(), 1e-300))
    return float(min(differences))


def _width(psf, scale):
    """Of a PSF at half its maximum [pixels]."""
    if isinstance(psf, float):
        return 2.355 * psf / scale
    return 2 * math.sqrt((psf > psf.max() / 2).sum() / math.pi)


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
