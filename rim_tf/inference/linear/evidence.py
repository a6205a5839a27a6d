"""What both solvers of a linear inversion share: the evidence put together from its terms, and its maximum."""

import dataclasses
import warnings

import numpy as np
from scipy.optimize import minimize_scalar

from rim_tf.errors import InputWarning


@dataclasses.dataclass(frozen=True)
class Solution:
    """What a solver returns; the attributes are those of `rim_tf.inference.linear.inversion.Inversion`."""

    source: np.ndarray
    strength: float
    log_evidence: float
    log_evidence_error: float
    evidence_terms: dict
    standard_deviation: np.ndarray | None
    samples: np.ndarray


def evidence_terms(system, prior, strength, source, log_det_posterior, trace):
    """The dictionary `evidence_terms` of an Inversion; `trace` is tr (F + lambda H)^-1 H."""
    return {
        "chi2": system.chi2(source),
        "regularisation": float(strength * np.vdot(source, prior.apply(source))),
        "log_det_posterior": float(log_det_posterior),
        "log_det_prior": prior.log_det(strength),
        "noise_normalisation": system.noise_normalisation,
        "good_parameters": float(prior.size - strength * trace),
        "rank": float(prior.rank),
    }


def log_evidence(terms, ridge_term=0.0):
    """Suyu et al. (2006), Eq. 19. `ridge_term` is ridge s^T s, of no weight where the brightness is about 1."""
    quadratic = terms["chi2"] + terms["regularisation"] + ridge_term
    determinants = terms["log_det_posterior"] - terms["log_det_prior"]
    return -0.5 * (quadratic + determinants + terms["noise_normalisation"])


def log_evidence_slope(terms, size):
    """d log evidence / d log lambda: 0 where lambda s^T H s counts the good parameters (Suyu et al., Eq. 16).

    The `size` - rank directions in which H is singular have a prior that lambda does not move: they do not count.
    """
    return 0.5 * (terms["good_parameters"] - (size - terms["rank"]) - terms["regularisation"])


class EvidenceCurve:
    """log evidence of log lambda, up to a constant, from the spectrum of K = H^-1/2 F H^-1/2.

    F + lambda H = H^1/2 (K + lambda) H^1/2, so that with b = H^-1/2 D, up to a constant, 2 log evidence =
    b^T (K + lambda)^-1 b - log det(1 + K / lambda): for all lambda at once from the eigenvalues of K, or from
    nodes and weights that stand for them (Lanczos).

    Args:
      fit_nodes: with fit_weights, such that b^T f(K) b = sum weight f(node).
      fit_weights: the same shape.
      nodes: with weights, such that trace f(K) = sum weight f(node).
      weights: the same shape.
      n_null: dimensions in which H is singular (`Regularisation.size` - `rank`).
    """

    def __init__(self, fit_nodes, fit_weights, nodes, weights, n_null=0):
        self.fit_nodes, self.fit_weights = np.maximum(np.ravel(fit_nodes), 0), np.ravel(fit_weights)
        self.nodes, self.weights = np.maximum(np.ravel(nodes), 0), np.ravel(weights)
        self.n_null = n_null

    def value(self, log_strength):
        """Up to a constant."""
        strength = np.exp(log_strength)
        fit = (self.fit_weights / (self.fit_nodes + strength)).sum()
        return 0.5 * (fit - self.log_det_ratio(strength) - self.n_null * log_strength)

    def log_det_ratio(self, strength):
        """log det(1 + K / lambda) = log det(F + lambda H) - log det(lambda H)."""
        return float((self.weights * np.log1p(self.nodes / strength)).sum())

    def good_parameters(self, strength):
        """tr K (K + lambda)^-1 = N - lambda tr (F + lambda H)^-1 H."""
        return float((self.weights * self.nodes / (self.nodes + strength)).sum())

    def curvature(self, log_strength):
        """Second derivative in log lambda, below 0 near the maximum."""
        strength = np.exp(log_strength)
        fit = strength * self.fit_weights * (strength - self.fit_nodes) / (self.fit_nodes + strength) ** 3
        counted = self.weights * self.nodes * strength / (self.nodes + strength) ** 2
        return 0.5 * (fit.sum() - counted.sum())

    def best(self):
        """log lambda of the maximum; warns where there is none between a lambda too small and one too large to act."""
        largest = np.log(self.nodes.max())
        grid = np.linspace(largest - 35, largest + 10, 181)
        values = [self.value(x) for x in grid]
        i = int(np.argmax(values))
        if i in (0, len(grid) - 1):
            warnings.warn(
                "The evidence has no maximum in the strength: the image has no signal that this prior could explain, "
                "or no noise. Give a strength.",
                InputWarning,
                stacklevel=5,
            )
            return float(grid[i])
        found = minimize_scalar(
            lambda x: -self.value(x), bounds=(grid[i - 1], grid[i + 1]), method="bounded", options={"xatol": 1e-7}
        )
        return float(found.x)
