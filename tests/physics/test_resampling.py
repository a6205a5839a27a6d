"""Resampling against means written out, and what it must leave alone."""

import numpy as np
import pytest
from gradients import array, grad, slopes, tensor, whole
from keras import ops
from numpy.testing import assert_allclose

from rim_tf.physics.resampling import resample


def resampled(image, weight, pixels, step):
    made = whole(lambda image, weight, step: resample(image, weight, pixels, step))
    return [array(x) for x in made(tensor(image), tensor(weight), tensor(step))]


def test_the_same_grid_changes_nothing(rng):
    image, weight = rng.normal(size=(2, 6, 6)), rng.uniform(0.5, 2, size=(2, 6, 6))
    same, same_weight, share = resampled(image, weight, 6, [1.0, 1.0])
    assert_allclose(same, image, rtol=1e-12)
    assert_allclose(same_weight, weight, rtol=1e-12)
    assert_allclose(share, 1.0, rtol=1e-12)


def test_binning_is_the_best_mean_of_each_block(rng):
    image, weight = rng.normal(size=(1, 8, 8)), rng.uniform(0.5, 2, size=(1, 8, 8))
    weight[0, :3, :3] = 0.0  # all of one block, and some of its neighbours
    binned, binned_weight, share = resampled(image, weight, 4, [2.0])
    for i, j in np.ndindex(4, 4):
        block = np.s_[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        w, d = weight[block], image[block]
        assert_allclose(share[0, i, j], np.mean(w > 0), atol=1e-12)
        assert_allclose(binned_weight[0, i, j], w.sum(), atol=1e-12)
        assert_allclose(binned[0, i, j], np.sum(w * d) / w.sum() if w.any() else 0.0, atol=1e-12)


def test_pixels_that_are_cut_count_by_their_area(rng):
    image = rng.normal(size=(1, 20, 20))
    mean, _, share = resampled(image, np.ones_like(image), 6, [2.5])
    # The same by brute force: each pixel as 10 x 10 equal ones, of which 25 x 25 make a new one.
    fine = np.kron(image[0], np.ones((10, 10)))[25:175, 25:175]
    assert_allclose(mean[0], fine.reshape(6, 25, 6, 25).mean(axis=(1, 3)), rtol=1e-9, atol=1e-12)
    assert_allclose(share, 1.0, rtol=1e-12)


def test_smaller_pixels_are_interpolated_and_the_centre_stays():
    y, x = np.mgrid[:20, :20] - 9.5
    plane = (1 + 0.3 * x - 0.2 * y)[None]
    image, _, _ = resampled(plane, np.ones_like(plane), 7, [0.6])
    row, column = (np.mgrid[:7, :7] - 3) * 0.6
    assert_allclose(image[0], 1 + 0.3 * column - 0.2 * row, atol=1e-12)


def test_stated_weight_is_that_of_the_noise(rng):
    noise_rms = rng.uniform(0.5, 2.0, size=(1, 9, 9))
    noise = noise_rms * rng.normal(size=(20_000, 9, 9))
    weight = np.broadcast_to(1 / noise_rms**2, noise.shape)
    image, new_weight, _ = resampled(noise, weight, 4, np.full(len(noise), 2.1))
    assert_allclose(image.var(axis=0) * new_weight[0], 1.0, atol=0.05)


def test_beyond_the_frame_nothing_is_known():
    image, weight, share = resampled(np.ones((1, 4, 6)), np.ones((1, 4, 6)), 8, [1.0])
    assert_allclose(image[0, 2:6, 1:7], 1.0)
    for beyond in (image, weight, share):
        assert beyond[0].sum() == pytest.approx(24.0)


def test_gradient_in_image_and_step(rng):
    image, weight = rng.normal(size=(1, 5, 5)), rng.uniform(size=(1, 5, 5))
    weight[0, 1, 1] = 0.0

    def total(x):
        return ops.sum(resample(x, tensor(weight), 3, tensor([1.4]))[0] ** 2)

    assert_allclose(array(whole(grad(total))(tensor(image))), slopes(total, image), atol=1e-7)
