"""The lenses of a training run on TensorFlow, as tf.data streams that can be shared out and taken up at any step."""

import contextlib

import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.extras import imported
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.data.streaming import refusals_are_input_errors, stream
from rim_tf.errors import InputError
from training import runs

# Nothing here is for autograph, and looking for it takes seconds.
_plainly = tf.autograph.experimental.do_not_convert
# Galaxies read from disk for each lens of a batch, so that two lenses rarely share one.
_POOL = 4


def training_stream(config, galaxies=None, lenses=None, first_step=0, shard=0, n_shards=1, psfs=None):
    """The micro-batches of a run, endless, from those of the step `first_step` on.

    A step takes `config.micro_batches` of them, of which each shard has as many, and no two the same.

    Args:
      config: `TrainingConfig`.
      galaxies: where real sources come from, as for `find_galaxies`; they are held in memory, but those of a prepared
        set, which are read from disk as they are needed. None for procedural sources alone.
      lenses: folder of a set that `rim-tf dataset build` made, in place of lenses drawn on the way.
      first_step: number of the first step.
      shard: this replica, as in `rim_tf.data.streaming.stream`.
      n_shards: how many there are, a divisor of `config.micro_batches`.
      psfs: as in `rim_tf.data.observing.observe`.
    """
    if config.micro_batches % n_shards:
        raise InputError(
            f"The {config.batch_size} lenses of a batch come in {config.micro_batches} micro-batches, which {n_shards} "
            f"replicas cannot share out evenly; give --micro-batches, a multiple of {n_shards} that divides the batch."
        )
    # Of batches that come again, a run that was stopped begins at the first that comes with those it stopped among.
    begun, within = divmod(first_step, config.turns * config.together)
    given = {"shard": shard, "n_shards": n_shards, "psfs": psfs, "target": runs.target_of(config)}
    dataset = _micro_batches(config, galaxies, lenses, begun * config.together, **given)
    dataset = _prepared(dataset, runs.preparation(config))
    if config.turns > 1:
        each = config.micro_batches // n_shards
        dataset = _turned(dataset, config.turns, config.together * each).skip(within * each)
    return dataset


def _micro_batches(config, galaxies, lenses, first_step, **given):
    """Simulated inputs and targets of a shard, each once; `given` as for `stream`."""
    if lenses is not None and (config.larger_frames or config.growing_frames):
        raise InputError("A fixed set has frames of one size; give no --lenses to an experiment with several sizes.")
    each = config.micro_batches
    if lenses is not None:
        seed = seeds.seed_pair("training", config.seed)
        size = config.batch_size // each
        return _sets("streams").lens_stream(
            _opened(lenses), "train", size, seed, config.mocks, first_step * each, **given
        )
    streams, sources = [], _sources(config, galaxies)
    for part, (mocks, batch_size) in enumerate(runs.frames_of(config)):
        first = each * runs.steps_before(config, first_step, part)
        streams.append(_stream_of_frames(config, sources, part, mocks, batch_size // each, first, **given))
    if len(streams) == 1:
        return streams[0]
    streams = [each_size.map(_without_static_shape) for each_size in streams]
    return _in_turn(config, streams, first_step, each // given["n_shards"])


def _in_turn(config, streams, first_step, repeats):
    """Micro-batches of one stream after another, as `runs.part_at` says, so many of each step."""
    if config.growing_frames:
        edges = tf.constant(runs.edges_of(config), tf.int64)
        steps = tf.data.Dataset.counter(start=first_step)
        turns = steps.map(_plainly(lambda step: tf.reduce_sum(tf.cast(step >= edges, tf.int64))))
    else:
        turns = tf.data.Dataset.range(len(streams)).repeat().skip(first_step % len(streams))
    turns = turns.flat_map(_plainly(lambda turn: tf.data.Dataset.from_tensors(turn).repeat(repeats)))
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def held_out_stream(config, galaxies=None, psfs=None):
    """The batches that a run is validated on: the same for every run with such frames, of galaxies that none trains on.

    Args:
      config: `TrainingConfig`.
      galaxies: as in `training_stream`.
      psfs: likewise.
    """
    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", "validation"))
    seed = seeds.seed_pair("validation", 0)
    lenses = stream(seed, runs.VALIDATION_BATCH_SIZE, stamps, config.mocks, psfs=psfs, target=runs.target_of(config))
    return _prepared(lenses, runs.preparation(config)).take(runs.VALIDATION_BATCHES)


def _sources(config, galaxies):
    """What lenses are drawn from: the tfds builder of a large set or None, and the `GalaxyStamps` in memory or None."""
    builder = find_large_set(galaxies)
    in_memory = runs.galaxies_in_memory(config, None if builder is not None else galaxies)
    if in_memory is None and builder is None:
        raise InputError(runs.NO_SOURCES)
    return builder, None if in_memory is None else GalaxyStamps.of(in_memory)


def _stream_of_frames(config, sources, part, mocks, batch_size, first_batch, **given):
    """Lenses on frames of one size, the part of the stream "training" with that number; `given` as for `stream`."""
    (builder, stamps), seed = sources, seeds.seed_pair("training", config.seed, part)
    if builder is not None:
        pool = _POOL * batch_size
        stamps = _sets("streams").galaxy_pools(builder, "train", pool, seed, first_batch, stamps)
    return stream(seed, batch_size, stamps, mocks, first_batch, **given)


@_plainly
def _without_static_shape(*batch):
    """The batch with the sizes of its axes left open, as batches of one stream must have one shape or none."""
    return tf.nest.map_structure(lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * x.ndim), batch)


def _prepared(dataset, prepare):
    """What the network takes, in place of simulated inputs."""
    prepared = _plainly(lambda inputs, target: (prepare(inputs, target), target))
    return dataset.map(prepared, num_parallel_calls=1).prefetch(2)


def _turned(dataset, turns, together):
    """`together` batches of square images, then the same turned by quarters and mirrored, and so on, `turns` times.

    What a frozen network makes of a batch takes longer than a step that learns from it; and no direction is special in
    the draws of lenses. There are eight ways to turn a square, of which the ninth turn is the first again.
    """

    def turn(number, batch):
        def of(x):
            if x.shape.rank < 3:
                return x
            x = tf.cond(number & 1 > 0, lambda: tf.reverse(x, [1]), lambda: x)
            x = tf.cond(number & 2 > 0, lambda: tf.reverse(x, [2]), lambda: x)
            return tf.cond(number & 4 > 0, lambda: tf.transpose(x, [0, 2, 1, *range(3, x.shape.rank)]), lambda: x)

        return tf.nest.map_structure(of, batch)

    def several(inputs, target):
        batches = tf.data.Dataset.zip((inputs, target))
        numbers = tf.data.Dataset.range(turns)
        return numbers.flat_map(_plainly(lambda number: batches.map(_plainly(lambda *batch: turn(number, batch)))))

    return dataset.window(together, drop_remainder=True).flat_map(_plainly(several))


def _sets(name):
    """A module of `rim_tf.data.sets`, which needs tfds."""
    return imported(f"rim_tf.data.sets.{name}", "datasets", "Training on a prepared set")


def _opened(lenses):
    return _sets("opening").open_set(lenses)


@contextlib.contextmanager
def data_errors_are_input_errors(galaxies, lenses):
    """What a stream finds wrong while a run goes on, as an InputError: no lens is accepted, or a file is damaged."""
    builder = _opened(lenses) if lenses is not None else find_large_set(galaxies)
    damage = contextlib.nullcontext() if builder is None else _sets("opening").damage_is_named(builder, "train")
    with damage, refusals_are_input_errors():
        yield
