"""The log-posterior: its Jacobian, gradient, curvature, prior, and what tells two of them apart."""

import dataclasses

import modelled
import numpy as np
import pytest
from numpy.testing import assert_allclose

from rim_tf.config import SMALL, InversionSettings
from rim_tf.errors import InputError
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.methods import find_method
from rim_tf.inference.misfit import LensPrior
from rim_tf.inference.posterior import (
    Gaussian,
    LogPosterior,
    RIMLikelihood,
    SolverLikelihood,
    both_priors,
    inverse,
    inversion_posterior,
    prior_columns,
    prior_in_words,
    rim_posterior,
)
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

LENS = LensParameters(1.1, 0.1, -0.05, 0.02, 0.01, 0.03, -0.02)


def observation():
    return Observation(modelled.ring(), 0.05, 0.05, pixel_scale=modelled.SCALE)


def of_rim(lens=LENS, **more):
    return rim_posterior(observation(), lens, modelled.networks()[0], **more)


class Quadratic:
    """log L = -1/2 (lens - centre)^T precision (lens - centre)."""

    fingerprint = "quadratic"

    def __init__(self, mass, centre, precision):
        self.mass, self.centre, self.precision = mass, np.asarray(centre), precision

    def __call__(self, lenses):
        off = lenses - self.centre
        return -0.5 * np.einsum("ni,ij,nj->n", off, self.precision, off)


@pytest.mark.parametrize("mass", [SIE_SHEAR, MassModel(("power_law", "shear"))])
def test_a_density_in_u_is_that_of_lenses_times_the_jacobian(mass, rng):
    n = mass.size
    posterior = LogPosterior(Quadratic(mass, np.full(n, 0.1), 30 * np.eye(n)), np.array([np.zeros(n), np.full(n, 0.3)]))
    u = 0.4 * rng.normal(size=(5, n))
    for each in u:
        steps = 1e-3 * np.eye(n)
        jacobian = (posterior.lenses(each + steps) - posterior.lenses(each - steps)) / 2e-3
        expected = posterior.of_lenses(posterior.lenses(each[None])) + np.linalg.slogdet(jacobian)[1]
        assert_allclose(posterior(each[None]), expected, atol=2e-3)


def test_the_prior_is_that_which_is_described():
    mass = SIE_SHEAR
    prior = LensPrior(ellipticity=0.15).columns(LENS)
    posterior = LogPosterior(Quadratic(mass, np.zeros(7), np.zeros((7, 7))), prior)
    lenses = np.array([LENS.as_tuple(), dataclasses.replace(LENS, e1=LENS.e1 + 0.15, theta_E=3.0).as_tuple()])
    change = np.diff(posterior.of_lenses(lenses))
    assert_allclose(change, -0.5 * (((0.1 + 0.15) / 0.15) ** 2 - (0.1 / 0.15) ** 2))
    lines = prior_in_words(posterior.prior, mass.names)
    assert "theta_E: uniform" in lines[0] and "e1: normal, mean 0, sigma 0.15" in lines[1]


def test_a_prior_that_excludes_the_estimate_is_refused_with_it():
    prior = LensPrior(shear=1e-3).columns(LENS)
    with pytest.raises(InputError, match=r"gamma1 is 0.03.*The estimate is theta_E 1.1000"):
        LogPosterior(Quadratic(SIE_SHEAR, np.zeros(7), np.eye(7)), prior).check_estimate(LENS)


def test_what_is_known_poorly_is_excluded_by_little():
    prior = LensPrior(shear=1e-3).columns(LENS)
    LogPosterior(Quadratic(SIE_SHEAR, np.zeros(7), np.eye(7)), prior).check_estimate(LENS, 0.02)


def test_a_product_of_priors_is_that_of_their_densities():
    known = prior_columns({"theta_E": (1.2, 0.05), "e1": (0.1, 0.1)}, SIE_SHEAR)
    mild, quadratic = LensPrior().columns(LENS), Quadratic(SIE_SHEAR, np.zeros(7), np.zeros((7, 7)))
    both = LogPosterior(quadratic, both_priors(mild, known))
    lenses = np.array(LENS.as_tuple()) + np.random.default_rng(0).normal(0, 0.05, (5, 7))
    apart = sum(LogPosterior(quadratic, each).log_prior(lenses) for each in (mild, known))
    assert_allclose(np.ptp(both.log_prior(lenses) - apart), 0, atol=1e-9)
    assert "theta_E: normal, mean 1.2, sigma 0.05" in prior_in_words(both.prior, SIE_SHEAR.names)[0]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"theta": (1, 1)}, "'theta'; parameters of this lens are theta_E"),
        ({"e1": (0.0, 0.0)}, "e1 has the mean 0.0 and the standard deviation 0.0"),
        ({"e1": (np.nan, 1.0)}, "e1 has the mean nan"),
    ],
)
def test_what_is_no_prior_is_refused(known, told):
    with pytest.raises(InputError, match=told):
        prior_columns(known, SIE_SHEAR)


@pytest.mark.parametrize(("prior", "temperature"), [(np.zeros((2, 7)), 1.0), (np.ones((2, 3)), 1.0), (None, 0.0)])
def test_no_prior_and_no_temperature_are_refused(prior, temperature):
    prior = LensPrior().columns(LENS) if prior is None else prior
    with pytest.raises(InputError):
        LogPosterior(Quadratic(SIE_SHEAR, np.zeros(7), np.eye(7)), prior, temperature)


def test_the_gradient_is_the_slope():
    posterior = of_rim()
    u = posterior.coordinates([LENS.as_tuple()]) + 0.01
    value, gradient = posterior.value_and_gradient(u)
    assert_allclose(value, posterior(u), rtol=1e-5)
    for i in range(7):
        step = np.zeros((1, 7))
        step[0, i] = 1e-4  # as bilinear pixels have kinks
        slope = (posterior(u + step) - posterior(u - step)) / 2e-4
        assert_allclose(gradient[0, i], slope[0], rtol=0.05, atol=0.02 * np.abs(gradient).max())


def test_what_is_left_over_counts_in_neither_value_nor_gradient(rng):
    left_over = rng.normal(size=(2, modelled.PIXELS, modelled.PIXELS))
    plain, without = of_rim(), of_rim(left_over=left_over)
    brighter = dataclasses.replace(observation(), image=observation().image + 0.3 * left_over[0].astype("f"))
    u = plain.coordinates([LENS.as_tuple()])
    assert without(u) > plain(u)  # chi^2 falls by what two directions take away
    assert_allclose(without.value_and_gradient(u)[0], without(u), rtol=1e-5)
    seen = RIMLikelihood(brighter, modelled.networks()[0], SIE_SHEAR, left_over).misfit
    assert np.abs(seen.data_residuals(np.array([LENS.as_tuple()], "f")).numpy() @ left_over[0].ravel()).max() < 1e-2


def test_temperature_divides_the_likelihood_alone():
    one, four = of_rim(), of_rim(temperature=4.0)
    lenses = np.array([LENS.as_tuple(), dataclasses.replace(LENS, theta_E=1.15, e1=0.2).as_tuple()])
    prior = np.diff(one.log_prior(lenses))
    assert_allclose(np.diff(four.of_lenses(lenses)) - prior, (np.diff(one.of_lenses(lenses)) - prior) / 4, rtol=1e-4)


class Residuals:
    """log L = -1/2 |r(lens)|^2 with r = slope (lens - centre), and a ripple on top of it."""

    mass, fingerprint = SIE_SHEAR, "residuals"

    def __init__(self, rng, ripple=0.0):
        self.centre = np.array(LensParameters(1.0).as_tuple())  # where the bijections are the most nearly linear
        self.slope, self.waves, self.ripple = *(scale * rng.normal(size=(40, 7)) for scale in (100, 3000)), ripple

    def residuals(self, lenses):
        off = lenses - self.centre
        return off @ self.slope.T + self.ripple * np.sin(off @ self.waves.T + np.arange(40))

    def covariance(self, prior):
        slope = self.slope @ np.diag([1.0, 0.949, 0.949, 1, 1, 0.999, 0.999])  # of the bijections there
        return np.linalg.inv(slope.T @ slope + np.diag(1 / prior[1] ** 2))


PRIOR = np.array([LensParameters(1.0).as_tuple(), [np.inf, 0.01, 0.01, 0.1, 0.1, 0.02, 0.02]])


def test_linearising_a_gaussian_gives_that_gaussian(rng):
    likelihood = Residuals(rng)
    start = Gaussian(np.full(7, 2e-3), 9 * likelihood.covariance(PRIOR))
    law = LogPosterior(likelihood, PRIOR).linearised(start, 40, rng)
    expected = likelihood.covariance(PRIOR)
    assert_allclose(law.covariance, expected, rtol=0.05, atol=0.02 * expected.max())
    assert_allclose(law.u, 0, atol=0.1 * np.sqrt(np.diag(expected).min()))


def test_temperature_widens_what_is_linearised(rng):
    likelihood, flat = Residuals(rng), np.array([np.zeros(7), np.full(7, np.inf)])
    start = Gaussian(np.zeros(7), likelihood.covariance(flat))
    law = LogPosterior(likelihood, flat, 4.0).linearised(start, 40, rng)
    assert_allclose(law.covariance, 4 * likelihood.covariance(flat), rtol=0.05, atol=1e-6)


def test_ripples_do_not_make_errors_small(rng):
    """Slopes by small differences see the ripple alone: ten times as steep as the valley."""
    likelihood = Residuals(rng, ripple=0.3)
    expected = likelihood.covariance(PRIOR)
    steps = 1e-5 * np.eye(7)
    steep = (likelihood.residuals(likelihood.centre + steps) - likelihood.residuals(likelihood.centre[None])) / 1e-5
    narrow = np.linalg.inv(steep @ steep.T)
    target, law = LogPosterior(likelihood, PRIOR), Gaussian(np.zeros(7), expected)
    for _ in range(2):
        law = target.linearised(law, 200, rng)
    assert np.trace(narrow) < 0.5 * np.trace(expected)
    assert 0.7 < np.trace(law.covariance) / np.trace(expected) < 1.4


def test_what_has_no_residuals_is_not_linearised(rng):
    posterior = LogPosterior(Quadratic(SIE_SHEAR, np.zeros(7), np.eye(7)), PRIOR)
    with pytest.raises(InputError, match="no sum of squares"):
        posterior.linearised(Gaussian(np.zeros(7), np.eye(7)), 40, rng)


def test_the_inverse_of_a_curvature_is_a_covariance(rng):
    """Exact where there is one; and where the data say nothing of a direction, wide and no error."""
    root = rng.normal(size=(9, 4)) * [1e3, 1.0, 1e-2, 10.0]
    assert_allclose(inverse(root.T @ root), np.linalg.inv(root.T @ root), rtol=1e-6)
    root[:, 2] = root[:, 1]
    found = inverse(root.T @ root - 1e-12 * np.eye(4))
    assert np.linalg.eigvalsh(found).min() > 0 and found[1, 1] > 1e4 / (root[:, 1] @ root[:, 1])


def test_residuals_add_up_to_the_posterior():
    posterior = of_rim(temperature=2.0)
    lenses = np.array([LENS.as_tuple(), dataclasses.replace(LENS, e1=0.2).as_tuple()])
    squares = (posterior.residuals(posterior.coordinates(lenses)) ** 2).sum(1)
    assert_allclose(-0.5 * squares, posterior.of_lenses(lenses), rtol=1e-4)


def test_inversion_gives_its_evidence():
    posterior = inversion_posterior(observation(), LENS, InversionSettings(), None, 12, 0.05)
    strength = posterior.likelihood.solver.settings.strength
    other = dataclasses.replace(LENS, theta_E=1.12)
    found = posterior.likelihood(np.array([LENS.as_tuple(), other.as_tuple()]))
    given = {"source_pixels": 12, "source_pixel_scale": 0.05}
    best = invert(observation(), LENS, **given)
    fixed = invert(observation(), other, strength=strength, **given)
    assert strength == pytest.approx(best.strength)
    assert_allclose(found, [best.log_evidence, fixed.log_evidence], rtol=1e-6)
    assert not posterior.has_gradient
    with pytest.raises(InputError, match="no gradient"):
        posterior.tensor(np.zeros((1, 7), "f"))


def test_any_registered_method_can_be_inside():
    solver = find_method("rim").build()
    solver.model = modelled.networks()[0]
    lenses = np.array([LENS.as_tuple()])
    ours = RIMLikelihood(observation(), solver.model, SIE_SHEAR)(lenses)
    assert_allclose(SolverLikelihood(observation(), solver, SIE_SHEAR)(lenses), ours, rtol=1e-4)


def test_fingerprints_tell_model_data_prior_and_temperature_apart():
    brighter = dataclasses.replace(observation(), image=observation().image * 1.01)
    other = RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)))
    composite = CompositeLens(
        Component("power_law", theta_E=1.1, slope=2.0, e1=0.1, e2=-0.05, x_lens=0.02, y_lens=0.01),
        Component("shear", gamma1=0.03, gamma2=-0.02),
    )
    all_of_them = [
        of_rim(),
        of_rim(prior=LensPrior(shear=0.1)),
        of_rim(temperature=2.0),
        of_rim(source_pixels=24),
        of_rim(left_over=np.ones((1, modelled.PIXELS, modelled.PIXELS))),
        rim_posterior(brighter, LENS, modelled.networks()[0]),
        rim_posterior(observation(), LENS, other),
        of_rim(composite),
    ]
    assert len({each.fingerprint for each in all_of_them}) == len(all_of_them)
    assert of_rim().fingerprint == all_of_them[0].fingerprint


@pytest.mark.parametrize("dof", [np.inf, 5.0])
def test_draws_have_the_density_that_is_stated(dof, rng):
    law = Gaussian(np.array([1.0, -1.0]), np.array([[0.5, 0.2], [0.2, 0.3]]), dof)
    draws = law.draw(20_000, rng)
    factor = 1.0 if np.isinf(dof) else dof / (dof - 2)
    assert_allclose(np.cov(draws.T), factor * law.covariance, atol=0.06)
    # E[1 / p] over a box that holds part of the draws is its area.
    inside = (np.abs(draws - law.u) < 0.8).all(axis=1)
    assert_allclose((inside / np.exp(law.log_density(draws))).mean(), 1.6**2, rtol=0.03)
