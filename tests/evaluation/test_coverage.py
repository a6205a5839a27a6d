"""Coverage of posteriors that are right, too wide, too narrow and beside the truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2, kstest, norm

from rim_tf.evaluation.coverage import (
    LEVELS,
    band,
    coverage,
    credibility_of_density,
    credibility_of_gaussian,
    credibility_of_ranks,
    credibility_of_samples,
    histogram,
    largest_deviation,
    largest_deviation_of_histogram,
    ranks,
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


def test_ranks_of_weighted_draws(truth_and_mean, rng):
    """Draws from a wider law, weighted, are the posterior again."""
    truth, mean = truth_and_mean
    samples = mean[:, None] + 1.5 * rng.normal(size=(N, SAMPLES, 2))
    log_weight = (norm.logpdf(samples, mean[:, None], 1.0) - norm.logpdf(samples, mean[:, None], 1.5)).sum(-1)
    weights = np.exp(log_weight) / np.exp(log_weight).sum(1, keepdims=True)
    assert kstest(ranks(truth, samples, weights=weights)[:, 0], "uniform").pvalue > 1e-3
    assert kstest(ranks(truth, samples)[:, 0], "uniform").pvalue < 1e-9


def test_tarp_passes_right_posteriors_and_no_others(truth_and_mean, rng):
    pytest.importorskip("tarp")

    def deviation(width, shift):
        levels, found = tarp(*drawn(truth_and_mean, width, shift, rng))
        return np.abs(found - levels).max()

    right = deviation(1.0, 0.0)
    assert right < LIMIT
    for width, shift in WRONG.values():
        assert deviation(width, shift) > max(1.5 * right, LIMIT)


def ranked(truth, mean, width, shift, rng, **limits):
    samples = mean[:, None] + shift + width * rng.normal(size=(N, SAMPLES, 2))
    return ranks(truth, samples, rng, **limits)[:, 0]


def test_ranks_of_right_posteriors_are_uniform(truth_and_mean, rng):
    rank = ranked(*truth_and_mean, 1.0, 0.0, rng)
    assert largest_deviation(rank) < LIMIT
    assert largest_deviation(credibility_of_ranks(rank)) < LIMIT
    low, high = band(N, 20, 0.9999)
    counts = histogram(rank, 20)
    assert counts.sum() == N and np.all((low <= counts) & (counts <= high))


@pytest.mark.parametrize("name", WRONG)
def test_ranks_find_wrong_posteriors_out(name, truth_and_mean, rng):
    width, shift = WRONG[name]
    rank = ranked(*truth_and_mean, width, shift, rng)
    assert max(largest_deviation(rank), largest_deviation(credibility_of_ranks(rank))) > 1.5 * LIMIT
    low, high = band(N, 20, 0.9999)
    outer = histogram(rank, 20)[[0, -1]]
    if name == "too wide":
        assert outer.max() < low
    elif name == "too narrow":
        assert outer.min() > high
    else:
        assert outer[0] > high and outer[1] < low


def test_truths_that_equal_samples_are_ranked_by_lot(truth_and_mean, rng):
    # Brightness that is cut off at 0, as that of a dark pixel: half of the truths and of the samples are the same.
    truth, mean = truth_and_mean
    samples = np.maximum(mean[:, None] + rng.normal(size=(N, SAMPLES, 2)), 0)
    assert largest_deviation(ranks(np.maximum(truth, 0), samples, rng)[:, 0]) < LIMIT
    assert largest_deviation(ranks(np.maximum(truth, 0), samples, rng, nothing=0.3)[:, 0]) < LIMIT
    assert largest_deviation(np.mean(samples < np.maximum(truth, 0)[:, None], axis=1)[:, 0]) > 0.1
    # A posterior that is too narrow shows all the same.
    assert largest_deviation(ranked(truth, mean, 0.6, 0.0, rng, nothing=0.3)) > 1.5 * LIMIT


def test_a_histogram_tells_the_largest_deviation(rng):
    credibility = rng.uniform(size=3000) ** 1.3
    counts = histogram(credibility, 200)
    assert_allclose(largest_deviation_of_histogram(counts), largest_deviation(credibility), atol=1 / 200)
    assert largest_deviation_of_histogram(counts) > 0.08
