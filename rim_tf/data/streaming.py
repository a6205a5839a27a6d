"""Simulated lenses as TensorFlow takes them: a tf.data stream that never shows the same image twice (Section 2.3)."""

import contextlib
import functools
import re

import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.mocks import REFUSAL, GalaxyStamps, refusal, shares_refused, simulated
from rim_tf.errors import InputError


@contextlib.contextmanager
def refusals_are_input_errors():
    """What `simulate_batch` says where too few systems are accepted, as an InputError, also out of a graph."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if not (said := re.search(rf"{REFUSAL}.*other lenses and sources\.", str(error))):
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
      target: which tensor of `draw_systems` is to be found, in the truth: "source", or "lens"; or a tuple of names.

    Returns:
      The dictionary that `RIM.call` takes, and the target: the sources [batch_size, m, m] where it is not given, a
      dictionary where it has several names.

    Raises:
      InputError: too few are accepted; inside a graph a `tf.errors.InvalidArgumentError`, which
        `refusals_are_input_errors` turns into one.
    """
    *batch, tally = simulated(seed, index, batch_size, stamps, config, psfs, target)
    with refusals_are_input_errors():
        said = tf.strings.format(refusal(batch_size, config), shares_refused(tally))
        enough = tf.debugging.Assert(tally[0] >= batch_size, [said])
    with tf.control_dependencies([] if enough is None else [enough]):  # None outside a graph, where it has raised
        return tf.nest.map_structure(tf.identity, tuple(batch))


@functools.lru_cache(maxsize=16)
def _traced(batch_size, config, target, psf_shape, stamp_pixels):
    """`simulate_batch` as a tf.function of (seed, index, galaxies, PSFs), one for all streams of such batches.

    Args:
      batch_size: as in `simulate_batch`.
      config: likewise.
      target: likewise.
      psf_shape: of the PSFs that are given, or None.
      stamp_pixels: side of the stamps of galaxies.
    """
    galaxies = [tf.TensorSpec([None, stamp_pixels, stamp_pixels]), tf.TensorSpec([None])]
    psfs = [] if psf_shape is None else [tf.TensorSpec([None, *psf_shape])]
    return tf.function(
        lambda seed, index, galaxies, psfs: simulate_batch(
            seed, index, batch_size, GalaxyStamps(*galaxies), config, *psfs, target=target
        ),
        input_signature=[tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int32), galaxies, psfs],
        autograph=False,
    )


class Simulator:
    """`simulate_batch` for one stream, compiled once, and called with the index of a batch.

    Args:
      seed: `seeds.seed_pair` of the stream.
      batch_size: lenses in a batch.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.
      psfs: as in `observe`.
      target: as in `simulate_batch`.
    """

    def __init__(self, seed, batch_size, stamps, config, psfs=None, target="source"):
        self._seed, self._stamps = tf.constant(seeds.check_pair(seed)), stamps
        self._psfs = [] if psfs is None else [tf.constant(psfs, tf.float32)]
        psf_shape = tuple(self._psfs[0].shape[1:]) if self._psfs else None
        self._function_for = functools.partial(_traced, batch_size, config, target, psf_shape)

    @property
    def specification(self):
        """tf.TensorSpec of all that a call returns, in the same structure."""
        return self._function_for(self._stamps.images.shape[1]).get_concrete_function().structured_outputs

    def __call__(self, index):
        """The batch (inputs, target) of that index; InputError where too few systems are accepted."""
        with refusals_are_input_errors():
            return self.of(self._stamps, tf.constant(index))

    def of(self, stamps, index):
        """The same of other `GalaxyStamps`; also in a graph, where nothing is an InputError."""
        function = self._function_for(stamps.images.shape[1])
        return function(self._seed, index, [stamps.images, stamps.half_light_radius], self._psfs)


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
    simulator = Simulator(seed, batch_size, stamps, config, psfs, target)

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes seconds
    def simulate(index, stamps=stamps):
        inputs, truth = simulator.of(stamps, tf.cast(index, tf.int32))
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
