"""A training run on TensorFlow: one loop for one device, many, or many machines.

Each replica of a tf.distribute strategy adds up the gradients of its own micro-batches; the sums are reduced over all
replicas, then clipped, and then the same step is taken everywhere. Keras' `fit` clips before it reduces, and cannot do
several machines.
"""

import contextlib
import time

import keras
import numpy as np
import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.draws import Draws
from rim_tf.errors import InputError
from rim_tf.files import locked, save_arrays
from rim_tf.models.pretrained import build_model
from training import checkpoints, runs, strategies, streams
from training.monitor import Monitor, describe, picture_of
from training.strategies import LOST, STRATEGIES, Team, strategy_of
from training.tasks import TASKS

__all__ = ["STRATEGIES", "train"]

# What is summed over an epoch, and goes into its line in metrics.jsonl as a mean.
_SUMMED = ("loss", "metric", "gradient_norm")


def train(config, out, galaxies=None, lenses=None, verbose="auto", psfs=None, strategy="one-device", command=None):
    """Train until `config.n_steps`, from the newest checkpoint in `out` if there is one; returns the model.

    Args:
      config: `TrainingConfig`.
      out: the run's folder; where there are several workers, one that all of them see.
      galaxies: as in `streams.training_stream`; the held-out ones are of the split "validation".
      lenses: likewise.
      verbose: as in `monitor.Monitor`.
      psfs: as in `streams.training_stream`.
      strategy: one of `STRATEGIES`; a run may go on with another one.
      command: what to write into the folder as the way to go on.

    Returns:
      The network that is saved: the averaged one, where `config.average_decay` asks for it.

    Raises:
      InputError: among others, the folder cannot be written, or the loss is no finite number for too long.
      runs.StoppedError: SIGTERM came, to any worker; the run has been saved.
      runs.LostError: another worker has gone.

    Leaves in `out` what README.md there says.
    """
    strategy = strategy_of(strategy)
    team = Team(strategy)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_losses_are_told(team))
        if team.is_chief:
            out = runs.opened(out, config, psfs)
            stack.enter_context(locked(out))
        learner = _Learner(config, team)
        step = learner.restore(out)
        if not team.agree(runs.fingerprint(config, psfs, step)):
            raise InputError(
                f"The workers have other options, or do not see the same files in {out}; start all with the same "
                "command, on a disk that they share."
            )
        seen = [streams.training_stream(config, galaxies, lenses, step, each, team.n, psfs) for each in team.local]
        held_out = streams.held_out_stream(config, galaxies, psfs) if team.is_chief else None
        monitor = None
        if team.is_chief:
            devices = strategy.extended.worker_devices
            facts = {"strategy": type(strategy).__name__, "replicas": team.n, "devices": list(devices)}
            facts["weights"] = learner.model.count_params()
            describe(out, config, command or _call(out), checkpoints.KEPT, **facts)
            monitor = stack.enter_context(Monitor(out, config, step, verbose))
            if step and verbose:
                print(f"Going on from {checkpoints.path_of(out, step)}.", flush=True)
        stack.enter_context(streams.data_errors_are_input_errors(galaxies, lenses))
        stop = stack.enter_context(runs.asked_to_stop())
        seen = dict(zip(team.local, map(iter, seen), strict=True))
        _steps(config, out, team, learner, step, seen, held_out, monitor, stop)
        if team.is_chief:
            runs.save_weights(learner.judged, config, config.n_steps, out)
        team.agree(0)  # nobody leaves before the chief has written
    return learner.judged


def _steps(config, out, team, learner, step, seen, held_out, monitor, stop):
    """The loop of `train`."""
    each, n_lenses = config.micro_batches // team.n, [size for _, size in runs.frames_of(config)]
    if held_out is not None:
        held_out = list(held_out)
    begun, waited, lenses = time.monotonic(), 0.0, 0
    while step < config.n_steps:
        asked = time.monotonic()
        rounds = [{replica: next(stream) for replica, stream in seen.items()} for _ in range(each)]
        waited += time.monotonic() - asked
        stopping = learner.step(rounds, step, stop())
        step, lenses = step + 1, lenses + n_lenses[runs.part_at(config, step)]
        if learner.skipped_in_a_row >= config.most_skipped:
            kept = _keep(out, rounds, step)
            raise InputError(
                f"Loss or gradient have been no finite number for {learner.skipped_in_a_row} steps; the last batch is "
                f"kept as {kept}. Lower the learning rate in another --out, or go on from the last checkpoint."
            )
        if monitor is not None:
            monitor.stepped()
        if step % config.steps_per_epoch == 0:
            if monitor is not None:
                figures, picture = learner.epoch_figures(held_out)
                seconds = time.monotonic() - begun
                figures |= {"lenses_per_second": lenses / seconds, "waiting_share": waited / seconds}
                monitor.epoch(step, figures | {"seconds": seconds}, picture)
            learner.forget()
            if monitor is not None:
                learner.save(out, step, val_loss=figures["val_loss"])
            begun, waited, lenses = time.monotonic(), 0.0, 0
        elif monitor is not None and stopping:
            learner.save(out, step)
        if stopping and step < config.n_steps:
            team.agree(0)  # nobody leaves before the chief has written
            raise runs.StoppedError(
                f"Stopped after step {step} of {config.n_steps}; the same command goes on from there."
            )


def _call(out):
    """The call that goes on with a run which no command began."""
    return f"training.on_tensorflow.train(CONFIG, {str(out)!r}, ...)  # in Python, CONFIG as in config.json"


@contextlib.contextmanager
def _losses_are_told(team):
    """What a collective operation raises where another worker has gone, as a `LostError`."""
    try:
        yield
    except LOST as error:
        if not team.is_spread:
            raise
        raise runs.LostError(
            f"Another worker has gone ({type(error).__name__}); start all workers again with the same command, and the "
            "run goes on from its last checkpoint."
        ) from error


def _keep(out, rounds, step):
    """Writes the micro-batches of this worker beside the run, and returns the paths."""
    paths = []
    for replica in rounds[0]:
        arrays = {}
        for i, batches in enumerate(rounds):
            inputs, target = batches[replica]
            arrays |= {f"{i}_{name}": np.asarray(value) for name, value in runs.named(inputs, target).items()}
        paths.append(f"{out}/not-finite-step-{step}-replica-{replica}.npz")
        save_arrays(paths[-1], arrays)
    return ", ".join(paths)


class _NumberedSeeds(keras.random.SeedGenerator):
    """Random numbers of dropout by the number of a micro-batch: the same whichever replica has it, and no state.

    Args:
      seed: of the run.
      number: of the micro-batch.
    """

    def __init__(self, seed, number):
        # Not as its parent does, which makes a variable for its state.
        self._draws = Draws(seeds.seed_pair("dropout", seed), number)

    def next(self, ordered=True):
        return self._draws.next_seed()


class _Learner:
    """The network of a run and what changes it, traced once for the run.

    Args:
      config: `TrainingConfig`.
      team: `Team`.

    Attributes:
      judged: the network that is validated and saved.
      skipped_in_a_row: steps that were no finite number, up to the last one.
      notes: what a checkpoint holds beside arrays, as JSON has it.
    """

    def __init__(self, config, team):
        self.config, self.team, strategy = config, team, team.strategy
        with strategy.scope():
            self.model = runs.initial_model(config)
            self.optimizer = runs.built_optimizer(config, self.model)
        self.averages, self.judged = [], self.model
        if config.average_decay:
            self.judged = build_model(config.model, dtype=config.precision)
            self.judged.set_weights(self.model.get_weights())
            self.averages = self.judged.weights
        task = TASKS[type(config.model)]
        self.loss, self.metric = task.loss(config.loss, config.model), task.metric
        self.picture, self.truth = task.picture, task.truth
        self.rate = runs.learning_rate(config)
        self.notes = {"sums": dict.fromkeys(_SUMMED, 0.0), "taken": 0, "skipped": 0, "skipped_in_a_row": 0}
        # Frames of a second size leave the sides open, so that a third is not traced anew.
        self._gradient = tf.function(
            lambda given: strategy.run(self._gradient_of, (given,)), autograph=False, reduce_retracing=True
        )
        self._added = tf.function(
            lambda *both: strategy.run(lambda *each: tf.nest.map_structure(tf.add, *each), both), autograph=False
        )
        self._reduced = tf.function(lambda sums, stop: strategy.run(self._reduce, (sums, stop)), autograph=False)
        self._applied = tf.function(lambda gradient: strategy.run(self._apply, (gradient,)), autograph=False)
        self._average = tf.function(self._move_averages, autograph=False)
        self._validate = tf.function(self._judge, autograph=False)

    @property
    def skipped_in_a_row(self):
        return self.notes["skipped_in_a_row"]

    # ------------------------------------------------------------------------------------------------- one step

    def step(self, rounds, step, stop):
        """Take one step; returns whether any worker was asked to stop.

        Args:
          rounds: micro-batches, for each round those of the replicas of this worker, {replica: (inputs, target)}.
          step: how many were taken before.
          stop: whether this worker was asked to.
        """
        sums = None
        for i, batches in enumerate(rounds):
            first = step * self.config.micro_batches + i * self.team.n
            given = self.team.spread(lambda replica, b=batches, n=first: (b[replica], tf.constant(n + replica)))
            one = self._gradient(given)
            sums = one if sums is None else self._added(sums, one)
        gradient, figures = self._reduced(sums, tf.constant(float(stop)))
        *found, stopping = map(float, self.team.first(figures).numpy())
        notes = self.notes
        if np.all(np.isfinite(found)):
            self._applied(gradient)
            if self.averages:
                self._average()
            notes["sums"] = {name: notes["sums"][name] + value for name, value in zip(_SUMMED, found, strict=True)}
            notes["taken"], notes["skipped_in_a_row"] = notes["taken"] + 1, 0
        else:
            notes["skipped"], notes["skipped_in_a_row"] = notes["skipped"] + 1, notes["skipped_in_a_row"] + 1
        return stopping > 0

    def _gradient_of(self, given):
        """In a replica: the gradient of a micro-batch, and its loss and metric."""
        (inputs, target), number = given
        training = {}
        if runs.takes(self.model, "training") and getattr(self.config.model, "dropout", 0):
            training = {"training": True, "seeds": _NumberedSeeds(self.config.seed, number)}
        with tf.GradientTape() as tape:
            output = self.model(inputs, **training)
            # Not as `loss(...)`, in which Keras divides by the number of replicas.
            loss = tf.reduce_mean(self.loss.call(target, output))
        variables = [variable.value for variable in self.model.trainable_variables]
        gradient = tape.gradient(loss, variables, unconnected_gradients="zero")
        metric = tf.cast(self.metric(target, output), tf.float32)
        return [tf.convert_to_tensor(each) for each in gradient], tf.stack([tf.cast(loss, tf.float32), metric])

    def _reduce(self, sums, stop):
        """In a replica: the clipped gradient of the whole batch; and loss, metric, norm and how many want to stop."""
        gradient, figures = sums
        *gradient, figures, stop = strategies.summed([*gradient, figures, stop])
        gradient = [each / self.config.micro_batches for each in gradient]
        norm = tf.linalg.global_norm(gradient)
        factor = self.config.clip_norm / tf.maximum(norm, self.config.clip_norm)
        figures = tf.concat([figures / self.config.micro_batches, [norm, stop]], 0)
        return [factor * each for each in gradient], figures

    def _apply(self, gradient):
        """In a replica: the step of the optimiser, with a gradient that all replicas have."""
        tf.distribute.get_replica_context().merge_call(self._update, args=(gradient,))

    def _update(self, strategy, gradient):
        rate = self.rate(self.optimizer.iterations.value)
        for variable, of_it in zip(self.model.trainable_variables, gradient, strict=True):
            strategy.extended.update(
                variable.value,
                lambda of_replica, slope: self.optimizer.update_step(slope, of_replica, rate),
                args=(of_it,),
                group=False,
            )
        self.optimizer.iterations.assign_add(1)

    def _move_averages(self):
        decay = runs.decay_at(self.config, self.optimizer.iterations.value)
        for average, weight in zip(self.averages, self.model.weights, strict=True):
            average.assign(decay * average.value + (1.0 - decay) * tf.convert_to_tensor(weight.value))

    # ------------------------------------------------------------------------------------------------ an epoch

    def epoch_figures(self, held_out):
        """What is on record of an epoch, and a picture of what the network finds, or None.

        Args:
          held_out: batches (inputs, target) that no network is trained on.
        """
        name, n = self.metric.__name__, max(self.notes["taken"], 1)
        means = {key: value / n for key, value in self.notes["sums"].items()}
        figures = {"loss": means["loss"], name: means["metric"], "gradient_norm": means["gradient_norm"]}
        judged = [self._validate(*batch) for batch in held_out]
        for i, key in enumerate(("val_loss", f"val_{name}")):
            figures[key] = float(np.mean([each[i] for each in judged]))
        figures["learning_rate"] = float(self.rate(self.optimizer.iterations.value - 1))
        figures["skipped"] = self.notes["skipped"]
        picture = None
        if self.picture is not None and "image" in (inputs := held_out[0][0]):
            picture = picture_of(
                *(np.asarray(each) for each in (inputs["image"], judged[0][2], self.truth(held_out[0][1])))
            )
        return figures, picture

    def _judge(self, inputs, target):
        output = self.judged(inputs)
        found = self.truth(target) if self.picture is None else self.picture(output)
        return self.loss(target, output), self.metric(target, output), found

    def forget(self):
        """Begin the sums of another epoch."""
        self.notes |= {"sums": dict.fromkeys(_SUMMED, 0.0), "taken": 0}

    # -------------------------------------------------------------------------------------------- checkpoints

    def _groups(self):
        return {"weights": self.model.weights, "optimizer": self.optimizer.variables, "average": self.averages}

    def save(self, out, step, **notes):
        """A checkpoint after that step; `notes` are as in `checkpoints.save`."""
        groups = {name: [np.asarray(v.value) for v in group] for name, group in self._groups().items()}
        checkpoints.save(out, step, groups, self.notes | {"step": step} | notes)

    def restore(self, out):
        """Take up the newest checkpoint of a run, where there is one; returns the step."""
        found = checkpoints.all_of(out)
        if not found:
            return 0
        groups = self._groups()
        shapes = {name: [np.asarray(v.value) for v in group] for name, group in groups.items()}
        stored, notes = checkpoints.load(found[-1], shapes)
        for name, group in groups.items():
            for variable, value in zip(group, stored[name], strict=True):
                variable.assign(value)
        step = notes.pop("step")
        notes.pop("val_loss", None)
        self.notes = notes
        return step
