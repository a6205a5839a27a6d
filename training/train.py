"""Train a network from scratch, or go on where a killed run stopped: python -m training.train small --help."""

import contextlib
import dataclasses
import json
import pathlib

import click
import keras
import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.extras import imported
from rim_tf.data.mocks import GalaxyStamps, refusals_are_input_errors, stream
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.data.sources.galaxies import joined
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.files import read_json, write_text
from rim_tf.models.pretrained import build_model, load_pretrained, save_trained
from rim_tf.validation import to_json
from training.experiments import EXPERIMENTS
from training.tasks import LOSSES, TASKS

_VALIDATION_BATCHES, _VALIDATION_BATCH_SIZE = 8, 8
# Galaxies read from disk for each lens of a batch, so that two lenses rarely share one.
_POOL = 4


def training_stream(config, galaxies=None, lenses=None, first_batch=0, shard=0, n_shards=1):
    """The batches of a run, endless, from number `first_batch` on.

    Args:
      config: `TrainingConfig`.
      galaxies: where real sources come from, as for `find_galaxies`; they are held in memory, but those of a prepared
        set, which are read from disk as they are needed. None for procedural sources alone.
      lenses: folder of a set that `rim-tf dataset build` made, in place of lenses drawn on the way.
      first_batch: number of the first batch.
      shard: as in `rim_tf.data.mocks.stream`.
      n_shards: likewise.
    """
    given = {"first_batch": first_batch, "shard": shard, "n_shards": n_shards, "target": target_of(config)}
    if lenses is not None and config.larger_frames:
        raise InputError("A fixed set has frames of one size; give no --lenses to an experiment with larger_frames.")
    if lenses is not None:
        seed = seeds.seed_pair("training", config.seed)
        return _sets("streams").lens_stream(_opened(lenses), "train", config.batch_size, seed, config.mocks, **given)
    if config.larger_frames and n_shards > 1:
        raise InputError("Frames of several sizes cannot be shared out over workers; leave larger_frames empty.")
    sources = _sources(config, galaxies)
    if config.larger_frames:
        return _frames_in_turn(config, sources, first_batch, given["target"])
    return _stream_of_frames(config, sources, 0, config.mocks, config.batch_size, **given)


def held_out_stream(config, galaxies=None):
    """The batches that a run is validated on: the same for every run with such frames, of galaxies that none trains on.

    Args:
      config: `TrainingConfig`.
      galaxies: as in `training_stream`.
    """
    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", "validation"))
    seed = seeds.seed_pair("validation", 0)
    lenses = stream(seed, _VALIDATION_BATCH_SIZE, stamps, config.mocks, target=target_of(config))
    return lenses.take(_VALIDATION_BATCHES).cache()


def target_of(config):
    """What the network of a `TrainingConfig` is to find, as in `rim_tf.data.mocks.simulate_batch`."""
    return TASKS[type(config.model)].target


def _sources(config, galaxies):
    """What lenses are drawn from: the tfds builder of a large set or None, and the `GalaxyStamps` in memory or None."""
    builder = find_large_set(galaxies)
    sets = [procedural_galaxies(config.n_procedural, "training", config.seed)] if config.n_procedural else []
    if galaxies is not None and builder is None:
        sets.append(find_galaxies(galaxies, "train", "training"))
    if not sets and builder is None:
        raise InputError("There are no sources to train on: n_procedural is 0, and no --galaxies are given.")
    return builder, GalaxyStamps.of(joined(sets)) if sets else None


def _stream_of_frames(config, sources, part, mocks, batch_size, first_batch=0, **given):
    """Lenses on frames of one size, the part of the stream "training" with that number; `given` as for `stream`."""
    (builder, stamps), seed = sources, seeds.seed_pair("training", config.seed, part)
    if builder is not None:
        pool = _POOL * batch_size
        stamps = _sets("streams").galaxy_pools(builder, "train", pool, seed, first_batch, stamps)
    return stream(seed, batch_size, stamps, mocks, first_batch, **given)


def _frames_in_turn(config, sources, step, target):
    """Frames of `config.mocks` and of `config.larger_frames`, one batch after another of about as many pixels each."""
    sizes = (config.mocks.image_pixels, *config.larger_frames)
    streams = []
    for i, pixels in enumerate(sizes):
        mocks = dataclasses.replace(config.mocks, image_pixels=pixels, source_pixels=pixels)
        batch_size = max(1, config.batch_size * sizes[0] ** 2 // pixels**2)
        done = (step - i + len(sizes) - 1) // len(sizes)
        frames = _stream_of_frames(config, sources, i, mocks, batch_size, done, target=target)
        streams.append(frames.map(_without_static_shape))
    turns = tf.data.Dataset.range(len(sizes)).repeat().skip(step % len(sizes))
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def _without_static_shape(*batch):
    """The batch with the sizes of its axes left open, so that one training step is traced for all frames."""
    return tf.nest.map_structure(lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * x.ndim), batch)


def _sets(name):
    """A module of `rim_tf.data.sets`, which needs tfds."""
    return imported(f"rim_tf.data.sets.{name}", "datasets", "Training on a prepared set")


def _opened(lenses):
    return _sets("opening").open_set(lenses)


def learning_rate(config):
    """The schedule that a TrainingConfig names."""
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.n_steps, alpha=0.01)
    return keras.optimizers.schedules.ExponentialDecay(config.learning_rate, 5000, 0.96, staircase=True)


def compiled_model(config):
    """The network of a TrainingConfig, its weights drawn from the run's seed or those of `config.initial`."""
    keras.utils.set_random_seed(int(seeds.generator("weights", config.seed).integers(2**31)))
    model = build_model(config.model)
    if config.initial is not None:
        initial = load_pretrained(config.initial, config.model.type)
        if initial.config != config.model:
            raise InputError(f"The weights {config.initial} are those of another network than this experiment's.")
        model.set_weights(initial.get_weights())
    task = TASKS[type(config.model)]
    # XLA makes this training step nearly twice as slow on a CPU.
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate(config), global_clipnorm=config.clip_norm),
        loss=task.loss(config.loss),
        metrics=[task.metric],
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


class SaveCheckpoint(keras.callbacks.Callback):
    """Model and optimiser to disk after every epoch; a checkpoint is complete or absent."""

    def __init__(self, manager):
        super().__init__()
        self.manager = manager

    def on_epoch_end(self, epoch, logs=None):
        self.manager.save()


def _check_config(config, out):
    """Write the run's configuration, or refuse to go on with a run that had another.

    Its length alone may change: the learning rate then follows the schedule of the new length from here on.
    """
    path = out / "config.json"
    if path.exists():
        had, has = read_json(path), json.loads(to_json(config))
        if not isinstance(had, dict) or had | {"n_steps": None} != has | {"n_steps": None}:
            raise InputError(f"{path} holds another configuration than this one; choose another --out, or its options.")
    write_text(path, to_json(config))


def _checkpoint(model):
    """Model, optimiser and, where there is dropout, how far its random numbers are, which is no weight."""
    dropout = getattr(model, "dropout_seeds", None)
    states = {} if dropout is None else {"dropout": dropout.state.value}
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, **states)


def train(config, out, galaxies=None, lenses=None, verbose="auto"):
    """Train until `config.n_steps`, from the newest checkpoint in `out` if there is one; returns the model.

    Args:
      config: `TrainingConfig`.
      out: the run's folder.
      galaxies: as in `training_stream`; the held-out ones are of the split "validation".
      lenses: as in `training_stream`.
      verbose: as in `keras.Model.fit`.

    Leaves in `out`: config.json, checkpoints/, log.csv, tensorboard/ and, at the end, weights.json and
    weights.weights.h5, which `load_pretrained` and `--initial` take.
    """
    if config.n_steps % config.steps_per_epoch:
        raise InputError(
            f"n_steps is {config.n_steps}; it must be a multiple of the {config.steps_per_epoch} steps of an epoch."
        )
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made a folder: {error.strerror or error}; choose another --out.") from None
    _check_config(config, out)
    model = compiled_model(config)
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

    training = training_stream(config, galaxies, lenses, first_batch=step)
    with _data_errors_are_input_errors(galaxies, lenses):
        model.fit(
            training,
            initial_epoch=step // config.steps_per_epoch,
            epochs=config.n_steps // config.steps_per_epoch,
            steps_per_epoch=config.steps_per_epoch,
            validation_data=held_out_stream(config, galaxies),
            callbacks=[
                keras.callbacks.CSVLogger(str(out / "log.csv"), append=True),
                keras.callbacks.TensorBoard(str(out / "tensorboard"), write_graph=False),
                SaveCheckpoint(manager),  # last: an epoch that is saved has been logged
            ],
            shuffle=False,
            verbose=verbose,
        )
    step_now = int(model.optimizer.iterations)
    save_trained(model, out / "weights", {"training": json.loads(to_json(config)), "steps": step_now})
    return model


@contextlib.contextmanager
def _data_errors_are_input_errors(galaxies, lenses):
    """What a stream finds wrong while a run goes on, as an InputError: no lens is accepted, or a file is damaged."""
    builder = _opened(lenses) if lenses is not None else find_large_set(galaxies)
    damage = contextlib.nullcontext() if builder is None else _sets("opening").damage_is_named(builder, "train")
    with damage, refusals_are_input_errors():
        yield


@click.command()
@click.argument("experiment", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--out", type=click.Path(), help="Run folder; a run found there goes on.  [default: runs/EXPERIMENT]")
@click.option(
    "--galaxies", help="Folder of real galaxies, or a prepared tfds set's folder or name; else procedural ones."
)
@click.option(
    "--lenses", type=click.Path(exists=True), help="Set made by `rim-tf dataset build`, to train on its lenses."
)
@click.option("--steps", type=int, help="Training steps, in place of the experiment's own.")
@click.option("--seed", type=int, help="Seed of the weights and of every draw, in place of the experiment's own.")
@click.option("--loss", type=click.Choice(LOSSES), help="In place of the experiment's own.")
@click.option("--initial", help="Weights to start from, a shipped name or NAME.json, in place of the experiment's own.")
@click.option("--quiet", is_flag=True, help="One line for each epoch instead of a progress bar, for logs.")
def main(experiment, out, galaxies, lenses, steps, seed, loss, initial, quiet):
    """Train EXPERIMENT, one of those in training/experiments.py."""
    changes = {"n_steps": steps, "seed": seed, "loss": loss, "initial": initial}
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        config = dataclasses.replace(EXPERIMENTS[experiment], **changes)
        train(config, out or pathlib.Path("runs") / experiment, galaxies, lenses, 2 if quiet else "auto")
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
