"""Importance sampling: independent draws from Student's t about the best lens, weighted by the posterior.

It costs one batch of the network, and says by its weights how good the proposal was. Where the best lens is that of
another method, the proposal is first moved, in rounds, to mean and covariance of its own weighted draws (population
Monte Carlo, Cappe et al. 2004), with weights so flattened that enough of them count.
"""

import dataclasses
import json

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference.samplers.chain import Chain

# Effective samples for each parameter that the weights of a round are flattened to.
_COUNTED = 5


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
        law = start
        for number in range(self.settings.rounds):
            proposal = self._proposal(law)
            n = max(self.settings.draws // 2, 10 * len(law.u))
            u = proposal.draw(n, np.random.default_rng([self.settings.seed, number, 0]))
            law = moved(law, u, np.maximum(target(u) - proposal.log_density(u), -1e300))
        return {"u": law.u, "covariance": law.covariance}

    def _proposal(self, law):
        return dataclasses.replace(law, covariance=self.settings.stretch**2 * law.covariance, dof=self.settings.dof)

    def advancing(self, target, start):
        """A function (state, draws done, draws wanted) -> (state, draws)."""

        def advance(state, done, n):
            proposal = self._proposal(dataclasses.replace(start, **state))
            u = proposal.draw(n, np.random.default_rng([self.settings.seed, done]))
            log_prob = target(u)
            return state, {"u": u[None], "log_prob": log_prob[None], "proposed": proposal.log_density(u)[None]}

        return advance

    def chain(self, draws, state):
        weight = np.maximum(draws["log_prob"] - draws["proposed"], -1e300)
        n = draws["log_prob"].size
        return Chain(draws["u"], draws["log_prob"], weight, np.array([np.nan]), n, self.name)


def moved(law, u, log_weight):
    """A `Gaussian` of the mean and covariance of weighted draws.

    Args:
      law: `Gaussian` of which the draws are; a little of its covariance is kept, the more the fewer draws count.
      u: draws, [n, columns].
      log_weight: [n].
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _effective(middle * log_weight) > _COUNTED * len(law.u) else (low, middle)
    power = 1.0 if _effective(log_weight) > _COUNTED * len(law.u) else low
    weight = np.exp(power * (log_weight - log_weight.max()))
    weight /= weight.sum()
    mean = weight @ u
    covariance = (weight[:, None] * (u - mean)).T @ (u - mean)
    kept = 1 / _effective(power * log_weight)
    return dataclasses.replace(law, u=mean, covariance=(1 - kept) * covariance + kept * law.covariance)


def _effective(log_weight):
    """How many draws of equal weight they are worth (Kish)."""
    weight = np.exp(log_weight - log_weight.max())
    return weight.sum() ** 2 / (weight**2).sum()
