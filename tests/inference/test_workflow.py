import dataclasses
import subprocess
import sys
import types
import warnings

import modelled
import numpy as np
import pytest

from rim_tf import memory
from rim_tf.config import WorkflowConfig
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference import methods, workflow
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation

LENS = LensParameters(0.6, 0.1, 0.05)


@dataclasses.dataclass(frozen=True)
class Settings:
    level: float = 2.0


class Flat:
    """A method that finds every source flat."""

    fingerprint = "flat"

    def __init__(self, settings):
        self.settings, self.seen = settings, []

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        self.seen.append((observations, lenses, source_pixel_scale, source_pixels))
        source = np.full((4, 4), self.settings.level)
        return [
            types.SimpleNamespace(source=source, model_image=np.zeros(data.shape), observation=data, lens=lens)
            for data, lens in zip(observations, lenses, strict=True)
        ]


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    return methods.register(methods.Method("flat", "flatten", "flat source", "k", Settings, Flat, bytes_per_pixel=1000))


@pytest.fixture
def observation(rng):
    return Observation(rng.normal(size=(12, 14)), 0.1, 0.05, pixel_scale=0.1)


def test_any_registered_method_finds_the_source(flat, observation):
    result = workflow.run(observation, LENS, "flat", Settings(3.0))
    assert (result.source_fit.source == 3.0).all()
    assert result.source_fit.observation is observation and result.source_fit.lens is result.start is LENS
    assert (result.method, result.settings, result.lens_light, result.lens_fit) == (flat, Settings(3.0), None, None)
    assert workflow.run(observation, LENS, "flat").settings == Settings()
    with pytest.raises(InputError, match="no method 'flatten'; known are rim, inversion, flat"):
        workflow.run(observation, LENS, "flatten")


@pytest.mark.parametrize("galaxy", [0.0, 3.0])
def test_an_image_that_is_free_of_lens_light_already_is_told(flat, galaxy):
    observation = Observation(modelled.ring(galaxy=galaxy), 0.05, 0.05, None, modelled.SCALE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        workflow.run(observation, LensParameters(0.8), "flat", config=WorkflowConfig(subtract_lens_light=True))
    said = [str(each.message) for each in caught if "Hardly any lens galaxy was there" in str(each.message)]
    assert len(said) == (galaxy == 0) and all("leave --subtract-lens-light" in each for each in said)


def test_each_step_hands_on_what_it_found(flat, observation, monkeypatch):
    def subtract(given, lens):
        assert given is observation and lens is LENS
        return types.SimpleNamespace(observation=dataclasses.replace(given, image=given.image - 1))

    def fit(given, lens, solver, config, progress):
        np.testing.assert_allclose(given.image, observation.image - 1)
        assert lens is LENS
        return types.SimpleNamespace(lens=dataclasses.replace(lens, theta_E=0.7))

    monkeypatch.setattr(workflow, "_subtract_lens_light", subtract)
    monkeypatch.setattr(workflow, "_fit_lens", fit)
    steps, solver = [], Flat(Settings())
    config = WorkflowConfig(source_pixels=8, source_pixel_scale=0.02, subtract_lens_light=True, fit_lens=True)
    result = workflow.run(observation, LENS, "flat", None, config, lambda *step: steps.append(step), solver)
    assert steps == [("lens light", 0, None), ("lens", 0, None), ("source", 0, None)]
    ((observations, lenses, scale, pixels),) = solver.seen
    np.testing.assert_allclose(observations[0].image, observation.image - 1)
    assert (lenses[0].theta_E, scale, pixels) == (0.7, 0.02, 8)
    assert result.start is LENS and result.lens_fit.lens == result.source_fit.lens
    assert result.lens_light.observation is result.source_fit.observation


def test_the_lens_goes_by_the_rim_whatever_finds_the_source(flat, observation, monkeypatch):
    from rim_tf.config import SMALL, RIMSettings
    from rim_tf.inference import optimise
    from rim_tf.inference.rim import RIMSolver
    from rim_tf.models import pretrained
    from rim_tf.models.rim import RIM

    tiny = RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)))
    monkeypatch.setattr(pretrained, "load_pretrained", lambda name: f"weights {name}")
    used, steps = [], []

    def fit(arcs, lens, model, fixed, progress, n_rim_steps):
        used.append((arcs.shape, model))
        steps.append(n_rim_steps)
        return types.SimpleNamespace(lens=lens)

    monkeypatch.setattr(optimise, "optimise_lens", fit)
    config = WorkflowConfig(fit_lens=True, fit_radius=0.8)
    workflow.run(observation, LENS, "flat", None, config)
    workflow.run(observation, LENS, "rim", None, config, solver=RIMSolver(RIMSettings(steps=3), tiny))
    workflow.run(observation, LENS, "flat", None, dataclasses.replace(config, fit_weights="mine"))
    assert [model for _, model in used] == ["weights small", tiny, "weights mine"]
    # As many as find the source, where it is the same network.
    assert steps == [None, 3, None]
    assert {shape for shape, _ in used} == {(10, 10)}  # the arcs alone, 0.48 arcsec on each side of the centre


def test_a_source_that_is_no_number_is_refused(flat, observation):
    with pytest.raises(InputError, match="The flat source gave pixels that are no number"):
        workflow.run(observation, LENS, "flat", Settings(np.nan))


def test_what_does_not_fit_into_memory_is_refused_before_the_work(flat, observation, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 500_000)
    workflow.run(observation, LENS, "flat")  # 14 x 14 pixels of 1000 bytes
    solver = Flat(Settings())
    for config in (WorkflowConfig(source_pixels=30), WorkflowConfig(source_pixels=10**6)):
        with pytest.raises(InputError, match=r"source of \d+ x \d+ pixels behind an image of 12 x 14 takes about"):
            workflow.run(observation, LENS, "flat", None, config, solver=solver)
    assert solver.seen == []


@pytest.mark.parametrize("method", ["rim", "inversion"])
@pytest.mark.parametrize("unit", [1e-40, 1e-19, 1e25])
def test_results_are_in_the_units_of_the_data(method, unit, rng):
    y, x = np.mgrid[:24, :24] - 11.5
    image = np.exp(-((np.hypot(x, y) - 6) ** 2) / 2 / 1.5**2) + 0.05 * rng.normal(size=(24, 24))
    usual, scaled = (
        workflow.run(Observation(u * image, u * 0.05, 0.1, pixel_scale=0.1), LENS, method).source_fit
        for u in (1.0, unit)
    )
    for name in ("source", "model_image"):
        tolerance = 1e-3 * getattr(usual, name).max()
        np.testing.assert_allclose(getattr(scaled, name) / unit, getattr(usual, name), atol=tolerance)
    np.testing.assert_allclose(scaled.residual, usual.residual, atol=0.05)
    assert scaled.flux == pytest.approx(unit * usual.flux, rel=1e-3)
    assert scaled.magnification == pytest.approx(usual.magnification, rel=1e-3)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, rim_tf.inference.workflow; print([m for m in ('keras', 'scipy', 'click') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
