"""emcee, as in the paper: an ensemble of walkers (Goodman & Weare 2010; Foreman-Mackey et al. 2013).

It needs no gradient and does not mind a rough surface. All walkers of half a step are one call of the network.
"""

import json

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference.samplers.chain import Chain

# Initial walkers are drawn again while they are of zero probability, so many times.
_TRIES = 20


class EnsembleSampler:
    """As `rim_tf.inference.samplers.registry.SamplerClass` says.

    Args:
      settings: `rim_tf.config.EnsembleSettings`.
    """

    name = "emcee"
    block = 50

    def __init__(self, settings):
        self.settings, self.n_steps = settings, settings.steps
        # More steps may be asked for when a chain goes on.
        self.fingerprint = json.dumps({"walkers": settings.walkers, "seed": settings.seed})

    def check(self, n):
        walkers, steps = self.settings.walkers, self.settings.steps
        if walkers < 2 * n or walkers % 2:
            raise InputError(
                f"walkers is {walkers}; for {n} parameters emcee needs an even number of at least {2 * n}."
            )
        if steps < 20:
            raise InputError(f"steps is {steps}; a chain of fewer than 20 says nothing, and some hundreds are usual.")

    def begin(self, target, start):
        generator = np.random.default_rng(self.settings.seed)
        u = start.draw(self.settings.walkers, generator)
        log_prob = target(u)
        for _ in range(_TRIES):
            bad = np.flatnonzero(~np.isfinite(log_prob))
            if not len(bad):
                break
            u[bad] = start.draw(len(bad), generator)
            log_prob[bad] = target(u[bad])
        u[~np.isfinite(log_prob)] = start.u
        _, keys, place, has_gauss, gauss = np.random.RandomState(self.settings.seed).get_state()
        return {
            "u": u,
            "log_prob": target(u),
            "keys": keys,
            "place": np.array([place, has_gauss]),
            "gauss": np.array(gauss),
            "accepted": np.zeros(len(u)),
        }

    def advancing(self, target, start):
        """A function (state, steps done, steps wanted) -> (state, draws)."""
        import emcee

        def advance(state, done, n):
            sampler = emcee.EnsembleSampler(*state["u"].shape, target, vectorize=True)
            place, has_gauss = (int(each) for each in state["place"])
            random = ("MT19937", state["keys"], place, has_gauss, float(state["gauss"]))
            first = emcee.State(state["u"], log_prob=state["log_prob"], random_state=random)
            # Walkers that start alike are told apart by the moves, so emcee's check of the start is left out.
            last = sampler.run_mcmc(first, n, skip_initial_state_check=True)
            _, keys, place, has_gauss, gauss = last.random_state
            after = {
                "u": last.coords,
                "log_prob": last.log_prob,
                "keys": keys,
                "place": np.array([place, has_gauss]),
                "gauss": np.array(gauss),
                "accepted": state["accepted"] + sampler.backend.accepted,
            }
            draws = {"u": sampler.get_chain().transpose(1, 0, 2), "log_prob": sampler.get_log_prob().T}
            return after, draws

        return advance

    def chain(self, draws, state):
        n = draws["log_prob"].shape[1]
        burnt = int(self.settings.burn_in * n)
        return Chain(
            draws["u"][:, burnt:],
            draws["log_prob"][:, burnt:],
            None,
            state["accepted"] / n,
            draws["log_prob"].size + len(state["u"]),
            self.name,
        )
