"""Our physics against lenstronomy's, on lenses and rays drawn here, so that any clone checks it."""

import numpy as np
import pytest
from gradients import array, grad, tensor
from keras import ops
from numpy.testing import assert_allclose

from rim_tf.grids import PixelGrid
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.physics.imaging import imaging_operator

lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")

SHEAR = {"gamma1": 0.04, "gamma2": -0.03}
LENSES = {
    "sie and shear": LensParameters(1.3, 0.2, -0.1, 0.1, -0.2, **SHEAR),
    "nearly round": LensParameters(1.1, 1e-3, 0.0, 0.0, 0.05),
    "shallow": CompositeLens(
        Component("power_law", theta_E=1.2, slope=1.6, e1=0.2, e2=0.1, x_lens=0.1), Component("shear", **SHEAR)
    ),
    "steep and flat": CompositeLens(Component("power_law", theta_E=0.9, slope=2.5, e1=0.0, e2=-0.5, y_lens=0.2)),
    "two deflectors": CompositeLens(
        Component("power_law", theta_E=1.2, slope=2.1, e1=0.1, x_lens=-0.2),
        Component("sie", theta_E=0.3, e2=0.2, x_lens=1.1, y_lens=0.4),
        Component("shear", **SHEAR),
    ),
}
every_lens = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
NAMES = {"sie": "SIE", "power_law": "EPL", "shear": "SHEAR"}
KEYS = {"x_lens": "center_x", "y_lens": "center_y", "slope": "gamma"}


def theirs(lens):
    """lenstronomy's model of the same lens, and its parameters."""
    components = lens.to_dict().get("components")
    if components is None:
        named = lens.to_dict()
        shear = {name: named.pop(name) for name in ("gamma1", "gamma2")}
        components = [{"type": "sie"} | named, {"type": "shear"} | shear]
    parameters = [{KEYS.get(k, k): v for k, v in each.items() if k != "type"} for each in components]
    return lens_model.LensModel([NAMES[each["type"]] for each in components]), parameters


def rays(rng, n=300):
    return rng.uniform(-2.5, 2.5, (2, n))


@every_lens
def test_deflection_convergence_shear_and_potential(lens, rng):
    x, y = rays(rng)
    model, parameters = theirs(lens)
    at = tensor([x]), tensor([y]), tensor([lens.as_tuple()])
    # lenstronomy softens its SIE by 1e-4 arcsec at most; the rays here are further from any centre than that matters.
    assert_allclose(array(ops.stack(lens.mass.deflection(*at)))[:, 0], model.alpha(x, y, parameters), atol=1e-6)
    # Their SIE's convergence and shear are differences of its deflection, good to five digits.
    assert_allclose(array(lens.mass.convergence(*at))[0], model.kappa(x, y, parameters), rtol=1e-4, atol=1e-5)
    assert_allclose(array(ops.stack(lens.mass.shear(*at)))[:, 0], model.gamma(x, y, parameters), rtol=1e-5, atol=1e-5)
    ours, potential = array(lens.mass.potential(*at))[0], model.potential(x, y, parameters)
    assert_allclose(ours - ours[0], potential - potential[0], atol=1e-6)


@every_lens
def test_slopes_of_the_deflection_are_their_hessian(lens, rng):
    x, y = rays(rng, 60)
    model, parameters = theirs(lens)
    f_xx, f_xy, f_yx, f_yy = model.hessian(x, y, parameters)
    values = tensor([lens.as_tuple()])
    for component, expected in ((0, (f_xx, f_xy)), (1, (f_yx, f_yy))):

        def total(x, y, component=component):
            return ops.sum(lens.mass.deflection(x, y, values)[component])

        for ours, hessian in zip(grad(total, (0, 1))(tensor([x]), tensor([y])), expected, strict=True):
            assert_allclose(array(ours)[0], hessian, rtol=1e-5, atol=1e-5)


@every_lens
def test_image_of_a_gaussian_source(lens):
    """Our pixelated source, fine enough, is lensed and blurred to what they get from the formula."""
    light_model = pytest.importorskip("lenstronomy.LightModel.light_model")
    n, scale, fine, source_scale, sigma, centre = 40, 0.1, 400, 0.01, 0.25, (0.05, -0.1)
    x, y = (array(each)[0] for each in PixelGrid(n, n, np.float64(scale)).coordinates())
    model, parameters = theirs(lens)
    beta = model.ray_shooting(x.ravel(), y.ravel(), parameters)
    source = [{"amp": 1.0, "sigma": sigma, "center_x": centre[0], "center_y": centre[1]}]
    expected = light_model.LightModel(["GAUSSIAN"]).surface_brightness(*beta, source).reshape(n, n)
    beta_x, beta_y = (array(each)[0] for each in PixelGrid(fine, fine, np.float64(source_scale)).coordinates())
    radius2 = (beta_x - centre[0]) ** 2 + (beta_y - centre[1]) ** 2
    pixels = np.exp(-radius2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    inputs = {
        "image": ops.zeros((1, n, n)),
        "psf": tensor([0.0]),
        "lens": tensor([lens.as_tuple()]),
        "pixel_scale": tensor([scale]),
        "source_pixel_scale": tensor([source_scale]),
    }
    ours = array(imaging_operator(inputs, (fine, fine), lens.mass).forward(tensor([pixels])))[0]
    # Bilinear interpolation of a Gaussian: (source pixel)^2 / 8 of its curvature.
    assert_allclose(ours, expected, atol=1.5 * expected.max() * (source_scale / sigma) ** 2 / 4)
