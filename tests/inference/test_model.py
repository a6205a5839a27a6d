"""From an image alone: with the shipped networks, on lenses that nobody trained on."""

import dataclasses
import functools
import types
import warnings

import modelled
import numpy as np
import pytest

from rim_tf.config import ModelConfig
from rim_tf.data.single import draw_system, observe_system
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference import estimate, lens_light, lens_samples, valley, workflow
from rim_tf.inference.calibration import DIFFERENCES, UNFITTED, noise_over_peak
from rim_tf.inference.halo import widening
from rim_tf.inference.search import _WIDER, Search
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import build_model
from rim_tf.observation import Observation

LENS = LensParameters(1.3, 0.12, -0.08, 0.03, -0.02, 0.02, 0.03)
QUICK = ModelConfig(starts=8, rounds=1, attempts=0)


@functools.cache
def found(lens_galaxy):
    lens, source, scale = draw_system(28, 40, 0.13, LENS)
    observation, _ = observe_system(28, lens, source, scale, 40, 0.13, 0.02, 0.08, lens_galaxy=lens_galaxy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return workflow.model(observation, QUICK)


@pytest.mark.parametrize("lens_galaxy", [0.0, 0.5])
def test_lens_and_galaxy_are_found(lens_galaxy):
    result = found(lens_galaxy)
    assert result.lens.theta_E == pytest.approx(LENS.theta_E, rel=0.015)
    offset = np.subtract(result.lens.as_tuple(), LENS.as_tuple())
    assert np.abs(offset[1:]).max() < 0.06
    assert (result.lens_light is not None) == (lens_galaxy > 0)
    assert result.source_fit.chi2_per_pixel < 1.15
    assert result.seconds > 0 and {step["stage"] for step in result.path} <= {"network", "coarse", "middle", "fine"}


def without_galaxy():
    lens, source, scale = draw_system(28, 40, 0.13, dataclasses.replace(LENS, theta_E=0.8))
    return observe_system(28, lens, source, scale, 64, 0.08, 0.02, 0.08)[0]


@pytest.mark.parametrize("unsought", [False, True])
def test_a_sky_without_a_galaxy_is_taken_off_and_said(unsought):
    bare = without_galaxy()
    level = 3 * float(np.median(bare.noise))
    bright = dataclasses.replace(bare, image=bare.image + level)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = workflow.model(bright, dataclasses.replace(QUICK, no_lens_light=unsought))
    assert result.lens_light is None and result.sky_level == pytest.approx(level, rel=0.05)
    assert any("3 times its noise, and not 0; this sky was taken off" in str(each.message) for each in said)
    np.testing.assert_allclose(result.frame.image, bright.image - result.sky_level, atol=1e-4)
    assert result.lens.theta_E == pytest.approx(0.8, rel=0.02) and result.source_fit.chi2_per_pixel < 1.15
    assert result.summary()["sky_level"] == result.sky_level


@pytest.mark.parametrize("masked", ["core", "outskirts"])
@pytest.mark.parametrize("unit", [1.0, 1e39])
def test_a_sky_is_taken_off_whatever_is_masked_and_in_any_unit(masked, unit):
    """A galaxy cannot be looked for in a masked core; what is masked shows no sky."""
    bare = without_galaxy()
    level = 3 * float(np.median(bare.noise))
    y, x = (np.indices(bare.shape) - 31.5) * 0.08
    radius = np.hypot(x - LENS.x_lens, y - LENS.y_lens)
    mask = radius > 0.55 if masked == "core" else radius < 2.4
    image, noise = ((each.astype(np.float64)) * unit for each in (bare.image + level, bare.noise))
    bright = Observation(image, noise, bare.psf, mask, bare.pixel_scale)
    rim, estimator, _ = workflow.networks("small", "estimator-small")
    seen = estimate.estimate_lens(bright, estimator)
    search = Search(bright, seen, rim, estimator, None, QUICK, lambda *told: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        search.begin()
    assert search.light is None and any("this sky was taken off" in each for each in search.doubts)
    assert search.frame is search.clear
    off = (bright.image - search.frame.image)[bright.mask]
    np.testing.assert_allclose(off, search.sky_level, rtol=1e-3)
    given = dict.fromkeys(field.name for field in dataclasses.fields(workflow.ModelResult))
    result = workflow.ModelResult(**given | {"observation": bright, "frame": search.frame})
    assert result.sky_level == pytest.approx(level * unit, rel=0.1)


def test_the_galaxy_is_taken_off_the_image():
    result = found(0.5)
    light = result.lens_light.model_image
    assert result.sky_level == result.lens_light.parameters["sky"] and found(0.0).sky_level == 0.0
    np.testing.assert_allclose(result.frame.image + light, result.observation.image, atol=1e-5)
    assert light.max() > 3 * result.source_fit.model_image.max()


def test_the_posterior_is_drawn_all_over_the_valley(monkeypatch):
    given = []
    monkeypatch.setattr(lens_samples, "sample_lens", lambda *_, **named: given.append(named) or [])
    result = dataclasses.replace(modelled.modelled(), valley=object())
    workflow.sample(result, modelled.networks()[0])
    assert given[0]["valley"] is result.valley and given[0]["fit"] is result.source_fit
    assert given[0]["galaxy_over_arcs"] == result.galaxy_over_arcs


def test_the_galaxy_beside_the_arcs_is_without_sky_and_in_the_frame_of_the_fit():
    result = modelled.modelled()  # whose lens light is the sky alone
    assert result.galaxy_over_arcs == 0
    fit, sky = result.source_fit, result.sky_level
    image = np.zeros(result.observation.shape)
    image[6:26, 6:26] = 2 * fit.model_image
    image[:6] = 1000.0  # beyond the frame of the fit
    light = dataclasses.replace(result.lens_light, model_image=image + sky)
    assert dataclasses.replace(result, lens_light=light).galaxy_over_arcs == pytest.approx(2)
    assert dataclasses.replace(result, lens_light=None).galaxy_over_arcs == 0


def test_a_source_grid_that_cuts_the_source_off_is_made_wider(monkeypatch):
    lens, source, scale = draw_system(28, 40, 0.13, LENS)
    observation, _ = observe_system(28, lens, source, scale, 40, 0.13, 0.02, 0.08)
    narrow = dataclasses.replace(QUICK, source_width=0.6, no_lens_light=True)
    holds_its_source = found(0.0)  # before anything is replaced below

    def modelled_now():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            return workflow.model(observation, narrow)

    wider = modelled_now()
    with monkeypatch.context() as context:
        context.setattr(Search, "_widen", lambda search: None)
        cut = modelled_now()
    assert cut.source_width == 0.6 and wider.source_width == pytest.approx(1.35)
    # Rounded up to what the network's stride divides.
    assert 0 <= len(wider.source_fit.source) - 1.35 * max(wider.source_fit.observation.shape) < 2
    assert cut.verdict.figures["source_edge"] > 0.01 > wider.verdict.figures["source_edge"]
    assert cut.source_fit.chi2_per_pixel > 1.05 * wider.source_fit.chi2_per_pixel
    assert wider.lens.theta_E == pytest.approx(LENS.theta_E, rel=0.01)
    assert wider.summary()["source_width"] == wider.source_width
    # Not beside a lens galaxy, whatever the edge shows; nor where the source is dark.
    for light, reconstruction in ((object(), cut.source_fit), (None, types.SimpleNamespace(source=np.zeros((8, 8))))):
        search = object.__new__(Search)
        search.light, search.config = light, narrow
        search.found = dark = types.SimpleNamespace(reconstruction=reconstruction, source_width=0.6)
        search._widen()
        assert search.found is dark and search.source_width == 0.6
    # No wider than twice the step, however often a fit begins; and not where that explains the image no better.
    cut_off = types.SimpleNamespace(reconstruction=cut.source_fit, source_width=0.6, lens=cut.lens)
    fitted = []

    def fit(search, starts, near, source_width):
        fitted.append(source_width)
        return types.SimpleNamespace(**vars(near) | {"source_width": source_width})

    monkeypatch.setattr(Search, "_fit", fit)
    for better, expected in ((True, [0.9, 1.35]), (False, [0.9])):

        def keep(search, before, better=better):
            if not better:
                search._return_to(before)
            return float(better)

        monkeypatch.setattr(Search, "_keep_better", keep)
        search = object.__new__(Search)
        search.config, search.starts = narrow, []
        search._return_to((cut_off, None, None, None, []))
        for _ in range(3 if better else 1):
            search._widen()
        np.testing.assert_allclose(fitted, expected)
        assert search.found.source_width == search.source_width == pytest.approx(1.35 if better else 0.6)
        fitted.clear()
    # A grid that holds the source stays as it is; and the posterior is drawn with the one of the fit.
    assert holds_its_source.source_width == QUICK.source_width
    given = []
    monkeypatch.setattr(lens_samples, "sample_lens", lambda *each, **_: given.append(each[3]) or [])
    for width in (0.5, 2.0):
        workflow.sample(dataclasses.replace(wider, source_width=width), modelled.networks()[0])
        assert given.pop().source_width == width


def test_the_summary_has_every_number():
    summary = found(0.5).summary()
    assert set(summary["lens_error"]) == set(summary["lens"]) == set(summary["estimate"])
    assert summary["believed"] == (not summary["flags"]) and summary["lens_light"] is True
    # Wider than the curvature says, as counted, and no less than the noise map alone would have it.
    curvature = np.sqrt(np.diag(found(0.5).lens_fit.covariance))
    noise = found(0.5).verdict.noise_factor
    assert found(0.5).error_factor == noise * widening(summary["galaxy_over_arcs"]) > noise
    assert found(0.0).error_factor == found(0.0).verdict.noise_factor
    wider = np.array(list(summary["lens_error"].values())) / curvature / found(0.5).error_factor
    np.testing.assert_allclose(wider, wider[0], rtol=1e-6)
    assert 1.1 < wider[0] < 2.6
    fit = found(0.5).source_fit
    noise = noise_over_peak(fit.observation, fit.model_image)
    assert wider[0] == pytest.approx(DIFFERENCES.stretch(noise))
    # And wider yet by the valley, where the fit walked along one.
    lenses = np.array([found(0.5).lens_fit.lens.as_tuple()] * 3)
    lenses[:, 0] *= (0.99, 1.0, 1.01)
    bent = dataclasses.replace(found(0.5), valley=valley.Valley(lenses, lenses, np.zeros(3), 1, fit.lens.mass))
    expected = np.hypot(found(0.5).lens_error[0], 0.01 * lenses[1, 0] / 2**0.5)
    np.testing.assert_allclose(bent.lens_error[0], expected, rtol=1e-3)
    assert summary["valley"] is None and bent.summary()["valley"]["chi2_rise"] == [0, 0, 0]
    np.testing.assert_allclose(bent.lens_error[1:], found(0.5).lens_error[1:], rtol=1e-6)


def test_a_frame_of_noise_is_no_lens():
    """Whatever lens is said to be in it is not believed."""
    noise = Observation(np.random.default_rng(2).normal(size=(40, 40)), 1.0, 0.1, None, 0.1)
    with pytest.warns(InputWarning, match="flag signal"):
        result = workflow.model(noise, dataclasses.replace(QUICK, starts=2))
    assert not result.verdict.believed and "signal" in result.verdict.flags


def test_a_frame_in_which_no_ring_could_be_seen_is_refused():
    small = Observation(np.ones((40, 20)), 1.0, 0.1, None, 0.1)
    with pytest.raises(InputError, match=r"image has shape \(40, 20\); no ring can be seen in less than 24 pixels"):
        workflow.model(small, QUICK)


def test_an_image_of_zeros_is_refused():
    with pytest.warns(InputWarning, match="image is 0"):
        empty = Observation(np.zeros((40, 40)), 1.0, 0.1, None, 0.1)
    with pytest.raises(InputError, match="image is 0 in all pixels that are used; check"):
        workflow.model(empty, QUICK)


def test_without_a_galaxy_none_is_looked_for(monkeypatch):
    monkeypatch.setattr(lens_light, "subtract_lens_light", None)
    rim, estimator = modelled.networks()
    observation = Observation(modelled.ring(), 0.05, 0.05, None, modelled.SCALE)
    config = dataclasses.replace(QUICK, no_lens_light=True, starts=2)
    # The galaxy in it is said, whatever becomes of it; of an image without one nothing is said of that kind.
    see = estimate.estimate_lens

    def seen(*arguments):
        return dataclasses.replace(see(*arguments), lens=LensParameters(0.8))

    monkeypatch.setattr(estimate, "estimate_lens", seen)
    with pytest.warns(
        InputWarning, match="times as bright as in the ring, as with a lens galaxy in it; leave --no-lens"
    ):
        result = workflow.model(observation, config, rim=rim, estimator=estimator)
    assert result.lens_light is None and result.frame is observation
    free = dataclasses.replace(observation, image=modelled.ring(galaxy=0.0))
    with pytest.warns(InputWarning) as caught:
        workflow.model(free, config, rim=rim, estimator=estimator)
    assert not any("--no-lens-light" in str(each.message) for each in caught)


def test_the_network_searches_and_alone_it_fits_nothing():
    observation = Observation(modelled.ring(galaxy=0.0), 0.05, 0.05, None, modelled.SCALE)
    rim, estimator = modelled.networks()
    stages = {}
    ways = {"search": {"search": "network"}, "descent": {"search": "descent"}, "fast": {"fast": True}}
    for name, config in ways.items():
        config = dataclasses.replace(QUICK, starts=3, no_lens_light=True, **config)
        with pytest.warns(InputWarning) as caught:
            result = workflow.model(observation, config, None, rim, estimator, modelled.joint())
        assert any("was not fitted" in str(each.message) for each in caught) == (name == "fast")
        stages[name] = [step["stage"] for step in result.path]
        assert np.isfinite(result.source_fit.source).all()
        assert result.fitted == (name != "fast")
        fit = result.source_fit
        noise = noise_over_peak(fit.observation, fit.model_image)
        counted = DIFFERENCES.stretch(noise) if result.fitted else UNFITTED.stretch(noise)
        curvature = np.sqrt(np.diag(result.lens_fit.covariance)) * result.verdict.noise_factor
        np.testing.assert_allclose(result.lens_error, max(counted, DIFFERENCES.stretch(noise)) * curvature, rtol=1e-6)
        if name == "fast":
            np.testing.assert_allclose(result.lens.as_tuple(), result.path[-1]["lens"], rtol=1e-5, atol=1e-6)
    assert set(stages["search"]) == set(stages["fast"]) == {"network", "fine"}
    # Where each source grid begins, and no step on it.
    widened = round(np.log(result.source_width / QUICK.source_width) / np.log(_WIDER))
    assert stages["fast"].count("fine") == 1 + widened < stages["search"].count("fine")
    assert "coarse" not in stages["search"] and ModelConfig().search == "network"
    assert "coarse" in stages["descent"] and "network" not in stages["descent"]


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match="posterior is of a fitted lens; leave fast"):
        ModelConfig(fast=True, posterior=True)
    rim, estimator = modelled.networks()
    other = build_model(dataclasses.replace(modelled.joint().config, mass=("power_law", "shear")))
    observation = Observation(modelled.ring(), 0.05, 0.05, None, modelled.SCALE)
    with pytest.raises(InputError, match=r"knows the mass model \('sie', 'shear'\), and the network .* another"):
        workflow.model(observation, ModelConfig(fast=True), None, rim, estimator, other)
    # A fit has another way to its starts.
    config = dataclasses.replace(QUICK, starts=2, rounds=0, no_lens_light=True, search="network")
    with pytest.warns(InputWarning, match="another, .* descent searches in its place"):
        result = workflow.model(observation, config, None, rim, estimator, other)
    assert "network" not in {step["stage"] for step in result.path}


def test_a_prior_is_in_the_coordinates_of_the_whole_frame(monkeypatch):
    given, result = [], modelled.modelled()
    result = dataclasses.replace(result, observation=dataclasses.replace(result.observation, centre=(3.0, -2.0)))
    monkeypatch.setattr(lens_samples, "sample_lens", lambda *_, prior, **__: given.append(prior) or [])
    workflow.sample(result, None, prior={"x_lens": (3.1, 0.05), "y_lens": (-2.1, 0.05), "theta_E": (1.0, 0.1)})
    (prior,) = given
    assert prior["x_lens"] == pytest.approx((0.1, 0.05)) and prior["y_lens"] == pytest.approx((-0.1, 0.05))
    assert prior["theta_E"] == (1.0, 0.1)
