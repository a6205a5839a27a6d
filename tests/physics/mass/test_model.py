"""Sums of profiles, the names of their columns, and the way of their parameters to the real line."""

import numpy as np
import pytest
from gradients import array, grad, tensor
from keras import ops
from numpy.testing import assert_allclose
from registry import PROFILES

from rim_tf.errors import InputError
from rim_tf.lens import lens_of
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

MODELS = {name: MassModel((name,)) for name in PROFILES if name != "shear"}
MODELS |= {"sie and shear": SIE_SHEAR, "two deflectors": MassModel(("power_law", "sie", "shear"))}
every_model = pytest.mark.parametrize("mass", MODELS.values(), ids=MODELS)


def lenses(mass, rng, n):
    """Lenses all over the domain, nearly to its edges, the first of them round and without shear."""
    columns = []
    for column, _ in mass.columns:
        if len(column.names) == 2:
            radius, angle = 0.99 * column.radius * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
            radius[0] = 0
            columns += [radius * np.cos(angle), radius * np.sin(angle)]
        elif column.name == "theta_E":
            columns.append(np.exp(rng.normal(size=n)))
        elif column.name == "slope":
            columns.append(rng.uniform(1.11, 2.89, n))
        else:
            columns.append(rng.normal(size=n))
    return np.stack(columns, axis=1)


def test_columns_are_named_and_repeated_names_numbered():
    assert SIE_SHEAR.names == ("theta_E", "e1", "e2", "x_lens", "y_lens", "gamma1", "gamma2")
    names = MODELS["two deflectors"].names
    assert names[:3] == ("theta_E_1", "slope", "e1_1") and names[6] == "theta_E_2" and names[-1] == "gamma2"
    assert len(set(names)) == MODELS["two deflectors"].size == 13


def test_a_sum_deflects_as_its_parts_together(rng):
    x, y = (tensor(a) for a in rng.normal(size=(2, 1, 30)))
    parts = [("power_law", "shallow"), ("sie", "flat"), ("shear", "general")]
    lens = np.array([sum((PROFILES[name][which] for name, which in parts), [])])
    mass = MODELS["two deflectors"]
    for function in ("deflection", "convergence", "shear", "potential"):
        whole = array(ops.stack(getattr(mass, function)(x, y, tensor(lens))))
        each = [
            array(ops.stack(getattr(MassModel((name,)), function)(x, y, tensor([PROFILES[name][which]]))))
            for name, which in parts
        ]
        assert_allclose(whole, sum(each), rtol=1e-12, atol=1e-13, err_msg=function)


def test_the_isothermal_power_law_is_the_sie(rng):
    x, y = (tensor(a) for a in rng.normal(size=(2, 1, 200)))
    theta_E, slope, *rest = PROFILES["power_law"]["isothermal"]
    assert slope == 2
    for function in ("deflection", "convergence", "shear", "potential"):
        power_law = getattr(MODELS["power_law"], function)(x, y, tensor([[theta_E, slope, *rest]]))
        sie = getattr(MODELS["sie"], function)(x, y, tensor([[theta_E, *rest]]))
        assert_allclose(array(ops.stack(power_law)), array(ops.stack(sie)), rtol=1e-11, atol=1e-12)


@every_model
def test_the_way_to_the_real_line_and_back(mass, rng):
    lens = lenses(mass, rng, 100)
    back = array(mass.from_real(mass.to_real(tensor(lens))))
    assert_allclose(back, lens, rtol=1e-10, atol=1e-12)


@every_model
@pytest.mark.parametrize("size", [0.1, 3.0, 50.0])
def test_every_point_of_the_real_line_is_a_lens(mass, size, rng):
    u = size * rng.normal(size=(50, mass.size)).astype(np.float32)
    for i, name in enumerate(mass.names):
        if name.startswith("theta_E"):
            u[:, i] = np.clip(u[:, i], -80, 80)  # theta_E itself has a largest float
        if name.startswith("slope"):
            u[:, i] = np.clip(u[:, i], -10, 10)  # beyond, float32 rounds to the bound
    for lens in array(mass.from_real(tensor(u, "float32"))):
        lens_of(mass, lens)  # raises outside the domain


@every_model
def test_the_slope_of_the_map_is_its_determinant(mass, rng):
    u = 0.7 * rng.normal(size=(4, mass.size))
    rows = [
        array(grad(lambda u, i=i: ops.sum(mass.from_real(u)[:, i]))(tensor(u))) for i in range(mass.size)
    ]  # [column, batch, column]
    determinants = np.linalg.slogdet(np.stack(rows, axis=1))[1]
    assert_allclose(array(mass.log_slope(tensor(u))), determinants, rtol=1e-9, atol=1e-10)


def test_models_are_equal_by_their_profiles_and_unknown_ones_refused():
    assert MassModel(["sie", "shear"]) == SIE_SHEAR and hash(MassModel(("sie", "shear"))) == hash(SIE_SHEAR)
    with pytest.raises(InputError, match="no mass profile 'nfw'; known are power_law, shear, sie"):
        MassModel(("nfw",))
    with pytest.raises(InputError, match="at least one"):
        MassModel(())
