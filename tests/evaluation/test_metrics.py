"""Metrics on images whose figures are known in closed form, or whose distribution is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, stats

from rim_tf.evaluation import metrics
from rim_tf.evaluation.metrics import chi2_per_pixel, flux_error, rms_error


def test_rms_is_in_units_of_the_true_peak():
    source = np.zeros((2, 10, 10))
    source[:, 5, 5] = [1.0, 4.0]
    estimate = source + np.array([0.1, 0.4])[:, None, None]
    assert_allclose(rms_error(source, estimate), 0.1)


def test_a_source_that_was_moved_stretched_and_turned_is_aligned_again():
    y, x = np.indices((40, 40)) - 19.5

    def galaxy(x, y):
        return np.exp(-(x**2 / 40 + y**2 / 12)) + 0.7 * np.exp(-((x - 6) ** 2 + (y + 4) ** 2) / 8)

    angle, scale = 0.15, 1.08
    moved = galaxy(
        scale * (np.cos(angle) * x - np.sin(angle) * y) + 2.0, scale * (np.sin(angle) * x + np.cos(angle) * y) - 1.0
    )
    assert metrics.aligned_rms(galaxy(x, y), moved) < 0.01 < 0.07 < rms_error(galaxy(x, y), moved)
    # It never makes worse, and a mirror image stays one.
    other = galaxy(-x, y)
    assert 0.02 < metrics.aligned_rms(galaxy(x, y), other) <= rms_error(galaxy(x, y), other)


def test_flux_error_keeps_its_sign():
    source = np.ones((2, 4, 4))
    assert_allclose(flux_error(source, source * np.array([1.1, 0.9])[:, None, None]), [0.1, -0.1])


def test_negative_flux_is_a_share_of_all_light():
    assert_allclose(metrics.negative_flux(np.array([[[3.0, -1.0]], [[1.0, 2.0]], [[0.0, 0.0]]])), [0.25, 0, 0])


def test_psnr_and_ssim_do_not_depend_on_the_unit(rng):
    source = rng.random((2, 16, 16))
    estimate = source + 0.1 * source.max(axis=(1, 2), keepdims=True) * rng.choice([-1, 1], size=source.shape)
    psnr, ssim = metrics.image_quality(source, estimate)
    assert_allclose(psnr, 20, rtol=1e-5)  # an error of a tenth of the peak everywhere
    assert_allclose(metrics.image_quality(7 * source, 7 * estimate), (psnr, ssim), rtol=1e-5)
    assert np.all(ssim < 1)
    assert_allclose(metrics.image_quality(source, source)[1], 1, rtol=1e-6)


# -------------------------------------------------------------------------------------------- against the data


def test_chi2_counts_only_unmasked_pixels(rng):
    model, noise = rng.normal(size=(3, 8, 8)), rng.uniform(1, 2, size=(3, 8, 8))
    mask = rng.uniform(size=(3, 8, 8)) < 0.7
    data = np.where(mask, model + 2 * noise, np.nan)
    assert_allclose(chi2_per_pixel(data, model, noise, mask), 4)


def test_whiteness_of_white_noise_is_a_standard_normal_number(rng):
    mask = rng.uniform(size=(2000, 20, 24)) < 0.8
    correlation, whiteness = metrics.residual_whiteness(rng.normal(size=mask.shape), mask)
    assert stats.kstest(whiteness, "norm").pvalue > 0.01
    assert abs(correlation.mean()) < 4 * correlation.std() / np.sqrt(2000)


def test_whiteness_sees_structure_and_fitted_noise(rng):
    noise, mask = rng.normal(size=(5, 32, 32)), np.ones((5, 32, 32), bool)
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
    assert np.all(metrics.residual_whiteness(noise + smooth, mask)[1] > 3)
    assert np.all(metrics.residual_whiteness(noise - smooth, mask)[1] < -3)


def test_correlation_of_neighbours_is_that_of_the_field():
    column = np.arange(400)
    wave = np.sqrt(2) * np.cos(2 * np.pi * (column[:, None] + column) / 8)  # neighbours on either axis: cos(pi / 4)
    correlation, _ = metrics.residual_whiteness(wave, np.ones_like(wave, bool))
    assert_allclose(correlation, np.cos(np.pi / 4), rtol=2e-3)


def test_prior_distance_is_the_papers():
    assert_allclose(metrics.prior_distance(-100.0, -15.0), 13, rtol=5e-3)  # 85 is 13 sigma in Section 3
    assert_allclose(metrics.prior_distance(-100.0, [-100.0, -102.0]), [0, -2])


# ------------------------------------------------------------------------------------- coherence, Equation 8


def coherence_of(source, estimate):
    return metrics.coherence(*metrics.radial_power(source, estimate))


def modes_in_rings(n):
    k = np.fft.fftfreq(n, 1 / n)
    return np.bincount(np.rint(np.hypot(k[:, None], k)).astype(int).ravel())[: n // 2 + 1]


@pytest.mark.parametrize("n", [16, 17])
def test_identical_fields_are_coherent(rng, n):
    source = rng.normal(size=(3, n, n))
    assert_allclose(coherence_of(source, source), 1, rtol=1e-12)
    assert_allclose(coherence_of(source, 0.3 * source), 1, rtol=1e-12)  # amplitude does not count
    assert_allclose(coherence_of(source, -source), -1, rtol=1e-12)


def test_independent_fields_are_not(rng):
    n, n_systems = 32, 400
    values = coherence_of(*rng.normal(size=(2, n_systems, n, n)))[:, 1:]
    modes = modes_in_rings(n)[1:]
    # A mean over m modes of which each is there twice, as k and -k, scatters by 1 / sqrt(m).
    scatter = np.sqrt(np.mean(values**2, axis=0) * modes)
    assert_allclose(scatter[3:], 1, atol=0.2)
    assert np.all(np.abs(values.mean(axis=0)) * np.sqrt(n_systems * modes) < 4)


def test_half_mixed_fields_have_the_known_coherence(rng):
    source, other = rng.normal(size=(2, 200, 32, 32))
    powers = metrics.radial_power(source, source + other)
    for average in (metrics.mean_coherence, metrics.pooled_coherence):
        curve = average([power[:, 4:] for power in powers], np.ones(200))
        assert_allclose(curve, 1 / np.sqrt(2), rtol=0.03)


def test_the_modulus_is_taken_last(rng):
    powers = metrics.radial_power(*rng.normal(size=(2, 400, 16, 16)))
    p12, p11, p22 = (power[:, 1:] for power in powers)
    too_good = np.mean(np.abs(metrics.coherence(p12, p11, p22)), axis=0)
    for average in (metrics.mean_coherence, metrics.pooled_coherence):
        right = average((p12, p11, p22), np.ones(400))
        assert np.all(right < 0.5 * too_good)


def test_powers_are_those_of_a_wave():
    n, k = 24, 5
    wave = np.cos(2 * np.pi * k * np.arange(n) / n)[None, :] * np.ones((n, 1))
    p12, p11, p22 = metrics.radial_power(wave, 2 * wave)
    modes = modes_in_rings(n)[k]
    expected = np.where(np.arange(n // 2 + 1) == k, 2 * (n * n / 2) ** 2 / modes, 0)  # two modes of n^2 / 2
    assert_allclose(p11, expected, atol=1e-6)
    assert_allclose((p12, p22), (2 * expected, 4 * expected), atol=1e-6)


def test_an_image_of_nothing_has_no_coherence(rng):
    assert_allclose(coherence_of(rng.normal(size=(16, 16)), np.zeros((16, 16))), 0)


def test_powers_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="wanted the same square"):
        metrics.radial_power(np.zeros((4, 6)), np.zeros((4, 6)))


# --------------------------------------------------------------------------------------- how sure a figure is


def test_the_bootstrap_error_of_a_mean_is_known(rng):
    values = rng.normal(3, 2, size=400)
    figure = metrics.bootstrap(values, np.mean, n_draws=2000)
    assert figure["value"] == pytest.approx(values.mean()) and figure["n"] == 400
    assert figure["error"] == pytest.approx(values.std() / 20, rel=0.06)
    assert figure["high"] - figure["low"] == pytest.approx(2 * figure["error"], rel=0.1)


def test_the_bootstrap_covers_the_truth_two_times_in_three(rng):
    figures = [metrics.bootstrap(sample, np.median, 200) for sample in rng.normal(size=(200, 60))]
    assert np.mean([figure["low"] < 0 < figure["high"] for figure in figures]) == pytest.approx(0.68, abs=0.1)


def test_a_figure_of_nothing_is_no_number():
    for figure in (metrics.bootstrap([], np.median), metrics.percentage(np.array([], bool))):
        assert figure["n"] == 0 and np.isnan(figure["value"]) and np.isnan(figure["error"])


def test_what_is_undefined_shows_and_one_value_has_no_error():
    assert np.isnan(metrics.bootstrap([1.0, np.nan, 2.0], np.median)["value"])
    assert metrics.bootstrap([3.0], np.median) == {"value": 3, "error": 0, "low": 3, "high": 3, "n": 1}
    assert metrics.percentage(np.array([True]))["low"] == pytest.approx(50)


def test_the_bootstrap_draws_from_the_sample_with_replacement(rng):
    # By hand: 500 samples as large as the first, percentiles of one sigma.
    values = rng.normal(size=37)
    draws = np.median(values[np.random.default_rng(3).integers(37, size=(500, 37))], axis=-1)
    figure = metrics.bootstrap(values, np.median, seed=3)
    assert (figure["low"], figure["high"]) == pytest.approx(tuple(np.percentile(draws, (16, 84))))
    assert figure["error"] == pytest.approx(draws.std())


def test_a_percentage_of_all_or_none_has_an_error_too():
    figure = metrics.percentage(np.ones(25, bool))
    assert figure["value"] == 100
    assert (figure["low"], figure["high"]) == pytest.approx((100 * 25 / 26, 100))
    half = metrics.percentage(np.arange(400) < 200)
    assert half["error"] == pytest.approx(100 * 0.5 / 20, rel=1e-2)


def test_bootstrap_weights_are_samples_of_the_same_size():
    weights = metrics.bootstrap_weights(30, 100)
    assert weights.shape == (100, 30) and np.all(weights.sum(axis=1) == 30)


def test_the_summary_of_a_result_and_the_study_have_the_same_correlation(rng):
    from rim_tf.results import correlation_of_neighbours

    noise, mask = ndimage.gaussian_filter(rng.normal(size=(2, 20, 24)), (0, 1, 0)), rng.uniform(size=(2, 20, 24)) < 0.8
    found = correlation_of_neighbours(np.where(mask, noise, np.nan), mask)
    pairs = [
        (noise[0, i, j], noise[0, k, m])
        for i, j in zip(*np.nonzero(mask[0]), strict=True)
        for k, m in ((i + 1, j), (i, j + 1))
        if k < 20 and m < 24 and mask[0, k, m]
    ]
    products = [a * b for a, b in pairs]
    assert_allclose(found[0][0], np.mean(products) / np.mean(noise[0][mask[0]] ** 2))
    assert_allclose((found[1][0], found[2][0]), (np.sum(products), len(pairs)))
    assert_allclose(metrics.residual_whiteness(noise, mask)[0], found[0])
    assert np.isnan(correlation_of_neighbours(noise[0], np.zeros((20, 24), bool))[0])
