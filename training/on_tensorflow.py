"""A training run on TensorFlow: tf.data streams, Keras' `fit`, checkpoints after every epoch."""

import contextlib

import keras
import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.extras import imported
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.data.streaming import refusals_are_input_errors, stream
from rim_tf.errors import InputError
from training import runs

# Galaxies read from disk for each lens of a batch, so that two lenses rarely share one.
_POOL = 4


def training_stream(config, galaxies=None, lenses=None, first_batch=0, shard=0, n_shards=1, psfs=None):
    """The batches of a run, endless, from number `first_batch` on.

    Args:
      config: `TrainingConfig`.
      galaxies: where real sources come from, as for `find_galaxies`; they are held in memory, but those of a prepared
        set, which are read from disk as they are needed. None for procedural sources alone.
      lenses: folder of a set that `rim-tf dataset build` made, in place of lenses drawn on the way.
      first_batch: number of the first batch.
      shard: as in `rim_tf.data.streaming.stream`.
      n_shards: likewise.
      psfs: as in `rim_tf.data.observing.observe`.
    """
    given = {"shard": shard, "n_shards": n_shards, "psfs": psfs, "target": runs.target_of(config)}
    if lenses is not None and config.larger_frames:
        raise InputError("A fixed set has frames of one size; give no --lenses to an experiment with larger_frames.")
    if lenses is not None:
        seed = seeds.seed_pair("training", config.seed)
        return _sets("streams").lens_stream(
            _opened(lenses), "train", config.batch_size, seed, config.mocks, first_batch, **given
        )
    if config.larger_frames and n_shards > 1:
        raise InputError("Frames of several sizes cannot be shared out over workers; leave larger_frames empty.")
    sources = _sources(config, galaxies)
    if config.larger_frames:
        return _frames_in_turn(config, sources, first_batch, **given)
    return _stream_of_frames(config, sources, 0, config.mocks, config.batch_size, first_batch, **given)


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
    return lenses.take(runs.VALIDATION_BATCHES)


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


def _frames_in_turn(config, sources, step, **given):
    """Frames of `config.mocks` and of `config.larger_frames`, one batch after another of about as many pixels each."""
    frames, streams = runs.frames_of(config), []
    for i, (mocks, batch_size) in enumerate(frames):
        done = (step - i + len(frames) - 1) // len(frames)
        streams.append(
            _stream_of_frames(config, sources, i, mocks, batch_size, done, **given).map(_without_static_shape)
        )
    turns = tf.data.Dataset.range(len(frames)).repeat().skip(step % len(frames))
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def _without_static_shape(*batch):
    """The batch with the sizes of its axes left open, so that one training step is traced for all frames."""
    return tf.nest.map_structure(lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * x.ndim), batch)


def _prepared(dataset, prepare):
    """What the network takes, in place of simulated inputs."""
    return dataset.map(lambda inputs, target: (prepare(inputs), target), num_parallel_calls=1).prefetch(2)


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
        return numbers.flat_map(lambda number: batches.map(lambda *batch: turn(number, batch)))

    return dataset.window(together, drop_remainder=True).flat_map(several)


def _sets(name):
    """A module of `rim_tf.data.sets`, which needs tfds."""
    return imported(f"rim_tf.data.sets.{name}", "datasets", "Training on a prepared set")


def _opened(lenses):
    return _sets("opening").open_set(lenses)


class SaveCheckpoint(keras.callbacks.Callback):
    """Model and optimiser to disk after every epoch; a checkpoint is complete or absent."""

    def __init__(self, manager):
        super().__init__()
        self.manager = manager

    def on_epoch_end(self, epoch, logs=None):
        self.manager.save()


def _checkpoint(model):
    """Model, optimiser and, where there is dropout, how far its random numbers are, which is no weight."""
    dropout = getattr(model, "dropout_seeds", None)
    states = {} if dropout is None else {"dropout": dropout.state.value}
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, **states)


def train(config, out, galaxies=None, lenses=None, verbose="auto", psfs=None):
    """Train until `config.n_steps`, from the newest checkpoint in `out` if there is one; returns the model.

    Args:
      config: `TrainingConfig`.
      out: the run's folder.
      galaxies: as in `training_stream`; the held-out ones are of the split "validation".
      lenses: as in `training_stream`.
      verbose: as in `keras.Model.fit`.
      psfs: as in `training_stream`.

    Leaves in `out`: config.json, psfs.json, checkpoints/, log.csv, tensorboard/ and, at the end, weights.json and
    weights.weights.h5, which `load_pretrained` and `--initial` take.
    """
    out = runs.opened(out, config, psfs)
    if (out / "checkpoint.npz").exists():
        raise InputError(f"{out} holds a run of JAX; choose another --out, or train with KERAS_BACKEND=jax.")
    model = runs.compiled_model(config)
    manager = tf.train.CheckpointManager(_checkpoint(model), str(out / "checkpoints"), max_to_keep=2)
    try:
        if manager.restore_or_initialize():
            print(f"Going on from {manager.latest_checkpoint}, step {int(model.optimizer.iterations)}.")
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(
            f"{manager.latest_checkpoint} cannot be read ({type(error).__name__}); remove it and its line in "
            f"{out / 'checkpoints' / 'checkpoint'} to go on from the one before, or choose another --out."
        ) from error
    step = int(model.optimizer.iterations)

    prepare = runs.preparation(config)
    # Of batches that come again, a run that was stopped begins at the first that comes with those it stopped among.
    begun, within = divmod(step, config.turns * config.together)
    training = training_stream(config, galaxies, lenses, first_batch=begun * config.together, psfs=psfs)
    training = _prepared(training, prepare)
    if config.turns > 1:
        training = _turned(training, config.turns, config.together).skip(within)
    with _data_errors_are_input_errors(galaxies, lenses):
        model.fit(
            training,
            initial_epoch=step // config.steps_per_epoch,
            epochs=config.n_steps // config.steps_per_epoch,
            steps_per_epoch=config.steps_per_epoch,
            validation_data=_prepared(held_out_stream(config, galaxies, psfs), prepare).cache(),
            callbacks=[
                keras.callbacks.CSVLogger(str(out / "log.csv"), append=True),
                keras.callbacks.TensorBoard(str(out / "tensorboard"), write_graph=False),
                SaveCheckpoint(manager),  # last: an epoch that is saved has been logged
            ],
            shuffle=False,
            verbose=verbose,
        )
    runs.save_weights(model, config, int(model.optimizer.iterations), out)
    return model


@contextlib.contextmanager
def _data_errors_are_input_errors(galaxies, lenses):
    """What a stream finds wrong while a run goes on, as an InputError: no lens is accepted, or a file is damaged."""
    builder = _opened(lenses) if lenses is not None else find_large_set(galaxies)
    damage = contextlib.nullcontext() if builder is None else _sets("opening").damage_is_named(builder, "train")
    with damage, refusals_are_input_errors():
        yield
