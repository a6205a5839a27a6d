"""Metrics on images whose figures are known in closed form."""

import numpy as np
from numpy.testing import assert_allclose

from rim_tf.evaluation.metrics import chi2_per_pixel, flux_error, rms_error, summarise


def test_rms_is_in_units_of_the_true_peak():
    source = np.zeros((2, 10, 10))
    source[:, 5, 5] = [1.0, 4.0]
    estimate = source + np.array([0.1, 0.4])[:, None, None]
    assert_allclose(rms_error(source, estimate), 0.1)


def test_flux_error_keeps_its_sign():
    source = np.ones((2, 4, 4))
    assert_allclose(flux_error(source, source * np.array([1.1, 0.9])[:, None, None]), [0.1, -0.1])


def test_chi2_counts_only_unmasked_pixels(rng):
    model, noise = rng.normal(size=(3, 8, 8)), rng.uniform(1, 2, size=(3, 8, 8))
    mask = rng.uniform(size=(3, 8, 8)) < 0.7
    data = np.where(mask, model + 2 * noise, np.nan)
    assert_allclose(chi2_per_pixel(data, model, noise, mask), 4)


def test_summary_of_a_known_sample():
    values = np.linspace(-0.01, 0.03, 101)
    figures = summarise(np.abs(values), values, values)
    assert_allclose(figures["flux_error_percent"]["bias_mean"], 1)
    assert_allclose(figures["flux_error_percent"]["median_absolute"], 1)
    assert_allclose(figures["chi2_per_pixel"]["median"], 0.01)
