"""A lens found from a tiny image by tiny untrained networks, and what gives it in the place of `workflow.model`."""

import dataclasses
import functools
import warnings

import numpy as np
from registry import SMALL_ESTIMATOR

from rim_tf.config import SMALL, JointConfig

PIXELS, SCALE = 32, 0.1
# Good figures of all tests, of a lens that is to be believed.
BELIEVED = {
    "chi2": 1.0,
    "whiteness": 0.0,
    "signal": 100.0,
    "flux_outside": 0.0,
    "starts": 0.0,
    "estimator": 1.0,
    "axis_ratio": 0.8,
    "shear": 0.05,
    "source_edge": 0.0,
    "core": float("nan"),
    "source_size": 0.3,
    "magnification": 8.0,
    "off_centre": 0.01,
    "noise_map": 1.0,
    "together": 0.2,
}


@functools.cache
def networks():
    """A RIM and an estimator."""
    from rim_tf.models.pretrained import build_model
    from rim_tf.models.rim import RIM

    return RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4))), build_model(SMALL_ESTIMATOR)


@functools.cache
def joint():
    """A network that finds lens and source together."""
    from rim_tf.models.pretrained import build_model

    return build_model(JointConfig(n_steps=2, features=4, hidden=(4, 4), encoder=(4,), encoder_side=2, memory=8))


def save_networks(folder):
    """Options of `rim-tf model` that name these networks, as files in a folder."""
    from rim_tf.models.pretrained import save_trained

    for network, name in zip(networks(), ("rim", "estimator"), strict=True):
        save_trained(network, folder / name, {})
    return {"--weights": folder / "rim.json", "--estimator": folder / "estimator.json"}


def ring(noise=0.05, seed=0, galaxy=3.0):
    """A ring with a galaxy in its middle, so bright, [rows, columns]."""
    y, x = (np.mgrid[:PIXELS, :PIXELS] - (PIXELS - 1) / 2) * SCALE
    radius = np.hypot(x, y)
    image = np.exp(-(((radius - 0.8) / 0.15) ** 2)) + galaxy * np.exp(-((radius / 0.2) ** 2))
    return image + noise * np.random.default_rng(seed).normal(size=image.shape)


@functools.cache
def modelled():
    """A `ModelResult`, fitted to the middle 20 pixels of the frame; everything in it is real but for the fit."""
    from rim_tf.inference import verdict
    from rim_tf.inference.estimate import estimate_lens
    from rim_tf.inference.lens_light import LensLightFit
    from rim_tf.inference.optimise import LensFit, cropped
    from rim_tf.inference.rim import reconstruct
    from rim_tf.inference.workflow import ModelResult
    from rim_tf.lens import LensParameters
    from rim_tf.observation import Observation

    rim, estimator = networks()
    observation = Observation(ring(), 0.05, 0.05, None, SCALE)
    light = np.full(observation.shape, 0.25, np.float32)
    frame = dataclasses.replace(observation, image=observation.image - light)
    lens = LensParameters(0.8, 0.1, 0.05, 0.02, -0.01, 0.03, -0.02)
    path = [
        {"stage": "coarse", "chi2_per_pixel": 3.0, "lens": (0.7, 0, 0, 0, 0, 0, 0)},
        {"stage": "fine", "chi2_per_pixel": 2.0, "lens": (0.75, 0, 0, 0, 0, 0, 0)},
    ]
    ends = {"chi2_per_pixel": [2.0], "lens": [lens.as_tuple()], "n_pixels": 400}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained network explains nothing
        fit = LensFit(lens, path, reconstruct(cropped(frame, 1.0), lens, rim), 1e-4 * np.eye(7), ends)
    estimate = estimate_lens(frame, estimator)
    parameters = {"sky": 0.25, "centre": [0.0, 0.0], "components": []}
    nowhere = np.zeros(observation.shape)
    given = np.zeros(8), np.array([0.25]), nowhere > 0, nowhere, np.ones((1, *nowhere.shape))
    fitted = LensLightFit(frame, light, parameters, *given)
    judged = verdict.judge(frame, fit, estimate)
    return ModelResult(observation, frame, fitted, estimate, fit, judged, 0.5, path, 1.5, rim=rim)


def with_sources():
    """The same with a posterior, sources in it."""
    from rim_tf.inference.lens_samples import LensSamples
    from rim_tf.inference.misfit import LensPrior
    from rim_tf.results import SourceErrors

    result, rng = modelled(), np.random.default_rng(0)
    lens, shape = result.lens, result.source_fit.source.shape
    figures = ("flux", "magnification", "source_peak", "half_light_radius")
    sources = SourceErrors(samples=rng.random((20, *shape)), figures={name: rng.uniform(1, 2, 20) for name in figures})
    lenses = np.array(lens.as_tuple()) + 0.01 * rng.normal(size=(20, 7))
    posterior = LensSamples(lens, lenses, "rim", "calibrated", LensPrior().columns(lens), 1.0, 0.05, sources=sources)
    return dataclasses.replace(result, posterior=dataclasses.replace(posterior, source_pixel_scale=0.05))


def believed(result):
    """The same `ModelResult`, against which no test speaks."""
    return dataclasses.replace(result, verdict=dataclasses.replace(result.verdict, figures=BELIEVED))


def of(observation):
    """What stands in for `workflow.model`: the `ModelResult` of whatever image, with the sky of that."""
    result = modelled()
    fit = result.source_fit
    fit = dataclasses.replace(
        fit, observation=dataclasses.replace(fit.observation, sky=observation.sky, centre=observation.centre)
    )
    lens_fit = dataclasses.replace(result.lens_fit, reconstruction=fit)
    return dataclasses.replace(result, observation=observation, lens_fit=lens_fit)
