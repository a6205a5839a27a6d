"""Linear inversion without matrices: conjugate gradients, and log-determinants by stochastic Lanczos quadrature.

With H^-1/2 known on any grid (`regularisation`), F + lambda H = H^1/2 (K + lambda) H^1/2, K = H^-1/2 F H^-1/2. Krylov
spaces of K + lambda are those of K, so one Lanczos run from b = H^-1/2 D, and one from each random probe, give the
evidence at every lambda (Bai, Fahey & Golub 1996; Ubaru, Chen & Saad 2017), and the search for the best is free.

A probe z of signs has the expectation z^T f(K) z = tr f(K), and the spread of the probes is the standard error. It
is made small by taking off what is known: on the smoothest modes of H, K is computed as a matrix K_V and its log det
exactly, so that the probes have only tr f(K) - tr f(K_V) left to say. The same seed draws the same probes: of two
lenses or priors on one grid, the difference of the evidences is known better than either.
"""

import functools

import numpy as np
import scipy.linalg

from rim_tf.errors import InputError
from rim_tf.inference.linear.evidence import EvidenceCurve, Solution, evidence_terms, log_evidence

_PROBES = 16
# Modes of H on each axis on which K is computed as a matrix.
_KNOWN_MODES = 16
# Right-hand sides, or columns, that are worked on at once.
_BLOCK = 64
# Lanczos runs end when the log evidence at its maximum moves by less than this between two looks.
_LANCZOS_TOLERANCE = 0.1
_LOOK_EVERY = 10
# A look costs more the longer the run is, so looks come after this share of it.
_LOOK_SHARE = 1 / 8
_MOST_STEPS = 2000
# Conjugate gradients end at this residual, relative to the right-hand side.
_CG_TOLERANCE = 1e-9
# Noise of 0.1 % of the peak makes the condition number 10^6, and takes about a thousand.
_MOST_CG_STEPS = 10_000
# From fewer samples no standard deviation is given.
_FEWEST_SAMPLES = 2


class MatrixFreeSolver:
    """The solver of large grids: memory and time of a step grow as the number of pixels.

    Args:
      system: `LinearSystem`.
      prior: `Regularisation`.
      seed: of the probes and of the samples.
      probes: how many random vectors the log-determinant is estimated from, at least 2.
      known_modes: modes of H on each axis on which K is computed as a matrix.
      curvature: s -> F s, [k, n, m], where there is a faster way than `system.curvature`.
    """

    def __init__(self, system, prior, seed=0, probes=_PROBES, known_modes=_KNOWN_MODES, curvature=None):
        self.system, self.prior, self.seed = system, prior, seed
        self.curvature = curvature or system.curvature
        self.scale = prior.positive_spectrum**-0.5
        rng = np.random.default_rng([seed, 0])
        self.probes = rng.choice([-1.0, 1.0], size=(probes, *prior.shape))
        self.known = tuple(min(n, known_modes) for n in prior.shape)
        self.b = self.scale * prior.to_modes(system.gradient_at_zero)

    def solve(self, strength=None, samples=0):
        """The `Solution` at `strength`, or at the one that maximises the evidence."""
        curve, curves, unfinished = self.evidence_curves(strength)
        log_strength = curve.best() if strength is None else float(np.log(strength))
        strength = float(np.exp(log_strength))
        draws = self._perturbations(samples, strength)
        solved = self._conjugate_gradients(np.concatenate([self.b[None], draws]), strength)
        sources = self.prior.from_modes(self.scale * solved)
        # Where H is singular, its part in the posterior's log det is that of what stands in for its zeros.
        log_det = np.log(strength * self.prior.positive_spectrum).sum() + curve.log_det_ratio(strength)
        trace = (self.prior.size - curve.good_parameters(strength)) / strength
        terms = evidence_terms(self.system, self.prior, strength, sources[0], log_det, trace)
        spread = np.std([each.value(log_strength) for each in curves], ddof=1) / np.sqrt(len(curves))
        return Solution(
            source=sources[0],
            strength=strength,
            log_evidence=log_evidence(terms, self.prior.ridge * float(np.vdot(sources[0], sources[0]))),
            log_evidence_error=float(np.hypot(spread, unfinished)),
            evidence_terms=terms,
            standard_deviation=self._standard_deviation(sources[1:]),
            samples=sources[0] + sources[1:],
        )

    def operator(self, v):
        """K v in the modes of H, [..., n, m] -> the same."""
        return self.scale * self.prior.to_modes(self.curvature(self.prior.from_modes(self.scale * v)))

    def evidence_curves(self, strength=None):
        """What the Lanczos runs say, once they have converged at `strength` or at the best one.

        Returns:
          The `EvidenceCurve` of all probes together; a list of those of each; how far the log evidence still moved.
        """
        known_nodes, known_modes = self.known_spectrum
        runs = Lanczos(self.operator, np.concatenate([self.b[None], self.probes]))
        before = np.inf
        while True:
            runs.advance(max(_LOOK_EVERY, int(_LOOK_SHARE * runs.steps)))
            mean, curves = self._curves_so_far(runs.quadratures(), known_nodes, known_modes)
            value = mean.value(mean.best() if strength is None else np.log(strength))
            moved, before = abs(value - before), value
            if moved < _LANCZOS_TOLERANCE or runs.steps >= _MOST_STEPS:
                return mean, curves, moved

    def _curves_so_far(self, quadratures, known_nodes, known_modes):
        """The curve of all probes, and those of each, from the first run (of b) and the others (of the probes)."""
        n_null = self.prior.size - self.prior.rank
        fit_nodes, fit_weights = quadratures[0]
        fit_weights = fit_weights * (self.b**2).sum()
        rows, columns = self.known
        parts = self.probes[:, :rows, :columns].reshape(len(self.probes), -1) @ known_modes
        curves = [
            EvidenceCurve(
                fit_nodes,
                fit_weights,
                np.concatenate([nodes, known_nodes]),
                # tr f(K_V), and what this probe says of tr f(K) - tr f(K_V); a probe of signs has the norm^2 N
                np.concatenate([weights * self.prior.size, 1 - part**2]),
                n_null,
            )
            for (nodes, weights), part in zip(quadratures[1:], parts, strict=True)
        ]
        nodes = np.concatenate([each.nodes for each in curves])
        weights = np.concatenate([each.weights for each in curves]) / len(curves)
        return EvidenceCurve(fit_nodes, fit_weights, nodes, weights, n_null), curves

    @functools.cached_property
    def known_spectrum(self):
        """Eigenvalues and eigenvectors of K_V."""
        rows, columns = self.known
        K = np.empty((rows * columns, rows * columns))
        for start in range(0, len(K), _BLOCK):
            stop = min(start + _BLOCK, len(K))
            unit = np.zeros((stop - start, *self.prior.shape))
            i, j = np.divmod(np.arange(start, stop), columns)
            unit[np.arange(len(unit)), i, j] = 1.0
            K[start:stop] = self.operator(unit)[:, :rows, :columns].reshape(len(unit), -1)
        return scipy.linalg.eigh((K + K.T) / 2, overwrite_a=True)

    @functools.cached_property
    def _rough_diagonal(self):
        """About the diagonal of K [n, m]: that of F, the same for all modes on average, times that of H^-1."""
        return self.scale**2 * _inner(self.probes, self.curvature(self.probes)).mean() / self.prior.size

    def _precondition(self, r, strength):
        """About (K + lambda)^-1 r, [k, n, m]: exact within the known modes, which hold nearly all of K, and diagonal
        beyond them."""
        rows, columns = self.known
        nodes, modes = self.known_spectrum
        z = r / (self._rough_diagonal + strength)
        inner = r[:, :rows, :columns].reshape(len(r), -1) @ modes / (np.maximum(nodes, 0) + strength)
        z[:, :rows, :columns] = (inner @ modes.T).reshape(len(r), rows, columns)
        return z

    def _perturbations(self, samples, strength):
        """H^-1/2 times draws of a vector with the covariance F + lambda H, [samples, n, m].

        Their solutions have the covariance of the posterior (perturb and optimise, Papandreou & Yuille 2010).
        """
        rng = np.random.default_rng([self.seed, 1])
        draws = []
        for _ in range(samples):
            noise = np.sqrt(self.system.weight) * rng.normal(size=self.system.data.shape)
            prior = np.sqrt(strength) * rng.normal(size=self.prior.shape)
            draws.append(self.scale * self.prior.to_modes(self.system.adjoint(noise)) + prior)
        return np.stack(draws) if draws else np.empty((0, *self.prior.shape))

    def _standard_deviation(self, deviations):
        """Root mean square of the samples' deviations, unbiased in the variance; None where they are too few."""
        if len(deviations) < _FEWEST_SAMPLES:
            return None
        return np.sqrt((deviations**2).mean(axis=0))

    def _conjugate_gradients(self, right, strength):
        """(K + lambda)^-1 of a stack [k, n, m], each with its own steps, in blocks."""
        return np.concatenate(
            [self._solve_block(right[i : i + _BLOCK], strength) for i in range(0, len(right), _BLOCK)]
        )

    def _solve_block(self, right, strength):
        x, r = np.zeros_like(right), right.copy()
        z = self._precondition(r, strength)
        p, rz, goal = z, _inner(r, z), _CG_TOLERANCE**2 * _inner(r, r)
        active = goal > 0
        for _ in range(_MOST_CG_STEPS):
            if not active.any():
                return x
            q = self.operator(p) + strength * p
            step = np.where(active, rz / np.maximum(_inner(p, q), np.finfo(float).tiny), 0)[:, None, None]
            x += step * p
            r -= step * q
            active &= _inner(r, r) > goal
            z = self._precondition(r, strength)
            rz, old = _inner(r, z), rz
            p = z + np.where(active, rz / np.maximum(old, np.finfo(float).tiny), 0)[:, None, None] * p
        raise InputError(
            f"Conjugate gradients did not converge in {_MOST_CG_STEPS} steps at strength {strength:g}; raise the "
            "strength, or make the source grid coarser."
        )


def _inner(a, b):
    return np.einsum("kij,kij->k", a, b)


class Lanczos:
    """Lanczos runs of one operator from several starts, side by side, to be continued as long as needed.

    Without reorthogonalisation: rounding repeats eigenvalues that have converged, and the quadrature weights share
    themselves among the copies, so that sums over all nodes stay right (Greenbaum 1989).

    Args:
      operator: symmetric, on stacks [k, n, m].
      start: [k, n, m], one run each.
    """

    def __init__(self, operator, start):
        self.operator = operator
        self.vector = _normalised(start, np.sqrt(_inner(start, start)))
        self.previous = np.zeros_like(self.vector)
        self.diagonal, self.beside = [], [np.zeros(len(start))]

    @property
    def steps(self):
        """How many steps were made."""
        return len(self.diagonal)

    def advance(self, steps):
        """As many further steps."""
        for _ in range(steps):
            new = self.operator(self.vector) - self.beside[-1][:, None, None] * self.previous
            self.diagonal.append(_inner(self.vector, new))
            new -= self.diagonal[-1][:, None, None] * self.vector
            self.beside.append(np.sqrt(_inner(new, new)))
            self.previous, self.vector = self.vector, _normalised(new, self.beside[-1])

    def quadratures(self):
        """For each start x the nodes and weights of x^T f(K) x / x^T x, Gauss's of the run so far."""
        diagonal, beside = np.array(self.diagonal), np.array(self.beside)[1:-1]
        return [_gauss(diagonal[:, i], beside[:, i]) for i in range(diagonal.shape[1])]


def _normalised(vectors, norms):
    """A vector of norm 0 stays 0: the run has found all there is, and its further nodes have no weight."""
    return vectors / np.maximum(norms, np.finfo(float).tiny)[:, None, None]


def _gauss(diagonal, beside):
    try:
        nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside)
    except scipy.linalg.LinAlgError:  # divide and conquer fails on some long runs with many copies; QR is slower
        nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, lapack_driver="stev")
    return nodes, vectors[0] ** 2
