"""From a frame of a telescope to a stamp: one galaxy, cleaned, alone and in the middle.

A prepared stamp is the truth a network is trained on, so whatever is in it will be learned as structure of
galaxies: sky noise, a neighbour, the cut of a mask. Every set goes through the same steps: find the galaxy's
own segment, shrink detail no larger than the noise (`suppress_noise`), let the light fade to nothing around
the segment (`fade_around`), centre it on a stamp (`place_on_stamp`). Images are [row, column], row 0 the
smallest y.
"""

import dataclasses

import numpy as np
from astropy.stats import mad_std, sigma_clip
from scipy import ndimage

from rim_tf.data.sources.galaxies import STAMP_SIZE
from rim_tf.results import centre_of_light, half_light_radius

# A stamp whose peak is below this many times the noise of the slightly blurred image would show that noise.
MIN_PEAK_SNR = 40.0
# Below this half-light radius [stamp pixels] a galaxy is little more than its telescope's PSF.
MIN_HALF_LIGHT = 5.0
# Standard deviations [pixels] of the blur that every image gets, then of coarser ones to judge noise by.
BLUR_SCALES = (0.8, 1.6, 3.2, 6.4)
# A galaxy is above so many standard deviations of the smoothed sky, and above this fraction of its peak.
DETECTION_SIGMA, DETECTION_FLOOR = 2.0, 0.01
# Where the edge of the data cuts a galaxy it may have this fraction of its peak; EDGE_FADE is in pixels.
MAX_EDGE_LIGHT, EDGE_FADE = 0.02, 10.0
# What is this bright, as a fraction of the peak, in the faded surroundings is a neighbour that was missed.
MAX_STRAY_LIGHT = 0.2
# Outermost pixels of a Galaxy Zoo frame, sky as a rule: their median is the sky level. A level above MAX_SKY, or
# sides that differ by more than MAX_SKY_GRADIENT, is stray light from something else.
ZOO_BORDER, MAX_SKY, MAX_SKY_GRADIENT = 20, 0.12, 0.06
# What a prepared stamp can be: good, or the first thing that is wrong with it. "noisy", "cut", "stray" and "small"
# break the limits above; "blended" galaxies overlap another object; "glare" is stray light over the whole frame.
QUALITIES = ("clean", "noisy", "cut", "stray", "small", "blended", "glare")


@dataclasses.dataclass(frozen=True)
class Stamp:
    """One galaxy as `prepare_frame` leaves it.

    Attributes:
      image: surface brightness, peak 1, non-negative, 0 on the border, [128, 128] float32.
      half_light_radius: radius of the circle about the centre of light that holds half of it [stamp pixels].
      frame_pixels: pixels of the frame along a side of one pixel of the stamp.
      quality: one of QUALITIES.
    """

    image: np.ndarray
    half_light_radius: float
    frame_pixels: int
    quality: str


def prepare_frame(image, valid=None, flaw=None):
    """A `Stamp` from a frame with sky around its galaxy; None where no galaxy is found.

    Args:
      image: surface brightness on a sky of any level, any unit, the galaxy's centre in the middle third of both
        axes, [rows, columns].
      valid: where there are data, boolean, [rows, columns]; everywhere by default.
      flaw: what is known to be wrong with the frame, one of QUALITIES, if anything.
    """
    return _prepare_on_sky(image, np.ones(image.shape, bool) if valid is None else valid, flaw)


def prepare_cutout(image):
    """A `Stamp` of a galaxy that was cut out by hand: its pixels, and exact zeros around them; None where it is empty.

    The mask ends where a galaxy still has a few percent of its peak, along a ragged line; `continue_outwards`
    carries the light past it, to be faded there.
    """
    segment = ndimage.binary_fill_holes(_component_at(image != 0, _brightest_pixel(image)))
    # There is no sky to measure noise on; noise shows best in the faintest third of the galaxy.
    faint = segment & (image < np.quantile(image[segment], 1 / 3))
    light = continue_outwards(image, segment)
    return _prepare(light, faint, segment, np.ones_like(segment), np.zeros_like(segment))


def prepare_cosmos(image):
    """A `Stamp` from a postage stamp of the COSMOS kind, zero where there are no data; None where it is empty."""
    # Exact zeros in blocks are padding, not sky; lone ones can be sky.
    no_data = ndimage.binary_opening(image == 0, np.ones((3, 3)))
    return prepare_frame(image, ~no_data)


def prepare_galaxy_zoo(rgb):
    """A `Stamp` from a Galaxy Zoo 2 frame; None where it is empty.

    As far out as the galaxy's light reaches, 2.56 R90, pixels are averaged two by two: SDSS did not resolve them.

    Args:
      rgb: the pixels of the JPEG over 255, row 0 its top, [424, 424, 3].
    """
    grey = np.mean(rgb, axis=2, dtype=np.float32)[::-1]
    sides = grey[:ZOO_BORDER], grey[-ZOO_BORDER:], grey[:, :ZOO_BORDER], grey[:, -ZOO_BORDER:]
    sky_level = np.median(np.concatenate([side.ravel() for side in sides]))
    unlike = np.ptp([np.median(side) for side in sides])
    stretched = grey[84:340, 84:340].reshape(128, 2, 128, 2).mean(axis=(1, 3)) - sky_level
    glare = sky_level > MAX_SKY or unlike > MAX_SKY_GRADIENT
    flaw = "glare" if glare else "blended" if is_blended(stretched) else None
    return prepare_frame(unstretched(stretched), flaw=flaw)


def unstretched(stretched):
    """Light, in arbitrary units, from the mean of r, g, b of an SDSS JPEG less its sky.

    The stretch is that of Lupton et al. (2004, astro-ph/0312483) as SDSS used it: r + g + b = asinh(2.25 I) /
    2.25, so with x = (r + g + b) / 3 above the sky the light is I ~ sinh(6.75 x). With it isolated galaxies of
    Galaxy Zoo 2 have 88 % of their light within R90 and R50 / R90 = 0.44 (90 % by definition, and 0.43 for an
    exponential disc), where no stretch at all gives 76 % and 0.68. Colours clipped at 255 and 8-bit steps (2.6 %
    in I) cannot be undone.
    """
    return np.sinh(6.75 * stretched) / np.sinh(6.75)


def suppress_noise(image, sky):
    """The image blurred by BLUR_SCALES[0], less such detail as is no larger than the noise.

    The image is a coarse blur plus the differences between finer blurs. Each difference is kept in proportion
    to how far its local power exceeds the noise's, 1 - 4 noise^2 / power: a Wiener filter with the signal's
    power measured on the spot, so that a bright knot stays sharp and an outskirt of pure noise goes flat.

    Args:
      image: sky-subtracted, any unit, [rows, columns].
      sky: where the differences are noise only, boolean, [rows, columns].

    Returns:
      The cleaned image, [rows, columns], and the rms on the sky of the image blurred by BLUR_SCALES[0].
    """
    blurred = [ndimage.gaussian_filter(image, sigma) for sigma in BLUR_SCALES]
    cleaned = blurred[-1]
    for fine, coarse, sigma in zip(blurred[-2::-1], blurred[:0:-1], BLUR_SCALES[:0:-1], strict=True):
        detail = fine - coarse
        power = ndimage.gaussian_filter(detail**2, sigma)
        noise_power = 4.0 * mad_std(detail[sky]) ** 2
        cleaned = cleaned + detail * np.clip(1.0 - noise_power / np.maximum(power, 1e-30), 0.0, 1.0)
    return cleaned, mad_std((blurred[0] - blurred[2])[sky])


def fade_around(segment, neighbours, valid):
    """A weight that is 1 on the galaxy and falls smoothly to exactly 0 around it, [rows, columns].

    Args:
      segment: the galaxy, boolean; its outline may be ragged.
      neighbours: other objects, boolean; the weight is 0 on them.
      valid: where there are data, boolean; the weight is 0 beyond them and beyond the frame.
    """
    radius = np.sqrt(np.sum(segment) / np.pi)
    # Blurring a mask and cutting it again gives it a smooth outline, here a little outside the old one.
    outline = ndimage.gaussian_filter(segment.astype(float), max(2.0, 0.12 * radius)) > 0.3
    width = max(7.0, 0.5 * radius)
    weight = 0.5 + 0.5 * np.cos(np.pi * np.minimum(ndimage.distance_transform_edt(~outline) / width, 1.0))
    from_edge = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1] - 1.0
    weight *= np.sin(0.5 * np.pi * np.minimum(from_edge / EDGE_FADE, 1.0)) ** 2
    if np.any(neighbours):
        # A neighbour's wings reach past its segment: two pixels of nothing, then a rise over six.
        from_neighbour = ndimage.distance_transform_edt(~neighbours)
        weight *= np.sin(0.5 * np.pi * np.clip((from_neighbour - 2.0) / 6.0, 0.0, 1.0)) ** 2
    return ndimage.gaussian_filter(weight, 1.0, truncate=2.0) * (weight > 0)


def continue_outwards(image, segment, sigma=3.0):
    """The image inside the segment; outside, its Gaussian-weighted mean over what is near of the segment."""
    reach = ndimage.gaussian_filter(segment.astype(float), sigma, truncate=6.0)
    light = ndimage.gaussian_filter(np.where(segment, image, 0.0).astype(float), sigma, truncate=6.0)
    # Far away both vanish; the floor makes the ratio fall to 0 there.
    return np.where(segment, image, light / np.maximum(reach, 1e-3))


def place_on_stamp(light):
    """Centres the light on a STAMP_SIZE stamp, averaging whole blocks of pixels if it does not fit otherwise.

    Args:
      light: non-negative, 0 around the galaxy, [rows, columns].

    Returns:
      Surface brightness, peak 1, 0 on the border, [128, 128] float32; and how many pixels a block has on a side.
    """
    centre = np.round(centre_of_light(light)).astype(int)
    extent = np.max(np.abs(np.argwhere(light > 0) - centre))
    block = max(1, int(np.ceil(extent / (STAMP_SIZE // 2 - 2))))
    half = STAMP_SIZE * block // 2
    window = np.pad(light, half)[centre[0] : centre[0] + 2 * half, centre[1] : centre[1] + 2 * half]
    stamp = window.reshape(STAMP_SIZE, block, STAMP_SIZE, block).mean(axis=(1, 3))
    return (stamp / np.max(stamp)).astype(np.float32), block


def _prepare_on_sky(image, valid, flaw):
    """`prepare_frame`, whose arguments these are."""
    image = image.astype(float)
    sky = valid.copy()
    for _ in range(2):
        level = np.median(sky_clipped(image[sky]))
        smooth = ndimage.gaussian_filter(np.where(valid, image - level, 0.0), 2.0)
        centre = _brightest_pixel(np.where(_middle_third(image.shape), smooth, -np.inf))
        objects = smooth > DETECTION_SIGMA * mad_std(sky_clipped(smooth[sky]))
        # The second pass measures the sky away from what the first one found.
        away = valid & ~ndimage.binary_dilation(objects, iterations=3)
        sky = away if np.sum(away) > 100 else sky
    image = np.where(valid, image - level, 0.0)
    # Opening the mask cuts the thin bridges of noise by which a galaxy reaches its neighbours.
    opened = ndimage.binary_opening(objects & (smooth > DETECTION_FLOOR * smooth[centre]), iterations=2)
    segment = ndimage.binary_fill_holes(_component_at(opened, centre))
    if np.max(smooth[segment], initial=0.0) > smooth[centre]:
        flaw = flaw or "blended"  # the galaxy runs into something brighter than itself
    noticeable = max(6.0 * mad_std(sky_clipped(smooth[sky])), 0.5 * DETECTION_FLOOR * smooth[centre])
    neighbours = _neighbours(smooth > noticeable, segment, smooth)
    return _prepare(image, sky, segment, valid, neighbours, flaw)


def _prepare(image, sky, segment, valid, neighbours, flaw=None):
    """A `Stamp` from a sky-subtracted frame, or None; the masks are those of the functions it calls."""
    if not np.any(segment):
        return None
    cleaned, noise_rms = suppress_noise(image, sky)
    peak = np.max(cleaned[segment])
    at_edge = segment & ~ndimage.binary_erosion(valid, iterations=3)
    light = np.maximum(cleaned, 0.0) * fade_around(segment, neighbours, valid)
    if not np.any(light > 0):
        return None
    stamp, block = place_on_stamp(light)
    radius = half_light_radius(stamp)
    flaws = {
        flaw: flaw is not None,
        "noisy": peak < MIN_PEAK_SNR * noise_rms,
        "cut": np.max(cleaned[at_edge], initial=0.0) > MAX_EDGE_LIGHT * peak,
        "stray": np.max(light[~segment], initial=0.0) > MAX_STRAY_LIGHT * peak,
        "small": not radius > MIN_HALF_LIGHT,
    }
    return Stamp(stamp, radius, block, next((name for name, found in flaws.items() if found), "clean"))


def _neighbours(bright, segment, smooth):
    """Those parts of `bright` outside the segment that are objects of their own, boolean [rows, columns].

    A part of the galaxy's outskirts that its segment left out is brightest where it joins the galaxy; a
    neighbour has its peak elsewhere. `bright` must be well above the noise: removing noise bites holes into
    outskirts.
    """
    labels, n_parts = ndimage.label(bright & ~segment)
    index = np.arange(1, n_parts + 1)
    peaks = ndimage.maximum_position(smooth, labels, index)
    joined = ndimage.binary_dilation(segment, iterations=3)
    return np.isin(labels, [part for part, peak in zip(index, peaks, strict=True) if not joined[peak]])


def is_blended(stretched):
    """Whether a second object shines through the light of the central one, in a stretched image.

    Cut at a rising level, the central object sheds whatever has a peak of its own. Spiral arms and knots do
    so by little; something that rises by 0.1 of the stretch, about twice the light, above the saddle is
    another object.
    """
    smooth = ndimage.gaussian_filter(stretched, 1.5)
    centre = _brightest_pixel(np.where(_middle_third(smooth.shape), smooth, -np.inf))
    if np.max(np.abs(np.array(centre) - np.array(smooth.shape) / 2)) > 5:
        return True  # the frames are centred on their galaxy, so something else outshines it
    whole = _component_at(smooth > 0.02, centre)
    for level in np.arange(0.03, 0.8, 0.03):
        labels, n_pieces = ndimage.label(whole & (smooth > level))
        if n_pieces == 0:
            break
        peaks = ndimage.maximum(smooth, labels, np.arange(1, n_pieces + 1))
        if labels[centre]:
            peaks[labels[centre] - 1] = 0.0
        if np.max(peaks) - level > 0.1:
            return True
    return False


def _component_at(mask, pixel):
    """The connected part of the mask that holds the pixel; empty where the pixel is not in the mask."""
    labels, _ = ndimage.label(mask)
    return (labels == labels[pixel]) & mask[pixel]


def _brightest_pixel(image):
    return np.unravel_index(np.argmax(image), image.shape)


def _middle_third(shape):
    """Pixels that lie in the middle third of both axes: where a frame's own galaxy is, boolean."""
    middle = np.zeros(shape, bool)
    middle[tuple(slice(size // 3, size - size // 3) for size in shape)] = True
    return middle


def sky_clipped(values):
    """The values within three standard deviations of their median, clipped five times."""
    return sigma_clip(values, sigma=3, maxiters=5, cenfunc="median", stdfunc="mad_std", masked=False)
