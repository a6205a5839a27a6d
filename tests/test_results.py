"""What is measured of a source."""

import numpy as np
import pytest
from scipy import ndimage

from rim_tf.results import centre_of_light, half_light_radius


def gaussian(n, row, column, sigma):
    rows, columns = np.indices((n, n))
    return np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / sigma**2)


def test_half_light_radius_of_a_gaussian():
    # Half of a round Gaussian lies within sigma sqrt(2 ln 2).
    assert half_light_radius(gaussian(128, 60, 66, 8.0)) == pytest.approx(8.0 * np.sqrt(2 * np.log(2)), rel=0.01)


def test_centre_of_light_is_scipys(rng):
    image = rng.random((20, 30))
    np.testing.assert_allclose(centre_of_light(image), ndimage.center_of_mass(image), rtol=1e-12)


def test_light_below_zero_is_left_out_and_no_light_has_no_radius():
    image = gaussian(64, 30, 33, 5.0)
    assert half_light_radius(np.where(image > 1e-6, image, -1e-4)) == pytest.approx(half_light_radius(image), rel=1e-3)
    assert np.isnan(half_light_radius(np.zeros((8, 8))))
