import dataclasses
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from rim_tf.config import SMALL, SOURCE_SCALE_RATIO, RIMSettings
from rim_tf.data.single import draw_system, observe_system
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.rim import RIMSolver, reconstruct
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.plots import extent

LENS = LensParameters(0.7, 0.1, -0.05, 0.02, -0.03, 0.04, 0.01)
# The network here is untrained, so no image is explained.
pytestmark = pytest.mark.filterwarnings("ignore:chi.2 per pixel")


@pytest.fixture(scope="module")
def model():
    """A network as shipped, but untrained and of two steps: all that is tested here is what is around it."""
    return RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4)))


def ring(shape, pixel_scale, radius=0.7, width=0.1):
    left, right, bottom, top = extent(shape, pixel_scale)
    x = np.linspace(left, right, 2 * shape[1] + 1)[1::2]
    y = np.linspace(bottom, top, 2 * shape[0] + 1)[1::2, None]
    return np.exp(-0.5 * ((np.hypot(x, y) - radius) / width) ** 2)


def observe(rng, shape=(32, 32), pixel_scale=0.08, psf=0.05, noise=0.05, holes=False):
    image = ring(shape, pixel_scale) + noise * rng.normal(size=shape)
    mask = np.ones(shape, bool)
    if holes:
        mask[3:8, 4:9] = False
    return Observation(image, noise, psf, mask, pixel_scale)


def stamp(k, m, sigma=0.8):
    y, x = np.mgrid[:k, :m]
    psf = np.exp(-0.5 * ((x - m // 2) ** 2 + (y - k // 2) ** 2) / sigma**2)
    return psf / psf.sum()


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (30, 33), (33, 24), (5, 4)])
def test_any_shape_of_image_gives_a_model_of_that_shape(rng, model, shape):
    result = reconstruct(observe(rng, shape, pixel_scale=2.56 / max(shape)), LENS, model)
    assert result.model_image.shape == result.residual.shape == shape
    side = max(shape) + max(shape) % 2
    assert result.source.shape == (side, side)
    assert result.source_pixel_scale == pytest.approx(SOURCE_SCALE_RATIO * 2.56 / max(shape))
    assert np.isfinite(result.source).all() and (result.source >= 0).all()
    np.testing.assert_array_equal(result.iterates[-1], result.source)


def test_the_source_grid_can_be_chosen(rng, model):
    result = reconstruct(observe(rng), LENS, model, source_pixel_scale=0.05, source_pixels=41)
    assert result.source.shape == (42, 42) and result.source_pixel_scale == 0.05


def test_a_list_gives_what_one_by_one_gives(rng, model):
    # Everything differs: noise, mask, Gaussian and stamp PSFs of several sizes, lens, shape, pixel scale.
    observations = [
        observe(rng),
        observe(rng, psf=0.1, noise=0.01, pixel_scale=0.05),
        observe(rng, psf=stamp(5, 5), holes=True),
        observe(rng, (31, 33), psf=0.0),
        observe(rng, psf=stamp(3, 7), noise=0.2),
        dataclasses.replace(observe(rng), noise=0.05 + 0.1 * ring((32, 32), 0.08)),
    ]
    lenses = [dataclasses.replace(LENS, theta_E=0.6 + 0.05 * i, e1=0.02 * i) for i in range(len(observations))]
    together = reconstruct(observations, lenses, model)
    for result, observation, lens in zip(together, observations, lenses, strict=True):
        alone = reconstruct(observation, lens, model)
        assert result.observation is observation and result.lens is lens
        assert result.source_pixel_scale == alone.source_pixel_scale
        np.testing.assert_allclose(result.source, alone.source, atol=2e-5 * alone.source.max())
        np.testing.assert_allclose(result.model_image, alone.model_image, atol=2e-5 * alone.model_image.max())
        assert result.chi2_per_pixel == pytest.approx(alone.chi2_per_pixel, rel=1e-4)


def test_more_steps_go_on_from_where_fewer_end(rng, model):
    observation = observe(rng)
    usual = reconstruct(observation, LENS, model)
    more = reconstruct(observation, LENS, model, n_steps=3)
    assert len(usual.iterates) == 2 and len(more.iterates) == 3
    np.testing.assert_allclose(more.iterates[:2], usual.iterates, rtol=1e-4, atol=1e-6)
    solver = RIMSolver(RIMSettings(steps=3), model)
    (asked,) = solver([observation], [LENS])
    np.testing.assert_allclose(asked.source, more.source, rtol=1e-5)
    # A study must not take results of other steps for its own.
    assert solver.fingerprint != RIMSolver(RIMSettings(), model).fingerprint
    with pytest.raises(InputError, match="steps is 3, but errors"):
        solver.with_errors([observation], [LENS], 2)
    with pytest.raises(InputError, match="n_steps is 0"):
        reconstruct(observation, LENS, model, n_steps=0)


def test_what_is_masked_is_not_seen(rng, model):
    observation = observe(rng, holes=True)
    result = reconstruct(observation, LENS, model)
    assert np.isnan(result.residual[~observation.mask]).all()
    assert np.isfinite(result.residual[observation.mask]).all()
    image = np.where(observation.mask, observation.image, 1e4)
    other = reconstruct(dataclasses.replace(observation, image=image), LENS, model)
    np.testing.assert_array_equal(other.source, result.source)


def test_the_numbers_mean_what_they_say(rng, model):
    result = reconstruct(observe(rng, holes=True), LENS, model)
    residual = (result.observation.image - result.model_image)[result.observation.mask] / 0.05
    assert result.chi2_per_pixel == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert result.flux == pytest.approx(result.source.sum() * result.source_pixel_scale**2, rel=1e-5)
    assert result.magnification == pytest.approx(result.model_image.sum() * 0.08**2 / result.flux, rel=1e-5)
    summary = result.summary()
    assert summary["n_pixels"] == len(residual)
    assert summary["residual_largest"] == pytest.approx(np.abs(residual).max(), rel=1e-5)
    assert all(isinstance(value, (int, float, list)) for value in summary.values())


def test_arcs_that_leave_the_source_plane_are_warned_of(rng, model):
    observation = observe(rng, pixel_scale=0.05)
    with pytest.warns(InputWarning, match=r"(\d+) % of the image's flux comes from outside the source grid"):
        result = reconstruct(observation, dataclasses.replace(LENS, theta_E=0.05), model)
    assert 0.5 < result.flux_outside <= 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*outside the source grid")
        assert reconstruct(observation, LENS, model, source_pixel_scale=0.1).flux_outside == 0


def test_what_is_no_observation_and_no_lens_is_refused(rng, model):
    with pytest.raises(InputError, match="lens is of the type dict; it must be a LensParameters"):
        reconstruct(observe(rng), LENS.to_dict(), model)
    for odd in ("image.fits", ["image.fits"]):
        with pytest.raises(InputError, match="observation is of the type str; it must be an Observation"):
            reconstruct(odd, [LENS], model)


def test_lists_must_match(rng, model):
    observation = observe(rng)
    with pytest.raises(InputError, match="2 observations and 1 lenses"):
        reconstruct([observation, observation], [LENS], model)
    with pytest.raises(InputError, match="2 observations and 1 lenses"):
        reconstruct([observation, observation], LENS, model)


@pytest.mark.parametrize(
    "grid",
    [
        {"source_pixels": 3},
        {"source_pixels": 8.5},
        {"source_pixel_scale": 0.0},
        {"source_pixel_scale": np.nan},
    ],
)
def test_a_source_grid_that_is_none_is_refused(rng, model, grid):
    with pytest.raises(InputError, match=next(iter(grid))):
        reconstruct(observe(rng), LENS, model, **grid)


def test_a_result_plots_and_saves_itself(tmp_path, rng, model):
    result = reconstruct(observe(rng), LENS, model)
    assert isinstance(result.plot(truth=result.source), Figure)
    result.save(tmp_path / "result.fits")
    assert (tmp_path / "result.fits").stat().st_size > 0


@pytest.mark.parametrize("factor", [1.01, 1.03, 1.1])
def test_a_wrong_lens_is_said_aloud_and_the_true_one_is_not(factor):
    """theta_E wrong by 1 % on a bright lens, and more: a wrong number without a word is worse than a crash."""
    lens, source, scale = draw_system(28, 64, 0.08, LensParameters(1.25, 0.1, -0.12, 0.03, -0.04, 0.03, 0.02))
    observation, _ = observe_system(28, lens, source, scale, 64, 0.08, 0.005, 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reconstruct(observation, lens).doubts() == []
    with pytest.warns(InputWarning, match="chi.2 per pixel is .* the lens parameters are wrong"):
        reconstruct(observation, dataclasses.replace(lens, theta_E=factor * lens.theta_E))


def test_noise_that_is_no_standard_deviation_is_said_aloud(rng, model):
    observation = observe(rng, noise=0.05)
    for noise in (0.05**2, 1 / 0.05**2):
        with pytest.warns(InputWarning, match="noise is given too"):
            reconstruct(dataclasses.replace(observation, noise=noise), LENS, model)


def test_a_power_law_lens_is_reconstructed_beside_others(rng, model):
    observation = observe(rng)
    composite = CompositeLens(
        Component("power_law", **{name: value for name, value in LENS.to_dict().items() if name[0] != "g"}),
        Component("shear", gamma1=LENS.gamma1, gamma2=LENS.gamma2),
    )
    steep = CompositeLens(Component("power_law", theta_E=0.7, slope=2.3))
    same, isothermal, other = reconstruct([observation] * 3, [LENS, composite, steep], model)
    np.testing.assert_allclose(isothermal.source, same.source, atol=2e-4 * same.source.max())
    assert isothermal.lens == composite and other.lens == steep
    assert np.abs(other.source - same.source).max() > 0.01 * same.source.max()
