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
    below = np.mean(np.asarray(samples) < np.asarray(truth)[..., None, :], axis=-2)
    return np.abs(2 * below - 1)


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
