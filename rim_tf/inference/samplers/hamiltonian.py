"""Hamiltonian Monte Carlo and NUTS by TensorFlow Probability, with the gradient through the network.

Coordinates are scaled by the Gauss-Newton covariance, which is a mass matrix; the step is adapted while the chains warm
up and then stays. A warm-up that is interrupted begins anew; after it, blocks have seeds of their own.
"""

import json

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference.samplers.chain import Chain

# Shares of accepted steps that the step's size is adapted to.
_ACCEPTED = {"hmc": 0.75, "nuts": 0.8}
_FIRST_STEP = 0.5


class HamiltonianSampler:
    """As `rim_tf.inference.samplers.registry.SamplerClass` says.

    Args:
      settings: `rim_tf.config.HamiltonianSettings`.
    """

    block = 50
    name = "hmc"

    def __init__(self, settings):
        self.settings, self.n_steps = settings, settings.draws
        self.fingerprint = json.dumps(
            {
                "chains": settings.chains,
                "warm_up": settings.warm_up,
                "leapfrog_steps": settings.leapfrog_steps,
                "seed": settings.seed,
            }
        )

    def check(self, n):
        settings = self.settings
        if settings.chains < 2 or settings.warm_up < 10 or settings.draws < 10:
            raise InputError(
                f"chains is {settings.chains}, warm_up {settings.warm_up} and draws {settings.draws}; there must be at "
                "least 2 chains, so that they can be compared, and 10 steps of each kind."
            )

    def begin(self, target, start):
        import tensorflow as tf

        generator = np.random.default_rng(self.settings.seed)
        z = _scaled(start.draw(self.settings.chains, generator), start).astype(np.float32)
        kernel, tfp = self._kernel(target, start, tf.constant(_FIRST_STEP)), _tfp()
        adapted = tfp.mcmc.DualAveragingStepSizeAdaptation(
            kernel, int(0.8 * self.settings.warm_up), target_accept_prob=_ACCEPTED[self.name]
        )

        @tf.function(autograph=False)
        def warm_up(z):
            return tfp.mcmc.sample_chain(
                num_results=1,
                num_burnin_steps=self.settings.warm_up - 1,
                current_state=z,
                kernel=adapted,
                trace_fn=lambda _, results: results.new_step_size,
                seed=tf.constant([self.settings.seed, 0]),
            )

        states, step = warm_up(tf.constant(z))
        n = len(z)
        return {
            "z": states[-1].numpy(),
            "step": np.ravel(step.numpy())[-1].astype(np.float32),
            "accepted": np.zeros(n),
            "evaluations": np.array(self.settings.warm_up * n),
        }

    def advancing(self, target, start):
        """A function (state, draws done, draws wanted) -> (state, draws)."""
        import tensorflow as tf

        tfp = _tfp()

        @tf.function(autograph=False)
        def block(z, step, n, seed):
            kernel = self._kernel(target, start, step)
            return tfp.mcmc.sample_chain(
                num_results=n, num_burnin_steps=0, current_state=z, kernel=kernel, trace_fn=self._traced, seed=seed
            )

        def advance(state, done, n):
            given = tf.constant(state["z"]), tf.constant(state["step"]), tf.constant(n)
            states, traced = block(*given, tf.constant([self.settings.seed, 1 + done]))
            log_prob, accepted, leapfrogs = (each.numpy() for each in traced)
            z = states.numpy()
            after = {
                "z": z[-1],
                "step": state["step"],
                "accepted": state["accepted"] + accepted.sum(0),
                "evaluations": state["evaluations"] + leapfrogs.sum(),
            }
            u = start.u + z.astype(float) @ np.linalg.cholesky(start.covariance).T
            return after, {"u": u.transpose(1, 0, 2), "log_prob": log_prob.T.astype(float)}

        return advance

    def chain(self, draws, state):
        n = draws["log_prob"].shape[1]
        accepted, evaluations = state["accepted"] / n, int(state["evaluations"])
        return Chain(draws["u"], draws["log_prob"], None, accepted, evaluations, self.name)

    def _kernel(self, target, start, step):
        return _tfp().mcmc.HamiltonianMonteCarlo(
            _in_scaled(target, start), step, num_leapfrog_steps=self.settings.leapfrog_steps
        )

    def _traced(self, _, results):
        import tensorflow as tf

        accepted = tf.cast(results.is_accepted, tf.float32)
        return (
            results.accepted_results.target_log_prob,
            accepted,
            tf.fill(tf.shape(accepted), self.settings.leapfrog_steps),
        )


class NoUTurnSampler(HamiltonianSampler):
    """NUTS (Hoffman & Gelman 2014): as long a trajectory as is worth it."""

    name = "nuts"

    def _kernel(self, target, start, step):
        return _tfp().mcmc.NoUTurnSampler(_in_scaled(target, start), step, max_tree_depth=6)

    def _traced(self, _, results):
        import tensorflow as tf

        return results.target_log_prob, tf.cast(results.is_accepted, tf.float32), results.leapfrogs_taken


def _tfp():
    """TensorFlow Probability, which takes seconds to import and needs tf-keras."""
    try:
        import tensorflow_probability as tfp

        tfp.mcmc  # noqa: B018, for it is imported when it is looked at
    except ImportError as error:
        raise InputError(
            f"TensorFlow Probability cannot be imported ({error}); install rim_tf[hamiltonian], or take emcee."
        ) from None
    return tfp


def _scaled(u, start):
    return np.linalg.solve(np.linalg.cholesky(start.covariance), (u - start.u).T).T


def _in_scaled(target, start):
    """log density of z with u = centre + root z, a function of tensors."""
    import tensorflow as tf

    root = tf.constant(np.linalg.cholesky(start.covariance).astype(np.float32))
    centre = tf.constant(start.u.astype(np.float32))

    def log_prob(z):
        return target.tensor(centre + tf.matmul(z, root, transpose_b=True))

    return log_prob
