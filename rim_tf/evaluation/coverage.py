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
    return np.abs(2 * rank(truth, samples) - 1)


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


def rank(truth, samples, weights=None):
    """Share of a posterior below the truth, for each parameter alone: uniform between 0 and 1 where it is right.

    Args:
      truth: [..., parameters].
      samples: [..., n, parameters].
      weights: of the samples, which sum to 1, [..., n]; None where all weigh the same.
    """
    samples, truth = np.asarray(samples), np.asarray(truth)[..., None, :]
    # Half of what is equal, so that a rank has no preference for a side.
    below = (samples < truth) + 0.5 * (samples == truth)
    return below.mean(axis=-2) if weights is None else (np.asarray(weights)[..., None] * below).sum(axis=-2)


def rank_histogram(ranks, bins=10, level=0.95):
    """How many ranks fall into each of so many bins, and between what numbers a right posterior's would.

    Args:
      ranks: [n].
      bins: how many.
      level: of the band, for each bin alone.

    Returns:
      Counts [bins], and the band's lower and upper end.
    """
    from scipy.stats import binom

    counts, _ = np.histogram(ranks, bins=bins, range=(0, 1))
    n, share = len(ranks), 1 / bins
    return counts, int(binom.ppf((1 - level) / 2, n, share)), int(binom.ppf((1 + level) / 2, n, share))


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
