"""A training run on JAX: lenses are drawn on the device itself, many steps to a call, so an accelerator never waits.

The same configuration, network, loss, optimiser and distribution of lenses as on TensorFlow, of other random numbers.
A step whose loss or gradient is no number changes nothing and is counted.
"""

import csv
import inspect
import time

import jax
import numpy as np
from jax import numpy as jnp

from rim_tf.data import mocks, seeds
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, load_arrays, save_arrays
from training import runs
from training.tasks import TASKS

# Steps in a row without a finite loss after which a run is given up.
_MOST_SKIPPED = 100


def train(config, out, galaxies=None, lenses=None, verbose="auto", psfs=None, seconds=None):
    """Train until `config.n_steps`, from the checkpoint in `out` if there is one; returns the model.

    Args:
      config: `TrainingConfig`.
      out: the run's folder.
      galaxies: as in `runs.galaxies_in_memory`; the held-out ones are of the split "validation".
      lenses: must be None: prepared sets are read by TensorFlow.
      verbose: 0 for no word; else a line after each epoch.
      psfs: as in `rim_tf.data.observing.observe`.
      seconds: end after the epoch in which these have passed since the call, however many steps that were, and let the
        learning rate fall with the time, from its start in each call; for machines that are there for so long. None for
        no limit.

    Raises:
      InputError: among others, `seconds` for a schedule that knows no end.

    Leaves in `out`: config.json, psfs.json, checkpoint.npz, log.csv and, at the end, weights.json and
    weights.weights.h5.
    """
    started = time.monotonic()
    if lenses is not None or find_large_set(galaxies) is not None:
        raise InputError("Prepared sets are read by TensorFlow; train on JAX without --lenses, on galaxies in memory.")
    if seconds is not None and config.schedule != "cosine":
        raise InputError(f"schedule is {config.schedule!r}; --seconds needs 'cosine', which ends when the time does.")
    out = runs.opened(out, config, psfs)
    if (out / "checkpoints").exists():
        raise InputError(f"{out} holds a run of TensorFlow; choose another --out, or train without KERAS_BACKEND=jax.")
    run = _Run(config, galaxies, psfs)
    state, step = run.first_state(), 0
    checkpoint = out / "checkpoint.npz"
    if checkpoint.exists():
        state, step = _restored(checkpoint, state)
        print(f"Going on from {checkpoint}, step {step}.")
    skipped = 0
    while step < config.n_steps:
        begun = time.monotonic()
        rate = None if seconds is None else run.rate_at((begun - started) / seconds)
        state, log, tallies = run.epoch(state, step, rate)
        for (frames, batch_size), tally in zip(run.frames, tallies, strict=True):
            mocks.check_tally(batch_size, np.asarray(tally), frames)
        log = {name: float(value) for name, value in log.items()}
        step += config.steps_per_epoch
        skipped = skipped + config.steps_per_epoch if log["skipped"] == config.steps_per_epoch else 0
        if skipped >= _MOST_SKIPPED:
            raise InputError(
                f"The loss of {out} has been no number for {skipped} steps; lower the learning rate, and go on from "
                "the checkpoint."
            )
        measured, tally = run.validate(state)
        mocks.check_tally(runs.VALIDATION_BATCH_SIZE, np.asarray(tally), config.mocks)
        log |= {name: float(value) for name, value in measured.items()}
        log["learning_rate"] = float(state[2][run.rate])
        log["lenses_per_second"] = run.lenses_per_step * config.steps_per_epoch / (time.monotonic() - begun)
        _save(checkpoint, state, step)
        _log(out / "log.csv", {"step": step} | log)
        if verbose:
            print(f"step {step}/{config.n_steps} " + " ".join(f"{n} {v:.5g}" for n, v in log.items()), flush=True)
        if seconds is not None and time.monotonic() - started > seconds:
            break
    run.give(state)
    runs.save_weights(run.model, config, step, out)
    return run.model


class _Run:
    """What is compiled once for a run.

    A state is (trainable variables, the others, those of the optimiser).
    """

    def __init__(self, config, galaxies, psfs):
        self.model = model = runs.compiled_model(config, config.learning_rate)
        self.config, self.psfs = config, psfs
        self.target, self.prepare = runs.target_of(config), runs.preparation(config)
        (self.rate,) = (i for i, v in enumerate(model.optimizer.variables) if v.path.endswith("learning_rate"))
        # Only a network with dropout is another one in training.
        self.in_training = {"training": True} if "training" in inspect.signature(model.call).parameters else {}
        self.loss, self.metric = model.loss, TASKS[type(config.model)].metric
        found = runs.galaxies_in_memory(config, galaxies)
        if found is None:
            raise InputError(runs.NO_SOURCES)
        self.frames = runs.frames_of(config)
        self.lenses_per_step = sum(size for _, size in self.frames) / len(self.frames)
        self.stamps = jnp.asarray(found.images), jnp.asarray(found.half_light_radius, jnp.float32)
        held_out = find_galaxies(galaxies, "validation", "validation")
        self.held_out = jnp.asarray(held_out.images), jnp.asarray(held_out.half_light_radius, jnp.float32)
        if config.steps_per_epoch % len(self.frames):
            raise InputError(
                f"steps_per_epoch is {config.steps_per_epoch}; on JAX it must be a multiple of {len(self.frames)}, the "
                "sizes of frames that take turns."
            )
        self._epoch = jax.jit(self._steps, donate_argnums=0)
        self._validate = jax.jit(self._measured)

    def first_state(self):
        # Copies, as each epoch takes the memory of the state that it is given.
        return [[jnp.array(v.value) for v in some] for some in self._variables()]

    def _variables(self):
        return self.model.trainable_variables, self.model.non_trainable_variables, self.model.optimizer.variables

    def give(self, state):
        """Weights and optimiser of a state to the model."""
        for some, values in zip(self._variables(), state, strict=True):
            for variable, value in zip(some, values, strict=True):
                variable.assign(value)

    def epoch(self, state, step, rate=None):
        """State after another epoch, its log, and for frames of each size the tally of the batch that was hardest.

        Args:
          state: before it.
          step: how many steps have been done.
          rate: learning rate in place of the schedule's.
        """
        rate = jnp.float32(np.nan if rate is None else rate)
        return self._epoch(state, jnp.int32(step // len(self.frames)), self.stamps, rate)

    def rate_at(self, share):
        """The learning rate when that share of the time has passed, as a schedule of a thousand steps has it."""
        return runs.learning_rate(self.config, 1000)(1000 * min(share, 1.0))

    def validate(self, state):
        return self._validate(state, self.held_out)

    def _steps(self, state, turn, stamps, rate):
        schedule = runs.learning_rate(self.config)

        def one_turn(state, turn):
            logs, tallies = [], []
            for part, (frames, batch_size) in enumerate(self.frames):
                seed = seeds.seed_pair("training", self.config.seed, part)
                given = batch_size, mocks.GalaxyStamps(*stamps), frames, self.psfs, self.target
                inputs, target, tally = mocks.simulated(seed, turn, *given)
                now = jnp.where(jnp.isnan(rate), schedule(turn * len(self.frames) + part), rate)
                state, log = self._step(state, self.prepare(inputs), target, now)
                logs.append(log)
                tallies.append(tally)
            return state, (logs, tallies)

        turns = turn + jnp.arange(self.config.steps_per_epoch // len(self.frames))
        state, (logs, tallies) = jax.lax.scan(one_turn, state, turns)
        tallies = [tally[jnp.argmin(tally[:, 0])] for tally in tallies]
        taken = 1 - jnp.stack([each["skipped"] for each in logs])
        n_taken, log = jnp.maximum(jnp.sum(taken), 1.0), {"skipped": jnp.sum(1 - taken)}
        for name in ("loss", self.metric.__name__):
            values = jnp.stack([each[name] for each in logs])
            log[name] = jnp.sum(jnp.where(taken > 0, values, 0.0)) / n_taken
        return state, log, tallies

    def _step(self, state, inputs, target, rate):
        trainable, others, of_optimizer = state
        of_optimizer = [rate if i == self.rate else value for i, value in enumerate(of_optimizer)]
        grad = jax.value_and_grad(self._loss, has_aux=True)
        (loss, (others_after, metric)), gradient = grad(trainable, others, inputs, target)
        trainable_after, of_optimizer_after = self.model.optimizer.stateless_apply(of_optimizer, gradient, trainable)
        size = sum(jnp.sum(jnp.square(each)) for each in gradient)
        good = jnp.isfinite(loss) & jnp.isfinite(size)
        after = [trainable_after, others_after, of_optimizer_after]
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, list(state))
        return state, {"loss": loss, self.metric.__name__: metric, "skipped": 1.0 - good}

    def _loss(self, trainable, others, inputs, target):
        output, others = self.model.stateless_call(trainable, others, inputs, **self.in_training)
        return self.loss(target, output), (others, self.metric(target, output))

    def _measured(self, state, stamps):
        trainable, others, _ = state
        seed, config = seeds.seed_pair("validation", 0), self.config.mocks

        def batch(index):
            given = runs.VALIDATION_BATCH_SIZE, mocks.GalaxyStamps(*stamps), config, self.psfs, self.target
            inputs, target, tally = mocks.simulated(seed, index, *given)
            output, _ = self.model.stateless_call(trainable, others, self.prepare(inputs))
            log = {"val_loss": self.loss(target, output), f"val_{self.metric.__name__}": self.metric(target, output)}
            return log, tally

        log, tallies = jax.lax.map(batch, jnp.arange(runs.VALIDATION_BATCHES))
        return {name: jnp.mean(values) for name, values in log.items()}, tallies[jnp.argmin(tallies[:, 0])]


def _save(path, state, step):
    """A checkpoint: complete or absent."""
    leaves = {f"array_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    save_arrays(path, leaves | {"step": np.asarray(step)})


def _restored(path, state):
    """State and step of a checkpoint; `state` shows which arrays there must be."""
    leaves, structure = jax.tree.flatten(state)
    advice = "remove it to begin anew, or choose another --out"
    try:
        stored = load_arrays(path)
        found = [stored[f"array_{i}"] for i in range(len(leaves))]
        step = int(stored["step"])
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); {advice}.") from error
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(found, leaves, strict=True)):
        raise InputError(f"{path} is of another network than the configuration beside it; {advice}.")
    return jax.tree.unflatten(structure, [jnp.asarray(array) for array in found]), step


def _log(path, values):
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, values)
        if new:
            writer.writeheader()
        writer.writerow(values)
