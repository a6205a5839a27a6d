"""Wavelets that turn an image and nothing else: lengths stay, smooth light is in few of them."""

import numpy as np
import pytest
from gradients import array, tensor
from numpy.testing import assert_allclose

from rim_tf.models.wavelets import analyse, interleaved, synthesise


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_they_are_orthonormal(levels, rng):
    image, other = rng.normal(size=(2, 16, 24)), rng.normal(size=(2, 16, 24))
    there = array(analyse(tensor(image), levels))
    assert there.shape == image.shape
    assert_allclose(np.sum(there**2, axis=(1, 2)), np.sum(image**2, axis=(1, 2)), rtol=1e-12)
    assert_allclose(array(synthesise(tensor(there), levels)), image, atol=1e-12)
    # The inverse of an orthonormal transformation is its transpose.
    assert_allclose(np.vdot(there, other), np.vdot(image, array(synthesise(tensor(other), levels))), rtol=1e-10)


def test_what_is_linear_in_place_is_coarse_alone():
    y, x = np.mgrid[:32, :32]
    there = array(analyse(tensor((1.0 + 2 * x - 0.5 * y)[None]), 2))[0]
    # Periodic edges break the ramp; away from them no fine wavelet sees it.
    assert np.abs(there[:14, 16:30]).max() < 1e-10 and np.abs(there[16:30, :30]).max() < 1e-10
    assert np.abs(there[:6, 8:14]).max() < 1e-10
    # A coarse pixel is the mean of four by four, times four, and they are four pixels apart.
    assert_allclose(np.diff(there[:6, :6], axis=1), 2 * 4 * 4, rtol=1e-10)


def test_four_images_come_in_turn(rng):
    image = rng.normal(size=(2, 6, 8, 3))
    quarters = [tensor(image[:, i::2, j::2]) for i in (0, 1) for j in (0, 1)]
    assert_allclose(array(interleaved(*quarters)), image)
