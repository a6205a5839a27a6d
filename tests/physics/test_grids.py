"""Where a pixel's centre is."""

import numpy as np
import pytest
from gradients import array, tensor
from numpy.testing import assert_allclose

from rim_tf.grids import PixelGrid


def test_pixel_centres_written_out():
    x, y = PixelGrid(2, 3, tensor(0.5)).coordinates()
    assert_allclose(array(x)[0], [[-0.5, 0.0, 0.5]] * 2, rtol=0)  # x grows with the column
    assert_allclose(array(y)[0], [[-0.25] * 3, [0.25] * 3], rtol=0)  # y with the row: row 0 is the lowest


@pytest.mark.parametrize("rows, columns", [(4, 4), (5, 5), (3, 8), (1, 2)])
def test_field_is_centred_and_n_pixels_wide(rows, columns):
    grid = PixelGrid(rows, columns, tensor([0.1, 0.25]), tensor([0.0, 3.0]), tensor([0.0, -2.0]))
    x, y = map(array, grid.coordinates())
    assert x.shape == y.shape == (2, rows, columns)
    assert_allclose(x.mean((1, 2)), [0.0, 3.0], atol=1e-14)
    assert_allclose(y.mean((1, 2)), [0.0, -2.0], atol=1e-14)
    left, _ = grid.pixel_of(*map(tensor, [[[[-0.05 * columns]], [[3 - 0.125 * columns]]], [[[0.0]], [[-2.0]]]]))
    assert_allclose(array(left), -0.5, atol=1e-13)  # the edge is half a pixel left of the first centre


def test_pixel_of_inverts_coordinates():
    grid = PixelGrid(5, 8, tensor([0.1, 0.25]), tensor([0.3, -1.0]), 0.7)
    column, row = map(array, grid.pixel_of(*grid.coordinates()))
    assert_allclose(column, np.broadcast_to(np.arange(8.0), (2, 5, 8)), atol=1e-12)
    assert_allclose(row, np.broadcast_to(np.arange(5.0)[:, None], (2, 5, 8)), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grid_has_the_dtype_of_its_scale(dtype):
    x, y = PixelGrid(3, 4, tensor([0.1], dtype), 1.0, 2.0).coordinates()
    assert array(x).dtype == array(y).dtype == dtype


def test_references_use_the_same_grid(shared):
    reference = np.load(shared / "refs/sie_shear.npz")
    scale = reference["x"][0, 1] - reference["x"][0, 0]
    x, y = PixelGrid(96, 96, tensor(scale)).coordinates()
    assert_allclose(array(x)[0], reference["x"], atol=1e-12)
    assert_allclose(array(y)[0], reference["y"], atol=1e-12)
