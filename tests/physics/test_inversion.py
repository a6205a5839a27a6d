"""Linear inversion as tensors, against the solver that has SciPy, and a source that the prior knows already."""

import numpy as np
import pytest
from gradients import array, tensor, whole
from keras import ops
from numpy.testing import assert_allclose

import rim_tf
from rim_tf.config import REGULARISATIONS
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.inversion import invert
from rim_tf.systems import batch_of

PIXELS, SCALE = 8, 0.15


def observed(psf, rng):
    y, x = (np.mgrid[:15, :12] - np.reshape([7, 5.5], (2, 1, 1))) * 0.2
    image = np.exp(-(((np.hypot(x, y) - 0.9) / 0.2) ** 2))
    noise = rng.uniform(0.02, 0.05, image.shape)
    image += noise * rng.normal(size=image.shape)
    lens = rim_tf.LensParameters(0.9, 0.1, -0.05, 0.02, 0.01, 0.03, 0.02)
    return rim_tf.Observation(image, noise, psf, rng.uniform(size=image.shape) < 0.9, pixel_scale=0.2), lens


def problem_of(observation, lens):
    batch = batch_of([observation], [lens], [SCALE], "float64")
    inputs = {name: ops.convert_to_tensor(value, dtype=value.dtype.name) for name, value in batch.items()}
    return imaging_problem(inputs, (PIXELS, PIXELS), lens.mass)


@pytest.mark.filterwarnings("ignore::rim_tf.InputWarning")
@pytest.mark.parametrize(("order", "kind"), list(enumerate(REGULARISATIONS)))
def test_source_errors_and_evidence_are_those_of_linear_inversion(order, kind, rng):
    observation, lens = observed(0.15 if order == 0 else rng.uniform(size=(3, 5)), rng)
    problem, nothing = problem_of(observation, lens), tensor(np.zeros((PIXELS, PIXELS)))
    found = whole(lambda strength: invert(problem, strength, order, nothing))(tensor(30.0))
    expected = rim_tf.invert(observation, lens, SCALE, PIXELS, regularisation=kind, strength=30.0, solver="exact")
    # The stamp of an Observation is one of float32.
    assert_allclose(array(found["source"]), expected.source, rtol=1e-7, atol=1e-9)
    assert_allclose(array(found["standard_deviation"]), expected.standard_deviation, rtol=1e-7)
    assert_allclose(array(found["log_evidence"]), expected.log_evidence, rtol=1e-9)


def test_a_source_that_the_prior_knows_stays(rng):
    observation, lens = observed(0.15, rng)
    problem = problem_of(observation, lens)
    mean = np.add.outer(np.arange(PIXELS), np.ones(PIXELS)) / PIXELS
    problem.data = problem.model_image(tensor(mean[None]))
    with_mean = whole(lambda mean: invert(problem, tensor(30.0), 1, mean))
    found = with_mean(tensor(mean))
    assert_allclose(array(found["source"]), mean, atol=1e-12)
    # Any other mean explains these data less well.
    other = with_mean(tensor(mean + 0.5))
    assert array(other["log_evidence"]) < array(found["log_evidence"])
