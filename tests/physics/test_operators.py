"""What holds of every linear operator."""

import numpy as np
import pytest
from gradients import array, dense, tensor, vdot, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import (
    IMAGE,
    IMAGE_SCALE,
    LENSES,
    OPERATORS,
    SOURCE,
    SOURCE_SCALE,
    gaussian,
    lensing,
    stamp,
    stamps,
)

from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.operators import Compose

every_operator = pytest.mark.parametrize("name", sorted(OPERATORS))


@every_operator
def test_adjoint_is_the_transpose(name, rng):
    op, source_shape, image_shape = OPERATORS[name]()
    source, image = tensor(rng.normal(size=source_shape)), tensor(rng.normal(size=image_shape))
    assert_allclose(vdot(op.forward(source), image), vdot(source, op.adjoint(image)), rtol=1e-10)


@every_operator
def test_matrices_are_transposes_and_each_system_has_its_own(name):
    op, source_shape, image_shape = OPERATORS[name]()
    matrix = dense(op.forward, source_shape)
    assert_allclose(dense(op.adjoint, image_shape), matrix.T, atol=1e-13)
    blocks = matrix.reshape(2, np.prod(image_shape[1:]), 2, np.prod(source_shape[1:]))
    assert_allclose(blocks[0, :, 1], 0, atol=1e-15)
    assert_allclose(blocks[1, :, 0], 0, atol=1e-15)
    assert np.abs(blocks[0, :, 0] - blocks[1, :, 1]).max() > 0.01


@every_operator
@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_linear(name, direction, rng):
    op, *shapes = OPERATORS[name]()
    shape, apply = shapes[direction == "adjoint"], getattr(op, direction)
    a, b = rng.normal(size=(2, *shape))
    expected = 2.5 * array(apply(tensor(a))) - 0.7 * array(apply(tensor(b)))
    assert_allclose(array(apply(tensor(2.5 * a - 0.7 * b))), expected, atol=1e-12)


@every_operator
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shape_follow_the_input(name, dtype, rng):
    _, source_shape, image_shape = OPERATORS[name]()

    def both_ways(source, image):
        op = OPERATORS[name](dtype)[0]
        return op.forward(source), op.adjoint(image)

    # What JAX has compiled for the tests above serves in float64, and nothing of it in float32.
    compiled = whole if dtype == "float32" else lambda f: f
    given = (tensor(rng.normal(size=shape), dtype) for shape in (source_shape, image_shape))
    image, source = map(array, compiled(both_ways)(*given))
    assert (image.dtype, image.shape, source.dtype, source.shape) == (dtype, image_shape, dtype, source_shape)


@pytest.mark.parametrize("blur", [gaussian, stamp])
def test_composition_is_the_matrix_product(blur):
    B, L = blur(), lensing()
    A = Compose(B, L)
    product = dense(B.forward, IMAGE) @ dense(L.forward, SOURCE)
    assert_allclose(dense(A.forward, SOURCE), product, atol=1e-13)
    assert_allclose(dense(A.adjoint, IMAGE), product.T, atol=1e-13)


@pytest.mark.parametrize("psf, blur", [([0.2, 0.45], gaussian), (stamps(3, 5), stamp)], ids=["gaussian", "stamp"])
def test_imaging_is_lensing_then_blurring(psf, blur):
    inputs = {"lens": LENSES, "psf": psf, "pixel_scale": IMAGE_SCALE, "source_pixel_scale": SOURCE_SCALE}
    inputs = {name: tensor(value) for name, value in inputs.items()} | {"image": ops.zeros(IMAGE, "float64")}
    A = imaging_operator(inputs, SOURCE[1:])
    assert_allclose(dense(A.forward, SOURCE), dense(Compose(blur(), lensing()).forward, SOURCE), atol=1e-13)
