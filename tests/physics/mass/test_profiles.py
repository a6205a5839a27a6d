"""What holds of every mass profile: calculus ties deflection, convergence, shear and potential together."""

import math

import numpy as np
import pytest
from gradients import array, grad, tensor, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import PROFILES

from rim_tf.errors import InputError
from rim_tf.physics.mass import profile as profile_module
from rim_tf.physics.mass.columns import Real
from rim_tf.physics.mass.model import MassModel
from rim_tf.physics.mass.profile import Profile

every_profile = pytest.mark.parametrize("name", PROFILES)


def case(name):
    """The profile alone as a mass model, and all of its lenses, [batch, columns]."""
    return MassModel((name,)), np.array(list(PROFILES[name].values()))


def functions(mass):
    return {
        "alpha_x": lambda *at: mass.deflection(*at)[0],
        "alpha_y": lambda *at: mass.deflection(*at)[1],
        "kappa": mass.convergence,
        "gamma1": lambda *at: mass.shear(*at)[0],
        "gamma2": lambda *at: mass.shear(*at)[1],
        "psi": mass.potential,
        "det A": mass.inverse_magnification,
    }


def positions(rng, batch=1, n=40):
    """[batch, n], scattered over the field, none closer to a lens than a hundredth of an arcsecond; alike for all."""
    r, phi = np.exp(rng.uniform(np.log(0.05), np.log(3.0), (1, n))), rng.uniform(0, 2 * np.pi, (1, n))
    return [np.repeat(a, batch, axis=0) for a in (r * np.cos(phi) + 0.013, r * np.sin(phi) - 0.027)]


def jacobian(function, x, y, lens):
    """Its slopes in theta_x and theta_y at each position, since no ray sees another."""
    in_x, in_y = grad(lambda x, y: ops.sum(function(x, y, lens)), (0, 1))(x, y)
    return array(in_x), array(in_y)


def compiled(name, function):
    """`whole` but for power laws, whose series as one function take XLA minutes."""
    return function if name == "power_law" else whole(function)


def test_every_profile_has_an_instance():
    assert set(PROFILES) == set(profile_module.PROFILES)


@every_profile
def test_a_batch_allows_the_lenses_that_can_be_made_one_by_one(name):
    mass, lens = case(name)
    rows = [np.array(lens[0])]
    for column in range(mass.size):
        for value in (-2.0, -0.5, 0.0, 0.5, 0.96, 2.0, 4.0):
            rows.append(np.where(np.arange(mass.size) == column, value, lens[0]))

    def can_be_made(row):
        try:
            mass.check(row)
        except InputError:
            return False
        return True

    found = array(mass.allows(tensor(rows)))
    assert found.tolist() == [can_be_made(row) for row in rows] and found.any()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        assert not array(mass.allows(tensor(np.where(np.eye(mass.size, dtype=bool), value, lens[0])))).any()


@every_profile
def test_slopes_of_the_deflection_are_convergence_and_shear(name, rng):
    mass, lens = case(name)
    at = [tensor(a) for a in (*positions(rng, len(lens)), lens)]
    alpha = functions(mass)
    (xx, xy), (yx, yy) = (jacobian(alpha[each], *at) for each in ("alpha_x", "alpha_y"))
    gamma1, gamma2 = map(array, mass.shear(*at))
    close = {"rtol": 1e-9, "atol": 1e-10}
    assert_allclose(xy, yx, **close)  # no curl
    assert_allclose(xx + yy, 2 * array(mass.convergence(*at)), **close)
    assert_allclose(xx - yy, 2 * gamma1, **close)
    assert_allclose(xy, gamma2, **close)
    det = (1 - xx) * (1 - yy) - xy * yx
    assert_allclose(array(mass.inverse_magnification(*at)), det, rtol=1e-9, atol=1e-10)


@every_profile
def test_deflection_is_the_gradient_of_the_potential(name, rng):
    mass, lens = case(name)
    at = [tensor(a) for a in (*positions(rng, len(lens)), lens)]
    for ours, expected in zip(mass.deflection(*at), jacobian(mass.potential, *at), strict=True):
        assert_allclose(expected, array(ours), rtol=1e-10, atol=1e-12)


@every_profile
@pytest.mark.parametrize("axes", [("x",), ("y",), ("x", "y")])
def test_a_mirror_image_has_the_mirrored_parameters(name, axes, rng):
    mass, lens = case(name)
    (x, y), signs = positions(rng, len(lens)), {axis: -1.0 if axis in axes else 1.0 for axis in "xy"}
    there = [tensor(a) for a in (signs["x"] * x, signs["y"] * y, lens * mass.mirrored(*axes))]
    at = [tensor(a) for a in (x, y, lens)]
    for ours, expected, sign in zip(mass.deflection(*there), mass.deflection(*at), signs.values(), strict=True):
        assert_allclose(array(ours), sign * array(expected), rtol=1e-10, atol=1e-12)
    # As it is or without bounds, the signs are the same.
    u = array(mass.to_real(at[2])) * mass.mirrored(*axes)
    assert_allclose(array(mass.from_real(tensor(u))), lens * mass.mirrored(*axes), rtol=1e-6, atol=1e-9)


@every_profile
def test_gradients_are_finite_differences(name, rng):
    mass, lens = case(name)
    at, h = [*positions(rng, len(lens)), lens], 1e-6
    # Of all rays and lenses, moved by h in each argument and by -h, at once: a batch of batches.
    steps = [(0, h), (1, h), *((2, unit) for unit in h * np.eye(lens.shape[1]))]
    signed = [(which, sign * step) for which, step in steps for sign in (1, -1)]
    moved = [[a + step if j == which else a for which, step in signed] for j, a in enumerate(at)]
    moved = [tensor(np.concatenate(each)) for each in moved]
    for what, function in functions(mass).items():
        weight = rng.normal(size=at[0].shape)

        def total(x, y, lens, function=function, weight=weight):
            return ops.sum(tensor(weight) * function(x, y, lens))

        above, below = np.moveaxis(array(function(*moved)).reshape(len(steps), 2, *weight.shape), 1, 0)
        in_x, in_y, *in_lens = weight * (above - below) / (2 * h)
        expected = [in_x, in_y, np.stack(in_lens, axis=1).sum(axis=2)]
        for ours, theirs in zip(grad(total, (0, 1, 2))(*map(tensor, at)), expected, strict=True):
            atol = 1e-8 * np.maximum(np.abs(theirs).max(axis=1, keepdims=True), 1.0)
            assert np.all(np.abs(array(ours) - theirs) <= atol + 2e-6 * np.abs(theirs)), what


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_profile
def test_exact_centre_is_finite(name, dtype):
    mass, lens = case(name)
    centre = lens[:, -2:] if name != "shear" else np.array(len(lens) * [[0.3, -0.1]])
    # As many rays as in the tests above: what JAX has compiled for them serves here.
    away = np.tile([[0.0, 1e-12, 1e-9, 1e-7, 2e-7, 1e-5, 0.01, 0.0]], 5)
    x, y = away + centre[:, :1], 0.5 * away[:, ::-1] + centre[:, 1:]
    x[:, -1], y[:, -1] = centre.T
    at = [tensor(a, dtype) for a in (x, y, lens)]

    def everything(*at):  # what `functions` gives, but each call made once
        others = mass.convergence(*at), *mass.shear(*at), mass.potential(*at), mass.inverse_magnification(*at)
        return ops.stack([*mass.deflection(*at), *others])

    assert np.all(np.isfinite(array(compiled(name, everything)(*at))))
    slopes = compiled(name, grad(lambda *at: ops.sum(everything(*at)), (0, 1, 2)))(*at)
    for slope in map(array, slopes):  # finite only where those of all are
        assert np.all(np.isfinite(slope)) and slope.dtype == dtype


@every_profile
def test_float32_agrees_with_float64(name):
    mass, lens = case(name)
    x, y = (np.stack(len(lens) * [a]) for a in np.meshgrid(np.linspace(-3, 3, 48), np.linspace(-3, 3, 48)))
    values = compiled(name, lambda *at: (*mass.deflection(*at), mass.potential(*at)))
    single, double = (values(*(tensor(a, dtype) for a in (x, y, lens))) for dtype in ("float32", "float64"))
    for ours, exact in zip(map(array, single), map(array, double), strict=True):
        assert ours.dtype == "float32"
        assert_allclose(ours, exact, rtol=2e-5, atol=2e-5)


@every_profile
def test_each_system_has_its_own_lens(name, rng):
    mass, lenses = case(name)
    x, y = positions(rng, len(lenses))
    together = array(ops.stack(mass.deflection(tensor(x), tensor(y), tensor(lenses))))
    for i in range(len(lenses)):
        alone = array(ops.stack(mass.deflection(*(tensor(a[i : i + 1]) for a in (x, y, lenses)))))
        assert_allclose(together[:, i], alone[:, 0], rtol=1e-13, atol=1e-15)


def test_what_a_profile_leaves_out_comes_from_its_deflection(rng):
    """A profile in ten lines, of which only the deflection is written: a uniform sheet with a twist of shear."""

    class Sheet(Profile):
        name, columns = "sheet for a test", (Real("kappa"), Real("gamma"))

        def deflection(self, theta_x, theta_y, kappa, gamma):
            return (kappa + gamma) * theta_x, (kappa - gamma) * theta_y

    try:
        mass = MassModel(("sheet for a test", "shear"))
        assert mass.names == ("kappa", "gamma", "gamma1", "gamma2")
        at = [tensor(a) for a in (*positions(rng), [[0.3, 0.1, 0.02, 0.05]])]
        assert_allclose(array(mass.convergence(*at)), 0.3, rtol=1e-9)
        gamma1, gamma2 = map(array, mass.shear(*at))
        assert_allclose(gamma1, 0.12, rtol=1e-8)
        assert_allclose(gamma2, 0.05, rtol=1e-8)
        assert_allclose(array(mass.inverse_magnification(*at)), 0.7**2 - math.hypot(0.12, 0.05) ** 2, rtol=1e-8)
    finally:
        del profile_module.PROFILES["sheet for a test"]
