"""Simulated lenses: priors, draws, and a tf.data stream that never shows the same image twice (Section 2.3).

Everything is drawn from the pair (seed, index of the batch), so that a stream is the same on every machine, can be
taken up at any batch after an interruption, and differs between any two batches.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.data.observing import observe
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator


@dataclasses.dataclass(frozen=True)
class MockConfig:
    """What is drawn. A pair is the range of a uniform draw, unless its name begins with `log_`.

    Lengths are fractions of the field's width, as a lens has no scale of its own; only the PSF is in arcsec.
    """

    image_pixels: int = 64
    source_pixels: int = 64
    source_scale_ratio: float = SOURCE_SCALE_RATIO
    log_pixel_scale: tuple[float, float] = (0.08, 0.08)
    """Pixel of the image [arcsec], log-uniform."""
    theta_E: tuple[float, float] = (0.10, 0.28)
    ellipticity: tuple[float, float] = (0.0, 0.3)
    """|e|, with the angle uniform; likewise the shear."""
    shear: tuple[float, float] = (0.0, 0.1)
    lens_offset: float = 0.02
    """Standard deviation of x_lens and y_lens."""
    log_half_light_radius: tuple[float, float] = (0.02, 0.09)
    """Of the source, log-uniform."""
    source_offset: float = 0.07
    """Standard deviation of the source's position on each axis, relative to the lens."""
    axis_stretch: tuple[float, float] = (0.8, 1.0)
    """One axis of the galaxy's image is multiplied by this: one galaxy stands for many inclinations."""
    minimum_magnification: float = 3.0
    edge_flux: float = 0.01
    """Largest share of the lensed flux in the outermost pixels, and of the source outside its grid."""
    psf_sigma: tuple[float, float] = (0.0, 0.1)
    """[arcsec]"""
    log_noise: tuple[float, float] = (1e-3, 1e-1)
    """Noise rms over the peak of the noiseless, blurred image, log-uniform."""
    noise_map_fraction: float = 0.0
    """Share of systems whose noise grows with the image, as counting photons makes it."""
    mask_fraction: float = 0.0
    """Share of systems with round holes in their mask."""
    lens_error: float = 0.0
    """Standard deviation of an error added to each lens parameter that the network is given."""
    psf_pixels: int = 0
    """Side of pixelated PSFs, odd: elliptical Moffat profiles of the width that `psf_sigma` gives. 0 for Gaussians."""
    psf_beta: tuple[float, float] = (2.5, 5.0)
    """Moffat exponent: how strong the wings of pixelated PSFs are."""
    psf_ellipticity: tuple[float, float] = (0.0, 0.1)
    """Of pixelated PSFs, with the angle uniform."""
    correlated_noise_fraction: float = 0.0
    """Share of systems whose noise has been blurred, at the same rms, which the network is not told."""
    noise_correlation: tuple[float, float] = (0.3, 0.8)
    """Sigma of the Gaussian that blurs it [pixels]; drizzling makes about half a pixel."""
    lens_light_fraction: float = 0.0
    """Share of systems with what an imperfect subtraction of the lens galaxy leaves."""
    lens_light_error: float = 0.01
    """Relative error of that subtraction in each parameter; in the centre, tenths of a pixel for each 0.01."""

    @classmethod
    def from_dict(cls, values):
        """The inverse of `dataclasses.asdict`, also after JSON, which turns tuples into lists."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})

    def __post_init__(self):
        if self.psf_pixels and self.psf_pixels % 2 == 0:
            raise InputError(f"psf_pixels is {self.psf_pixels}; it must be odd, or 0 for Gaussian PSFs.")


# Section 2.3: images of 192 x 192 pixels of 0.04", sources of as many pixels.
PAPER_MOCKS = MockConfig(image_pixels=192, source_pixels=192, log_pixel_scale=(0.04, 0.04))


class GalaxyStamps:
    """Source galaxies in memory: peak 1, zero at the border.

    Args:
      images: [n_galaxies, k, k].
      half_light_radius: [n_galaxies], in stamp pixels.
    """

    def __init__(self, images, half_light_radius):
        self.images = tf.convert_to_tensor(images, tf.float32)
        self.half_light_radius = tf.convert_to_tensor(half_light_radius, tf.float32)

    def __len__(self):
        return self.images.shape[0]


class Draws:
    """Stateless random numbers, a fresh stream at each call."""

    def __init__(self, seed, index):
        self.seed = tf.random.fold_in(seed, index)
        self.count = 0

    def _next(self):
        self.count += 1
        return tf.random.fold_in(self.seed, self.count)

    def uniform(self, shape, low=0.0, high=1.0):
        return low + (high - low) * tf.random.stateless_uniform(shape, self._next())

    def log_uniform(self, shape, low, high):
        return tf.exp(self.uniform(shape, np.log(low), np.log(high)))

    def normal(self, shape, scale=1.0):
        return scale * tf.random.stateless_normal(shape, self._next())

    def integer(self, shape, high):
        return tf.random.stateless_uniform(shape, self._next(), maxval=high, dtype=tf.int32)


def draw_lenses(draws, n, config, field):
    """[n, 7] lens parameters for fields `field` [n] wide [arcsec]."""
    ellipticity, shear = draws.uniform([n], *config.ellipticity), draws.uniform([n], *config.shear)
    two_phi, two_phi_shear = draws.uniform([n], 0, 2 * np.pi), draws.uniform([n], 0, 2 * np.pi)
    return tf.stack(
        [
            field * draws.uniform([n], *config.theta_E),
            ellipticity * tf.cos(two_phi),
            ellipticity * tf.sin(two_phi),
            field * draws.normal([n], config.lens_offset),
            field * draws.normal([n], config.lens_offset),
            shear * tf.cos(two_phi_shear),
            shear * tf.sin(two_phi_shear),
        ],
        axis=1,
    )


def place_sources(stamps, index, grid, x, y, radius, angle, stretch, mirror):
    """Galaxies on a source grid, [n, rows, columns], each pixel the mean of 2 x 2 samples; peak 1.

    Args:
      index: [n], which galaxies.
      grid: `PixelGrid` of the source plane.
      x, y, radius: [n], centre and half-light radius there [arcsec].
      angle: [n], rotation [rad].
      stretch: [n], factor on one axis of the galaxy. mirror: [n], 1 or -1.
    """
    fine = PixelGrid(2 * grid.rows, 2 * grid.columns, grid.pixel_scale / 2)
    column, row = fine.coordinates()
    per_system = [v[:, None, None] for v in (x, y, angle, stretch, mirror)]
    x, y, angle, stretch, mirror = per_system
    stamp_pixel = (radius / tf.gather(stamps.half_light_radius, index))[:, None, None]
    dx, dy = (column - x) / stamp_pixel, (row - y) / stamp_pixel
    u = (dx * tf.cos(angle) + dy * tf.sin(angle)) * mirror
    v = (dy * tf.cos(angle) - dx * tf.sin(angle)) / stretch
    images = tf.gather(stamps.images, index)
    k = images.shape[1]
    sampled = LensingOperator(u + (k - 1) / 2, v + (k - 1) / 2, k, k).forward(images)
    source = tf.nn.avg_pool2d(sampled[..., None], 2, 2, "VALID")[..., 0]
    return source / tf.maximum(tf.reduce_max(source, axis=(1, 2), keepdims=True), 1e-6)


def draw_systems(draws, n, stamps, config):
    """Noiseless systems and whether each fulfils the paper's conditions (magnification, flux on the frame).

    Returns:
      A dictionary of lens [n, 7], source [n, m, m], lensed [n, k, k], pixel_scale [n], source_pixel_scale [n],
      source_position [n, 2] relative to the lens, half_light_radius [n] (both [arcsec]) and magnification [n]; and
      accepted, [n] boolean.
    """
    pixel_scale = draws.log_uniform([n], *config.log_pixel_scale)
    source_scale = pixel_scale * config.source_scale_ratio
    field = pixel_scale * config.image_pixels
    lens = draw_lenses(draws, n, config, field)
    source_grid = PixelGrid(config.source_pixels, config.source_pixels, source_scale)
    radius = field * draws.log_uniform([n], *config.log_half_light_radius)
    galaxy = draws.integer([n], tf.shape(stamps.images)[0])
    x, y = (field * draws.normal([n], config.source_offset) for _ in range(2))
    source = place_sources(
        stamps,
        galaxy,
        source_grid,
        lens[:, 3] + x,
        lens[:, 4] + y,
        radius,
        draws.uniform([n], 0, 2 * np.pi),
        draws.uniform([n], *config.axis_stretch),
        tf.sign(draws.uniform([n], -1.0, 1.0)),
    )
    systems = {
        "lens": lens,
        "source": source,
        "pixel_scale": pixel_scale,
        "source_pixel_scale": source_scale,
        "source_position": tf.stack([x, y], axis=1),
        "half_light_radius": radius,
    }
    lensed = image_systems(systems, config.image_pixels)
    flux, source_flux = tf.reduce_sum(lensed, (1, 2)), tf.reduce_sum(source, (1, 2))
    # Surface brightness is conserved, so fluxes compare through the areas of the pixels.
    magnification = flux / tf.maximum(source_flux, 1e-6) / config.source_scale_ratio**2
    accepted = (
        (magnification >= config.minimum_magnification)
        & (_edge_sum(lensed) <= config.edge_flux * flux)
        & (_edge_sum(source) <= config.edge_flux * source_flux)
    )
    return systems | {"lensed": lensed, "magnification": magnification}, accepted


def image_systems(systems, pixels):
    """L s: the sources lensed and not yet observed, [n, pixels, pixels]; `systems` as `draw_systems` returns them."""
    image_grid = PixelGrid(pixels, pixels, systems["pixel_scale"])
    source_grid = PixelGrid(*systems["source"].shape[1:], systems["source_pixel_scale"])
    return LensingOperator.from_lens(systems["lens"], image_grid, source_grid).forward(systems["source"])


def _edge_sum(image):
    """Flux in the outermost two pixels on each side, [n]."""
    return tf.reduce_sum(image, (1, 2)) - tf.reduce_sum(image[:, 2:-2, 2:-2], (1, 2))


def draw_accepted(seed, index, n, stamps, config):
    """Exactly n accepted systems: `draw_systems` in rounds until there are enough."""
    round_size = 2 * n

    def another(round_index, kept, found):
        # Rounds of one batch and batches of one stream never share numbers: they are folded in one after another.
        draws = Draws(tf.random.fold_in(seed, index), round_index)
        systems, accepted = draw_systems(draws, round_size, stamps, config)
        found = {name: tf.concat([found[name], tf.boolean_mask(value, accepted)], 0) for name, value in systems.items()}
        return round_index + 1, tf.shape(found["lens"])[0], found

    m, k = config.source_pixels, config.image_pixels
    shapes = {"lens": [7], "source": [m, m], "lensed": [k, k], "pixel_scale": [], "source_pixel_scale": []}
    shapes |= {"source_position": [2], "half_light_radius": [], "magnification": []}
    found = {name: tf.zeros([0, *shape]) for name, shape in shapes.items()}
    spec = {name: tf.TensorShape([None, *shape]) for name, shape in shapes.items()}
    _, _, found = tf.while_loop(
        lambda round_index, kept, found: kept < n,
        another,
        (0, 0, found),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), spec),
    )
    return {name: tf.ensure_shape(value[:n], [n, *shapes[name]]) for name, value in found.items()}


def simulate_batch(seed, index, batch_size, stamps, config, psfs=None):
    """One batch (inputs, source) of a stream: the same for the same seed and index.

    Args:
      seed: int32 [2]. index: scalar integer.
      stamps: `GalaxyStamps`.
      psfs: as in `observe`.

    Returns:
      The dictionary that `RIM.call` takes, and the sources [batch_size, m, m].
    """
    systems = draw_accepted(seed, index, batch_size, stamps, config)
    return observe(observing_draws(seed, index), systems, config, psfs), systems["source"]


def observing_draws(seed, index):
    """The `Draws` that PSF, noise and masks of a batch come from; the galaxies' end in the number of a round."""
    return Draws(tf.random.fold_in(tf.random.fold_in(seed, index), 1 << 20), 0)


def stream(seed, batch_size, stamps, config, first_batch=0, psfs=None, shard=0, n_shards=1):
    """Endless tf.data.Dataset of `simulate_batch`, from `first_batch` on; the masks are of type uint8.

    Keras averages the first batch over the replicas of a tf.distribute strategy, and cannot average booleans.

    Args:
      stamps: `GalaxyStamps`, or an endless tf.data.Dataset that gives, for each batch from `first_batch` on, the
        images [p, k, k] and half-light radii [p] of the galaxies it may choose from (`prepared_sets.galaxy_pools`).
      psfs: as in `observe`.
      shard, n_shards: this worker and how many there are, as in tf.distribute.InputContext. Of the batches from
        `first_batch` on, worker i has number i and every n_shards-th after it: together the workers see what one
        would, whatever their number.
    """
    seed = tf.constant([seed, 0], tf.int32)

    def simulate(index, stamps=stamps):
        inputs, source = simulate_batch(seed, tf.cast(index, tf.int32), batch_size, stamps, config, psfs)
        return inputs | {"mask": tf.cast(inputs["mask"], tf.uint8)}, source

    numbers = tf.data.Dataset.counter(start=first_batch + shard, step=n_shards)
    if isinstance(stamps, tf.data.Dataset):
        own = stamps.shard(n_shards, shard)
        dataset = tf.data.Dataset.zip(numbers, own).map(
            lambda index, pool: simulate(index, GalaxyStamps(*pool)), num_parallel_calls=1, deterministic=True
        )
    else:
        dataset = numbers.map(simulate, num_parallel_calls=1, deterministic=True)
    return dataset.prefetch(4)
