"""Importance sampling: independent draws from Student's t about the best lens, weighted by the posterior.

It costs one batch of the network, and says by its weights how good the proposal was.
"""

import dataclasses
import json

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference.samplers.chain import Chain


class ImportanceSampler:
    """As `rim_tf.inference.samplers.registry.SamplerClass` says.

    Args:
      settings: `rim_tf.config.ImportanceSettings`.
    """

    name = "importance"
    block = 256

    def __init__(self, settings):
        self.settings, self.n_steps = settings, settings.draws
        self.fingerprint = json.dumps({"seed": settings.seed, "stretch": settings.stretch, "dof": settings.dof})

    def check(self, n):
        if self.settings.draws < 10 * n:
            raise InputError(
                f"draws is {self.settings.draws}; for {n} parameters at least {10 * n} are needed, some hundreds usual."
            )

    def begin(self, target, start):
        return {}

    def advancing(self, target, start):
        """A function (state, draws done, draws wanted) -> (state, draws)."""
        covariance = self.settings.stretch**2 * start.covariance
        proposal = dataclasses.replace(start, covariance=covariance, dof=self.settings.dof)

        def advance(state, done, n):
            u = proposal.draw(n, np.random.default_rng([self.settings.seed, done]))
            log_prob = target(u)
            return state, {"u": u[None], "log_prob": log_prob[None], "proposed": proposal.log_density(u)[None]}

        return advance

    def chain(self, draws, state):
        weight = np.maximum(draws["log_prob"] - draws["proposed"], -1e300)
        n = draws["log_prob"].size
        return Chain(draws["u"], draws["log_prob"], weight, np.array([np.nan]), n, self.name)
