"""From an image and a first guess of its lens to the source: the steps of the paper's Algorithm 1, in their order.

Command line, surveys and servers call `run`; how its result is shown or stored is their own. A step is a function below
and, where it is optional, a field of `rim_tf.config.WorkflowConfig`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from rim_tf.config import RIMSettings, WorkflowConfig
from rim_tf.errors import InputError
from rim_tf.inference.methods import Method, find_method
from rim_tf.memory import check_memory

Progress = Callable[[str, int, int | None], None]
"""Is told what is being done: the name of a step, how much of it is done, and out of how much, where that is known."""


@dataclasses.dataclass(frozen=True)
class WorkflowResult:
    """What came of an observation.

    Attributes:
      source_fit: `rim_tf.results.SourceFit`; its observation and lens are those that the source was found with.
      method: the `Method` that found the source.
      settings: of the method.
      start: the lens as it was given.
      lens_light: `rim_tf.inference.lens_light.LensLightFit`, or None where none was subtracted.
      lens_fit: `rim_tf.inference.optimise.LensFit`, or None where the lens was not fitted.
    """

    source_fit: object
    method: Method
    settings: object
    start: object
    lens_light: object | None = None
    lens_fit: object | None = None


def run(observation, lens, method="rim", settings=None, config=None, progress=None, solver=None):
    """Subtract the lens galaxy, fit the lens, find the source: what `config` asks for.

    Args:
      observation: `Observation`.
      lens: its lens, or a first guess of it where it is fitted.
      method: name of one of `rim_tf.inference.methods`.
      settings: of the method; None takes their defaults.
      config: `WorkflowConfig`; None takes its defaults.
      progress: a `Progress`, or None.
      solver: the method as built before by `Method.build(settings)`, for many systems in turn; None builds it.

    Returns:
      `WorkflowResult`.

    Raises:
      InputError: no such method, settings or an observation that cannot be used, more pixels than there is memory, or a
        source that came out as no number.
    """
    method = find_method(method)
    settings = method.settings() if settings is None else settings
    config = config or WorkflowConfig()
    progress = progress or (lambda step, done, total: None)
    _check_size(observation, method, config)
    # What is wrong with the settings is said before anything takes time.
    solver = method.build(settings) if solver is None else solver
    start, light, lens_fit = lens, None, None
    if config.subtract_lens_light:
        progress("lens light", 0, None)
        light = _subtract_lens_light(observation, lens)
        observation = light.observation
    if config.fit_lens:
        progress("lens", 0, None)
        lens_fit = _fit_lens(observation, lens, solver, config, progress)
        lens = lens_fit.lens
    progress("source", 0, None)
    (source_fit,) = solver([observation], [lens], config.source_pixel_scale, config.source_pixels)
    _check_finite(source_fit, method)
    return WorkflowResult(source_fit, method, settings, start, light, lens_fit)


# TensorFlow takes seconds to import: each step imports what it needs when it runs.


def _subtract_lens_light(observation, lens):
    from rim_tf.inference import lens_light

    return lens_light.subtract_lens_light(observation, lens)


def _fit_lens(observation, lens, solver, config, progress):
    """The lens goes by the RIM, whatever method finds the source: the others have no gradient in the lens."""
    from rim_tf.inference import optimise
    from rim_tf.inference.rim import RIMSolver
    from rim_tf.models.pretrained import load_pretrained

    if config.fit_weights is None and isinstance(solver, RIMSolver):
        model = solver.model
    else:
        model = load_pretrained(config.fit_weights or RIMSettings().weights)
    arcs = optimise.cropped(observation, config.fit_radius * lens.theta_E)
    return optimise.optimise_lens(
        arcs, lens, model=model, fixed=config.fixed, progress=lambda done, most: progress("lens", done, most)
    )


def _check_size(observation, method, config):
    pixels = config.source_pixels or max(observation.shape)
    check_memory(
        method.bytes_per_pixel * max(pixels**2, np.prod(observation.shape, dtype=float)),
        f"A source of {pixels} x {pixels} pixels behind an image of {' x '.join(map(str, observation.shape))}",
        "cut out the region around the lens, or ask for fewer source pixels",
    )


def _check_finite(source_fit, method):
    if not (np.isfinite(source_fit.source).all() and np.isfinite(source_fit.model_image).all()):
        raise InputError(
            f"The {method.label} gave pixels that are no number; check the brightness and the noise for pixels that "
            "are far from all others, and mask them."
        )
