"""Critical curves by contouring: against the closed forms of the isothermal lens, and against det A itself."""

import numpy as np
import pytest
from gradients import BACKEND, array, tensor
from numpy.testing import assert_allclose

from rim_tf.critical import caustics, critical_curves, cuts
from rim_tf.lens import Component, CompositeLens, LensParameters

pytestmark = pytest.mark.skipif(BACKEND == "jax", reason="drawing is not tested twice")

ISOTHERMAL = [
    LensParameters(1.1, x_lens=0.3, y_lens=-0.2),
    LensParameters(1.3, 0.25, -0.1, 0.1, -0.2, 0.06, -0.04),
    LensParameters.from_axis_ratio(0.9, 0.2, 0.4, x_lens=-0.1, gamma1=0.1),
]
SHALLOW = CompositeLens(Component("power_law", theta_E=1.2, slope=1.7, e1=0.1), Component("shear", gamma1=0.05))
STEEP = CompositeLens(Component("power_law", theta_E=1.2, slope=2.3, e2=0.1))
TWO = CompositeLens(
    Component("sie", theta_E=1.0, e1=0.1, x_lens=-1.0), Component("sie", theta_E=0.8, x_lens=1.2), Component("shear")
)


def closed_form(lens, angle):
    """The isothermal lens's tangential critical curve, from its centre in the direction `angle`.

    Along a ray kappa = h / r and det A = 1 - |gamma|^2 - 2 kappa (1 - gamma . e^{2 i phi}), which vanishes once.
    """
    x, y = np.cos(angle), np.sin(angle)
    w = np.hypot(x - (lens.e1 * x + lens.e2 * y), y - (lens.e2 * x - lens.e1 * y))
    h = lens.theta_E * np.sqrt(1 - lens.e1**2 - lens.e2**2) / (2 * w)
    along = lens.gamma1 * (x**2 - y**2) + 2 * lens.gamma2 * x * y
    return 2 * h * (1 - along) / (1 - lens.gamma1**2 - lens.gamma2**2)


def det(lens, x, y):
    at = [tensor([each]) for each in (x, y, lens.as_tuple())]
    return array(lens.mass.inverse_magnification(*at))[0]


@pytest.mark.parametrize("lens", ISOTHERMAL)
def test_isothermal_lenses_have_one_curve_and_it_is_the_closed_form(lens):
    ((x, y),) = critical_curves(lens)
    assert_allclose([x[0], y[0]], [x[-1], y[-1]], atol=1e-9)  # closed
    dx, dy = x - lens.x_lens, y - lens.y_lens
    assert_allclose(np.hypot(dx, dy), closed_form(lens, np.arctan2(dy, dx)), rtol=1e-9)
    # It goes all the way round, and is dense enough to be drawn.
    assert np.abs(np.diff(np.unwrap(np.arctan2(dy, dx)))).max() < 0.15
    assert abs(np.unwrap(np.arctan2(dy, dx))[-1] - np.unwrap(np.arctan2(dy, dx))[0]) == pytest.approx(2 * np.pi)


@pytest.mark.parametrize("lens", [*ISOTHERMAL, SHALLOW, STEEP, TWO])
def test_magnification_is_infinite_on_them_and_parity_changes(lens):
    for x, y in critical_curves(lens):
        assert_allclose(det(lens, x, y), 0, atol=1e-8)
        middle = np.mean(x), np.mean(y)
        inside, outside = (
            det(lens, *(m + f * (c - m) for m, c in zip(middle, (x, y), strict=True))) for f in (0.98, 1.02)
        )
        assert np.all(inside * outside < 0)


def test_a_shallow_lens_has_a_radial_curve_too_and_a_steep_one_has_not():
    outer, inner = critical_curves(SHALLOW)
    radius = [np.hypot(*curve) for curve in (outer, inner)]
    assert radius[1].max() < 0.5 * radius[0].min()
    assert len(critical_curves(STEEP)) == 1
    assert cuts(SHALLOW) == cuts(STEEP) == []


@pytest.mark.parametrize("slope", [1.9, 1.97, 1.985, 1.993, 2.0])
def test_as_the_slope_nears_the_isothermal_the_radial_caustic_becomes_the_cut(slope):
    lens = CompositeLens(Component("power_law", theta_E=1.2, slope=slope, e1=0.1))
    radial = [*caustics(lens)[1:], *cuts(lens)]
    assert len(radial) == 1
    isothermal = cuts(CompositeLens(Component("sie", theta_E=1.2, e1=0.1)))[0]
    assert np.hypot(*radial[0]).mean() == pytest.approx(np.hypot(*isothermal).mean(), rel=5 * (2 - slope) + 0.01)


def test_strong_shear_and_small_deflectors_lose_no_curve():
    ((x, y),) = critical_curves(LensParameters(1.0, 0.1, gamma1=0.7))
    assert_allclose([x[0], y[0]], [x[-1], y[-1]], atol=1e-9)
    assert np.hypot(x, y).max() > 2.5
    far = CompositeLens(Component("sie", theta_E=1.0), Component("sie", theta_E=0.02, x_lens=2.0))
    assert [len(curves) for curves in (critical_curves(far), cuts(far))] == [2, 2]
    farther = CompositeLens(Component("sie", theta_E=1.0), Component("sie", theta_E=0.1, x_lens=20.0))
    assert len(critical_curves(farther)) == 2


def test_the_round_lens_has_its_caustic_in_a_point_and_a_cut_of_its_einstein_radius():
    lens = ISOTHERMAL[0]
    ((x, y),) = caustics(lens)
    assert_allclose([x, y], [np.full(len(x), 0.3), np.full(len(x), -0.2)], atol=1e-9)
    ((x, y),) = cuts(lens)
    assert_allclose(np.hypot(x - 0.3, y + 0.2), 1.1, rtol=1e-5)


def test_each_singular_centre_has_a_cut():
    assert len(cuts(TWO)) == 2
