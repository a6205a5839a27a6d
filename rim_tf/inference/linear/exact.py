"""Linear inversion by Cholesky factors of F + lambda H, in float64."""

import functools
import warnings

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.linear.evidence import Solution, evidence_terms, log_evidence, log_evidence_slope
from rim_tf.inference.linear.matrix_free import MatrixFreeSolver

# More source pixels would need over 2 GB, and two threads of OpenBLAS crashed in a factor of 16 000 rows.
EXACT_PIXELS = 96 * 96
_MOST_STEPS = 20
# About what an image pixel costs in F s without the matrix: with more source pixels, F is slower than its factors.
_MULTIPLICATIONS = 200


class ExactSolver:
    """The solver of small grids: everything is exact to rounding.

    Args:
      system: `LinearSystem`.
      prior: `Regularisation`.
      seed: of the samples.
      tolerance: the search for lambda ends when it could gain no more than this in log evidence. At 0.01 lambda is
        right to about 1 %, where data of one lens determine it to 5 or 10 %.
    """

    def __init__(self, system, prior, seed=0, tolerance=1e-2):
        self.system, self.prior, self.seed, self.tolerance = system, prior, seed, tolerance

    def solve(self, strength=None, samples=0):
        """The `Solution` at `strength`, or at the one that maximises the evidence."""
        posterior = self.most_probable() if strength is None else self.at(strength)
        noise = np.random.default_rng(self.seed).normal(size=(samples, self.prior.size))
        return Solution(
            source=posterior.source,
            strength=posterior.strength,
            log_evidence=posterior.log_evidence,
            log_evidence_error=0.0,
            evidence_terms=posterior.terms,
            standard_deviation=posterior.standard_deviation,
            samples=posterior.source + (noise @ posterior.inverse_factor).reshape(-1, *self.prior.shape),
        )

    def at(self, strength):
        """The `Posterior` for one lambda: one Cholesky factor and its inverse."""
        matrix = self.system.curvature_matrix.copy(order="F")
        # F's diagonals are addressed through those of H, which is sparse; both are symmetric.
        H = self.prior.matrix.tocoo()
        matrix[H.row, H.col] += strength * H.data
        if self.prior.ridge:
            matrix[np.diag_indices(self.prior.size)] += self.prior.ridge
        return Posterior(matrix, self.system, self.prior, strength)

    def most_probable(self):
        """The `Posterior` of the lambda that maximises the evidence: Newton's method on log lambda.

        First guess and second derivative are those of a Lanczos run, which costs less than one factor and is right
        to about a percent; the first derivative is exact, so that they decide only how many steps it takes.
        """
        small = self.prior.size**2 < _MULTIPLICATIONS * self.system.data.size
        curvature = self._curvature_by_matrix if small else None
        guess, _, _ = MatrixFreeSolver(self.system, self.prior, curvature=curvature).evidence_curves()
        log_strength = guess.best()
        for _ in range(_MOST_STEPS):
            posterior = self.at(np.exp(log_strength))
            slope = log_evidence_slope(posterior.terms, self.prior.size)
            bend = min(guess.curvature(log_strength), -0.1 * posterior.terms["good_parameters"])
            if slope**2 < 2 * self.tolerance * abs(bend):
                break
            log_strength += float(np.clip(-slope / bend, -2, 2))
        else:
            warnings.warn(
                f"The search for the strength of the largest evidence ended after {_MOST_STEPS} steps at "
                f"{posterior.strength:g} without having converged; give a strength.",
                InputWarning,
                stacklevel=4,
            )
        return posterior

    def _curvature_by_matrix(self, source):
        return (source.reshape(-1, self.prior.size) @ self.system.curvature_matrix).reshape(source.shape)


class Posterior:
    """The Gaussian posterior for one lambda.

    Args:
      matrix: F + lambda H, [N, N] in Fortran's order; overwritten.
      system: `LinearSystem` of which it was made.
      prior: `Regularisation`, likewise.
      strength: lambda, likewise.
    """

    def __init__(self, matrix, system, prior, strength):
        self.system, self.prior, self.strength = system, prior, float(strength)
        factor, fault = lapack.dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
        if fault:
            raise InputError(
                f"F + lambda H is not positive definite at strength {strength:g} to rounding; raise the strength, or "
                "make the source grid coarser."
            )
        self.log_det = 2 * np.log(factor.diagonal()).sum()
        D = system.gradient_at_zero
        self.source = scipy.linalg.cho_solve((factor, True), D.reshape(-1), check_finite=False).reshape(D.shape)
        self.inverse_factor, _ = lapack.dtrtri(factor, lower=1, overwrite_c=1)
        """W with (F + lambda H)^-1 = W^T W, lower triangular."""

    @functools.cached_property
    def standard_deviation(self):
        """[n, m]."""
        return np.sqrt(np.einsum("ki,ki->i", self.inverse_factor, self.inverse_factor)).reshape(self.prior.shape)

    @functools.cached_property
    def terms(self):
        """The evidence's terms."""
        # tr (F + lambda H)^-1 H = tr W H W^T, with H as the sum of its diagonals
        H = self.prior.matrix.todia()
        trace = 0.0
        W = self.inverse_factor
        for offset, values in zip(H.offsets, H.data, strict=True):
            if offset > 0:
                trace += 2 * np.vdot(np.einsum("ki,ki->i", W[:, offset:], W[:, :-offset]), values[offset:])
            elif offset == 0:
                trace += np.vdot(self.standard_deviation.reshape(-1) ** 2, values)
        return evidence_terms(self.system, self.prior, self.strength, self.source, self.log_det, trace)

    @functools.cached_property
    def log_evidence(self):
        """Suyu et al. (2006), Eq. 19."""
        return log_evidence(self.terms, self.prior.ridge * float(np.vdot(self.source, self.source)))
