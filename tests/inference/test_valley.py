import functools

import numpy as np
import pytest
from spirals import lensed_spiral

from rim_tf.inference import valley
from rim_tf.inference.misfit import LensPrior, Misfit, View
from rim_tf.inference.valley import Valley, walk
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.physics.mass.model import SIE_SHEAR

TRUTH = LensParameters(1.0, 0.15, 0.1, 0.03, -0.02, 0.03, -0.02)
# Of how far a side goes.
_LIMITS = ("_TOO_HIGH", "_TOO_HIGH_IN_ALL")


@functools.cache
def observed(noise=0.01):
    return lensed_spiral(TRUTH, 40, 0.1, noise)


def sum_of_squares(lenses, observation, model):
    view = View(observation, model, TRUTH.mass, model.config.n_steps, None)
    nothing_fixed = np.zeros(TRUTH.mass.size, bool)
    prior = LensPrior().columns(TRUTH)
    residuals = Misfit(view, np.array(TRUTH.as_tuple()), nothing_fixed, prior, None).of_lenses(lenses)
    return (residuals.astype(np.float64) ** 2).sum(1)


def test_all_else_follows_where_theta_E_is_led(monkeypatch):
    monkeypatch.setattr(valley, "_PLACES", (0.01, 0.02))
    for limit in _LIMITS:
        monkeypatch.setattr(valley, limit, np.inf)
    model = load_pretrained("small")
    found = walk(observed(), TRUTH, model)
    np.testing.assert_allclose(found.lenses[:, 0], [0.98, 0.99, 1.0, 1.01, 1.02], rtol=1e-5)
    np.testing.assert_allclose(found.lenses[found.start], TRUTH.as_tuple(), rtol=1e-6)
    value = sum_of_squares(found.lenses, observed(), model)
    np.testing.assert_allclose(found.rise, value - value[found.start], rtol=1e-3, atol=0.5)
    # Lower by far than where nothing follows.
    alone = np.tile(TRUTH.as_tuple(), (5, 1))
    alone[:, 0] = found.lenses[:, 0]
    rise_alone = sum_of_squares(alone, observed(), model) - value[found.start]
    far = np.arange(5) != found.start
    assert (found.rise[far] < 0.7 * rise_alone[far]).all()


@pytest.mark.parametrize("limit", _LIMITS)
def test_a_side_ends_where_chi2_has_risen_too_far(monkeypatch, limit):
    monkeypatch.setattr(valley, "_PLACES", (0.02, 0.04, 0.06))
    model = load_pretrained("small")
    sides = []
    for each in _LIMITS:
        monkeypatch.setattr(valley, each, np.inf)
    for too_high in (-np.inf, np.inf):
        monkeypatch.setattr(valley, limit, too_high)
        sides.append(len(walk(observed(), TRUTH, model).rise))
    assert sides == [3, 7]
    # A single place that is too high may be a ripple.
    assert len(walk(observed(), TRUTH, model, highest=-np.inf).rise) == 5


def test_any_mass_model_has_a_valley(monkeypatch):
    monkeypatch.setattr(valley, "_PLACES", (0.02,))
    named = TRUTH.to_dict()
    shear = Component("shear", gamma1=named.pop("gamma1"), gamma2=named.pop("gamma2"))
    lens = CompositeLens(shear, Component("power_law", slope=2.0, **named))
    found = walk(observed(), lens, load_pretrained("small"))
    size = lens.mass.names.index("theta_E")
    np.testing.assert_allclose(found.lenses[:, size], [0.98, 1.0, 1.02], rtol=1e-5)


@pytest.mark.parametrize(
    ("rise", "start", "places"),
    [
        ([5.0, -3.0, 2.0, 0.0, 4.0, 1.0], 3, [1, 5]),
        ([-1.0, 2.0, 0.0, 3.0, -4.0, 6.0], 2, [4, 0]),
        ([3.0, 1.0, 0.0, 1.0, 3.0], 2, []),
        ([0.0], 0, []),
    ],
)
def test_the_lowest_places_are_dips_away_from_the_start(rise, start, places):
    lenses = np.tile(TRUTH.as_tuple(), (len(rise), 1))
    lenses[:, 0] = 1 + 0.01 * np.arange(len(rise))
    found = Valley(lenses, lenses, np.array(rise), start, SIE_SHEAR).lowest(2)
    np.testing.assert_allclose([each.theta_E for each in found], lenses[places, 0])


def a_valley(rise, step=0.01):
    """About theta_E of 1, with e1 that follows it."""
    n, start = len(rise), len(rise) // 2
    lenses = np.tile(TRUTH.as_tuple(), (n, 1))
    away = step * (np.arange(n) - start)
    lenses[:, 0], lenses[:, 1] = np.exp(away), lenses[:, 1] + 2 * away
    return Valley(lenses, np.asarray(SIE_SHEAR.to_real(lenses.astype(np.float32))), np.array(rise), start, SIE_SHEAR)


def test_a_lens_may_lie_all_over_a_flat_valley_and_nowhere_else_in_a_steep_one(rng):
    flat, steep = a_valley(np.zeros(201), 1e-4), a_valley([1e4, 0.0, 1e4])
    # A uniform law from -0.01 to 0.01.
    deviation = np.sqrt(np.diag(flat.covariance()))
    np.testing.assert_allclose(deviation, [0.01 / 3**0.5, 0.02 / 3**0.5, 0, 0, 0, 0, 0], rtol=0.02, atol=1e-12)
    np.testing.assert_allclose(steep.covariance(), 0, atol=1e-12)
    assert (steep.shifts(steep.u[1], 100, rng) == 0).all()
    u = flat.u[flat.start]
    drawn = np.asarray(SIE_SHEAR.from_real((u + flat.shifts(u, 4000, rng)).astype(np.float32)))
    np.testing.assert_allclose(drawn.std(axis=0), deviation, rtol=0.05, atol=2e-5)


def test_a_valley_like_a_parabola_is_a_normal_law():
    away = 1e-3 * np.arange(-100, 101)
    found = a_valley((away / 0.02) ** 2 * valley.RIPPLE, 1e-3)
    np.testing.assert_allclose(np.sqrt(found.covariance()[0, 0]), 0.02, rtol=0.02)
    # Of larger noise a longer part of it is as likely.
    np.testing.assert_allclose(np.sqrt(found.covariance(1.5)[0, 0]), 0.03, rtol=0.02)
    told = found.summary(1.5)
    assert told["error"]["theta_E"] == pytest.approx(np.sqrt(found.covariance(1.5)[0, 0]))
    assert len(told["theta_E"]) == len(told["chi2_rise"]) == 201 and told["chi2_rise"][100] == 0
