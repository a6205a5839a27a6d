"""Training runs of no size, for tests and for the processes that they start."""

import contextlib
import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from registry import observation

from rim_tf.config import SMALL, MockConfig
from rim_tf.models.pretrained import build_model
from training import on_tensorflow, runs, streams
from training.experiments import EXPERIMENTS
from training.strategies import strategy_of

TINY = dataclasses.replace(
    EXPERIMENTS["small"],
    model=dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)),
    mocks=MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2),
    schedule="exponential",  # which does not depend on the length of the run
    batch_size=4,
    micro_batches=2,
    n_steps=36,
    steps_per_epoch=12,
    n_procedural=5,
)
SHORT = dataclasses.replace(TINY, n_steps=6, steps_per_epoch=2)


@contextlib.contextmanager
def few_held_out():
    """A few galaxies to validate on where there are none of the user's; a hundred take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rim_tf.data.sources.find.N_PROCEDURAL", {"train": 5, "validation": 5})
        patch.setattr("training.runs.VALIDATION_BATCHES", 8)
        patch.setattr("training.runs.VALIDATION_BATCH_SIZE", 2)  # of a micro-batch, so that one trace will do
        yield


@functools.cache
def _lenses(pixels, n=64):
    """Inputs and sources of so many lenses, whose images know nothing of the sources."""
    inputs, (y, x) = (
        observation(batch=n, rows=pixels, columns=pixels),
        np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j],
    )
    width = np.random.default_rng(0).uniform(0.1, 0.5, (n, 1, 1))
    return inputs | {"mask": inputs["mask"].astype("uint8")}, np.exp(-(x**2 + y**2) / width**2).astype("float32")


def plain_stream(seed, batch_size, stamps, config, first_batch=0, psfs=None, shard=0, n_shards=1, target="source"):
    """Stands in for `streaming.stream` where it does not matter what is learnt: tracing the draws takes seconds."""
    lenses, first = tf.nest.map_structure(tf.constant, _lenses(config.image_pixels)), int(seed[0]) % 64

    @tf.autograph.experimental.do_not_convert
    def batch(number):
        rows = (first + batch_size * number + tf.range(batch_size, dtype=tf.int64)) % 64
        return tf.nest.map_structure(lambda each: tf.gather(each, rows), lenses)

    return tf.data.Dataset.counter(start=first_batch + shard, step=n_shards).map(batch, num_parallel_calls=1)


# As it is before a test puts another in its place.
LEARNER = on_tensorflow._Learner


def _in_length_alone(config):
    """The configuration, with what differs among runs that can share a learner made the same."""
    return dataclasses.replace(config, n_steps=SHORT.n_steps, steps_per_epoch=SHORT.steps_per_epoch, most_skipped=9)


@functools.cache
def _learner(config):
    """The learner of a configuration, with all of its variables and notes as they are at the beginning."""
    learner = LEARNER(config, on_tensorflow.Team(strategy_of("one-device")))
    first = {name: [np.array(v.value) for v in group] for name, group in learner._groups().items()}
    return learner, first, json.dumps(learner.notes)


@contextlib.contextmanager
def traced_once(config):
    """Runs that differ from this configuration in their length alone share one learner, as it was when it was made.

    Tracing one takes longer than training it. They share its network too, so whoever compares two runs keeps a copy
    of the first (`copied`). What they are validated on is drawn once, and what the network takes is traced once.

    Args:
      config: `TrainingConfig` with a schedule that does not depend on the length of the run, on TensorFlow.

    Yields:
      What makes a learner of any run's own.
    """
    draw, held_out, preparation, traced = streams.held_out_stream, {}, runs.preparation, {}

    def learner(given, team):
        if _in_length_alone(given) != _in_length_alone(config):
            return LEARNER(given, team)
        shared, first, notes = _learner(_in_length_alone(config))
        for name, group in shared._groups().items():
            for variable, value in zip(group, first[name], strict=True):
                variable.assign(value)
        shared.notes = json.loads(notes)
        return shared

    def drawn(given, galaxies=None, psfs=None):
        if galaxies is not None or psfs is not None or _in_length_alone(given) != _in_length_alone(config):
            return draw(given, galaxies, psfs)
        if not held_out:
            held_out["batches"] = list(draw(given))
        return held_out["batches"]

    def prepared(given):
        key = given.model, given.mocks
        if key not in traced:
            traced[key] = tf.function(preparation(given), autograph=False)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_tensorflow, "_Learner", learner)
        patch.setattr(runs, "preparation", prepared)
        patch.setattr(streams, "held_out_stream", drawn)
        yield LEARNER


def copied(model):
    """A network like this one, that no other run trains further."""
    copy = build_model(model.config)
    copy.set_weights(model.get_weights())
    return copy
