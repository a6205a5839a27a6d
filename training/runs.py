"""What a training run is on either backend: its folder, its network as it begins, its learning rate, how it ends."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import pathlib
import signal
import threading

import keras
import numpy as np

from rim_tf.config import JointConfig, RIMConfig
from rim_tf.data import seeds
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.sources.galaxies import joined
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.files import read_json, write_json, write_text
from rim_tf.models.pretrained import build_model, kind_of, load_pretrained, save_trained
from rim_tf.validation import to_json
from training.recomputation import recomputed
from training.tasks import TASKS

NO_SOURCES = "There are no sources to train on: n_procedural is 0, and no --galaxies are given."
# Of each run: as many lenses that no network is trained on are drawn once, and seen after every epoch.
VALIDATION_BATCHES, VALIDATION_BATCH_SIZE = 8, 8


class StoppedError(Exception):
    """A run was asked to end before its last step, by SIGTERM; it has been saved, and goes on when begun again."""


class LostError(Exception):
    """Another worker of a run has gone, and this one cannot go on without it; all go on when begun again."""


@contextlib.contextmanager
def asked_to_stop():
    """Gives the function that says whether SIGTERM has come since the block began; other threads never hear of it."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = []
    usual = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, usual)


def target_of(config):
    """What the network of a `TrainingConfig` is to find, as in `rim_tf.data.streaming.simulate_batch`."""
    return TASKS[type(config.model)].target


def preparation(config):
    """The function that makes of simulated inputs, and what is to be found, what the network of a config takes."""
    prepare = TASKS[type(config.model)].prepare
    return (lambda inputs, target: inputs) if prepare is None else prepare(config.model, config.mocks)


def named(inputs, target):
    """All tensors of a batch by name."""
    if not isinstance(target, dict):
        return inputs | {"target": target}
    return inputs | {f"target_{name}": each for name, each in target.items()}


def frames_of(config):
    """(mocks, batch size) of frames of each size, in turn or as they grow; all batches have about as many pixels."""
    own = config.mocks
    grown = [pixels for pixels, _ in config.growing_frames]
    return [_frames(config, pixels) for pixels in (*grown, own.image_pixels, *config.larger_frames)]


def _frames(config, pixels):
    if pixels == config.mocks.image_pixels:
        return config.mocks, config.batch_size
    mocks = dataclasses.replace(config.mocks, image_pixels=pixels, source_pixels=pixels)
    size = config.batch_size * config.mocks.image_pixels**2 // pixels**2
    return mocks, max(1, size // config.micro_batches) * config.micro_batches


def edges_of(config):
    """The steps at which frames grow, rising."""
    return np.cumsum([steps for _, steps in config.growing_frames], dtype=int).tolist()


def part_at(config, step):
    """Which of `frames_of` the step of that number takes."""
    if config.growing_frames:
        return sum(step >= edge for edge in edges_of(config))
    return step % (1 + len(config.larger_frames))


def steps_before(config, step, part):
    """How many steps before `step` took frames of that part, hence where its stream is taken up."""
    if config.growing_frames:
        begin, end = [0, *edges_of(config), step][part], [*edges_of(config), step][part]
        return max(0, min(step, end) - begin)
    n = 1 + len(config.larger_frames)
    return (step - part + n - 1) // n


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


def initial_model(config):
    """The network of a TrainingConfig, its weights drawn from the run's seed or those of `config.initial`."""
    keras.utils.set_random_seed(int(seeds.generator("weights", config.seed).integers(2**31)))
    model = build_model(config.model, dtype=config.precision)
    if config.recompute:
        model.remat = recomputed
    if config.initial is not None:
        _begin_from(config.initial, config, model)
    _train_only(config.only, model)
    return model


def _train_only(names, model):
    """Holds the weights of all parts of a network but those of these names, where there are any."""
    parts = {name: part for name, part in vars(model).items() if isinstance(part, keras.layers.Layer)}
    unknown = sorted(set(names) - set(parts))
    if unknown:
        raise InputError(f"only is {', '.join(unknown)}; the parts of this network are {', '.join(sorted(parts))}.")
    for name, part in parts.items():
        part.trainable = not names or name in names


def _begin_from(name, config, model):
    """Gives a model the weights of that name; a network that finds the lens too may have those of a RIM."""
    from_rim = isinstance(config.model, JointConfig) and kind_of(name) == RIMConfig.type
    initial = load_pretrained(name, RIMConfig.type if from_rim else config.model.type)
    if from_rim:
        model.begin_from(initial)
    elif _as_trained(initial.config) == _as_trained(config.model):
        model.set_weights(initial.get_weights())
    else:
        raise InputError(f"The weights {name} are those of another network than this experiment's.")


def _as_trained(model):
    """The settings of a network without what was found after its training."""
    return dataclasses.replace(model, stretch=()) if hasattr(model, "stretch") else model


def built_optimizer(config, model):
    """Adam with all of its variables; whoever uses it clips the gradient, and says the rate at each step."""
    optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(model.trainable_variables)
    return optimizer


def takes(model, name):
    """Whether the network's `call` has an argument of that name: only one with dropout has "training"."""
    return name in inspect.signature(model.call).parameters


def decay_at(config, step):
    """The share that the moving average of the weights keeps after that step: less at first, when there is little."""
    step = keras.ops.cast(step, "float32")
    return keras.ops.minimum(config.average_decay, (1.0 + step) / (10.0 + step))


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
    for old in (out / "checkpoints" / "checkpoint", out / "checkpoint.npz"):
        if old.exists():
            raise InputError(
                f"{out} holds a run of version 0.2 or before, whose {old.name} this version does not read; begin from "
                "its weights with --initial in another --out, or go on with that version."
            )
    path = out / "config.json"
    if path.exists():
        had, has = read_json(path), json.loads(to_json(config))
        if not isinstance(had, dict) or had | {"n_steps": None} != has | {"n_steps": None}:
            said = _differences(had, has) if isinstance(had, dict) else ""
            raise InputError(
                f"{path} holds another configuration than this one{said}; choose another --out, or its options."
            )
    _remember_psfs(out, psfs)
    write_text(path, to_json(config))
    return out


def _differences(had, has):
    """In words, where the run of a folder and the one that is asked for differ."""
    names = [name for name in {**had, **has} if name != "n_steps" and had.get(name) != has.get(name)]
    return f" (other {', '.join(names)})"


def fingerprint(config, psfs, step):
    """A number from 0 to 2^20 that is the same for runs of the same configuration and PSFs at the same step."""
    of = json.loads(to_json(config)) | {"step": step, "psfs": _psfs_sha256(psfs)}
    return int(hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:5], 16)


def _remember_psfs(out, psfs):
    """Keeps the checksum of the PSFs of a run in its folder; InputError where it began with others."""
    path, now = out / "psfs.json", {"sha256": _psfs_sha256(psfs)}
    if path.exists() and (began := read_json(path)) != now:
        how = "without PSFs" if began == {"sha256": None} else "with other PSFs than now"
        raise InputError(f"{out} holds a run that began {how}; give --psfs as it was then, or choose another --out.")
    write_json(path, now)


def _psfs_sha256(psfs):
    if psfs is None:
        return None
    stamps = np.ascontiguousarray(psfs, np.float32)
    return hashlib.sha256(repr(stamps.shape).encode() + stamps.tobytes()).hexdigest()


def save_weights(model, config, step, out):
    """weights.json and weights.weights.h5 in the run's folder, which `load_pretrained` and `--initial` take."""
    save_trained(model, out / "weights", {"training": json.loads(to_json(config)), "steps": step})
