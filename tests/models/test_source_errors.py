"""Distributions of sources: the density is SciPy's, the draws have its covariance, and no unit matters."""

import dataclasses

import numpy as np
import pytest
from gradients import array, tensor, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import SMALL_ERRORS, SMALL_SMALL, doubled, observation, stirred
from scipy.stats import multivariate_normal, norm

from rim_tf.errors import InputError
from rim_tf.models.rim import RIM
from rim_tf.models.source_errors import (
    BRIGHTNESSES,
    N_SEEN,
    NOISES,
    SourceDistribution,
    SourceErrors,
    from_real,
    to_real,
    views,
)
from rim_tf.models.wavelets import synthesise
from rim_tf.physics.imaging import imaging_problem

log_prob = whole(lambda head, source, levels: SourceDistribution(head, levels).log_prob(source), "levels")
sample = whole(lambda head, n, seed: SourceDistribution(head, 2).sample(n, seed), "n", "seed")


def head(rng, ratio=None, n=8, unit=0.5, batch=2, bright=False):
    """Any head in float64, its mean bright enough where asked for that no draw comes near 0.

    With a `ratio` of 1 both Gaussians of each wavelet are one.
    """
    mean = rng.normal(size=(batch, n, n)) + (60.0 if bright else 0.0)
    log_sigma, logit = rng.normal(size=(batch, n, n)) * 0.3, rng.normal(size=(batch, n, n)) - 1
    log_ratio = np.full_like(mean, np.log(ratio)) if ratio else rng.uniform(0.1, 1.5, size=(batch, n, n))
    log_width = rng.normal(size=mean.shape) * 0.3
    return tensor(np.stack([mean, np.full_like(mean, unit), log_sigma, log_ratio, logit, log_width], -1))


def wavelets(n, levels):
    """Each wavelet as a column, [n n, n n]."""
    return array(synthesise(tensor(np.eye(n * n).reshape(-1, n, n)), levels)).reshape(n * n, n * n).T


def variance(head):
    """Of each wavelet, [batch, n, n]."""
    _, _, log_sigma, log_ratio, logit, _ = np.moveaxis(array(head), -1, 0)
    share = 1 / (1 + np.exp(-logit))
    return np.exp(2 * log_sigma) * (1 - share + share * np.exp(2 * log_ratio))


def covariance(head, levels, system):
    """The covariance in the coordinates of `to_real`, as a matrix."""
    basis = np.exp(array(head)[system, ..., 5]).reshape(-1, 1) * wavelets(head.shape[1], levels)
    return basis @ np.diag(variance(head)[system].ravel()) @ basis.T


@pytest.mark.parametrize("levels", [0, 2])
def test_the_density_of_one_gaussian_is_that_of_a_dense_covariance(levels, rng):
    given = head(rng, ratio=1.0)
    source = rng.uniform(0, 2, (2, 8, 8))
    found = array(log_prob(given, tensor(source), levels))
    y = array(to_real(tensor(source), tensor([0.5, 0.5])))
    for i in range(2):
        law = multivariate_normal(array(given)[i, ..., 0].ravel(), covariance(given, levels, i))
        assert_allclose(found[i], law.logpdf(y[i].ravel()), rtol=1e-7)  # Keras on JAX rounds a constant to float32


def test_the_density_of_two_is_their_sum(rng):
    given = head(rng)
    source = rng.uniform(0, 2, (2, 8, 8))
    found = array(log_prob(given, tensor(source), 2))
    mean, unit, log_sigma, log_ratio, logit, log_width = np.moveaxis(array(given), -1, 0)
    y = array(to_real(tensor(source), tensor(unit[:, 0, 0])))
    for i in range(2):
        offset = (wavelets(8, 2).T @ ((y[i] - mean[i]) / np.exp(log_width[i])).ravel()).reshape(8, 8)
        share, width = 1 / (1 + np.exp(-logit[i])), np.exp(log_sigma[i])
        density = (1 - share) * norm.pdf(offset, scale=width)
        density += share * norm.pdf(offset, scale=width * np.exp(log_ratio[i]))
        assert_allclose(found[i], np.log(density).sum() - log_width[i].sum(), rtol=1e-8)


def test_draws_have_mean_and_covariance_of_the_law(rng):
    given = head(rng, n=4, bright=True)
    drawn = array(sample(given, 20_000, 5))
    # Far above the noise the coordinates are brightness in its units, and what counts as nothing is added.
    y = drawn.reshape(2, 20_000, -1) / 0.5 + 0.05
    for i in range(2):
        expected = covariance(given, 2, i)
        assert_allclose(y[i].mean(axis=0), array(given)[i, ..., 0].ravel(), atol=5 * np.sqrt(expected.max() / 20_000))
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        # The fourth moment of two Gaussians is larger than that of one.
        assert np.abs((np.cov(y[i].T) - expected) / scale).max() < 10 * np.sqrt(2 / 20_000)


def test_no_draw_is_negative_and_seeds_tell_draws_apart(rng):
    given = head(rng)
    one, same, other = (array(sample(given, 10, seed)) for seed in (1, 1, 2))
    assert one.min() >= 0 and one.shape == (2, 10, 8, 8)
    assert_allclose(one, same)
    assert np.abs(one - other).max() > 0.1


def test_coordinates_come_back_and_count_little_light_as_none():
    source = np.array([[0.0, 1e-3, 0.1, 1.0, 30.0, 1e4]])[:, None]
    unit = tensor([0.7])
    assert_allclose(array(from_real(to_real(tensor(source), unit), unit)), source, rtol=1e-7, atol=1e-12)
    assert_allclose(array(to_real(tensor(-source), unit)), array(to_real(tensor(0 * source), unit)))
    y = array(to_real(tensor(source * 0.7), unit))[0, 0]
    assert_allclose(y[-1], 1e4 + 0.05) and np.all(np.diff(y) > 0)


def test_nothing_has_a_unit():
    inputs = observation()
    rim, network = stirred(RIM(SMALL_SMALL)), stirred(SourceErrors(SMALL_ERRORS))

    @whole
    def seen_by(inputs):  # views of a RIM that is not trained, and the head of a network that is not either
        problem = imaging_problem(inputs, (12, 12))
        views_ = views(problem, rim.solve(problem))
        return views_, network(views_)

    bright = inputs | {name: 10 * inputs[name] for name in ("image", "noise_rms")}
    (views_, output), (brighter, output_of_brighter) = (
        seen_by({name: ops.convert_to_tensor(value) for name, value in each.items()}) for each in (inputs, bright)
    )
    output, output_of_brighter = array(output), array(output_of_brighter)
    assert array(views_["seen"]).shape == (2, 12, 12, N_SEEN)
    assert_allclose(array(brighter["seen"]), array(views_["seen"]), atol=2e-3)
    assert_allclose(output_of_brighter[..., 1], 10 * output[..., 1], rtol=1e-5)
    # All else is in units of the noise.
    others = [0, 2, 3, 4, 5]
    assert_allclose(output_of_brighter[..., others], output[..., others], atol=5e-3)
    ten, one = (sample(tensor(each), 5, 3) for each in (output_of_brighter, output))
    assert_allclose(array(ten), 10 * array(one), rtol=0.02, atol=1e-3)


def test_views_know_how_sharp_the_data_are():
    # What alternates from pixel to pixel is lost in a wide PSF, and what is coarse is not.
    sharp = doubled(observation()) | {"psf": tensor([0.01, 0.01]), "mask": tensor(np.ones((2, 12, 12)), "bool")}
    blurred = sharp | {"psf": tensor([1.0, 1.0])}
    fine, coarse = [], []
    seen_of = whole(lambda inputs: views(imaging_problem(inputs, (12, 12)), tensor(np.ones((2, 2, 12, 12))))["seen"])
    for inputs in (sharp, blurred):
        seen = array(seen_of(inputs))
        fine.append(seen[..., -4].mean())
        coarse.append(seen[..., -2].mean())
    assert fine[1] < 0.3 * fine[0] and coarse[1] / coarse[0] > 2 * fine[1] / fine[0]


def test_widths_are_of_brightness_and_noise():
    widths = tuple(np.linspace(0.5, 1.6, 12))
    network = SourceErrors(dataclasses.replace(SMALL_ERRORS, widths=widths))
    # A row for each brightness, and two beyond them; a system for each noise, and one between.
    brightness = np.array([0.01, *BRIGHTNESSES, 1e4])[:, None] * np.ones(8)
    seen = np.zeros((3, 8, 8, N_SEEN), "float32")
    noise = [NOISES[0] / 5, NOISES[1], np.sqrt(NOISES[0] * NOISES[1])]
    seen[..., 5] = -np.log(noise)[:, None, None] / 2 - 2
    estimate = brightness + np.log(-np.expm1(-brightness))
    inputs = {"seen": seen, "estimate": np.float32([estimate] * 3), "unit": np.ones(3, "float32")}
    found = np.exp(array(whole(lambda inputs: network(inputs))(inputs))[..., 5])
    ends = [np.array([part[0], *part, part[-1]]) for part in (widths[:6], widths[6:])]
    for i, expected in enumerate([*ends, np.sqrt(ends[0] * ends[1])]):
        assert_allclose(found[i], np.broadcast_to(expected[:, None], (8, 8)), rtol=1e-3)
    other = SourceErrors(SMALL_ERRORS)
    assert_allclose(array(whole(lambda inputs: other(inputs))(inputs))[..., 5], 0)
    with pytest.raises(InputError, match="widths has 5 numbers; it must have 12, or none"):
        dataclasses.replace(SMALL_ERRORS, widths=(1.0,) * 5)


def test_no_weights_make_the_density_infinite(rng):
    network = SourceErrors(SMALL_ERRORS)
    network.set_weights([1e3 * rng.normal(size=w.shape) for w in network.get_weights()])
    inputs = {
        "seen": rng.normal(size=(2, 8, 8, N_SEEN)).astype("float32"),
        "estimate": np.zeros((2, 8, 8), "float32"),
        "unit": np.ones(2, "float32"),
    }
    _, _, log_sigma, log_ratio, logit, _ = np.moveaxis(array(whole(lambda inputs: network(inputs))(inputs)), -1, 0)
    assert np.isfinite(log_sigma).all() and log_sigma.min() >= np.log(0.0199) and log_sigma.max() < 8.01
    assert log_ratio.min() >= 0 and log_ratio.max() < 3.01 and np.abs(logit).max() < 8.01
