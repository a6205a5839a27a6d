"""Gaussian noise: against SciPy's normal distribution and the slope of its logarithm."""

import types

import numpy as np
import pytest
from gradients import array, grad, tensor
from keras import ops
from numpy.testing import assert_allclose
from registry import OPERATORS
from scipy.stats import norm

from rim_tf.physics.likelihood import chi2, inverse_variance, log_likelihood, score


@pytest.fixture(params=["lensing", "stamp blur of lensing"])
def problem(request, rng):
    op, source_shape, image_shape = OPERATORS[request.param]()
    mask = rng.uniform(size=image_shape) > 0.2
    return types.SimpleNamespace(
        op=op,
        source=rng.normal(size=source_shape),
        data=rng.normal(size=image_shape),
        noise_rms=rng.uniform(0.5, 2.0, image_shape),
        mask=mask,
    )


def weight_of(problem):
    return inverse_variance(tensor(problem.noise_rms), ops.convert_to_tensor(problem.mask))


def test_log_likelihood_is_scipys_over_the_unmasked_pixels(problem):
    model = array(problem.op.forward(tensor(problem.source)))
    log_density = norm.logpdf(problem.data, model, problem.noise_rms)
    expected = np.where(problem.mask, log_density, 0.0).sum((1, 2))
    ours = log_likelihood(tensor(problem.data), tensor(model), weight_of(problem))
    assert_allclose(array(ours), expected, rtol=1e-12)


def test_chi2_is_the_sum_of_squared_normal_deviates(rng):
    noise_rms, deviate = rng.uniform(0.5, 2.0, (3, 4, 5)), rng.normal(size=(3, 4, 5))
    weight = inverse_variance(tensor(noise_rms), ops.ones((3, 4, 5), "bool"))
    ours = chi2(tensor(1.5 + noise_rms * deviate), tensor(np.full((3, 4, 5), 1.5)), weight)
    assert_allclose(array(ours), (deviate**2).sum((1, 2)), rtol=1e-12)


def test_score_is_the_slope_of_the_log_likelihood(problem, rng):
    weight, h = weight_of(problem), 1e-2
    v = rng.normal(size=problem.source.shape)

    def total(source):
        return array(log_likelihood(tensor(problem.data), problem.op.forward(tensor(source)), weight))

    ours = array(score(problem.op, tensor(problem.source), tensor(problem.data), weight))
    slope = (total(problem.source + h * v) - total(problem.source - h * v)) / (2 * h)
    assert_allclose((ours * v).sum((1, 2)), slope, rtol=1e-8)  # quadratic in the source, so any h will do


def test_score_is_the_automatic_gradient_of_the_log_likelihood(problem):
    weight, data = weight_of(problem), tensor(problem.data)
    ours = score(problem.op, tensor(problem.source), data, weight)
    automatic = grad(lambda s: ops.sum(log_likelihood(data, problem.op.forward(s), weight)))(tensor(problem.source))
    assert_allclose(array(ours), array(automatic), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("noise_there", [0.0, np.nan, np.inf, 1e-300])
def test_masked_pixels_contribute_nothing_whatever_their_noise(problem, noise_there):
    clean_weight = array(weight_of(problem))
    noise_rms = np.where(problem.mask, problem.noise_rms, noise_there)
    mask, data = ops.convert_to_tensor(problem.mask), tensor(problem.data)

    def total(source, noise_rms):
        return ops.sum(log_likelihood(data, problem.op.forward(source), inverse_variance(noise_rms, mask)))

    assert_allclose(array(inverse_variance(tensor(noise_rms), mask)), clean_weight, rtol=0)
    dirty, clean = (
        (tensor(problem.source), tensor(noise_rms)),
        (tensor(problem.source), tensor(problem.noise_rms)),
    )
    assert_allclose(array(total(*dirty)), array(total(*clean)), rtol=1e-14)
    for which in range(2):
        ours = array(grad(total, which)(*dirty))
        assert np.all(np.isfinite(ours))
        assert_allclose(ours, array(grad(total, which)(*clean)), rtol=1e-14)


def test_system_masked_altogether_has_log_likelihood_zero():
    weight = inverse_variance(ops.zeros((1, 3, 3), "float64"), ops.zeros((1, 3, 3), "bool"))
    data, model = ops.ones((1, 3, 3), "float64"), ops.zeros((1, 3, 3), "float64")
    assert array(log_likelihood(data, model, weight)) == 0
