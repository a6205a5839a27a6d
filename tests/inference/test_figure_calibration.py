"""Figures of a source, spread as known errors ask: the coefficients come back, and the truth lies where draws say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rim_tf.evaluation import coverage
from rim_tf.inference.figure_calibration import FIGURES, FigureCalibration, fit_figure
from rim_tf.results import source_figures

KNOWN = FigureCalibration(shift=-0.03, stretch=0.7, extra=0.03, tail=3.0)


@pytest.fixture(scope="module")
def systems():
    """Truths, reconstructions and draws [systems, draws] of some systems, whose draws want KNOWN."""
    rng, n = np.random.default_rng(3), 1500
    centre, sigma = rng.uniform(1, 5, n), rng.uniform(0.01, 0.1, n)
    middle = rng.normal(0, 0.3 * sigma)
    drawn = centre[:, None] * np.exp(middle[:, None] + sigma[:, None] * rng.normal(size=(n, 200)))
    off = KNOWN.stretch * sigma * rng.normal(size=n) + KNOWN.extra * rng.standard_t(KNOWN.tail, n)
    return centre * np.exp(KNOWN.shift + KNOWN.stretch * middle + off), centre, drawn, sigma


def test_coefficients_come_back(systems):
    truth, centre, drawn, sigma = systems
    found, distance = fit_figure(truth, centre, np.median(drawn, axis=1), sigma)
    assert_allclose([found.shift, found.stretch, found.extra], [KNOWN.shift, KNOWN.stretch, KNOWN.extra], rtol=0.2)
    assert distance < 0.46


def test_truths_lie_where_the_draws_say_and_did_not_before(systems):
    truth, centre, drawn, _ = systems
    rng = np.random.default_rng(4)
    spread = np.array([KNOWN.applied(each, c, rng) for each, c in zip(drawn, centre, strict=True)])
    right, wrong = (
        coverage.largest_deviation(coverage.ranks(truth[:, None], each[..., None])[:, 0]) for each in (spread, drawn)
    )
    assert right < 1.63 / np.sqrt(len(truth)) + 1 / 200 < 0.1 < wrong


def test_what_has_no_logarithm_stays():
    drawn, rng = np.array([0.0, 1.0, 2.0]), np.random.default_rng(0)
    assert_allclose(FigureCalibration().applied(drawn, 1.5, rng), drawn)
    assert KNOWN.applied(drawn, 1.5, rng)[0] == 0
    assert_allclose(KNOWN.applied(drawn, 0.0, rng), drawn)


def test_every_figure_of_a_source_has_one():
    assert set(FIGURES) == set(source_figures(np.ones((1, 8, 8)), 0.1, np.ones((8, 8))))
