"""From an image to its lens and its source: the steps of the paper's Algorithm 1, in their order.

`model` starts from the image alone (`rim_tf.inference.search` has its steps), `run` from a lens that is given. Command
line, surveys and servers call these; how a result is shown or stored is their own. What is optional is a field of a
configuration.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable

import numpy as np

from rim_tf.config import ModelConfig, PosteriorConfig, RIMSettings, WorkflowConfig
from rim_tf.errors import InputError, InputWarning
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


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """A lens and its source, found from an image alone.

    Attributes:
      observation: the `Observation` as it was given.
      frame: the same without lens light and sky, its neighbours masked and its noise raised by what no smooth model
        gets right of the galaxy's core; the lens was fitted to its middle.
      lens_light: `rim_tf.inference.lens_light.LensLightFit`, or None where no lens galaxy was found, or looked for.
      estimate: `rim_tf.inference.estimate.LensEstimate`, the surer one of those from the image with lens light and
        without.
      lens_fit: `rim_tf.inference.optimise.LensFit`, the last.
      verdict: `rim_tf.inference.verdict.Verdict`.
      seconds: of the whole.
      path: the history of the fits that led there, one after another, as of `LensFit`.
      posterior: `rim_tf.inference.lens_samples.LensSamples`, or None where none was asked for or there is none.
      source_width: of the source grid that it was fitted with, as of `ModelConfig`; more where that cut the source off,
        less where a narrower one explained the ring as well beside a lens galaxy.
      fitted: whether the lens was fitted, and is not as a network found it.
      valley: `rim_tf.inference.valley.Valley` about the lens, where the noise is so low that the fit walked along it.
      rim: the `RIM` that it was found with.

    Of a frame that was `recentred`, `lens` and `summary` are in the coordinates of the whole, all else in its own.
    """

    observation: object
    frame: object
    lens_light: object | None
    estimate: object
    lens_fit: object
    verdict: object
    seconds: float
    path: list
    source_width: float
    posterior: object | None = None
    fitted: bool = True
    valley: object | None = None
    rim: object | None = None

    @property
    def lens(self):
        return self.lens_fit.lens.moved(self.observation.centre)

    @functools.cached_property
    def source_fit(self):
        """`rim_tf.results.Reconstruction` of the middle of `frame`, with errors where the posterior has sources."""
        fit = self.lens_fit.reconstruction
        sources = None if self.posterior is None else self.posterior.sources
        if sources is None:
            return fit
        return dataclasses.replace(fit, errors=sources, standard_deviation=sources.samples.std(axis=0))

    def behind(self, lenses):
        """Sources behind other lenses in the same frame, by the same RIM, grid and number of steps as the fit's.

        Args:
          lenses: list of lenses, in the coordinates of `frame`.

        Returns:
          List of `rim_tf.results.Reconstruction`.
        """
        from rim_tf.inference.rim import reconstruct

        fit = self.lens_fit.reconstruction
        alike = {"source_pixels": len(fit.source), "n_steps": len(fit.iterates)}
        return reconstruct([fit.observation] * len(lenses), lenses, self.rim, **alike)

    @property
    def sky_level(self):
        """What was taken off the whole image, with a lens galaxy or without [units of the image]."""
        if self.lens_light is not None:
            return float(self.lens_light.parameters["sky"])
        used = self.frame.mask  # what is masked shows nothing
        return float(np.median(self.observation.image[used] - self.frame.image[used]))

    @property
    def galaxy_over_arcs(self):
        """As of `rim_tf.inference.halo`; 0 where no lens galaxy was taken off."""
        from rim_tf.inference.halo import beside

        return beside(self.lens_light, self.lens_fit.reconstruction)

    @property
    def error_factor(self):
        """What errors of the lens by the noise map are multiplied by: for its noise, for what is left of a galaxy."""
        from rim_tf.inference.halo import widening

        return self.verdict.noise_factor * widening(self.galaxy_over_arcs)

    @property
    def lens_error(self):
        """Standard deviations of the lens's parameters, [columns]: of the posterior, or else two thirds of truths are
        within as much.
        """
        from rim_tf.inference.calibration import DIFFERENCES, UNFITTED, noise_over_peak

        if self.posterior is not None:
            return self.posterior.standard_deviation
        noise = noise_over_peak(self.source_fit.observation, self.source_fit.model_image)
        error = np.sqrt(np.maximum(np.diag(self.lens_fit.covariance), 0)) * self.error_factor
        wider = DIFFERENCES.stretch(noise)
        # A lens that was not fitted is known no better than one that was.
        error = error * (wider if self.fitted else max(wider, UNFITTED.stretch(noise)))
        # What the curvature at one place of a valley says is not how long the valley is.
        if self.valley is None:
            return error
        return np.hypot(error, np.sqrt(np.diag(self.valley.covariance(self.error_factor))))

    def summary(self):
        """Every number and flag, as plain Python values for JSON or a table."""
        names = self.lens.mass.names
        estimated = np.sqrt(np.diag(self.estimate.covariance))
        return self.source_fit.summary() | {
            "lens": self.lens.to_dict(),
            "lens_error": dict(zip(names, self.lens_error.tolist(), strict=True)),
            "counted_errors": self.posterior is not None,
            "estimate": self.estimate.lens.moved(self.observation.centre).to_dict(),
            "estimate_error": dict(zip(names, estimated.tolist(), strict=True)),
            "lens_light": self.lens_light is not None,
            "galaxy_over_arcs": self.galaxy_over_arcs,
            "sky_level": self.sky_level,
            "believed": self.verdict.believed,
            "source_believed": self.verdict.source_believed,
            "flags": list(self.verdict.flags),
            "tests": self.verdict.figures,
            "sky_noise": self.verdict.sky_noise,
            "noise_correlation_ratio": self.verdict.correlation_ratio,
            "source_width": self.source_width,
            "valley": None if self.valley is None else self.valley.summary(self.error_factor),
            "seconds": self.seconds,
        }


def model(observation, config=None, progress=None, rim=None, estimator=None, joint=None):
    """The lens, its galaxy's light and the source, from an image alone (Section 3, Algorithm 1).

    The lens galaxy is looked for and taken off around the arcs; the estimator gives a posterior of the lens, from
    which starts are drawn, and searched from as `config.search` says, and otherwise, too, where a flag speaks
    against what comes of it (`ModelConfig.attempts`); unless `config.fast` leaves it at that, the lens is fitted
    with the source reconstructed by the RIM at every step; then, where there is a lens galaxy, its light is fitted
    again beside the source and the lens once more, until chi^2 stands still; and in the end what of the source's light
    may as well be the galaxy's is given back to it.

    Args:
      observation: `Observation`, the lens near its middle, the lens galaxy in it or not.
      config: `rim_tf.config.ModelConfig`; None takes its defaults.
      progress: a `Progress`, or None.
      rim: a `RIM` in place of the weights that `config` names.
      estimator: an `Estimator`, likewise.
      joint: a `rim_tf.models.joint.JointRIM`, likewise; it is only loaded where it may search.

    Returns:
      `ModelResult`. Whether it is to be believed says its `verdict`; each flag is an InputWarning as well.

    Raises:
      InputError: no such weights, a frame in which no ring can be seen or all is 0, or a source that came out as no
        number.
    """
    from rim_tf.inference.estimate import estimate_lens
    from rim_tf.inference.search import Search
    from rim_tf.inference.standing import SMALLEST_FRAME

    config = config or ModelConfig()
    progress = progress or (lambda step, done, total: None)
    if min(observation.shape) < SMALLEST_FRAME:
        raise InputError(
            f"image has shape {observation.shape}; no ring can be seen in less than {SMALLEST_FRAME} pixels on each "
            "side. Cut out a larger region."
        )
    if not observation.image[observation.mask].any():
        raise InputError("image is 0 in all pixels that are used; check that the right file and HDU were given.")
    started = time.perf_counter()
    given = rim, estimator, joint if config.networks[2] else None
    loaded = networks(*(name if own is None else None for name, own in zip(config.networks, given, strict=True)))
    rim, estimator, joint = (new if own is None else own for new, own in zip(loaded, given, strict=True))
    progress("estimate", 0, None)
    seen = estimate_lens(observation, estimator, config.seed)
    search = Search(observation, seen, rim, estimator, joint, config, progress)
    if config.by_network and not search.by_network:
        apart = (
            f"The estimator {config.estimator!r} knows the mass model {estimator.mass.types}, and the network "
            f"{config.joint!r} another, {joint.mass.types}; "
        )
        if config.fast:
            raise InputError(f"{apart}take weights of one mass model (--estimator, --joint).")
        search.doubts.append(f"{apart}descent searches in its place.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # of frames that are cut and masked on the way
        search.begin()
        search.fit()
        search.doubt()
        if not config.fast:
            search.finish()
        judged, found = search.judged(), search.found.fit()
    _check_finite(found.reconstruction, find_method("rim"))
    if config.fast:
        search.doubts.append(
            "The lens is as the network found it and was not fitted: at low noise its errors are several times those "
            "of a fit; leave --fast (fast) away for one."
        )
    for sentence in [*search.doubts, *judged.sentences()]:
        warnings.warn(sentence, InputWarning, stacklevel=2)
    seconds = time.perf_counter() - started
    found_so = search.frame, search.light, search.estimate, found, judged, seconds, search.path, search.source_width
    result = ModelResult(observation, *found_so, fitted=not config.fast, valley=search.valley, rim=rim)
    if not config.posterior:
        return result
    posterior = _counted(result, rim, config, progress)
    return dataclasses.replace(result, posterior=posterior, seconds=time.perf_counter() - started)


def networks(weights, estimator, joint=None):
    """The networks of the settings `ModelConfig.networks`, loaded; None for each that is None.

    Args:
      weights: of the RIM, as in `load_pretrained`.
      estimator: likewise.
      joint: likewise.
    """
    from rim_tf.models.pretrained import load_pretrained

    kinds = ("rim", "estimator", "joint")
    names = zip((weights, estimator, joint), kinds, strict=True)
    return tuple(None if name is None else load_pretrained(name, kind) for name, kind in names)


def sample(result, rim, config=None, folder=None, progress=None, prior=None):
    """The posterior of a lens that `model` has found.

    Args:
      result: `ModelResult`.
      rim: the `RIM` that it was found with.
      config: `rim_tf.config.PosteriorConfig`; None takes its defaults. The source grid is as wide as that of the
        fit, though.
      folder: as of `rim_tf.inference.lens_samples.sample_lens`.
      progress: a `Progress`, or None.
      prior: as of `sample_lens`, in the coordinates of the whole frame; None for none.

    Returns:
      `LensSamples` of each method, in the coordinates of the whole frame.

    Raises:
      InputError: as of `sample_lens`; what a NotConverged has `found` is in the same coordinates.
    """
    from rim_tf.inference.lens_samples import sample_lens
    from rim_tf.inference.samplers.chain import NotConverged

    light = None if result.lens_light is None else result.lens_light.left_over
    factor = result.verdict.noise_factor
    centre = result.observation.centre
    config = config or PosteriorConfig()
    config = dataclasses.replace(config, source_width=result.source_width)
    try:
        given = result.frame, result.lens_fit.lens, rim, config, light, factor, folder, progress
        known = {"valley": result.valley, "fit": result.source_fit, "galaxy_over_arcs": result.galaxy_over_arcs}
        lens = result.lens_fit.lens
        shift = dict(zip(lens.mass.names, np.subtract(lens.moved(centre).as_tuple(), lens.as_tuple()), strict=True))
        known["prior"] = {name: (mean - shift.get(name, 0.0), width) for name, (mean, width) in (prior or {}).items()}
        return [each.moved(centre) for each in sample_lens(*given, **known)]
    except NotConverged as error:
        error.found = [each.moved(centre) for each in error.found]
        raise


def _counted(result, rim, config, progress):
    """`LensSamples` of the calibrated distribution; None, with a warning, where the prior excludes the lens."""
    settings = PosteriorConfig(seed=config.seed, fit_radius=config.fit_radius)
    try:
        (found,) = sample(result, rim, settings, progress=progress)
    except InputError as error:
        warnings.warn(f"The lens has no counted errors: {error}", InputWarning, stacklevel=3)
        return None
    return found


# Brightness at the centre of a lens over that in the ring below which there is hardly a galaxy: of 480 simulated images
# without lens light 71 % are.
_FAINT_GALAXY = 0.2


# TensorFlow takes seconds to import: each step imports what it needs when it runs.


def _subtract_lens_light(observation, lens):
    from rim_tf.inference import lens_light

    light = lens_light.subtract_lens_light(observation, lens)
    figure, left = light.significance(lens), lens_light.core_over_ring(observation, lens)
    if figure < lens_light.SIGNIFICANT or left < _FAINT_GALAXY:
        warnings.warn(
            f"Hardly any lens galaxy was there to take off: at the lens's centre the image is {left:.2g} times as "
            "bright as in the ring; if it was free of lens light already, leave --subtract-lens-light "
            "(subtract_lens_light) away.",
            InputWarning,
            stacklevel=3,
        )
    return light


def _fit_lens(observation, lens, solver, config, progress):
    """The lens goes by the RIM, whatever method finds the source: the others have no gradient in the lens."""
    from rim_tf.inference import optimise
    from rim_tf.inference.rim import RIMSolver
    from rim_tf.models.pretrained import load_pretrained

    if config.fit_weights is None and isinstance(solver, RIMSolver):
        model, steps = solver.model, solver.settings.steps
    else:
        model, steps = load_pretrained(config.fit_weights or RIMSettings().weights), None
    arcs = optimise.cropped(observation, config.fit_radius * lens.theta_E)
    return optimise.optimise_lens(
        arcs,
        lens,
        model=model,
        fixed=config.fixed,
        progress=lambda done, most: progress("lens", done, most),
        n_rim_steps=steps,
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
