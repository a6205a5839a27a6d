"""What results are judged by: known for a perfect result, for white residuals, and under the prior itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rim_tf.evaluation import measures
from rim_tf.inference.linear.regularisation import Regularisation


def test_a_perfect_result_has_no_error(rng):
    truth = rng.random((3, 16, 16))
    columns = measures.of_sources(truth, truth)
    for name in ("rms", "flux_error", "negative_flux"):
        assert_allclose(columns[name], 0, atol=1e-12)
    assert_allclose(columns["ssim"], 1, rtol=1e-6)
    assert_allclose(columns["p12"], columns["p11"])
    assert_allclose(columns["p12"], columns["p22"])
    image, mask = rng.random((3, 20, 20)), np.ones((3, 20, 20), bool)
    mask[:, :3] = False
    data = np.where(mask, image + rng.normal(0, 0.1, image.shape), np.nan)
    residuals = measures.of_images(image, data, np.full_like(image, 0.1), mask)
    assert_allclose(residuals["chi2_per_pixel"], 1, atol=4 * np.sqrt(2 / mask[0].sum()))
    assert np.all(np.abs(residuals["whiteness"]) < 4)


def test_each_system_is_judged_alone(rng):
    truth, estimate = rng.random((2, 3, 16, 16))
    together = measures.of_sources(truth, estimate)
    for i in range(3):
        alone = measures.of_sources(truth[i : i + 1], estimate[i : i + 1])
        for name, values in together.items():
            assert_allclose(alone[name][0], values[i], rtol=1e-6, err_msg=name)


def test_sources_drawn_from_the_prior_are_as_rough_as_its_rank(rng):
    prior = Regularisation("gradient", "zero", (12, 12))
    drawn = prior.from_modes(rng.normal(size=(400, 12, 12)) / np.sqrt(prior.spectrum))
    columns = measures.of_prior(np.zeros_like(drawn), drawn, prior)
    assert np.all(columns["prior_rank"] == 144) and np.all(columns["truth_roughness"] == 0)
    # Chi^2 with 144 degrees of freedom, 400 times.
    assert columns["roughness"].mean() == pytest.approx(144, abs=4 * np.sqrt(2 * 144 / 400))
    source = drawn[0].ravel()
    assert columns["roughness"][0] == pytest.approx(source @ prior.matrix @ source)


def test_noise_is_in_units_of_the_true_peak():
    noiseless = np.zeros((2, 8, 8))
    noiseless[:, 3, 3] = [2.0, 5.0]
    assert_allclose(measures.noise_over_peak(np.full((2, 8, 8), 0.1), noiseless), [0.05, 0.02])


def test_summary_of_a_known_sample():
    values = np.linspace(-0.01, 0.03, 101)
    figures = measures.summarise({"rms": np.abs(values), "flux_error": values, "chi2_per_pixel": values})
    assert_allclose(figures["flux_error_percent"]["bias_mean"], 1)
    assert_allclose(figures["flux_error_percent"]["median_absolute"], 1)
    assert_allclose(figures["chi2_per_pixel"]["median"], 0.01)
    assert_allclose((figures["chi2_per_pixel"]["p16"], figures["chi2_per_pixel"]["p84"]), (-0.0036, 0.0236))
    assert_allclose(figures["rms_percent_of_peak"]["median"], 100 * np.median(np.abs(values)))


def test_a_summary_of_nothing_is_no_number():
    figures = measures.summarise({name: np.empty(0) for name in ("rms", "flux_error", "chi2_per_pixel")})
    assert figures["n"] == 0 and np.isnan(figures["flux_error_percent"]["bias_mean"])
    assert np.all(np.isnan(list(figures["rms_percent_of_peak"].values())))
