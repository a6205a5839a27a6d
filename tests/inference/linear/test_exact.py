"""The solver by Cholesky factors, against a complete inversion made by others."""

import pytest
from inversions import THEIRS, sparse
from numpy.testing import assert_allclose

from rim_tf.config import BOUNDARIES
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.regularisation import Regularisation

# What the reference calls our terms.
TERMS = {
    "chi2": "chi2",
    "regularisation": "reg_term",
    "log_det_posterior": "logdet_F_plus_H",
    "log_det_prior": "logdet_H",
    "noise_normalisation": "noise_norm",
    "good_parameters": "good_params",
}


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_every_term_at_a_fixed_strength(reference, reference_system, boundary):
    name = THEIRS[boundary]
    prior = Regularisation("gradient", boundary, (24, 24))
    assert_allclose(prior.matrix.toarray(), sparse(reference, f"C_{name}"), atol=1e-14)
    solution = ExactSolver(reference_system, prior).solve(100.0)
    for ours, theirs in TERMS.items():
        assert_allclose(solution.evidence_terms[ours], reference[f"{name}_fixed_{theirs}"], rtol=1e-7, err_msg=ours)
    assert_allclose(solution.log_evidence, reference[f"{name}_fixed_log_evidence"], atol=1e-5)
    assert_allclose(solution.source.ravel(), reference[f"{name}_fixed_s"], atol=1e-8)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_optimal_strength(reference, reference_system, boundary):
    name = THEIRS[boundary]
    prior = Regularisation("gradient", boundary, (24, 24))
    solution = ExactSolver(reference_system, prior, tolerance=1e-9).solve()
    assert_allclose(solution.strength, reference[f"{name}_opt_lam"], rtol=2e-5)
    assert_allclose(solution.log_evidence, reference[f"{name}_opt_log_evidence"], atol=1e-5)
    assert_allclose(solution.source.ravel(), reference[f"{name}_opt_s"], atol=1e-6)
    quick = ExactSolver(reference_system, prior).solve()
    assert solution.log_evidence - 0.01 <= quick.log_evidence <= solution.log_evidence + 1e-6


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_curve_over_the_strength(reference, reference_system, boundary):
    solver = ExactSolver(reference_system, Regularisation("gradient", boundary, (24, 24)))
    name = THEIRS[boundary]
    strengths, evidences = reference[f"{name}_curve_lam"], reference[f"{name}_curve_logev"]
    for strength, theirs in zip(strengths[::6], evidences[::6], strict=True):
        # "free" hangs on an eigenvalue of 1e-8, which the reference's log det has to five digits.
        assert_allclose(solver.at(strength).log_evidence, theirs, atol=2e-4)
