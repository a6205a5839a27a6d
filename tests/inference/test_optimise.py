import dataclasses
import functools
import math

import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose
from spirals import lensed_spiral

from rim_tf.config import ModelConfig
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.inference import misfit
from rim_tf.inference.misfit import LensPrior
from rim_tf.inference.optimise import (
    coarsened,
    cropped,
    explore,
    model_image,
    optimise_lens,
    placed,
    refine,
    with_noise_floor,
)
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.systems import batch_of

FLAT = LensPrior(1e3, 1e3, 1e3, 1e3)
TRUTH = LensParameters(1.0, 0.15, 0.1, 0.03, -0.02, 0.03, -0.02)


@functools.cache
def small():
    return load_pretrained("small")


@functools.cache
def short(n_steps=3):
    """The same network cut short: poorer, and quicker to trace."""
    model = RIM(dataclasses.replace(small().config, n_steps=n_steps))
    model.set_weights(small().get_weights())
    return model


@functools.cache
def observed(pixels=48, pixel_scale=0.09, noise=0.01):
    """A lensed spiral galaxy, its peak 1, as the lens TRUTH shows it."""
    return lensed_spiral(TRUTH, pixels, pixel_scale, noise)


@pytest.mark.parametrize("shape", [(20, 20), (21, 21), (20, 31)])
def test_a_cropped_observation_keeps_its_coordinates(shape):
    scale = 0.1
    x, y = (ops.convert_to_numpy(each)[0] for each in PixelGrid(*shape, np.float64(scale)).coordinates())
    mask = x > -0.5
    small_x = cropped(Observation(x, 1 + y**2, 0.1, mask, scale), 0.7)
    inner_x, inner_y = PixelGrid(*small_x.shape, np.float64(scale)).coordinates()
    inner_x, inner_y = ops.convert_to_numpy(inner_x)[0], ops.convert_to_numpy(inner_y)[0]
    used = small_x.mask
    assert max(small_x.shape) * scale <= 2 * (0.7 + scale) and min(small_x.shape) * scale >= 2 * (0.7 - scale)
    assert_allclose(small_x.image[used], inner_x[used], atol=1e-6)
    assert_allclose(small_x.noise[used], 1 + inner_y[used] ** 2, rtol=1e-6)
    assert (used == (inner_x > -0.5)).all()
    assert cropped(small_x, 10.0).shape == small_x.shape
    with pytest.raises(InputError, match="half_width"):
        cropped(small_x, 0.01)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("stamp", [False, True])
def test_a_coarse_frame_shows_the_same_sky(factor, stamp):
    """A Gaussian blob seen coarsely is what binning makes of it: blurred by the wide pixel."""
    scale, sigma, width = 0.1, 0.12, 0.35
    x, y = (ops.convert_to_numpy(each)[0] for each in PixelGrid(37, 38, np.float64(scale)).coordinates())
    offset = np.arange(-7, 8) * scale
    psf = np.exp(-(offset[:, None] ** 2 + offset**2) / 2 / sigma**2)
    psf = psf / psf.sum() if stamp else sigma
    image, mask = np.exp(-((x - 0.2) ** 2 + (y + 0.1) ** 2) / 2 / width**2), x < 1.0
    fine, whole = (Observation(image, 0.3, psf, used, scale) for used in (mask, None))
    coarse, whole = coarsened(fine, factor), coarsened(whole, factor)
    grid = PixelGrid(*coarse.shape, np.float64(factor * scale))
    x, y = (ops.convert_to_numpy(each)[0] for each in grid.coordinates())
    variance = width**2 + (factor**2 - 1) / 12 * scale**2
    expected = width**2 / variance * np.exp(-((x - 0.2) ** 2 + (y + 0.1) ** 2) / 2 / variance)
    assert_allclose(whole.image, expected, atol=0.02)
    apart = np.abs(x - 1.0) > factor * scale
    assert ((coarse.mask == (x < 1.0)) | ~apart).all() and coarse.pixel_scale == factor * scale
    assert_allclose(coarse.image[coarse.mask & apart], expected[coarse.mask & apart], atol=0.02)
    assert np.median(whole.noise) == pytest.approx(0.3 / factor, rel=0.3)
    psf = whole.psf
    if stamp:
        assert psf.shape[0] % 2 == 1
        along = np.arange(len(psf)) - len(psf) // 2
        assert abs((psf * along).sum()) < 1e-6
        psf = factor * scale * math.sqrt((psf * along**2).sum())
    # A stamp of one wide pixel or so has not quite the moment of what it samples.
    assert psf == pytest.approx(math.sqrt(sigma**2 + (factor**2 - 1) / 12 * scale**2), rel=0.1)
    assert coarsened(fine, 1) is fine


def test_a_perturbed_lens_comes_back():
    start = dataclasses.replace(TRUTH, theta_E=1.03, e1=TRUTH.e1 - 0.05, e2=TRUTH.e2 + 0.05)
    fit = optimise_lens(observed(), start, small(), n_steps=12, n_angles=1)
    before = reconstruct(observed(), start, small()).chi2_per_pixel
    assert fit.lens.theta_E == pytest.approx(TRUTH.theta_E, rel=0.01)
    # Ellipticity and shear can stand in for each other in part, so each alone is less sure than theta_E.
    assert math.hypot(fit.lens.e1 - TRUTH.e1, fit.lens.e2 - TRUTH.e2) < 0.03
    assert math.hypot(fit.lens.gamma1 - TRUTH.gamma1, fit.lens.gamma2 - TRUTH.gamma2) < 0.02
    assert fit.reconstruction.chi2_per_pixel < 1.1 < 1.5 < before
    assert fit.reconstruction.lens == fit.lens
    assert fit.history[0]["chi2_per_pixel"] == pytest.approx(before, rel=1e-3)
    assert fit.ends["chi2_per_pixel"] == pytest.approx([fit.reconstruction.chi2_per_pixel], rel=1e-3)
    assert_allclose(fit.ends["lens"], [fit.lens.as_tuple()], rtol=1e-5)
    # The truth lies within the errors that the curvature gives: chi^2 of seven parameters, generously.
    offset = np.array(fit.lens.as_tuple()) - TRUTH.as_tuple()
    assert offset @ np.linalg.solve(fit.covariance, offset) < 40
    assert_allclose(np.sqrt(np.diag(fit.covariance)), [0.003, 0.01, 0.01, 0.003, 0.003, 0.008, 0.008], rtol=0.9)


def test_a_wrong_position_angle_is_found_out():
    start = LensParameters(1.02, -TRUTH.e1, -TRUTH.e2, TRUTH.x_lens, TRUTH.y_lens)  # turned by 90 degrees
    fit = optimise_lens(observed(), start, short(6), n_angles=4)
    assert {step["stage"] for step in fit.history} == {"coarse", "fine"}
    assert fit.lens.theta_E == pytest.approx(TRUTH.theta_E, rel=0.015)
    assert math.hypot(fit.lens.e1 - TRUTH.e1, fit.lens.e2 - TRUTH.e2) < 0.05
    assert fit.reconstruction.chi2_per_pixel < 1.15


def test_it_is_never_worse_than_the_start_and_stops_at_the_target():
    start = reconstruct(observed(), TRUTH, short())
    fit = optimise_lens(
        observed(), TRUTH, short(), n_steps=30, n_angles=1, target_chi2=1.01 * start.chi2_per_pixel, prior=FLAT
    )
    assert len(fit.history) == 1
    assert fit.reconstruction.chi2_per_pixel <= start.chi2_per_pixel * (1 + 1e-5)


@pytest.mark.filterwarnings("ignore:.*from outside the source grid")
def test_the_prior_holds_the_lens_where_data_say_nothing(rng):
    noise = dataclasses.replace(observed(), image=0.01 * rng.normal(size=observed().shape))
    start = LensParameters(1.0, 0.3, 0.0, gamma1=0.2)
    tight = LensPrior(ellipticity=1e-3, shear=1e-3)
    fit = optimise_lens(noise, start, short(), n_angles=1, prior=tight)
    assert abs(fit.lens.e1) < 0.15 and abs(fit.lens.gamma1) < 0.1


@pytest.mark.parametrize("wrong", [{"n_steps": 0}, {"n_angles": 0}])
def test_no_steps_and_no_angles_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        optimise_lens(observed(), TRUTH, small(), **wrong)


def test_a_power_law_with_shear_is_fitted_as_any_lens():
    start = CompositeLens(
        Component("power_law", theta_E=1.03, slope=2.1, e1=TRUTH.e1, e2=TRUTH.e2, x_lens=TRUTH.x_lens),
        Component("shear", gamma1=TRUTH.gamma1, gamma2=TRUTH.gamma2),
    )
    fit = optimise_lens(observed(), start, short(), n_steps=4, n_angles=2)
    assert fit.lens.mass == start.mass
    assert fit.reconstruction.chi2_per_pixel < 0.7 * reconstruct(observed(), start, short()).chi2_per_pixel
    assert abs(fit.lens.theta_E - TRUTH.theta_E) < 0.02


def test_what_is_fixed_keeps_its_value_and_steps_are_told():
    start, told = dataclasses.replace(TRUTH, theta_E=1.03), []
    given = {"fixed": ("x_lens", "gamma1"), "progress": lambda *at: told.append(at)}
    fit = optimise_lens(observed(), start, short(), n_steps=3, n_angles=2, **given)
    assert fit.lens.theta_E != start.theta_E and fit.lens.e1 != start.e1
    assert (fit.lens.x_lens, fit.lens.gamma1) == (start.x_lens, start.gamma1)
    assert fit.lens.gamma2 != start.gamma2 and fit.lens.y_lens != start.y_lens
    columns = np.array([step["lens"] for step in fit.history])
    held = [TRUTH.mass.names.index(name) for name in given["fixed"]]
    assert_allclose(columns[:, held], [[start.x_lens, start.gamma1]] * len(columns), rtol=1e-6)
    free = np.delete(np.arange(len(columns[0])), held)
    assert (fit.covariance[held] == 0).all() and (np.diag(fit.covariance)[free] > 0).all()
    assert [done for done, _ in told] == list(range(len(told))) and {most for _, most in told} == {13}


def test_light_that_is_left_over_is_not_held_against_a_lens():
    """A galaxy in the middle, as bright as the arcs: told of it, the fit finds the lens, and how well that explains."""
    clean = observed()
    x, y = (ops.convert_to_numpy(each)[0] for each in PixelGrid(*clean.shape, np.float64(0.09)).coordinates())
    galaxy = np.exp(-((x - 0.1) ** 2 + y**2) / (2 * 0.4**2)).astype(np.float32)
    dirty = dataclasses.replace(clean, image=clean.image + galaxy)
    start = dataclasses.replace(TRUTH, theta_E=1.03)
    told, untold = (
        optimise_lens(dirty, start, short(6), n_steps=5, n_angles=1, left_over=left_over)
        for left_over in (galaxy[None], None)
    )
    assert np.abs(np.subtract(told.lens.as_tuple(), TRUTH.as_tuple())).max() < 0.04
    assert told.ends["chi2_per_pixel"][0] < 0.5 * untold.ends["chi2_per_pixel"][0]
    # The image is as it was, and the galaxy in it.
    assert told.reconstruction.chi2_per_pixel > told.ends["chi2_per_pixel"][0]


def test_the_middle_of_a_frame_goes_back_to_its_place():
    whole = observed()
    middle = cropped(whole, 1.0)
    back = placed(middle.image, whole.shape)
    assert back.shape == whole.shape and np.isin(back, [0, *whole.image.ravel()]).all()
    assert (back != 0).sum() == middle.image.size and (back == whole.image)[back != 0].all()


def test_exploring_gives_the_best_starts_first():
    far = dataclasses.replace(TRUTH, theta_E=0.5, e1=-0.3)
    found, history = explore(observed(), [far, dataclasses.replace(TRUTH, theta_E=1.03)], small())
    assert abs(found[0].theta_E - TRUTH.theta_E) < 0.02 and len(found) <= 2
    assert history[-1]["lens"] == pytest.approx(found[0].as_tuple(), rel=1e-5)


@pytest.mark.parametrize("left_over", [False, True])
def test_tangents_are_about_the_slopes_by_differences(left_over):
    """Of the prior, and, where noise is raised, of the data; and what they foresee lowers chi^2 as much."""
    seen = with_noise_floor(observed())
    light = np.stack([np.ones(seen.shape), seen.image]) if left_over else None
    start = np.array([[1.04, 0.1, 0.15, 0.0, 0.0, 0.0, 0.0]])
    fit = misfit.Misfit(
        misfit.View(seen, small(), TRUTH.mass, 4, 48), start[0], np.zeros(7, bool), LensPrior().columns(TRUTH), light
    )
    u, unit = fit.coordinates(start), misfit.unit_steps(TRUTH.mass, 1.0)
    residual = fit(u)
    exact = fit.slopes(u, residual, np.full((1, 7), 0.5), unit)[0].astype(float)
    about = fit.tangent_slopes(u, unit)[0].astype(float)
    assert_allclose(about[:, -7:], exact[:, -7:], atol=0.05 * np.abs(exact[:, -7:]).max())
    alike = (about * exact).sum(1) / np.sqrt((about**2).sum(1) * (exact**2).sum(1))
    assert (alike > 0.6).all()

    def after(slope):
        curvature = slope @ slope.T
        step = np.linalg.solve(curvature + 1e-2 * np.diag(np.diag(curvature)), -slope @ residual[0])
        return (fit(u + step * unit) ** 2).sum()

    before = (residual**2).sum()
    assert before - after(about) > 0.8 * (before - after(exact)) > 0.2 * before


@pytest.mark.parametrize("fixed", [(), ("e1",)])
def test_the_last_frame_and_what_is_fixed_have_slopes_by_differences(fixed, monkeypatch):
    """Of the coarse and the middle frame of an image of 80 pixels the slopes are tangents."""
    scales, tangents = [], misfit.View.tangents

    def seen(self, lenses):
        scales.append(self.observation.pixel_scale)
        return tangents(self, lenses)

    monkeypatch.setattr(misfit.View, "tangents", seen)
    frame, start = observed(80, 0.06), dataclasses.replace(TRUTH, theta_E=1.03)
    found = optimise_lens(frame, start, short(), n_steps=3, n_angles=2, fixed=fixed)
    assert {step["stage"] for step in found.history} == {"coarse", "middle", "fine"}
    assert set(scales) == (set() if fixed else {0.12}) and abs(found.lens.theta_E - 1) < 0.01


def test_tangents_take_sources_that_are_known(monkeypatch):
    # Of more lenses than go into one call.
    monkeypatch.setattr(misfit, "_PIXELS_AT_ONCE", 2 * 7 * 40**2)
    view = misfit.View(observed(40), short(), TRUTH.mass, 3, None)
    lenses = [dataclasses.replace(TRUTH, theta_E=theta_E).as_tuple() for theta_E in (0.9, 0.95, 1.0, 1.05, 1.1)]
    _, sources = view.images_and_sources(lenses)
    expected = view.tangents(lenses)
    assert_allclose(view.tangents(lenses, sources), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    other = view.tangents(lenses, sources[::-1])
    assert np.abs(other - expected).max() > 1e-2 * np.abs(expected).max()


def test_a_fit_by_rough_slopes_has_errors_by_differences(monkeypatch):
    taken = []
    for name in ("tangent_slopes", "slopes"):
        own = getattr(misfit.Misfit, name)

        def counted(self, *given, name=name, own=own):
            taken.append(name)
            return own(self, *given)

        monkeypatch.setattr(misfit.Misfit, name, counted)
    start = dataclasses.replace(TRUTH, theta_E=1.01)
    exact = refine(observed(), [start], short(), None, 4)
    errors = np.sqrt(np.diag(exact.covariance()))
    assert set(taken) == {"slopes"}
    taken.clear()
    rough = refine(observed(), [start], short(), None, 4, before=exact, roughly=True)
    assert set(taken) == {"tangent_slopes"}
    taken.clear()
    assert_allclose(np.sqrt(np.diag(rough.covariance())), errors, rtol=0.5)
    assert taken == ["slopes"]
    assert rough.ends["chi2_per_pixel"][0] < 1.05 * exact.ends["chi2_per_pixel"][0]


def test_the_slopes_of_an_earlier_fit_are_used_again(monkeypatch):
    """From where a fit ended, on the same sky with another noise, there is no need of others."""
    found, seen = [], []
    view = misfit.View.__call__

    def counted(self, lenses):
        seen.append(len(lenses))
        return view(self, lenses)

    monkeypatch.setattr(misfit.View, "__call__", counted)
    lens, frame = dataclasses.replace(TRUTH, theta_E=1.01), observed()
    for before in (False, True):
        seen.append(0)
        found.append(refine(frame, [lens], short(), None, 4, before=found[0] if before else None))
        lens, frame = found[0].lens, dataclasses.replace(frame, noise=1.1 * frame.noise)
    second = seen[seen.index(0, 1) :]
    assert max(seen) >= len(TRUTH.as_tuple()) > max(second)
    # The RIM knows of the noise, so not quite in proportion.
    chi2 = [each.ends["chi2_per_pixel"][0] for each in found]
    assert 1.1**2 * chi2[1] == pytest.approx(chi2[0], rel=0.02)
    assert_allclose(found[1].covariance(), 1.1**2 * found[0].covariance(), rtol=0.3, atol=1e-6)


def test_the_image_of_a_lens_is_that_of_its_reconstruction():
    expected = reconstruct(observed(), TRUTH, short()).model_image
    assert_allclose(model_image(observed(), TRUTH, short()), expected, atol=1e-4)


def test_starts_of_ones_own_are_all_followed():
    far = dataclasses.replace(TRUTH, theta_E=0.6, e1=-0.2)
    near = dataclasses.replace(TRUTH, theta_E=1.02)
    fit = optimise_lens(observed(), [far, near], short(6), n_steps=4)
    assert fit.lens.theta_E == pytest.approx(TRUTH.theta_E, rel=0.01)
    assert fit.history[0]["lens"] == pytest.approx(near.as_tuple())
    assert fit.ends["chi2_per_pixel"] == sorted(fit.ends["chi2_per_pixel"])
    other = CompositeLens(Component("sie", theta_E=1.0))
    for starts in ([], [near, other]):
        with pytest.raises(InputError, match=f"There are {len(starts)} starts; there must be"):
            optimise_lens(observed(), starts, short())


@pytest.mark.parametrize(
    ("fixed", "complaint"),
    [(("q",), "'q' is no parameter of it; it has theta_E"), (TRUTH.mass.names, "nothing is left")],
)
def test_fixing_what_there_is_not_or_everything_is_refused(fixed, complaint):
    with pytest.raises(InputError, match=complaint):
        optimise_lens(observed(), TRUTH, short(), fixed=fixed)


def test_a_source_beyond_the_usual_grid_is_explained_by_a_wider_one(rng):
    """Behind arcs that were cut out, the grid of the usual width ends at 0.9 theta_E."""
    scale, pixels = 0.09, 64
    lens = dataclasses.replace(TRUTH, theta_E=0.8)
    x, y = (ops.convert_to_numpy(each)[0] for each in PixelGrid(96, 96, np.float64(0.5 * scale)).coordinates())
    source = np.exp(-((x - 0.85) ** 2 + (y - 0.2) ** 2) / (2 * 0.12**2)).astype(np.float32)
    empty = Observation(np.zeros((pixels, pixels)), 0.01, 0.05, pixel_scale=scale)
    operator = imaging_operator(batch_of([empty], [lens], [0.5 * scale]), source.shape)
    image = ops.convert_to_numpy(operator.forward(ops.convert_to_tensor(source[None])))[0]
    seen = dataclasses.replace(empty, image=image + 0.01 * rng.normal(size=image.shape))
    arcs = cropped(seen, ModelConfig.fit_radius * lens.theta_E)

    def chi2(width):
        wide = math.ceil(width * max(arcs.shape))
        return refine(arcs, [lens], small(), None, 1, source_pixels=wide).ends["chi2_per_pixel"][0]

    assert chi2(1.0) > 2 > 1.2 > chi2(ModelConfig.source_width)
