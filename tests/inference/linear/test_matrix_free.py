"""The solver without matrices, against the exact one, and its own estimate of its error."""

import numpy as np
import pytest
from inversions import LENS, observe, tiny
from numpy.testing import assert_allclose

from rim_tf.config import BOUNDARIES, REGULARISATIONS
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.linear.matrix_free import MatrixFreeSolver
from rim_tf.inference.linear.regularisation import Regularisation


@pytest.mark.parametrize("pixels", [24, 48])
def test_agrees_with_exact_within_its_error(pixels):
    _, system, _ = observe(pixels, 64)
    prior = Regularisation("gradient", "zero", (pixels, pixels))
    free = MatrixFreeSolver(system, prior).solve()
    exact = ExactSolver(system, prior).solve(free.strength)
    assert 0 < free.log_evidence_error < 6
    assert abs(free.log_evidence - exact.log_evidence) < 2.5 * free.log_evidence_error
    assert_allclose(free.source, exact.source, atol=1e-6)
    for term in ("chi2", "regularisation", "log_det_prior", "noise_normalisation"):
        assert_allclose(free.evidence_terms[term], exact.evidence_terms[term], rtol=1e-6, err_msg=term)
    assert_allclose(free.evidence_terms["good_parameters"], exact.evidence_terms["good_parameters"], rtol=0.03)


@pytest.mark.parametrize("kind", REGULARISATIONS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_every_prior(kind, boundary):
    _, system, _ = observe(20, 24, noise=0.05)
    prior = Regularisation(kind, boundary, (20, 20))
    free = MatrixFreeSolver(system, prior, known_modes=6).solve()
    exact = ExactSolver(system, prior).solve(free.strength)
    assert abs(free.log_evidence - exact.log_evidence) < 4 * free.log_evidence_error
    assert_allclose(free.source, exact.source, atol=1e-5)


def test_is_exact_where_all_modes_are_known():
    prior = Regularisation("gradient", "zero", (8, 8))
    free, exact = MatrixFreeSolver(tiny(), prior).solve(20.0), ExactSolver(tiny(), prior).solve(20.0)
    assert_allclose(free.log_evidence, exact.log_evidence, atol=1e-3)


def test_error_estimate_is_the_scatter():
    _, system, _ = observe(16, 20, noise=0.05)
    prior = Regularisation("gradient", "zero", (16, 16))
    exact = ExactSolver(system, prior).solve(50.0).log_evidence
    solutions = [MatrixFreeSolver(system, prior, seed, known_modes=4).solve(50.0) for seed in range(40)]
    pulls = [(each.log_evidence - exact) / each.log_evidence_error for each in solutions]
    assert 0.7 < np.std(pulls) < 1.5
    assert abs(np.mean(pulls)) < 0.7


def test_seed_decides():
    observation, _, _ = observe(16, 20)
    first, same, other = (
        invert(observation, LENS, 0.125, 16, strength=50.0, solver="matrix-free", samples=1, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.log_evidence == same.log_evidence
    assert_allclose(first.samples, same.samples, atol=0)
    assert first.log_evidence != other.log_evidence
    assert abs(first.samples - other.samples).max() > 1e-3


def test_data_of_high_signal_to_noise_converge_to_the_exact_source():
    # Noise of 0.05 % of the peak: without a preconditioner, 2000 steps of conjugate gradients are too few.
    _, system, _ = observe(32, 48, noise=5e-4)
    prior = Regularisation("gradient", "zero", (32, 32))
    exact = ExactSolver(system, prior).solve(500.0)
    found = MatrixFreeSolver(system, prior).solve(500.0)
    deviation = exact.standard_deviation
    assert abs((found.source - exact.source) / deviation).max() < 1e-3
    assert abs(found.log_evidence - exact.log_evidence) < 3 * found.log_evidence_error + 0.2


def test_standard_deviation_needs_samples():
    assert MatrixFreeSolver(tiny(), Regularisation("gradient", "zero", (8, 8))).solve(20.0).standard_deviation is None
