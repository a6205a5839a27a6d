"""What a training run is on either backend: its folder, its network as it begins, its learning rate."""

import dataclasses
import hashlib
import json
import pathlib

import keras
import numpy as np

from rim_tf.data import seeds
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.sources.galaxies import joined
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.files import read_json, write_json, write_text
from rim_tf.models.pretrained import build_model, load_pretrained, save_trained
from rim_tf.validation import to_json
from training.tasks import TASKS

NO_SOURCES = "There are no sources to train on: n_procedural is 0, and no --galaxies are given."
# Of each run: as many lenses that no network is trained on are drawn once, and seen after every epoch.
VALIDATION_BATCHES, VALIDATION_BATCH_SIZE = 8, 8


def target_of(config):
    """What the network of a `TrainingConfig` is to find, as in `rim_tf.data.streaming.simulate_batch`."""
    return TASKS[type(config.model)].target


def preparation(config):
    """The function that makes of simulated inputs what the network of a `TrainingConfig` takes."""
    prepare = TASKS[type(config.model)].prepare
    return (lambda inputs: inputs) if prepare is None else prepare(config.model)


def frames_of(config):
    """(mocks, batch size) of frames of each size, which take turns; all batches have about as many pixels."""
    first = config.mocks
    frames = [(first, config.batch_size)]
    for pixels in config.larger_frames:
        mocks = dataclasses.replace(first, image_pixels=pixels, source_pixels=pixels)
        frames.append((mocks, max(1, config.batch_size * first.image_pixels**2 // pixels**2)))
    return frames


def galaxies_in_memory(config, galaxies=None):
    """The `GalaxySet` of procedural galaxies and, where `galaxies` names some, of real ones; None where there are none.

    Args:
      config: `TrainingConfig`.
      galaxies: as for `find_galaxies`.
    """
    sets = [procedural_galaxies(config.n_procedural, "training", config.seed)] if config.n_procedural else []
    if galaxies is not None:
        sets.append(find_galaxies(galaxies, "train", "training"))
    return joined(sets) if sets else None


def learning_rate(config, n_steps=None):
    """The schedule that a TrainingConfig names, for a run of so many steps; by default those of the config."""
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, n_steps or config.n_steps, alpha=0.01)
    return keras.optimizers.schedules.ExponentialDecay(config.learning_rate, 5000, 0.96, staircase=True)


def compiled_model(config, rate=None):
    """The network of a TrainingConfig, its weights drawn from the run's seed or those of `config.initial`.

    Args:
      config: `TrainingConfig`.
      rate: learning rate in place of the schedule's.
    """
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
        optimizer=keras.optimizers.Adam(rate or learning_rate(config), global_clipnorm=config.clip_norm),
        loss=task.loss(config.loss, config.model),
        # As an object, which has its variables: else Keras makes them as it traces the step, and traces it again.
        metrics=[keras.metrics.MeanMetricWrapper(task.metric, name=task.metric.__name__)],
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def opened(out, config, psfs=None):
    """The folder of a run, made where it is new; InputError where it cannot be one, or holds another run.

    The length of a run alone may change: the learning rate then follows the schedule of the new length from there on.

    Args:
      out: the folder.
      config: `TrainingConfig`.
      psfs: as in `rim_tf.data.observing.observe`; the folder keeps their checksum.
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
    path = out / "config.json"
    if path.exists():
        had, has = read_json(path), json.loads(to_json(config))
        if not isinstance(had, dict) or had | {"n_steps": None} != has | {"n_steps": None}:
            raise InputError(f"{path} holds another configuration than this one; choose another --out, or its options.")
    _remember_psfs(out, psfs)
    write_text(path, to_json(config))
    return out


def _remember_psfs(out, psfs):
    """Keeps the checksum of the PSFs of a run in its folder; InputError where it began with others."""
    path, now = out / "psfs.json", {"sha256": None}
    if psfs is not None:
        stamps = np.ascontiguousarray(psfs, np.float32)
        now = {"sha256": hashlib.sha256(repr(stamps.shape).encode() + stamps.tobytes()).hexdigest()}
    if path.exists() and (began := read_json(path)) != now:
        how = "without PSFs" if began == {"sha256": None} else "with other PSFs than now"
        raise InputError(f"{out} holds a run that began {how}; give --psfs as it was then, or choose another --out.")
    write_json(path, now)


def save_weights(model, config, step, out):
    """weights.json and weights.weights.h5 in the run's folder, which `load_pretrained` and `--initial` take."""
    save_trained(model, out / "weights", {"training": json.loads(to_json(config)), "steps": step})
