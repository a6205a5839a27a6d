"""L: against other packages, SciPy's interpolation, and finite differences."""

import functools

import numpy as np
import pytest
from gradients import array, grad, slope, slopes, tensor, traced, vdot, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import IMAGE, LENSES, SOURCE, image_grid, lensing, source_grid
from scipy.ndimage import map_coordinates

from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.likelihood import score


@pytest.mark.parametrize("package", ["own_zeropad", "lenstronomy", "caustics"])
def test_agrees_with_other_packages(shared, package):
    reference = np.load(shared / "refs/render.npz")
    lens = tensor(reference["params"])
    grids = PixelGrid(192, 192, tensor(0.04)), PixelGrid(192, 192, tensor(3 / 192))
    image = LensingOperator.from_lens(lens, *grids).forward(tensor(reference["sources"]))
    # The other two differ from `own_zeropad` by at most 5e-8 here.
    assert_allclose(array(image), reference[package], atol=1e-6 * reference["sources"].max())


def scattered(rng, n_rows=6, n_columns=8, shape=(2, 5, 40), margin=3):
    """Rays over a source grid and beyond it."""
    return rng.uniform(-margin, n_columns + margin, shape), rng.uniform(-margin, n_rows + margin, shape)


def test_interpolates_as_scipy_does(rng):
    column, row = scattered(rng)
    source = rng.normal(size=(2, 6, 8))
    ours = array(LensingOperator(tensor(column), tensor(row), 6, 8).forward(tensor(source)))
    for i in range(2):
        theirs = map_coordinates(source[i], [row[i], column[i]], order=1, mode="grid-constant", cval=0.0)
        assert_allclose(ours[i], theirs, atol=1e-13)


def test_ray_through_a_pixel_centre_sees_that_pixel(rng):
    row, column = np.indices((6, 8), dtype=float)
    source = rng.normal(size=(1, 6, 8))
    image = LensingOperator(tensor(column[None]), tensor(row[None]), 6, 8).forward(tensor(source))
    assert_allclose(array(image), source, atol=0)


def test_constant_source_is_seen_unchanged_from_inside(rng):
    column, row = scattered(rng, margin=0)
    image = LensingOperator(tensor(column * 7 / 8), tensor(row * 5 / 6), 6, 8).forward(ops.ones((2, 6, 8), "float64"))
    assert_allclose(array(image), 1.0, rtol=1e-14)


@pytest.mark.parametrize("far", [-1.0, -7.3, -1e12, 8.0, 9.7, 1e12])
def test_ray_off_the_grid_sees_nothing(far, rng):
    inside, outside = tensor([[[2.5]]]), tensor([[[far]]])
    source, image = tensor(rng.normal(size=(1, 6, 8))), tensor([[[3.0]]])
    for op in (LensingOperator(outside, inside, 6, 8), LensingOperator(inside, outside, 6, 8)):
        assert_allclose(array(op.forward(source)), 0.0, atol=0)
        assert_allclose(array(op.adjoint(image)), 0.0, atol=0)
    single = LensingOperator(ops.cast(outside, "float32"), ops.cast(inside, "float32"), 6, 8)
    assert_allclose(array(single.forward(ops.cast(source, "float32"))), 0.0, atol=0)


def test_unlensed_image_is_the_source_itself(rng):
    # A lens of no mass, and image pixels where the source pixels are.
    grid = PixelGrid(7, 4, tensor([0.1]))
    nothing = tensor([[1e-30, 0, 0, 0.03, 0.02, 0, 0]])
    source = rng.normal(size=(1, 7, 4))
    image = LensingOperator.from_lens(nothing, grid, grid).forward(tensor(source))
    assert_allclose(array(image), source, atol=1e-12)


# A gradient is tested by the scalars below: each is nonlinear in its argument, so that slopes vary.
def through_forward(source, lens, image):
    op = LensingOperator.from_lens(lens, image_grid(), source_grid())
    return ops.sum(image * op.forward(source) ** 2)


def through_adjoint(source, lens, image):
    op = LensingOperator.from_lens(lens, image_grid(), source_grid())
    return ops.sum(source * op.adjoint(image) ** 2)


def through_score(source, lens, image):
    op = LensingOperator.from_lens(lens, image_grid(), source_grid())
    return ops.sum(score(op, source**2, image, ops.abs(image) + 1) ** 2)


TOTALS = {"forward": through_forward, "adjoint": through_adjoint, "score": through_score}
each_way = pytest.mark.parametrize("way", TOTALS)


@functools.cache
def total_and_gradient(way):
    """One of TOTALS, and its gradient in all three arguments, each compiled once on JAX."""
    return whole(TOTALS[way]), whole(grad(TOTALS[way], (0, 1, 2)))


@pytest.fixture
def arguments(rng):
    return [rng.normal(size=SOURCE), LENSES + 0.03, rng.normal(size=IMAGE)]


def with_argument(f, arguments, which):
    """f as a function of one of its arguments."""

    def of_one(x):
        return f(*[x if i == which else tensor(a) for i, a in enumerate(arguments)])

    return of_one


@each_way
def test_gradient_is_the_finite_difference(way, arguments, rng):
    total, gradient = total_and_gradient(way)
    in_source, in_lens, in_image = map(array, gradient(*map(tensor, arguments)))
    expected = slopes(with_argument(total, arguments, 1), arguments[1])
    assert np.abs(expected).max() > 0.1
    assert_allclose(in_lens, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    for which, ours in [(0, in_source), (2, in_image)]:
        for v in rng.normal(size=(5, *ours.shape)):
            assert_allclose(
                vdot(ours, v), slope(with_argument(total, arguments, which), arguments[which], v), rtol=1e-6
            )


@each_way
def test_compiled_function_can_be_differentiated(way, arguments):
    # JAX accepts less in a custom gradient when the compiler's own variables pass through it.
    at = [tensor(a) for a in arguments]
    for ours, other in zip(grad(traced(TOTALS[way]), (0, 1, 2))(*at), total_and_gradient(way)[1](*at), strict=True):
        assert_allclose(array(ours), array(other), rtol=1e-9, atol=1e-9)


@each_way
def test_second_derivative_is_the_finite_difference_of_the_first(way, arguments, rng):
    first = grad(TOTALS[way], (0, 1, 2))
    directions = [tensor(rng.normal(size=a.shape)) for a in arguments]

    def along(*args):  # all of the first derivatives, so that every mixed second derivative takes part
        return sum(ops.sum(d * g) for d, g in zip(directions, first(*args), strict=True))

    second = grad(along, (0, 1, 2))(*map(tensor, arguments))
    for which, ours in enumerate(second):  # in the source, the lens, the image
        v = rng.normal(size=arguments[which].shape)
        expected = slope(with_argument(along, arguments, which), arguments[which], v)
        assert_allclose(vdot(ours, v), expected, rtol=2e-6, err_msg=f"argument {which}")


def test_gradient_in_the_position_of_a_ray(rng):
    column, row = scattered(rng, shape=(1, 3, 4), margin=1)
    source = tensor(rng.normal(size=(1, 6, 8)))

    def total(column, row):
        return ops.sum(LensingOperator(column, row, 6, 8).forward(source) ** 2)

    gradient = whole(grad(total, (0, 1)))(tensor(column), tensor(row))
    for which, expected in enumerate(
        [
            slopes(lambda column: total(column, tensor(row)), column),
            slopes(lambda row: total(tensor(column), row), row),
        ]
    ):
        assert_allclose(array(gradient[which]), expected, rtol=1e-6, atol=1e-7)


def test_gradients_are_finite_off_the_grid_and_at_the_centre_of_the_lens():
    grid, source = PixelGrid(5, 5, tensor([2.0], "float32")), ops.ones((1, 4, 4), "float32")
    lens = tensor([[1.0, 0, 0, 0, 0, 0, 0]], "float32")  # on the middle pixel; all other rays miss the source

    def total(lens, source):
        op = LensingOperator.from_lens(lens, grid, PixelGrid(4, 4, tensor([0.05], "float32")))
        return ops.sum(op.forward(source))

    assert all(np.all(np.isfinite(array(slope))) for slope in whole(grad(total, (0, 1)))(lens, source))


def test_registry_has_rays_inside_and_outside():
    # Otherwise the tests over the registry would say nothing about the border.
    seen = array(lensing().forward(ops.ones(SOURCE, "float64")))
    assert np.any(seen == 0) and np.any((seen > 0) & (seen < 1)) and np.any(seen > 1 - 1e-12)
