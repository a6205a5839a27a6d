"""Whether stated errors are right: how often the truth lies within regions that claim to hold it so often.

All goes by the credibility of each truth, the smallest share of the posterior that holds it: of n systems with right
posteriors these are n uniform numbers between 0 and 1. Arrays in, arrays out.
"""

import numpy as np

# What one, two and three standard deviations of a normal distribution hold.
LEVELS = (0.6827, 0.9545, 0.9973)


def credibility_of_gaussian(truth, mean, sigma):
    """That of the central interval of a normal distribution; arrays of one shape -> the same shape."""
    from scipy.special import erf

    return erf(np.abs(np.asarray(truth, float) - mean) / (np.sqrt(2) * np.asarray(sigma, float)))


def credibility_of_samples(truth, samples):
    """That of the central interval between quantiles of samples, for each parameter alone.

    Args:
      truth: [..., parameters].
      samples: [..., n, parameters].
    """
    return credibility_of_ranks(ranks(truth, samples))


def ranks(truth, samples, rng=None, nothing=None, weights=None):
    """Share of a posterior below each truth, for each parameter alone: uniform between 0 and 1 where it is right.

    Where samples equal the truth, as those of a dark pixel do, half of them count, or, with a generator, as many as a
    lot says, so that the ranks are uniform then too. To judge some of the parameters alone, choose them by the data or
    by the posterior, never by the truth: of bright true pixels, right posteriors too are often too faint.

    Args:
      truth: [..., parameters].
      samples: [..., n, parameters].
      rng: `numpy.random.Generator` or None.
      nothing: what is below it counts as it, as brightness below what can be told from none; None for no such limit.
      weights: of the samples, which sum to 1, [..., n]; None where all weigh the same.
    """
    truth, samples = np.asarray(truth)[..., None, :], np.asarray(samples)
    if nothing is not None:
        truth, samples = np.maximum(truth, nothing), np.maximum(samples, nothing)
    n = samples.shape[-2]
    weights = np.full(n, 1 / n) if weights is None else np.asarray(weights)
    below, equal = (np.sum(weights[..., None] * each, axis=-2) for each in (samples < truth, samples == truth))
    if rng is None:
        return below + 0.5 * equal
    # The truth is one more of them, wherever it may stand.
    return (n * below + rng.uniform(size=below.shape) * (n * equal + 1)) / (n + 1)


def credibility_of_ranks(rank):
    """That of the central interval between quantiles, from `ranks` of any shape."""
    return np.abs(2 * np.asarray(rank) - 1)


def histogram(values, bins):
    """Counts of numbers between 0 and 1 in bins of equal width, [bins]; of ranks or of credibilities."""
    return np.histogram(values, bins, (0.0, 1.0))[0]


def coverage_of_histogram(counts, levels=LEVELS):
    """`coverage` of numbers of which a `histogram` was kept, [bins]: between the edges of its bins, linear."""
    covered = np.r_[0, np.cumsum(counts)] / np.sum(counts)
    return np.interp(levels, np.linspace(0, 1, len(covered)), covered)


def largest_deviation_of_histogram(counts):
    """`largest_deviation` of numbers of which a `histogram` was kept, at the edges of its bins.

    Args:
      counts: [bins, ...].
    """
    counts = np.asarray(counts, float)
    covered = np.cumsum(counts, axis=0) / np.sum(counts, axis=0)
    levels = np.arange(1, len(counts) + 1) / len(counts)
    return np.max(np.abs(covered - levels.reshape(-1, *(1,) * (counts.ndim - 1))), axis=0)


def band(n, bins, share=0.99):
    """Where counts in a `histogram` of n independent ranks of right posteriors lie, in that share of the bins."""
    from scipy.stats import binom

    return binom.ppf([(1 - share) / 2, (1 + share) / 2], n, 1 / bins)


def credibility_of_density(log_prob_of_truth, log_prob_of_samples):
    """That of the region of highest density, for all parameters together.

    Args:
      log_prob_of_truth: [...].
      log_prob_of_samples: [..., n], of samples of the same posterior.
    """
    return np.mean(np.asarray(log_prob_of_samples) > np.asarray(log_prob_of_truth)[..., None], axis=-1)


def coverage(credibility, levels=LEVELS):
    """Share of the systems whose truth lies within the region of each level: [n, ...] -> [levels, ...]."""
    credibility = np.asarray(credibility)
    return np.stack([np.mean(credibility <= level, axis=0) for level in levels])


def largest_deviation(credibility):
    """The largest difference between coverage and level, over all levels: [n, ...] -> [...].

    Of n right posteriors it exceeds 1.36 / sqrt(n) in 5 % of all cases and 1.63 / sqrt(n) in 1 % (Kolmogorov).
    """
    ordered = np.sort(np.asarray(credibility, float), axis=0)
    n = len(ordered)
    steps = np.arange(n).reshape(-1, *(1,) * (ordered.ndim - 1)) / n
    return np.maximum(np.max(steps + 1 / n - ordered, axis=0), np.max(ordered - steps, axis=0))


def tarp(truth, samples, seed=0):
    """Coverage of regions around random points, all parameters together (Lemos et al. 2023), by the package tarp.

    The points are drawn about each posterior, which they may depend on, as far from its mean as it is wide: points
    that are far off all posteriors see little else than one direction.

    Args:
      truth: [systems, parameters].
      samples: [systems, n, parameters].
      seed: of the points.

    Returns:
      Levels and the coverage of each, [k].
    """
    from tarp import get_tarp_coverage

    truth, samples = np.asarray(truth, float), np.asarray(samples, float)
    mean, sigma = samples.mean(axis=1), samples.std(axis=1)
    points = np.random.default_rng(seed).normal(size=truth.shape) * np.sqrt(2)
    scaled = ((samples - mean[:, None]) / sigma[:, None]).transpose(1, 0, 2)
    found, levels = get_tarp_coverage(
        scaled, (truth - mean) / sigma, references=points, norm=False, num_alpha_bins=max(len(truth) // 5, 10)
    )
    return levels, found
