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


def ranks(truth, samples, rng, nothing=None):
    """Share of the samples below each truth, for each parameter alone: uniform between 0 and 1 of right posteriors.

    Where samples equal the truth, as those of a dark pixel do, it is drawn by lot between the least and the largest
    share that they allow, so that it is uniform then too. To judge some of the parameters alone, choose them by the
    data or by the posterior, never by the truth: of bright true pixels, right posteriors too are often too faint.

    Args:
      truth: [..., parameters].
      samples: [..., n, parameters].
      rng: `numpy.random.Generator`.
      nothing: what is below it counts as it, as brightness below what can be told from none; None for no such limit.
    """
    truth, samples = np.asarray(truth)[..., None, :], np.asarray(samples)
    if nothing is not None:
        truth, samples = np.maximum(truth, nothing), np.maximum(samples, nothing)
    below, equal = np.sum(samples < truth, axis=-2), np.sum(samples == truth, axis=-2)
    return (below + rng.uniform(size=below.shape) * (equal + 1)) / (samples.shape[-2] + 1)


def credibility_of_ranks(rank):
    """That of the central interval between quantiles, from `ranks` of any shape."""
    return np.abs(2 * np.asarray(rank) - 1)


def histogram(values, bins):
    """Counts of numbers between 0 and 1 in bins of equal width, [bins]; of ranks or of credibilities."""
    return np.histogram(values, bins, (0.0, 1.0))[0]


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
