"""B: against SciPy's convolution, and what a point spread function must keep."""

import numpy as np
import pytest
from gradients import BACKEND, array, grad, slopes, tensor, traced, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import stamps
from scipy.signal import convolve2d

from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.operators import Compose
from rim_tf.physics.psf import GaussianBlur, StampBlur, blur_operator, psf_width


def grid(rows=9, columns=7, scale=0.1):
    return PixelGrid(rows, columns, tensor(np.atleast_1d(scale)))


def gaussian_stamp(sigma, half):
    """A Gaussian of `sigma` pixels sampled at pixel centres, of unit sum."""
    i = np.arange(-half, half + 1)
    stamp = np.exp(-(i[:, None] ** 2 + i[None, :] ** 2) / (2 * sigma**2))
    return stamp / stamp.sum()


def convolved(image, psf):
    """SciPy's full convolution of each image, cut back to the frame: its mode="same" trims to the larger of the two."""
    (rows, columns), (top, left) = image.shape[1:], (side // 2 for side in psf.shape[1:])
    full = [convolve2d(*each, boundary="fill", fillvalue=0) for each in zip(image, psf, strict=True)]
    return np.stack(full)[:, top : top + rows, left : left + columns]


FRAMES = [((9, 7), stamp) for stamp in [(1, 1), (3, 3), (5, 3), (3, 7), (9, 7), (21, 25)]]
FRAMES += [((1, 1), (1, 1)), ((1, 4), (3, 5)), ((2, 3), (5, 1)), ((8, 6), (3, 3)), ((8, 6), (13, 9))]


@pytest.mark.parametrize("shape, stamp", FRAMES)
def test_stamp_convolves_as_scipy_does(shape, stamp, rng):
    image, psf = rng.normal(size=(2, *shape)), rng.normal(size=(2, *stamp))
    blur = whole(lambda psf, image: StampBlur(psf, grid(*shape, scale=[0.1, 0.2])).forward(image))
    assert_allclose(array(blur(tensor(psf), tensor(image))), convolved(image, psf), atol=1e-12)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX knows every size when it traces")
@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_sizes_that_are_unknown_when_traced(direction, rng):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None] * 3, "float64")] * 2, autograph=False)
    def blur(image, psf):
        rows, columns = ops.shape(image)[1:]
        return getattr(StampBlur(psf, grid(rows, columns)), direction)(image)

    for shape, stamp in FRAMES[3:]:
        image, psf = rng.normal(size=(2, *shape)), rng.normal(size=(2, *stamp))
        mirrored = psf if direction == "forward" else psf[:, ::-1, ::-1]
        assert_allclose(array(blur(tensor(image), tensor(psf))), convolved(image, mirrored), atol=1e-12)


def test_a_star_looks_like_the_stamp_not_like_its_mirror_image():
    psf = stamps(3, 5, batch=1)
    star = np.zeros((1, 9, 7))
    star[0, 4, 3] = 1.0
    image = array(StampBlur(tensor(psf), grid()).forward(tensor(star)))
    assert_allclose(image[0, 3:6, 1:6], psf[0], atol=1e-14)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.07, 0.3, 0.7, 0.99, 1.0, 1.01, 1.7, 3.0])
def test_gaussian_is_the_stamp_of_the_same_gaussian(sigma, rng):
    image = tensor(rng.normal(size=(1, 9, 7)))
    psf = gaussian_stamp(max(sigma, 1e-2), half=25)[None]
    ours = GaussianBlur(tensor([0.1 * sigma]), grid()).forward(image)
    assert_allclose(array(ours), array(StampBlur(tensor(psf), grid()).forward(image)), atol=1e-12)


def test_width_zero_is_the_identity(rng):
    image = rng.normal(size=(2, 9, 7))
    blur = GaussianBlur(tensor([0.0, 0.0]), grid())
    assert_allclose(array(blur.forward(tensor(image))), image, atol=0)
    slope = grad(lambda sigma: ops.sum(GaussianBlur(sigma, grid()).forward(tensor(image))))(tensor([0.0, 0.0]))
    assert np.all(np.isfinite(array(slope)))


@pytest.mark.parametrize("psf", [[0.04], [0.13], stamps(5, 7, batch=1)], ids=["narrow", "wide", "stamp"])
def test_flux_and_centroid_are_kept(psf):
    psf = np.asarray(psf)
    if psf.ndim == 3:  # centre it, or the centroid should move
        psf = (psf + psf[:, ::-1, ::-1]) / 2
    image = np.zeros((1, 31, 35))
    image[0, 14:17, 16:20] = np.arange(12.0).reshape(3, 4)
    blur = whole(lambda psf, image: blur_operator(psf, grid(31, 35)).forward(image))
    blurred = array(blur(tensor(psf), tensor(image)))
    assert_allclose(blurred.sum(), image.sum(), rtol=1e-12)
    for index in np.indices(image.shape)[1:]:
        assert_allclose((index * blurred).sum(), (index * image).sum(), rtol=1e-12)
    assert blurred.max() < 0.99 * image.max()


@pytest.mark.parametrize("psf", [[0.1], stamps(7, 7, batch=1)], ids=["gaussian", "stamp"])
@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_nothing_wraps_around(psf, direction):
    image = np.zeros((1, 20, 20))
    image[0, 0, 0] = 1.0
    blur = whole(lambda psf, image: getattr(blur_operator(psf, grid(20, 20)), direction)(image))
    blurred = array(blur(tensor(psf), tensor(image)))
    assert_allclose(blurred[0, 12:, :], 0, atol=1e-15)
    assert_allclose(blurred[0, :, 12:], 0, atol=1e-15)
    assert 0.1 < blurred.sum() < 0.7  # the rest fell off the frame


def test_sigma_is_in_arcseconds_for_each_system(rng):
    image = tensor(np.repeat(rng.normal(size=(1, 9, 7)), 2, axis=0))
    blurred = array(GaussianBlur(tensor([0.1, 0.3]), grid(scale=[0.05, 0.15])).forward(image))
    assert_allclose(blurred[0], blurred[1], rtol=1e-12)  # two pixels each


def test_agrees_with_the_reference_rendering(shared):
    reference = np.load(shared / "refs/render.npz")
    grids = PixelGrid(192, 192, tensor([0.04])), PixelGrid(192, 192, tensor([3 / 192]))
    L = LensingOperator.from_lens(tensor(reference["params"]), *grids)
    stamp = np.repeat(reference["kernel_0p1"][None], 3, axis=0)
    for psf, atol in [(stamp, 1e-6), (np.full(3, 0.1), 2e-6)]:  # the stamp ends at 5.2 sigma
        image = Compose(blur_operator(tensor(psf), grids[0]), L).forward(tensor(reference["sources"]))
        expected = reference["own_zeropad_psf0p1"]
        assert_allclose(array(image), expected, atol=atol * expected.max())
        # caustics blurs in light from beyond the frame, so that its edge is brighter.
        inside = np.s_[:, 14:-14, 14:-14]
        assert_allclose(array(image)[inside], reference["caustics_psf0p1"][inside], atol=atol * expected.max())


def test_gradient_in_the_width_is_the_finite_difference(rng):
    sigma = np.array([0.02, 0.06, 0.0999, 0.15])
    image, weight = tensor(rng.normal(size=(4, 9, 7))), tensor(rng.normal(size=(4, 9, 7)))

    def total(sigma):
        return ops.sum(weight * GaussianBlur(sigma, grid()).forward(image))

    assert_allclose(array(whole(grad(total))(tensor(sigma))), slopes(total, sigma), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_gradient_in_the_stamp_and_image_is_the_finite_difference(direction, rng):
    image, psf, weight = rng.normal(size=(1, 4, 5)), stamps(3, 5, batch=1), tensor(rng.normal(size=(1, 4, 5)))

    @traced
    def total(psf, image):
        return ops.sum(weight * getattr(StampBlur(psf, grid(4, 5)), direction)(image) ** 2)

    at = tensor(psf), tensor(image)
    in_psf = slopes(lambda psf: total(psf, at[1]), psf)
    in_image = slopes(lambda image: total(at[0], image), image)
    assert_allclose(array(grad(total, 0)(*at)), in_psf, rtol=1e-6, atol=1e-8)
    assert_allclose(array(grad(total, 1)(*at)), in_image, rtol=1e-6, atol=1e-8)


def test_second_derivatives_in_stamp_and_image_are_the_finite_differences(rng):
    image, psf, weight = rng.normal(size=(1, 4, 3)), stamps(3, 3, batch=1), tensor(rng.normal(size=(1, 4, 3)))

    def total(psf, image):
        blur = StampBlur(psf, grid(4, 3))
        return ops.sum(weight * blur.adjoint(blur.forward(image) ** 2))

    @traced
    def steepness(psf, image):
        in_psf, in_image = grad(total, (0, 1))(psf, image)
        return ops.sum(in_psf**2) + ops.sum(in_image**3)

    at = tensor(psf), tensor(image)
    in_psf, in_image = grad(steepness, (0, 1))(*at)
    assert_allclose(array(in_psf), slopes(lambda psf: steepness(psf, at[1]), psf), rtol=1e-6, atol=1e-6)
    assert_allclose(array(in_image), slopes(lambda image: steepness(at[0], image), image), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 4), (1, 4, 3)])
def test_even_stamp_is_refused(shape):
    with pytest.raises(ValueError, match="must be odd"):
        blur_operator(tensor(np.ones(shape)), grid())


@pytest.mark.parametrize("shape", [(), (3, 3), (1, 3, 3, 1)])
def test_psf_of_another_kind_is_refused(shape):
    with pytest.raises(ValueError, match="one Gaussian sigma for each system"):
        blur_operator(tensor(np.ones(shape)), grid())


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 2.5])
def test_width_of_a_stamp_of_a_gaussian_is_that_of_its_sigma(sigma):
    x = np.arange(-15, 16)
    stamp = np.exp(-(x**2 + x[:, None] ** 2) / (2 * sigma**2))
    of_stamp = array(psf_width(tensor(stamp[None] / stamp.sum()), tensor([0.05])))
    of_sigma = array(psf_width(tensor([0.05 * sigma]), tensor([0.05])))
    assert_allclose(of_stamp, of_sigma, rtol=1e-7)
    if sigma >= 1:
        assert_allclose(of_sigma, sigma, rtol=2e-4)


def test_width_grows_with_sigma_and_is_finite_without_any():
    widths = array(psf_width(tensor([0.0, 0.02, 0.04, 0.06, 0.2]), tensor([0.05] * 5)))
    assert np.all(np.diff(widths) > 0) and widths[0] == pytest.approx(np.sqrt(1 / (4 * np.pi)))
