"""Our physics against caustics', where it is installed (extra `peers`)."""

import numpy as np
import pytest
from gradients import array, tensor
from keras import ops
from numpy.testing import assert_allclose

from rim_tf.physics.mass.model import MassModel

caustics = pytest.importorskip("caustics")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("slope", [1.7, 2.0, 2.3])
def test_deflection_of_a_power_law(slope, rng):
    x, y = rng.uniform(-2.5, 2.5, (2, 300))
    theta_E, q, phi = 1.2, 0.6, 0.7
    cosmology = caustics.FlatLambdaCDM(name="cosmology")
    lens = caustics.EPL(cosmology=cosmology, z_l=0.5, z_s=1.0, x0=0.1, y0=-0.2, q=q, phi=phi, Rein=theta_E, t=slope - 1)
    theirs = [each.numpy() for each in lens.reduced_deflection_angle(*(torch.tensor(each) for each in (x, y)))]
    modulus = (1 - q) / (1 + q)
    parameters = [theta_E, slope, modulus * np.cos(2 * phi), modulus * np.sin(2 * phi), 0.1, -0.2]
    ours = MassModel(("power_law",)).deflection(tensor([x]), tensor([y]), tensor([parameters]))
    assert_allclose(array(ops.stack(ours))[:, 0], theirs, atol=1e-6)
