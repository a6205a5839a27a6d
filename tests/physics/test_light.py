"""Profiles of light: their half-light radii, fluxes and blurs, with NumPy and with the backend's tensors."""

import math

import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose
from scipy import ndimage, special

from rim_tf.physics.light import elliptical_radius2, gaussian, sersic


def grid(n, step):
    """x, y of n x n points around (0, 0), `step` apart."""
    axis = (np.arange(n) - (n - 1) / 2) * step
    return np.meshgrid(axis, axis)


def ellipticity(q, phi):
    return (1 - q) / (1 + q) * math.cos(2 * phi), (1 - q) / (1 + q) * math.sin(2 * phi)


def test_elliptical_radius_is_that_of_the_axes(rng):
    x, y = rng.normal(size=(2, 50))
    q, phi = 0.4, 0.7
    along, across = x * math.cos(phi) + y * math.sin(phi), y * math.cos(phi) - x * math.sin(phi)
    assert_allclose(elliptical_radius2(x, y, *ellipticity(q, phi)), q * along**2 + across**2 / q, rtol=1e-12)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.5, 4.0, 6.0])
def test_half_of_the_light_is_within_the_half_light_radius(index):
    # The exact share is an incomplete gamma function of b, the profile's value at its centre over that at r50.
    b = np.log(sersic(0.0, 1.7, index, np.exp))
    assert_allclose(special.gammainc(2 * index, b), 0.5, atol=2e-3)
    assert sersic(1.7**2, 1.7, index, np.exp) == 1.0


def test_sersic_is_the_exponential_disc_and_de_vaucouleurs_law():
    r = np.linspace(0.1, 5, 40)
    for index in (1, 4):
        slope = np.diff(np.log(sersic(r**2, 1.0, index, np.exp))) / np.diff(r ** (1 / index))
        assert_allclose(slope, slope[0], rtol=1e-9)


def test_a_gaussian_keeps_its_flux_and_adds_its_variances():
    x, y = grid(301, 0.1)
    e1, e2 = ellipticity(0.5, 0.6)
    narrow, blurred = (gaussian(x, y, 1.5, e1, e2, np.exp, blur) for blur in (0.0, 0.8))
    assert_allclose(narrow.max(), 1.0, rtol=1e-12)
    assert_allclose(narrow, np.exp(-elliptical_radius2(x, y, e1, e2) / (2 * 1.5**2)), rtol=1e-10)
    for image in (narrow, blurred):
        assert_allclose(image.sum() * 0.1**2, 2 * np.pi * 1.5**2, rtol=1e-6)
    # SciPy's own blur, in pixels of 0.1.
    assert_allclose(ndimage.gaussian_filter(narrow, 8.0, truncate=8), blurred, atol=2e-5)


def test_tensors_give_what_arrays_give(rng):
    x, y = (values.astype(np.float32) for values in rng.normal(size=(2, 30)))
    as_tensors = [ops.convert_to_tensor(values) for values in (x, y)]
    assert_allclose(
        ops.convert_to_numpy(sersic(elliptical_radius2(*as_tensors, 0.2, -0.1) + 0.01, 0.8, 2.5, ops.exp)),
        sersic(elliptical_radius2(x, y, 0.2, -0.1) + 0.01, 0.8, 2.5, np.exp),
        rtol=1e-4,
    )
    assert_allclose(
        ops.convert_to_numpy(gaussian(*as_tensors, 0.8, 0.2, -0.1, ops.exp, 0.3)),
        gaussian(x, y, 0.8, 0.2, -0.1, np.exp, 0.3),
        rtol=1e-4,
    )
