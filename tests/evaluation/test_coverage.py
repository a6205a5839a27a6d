"""Coverage of posteriors that are right, too wide, too narrow and beside the truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2, kstest, norm

from rim_tf.evaluation.coverage import (
    LEVELS,
    coverage,
    credibility_of_density,
    credibility_of_gaussian,
    credibility_of_samples,
    largest_deviation,
    rank,
    rank_histogram,
    tarp,
)

N, SAMPLES = 4000, 400
# What n right posteriors exceed once in a thousand cases.
LIMIT = 1.95 / np.sqrt(N)
# Width of the stated posterior over that of the right one, and its shift in widths.
WRONG = {"too wide": (1.3, 0.0), "too narrow": (0.75, 0.0), "beside": (1.0, 0.5)}


@pytest.fixture
def truth_and_mean(rng):
    mean = rng.normal(size=(N, 2))
    return mean + rng.normal(size=(N, 2)), mean


def credibilities(truth, mean, width, shift, rng):
    """The same posteriors judged in three ways; the last is of both parameters together."""
    stated = mean + shift
    samples = stated[:, None] + width * rng.normal(size=(N, SAMPLES, 2))

    def log_prob(x):
        return norm.logpdf(x, stated[:, None], width).sum(axis=-1)

    return [
        credibility_of_gaussian(truth, stated, width)[:, 0],
        credibility_of_samples(truth, samples)[:, 1],
        credibility_of_density(log_prob(truth[:, None])[:, 0], log_prob(samples)),
    ]


def test_right_posteriors_cover_what_they_say(truth_and_mean, rng):
    for credibility in credibilities(*truth_and_mean, 1.0, 0.0, rng):
        covered = coverage(credibility)
        assert_allclose(covered, LEVELS, atol=0.025)
        assert largest_deviation(credibility) < LIMIT + 1 / SAMPLES


@pytest.mark.parametrize("name", WRONG)
def test_wrong_posteriors_are_found_out(name, truth_and_mean, rng):
    width, shift = WRONG[name]
    for credibility in credibilities(*truth_and_mean, width, shift, rng):
        assert largest_deviation(credibility) > 1.5 * LIMIT
        too_many = coverage(credibility)[0] > LEVELS[0]
        assert too_many == (name == "too wide")


def test_coverage_is_that_of_the_known_law(truth_and_mean, rng):
    truth, mean = truth_and_mean
    covered = coverage(credibility_of_gaussian(truth, mean, 0.75))
    assert_allclose(covered[:, 0], 2 * norm.cdf(0.75 * norm.ppf((1 + np.array(LEVELS)) / 2)) - 1, atol=0.03)
    joint = credibilities(truth, mean, 0.75, 0.0, rng)[2]
    assert_allclose(coverage(joint), chi2(2).cdf(0.75**2 * chi2(2).ppf(LEVELS)), atol=0.03)


def test_largest_deviation_is_kolmogorovs_statistic(rng):
    credibility = rng.uniform(size=(300, 2)) ** 1.2
    expected = [kstest(column, "uniform").statistic for column in credibility.T]
    assert_allclose(largest_deviation(credibility), expected, rtol=1e-12)


# Of each diagnostic, what a right posterior passes and each wrong one must not.


def drawn(truth_and_mean, width, shift, rng):
    truth, mean = truth_and_mean
    return truth, (mean + shift)[:, None] + width * rng.normal(size=(N, SAMPLES, 2))


def outside(ranks):
    counts, low, high = rank_histogram(ranks, 10, 0.999)
    return int(((counts < low) | (counts > high)).sum())


def test_ranks_of_right_posteriors_are_uniform(truth_and_mean, rng):
    ranks = rank(*drawn(truth_and_mean, 1.0, 0.0, rng))
    assert kstest(ranks[:, 0], "uniform").pvalue > 1e-3 and outside(ranks[:, 0]) == 0


@pytest.mark.parametrize("name", WRONG)
def test_ranks_of_wrong_posteriors_are_not(name, truth_and_mean, rng):
    ranks = rank(*drawn(truth_and_mean, *WRONG[name], rng))
    assert kstest(ranks[:, 0], "uniform").pvalue < 1e-9 and outside(ranks[:, 0]) > 3


def test_ranks_of_weighted_draws(truth_and_mean, rng):
    """Draws from a wider law, weighted, are the posterior again."""
    truth, mean = truth_and_mean
    samples = mean[:, None] + 1.5 * rng.normal(size=(N, SAMPLES, 2))
    log_weight = (norm.logpdf(samples, mean[:, None], 1.0) - norm.logpdf(samples, mean[:, None], 1.5)).sum(-1)
    weights = np.exp(log_weight) / np.exp(log_weight).sum(1, keepdims=True)
    assert kstest(rank(truth, samples, weights)[:, 0], "uniform").pvalue > 1e-3
    assert kstest(rank(truth, samples)[:, 0], "uniform").pvalue < 1e-9


def test_tarp_passes_right_posteriors_and_no_others(truth_and_mean, rng):
    pytest.importorskip("tarp")

    def deviation(width, shift):
        levels, found = tarp(*drawn(truth_and_mean, width, shift, rng))
        return np.abs(found - levels).max()

    right = deviation(1.0, 0.0)
    assert right < LIMIT
    for width, shift in WRONG.values():
        assert deviation(width, shift) > max(1.5 * right, LIMIT)
