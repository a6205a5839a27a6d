"""What samplers return and keep: draws, how far they are to be trusted, and a file from which a run goes on.

A sampler has a state, arrays by name, and advances it by a block of steps. After each block draws and state are
written, whole or not at all, so that a run that was stopped goes on where it was and ends as if it had never been.
"""

import dataclasses
import pathlib

import numpy as np

from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, check_file, load_arrays, save_arrays

# Chains have converged when R-hat is below the first (Vehtari et al. 2021) and the effective samples above the second.
R_HAT, LEAST_SAMPLES = 1.02, 200
# Of an ensemble of more chains than the first, each is short, and R-hat scatters up to the second.
_MANY, _R_HAT_OF_MANY = 8, 1.1
# Weighted draws are to be trusted up to this Pareto k (Vehtari et al. 2024), and from so many effective samples on.
PARETO_K, LEAST_WEIGHTED = 0.7, 100
# A share of accepted steps below this is a chain that stands still.
_STUCK = 1e-3


class NotConverged(InputError):
    """Draws that must not be summarised.

    Attributes:
      chain: the `Chain`.
      found: what other methods had found before, a list of `LensSamples`.
    """

    def __init__(self, sentence, chain, found=()):
        super().__init__(sentence)
        self.chain, self.found = chain, list(found)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Draws of lenses in the coordinates without bounds.

    Attributes:
      u: [chains, draws, columns].
      log_prob: of the posterior there, [chains, draws].
      log_weight: of weighted draws, [chains, draws]; None where all weigh the same.
      acceptance: share of the steps that were accepted in each chain, [chains]; NaN where there are no steps.
      n_evaluations: lenses that the posterior was worked out for; of gradients, each counts as one.
      sampler: its name.
    """

    u: np.ndarray
    log_prob: np.ndarray
    log_weight: np.ndarray | None
    acceptance: np.ndarray
    n_evaluations: int
    sampler: str

    @property
    def weights(self):
        """Normalised, [chains, draws]."""
        if self.log_weight is None:
            return np.full(self.log_prob.shape, 1 / self.log_prob.size)
        return normalised(self.log_weight)

    def r_hat(self):
        """Rank-normalised split R-hat of each column; NaN for weighted draws, or fewer than four of them."""
        from arviz_stats.base import array_stats

        if self.log_weight is not None or self.u.shape[1] < 4:
            return np.full(self.u.shape[-1], np.nan)
        return np.asarray(array_stats.rhat(self.u, chain_axis=0, draw_axis=1))

    def effective_samples(self):
        """Of each column, [columns]: bulk, of chains; by Kish's formula, of weighted draws."""
        from arviz_stats.base import array_stats

        if self.log_weight is not None:
            return np.full(self.u.shape[-1], 1 / (self.weights**2).sum())
        if self.u.shape[1] < 4:
            return np.full(self.u.shape[-1], np.nan)
        return np.asarray(array_stats.ess(self.u, chain_axis=0, draw_axis=1))

    def pareto_k(self):
        """How heavy the tail of the weights is; NaN where there are none."""
        from arviz_stats.base import array_stats

        if self.log_weight is None:
            return float("nan")
        return float(array_stats.psislw(-self.log_weight.ravel())[1])

    def faults(self):
        """Why these draws must not be trusted, as phrases; none where they have converged."""
        moved = np.ptp(self.u, axis=1).max(axis=-1) > 0
        if not moved.any() or (np.isfinite(self.acceptance).all() and (self.acceptance < _STUCK).all()):
            return [f"all {len(self.u)} chains are stuck: none accepts a step"]
        n, found = np.min(self.effective_samples()), []
        if self.log_weight is not None:
            k = self.pareto_k()
            if not k < PARETO_K:
                found.append(f"a few draws have nearly all the weight (Pareto k {k:.2f}, at most {PARETO_K} wanted)")
            least = LEAST_WEIGHTED
        else:
            r_hat, least = np.max(self.r_hat()), LEAST_SAMPLES
            limit = R_HAT if len(self.u) <= _MANY else _R_HAT_OF_MANY
            if not r_hat < limit:
                found.append(f"its chains differ (R-hat {r_hat:.3f}, at most {limit} wanted)")
        if not n >= least:
            found.append(f"it has {n:.0f} effective samples, where {least} are wanted")
        return found

    def check(self):
        """`self`, where it has converged; NotConverged otherwise."""
        faults = self.faults()
        if faults:
            raise NotConverged(f"The chain of {self.sampler} has not converged: {' and '.join(faults)}.", self)
        return self

    def draws(self, n, seed=0):
        """n draws of equal weight, [n, columns], of a chain that has converged."""
        self.check()
        generator = np.random.default_rng(seed)
        u, weights = self.u.reshape(-1, self.u.shape[-1]), self.weights.ravel()
        if self.log_weight is None:
            return u[generator.choice(len(u), n, replace=n > len(u))]
        return u[resampled(weights, n, generator)]

    def figures(self):
        """What is told of it, as plain values."""
        return {
            "sampler": self.sampler,
            "converged": not self.faults(),
            "faults": self.faults(),
            "r_hat": float(np.max(self.r_hat())),
            "effective_samples": float(np.min(self.effective_samples())),
            "pareto_k": self.pareto_k(),
            "acceptance": float(np.mean(self.acceptance)),
            "evaluations": self.n_evaluations,
        }

    def write(self, path, names, posterior_lenses):
        """A NetCDF file that ArviZ opens: groups posterior (a variable for each parameter) and sample_stats.

        Args:
          path: of the file.
          names: of the parameters.
          posterior_lenses: the draws as lenses, [chains, draws, columns].
        """
        import arviz_base

        from rim_tf.files import written_whole

        stats = {"lp": self.log_prob}
        if self.log_weight is not None:
            stats["log_weight"] = self.log_weight
        parameters = {name: posterior_lenses[..., i] for i, name in enumerate(names)}
        tree = arviz_base.from_dict({"posterior": parameters, "sample_stats": stats})
        with written_whole(path) as unfinished:
            tree.to_netcdf(unfinished, engine="h5netcdf")


def normalised(log_weight):
    """Weights that sum to 1, of their logarithms up to a constant."""
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def resampled(weights, n, generator):
    """Indices [n] of draws with these weights, which sum to 1, each as often as its weight says, to within one."""
    # One draw in each n-th of the weight: less noise than n independent ones.
    places = (np.arange(n) + generator.uniform()) / n
    return generator.permutation(np.searchsorted(np.cumsum(weights), places).clip(max=len(weights) - 1))


def run(sampler, target, start, path=None, progress=None):
    """Draws of a posterior, from the beginning or from where a file says.

    Args:
      sampler: what `rim_tf.inference.samplers.registry` describes.
      target: `rim_tf.inference.posterior.LogPosterior`, or what has its `fingerprint` and takes u to log densities.
      start: `rim_tf.inference.posterior.Gaussian` about the best lens.
      path: of the file of the chain (.npz), or None to keep none.
      progress: is called with the steps done and all of them.

    Returns:
      `Chain`, converged or not.

    Raises:
      InputError: settings that make no chain, a start of zero probability, a damaged file, or one of another model,
        data, prior, temperature or settings.
    """
    from rim_tf.inference.posterior import checksum

    sampler.check(len(start.u))
    known = checksum(target.fingerprint, sampler.name, sampler.fingerprint, start.u, start.covariance)
    state, parts = _stored(path, known)
    if state is None:
        if not np.isfinite(target(start.u[None])[0]):
            raise InputError(
                "The start has zero probability: its likelihood or its prior is 0 or no number; start from another "
                "lens, or widen the prior."
            )
        state, parts = sampler.begin(target, start), []
    done, n = sum(part["log_prob"].shape[1] for part in parts), sampler.n_steps
    advance = sampler.advancing(target, start) if done < n else None
    while done < n:
        if progress is not None:
            progress(done, n)
        state, part = advance(state, done, min(sampler.block, n - done))
        parts.append(part)
        done += part["log_prob"].shape[1]
        _store(path, known, state, parts)
    if progress is not None:
        progress(n, n)
    return sampler.chain({name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}, state)


def _stored(path, known):
    if path is None or not pathlib.Path(path).exists():
        return None, []
    check_file(path)
    try:
        arrays = load_arrays(path)
        found = str(arrays.pop("checksum"))
    except DAMAGED as error:
        raise InputError(f"{path} is no chain that can be read ({error}); remove it, or give another file.") from None
    if found != known:
        raise InputError(
            f"{path} is a chain of another model, data, prior, temperature, start or settings of the sampler; remove "
            "it, or choose another --out."
        )
    parts = {name[5:]: value for name, value in arrays.items() if name.startswith("part_")}
    return {name[6:]: value for name, value in arrays.items() if name.startswith("state_")}, [parts]


def _store(path, known, state, parts):
    if path is None:
        return
    joined = {f"part_{name}": np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    save_arrays(path, {"checksum": known} | {f"state_{name}": value for name, value in state.items()} | joined)
