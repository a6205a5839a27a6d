"""Importance sampling: independent draws from Student's t about the best lens, weighted by the posterior.

It costs one batch of the network, and says by its weights how good the proposal was. Where the best lens is that of
another method, the proposal is first moved, in rounds: to the Gaussian whose logarithm is the quadratic that fits the
posterior best at draws from it.
"""

import dataclasses
import json

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference.samplers.chain import Chain

# Draws of a round for each coefficient of the quadratic, and how many of them count at least.
_DRAWS, _COUNTED = 3.5, 2.0
# In one round no direction gets wider or narrower than so many times, and nothing moves by more than so many errors.
_WIDER, _NARROWER, _FARTHEST = 3.0, 10.0, 5.0


class ImportanceSampler:
    """As `rim_tf.inference.samplers.registry.SamplerClass` says.

    Args:
      settings: `rim_tf.config.ImportanceSettings`.
    """

    name = "importance"
    block = 256

    def __init__(self, settings):
        self.settings, self.n_steps = settings, settings.draws
        self.fingerprint = json.dumps({name: getattr(settings, name) for name in ("seed", "stretch", "dof", "rounds")})

    def check(self, n):
        if self.settings.draws < 10 * n:
            raise InputError(
                f"draws is {self.settings.draws}; for {n} parameters at least {10 * n} are needed, some hundreds usual."
            )

    def begin(self, target, start):
        law, done = start, 0
        for number in range(self.settings.rounds):
            # Other draws than those that count, whose seeds end with no 1.
            generator = np.random.default_rng([self.settings.seed, number, 1])
            u = self._proposal(law).draw(int(_DRAWS * _n_coefficients(len(law.u))), generator)
            law, done = moved(law, u, target(u)), done + len(u)
        return {"u": law.u, "covariance": law.covariance, "evaluations": np.array(done)}

    def _proposal(self, law):
        return law.widened(self.settings.stretch, self.settings.dof)

    def advancing(self, target, start):
        """A function (state, draws done, draws wanted) -> (state, draws)."""

        def advance(state, done, n):
            proposal = self._proposal(dataclasses.replace(start, u=state["u"], covariance=state["covariance"]))
            u = proposal.draw(n, np.random.default_rng([self.settings.seed, done]))
            log_prob = target(u)
            return state, {"u": u[None], "log_prob": log_prob[None], "proposed": proposal.log_density(u)[None]}

        return advance

    def chain(self, draws, state):
        weight = np.maximum(draws["log_prob"] - draws["proposed"], -1e300)
        n = draws["log_prob"].size + int(state["evaluations"])
        return Chain(draws["u"], draws["log_prob"], weight, np.array([np.nan]), n, self.name)


def moved(law, u, log_prob):
    """The `Gaussian` whose logarithm fits a log density best at some draws.

    Args:
      law: `Gaussian` about which they are drawn, from which it does not go far.
      u: draws, [n, columns].
      log_prob: there, [n]; minus infinity where there is none. Where too few are finite, `law` stays.
    """
    finite = np.isfinite(log_prob)
    root, size = np.linalg.cholesky(law.covariance), len(law.u)
    least = _COUNTED * _n_coefficients(size)
    if finite.sum() < least:
        return law
    z, log_prob = np.linalg.solve(root, (u[finite] - law.u).T).T, log_prob[finite] - log_prob[finite].max()
    rows, columns = np.triu_indices(size)
    design = np.concatenate([np.ones((len(z), 1)), z, z[:, rows] * z[:, columns]], axis=1)
    weight = np.exp(0.5 * _flattened(log_prob, least))[:, None]
    found = np.linalg.lstsq(weight * design, weight[:, 0] * log_prob, rcond=None)[0]
    half = np.zeros((size, size))
    half[rows, columns] = found[size + 1 :]
    values, vectors = np.linalg.eigh(-half - half.T)
    values = np.clip(values, _WIDER**-2, _NARROWER**2)
    step = vectors @ (vectors.T @ found[1 : size + 1] / values)
    step *= min(1.0, _FARTHEST / max(np.linalg.norm(step), 1e-30))
    turned = root @ vectors
    return dataclasses.replace(law, u=law.u + root @ step, covariance=(turned / values) @ turned.T)


def _n_coefficients(n):
    """Of a quadratic in n parameters."""
    return (n + 1) * (n + 2) // 2


def _flattened(log_weight, least):
    """Logarithms of weights, largest 0, times the largest factor up to 1 by which so many of them still count."""
    low, high = 0.0, 1.0
    for _ in range(40):
        power = (low + high) / 2
        weight = np.exp(power * log_weight)
        # By Kish's formula.
        low, high = (power, high) if weight.sum() ** 2 / (weight**2).sum() > least else (low, power)
    return low * log_weight
