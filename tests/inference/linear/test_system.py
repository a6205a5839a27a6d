"""A and F: those of the network, those of others, and the matrices that they stand for."""

import numpy as np
import pytest
import scipy.sparse as sp
from inversions import LENS, dense, sparse
from numpy.testing import assert_allclose

from rim_tf.inference.linear.system import FourierBlur, LinearSystem, SeparableBlur
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator


def test_matrices_are_those_of_the_reference(reference, reference_system):
    assert_allclose(reference_system.lensing.toarray(), sparse(reference, "L"), atol=1e-9)
    F = sparse(reference, "F")
    assert_allclose(reference_system.curvature_matrix, F, atol=1e-9 * F.max())
    assert_allclose(reference_system.gradient_at_zero.ravel(), reference["D"], atol=1e-9 * reference["D"].max())


@pytest.mark.parametrize("kind", ["gaussian", "stamp", "separable stamp", "large separable stamp"])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_system_is_the_one_of_the_network(kind, shape, rng):
    k, m = (25, 31) if kind.startswith("large") else (5, 7)
    psf = rng.uniform(size=(k, m)) if kind == "stamp" else np.outer(rng.uniform(size=k), rng.uniform(size=m))
    psf = 0.1 if kind == "gaussian" else psf / psf.sum()
    observation = Observation(rng.normal(size=shape), 0.1, psf, rng.uniform(size=shape) > 0.2, 0.3)
    system = LinearSystem.from_observation(observation, LENS, (8, 8), 0.2)
    # A product is known as one to the float32 of stamps.
    tolerance = 1e-6 if "separable" in kind else 1e-12
    assert isinstance(system.blur, FourierBlur if kind == "stamp" else SeparableBlur)
    inputs = {
        "image": observation.image[None].astype(np.float64),
        "psf": np.asarray([psf]) if kind == "gaussian" else observation.psf[None].astype(np.float64),
        "lens": np.asarray([LENS.as_tuple()]),
        "pixel_scale": np.asarray([0.3]),
        "source_pixel_scale": np.asarray([0.2]),
    }
    physics = imaging_operator(inputs, (8, 8))
    source, image = rng.normal(size=(8, 8)), rng.normal(size=shape)
    assert_allclose(system.forward(source), np.asarray(physics.forward(source[None]))[0], atol=tolerance)
    assert_allclose(system.adjoint(image), np.asarray(physics.adjoint(image[None]))[0], atol=tolerance)
    stack = rng.normal(size=(3, 8, 8))
    assert_allclose(system.curvature(stack)[1], system.curvature(stack[1]), atol=1e-9)


@pytest.mark.parametrize("kind", ["separable", "stamp", "stamp larger than the image"])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_curvature_matrix(kind, in_blocks, rng, monkeypatch):
    shape = (9, 12)
    if kind == "separable":
        blur = SeparableBlur(*(rng.normal(size=(n, n)) for n in shape))
    else:
        blur = FourierBlur(rng.uniform(size=(3, 5) if kind == "stamp" else (21, 27)), shape)
    lensing = sp.random(108, 30, 0.1, random_state=1, format="csr")
    weight = np.where(rng.uniform(size=shape) > 0.3, rng.uniform(size=shape), 0)
    system = LinearSystem(lensing, blur, rng.normal(size=shape), weight, (5, 6))
    if in_blocks:
        monkeypatch.setattr("rim_tf.inference.linear.system.DENSE_IMAGE_PIXELS", 0)
        monkeypatch.setattr("rim_tf.inference.linear.system._BLOCK", 7 * 108)
    A = dense(system)
    assert_allclose(system.curvature_matrix, A.T @ (weight.reshape(-1, 1) * A), rtol=1e-10, atol=1e-12)
