"""Galaxies drawn from formulae: sources without noise, without a licence, and as many as training wants.

A recurrent inference machine learns its prior from the sources it is shown, so these aim at what lensed
sources look like (a disc with arms and star-forming clumps, a smooth spheroid, a pair about to merge) rather
than at the statistics of any survey. Lengths are in stamp pixels; a pixel's centre is at its (column, row)
index, row 0 is the smallest y.
"""

import numpy as np

from rim_tf.data import seeds
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.physics.light import sersic
from rim_tf.results import half_light_radius

# The light falls by a cosine from this fraction of half the side to zero at its end, so that a stamp ends in
# exact zeros and a ray that leaves the source plane meets no step.
TAPER_START = 0.7
# Standard deviation of the final blur, pixels of a 128-pixel stamp: nothing is sharper than a pixel can hold.
BLUR_SIGMA = 0.8


def clumpy_spiral(rng: np.random.Generator, n: int = 128) -> np.ndarray:
    """A spiral galaxy: inclined exponential disc, logarithmic arms, clumps along them and often a bulge.

    The disc is exp(-r / h); its arms are where m (phi - ln(r / h) / tan(pitch)) is near a multiple of 2 pi, r
    and phi being measured in the plane of the disc. Half of the light lies within about 0.10 n to 0.18 n of
    the centre.

    Args:
      rng: where every random number comes from.
      n: pixels on a side.

    Returns:
      Surface brightness, peak 1, non-negative and exactly 0 on the border, [n, n] float32.
    """
    half_light, q, orientation = n * rng.uniform(0.11, 0.18), rng.uniform(0.45, 1.0), rng.uniform(0.0, np.pi)
    # Half of an exponential disc's light is within 1.678 scale lengths; inclination shrinks that by sqrt(q).
    scale_length = half_light / (1.678 * np.sqrt(q))
    centre = _centre(rng, n)
    x, y = _axes_of_galaxy(n, centre, q, orientation)
    radius = np.hypot(x, y) / scale_length + 1e-6  # the logarithm below has no value at the centre itself
    disc = np.exp(-radius)

    arms = _spiral_arms(rng, radius, np.arctan2(y, x))
    image = disc * (1.0 + rng.uniform(0.6, 4.0) * arms)
    image /= np.sum(image)

    # Stars form where gas is dense, on the arms; a clump at the very centre would pass for a bulge.
    birthplaces = disc**0.7 * (0.03 + arms) * (1.0 - np.exp(-(radius**2))) * _taper(n)
    image += rng.uniform(0.05, 0.3) * _clumps(rng, birthplaces, half_light)

    if rng.random() < 0.7:
        x, y = _axes_of_galaxy(n, centre, np.sqrt(q), orientation)  # a bulge is rounder than its disc
        bulge = _softened_sersic(x, y, half_light * rng.uniform(0.12, 0.35), rng.uniform(1.0, 2.5))
        image += rng.uniform(0.03, 0.25) * bulge
    return _finish(image)


def sersic_galaxy(rng: np.random.Generator, n: int = 128) -> np.ndarray:
    """One elliptical Sersic profile or, three times in ten, two of them merging.

    The profile is `rim_tf.physics.light.sersic` with an index from 0.7 to 4, blurred by about a pixel because a
    cusp sampled at pixel centres depends on where within its pixel it falls.

    Args:
      rng: where every random number comes from.
      n: pixels on a side.

    Returns:
      Surface brightness, peak 1, non-negative and exactly 0 on the border, [n, n] float32.
    """
    half_light, centre = n * rng.uniform(0.10, 0.18), _centre(rng, n)
    if rng.random() < 0.7:
        return _finish(_random_sersic(rng, n, centre, half_light))
    # A pair is wider than either member: smaller members keep its half-light radius within the same bounds.
    half_light, flux_ratio, direction = 0.7 * half_light, rng.uniform(0.2, 0.9), rng.uniform(0.0, 2.0 * np.pi)
    separation = half_light * rng.uniform(1.0, 2.2) * np.array([np.cos(direction), np.sin(direction)])
    # The pair's centre of light, not the brighter member, goes to the middle of the stamp.
    primary = _random_sersic(rng, n, centre - separation * flux_ratio / (1.0 + flux_ratio), half_light)
    smaller = half_light * np.sqrt(flux_ratio)
    companion = _random_sersic(rng, n, centre + separation / (1.0 + flux_ratio), smaller)
    return _finish(primary + flux_ratio * companion)


def procedural_galaxies(n_galaxies: int, stream: str, seed: int, n: int = 128) -> GalaxySet:
    """Spirals (seven in ten) and smooth galaxies, the same for the same stream and seed.

    Each galaxy has a generator of its own, so the first k galaxies of a larger set are the set of k.

    Args:
      n_galaxies: how many.
      stream: a name in `seeds.STREAMS`.
      seed: the user's.
      n: pixels on a side.
    """
    images = np.empty((n_galaxies, n, n), np.float32)
    for i in range(n_galaxies):
        rng = seeds.generator(stream, seed, i)
        images[i] = clumpy_spiral(rng, n) if rng.random() < 0.7 else sersic_galaxy(rng, n)
    radii = np.array([half_light_radius(image) for image in images])
    return GalaxySet(images, tuple(f"procedural:{stream}:{seed}:{i}" for i in range(n_galaxies)), radii)


def _centre(rng, n):
    """(column, row) of a galaxy's centre, within a pixel of the stamp's: no position is to be learned."""
    return (n - 1) / 2 + rng.uniform(-1.0, 1.0, size=2)


def _axes_of_galaxy(n, centre, q, orientation):
    """Each pixel's x, y in the galaxy's plane, the minor axis stretched by 1 / q [pixels], each [n, n]."""
    row, column = np.mgrid[:n, :n]
    dx, dy = column - centre[0], row - centre[1]
    cos, sin = np.cos(orientation), np.sin(orientation)
    return dx * cos + dy * sin, (dy * cos - dx * sin) / q


def _spiral_arms(rng, radius, phi):
    """Where the arms are, 1 on a crest and 0 between: radius in scale lengths and phi [rad] -> [n, n]."""
    n_arms, pitch = rng.integers(2, 5), np.radians(rng.uniform(12.0, 32.0))
    winding = rng.choice([-1.0, 1.0]) * np.log(radius) / np.tan(pitch)
    # Real arms wander and break up: a few slow waves shift the phase, differently at each radius and angle.
    wander = sum(
        rng.normal(0.0, 0.35) * np.cos(k * phi + rng.uniform(1.0, 3.0) * radius + rng.uniform(0.0, 2.0 * np.pi))
        for k in (1, 2, 3)
    )
    crest = 0.5 + 0.5 * np.cos(n_arms * (phi - winding) + rng.uniform(0.0, 2.0 * np.pi) + wander)
    # Towards the centre the arms wind tighter than a pixel; there they give way to the plain disc.
    return crest ** rng.uniform(1.0, 4.0) * (1.0 - np.exp(-((radius / 0.5) ** 2)))


def _clumps(rng, birthplaces, half_light):
    """Gaussian clumps of unit total flux; a pixel's chance of one goes as `birthplaces`, [n, n]."""
    n = birthplaces.shape[0]
    n_clumps = rng.integers(10, 90)
    place = rng.choice(n * n, size=n_clumps, p=birthplaces.ravel() / np.sum(birthplaces))
    row, column = np.divmod(place, n) + rng.uniform(-0.5, 0.5, size=(2, n_clumps))
    # Clump luminosities follow a power law, few bright and many faint; brighter clumps are wider.
    flux = (1.0 - rng.random(n_clumps) * 0.98) ** (-1.0)
    sigma = half_light * rng.uniform(0.03, 0.09, n_clumps) * flux**0.2
    pixel = np.arange(n)[:, None]
    across_rows = np.exp(-0.5 * ((pixel - row) / sigma) ** 2) * flux / sigma**2  # [n, n_clumps]
    across_columns = np.exp(-0.5 * ((pixel - column) / sigma) ** 2)
    image = across_rows @ across_columns.T
    return image / np.sum(image)


def _softened_sersic(x, y, half_light, index):
    """A Sersic profile whose centre is softened by half a pixel of a 128-pixel stamp, of unit flux, [n, n]."""
    image = sersic(x**2 + y**2 + (0.5 * len(x) / 128) ** 2, half_light, index, np.exp)
    return image / np.sum(image)


def _random_sersic(rng, n, centre, half_light):
    """A Sersic galaxy of unit flux with random axis ratio, orientation and index, [n, n]."""
    q = rng.uniform(0.35, 1.0)
    x, y = _axes_of_galaxy(n, centre, q, rng.uniform(0.0, np.pi))
    # Dividing by sqrt(q) keeps the area, hence the circularised half-light radius, whatever the axis ratio.
    return _softened_sersic(x, y, half_light / np.sqrt(q), rng.uniform(0.7, 4.0))


def _taper(n):
    """1 in the middle, falling by a cosine to exactly 0 on the circle within the border, [n, n]."""
    row, column = np.mgrid[:n, :n]
    distance = np.hypot(column - (n - 1) / 2, row - (n - 1) / 2) / ((n - 1) / 2)
    fall = np.clip((distance - TAPER_START) / (1.0 - TAPER_START), 0.0, 1.0)
    return np.where(fall < 1.0, 0.5 + 0.5 * np.cos(np.pi * fall), 0.0)


def _finish(image):
    """Blurs by BLUR_SIGMA, tapers and normalises the peak to 1: [n, n] -> [n, n] float32."""
    n = image.shape[0]
    pixel = np.arange(n)
    blur = np.exp(-0.5 * ((pixel[:, None] - pixel) / (BLUR_SIGMA * n / 128)) ** 2)
    blur /= np.sum(blur, axis=1, keepdims=True)
    image = (blur @ image @ blur.T) * _taper(n)
    return (image / np.max(image)).astype(np.float32)
