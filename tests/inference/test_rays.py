"""Tracing rays is half of the physics' cost: it is done once for each lens, once in each step of a fit."""

import dataclasses

import numpy as np
import pytest

from rim_tf.config import SMALL
from rim_tf.export import _Networks, _traced
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.optimise import optimise_lens
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import LensParameters
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

LENS = LensParameters(0.4, 0.1)
pytestmark = pytest.mark.filterwarnings("ignore::rim_tf.errors.InputWarning")


@pytest.fixture
def traced(monkeypatch):
    """How many batches of rays were traced so far, a list of that length."""
    calls, trace = [], MassModel.ray_trace

    def counting(self, *arguments):
        calls.append(self)
        return trace(self, *arguments)

    monkeypatch.setattr(MassModel, "ray_trace", counting)
    return calls


@pytest.fixture(scope="module")
def model():
    return RIM(dataclasses.replace(SMALL, n_steps=3, features=2, hidden=(2, 2)))


@pytest.fixture
def observation(rng):
    return Observation(rng.normal(size=(12, 12)), 1.0, 0.05, pixel_scale=0.1)


def test_reconstruct_traces_once_for_each_batch(traced, model, observation):
    reconstruct([observation] * 3, [LENS] * 3, model)
    assert len(traced) == 1
    wider = dataclasses.replace(observation, psf=np.ones((3, 3)) / 9)
    reconstruct([observation, wider], [LENS] * 2, model)
    assert len(traced) == 3


def test_invert_traces_once(traced, observation):
    invert(observation, LENS)
    assert len(traced) == 1


def test_a_step_of_the_optimiser_traces_once(traced, model, observation):
    optimise_lens(observation, LENS, model, n_steps=2, n_angles=1)
    # Once where the step is compiled, which is then run again and again, and once for the source at the end.
    assert len(traced) == 2


def test_an_exported_call_traces_once(traced, model):
    _traced("serving_default", _Networks(model, None, SIE_SHEAR), {}).get_concrete_function()
    assert len(traced) == 1
