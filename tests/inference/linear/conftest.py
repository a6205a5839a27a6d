"""The complete inversion of a 24 x 24 source after Suyu et al. (2006), made by others."""

import numpy as np
import pytest

from rim_tf.inference.linear.system import FourierBlur, LinearSystem
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation


@pytest.fixture(scope="session")
def reference(shared):
    return dict(np.load(shared / "refs/inversion_24.npz"))


@pytest.fixture(scope="session")
def reference_observation(reference):
    """As an observation and a lens, in the float32 of observations."""
    observation = Observation(reference["image"], float(reference["sigma"]), reference["kernel"], None, 0.12)
    return observation, LensParameters(*reference["params"])


@pytest.fixture(scope="session")
def reference_system(reference, reference_observation):
    """The reference's problem in its own float64 numbers, but for L, which is ours."""
    lensing = LinearSystem.from_observation(*reference_observation, (24, 24), 3.0 / 24).lensing
    weight = np.full((64, 64), reference["sigma"] ** -2)
    return LinearSystem(lensing, FourierBlur(reference["kernel"], (64, 64)), reference["image"], weight, (24, 24))
