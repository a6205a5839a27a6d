"""A training run on JAX: lenses are drawn on the device itself, many steps to a call, so an accelerator never waits.

The same configuration, network, loss, optimiser and distribution of lenses as on TensorFlow, of other random numbers.
Batches are spread over the devices with `keras.distribution`. A step whose loss or gradient is no finite number changes
nothing and is counted.
"""

import contextlib
import time

import jax
import keras
import numpy as np
from jax import numpy as jnp

from rim_tf.data import mocks, seeds
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.errors import InputError
from rim_tf.files import locked, save_arrays
from training import checkpoints, runs
from training.monitor import Monitor, describe, picture_of
from training.tasks import TASKS

STRATEGIES = ("one-device", "mirrored")


def train(
    config,
    out,
    galaxies=None,
    lenses=None,
    verbose="auto",
    psfs=None,
    strategy="one-device",
    command=None,
    seconds=None,
):
    """Train until `config.n_steps`, from the newest checkpoint in `out` if there is one; returns the model.

    Args:
      config: `TrainingConfig`.
      out: the run's folder.
      galaxies: as in `runs.galaxies_in_memory`; the held-out ones are of the split "validation".
      lenses: must be None: prepared sets are read by TensorFlow.
      verbose: as in `monitor.Monitor`.
      psfs: as in `rim_tf.data.observing.observe`.
      strategy: one of STRATEGIES: the first device that JAX has, or all; a run may go on with the other one.
      command: what to write into the folder as the way to go on.
      seconds: end after the epoch in which these have passed since the call, however many steps that were, and let the
        learning rate fall with the time, from its start in each call; for machines that are there for so long. None for
        no limit.

    Raises:
      InputError: among others, `seconds` for a schedule that knows no end.
      runs.StoppedError: SIGTERM came; the run has been saved after the epoch.

    Leaves in `out` what README.md there says.
    """
    started = time.monotonic()
    if strategy not in STRATEGIES:
        raise InputError(f"The strategy is {strategy!r}; on JAX it must be one of {', '.join(STRATEGIES)}.")
    if config.only:
        raise InputError(f"--only {config.only[0]} is of training on TensorFlow; set KERAS_BACKEND=tensorflow.")
    if lenses is not None or find_large_set(galaxies) is not None:
        raise InputError("Prepared sets are read by TensorFlow; train on JAX without --lenses, on galaxies in memory.")
    if seconds is not None and config.schedule != "cosine":
        raise InputError(f"schedule is {config.schedule!r}; --seconds needs 'cosine', which ends when the time does.")
    out = runs.opened(out, config, psfs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(out))
        run = _Run(config, galaxies, psfs, strategy)
        state, step = run.restored(out)
        facts = {"strategy": strategy, "devices": list(map(str, run.devices)), "weights": run.model.count_params()}
        described = (
            command or f"training.on_jax.train(CONFIG, {str(out)!r}, ...)  # in Python, CONFIG as in config.json"
        )
        describe(out, config, described, checkpoints.KEPT, **facts)
        monitor = stack.enter_context(Monitor(out, config, step, verbose))
        stop = stack.enter_context(runs.asked_to_stop())
        if step and verbose:
            print(f"Going on from {checkpoints.path_of(out, step)}.", flush=True)
        while step < config.n_steps:
            begun = time.monotonic()
            rate = None if seconds is None else run.rate_at((begun - started) / seconds)
            state, log, tallies = run.epoch(state, step, rate)
            for part, tally in tallies.items():
                frames, batch_size = run.frames[part]
                mocks.check_tally(batch_size // config.micro_batches, np.asarray(tally), frames)
            step += config.steps_per_epoch
            log = {name: float(value) for name, value in log.items()}
            if (in_a_row := int(state["counts"][1])) >= config.most_skipped:
                kept = out / f"not-finite-step-{step}.npz"
                save_arrays(kept, run.last_batch(step))
                raise InputError(
                    f"Loss or gradient have been no finite number for {in_a_row} steps; the last batch is kept as "
                    f"{kept}. Lower the learning rate in another --out, or go on from the last checkpoint."
                )
            measured, tally, picture = run.validate(state)
            mocks.check_tally(runs.VALIDATION_BATCH_SIZE, np.asarray(tally), config.mocks)
            log |= {name: float(value) for name, value in measured.items()}
            log |= {"learning_rate": float(state["optimizer"][run.rate]), "skipped": int(state["counts"][0])}
            elapsed = time.monotonic() - begun
            monitor.stepped(config.steps_per_epoch)
            figures = log | {"lenses_per_second": run.lenses_in_epoch(step) / elapsed, "seconds": elapsed}
            monitor.epoch(step, figures, picture)
            checkpoints.save(out, step, state, {"step": step, "val_loss": log["val_loss"]})
            if seconds is not None and time.monotonic() - started > seconds:
                break
            if stop() and step < config.n_steps:
                raise runs.StoppedError(
                    f"Stopped after step {step} of {config.n_steps}; the same command goes on from there."
                )
        judged = run.give(state)
        runs.save_weights(judged, config, step, out)
    return judged


class _Run:
    """What is compiled once for a run.

    A state is a dictionary of lists of arrays: weights, others (the random state of dropout), optimizer, average, and
    counts, how many steps were skipped, and how many of these are the last ones.
    """

    def __init__(self, config, galaxies, psfs, strategy=STRATEGIES[0]):
        self.devices = jax.devices() if strategy == "mirrored" else jax.devices()[:1]
        sizes = [size // config.micro_batches for _, size in runs.frames_of(config)]
        for size in (*sizes, runs.VALIDATION_BATCH_SIZE):
            if size % len(self.devices):
                raise InputError(
                    f"{size} lenses are drawn at once, which {len(self.devices)} devices cannot share out evenly; give "
                    "--batch-size and --micro-batches such that each micro-batch is a multiple of the devices."
                )
        self._parallel = keras.distribution.DataParallel(devices=self.devices, auto_shard_dataset=False)
        with self._parallel.scope():
            self.model = model = runs.initial_model(config)
            self.optimizer = runs.built_optimizer(config, model)
        self.config, self.psfs = config, psfs
        self.target, self.prepare = runs.target_of(config), runs.preparation(config)
        paths = [variable.path.split("/")[-1] for variable in self.optimizer.variables]
        self.rate, self.iterations = paths.index("learning_rate"), paths.index("iteration")
        # Only a network with dropout is another one in training.
        self.in_training = {"training": True} if runs.takes(model, "training") else {}
        task = TASKS[type(config.model)]
        self.loss, self.metric = task.loss(config.loss, config.model), task.metric
        self.picture, self.truth = task.picture, task.truth
        found = runs.galaxies_in_memory(config, galaxies)
        if found is None:
            raise InputError(runs.NO_SOURCES)
        self.frames = runs.frames_of(config)
        self.stamps = jnp.asarray(found.images), jnp.asarray(found.half_light_radius, jnp.float32)
        held_out = find_galaxies(galaxies, "validation", "validation")
        self.held_out = jnp.asarray(held_out.images), jnp.asarray(held_out.half_light_radius, jnp.float32)
        if config.steps_per_epoch % len(self._parts(0)):
            raise InputError(
                f"steps_per_epoch is {config.steps_per_epoch}; on JAX it must be a multiple of {len(self._parts(0))}, "
                "the sizes of frames that take turns."
            )
        self._epoch = jax.jit(self._steps, donate_argnums=0, static_argnums=4)
        self._validate = jax.jit(self._measured)

    def first_state(self):
        # Copies, as each epoch takes the memory of the state that it is given.
        state = {name: [np.array(v.value) for v in some] for name, some in self._variables().items()}
        average = [np.array(w) for w in state["weights"]] if self.config.average_decay else []
        return self._placed(state | {"average": average, "counts": [np.int32(0), np.int32(0)]})

    def _placed(self, state):
        """Arrays where an epoch leaves them, on all devices alike; it would be compiled again for any other place."""
        mesh = self._parallel.device_mesh.backend_mesh
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(lambda array: jax.device_put(array, everywhere), state)

    def _variables(self):
        model = self.model
        trained = {"weights": model.trainable_variables, "others": model.non_trainable_variables}
        return trained | {"optimizer": self.optimizer.variables}

    def restored(self, out):
        """The state of the newest checkpoint of a run and its step, or those at the beginning."""
        state, found = self.first_state(), checkpoints.all_of(out)
        if not found:
            return state, 0
        stored, notes = checkpoints.load(found[-1], state)
        return self._placed(stored), notes["step"]

    def give(self, state):
        """The model, with the weights of a state that are to be saved: averaged ones, where there are any."""
        for variable, value in zip(self.model.trainable_variables, self._judged(state), strict=True):
            variable.assign(value)
        return self.model

    def _judged(self, state):
        return state["average"] or state["weights"]

    def _parts(self, step):
        """The sizes of frames that take turns in the epoch that begins with that step, as numbers in `frames`."""
        if self.config.growing_frames:
            return (runs.part_at(self.config, step),)
        return tuple(range(len(self.frames)))

    def lenses_in_epoch(self, end):
        parts = self._parts(end - self.config.steps_per_epoch)
        return sum(self.frames[part][1] for part in parts) / len(parts) * self.config.steps_per_epoch

    def epoch(self, state, step, rate=None):
        """State after another epoch, its log, and for frames of each size the tally of the batch that was hardest.

        Args:
          state: before it.
          step: how many steps have been done.
          rate: learning rate in place of the schedule's.
        """
        rate, parts = jnp.float32(np.nan if rate is None else rate), self._parts(step)
        turn = runs.steps_before(self.config, step, parts[0])
        return self._epoch(state, jnp.int32([step, turn]), self.stamps, rate, parts)

    def rate_at(self, share):
        """The learning rate when that share of the time has passed, as a schedule of a thousand steps has it."""
        return runs.learning_rate(self.config, 1000)(1000 * min(share, 1.0))

    def validate(self, state):
        """Figures on lenses that no network is trained on, the tally of the hardest batch, and a picture or None."""
        log, tally, shown = self._validate(self._judged(state), state["others"], self.held_out)
        return log, tally, None if self.picture is None else picture_of(*map(np.asarray, shown))

    def last_batch(self, end):
        """The micro-batches of the step before `end`, arrays by name."""
        part, arrays = runs.part_at(self.config, end - 1), {}
        turn = runs.steps_before(self.config, end - 1, part)
        for i in range(self.config.micro_batches):
            inputs, target, _ = self._drawn(part, turn * self.config.micro_batches + i, self.stamps)
            arrays |= {f"{i}_{name}": np.asarray(value) for name, value in runs.named(inputs, target).items()}
        return arrays

    def _drawn(self, part, number, stamps):
        """A micro-batch of the run and the tally of its draws."""
        frames, batch_size = self.frames[part]
        seed = seeds.seed_pair("training", self.config.seed, part)
        given = batch_size // self.config.micro_batches, mocks.GalaxyStamps(*stamps), frames, self.psfs, self.target
        return mocks.simulated(seed, number, *given)

    def _spread(self, batch):
        """Tensors whose first axis is shared out over the devices."""
        return jax.tree.map(
            lambda x: keras.distribution.distribute_tensor(x, self._parallel.get_data_layout(x.shape)), batch
        )

    def _steps(self, state, where, stamps, rate, parts):
        schedule, first = runs.learning_rate(self.config), where

        def one_turn(state, turn):
            logs, tallies = [], []
            for i, part in enumerate(parts):
                step = first[0] + turn * len(parts) + i
                now = jnp.where(jnp.isnan(rate), schedule(step), rate)
                state, log, tally = self._step(state, part, first[1] + turn, stamps, now)
                logs.append(log)
                tallies.append(tally)
            return state, (logs, tallies)

        state, (logs, tallies) = jax.lax.scan(one_turn, state, jnp.arange(self.config.steps_per_epoch // len(parts)))
        hardest = {part: tally[jnp.argmin(tally[:, 0])] for part, tally in zip(parts, tallies, strict=True)}
        good = jnp.stack([each["good"] for each in logs])
        log = {}
        for name in ("loss", self.metric.__name__, "gradient_norm"):
            values = jnp.stack([each[name] for each in logs])
            log[name] = jnp.sum(jnp.where(good > 0, values, 0.0)) / jnp.maximum(jnp.sum(good), 1.0)
        return state, log, hardest

    def _step(self, state, part, turn, stamps, rate):
        """State after a step, what is to be logged, and the tally of its hardest micro-batch."""
        n = self.config.micro_batches

        def micro_batch(sums, i):
            others, *sums = sums
            inputs, target, tally = self._drawn(part, turn * n + i, stamps)
            inputs, target = self._spread((self.prepare(inputs, target), target))
            grad = jax.value_and_grad(self._loss, has_aux=True)
            (loss, (others, metric)), gradient = grad(state["weights"], others, inputs, target)
            return (others, *jax.tree.map(jnp.add, sums, [gradient, loss, metric])), tally

        nothing = state["others"], list(map(jnp.zeros_like, state["weights"])), jnp.float32(0), jnp.float32(0)
        (others, *sums), tallies = jax.lax.scan(micro_batch, nothing, jnp.arange(n))
        gradient, loss, metric = jax.tree.map(lambda x: x / n, sums)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(each)) for each in gradient))
        gradient = [each * (self.config.clip_norm / jnp.maximum(norm, self.config.clip_norm)) for each in gradient]
        optimizer = [rate if i == self.rate else value for i, value in enumerate(state["optimizer"])]
        weights, optimizer = self.optimizer.stateless_apply(optimizer, gradient, state["weights"])
        decay = runs.decay_at(self.config, optimizer[self.iterations])
        average = [
            decay * a + (1.0 - decay) * w for a, w in zip(state["average"], weights, strict=bool(state["average"]))
        ]
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(metric)
        skipped, in_a_row = state["counts"]
        after = {"weights": weights, "others": others, "optimizer": optimizer, "average": average}
        before = {name: state[name] for name in after}
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
        state["counts"] = [skipped + 1 - good, jnp.where(good, 0, in_a_row + 1)]
        log = {"loss": loss, self.metric.__name__: metric, "gradient_norm": norm, "good": 1.0 * good}
        return state, log, tallies[jnp.argmin(tallies[:, 0])]

    def _loss(self, weights, others, inputs, target):
        output, others = self.model.stateless_call(weights, others, inputs, **self.in_training)
        return self.loss(target, output), (others, self.metric(target, output))

    def _measured(self, weights, others, stamps):
        seed, config = seeds.seed_pair("validation", 0), self.config.mocks

        def batch(index):
            given = runs.VALIDATION_BATCH_SIZE, mocks.GalaxyStamps(*stamps), config, self.psfs, self.target
            inputs, target, tally = mocks.simulated(seed, index, *given)
            image = inputs["image"]
            inputs, target = self._spread((self.prepare(inputs, target), target))
            output, _ = self.model.stateless_call(weights, others, inputs)
            log = {"val_loss": self.loss(target, output), f"val_{self.metric.__name__}": self.metric(target, output)}
            found = self.truth(target) if self.picture is None else self.picture(output)
            return log, tally, (image, found, self.truth(target))

        log, tallies, shown = jax.lax.map(batch, jnp.arange(runs.VALIDATION_BATCHES))
        means = {name: jnp.mean(values) for name, values in log.items()}
        return means, tallies[jnp.argmin(tallies[:, 0])], jax.tree.map(lambda x: x[0], shown)
