"""What a batch amounts to: scores, figures and units, for a camera and for an instrument that takes no images."""

import dataclasses

import numpy as np
import pytest
from gradients import array, dense, grad, tensor, traced
from keras import ops
from numpy.testing import assert_allclose
from registry import LENSES, doubled, lensing, observation, smaller, stirred

from rim_tf.config import SMALL
from rim_tf.grids import PixelGrid
from rim_tf.models.rim import RIM
from rim_tf.physics.imaging import Imaging, imaging_problem
from rim_tf.physics.likelihood import log_likelihood
from rim_tf.physics.mass.model import SIE_SHEAR
from rim_tf.physics.problem import Problem

every_psf = pytest.mark.parametrize("psf", ["gaussian", "stamp"])


@every_psf
def test_score_is_the_slope_of_the_log_likelihood(psf, rng):
    problem = imaging_problem(doubled(observation(psf)), (6, 8))
    problem = problem.in_units_of(problem.peak())
    source = tensor(rng.uniform(size=(2, 6, 8)))

    def total(source):
        return ops.sum(problem.log_likelihood(problem.model_image(source)))

    assert_allclose(array(problem.score(source)), array(traced(grad(total))(source)), rtol=1e-9, atol=1e-9)


@every_psf
def test_preconditioned_step_never_overshoots(psf):
    # A^T C_N^-1 A <= diag(curvature_bound): preconditioned, its largest eigenvalue is at most 1.
    problem = imaging_problem(doubled(observation(psf)), (6, 8))
    A = dense(problem.operator.forward, (2, 6, 8))
    half = 1 / np.sqrt(array(problem.curvature_bound).ravel())
    eigenvalues = np.linalg.eigvalsh(half[:, None] * (A.T * array(problem.weight).ravel()) @ A * half)
    assert 0.5 < eigenvalues.max() <= 1


def test_backprojection_of_a_uniform_sky_is_uniform_but_for_the_damping():
    inputs = observation()
    inputs["image"] = np.full_like(inputs["image"], 3.0)
    problem = imaging_problem(doubled(inputs), (6, 6))
    coverage = np.expm1(array(problem.log_coverage))  # in image pixels of mean weight
    assert coverage.max() > 1
    assert_allclose(array(problem.backprojection()), 3 * coverage / (coverage + 0.5), rtol=1e-9, atol=1e-12)


def test_peak_ignores_masked_and_noisy_pixels():
    image = np.ones((1, 9, 9))
    image[0, 4, 4], image[0, 8, 8] = 1e9, 1e9
    weight = np.ones((1, 9, 9))
    weight[0, 4, 4], weight[0, 8, 8] = 0, 1e-30
    camera = Imaging(tensor([0.1], "float32"), PixelGrid(9, 9, tensor([0.05], "float32")))
    assert_allclose(array(camera.peak(tensor(image, "float32"), tensor(weight, "float32"))), 2, rtol=1e-5)


@every_psf
def test_figures_are_those_of_numpy(psf, rng):
    inputs = observation(psf)
    problem = imaging_problem(doubled(inputs), (6, 8))
    source = rng.uniform(size=(2, 6, 8))
    model = (dense(problem.operator.forward, (2, 6, 8)) @ source.ravel()).reshape(2, 12, 12)
    assert_allclose(array(problem.model_image(tensor(source))), model, atol=1e-12)
    used, noise = inputs["mask"], inputs["noise_rms"].astype(float)
    residual = np.where(used, (inputs["image"] - model) / noise, 0.0)
    assert_allclose(array(problem.chi2(tensor(model))), (residual**2).sum((1, 2)), rtol=1e-6)
    per_pixel = (residual**2).sum((1, 2)) / used.sum((1, 2))
    assert_allclose(array(problem.chi2_per_pixel(tensor(model))), per_pixel, rtol=1e-6)
    expected = log_likelihood(problem.data, tensor(model), problem.weight)
    assert_allclose(array(problem.log_likelihood(tensor(model))), array(expected), rtol=1e-12)


def test_flux_outside_is_of_bright_pixels_whose_rays_miss_the_grid():
    inputs = observation()
    problem = imaging_problem(doubled(inputs), (4, 6))
    scale = inputs["pixel_scale"][:, None, None].astype(float)
    x = (np.arange(12) - 5.5)[None, None, :] * scale * np.ones((2, 12, 1))
    y = (np.arange(12) - 5.5)[None, :, None] * scale * np.ones((2, 1, 12))
    beta_x, beta_y = map(array, SIE_SHEAR.ray_trace(tensor(x), tensor(y), tensor(inputs["lens"])))
    pixel = inputs["source_pixel_scale"][:, None, None]
    outside = (np.abs(beta_x) > 3 * pixel) | (np.abs(beta_y) > 2 * pixel)
    bright = inputs["mask"] & (inputs["image"] > 3 * inputs["noise_rms"])
    light = np.where(bright, inputs["image"].astype(float), 0)
    share = (light * outside).sum((1, 2)) / light.sum((1, 2))
    assert np.all(share > 0.01) and np.all(share < 0.99)
    assert_allclose(array(problem.flux_outside()), share, rtol=1e-6)


def test_a_dark_image_has_no_flux_outside():
    inputs = observation()
    problem = imaging_problem(doubled(inputs | {"image": 0 * inputs["image"]}), (6, 8))
    assert_allclose(array(problem.flux_outside()), 0)


def test_units_change_numbers_and_no_ray(rng):
    problem = imaging_problem(doubled(observation()), (6, 8))
    inner, unit = problem.in_units_of(tensor([10.0, 0.1])), np.array([10.0, 0.1])[:, None, None]
    source = rng.uniform(size=(2, 6, 8))
    assert inner.lensing is problem.lensing and inner.instrument is problem.instrument
    image = problem.model_image(tensor(source))
    assert_allclose(array(inner.chi2(image / unit)), array(problem.chi2(image)), rtol=1e-12)
    assert_allclose(array(inner.score(tensor(source / unit))), array(problem.score(tensor(source))) * unit, rtol=1e-9)
    assert_allclose(array(inner.backprojection()) * unit, array(problem.backprojection()), rtol=1e-12)


def test_an_instrument_need_not_take_images(rng):
    """A dozen numbers, each a positive mean over the whole sky: the network reconstructs from them all the same."""

    @dataclasses.dataclass
    class Buckets:
        weights: object  # [batch, 12, rows, columns]

        def forward(self, sky):
            return ops.einsum("bnij,bij->bn", self.weights, sky)

        def adjoint(self, data):
            return ops.einsum("bnij,bn->bij", self.weights, data)

        def peak(self, data, weight):
            return 2 * ops.max(data, axis=1)

        def bright(self, data, weight):
            return self.adjoint(data)

    L = lensing("float32")
    buckets = rng.uniform(size=(2, 12, *L.cell.shape[1:])) ** 4
    buckets /= buckets.sum(axis=(2, 3), keepdims=True)
    instrument = Buckets(tensor(buckets, "float32"))
    truth = rng.uniform(size=(2, 6, 8))
    data = instrument.forward(L.forward(tensor(truth, "float32")))
    problem = Problem(instrument, L, data, 1e4 * ops.ones_like(data))
    assert_allclose(array(problem.chi2(problem.model_image(tensor(truth, "float32")))), 0, atol=1e-4)
    assert len(LENSES) == problem.n_used.shape[0] and np.all(array(problem.n_used) == 12)
    model = stirred(RIM(smaller(SMALL, n_steps=1, kernel=3)))
    solve = traced(lambda data: model.solve(Problem(instrument, L, data, 1e4 * ops.ones_like(data))))
    iterates = array(solve(data))
    assert iterates.shape == (2, 1, 6, 8) and np.all(np.isfinite(iterates))
    # What it does follows the data: it would not, were the instrument's operator not in the loop.
    assert np.abs(array(solve(data[:, ::-1])) - iterates).max() > 1e-4 * iterates.max()
    assert np.all((array(problem.flux_outside()) >= 0) & (array(problem.flux_outside()) < 1))
