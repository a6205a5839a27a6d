"""The evidence: the marginal likelihood of the data, its slope in the strength, and its maximum."""

import dataclasses

import numpy as np
import pytest
from inversions import LENS, dense, observe, tiny, with_data
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from rim_tf.config import BOUNDARIES, REGULARISATIONS
from rim_tf.errors import InputWarning
from rim_tf.inference.linear.evidence import log_evidence_slope
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.linear.regularisation import Regularisation

REGULAR = [
    ("brightness", "zero"),
    ("gradient", "zero"),
    ("gradient", "suyu"),
    ("curvature", "zero"),
    ("curvature", "suyu"),
]


def marginal(system, prior, used=slice(None)):
    """log density of the data, the source integrated out: N(0, C), which SciPy knows without any of our algebra."""
    A = dense(system)[used]
    C = A @ np.linalg.inv(20.0 * prior.matrix.toarray()) @ A.T + np.diag(1 / system.weight.ravel()[used])
    return multivariate_normal(cov=C).logpdf(system.data.ravel()[used])


@pytest.mark.parametrize(("kind", "boundary"), REGULAR)
def test_is_the_marginal_likelihood(kind, boundary):
    prior = Regularisation(kind, boundary, (8, 8))
    assert_allclose(ExactSolver(tiny(), prior).solve(20.0).log_evidence, marginal(tiny(), prior), rtol=1e-9)


def test_counts_unmasked_pixels_alone(rng):
    mask = rng.uniform(size=(10, 10)) > 0.3
    observation, whole, _ = observe(8, 10, noise=0.05, psf=0.3)
    system = with_data(whole, dataclasses.replace(observation, mask=mask))
    prior = Regularisation("gradient", "zero", (8, 8))
    found = ExactSolver(system, prior).solve(20.0).log_evidence
    assert_allclose(found, marginal(system, prior, mask.ravel()), rtol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", REGULARISATIONS)
def test_slope(kind, boundary):
    prior = Regularisation(kind, boundary, (8, 8))
    solver, h = ExactSolver(tiny(), prior), 1e-3
    values = [solver.at(20.0 * np.exp(x)).log_evidence for x in (-h, h)]
    slope = log_evidence_slope(solver.at(20.0).terms, prior.size)
    assert_allclose(slope, (values[1] - values[0]) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", REGULARISATIONS)
@pytest.mark.parametrize("solver", ["exact", "matrix-free"])
def test_best_strength_is_best(kind, solver):
    observation, system, _ = observe(16, 20, noise=0.05)
    prior = Regularisation(kind, "zero", (16, 16))
    best = invert(observation, LENS, 2.0 / 16, 16, regularisation=kind, solver=solver)
    at = ExactSolver(system, prior).at
    # 0.25 in log lambda is far beyond what 16 probes leave open
    assert at(best.strength).log_evidence > max(at(best.strength * f).log_evidence for f in (0.8, 1.25))


def test_without_a_maximum_there_is_a_warning():
    observation, _, _ = observe(8, 10)
    dark = dataclasses.replace(observation, image=np.zeros((10, 10)))
    with pytest.warns(InputWarning, match="no maximum"):
        invert(dark, LENS, 0.25, 8)
