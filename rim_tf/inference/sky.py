"""The sky of a frame: which pixels show nothing else, how bright it is there, how noisy, and how correlated that is."""

import math

import numpy as np
from scipy import ndimage

from rim_tf.inference.lens_light import radius_about

# Sky is so many theta_E about the lens and farther; where that is too little, and the arcs are known, from nearer on.
_FAR, _NEARER = 2.3, 1.9
# Pixels of sky from which its noise can be told.
_ENOUGH = 300
# Galaxies stand out above the sky by so many times its scatter, smoothed over so many pixels; their wings are as wide.
_STANDS_OUT, _SMOOTHING, _WINGS = 3.0, 1.5, 3
# A level is what is so many times its own error, were so many pixels alike, and such a share of the scatter.
_LIKE, _CERTAIN, _LEAST = 4, 3.0, 0.02
# Variance of the logarithm of `scatter`, times the number of values that it is of.
_MEDIAN = 1.36
# Sigma of the Gaussian that clumps are looked for through [pixels].
_CLUMP = 4.0
# Noise is seen through a Gaussian of so many pixels: wider ones see what is left of galaxies, and hardly more of what
# drizzling does. Where so much of it is over sky; and neighbours are alike from so many times the figure's own error.
_BLUR, _OVER_SKY, _TOLD = 1.0, 0.95, 2.0


def empty(frame, lens, arcs=0.0, far=_FAR):
    """Where a frame shows the sky alone, boolean [rows, columns]; None where that is too little to tell anything by.

    Args:
      frame: `Observation`.
      lens: its lens.
      arcs: a model image of what is in it, likewise, or none.
      far: from where on there is sky [theta_E].
    """
    image = frame.image - arcs
    sky = frame.mask & np.isfinite(image) & (radius_about(lens, frame) > far * lens.theta_E)
    if sky.sum() < _ENOUGH:
        return None
    # Galaxies stand out above the sky: they and their wings are none of it.
    smooth = ndimage.gaussian_filter(np.where(sky, image / frame.noise, 0.0), _SMOOTHING)
    usual = scatter(smooth[sky])
    stands_out = smooth > np.median(smooth[sky]) + _STANDS_OUT * usual
    sky &= ~ndimage.binary_dilation(stands_out, iterations=_WINGS)
    return sky if sky.sum() >= _ENOUGH else None


def noise(frame, lens, arcs=0.0):
    """The scatter of empty sky in units of the frame's noise, and where that is; 1 and None where there is too little.

    Args:
      frame: as of `empty`.
      lens: likewise.
      arcs: likewise.
    """
    sky = empty(frame, lens, arcs)
    sky = empty(frame, lens, arcs, _NEARER) if sky is None else sky
    if sky is None:
        return 1.0, None
    rms = scatter(((frame.image - arcs) / frame.noise)[sky])
    # A sky of zeros has no noise to judge by.
    return (rms, sky) if rms > 0 else (1.0, None)


def level(frame, lens):
    """How bright empty sky is [units of the image]; 0 where there is too little, or no more than chance may make.

    Args:
      frame: as of `empty`.
      lens: likewise.
    """
    sky = empty(frame, lens)
    if sky is None:
        return 0.0
    values = frame.image[sky].astype(np.float64)
    middle = float(np.median(values))
    # The error of a median, of pixels that are alike where noise is correlated.
    error = math.sqrt(math.pi / 2 * _LIKE / len(values))
    return middle if abs(middle) > max(_CERTAIN * error, _LEAST) * scatter(values) else 0.0


def correlation_ratio(residual, where):
    """How much larger the noise of many pixels together is than that of as many independent ones: 1 or more.

    As the noise correlation ratio R of drizzled images (Casertano et al. 2000; Fruchter & Hook 2002), but of as many as
    a Gaussian of one pixel's sigma sees, about what an arc is wide: of noise that was blurred by 0.5 or 0.7 pixels it
    is 1.4 or 2.0, and R 1.6 or 2.4. What a lens or a flux is told by is as much less certain.

    Args:
      residual: over the noise map, [rows, columns].
      where: the pixels of empty sky, likewise.

    Returns:
      The ratio; 1 where it may be so by chance.
    """
    inside = where & (_blurred(where, _BLUR) > _OVER_SKY)
    alone = scatter(residual[where]) if inside.any() else 0.0
    if alone == 0:
        return 1.0
    # Independent pixels would leave so much; and of what is seen so many are independent, by the square of how alike.
    left, n = 1 / math.sqrt(4 * math.pi * _BLUR**2), inside.sum() / (2 * math.pi * _BLUR**2)
    ratio = scatter(_blurred(np.where(where, residual, 0.0), _BLUR)[inside]) / (left * alone)
    return float(ratio) if ratio > 1 + _TOLD * math.sqrt(_MEDIAN / n) else 1.0


def largest_clump(residual, where):
    """How far the brightest clump of a residual stands out, seen through a Gaussian of some pixels.

    Args:
      residual: in units of its noise, [rows, columns].
      where: the pixels that count, likewise.

    Returns:
      The largest, in standard deviations of white noise seen so; 0 where nothing counts.
    """
    # A Gaussian's square is a narrower Gaussian of this sum: the variance of white noise behind the mask.
    variance = _blurred(where, _CLUMP / math.sqrt(2)) / (4 * math.pi * _CLUMP**2)
    clumps = _blurred(np.where(where, residual, 0.0), _CLUMP)[where] / np.sqrt(np.maximum(variance[where], 1e-12))
    return float(clumps.max(initial=0.0))


def _blurred(image, sigma):
    """Seen through a Gaussian of `sigma` pixels, dark beyond the frame."""
    return ndimage.gaussian_filter(np.asarray(image, float), sigma, mode="constant")


def scatter(values):
    """Standard deviation of an array of normal numbers, some of which may be far off."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
