"""Training runs of no size, for tests and for the processes that they start."""

import contextlib
import dataclasses
import functools
import json

import numpy as np
import pytest

from rim_tf.config import SMALL, MockConfig
from rim_tf.models.pretrained import build_model
from training import on_tensorflow, streams
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
    of the first (`copied`). What they are validated on is drawn once.

    Args:
      config: `TrainingConfig` with a schedule that does not depend on the length of the run, on TensorFlow.

    Yields:
      What makes a learner of any run's own.
    """
    draw, held_out = streams.held_out_stream, {}

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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_tensorflow, "_Learner", learner)
        patch.setattr(streams, "held_out_stream", drawn)
        yield LEARNER


def copied(model):
    """A network like this one, that no other run trains further."""
    copy = build_model(model.config)
    copy.set_weights(model.get_weights())
    return copy
