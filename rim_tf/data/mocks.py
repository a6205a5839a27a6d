"""Simulated lenses: priors, draws, and a tf.data stream that never shows the same image twice (Section 2.3).

Everything is drawn from a pair of `rim_tf.data.seeds` and the index of the batch, so that a stream is the same on every
machine, can be taken up at any batch after an interruption, and differs between any two batches.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.observing import observe
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator

# Systems are drawn in rounds of twice as many as are wanted, and at least so many; after so many rounds it is given up.
_SMALLEST_ROUND, _ROUNDS = 16, 50
# What else is drawn for a batch is folded in where a round has its number, beyond those of all rounds.
_OBSERVING, _POOL = 1 << 20, 1 << 21
# How the sentence begins that says why too few systems are accepted; a graph of TensorFlow's wraps it in its own words.
_REFUSAL = "Too few simulated systems are accepted"


class GalaxyStamps:
    """Source galaxies in memory: peak 1, zero at the border.

    Args:
      images: [n_galaxies, k, k].
      half_light_radius: [n_galaxies], in stamp pixels.
    """

    def __init__(self, images, half_light_radius):
        self.images = tf.convert_to_tensor(images, tf.float32)
        self.half_light_radius = tf.convert_to_tensor(half_light_radius, tf.float32)

    @classmethod
    def of(cls, galaxies):
        """The stamps of a `GalaxySet`."""
        return cls(galaxies.images, galaxies.half_light_radius)

    def __len__(self):
        return self.images.shape[0]


class Draws:
    """Stateless random numbers, others at each call.

    Args:
      seed: `seeds.seed_pair` of a stream, or what has been folded from one, int32 [2].
      index: what is folded in, scalar integer.
    """

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
      stamps: `GalaxyStamps`.
      index: [n], which galaxies.
      grid: `PixelGrid` of the source plane.
      x: [n], centre there [arcsec].
      y: likewise.
      radius: [n], half-light radius there [arcsec].
      angle: [n], rotation [rad].
      stretch: [n], factor on one axis of the galaxy.
      mirror: [n], 1 or -1.
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
    """Noiseless systems, and which of the paper's conditions each fulfils (magnification, flux on the frame).

    Args:
      draws: `Draws`.
      n: how many.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.

    Returns:
      A dictionary of lens [n, 7], source [n, m, m], lensed [n, k, k], pixel_scale [n], source_pixel_scale [n],
      source_position [n, 2] relative to the lens, half_light_radius [n] (both [arcsec]) and magnification [n]; and
      the conditions, [n, 3] boolean, whose order is that of `refusal`: a system that fulfils all is accepted.
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
    conditions = [
        magnification >= config.minimum_magnification,
        _edge_sum(lensed) <= config.edge_flux * flux,
        _edge_sum(source) <= config.edge_flux * source_flux,
    ]
    return systems | {"lensed": lensed, "magnification": magnification}, tf.stack(conditions, axis=1)


def image_systems(systems, pixels):
    """L s: the sources lensed and not yet observed, [n, pixels, pixels]; `systems` as `draw_systems` returns them."""
    image_grid = PixelGrid(pixels, pixels, systems["pixel_scale"])
    source_grid = PixelGrid(*systems["source"].shape[1:], systems["source_pixel_scale"])
    return LensingOperator.from_lens(systems["lens"], image_grid, source_grid).forward(systems["source"])


def _edge_sum(image):
    """Flux in the outermost two pixels on each side, [n]."""
    return tf.reduce_sum(image, (1, 2)) - tf.reduce_sum(image[:, 2:-2, 2:-2], (1, 2))


def draw_accepted(seed, index, n, stamps, config):
    """Exactly n accepted systems: `draw_systems` in rounds until there are enough.

    Args:
      seed: `seeds.seed_pair` of a stream.
      index: of the batch, scalar integer.
      n: how many.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.

    Returns:
      The systems of `draw_systems`.

    Raises:
      InputError: too few are accepted; inside a graph of TensorFlow's a `tf.errors.InvalidArgumentError`, which
        `refusals_are_input_errors` turns into one.
    """
    seeds.check_pair(seed)
    size = max(2 * n, _SMALLEST_ROUND)

    def another(round_index, kept, fulfilled, found):
        # Rounds of one batch and batches of one stream never share numbers: they are folded in one after another.
        draws = Draws(tf.random.fold_in(seed, index), round_index)
        systems, conditions = draw_systems(draws, size, stamps, config)
        accepted = tf.reduce_all(conditions, 1)
        found = {name: tf.concat([found[name], tf.boolean_mask(value, accepted)], 0) for name, value in systems.items()}
        fulfilled += tf.reduce_sum(tf.cast(conditions, tf.int32), 0)
        return round_index + 1, tf.shape(found["lens"])[0], fulfilled, found

    m, k = config.source_pixels, config.image_pixels
    shapes = {"lens": [7], "source": [m, m], "lensed": [k, k], "pixel_scale": [], "source_pixel_scale": []}
    shapes |= {"source_position": [2], "half_light_radius": [], "magnification": []}
    found = {name: tf.zeros([0, *shape]) for name, shape in shapes.items()}
    spec = {name: tf.TensorShape([None, *shape]) for name, shape in shapes.items()}
    n_done, kept, fulfilled, found = tf.while_loop(
        lambda round_index, kept, fulfilled, found: (kept < n) & (round_index < _ROUNDS),
        another,
        (0, 0, tf.zeros([3], tf.int32), found),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([3]), spec),
    )
    with refusals_are_input_errors():
        enough = tf.debugging.Assert(kept >= n, [refusal(n, kept, n_done * size, fulfilled, config)])
    with tf.control_dependencies([] if enough is None else [enough]):  # None outside a graph, where it has raised
        return {name: tf.ensure_shape(value[:n], [n, *shapes[name]]) for name, value in found.items()}


def refusal(wanted, accepted, drawn, fulfilled, config):
    """The sentence that says which conditions refuse what is drawn, a string tensor.

    Args:
      wanted: systems.
      accepted: systems.
      drawn: systems.
      fulfilled: how many of them fulfil each condition of `draw_systems`, [3].
      config: `MockConfig`.
    """
    percent = tf.cast(tf.round(100 * (1 - fulfilled / drawn)), tf.int32)
    return tf.strings.format(
        f"{_REFUSAL}: {{}} of {{}} drawn, where {wanted} are wanted. {{}} % are magnified less than "
        f"{config.minimum_magnification:g} times (minimum_magnification), {{}} % have more than "
        f"{100 * config.edge_flux:g} % of their light at the edge of the image and {{}} % at the edge of the "
        "source grid (edge_flux); loosen these conditions, or draw other lenses and sources.",
        [accepted, drawn, *tf.unstack(percent)],
    )


@contextlib.contextmanager
def refusals_are_input_errors():
    """What `draw_accepted` says where too few systems are accepted, as an InputError, also out of a graph."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if not (said := re.search(rf"{_REFUSAL}.*other lenses and sources\.", str(error))):
            raise
        raise InputError(said[0]) from None


def simulate_batch(seed, index, batch_size, stamps, config, psfs=None, target="source"):
    """One batch (inputs, target) of a stream: the same for the same seed and index.

    Args:
      seed: `seeds.seed_pair` of the stream.
      index: of the batch, scalar integer.
      batch_size: lenses in it.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.
      psfs: as in `observe`.
      target: which tensor of `draw_systems` is to be found, in the truth: "source", or "lens".

    Returns:
      The dictionary that `RIM.call` takes, and the target: the sources [batch_size, m, m] where it is not given.
    """
    systems = draw_accepted(seed, index, batch_size, stamps, config)
    return observe(observing_draws(seed, index), systems, config, psfs), systems[target]


class Simulator:
    """`simulate_batch` for one stream, compiled once, and called with the index of a batch.

    Args:
      seed: `seeds.seed_pair` of the stream.
      batch_size: lenses in a batch.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.
      psfs: as in `observe`.
    """

    def __init__(self, seed, batch_size, stamps, config, psfs=None):
        seed = tf.constant(seed)
        self._compiled = tf.function(
            lambda index: simulate_batch(seed, index, batch_size, stamps, config, psfs),
            input_signature=[tf.TensorSpec([], tf.int32)],
            autograph=False,
        )

    @property
    def specification(self):
        """tf.TensorSpec of all that a call returns, in the same structure."""
        return self._compiled.get_concrete_function().structured_outputs

    def __call__(self, index):
        """The batch (inputs, sources) of that index; InputError where too few systems are accepted."""
        with refusals_are_input_errors():
            return self._compiled(tf.constant(index))


def observing_draws(seed, index):
    """The `Draws` that PSF, noise and masks of a batch come from."""
    return Draws(tf.random.fold_in(seed, index), _OBSERVING)


def pool_draws(seed, index):
    """The `Draws` that say which galaxies a batch may choose from."""
    return Draws(tf.random.fold_in(seed, index), _POOL)


def stream(seed, batch_size, stamps, config, first_batch=0, psfs=None, shard=0, n_shards=1, target="source"):
    """Endless tf.data.Dataset of `simulate_batch`, from `first_batch` on; the masks are of type uint8.

    Keras averages the first batch over the replicas of a tf.distribute strategy, and cannot average booleans.

    Args:
      seed: `seeds.seed_pair` of the stream.
      batch_size: lenses in a batch.
      stamps: `GalaxyStamps`, or an endless tf.data.Dataset that gives, for each batch from `first_batch` on, the
        images [p, k, k] and half-light radii [p] of the galaxies it may choose from (`sets.streams.galaxy_pools`).
      config: `MockConfig`.
      first_batch: number of the first batch.
      psfs: as in `observe`.
      shard: this worker, as in tf.distribute.InputContext. Of the batches from `first_batch` on, worker i has number i
        and every n_shards-th after it: together the workers see what one would, whatever their number.
      n_shards: how many workers there are.
      target: as in `simulate_batch`.
    """
    seed = tf.constant(seeds.check_pair(seed))

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes seconds
    def simulate(index, stamps=stamps):
        inputs, truth = simulate_batch(seed, tf.cast(index, tf.int32), batch_size, stamps, config, psfs, target)
        return inputs | {"mask": tf.cast(inputs["mask"], tf.uint8)}, truth

    numbers = tf.data.Dataset.counter(start=first_batch + shard, step=n_shards)
    if isinstance(stamps, tf.data.Dataset):
        own = stamps.shard(n_shards, shard)
        dataset = tf.data.Dataset.zip(numbers, own).map(
            lambda index, pool: simulate(index, GalaxyStamps(*pool)), num_parallel_calls=1, deterministic=True
        )
    else:
        dataset = numbers.map(simulate, num_parallel_calls=1, deterministic=True)
    return dataset.prefetch(4)
