"""The sky of a frame: which pixels show nothing else, how bright it is there, and how noisy."""

import math

import numpy as np
from scipy import ndimage

from rim_tf.inference.lens_light import radius_about

# Sky is so many theta_E about the lens and farther.
_FAR = 2.3
# Pixels of sky from which its noise can be told.
_ENOUGH = 300
# Galaxies stand out above the sky by so many times its scatter, smoothed over so many pixels; their wings are as wide.
_STANDS_OUT, _SMOOTHING, _WINGS = 3.0, 1.5, 3
# A level is what is so many times its own error, were so many pixels alike, and such a share of the scatter.
_LIKE, _CERTAIN, _LEAST = 4, 3.0, 0.02


def empty(frame, lens):
    """Where a frame shows the sky alone, boolean [rows, columns]; None where that is too little to tell anything by.

    Args:
      frame: `Observation`.
      lens: its lens.
    """
    sky = frame.mask & (radius_about(lens, frame) > _FAR * lens.theta_E)
    if sky.sum() < _ENOUGH:
        return None
    # Galaxies stand out above the sky: they and their wings are none of it.
    smooth = ndimage.gaussian_filter(np.where(sky, frame.image / frame.noise, 0.0), _SMOOTHING)
    usual = scatter(smooth[sky])
    stands_out = smooth > np.median(smooth[sky]) + _STANDS_OUT * usual
    sky &= ~ndimage.binary_dilation(stands_out, iterations=_WINGS)
    return sky if sky.sum() >= _ENOUGH else None


def noise(frame, lens):
    """The scatter of empty sky in units of the frame's noise, and where that is; 1 and None where there is too little.

    Args:
      frame: as of `empty`.
      lens: likewise.
    """
    sky = empty(frame, lens)
    if sky is None:
        return 1.0, None
    rms = scatter(frame.image[sky] / frame.noise[sky])
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


def scatter(values):
    """Standard deviation of an array of normal numbers, some of which may be far off."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
