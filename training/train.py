"""Train a RIM from scratch, or go on where a killed run stopped: python -m training.train small --help."""

import dataclasses
import json
import pathlib

import click
import keras
import numpy as np
import tensorflow as tf

from rim_tf.config import to_json
from rim_tf.data.mocks import GalaxyStamps, stream
from rim_tf.data.sources.galaxies import half_light_radius, has_samples, load_directory
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.models.losses import IterateLoss, final_rms_percent
from rim_tf.models.pretrained import load_pretrained, save_trained
from rim_tf.models.rim import RIM
from training.experiments import EXPERIMENTS

# Validation draws from a stream that no training seed reaches.
_VALIDATION_SEED = 1_000_000
_VALIDATION_BATCHES = 8
# Galaxies read from disk for each lens of a batch, so that two lenses rarely share one.
_POOL = 4


def source_galaxies(where, split, n_procedural, seed):
    """`GalaxyStamps` of one split of the real galaxies found at `where` (none for None) and procedural ones."""
    images = [procedural_galaxies(n_procedural, seed)] if n_procedural else []
    radii = [np.array([half_light_radius(image) for image in images[0]])] if n_procedural else []
    if where is not None:
        real = (
            load_directory(where).split(split) if has_samples(where) else _prepared_sets().find_galaxies(where, split)
        )
        images.append(real.images)
        radii.append(real.half_light_radius)
    return GalaxyStamps(np.concatenate(images), np.concatenate(radii))


def _prepared_sets():
    try:
        from rim_tf.data import prepared
    except ModuleNotFoundError as error:
        raise InputError(f"This needs {error.name}; do: pip install 'rim_tf[datasets]'.") from error
    return prepared


def training_stream(config, galaxies=None, lenses=None, first_batch=0, shard=0, n_shards=1):
    """The batches of a run, endless, from number `first_batch` on.

    Args:
      config: `TrainingConfig`.
      galaxies: None for procedural sources alone; a folder with files of `rim_tf.data.sources.galaxies.LOADERS`, which
        are held in memory; or the folder or tfds name of a prepared set, which is read from disk as it is needed.
      lenses: folder of a set that `rim-tf dataset build` made, in place of lenses drawn on the way.
      shard, n_shards: as in `rim_tf.data.mocks.stream`.
    """
    given = {"first_batch": first_batch, "shard": shard, "n_shards": n_shards}
    if lenses is not None and config.larger_frames:
        raise InputError("A fixed set has frames of one size; give no --lenses to an experiment with larger_frames.")
    if lenses is not None:
        builder = _prepared_sets().open_set(lenses)
        return _prepared_sets().lens_stream(builder, "train", config.batch_size, config.seed, config.mocks, **given)
    if config.larger_frames and n_shards > 1:
        raise InputError("Frames of several sizes cannot be shared out over workers; leave larger_frames empty.")
    if config.larger_frames:
        return _frames_in_turn(config, galaxies, first_batch)
    builder = None
    if galaxies is not None and not has_samples(galaxies):
        builder = _prepared_sets().galaxy_builder(galaxies)
    if builder is None:
        stamps = source_galaxies(galaxies, "train", config.n_procedural, config.seed)
    else:
        drawn = source_galaxies(None, "train", config.n_procedural, config.seed) if config.n_procedural else None
        pool = _POOL * config.batch_size
        stamps = _prepared_sets().galaxy_pools(builder, "train", pool, config.seed, first_batch, drawn)
    return stream(config.seed, config.batch_size, stamps, config.mocks, **given)


def _frames_in_turn(config, galaxies, step):
    """Frames of `config.mocks` and of `config.larger_frames`, one batch after another of about as many pixels each."""
    sizes = (config.mocks.image_pixels, *config.larger_frames)
    streams = []
    for i, pixels in enumerate(sizes):
        part = dataclasses.replace(
            config,
            mocks=dataclasses.replace(config.mocks, image_pixels=pixels, source_pixels=pixels),
            batch_size=max(1, config.batch_size * sizes[0] ** 2 // pixels**2),
            seed=config.seed + 100_000 * i,
            larger_frames=(),
        )
        done = (step - i + len(sizes) - 1) // len(sizes)
        streams.append(training_stream(part, galaxies, first_batch=done).map(_without_static_shape))
    turns = tf.data.Dataset.range(len(sizes)).repeat().skip(step % len(sizes))
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def _without_static_shape(*batch):
    """The batch with the sizes of its axes left open, so that one training step is traced for all frames."""
    return tf.nest.map_structure(lambda x: tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None] * x.ndim), batch)


def learning_rate(config):
    """The schedule that a TrainingConfig names."""
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.n_steps, alpha=0.01)
    return keras.optimizers.schedules.ExponentialDecay(config.learning_rate, 5000, 0.96, staircase=True)


def compiled_model(config):
    """The RIM of a TrainingConfig, its weights drawn from the run's seed or those of `config.initial`."""
    keras.utils.set_random_seed(config.seed)
    model = RIM(config.rim)
    if config.initial is not None:
        initial = load_pretrained(config.initial)
        if initial.config != config.rim:
            raise InputError(f"The weights {config.initial} are those of another network than this experiment's.")
        model.set_weights(initial.get_weights())
    # XLA makes this training step nearly twice as slow on a CPU.
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate(config), global_clipnorm=config.clip_norm),
        loss=IterateLoss(config.loss),
        metrics=[final_rms_percent],
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
        had, has = json.loads(path.read_text()), json.loads(to_json(config))
        if had | {"n_steps": None} != has | {"n_steps": None}:
            raise InputError(f"{path} holds another configuration than this one; choose another --out, or its options.")
    partial = path.with_name("config.json.incomplete")
    partial.write_text(to_json(config))
    partial.replace(path)


def train(config, out, galaxies=None, lenses=None, verbose="auto"):
    """Train until `config.n_steps`, from the newest checkpoint in `out` if there is one; returns the model.

    `galaxies` and `lenses` are those of `training_stream`; the held-out galaxies are of the split "validation".

    Leaves in `out`: config.json, checkpoints/, log.csv, tensorboard/ and, at the end, weights.json and
    weights.weights.h5, which `load_pretrained` and `--initial` take.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _check_config(config, out)
    if config.n_steps % config.steps_per_epoch:
        raise InputError(
            f"n_steps is {config.n_steps}; it must be a multiple of the {config.steps_per_epoch} steps of an epoch."
        )
    model = compiled_model(config)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, str(out / "checkpoints"), max_to_keep=2)
    if manager.restore_or_initialize():
        print(f"Going on from {manager.latest_checkpoint}, step {int(model.optimizer.iterations)}.")
    step = int(model.optimizer.iterations)

    training = training_stream(config, galaxies, lenses, first_batch=step)
    # Held-out galaxies are real where there are any.
    n_held_out = 0 if galaxies else 100
    validation = source_galaxies(galaxies, "validation", n_held_out, _VALIDATION_SEED)
    held_out = stream(_VALIDATION_SEED, 8, validation, config.mocks).take(_VALIDATION_BATCHES).cache()
    model.fit(
        training,
        initial_epoch=step // config.steps_per_epoch,
        epochs=config.n_steps // config.steps_per_epoch,
        steps_per_epoch=config.steps_per_epoch,
        validation_data=held_out,
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
@click.option(
    "--seed",
    type=click.IntRange(0, 999_999),
    help="Seed of the weights and of every draw, in place of the experiment's own.",
)
@click.option("--loss", type=click.Choice(IterateLoss.KINDS), help="In place of the experiment's own.")
@click.option("--initial", help="Weights to start from, a shipped name or NAME.json, in place of the experiment's own.")
@click.option("--quiet", is_flag=True, help="One line for each epoch instead of a progress bar, for logs.")
def main(experiment, out, galaxies, lenses, steps, seed, loss, initial, quiet):
    """Train EXPERIMENT, one of those in training/experiments.py."""
    changes = {"n_steps": steps, "seed": seed, "loss": loss, "initial": initial}
    config = dataclasses.replace(
        EXPERIMENTS[experiment], **{name: value for name, value in changes.items() if value is not None}
    )
    try:
        train(config, out or pathlib.Path("runs") / experiment, galaxies, lenses, 2 if quiet else "auto")
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
