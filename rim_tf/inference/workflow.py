"""From an image to its lens and its source: the steps of the paper's Algorithm 1, in their order.

`model` starts from the image alone, `run` from a lens that is given. Command line, surveys and servers call these; how
a result is shown or stored is their own. A step is a function below and, where it is optional, a field of a
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
        from rim_tf.inference.halo import galaxy_over_arcs
        from rim_tf.inference.optimise import middle

        if self.lens_light is None:
            return 0.0
        image, used = self.lens_fit.reconstruction.model_image, self.lens_fit.reconstruction.observation.mask
        return galaxy_over_arcs(image, middle(self.lens_light.model_image, image.shape) - self.sky_level, used)

    @property
    def lens_error(self):
        """Standard deviations of the lens's parameters, [columns]: of the posterior, or else two thirds of truths are
        within as much.
        """
        from rim_tf.inference.calibration import DIFFERENCES, UNFITTED, noise_over_peak

        if self.posterior is not None:
            return self.posterior.standard_deviation
        noise = noise_over_peak(self.source_fit.observation, self.source_fit.model_image)
        error = np.sqrt(np.maximum(np.diag(self.lens_fit.covariance), 0)) * self.verdict.noise_factor
        wider = DIFFERENCES.stretch(noise)
        # A lens that was not fitted is known no better than one that was.
        error = error * (wider if self.fitted else max(wider, UNFITTED.stretch(noise)))
        # What the curvature at one place of a valley says is not how long the valley is.
        if self.valley is None:
            return error
        return np.hypot(error, np.sqrt(np.diag(self.valley.covariance(self.verdict.noise_factor))))

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
            "flags": list(self.verdict.flags),
            "tests": self.verdict.figures,
            "sky_noise": self.verdict.sky_noise,
            "source_width": self.source_width,
            "valley": None if self.valley is None else self.valley.summary(self.verdict.noise_factor),
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
      InputError: no such weights, a frame in which no ring can be seen, or a source that came out as no number.
    """
    from rim_tf.inference.estimate import estimate_lens

    config = config or ModelConfig()
    progress = progress or (lambda step, done, total: None)
    if min(observation.shape) < _SMALLEST_FRAME:
        raise InputError(
            f"image has shape {observation.shape}; no ring can be seen in less than {_SMALLEST_FRAME} pixels on each "
            "side. Cut out a larger region."
        )
    started = time.perf_counter()
    given = rim, estimator, joint if config.networks[2] else None
    loaded = networks(*(name if own is None else None for name, own in zip(config.networks, given, strict=True)))
    rim, estimator, joint = (new if own is None else own for new, own in zip(loaded, given, strict=True))
    progress("estimate", 0, None)
    seen = estimate_lens(observation, estimator, config.seed)
    search = _Search(observation, seen, rim, estimator, joint, config, progress)
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
    result = ModelResult(observation, *found_so, fitted=not config.fast, valley=search.valley)
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


def sample(result, rim, config=None, folder=None, progress=None):
    """The posterior of a lens that `model` has found.

    Args:
      result: `ModelResult`.
      rim: the `RIM` that it was found with.
      config: `rim_tf.config.PosteriorConfig`; None takes its defaults. The source grid is as wide as that of the
        fit, though.
      folder: as of `rim_tf.inference.lens_samples.sample_lens`.
      progress: a `Progress`, or None.

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


# Pixels on a side of a frame in which a ring of the smallest size that the estimator knows has a shape.
_SMALLEST_FRAME = 24
# Pixels on a side that the lens is searched on at most; and steps there, and on the pixels as they are.
_SEARCHED, _STEPS, _LAST_STEPS = 72, 10, 3
# Starts of the network that finds lens and source together, and how many of its answers go on.
_TOGETHER, _CHOSEN = 8, 2
# Peak over noise from which chi^2 has ripples that a fit may stop in; and the RIM's own error counts there, which is
# mostly less after so many times the steps of its training.
_RIPPLED, _LONGER = 50.0, 1.5
# Fits along the valley where that is so; one that lowers chi^2 by less than _ROUND_GAIN is the last.
_FOLLOWED = 4
# Then walks along it, and from how many of its lowest places the lens is fitted after each.
_WALKS, _PLACES_TRIED = 5, 2
# Only where the noise map is wrong by less than this factor: of drizzled images, whose noise is correlated, chi^2 says
# less than it seems to, and would lead away from a lens that is right. There valleys count as errors alone.
_HONEST = 1.2
# An estimate this many times as uncertain as another may still be the better one.
_AS_SURE = 1.5
# Steps of lens and galaxy with a source that follows, after each fit of the galaxy; and how much of one is tried.
_STEPS_WITH_SOURCE, _SHARES = 2, (1.0, 0.3)
# How likely a source is falls as this power of its light, where a flag spoke against what was found; but not as more
# than such a share of its signal to noise squared, which is what the data say of it.
_PULL, _OF_SIGNAL = 200.0, 0.03
# More of the arcs' light than this share, where it may as well be the galaxy's, is given back to it, all or half of it;
# and more of the source's, where a narrower grid has no place for it.
_HALO, _SHARES_GIVEN_BACK = 0.05, (1.0, 0.5)
# A source with less light explains the ring as well where the verdict's chi^2, that of noise being 1, rises by less.
_AS_GOOD = 0.05
# Beside a lens galaxy the source grid is so much narrower, the first that explains the ring as well.
_NARROWER = 0.55, 0.75
# Another round of lens light and lens that lowers chi^2 by a smaller share is the last.
_ROUND_GAIN = 0.003


# Brightness at the centre of a lens over that in the ring: below the first there is hardly a galaxy, above the second
# there is one. Of 480 simulated images without lens light 71 % are below the first and 0.8 % above the second.
_FAINT_GALAXY, _BRIGHT_CORE = 0.2, 1.0
# Chi^2 per pixel by which taking off a galaxy must be better than leaving the image as it is.
_GALAXY_GAIN = 0.02
# Lenses of other sizes than the estimator's are so many standard deviations smaller and larger; where it is asked what
# is far from any ring, they are at most so many times as large.
_OTHER_SIZES, _LARGEST = 2.0, 1.3
# And must explain the image by such a share better than what was found by a search, which looked at all.
_OTHER_GAIN = 0.03
# What a flag that says that no lens is like that weighs, as a share of chi^2.
_NONSENSE_WEIGHT = 0.03
# A source grid at whose edge is more than this share of the source cuts it off; so much wider it is then, so often.
_CUT_OFF, _WIDER, _WIDENED = 0.01, 1.5, 2
# The field that is fitted to stays as it is while theta_E changes by a smaller share.
_SAME_FIELD = 0.05


@dataclasses.dataclass(frozen=True)
class _Found:
    """Where a fit ended, on pixels as they are.

    Attributes:
      sought: `rim_tf.inference.optimise.Sought`, maybe on wider pixels.
      ends: as of `LensFit`.
      observation: the arcs.
      field_of: the lens whose field that is.
      rim: `RIM`.
      source_pixels: on a side.
      n_rim_steps: of the RIM; None for as many as it was trained for.
      source_width: of the source grid, as of `ModelConfig`.
    """

    sought: object
    ends: dict
    observation: object
    field_of: object
    rim: object
    source_pixels: int
    n_rim_steps: int | None
    source_width: float

    @property
    def lens(self):
        return self.sought.lens

    @functools.cached_property
    def model_image(self):
        from rim_tf.inference.optimise import model_image

        return model_image(self.observation, self.lens, self.rim, self.source_pixels, self.n_rim_steps)

    @functools.cached_property
    def reconstruction(self):
        from rim_tf.inference.rim import reconstruct

        grid = {"source_pixels": self.source_pixels}
        return reconstruct(self.observation, self.lens, self.rim, **grid, n_steps=self.n_rim_steps)

    def fit(self):
        """`LensFit`."""
        from rim_tf.inference.optimise import LensFit

        sought = self.sought
        return LensFit(self.lens, sought.history, self.reconstruction, sought.covariance(), self.ends)


class _Search:
    """What `model` has found so far of one observation.

    Args:
      observation: `Observation`.
      seen: `LensEstimate` from it.
      rim: `RIM`.
      estimator: `Estimator`.
      joint: `JointRIM`, or None where it is not to search.
      config: `ModelConfig`.
      progress: a `Progress`.

    Attributes: those of `ModelResult`, and
      starts: lenses that the next fit starts from.
      explored: whether these are the best of many already.
      by_network: whether the joint network searches, and not descent.
      looks: each `LensEstimate` that starts are of.
      noise: what fits are compared by, [rows, columns].
      doubts: sentences about what could not be done.
      n_rim_steps: as of `_Found`, of the next fit.
      free_of_galaxy: whether a lens galaxy was looked for and there is none.
      pull, was_pulled: as of `rim_tf.inference.lens_light.step_with_source`; and whether there was one.
      began: `light`, `frame`, `starts` and `path` of the first fit.
    """

    def __init__(self, observation, seen, rim, estimator, joint, config, progress):
        self.observation, self.seen, self.rim, self.estimator = observation, seen, rim, estimator
        self.joint, self.config, self.progress = joint, config, progress
        self.light, self.frame, self.estimate = None, observation, seen
        self.starts, self.explored, self.found, self.path = seen.starts(config.starts), False, None, []
        self.noise, self.doubts, self.n_rim_steps, self.valley = None, [], None, None
        self.free_of_galaxy, self.pull, self.was_pulled, self.began = False, 0.0, False, None
        self.by_network, self.looks = config.by_network and self._joint_fits, (seen,)

    @property
    def _joint_fits(self):
        """Whether there is a network that finds lens and source together, of the estimator's mass model."""
        return self.joint is not None and self.joint.mass == self.estimator.mass

    @functools.cached_property
    def sky_level(self):
        """How bright the image is where it is empty; the fit of a lens galaxy finds that too, where there is one."""
        from rim_tf.inference import sky

        return sky.level(self.observation, self.seen.lens)

    @functools.cached_property
    def clear(self):
        """The observation without that."""
        if self.sky_level == 0:
            return self.observation
        image = self.observation.image
        return dataclasses.replace(self.observation, image=image - image.dtype.type(self.sky_level))

    def _take_no_galaxy_off(self):
        self.frame, self.light = self.clear, None
        if self.sky_level != 0:
            over_noise = self.sky_level / float(np.median(self.clear.noise[self.clear.mask]))
            self.doubts.append(
                f"Where the image is empty it is {self.sky_level:.3g}, {over_noise:.2g} times its noise, and not 0; "
                "this sky was taken off."
            )
            self.seen = self._estimate(self.clear, self.config.seed)
            self.starts, self.looks = self.seen.starts(self.config.starts), (self.seen,)
        self.estimate = self.seen

    def begin(self):
        """Is there a lens galaxy in the image? What explains the image better, with one taken off or without."""
        from rim_tf.inference import lens_light

        if self.config.no_lens_light:
            self._take_no_galaxy_off()
            ratio = lens_light.core_over_ring(self.clear, self.seen.lens)
            if ratio > _BRIGHT_CORE:
                self.doubts.append(
                    f"At the lens's centre the image is {ratio:.2g} times as bright as in the ring, as with a lens "
                    "galaxy in it; leave --no-lens-light (no_lens_light) away, or mask what is left of the galaxy."
                )
            return
        self.progress("lens light", 0, None)
        try:
            light = lens_light.subtract_lens_light(self.observation, self.seen.lens)
        except InputError as error:
            self.doubts.append(f"The lens galaxy was not looked for: {error}")
            self._take_no_galaxy_off()
            return
        self.free_of_galaxy = True  # unless one is taken off below
        if light.significance(self.seen.lens) < lens_light.SIGNIFICANT:
            self._take_no_galaxy_off()
            return
        estimate = self._estimate(self._without_neighbours(light, self.seen.lens), self.config.seed)
        # The estimator sees the galaxy's own light and shape in the one image, the arcs more clearly in the other.
        n_seen = self.config.starts // 3
        self.looks = estimate, self.seen
        # What is far from the ring is another question now.
        frame = self._without_neighbours(light, self.seen.lens)
        starts = _starts_of(self.looks, (self.config.starts - n_seen, n_seen))
        self.estimate = min(self.seen, estimate, key=lambda each: each.uncertainty)
        with_light, path = self._explore(frame, starts, light)
        self.light, self.frame = light, frame
        self._beside(self._model_image(self._arcs(frame, with_light[0]), with_light[0]), with_light[0])
        self.explored = True
        without = None if self.light.outshines(self.frame) else self._without(with_light[0])
        if without is None:
            self.starts, self.path = with_light, path
        else:
            self._take_no_galaxy_off()
            self.starts, self.path = without

    def _without(self, lens):
        """The best lenses without a galaxy and how they were found; None if one taken off and `lens` explain more."""
        from rim_tf.inference.optimise import noise_floor

        # Both with the same noise and mask, that the figures can be compared.
        raised = np.hypot(self.clear.noise, noise_floor(self.frame))
        mask = self.frame.mask
        without = dataclasses.replace(self.clear, mask=mask, noise=np.where(mask, raised, self.clear.noise))
        others, path = self._explore(without, self.starts, estimate=self.seen)
        taken_off = dataclasses.replace(without, image=self.frame.image)
        largest = max(lens, others[0], key=lambda each: each.theta_E)  # whose field both are judged on
        chi2 = []
        for frame, each in ((taken_off, lens), (without, others[0])):
            arcs = self._arcs(frame, largest)
            chi2.append(_mean_square(arcs.image - self._model_image(arcs, each), arcs.noise, arcs.mask))
        return None if chi2[0] < chi2[1] - _GALAXY_GAIN else (others, path)

    def fit(self):
        """The lens from `starts`; then, where there is a lens galaxy, its light and both again, in rounds."""
        if not self.explored:
            self.starts, path = self._explore(self.frame, self.starts, self.light)
            self.path += path
        if self.began is None:
            self.began = self.light, self.frame, self.starts, list(self.path)
        if self.noise is None:  # that of masked pixels is none
            self.noise = np.where(self.frame.mask, self.frame.noise, self.observation.noise)
        self.found = self._fit(self.starts)
        self._widen()
        if self.light is not None:
            self._repeat(self._light_and_lens, self._rounds)

    @property
    def _rounds(self):
        return min(1, self.config.rounds) if self.config.fast else self.config.rounds

    def give_back(self):
        """What of the arcs may as well be the galaxy's goes to the galaxy, where there is one, while each time the
        image is explained about as well and no other flag is raised.

        Fits leave it to the source, which can be anything, and explains with it what no smooth galaxy does.
        """
        from rim_tf.inference import lens_light
        from rim_tf.inference.optimise import placed

        if self.light is None:
            return
        self._narrow()
        for _ in range(self._rounds):
            before, shape = self._state(), self.observation.shape
            arcs, seen = placed(self.found.model_image, shape), placed(self.found.observation.mask, shape)
            if not np.isfinite(arcs).all():  # which the verdict speaks of
                return
            below = lens_light.galaxy_below(self.light, arcs, seen)
            if not below.sum() > _HALO * np.maximum(arcs, 0)[seen].sum():
                return
            for share in _SHARES_GIVEN_BACK:
                self._beside(arcs - share * below, self.found.lens)
                if self.light is before[1]:  # too few pixels for a fit
                    return
                self._refit([self.found.lens], self.found)
                if self._keep_as_good(before):
                    break
            else:
                return

    def _narrow(self):
        """The lens on a narrower source grid, where that explains the image about as well.

        What is left of a galaxy fills any grid, its outer parts most of all. Hardly anything is magnified there, so
        that little light in the image is much of the source's. Not before the lens is known: of two real ones that
        were fitted on a narrow grid from the beginning theta_E was 3.5 % off, and 0.5 % so.
        """
        from rim_tf.inference.verdict import edge_share

        before, source = self._state(), self.found.reconstruction.source
        for narrower in _NARROWER if self._rounds else ():
            width = narrower * self.config.source_width
            edge = round((1 - width / self.source_width) * len(source) / 2)
            if edge <= 0 or not edge_share(source, edge) > _HALO:
                return
            self._refit([self.found.lens], source_width=width)
            self._repeat(self._light_and_lens, self._rounds)
            if self._keep_as_good(before):
                return

    def _keep_as_good(self, before):
        """What stands now, where it explains the ring about as well as the state `before` and no flag speaks against
        it that did not then; returns whether it was kept.
        """
        judged, was = self.judged(), self.judged(before)
        # In units of one sky: a frame that is worse everywhere is not better in the ring.
        chi2 = judged.figures["chi2"] * (judged.sky_noise / was.sky_noise) ** 2
        is_as_good = chi2 < was.figures["chi2"] + _AS_GOOD and judged.n_nonsense <= was.n_nonsense
        if not (is_as_good and set(judged.flags) <= set(was.flags)):
            self._return_to(before)
            return False
        return True

    def _widen(self):
        """The lens on a wider source grid, where this one cuts the source off: what it lacks leads the lens away.

        Not beside a lens galaxy, what is left of which would fill any grid.
        """
        from rim_tf.inference.verdict import edge_share

        for _ in range(_WIDENED):
            cut_off = edge_share(self.found.reconstruction.source) > _CUT_OFF
            wider = min(_WIDER * self.source_width, _WIDER**_WIDENED * self.config.source_width)
            if self.light is not None or not cut_off or wider <= self.source_width:
                break
            before = self._state()
            self.found = self._fit([self.found.lens, *self.starts], self.found, source_width=wider)
            if not self._keep_better(before):
                break

    def _light_and_lens(self):
        self._beside(self.found.model_image, self.found.lens)
        self._refit([self._step_with_source(self.found.lens)], self.found)

    def _step_with_source(self, lens):
        """Lens and lens galaxy at once, the source following: fits in turns leave to each what it has of the others.

        Returns the lens, which a search that fits none leaves where it is; the galaxy is another one then.
        """
        from rim_tf.inference import lens_light
        from rim_tf.inference.optimise import Tangent, coarsened

        arcs = self._arcs(self.frame, self.found.field_of)
        noise, used, first, neighbours = arcs.noise, arcs.mask, lens, self._neighbours(self.light, lens)
        image = self._model_image(arcs, lens)
        for _ in range(_STEPS_WITH_SOURCE):
            before = self.light
            chi2, light_before = _mean_square(arcs.image - image, noise, used), float(image[used].sum())
            factor = self._factor(arcs)
            seen = coarsened(arcs, factor)
            tangent = Tangent(seen, lens, self.rim, self._source_pixels(seen))
            slopes = tangent.slopes[: 0 if self.config.fast else None]
            left_over = _left_over(before, arcs, factor)
            try:
                given = self.frame, before, arcs, seen, left_over, tangent, lens, slopes, self.pull
                found = lens_light.step_with_source(*given)
            except InputError:  # no pixel sees the source grid
                return lens
            for share in _SHARES:
                there = lens if self.config.fast else tangent.lens(share * found[1])
                amplitudes = before.amplitudes + share * (found[0] - before.amplitudes)
                light = lens_light.with_amplitudes(self.observation, before, amplitudes)
                frame = self._without_neighbours(light, first, neighbours)
                arcs = self._arcs(frame, self.found.field_of)
                image = self._model_image(arcs, there)
                saved = self._saved(float(image[used].sum()), light_before) / used.sum()
                if _mean_square(arcs.image - image, noise, used) - saved < chi2:
                    self.light, self.frame, lens = light, frame, there
                    break
            else:
                return lens
        return lens

    def _repeat(self, step, most):
        """A step, `most` times at the most, while it is worth another one; what makes chi^2 worse is taken back."""
        for _ in range(most):
            before = self._state()
            step()
            if not self._gained(before):
                break

    def _gained(self, before):
        """Whether a step since the state `before` was worth another one; what made chi^2 worse is taken back."""
        return self._keep_better(before) >= _ROUND_GAIN

    def doubt(self):
        """`again`, where a flag speaks against what was found: as often as the settings say, and as often once more
        where that found a lens of another size which does not explain the image yet.

        What is compared are fits from which no light was given back yet: the one that counts gives it back at last.
        """
        attempt, most = 0, 0 if self.config.fast else self.config.attempts
        before = self._state()
        self.give_back()
        given = self._state()
        while attempt < most and not self.judged().settled:
            if attempt == 0:
                self._return_to(before)
            was, attempt = self.found.lens, attempt + 1
            self.again(self.config.seed + attempt)
            # There is the other search, and beside a lens of another size the estimator sees something else.
            if not self.judged().explained and _is_of_other_size(self.found.lens, was):
                most = min(most + 1, 2 * self.config.attempts)
        if attempt > 0 and self.found.sought is before[0].sought:  # nothing better was found
            ends = self.found.ends
            self._return_to(given)
            self.found = dataclasses.replace(self.found, ends=ends)
        elif attempt > 0:
            self.give_back()

    def again(self, seed):
        """Other fits, by the other search from what the estimator sees now, and from lenses of other sizes; the best
        counts.

        Beside a galaxy light costs there: its halo, taken for source, leads to another lens that explains the image as
        well. So all begins anew from where the first fit began, each step of lens, galaxy and source at that price;
        rounds are judged by chi^2 alone, as ever.
        """
        before, anew = self._state(), self.light is not None and not self.was_pulled
        signal = np.nan_to_num(self.judged().figures["signal"])
        self.pull = 0.0 if self.light is None else min(_PULL, _OF_SIGNAL * signal**2)
        if anew:
            self.light, self.frame, self.starts, path = self.began
            self.path, self.explored, self.was_pulled = list(path), True, True
            self.fit()
            if self.judged().settled:
                self._keep_one(before, 0.0)
                anew = False
        if not self.judged().settled:
            self._search_again(seed)
        if anew:
            self._keep_one(before, 0.0, all_ends=True)
        self.pull = 0.0

    def _search_again(self, seed):
        before = self._state()
        self.by_network = not self.by_network and self._joint_fits
        self.looks = self._estimate(self.frame, seed), self.estimate
        self.estimate = self.looks[0]
        if self.by_network:
            # Not from the lens that was fitted, than which nothing is lower yet that a network finds.
            half = -(-self.config.starts // 2)
            starts = _starts_of(self.looks, (half, half))
        else:
            starts = [self.found.lens, *self.estimate.starts(self.config.starts)]
        self.starts, self.explored = starts, False
        self.fit()
        self._keep_one(before, 0.0)
        for lens in self._of_other_sizes():
            if self.judged().settled:
                return
            before = self._state()
            # Its own fit to the end: the galaxy's light is another one beside a lens of another size.
            self.starts, self.explored = [lens], True
            self.fit()
            self._keep_one(before, _OTHER_GAIN)

    def _keep_one(self, before, by, all_ends=False):
        """As `_keep_sensible`; the other one is remembered, and where asked for what that remembers."""
        other = self._state()
        self._keep_sensible(before, by)
        self._remember(before if self.found is other[0] else other, all_ends)

    def _keep_sensible(self, before, by):
        """As `_keep_better`, for a lens that may be of another size: the share is larger by a flag more that says that
        no lens is like that, and smaller by one less.
        """
        more = max(self.judged().n_nonsense - self.judged(before).n_nonsense, -2)
        self._keep_better(before, _NONSENSE_WEIGHT * more + by, priced=True)

    def _saved(self, is_, was):
        """What light is worth, in chi^2, that was and is no longer: its logarithm, up to a factor of e."""
        return 2 * self.pull * float(np.clip(np.log(was / is_), -1, 1)) if min(is_, was) > 0 else 0.0

    def _remember(self, other, all_ends=False):
        """Where another state ended is one of the ends, which the verdict asks whether they agree; or all its ends."""
        is_, was, n_pixels = self._misfits(self._state(), other)
        ends, others = self.found.ends, other[0].ends
        first = ends["chi2_per_pixel"][0] + (was - is_) * n_pixels / ends["n_pixels"]
        last = None if all_ends else 1
        # Over as many pixels as what stands has.
        above = [each - others["chi2_per_pixel"][0] for each in others["chi2_per_pixel"][:last]]
        chi2 = [first + each * others["n_pixels"] / ends["n_pixels"] for each in above]
        ends = ends | {
            "chi2_per_pixel": [*ends["chi2_per_pixel"], *chi2],
            "lens": [*ends["lens"], other[0].lens.as_tuple(), *others["lens"][1:last]],
        }
        self.found = dataclasses.replace(self.found, ends=ends)

    def _of_other_sizes(self):
        """The estimator's lens, as it is, smaller and larger, each where nothing such was found or tried; where no lens
        explains the image yet, those of its other looks too.
        """
        from rim_tf.lens import lens_of

        tried = [self.found.lens]
        looks = [self.estimate, *(each for each in self.looks if each is not self.estimate)]
        for i, look in enumerate(looks):
            if i > 0 and self.judged().explained:
                return
            mean, off = look.lens, _OTHER_SIZES * max(look.uncertainty, _SAME_FIELD)
            for theta_E in (mean.theta_E, mean.theta_E * max(1 - off, 0.3), mean.theta_E * (1 + off)):
                values = list(mean.as_tuple())
                values[mean.mass.radius] = theta_E
                lens = lens_of(mean.mass, values)
                if all(_is_of_other_size(lens, each) for each in (*tried, self.found.lens)):
                    tried.append(lens)
                    yield lens

    def _state(self):
        return self.found, self.light, self.frame, self.estimate, list(self.path)

    def _return_to(self, state):
        self.found, self.light, self.frame, self.estimate, path = state
        self.path = list(path)  # to which is added in place

    def _keep_better(self, state, by=0.0, priced=False):
        """What stands now, where it explains the image better than `state` did, by such a share, and less by what its
        arcs save where light is `priced`; returns by what share it is better, 0 where `state` came back.
        """
        (is_, was), noise, used = self._compared(self._state(), state)
        are, were = (_mean_square(data - image, noise, used) for data, image in (is_, was))
        if priced and self.pull:
            light = (float(image[used].sum()) for _, image in (is_, was))
            by -= self._saved(*light) / (were * used.sum())
        if not are < (1 - by) * were:  # nor where it is no number
            self._return_to(state)
            return 0.0
        return 1 - are / were

    def finish(self):
        """The last digits, on pixels as they are."""
        seen = self.found.observation
        rippled = self.found.model_image.max() > _RIPPLED * np.median(seen.noise[seen.mask])
        if rippled:
            self.n_rim_steps = self._steps_that_explain_most()
        if rippled or self._factor(seen) > 1:
            self._refit([self.found.lens], whole=True, roughly=rippled)
        if rippled:
            # On along the valley, where the last fit stopped in one of its ripples; then from all over it.
            self._repeat(lambda: self._refit([self.found.lens], whole=True, roughly=True), _FOLLOWED)
            honest = self.judged().figures["noise_map"] < _HONEST
            about = [(None, None)]
            self._repeat(lambda: about.append(self._walk()), _WALKS if honest else 0)
            # The last walk was about where the fit has ended, unless it led elsewhere.
            found, self.valley = about[-1]
            if found is not self.found:
                self.valley = self._valley(for_errors=True)

    def _steps_that_explain_most(self):
        """As `n_rim_steps`: more than in training where the RIM then explains the image as well or better."""
        found, more = self.found, round(_LONGER * self.rim.config.n_steps)
        seen = found.observation
        usual, longer = (
            _mean_square(seen.image - image, seen.noise, seen.mask)
            for image in (found.model_image, self._model_image(seen, found.lens, more))
        )
        # The lens was fitted with as many as in training, into whose ripples it fell.
        return more if longer < (1 + _ROUND_GAIN) * usual else None

    def _walk(self):
        """The lens from the lowest places of the valley about it; returns what that was about, and the `Valley`."""
        found, valley = self.found, self._valley()
        lowest = valley.lowest(_PLACES_TRIED)
        if lowest:
            self._refit(lowest, whole=True, roughly=True)
        return found, valley

    def _valley(self, for_errors=False):
        """`Valley` about the lens, no farther than a lens may lie where it is for errors alone."""
        from rim_tf.inference.valley import UNLIKELY, walk

        found = self.found
        left_over = _left_over(self.light, found.observation, 1)
        highest = UNLIKELY * self.judged().noise_factor ** 2 if for_errors else None
        given = left_over, found.source_pixels, _prior(self.light), self.n_rim_steps, self._told, highest
        return walk(found.observation, found.lens, self.rim, *given)

    def _told(self, done, most):
        self.progress("lens", done, most)

    def judged(self, state=None):
        """`Verdict` on a state, or on what stands now."""
        from rim_tf.inference import verdict

        found, light, frame, estimate, _ = self._state() if state is None else state
        return verdict.judge(frame, found, estimate, self.free_of_galaxy and light is None)

    def _misfits(self, *states):
        """Chi^2 per pixel of states, by the noise that the frame had first, however it was raised since; and over how
        many pixels.
        """
        compared, noise, used = self._compared(*states)
        return *(_mean_square(data - image, noise, used) for data, image in compared), int(used.sum())

    def _compared(self, *states):
        """Data and model image of each state, the noise that the frame had first, and the pixels to compare them over.

        Within the field of the largest lens, over the pixels that any of them uses: beside a lens that is too small the
        arcs are neighbours, which it leaves out.
        """
        from rim_tf.inference.optimise import middle

        largest = max((found.field_of for found, *_ in states), key=lambda lens: lens.theta_E)
        arcs = [self._arcs(frame, largest) for _, _, frame, *_ in states]
        used = np.any([each.mask for each in arcs], axis=0)
        compared = []
        for seen, (found, light, *_) in zip(arcs, states, strict=True):
            is_its_own = seen.shape == found.observation.shape
            image = (
                found.model_image
                if is_its_own
                else self._model_image(seen, found.lens, found.n_rim_steps, found.source_width)
            )
            # A frame shows nothing where it is masked itself.
            data = self.clear.image if light is None else self.observation.image - light.model_image
            compared.append((middle(data, used.shape), image))
        return compared, middle(self.noise, used.shape), used

    def _estimate(self, frame, seed):
        from rim_tf.inference.estimate import estimate_lens

        return estimate_lens(frame, self.estimator, seed)

    def _arcs(self, frame, lens):
        from rim_tf.inference.optimise import cropped

        # Never less than some pixels.
        half_width = max(self.config.fit_radius * lens.theta_E, _SMALLEST_FRAME / 2 * frame.pixel_scale)
        return cropped(frame, half_width)

    def _explore(self, frame, starts, light=None, estimate=None):
        from rim_tf.inference.optimise import coarsened, explore

        arcs = self._arcs(frame, starts[0])
        factor = self._factor(arcs)
        seen = coarsened(arcs, factor)
        estimate = estimate or self.estimate
        expected = estimate.lens.theta_E, estimate.uncertainty
        given = _left_over(light, arcs, factor), expected, self._source_pixels(seen), _prior(light)
        if not self.by_network:
            return explore(seen, starts, self.rim, *given)
        samples = np.concatenate([each.samples for each in {id(e): e for e in (estimate, *self.looks)}.values()])
        return self._explored_by_network(seen, starts, samples, given)

    def _explored_by_network(self, seen, starts, samples, given):
        """As `_explore`, by the network that finds lens and source together."""
        from rim_tf.inference.optimise import choose
        from rim_tf.inference.together import find_together

        # From all over the list, as its lenses come from the image with the galaxy and from that without.
        places = np.unique(np.linspace(0, len(starts) - 1, min(_TOGETHER, len(starts))).round().astype(int))
        found = find_together(seen, [starts[i] for i in places], samples, self.joint)
        if not found.lenses and self.found is None:
            self.doubts.append("The search by the network found no lens; that of the estimator is taken.")
        candidates = [*found.lenses, starts[0]]
        lenses, history = choose(seen, candidates, self.rim, _CHOSEN, *given)
        apart = [np.abs(np.subtract(each.as_tuple(), lenses[0].as_tuple())).max() for each in candidates]
        best = int(np.argmin(apart))
        if best < len(found.lenses):
            steps = zip(found.chi2_per_pixel[best], found.path[best], strict=True)
            history = [
                {"stage": "network", "chi2_per_pixel": float(chi2), "lens": tuple(map(float, lens))}
                for chi2, lens in steps
            ]
        return lenses, history

    def _model_image(self, arcs, lens, n_rim_steps=None, source_width=None):
        from rim_tf.inference.optimise import model_image

        return model_image(arcs, lens, self.rim, self._source_pixels(arcs, source_width), n_rim_steps)

    @property
    def source_width(self):
        """Of the source grid, as of `ModelConfig`: that of what was found."""
        return self.config.source_width if self.found is None else self.found.source_width

    def _source_pixels(self, arcs, source_width=None):
        from rim_tf.inference.optimise import source_pixels_of

        return source_pixels_of(arcs, source_width or self.source_width)

    @staticmethod
    def _factor(arcs):
        """How many pixels are seen as one while the lens is searched: time grows with their number."""
        return -(-max(arcs.shape) // _SEARCHED)

    def _fit(self, starts, near=None, before=None, whole=False, roughly=False, source_width=None):
        """`_Found` from starts of which the best few are known, or from near a `_Found`; slopes of the fit `before` may
        still hold. The source grid is as wide as that of what stands, unless another width is given.
        """
        from rim_tf.inference.optimise import coarsened, refine

        source_width = source_width or self.source_width
        field_of = starts[0]
        if near is not None and not _is_of_other_size(near.field_of, field_of):
            # Chi^2 of another frame has other ripples.
            field_of = near.field_of
        arcs = self._arcs(self.frame, field_of)
        factor = 1 if whole else self._factor(arcs)
        seen = coarsened(arcs, factor)
        sought = refine(
            seen,
            starts,
            self.rim,
            _left_over(self.light, arcs, factor),
            n_steps=0 if self.config.fast else _LAST_STEPS if whole and not roughly else _STEPS,
            progress=self._told,
            before=None if before is None else before.sought,
            source_pixels=self._source_pixels(seen, source_width),
            prior=_prior(self.light),
            roughly=roughly,
            n_rim_steps=self.n_rim_steps,
        )
        self.path += sought.history
        grid = self._source_pixels(arcs, source_width), self.n_rim_steps, source_width
        return _Found(sought, sought.ends, arcs, field_of, self.rim, *grid)

    def _refit(self, starts, before=None, whole=False, roughly=False, source_width=None):
        """Another `_fit` from near the best; whether starts agree is known of those from afar alone."""
        found = self._fit(starts, self.found, before, whole, roughly, source_width)
        self.found = dataclasses.replace(found, ends=self.found.ends)

    def _neighbours(self, light, lens):
        """Those of a `LensLightFit`: far from the ring of a lens, and from what the estimator sees, or larger ones."""
        larger = (min(1 + _OTHER_SIZES * each.uncertainty, _LARGEST) * each.lens.theta_E for each in self.looks)
        return light.neighbours(lens, max([lens.theta_E, *larger]))

    def _without_neighbours(self, light, lens, neighbours=None):
        """The frame without lens light and neighbours, where these are known already or not."""
        frame = light.doubted(lens)
        neighbours = self._neighbours(light, lens) if neighbours is None else neighbours
        return dataclasses.replace(frame, mask=frame.mask & ~neighbours)

    def _beside(self, model_image, lens):
        """The lens galaxy fitted again beside the arcs of a model image."""
        from rim_tf.inference import lens_light
        from rim_tf.inference.optimise import placed

        self.progress("lens light", 0, None)
        arcs = placed(model_image, self.observation.shape)
        neighbours = self._neighbours(self.light, lens)
        try:
            self.light = lens_light.subtract_beside_source(self.observation, self.light, arcs, ~neighbours)
        except InputError:  # too few pixels for all its components: what was fitted around the arcs stays
            return
        self.frame = self._without_neighbours(self.light, lens, neighbours)


def _starts_of(estimates, numbers):
    """So many starts of each of some `LensEstimate`s.

    The first says which field is searched: where either may be right, the one that holds both.
    """
    most = _AS_SURE * min(each.uncertainty for each in estimates)
    widest = max((each.lens for each in estimates if each.uncertainty < most), key=lambda lens: lens.theta_E)
    starts = [lens for each, n in zip(estimates, numbers, strict=True) for lens in each.starts(n)]
    return [widest, *(lens for lens in starts if lens is not widest)]


def _is_of_other_size(lens, other):
    return abs(lens.theta_E / other.theta_E - 1) > _SAME_FIELD


def _mean_square(residual, noise, used):
    """Of a residual over a noise, over the pixels that are used."""
    return float(((residual[used] / noise[used]) ** 2).mean())


def _left_over(light, arcs, factor):
    """Of a `LensLightFit` or None, in the frame of the arcs and in pixels `factor` times as wide."""
    from rim_tf.inference.optimise import middle, seen_coarsely

    return None if light is None else seen_coarsely(middle(light.left_over, arcs.shape), arcs, factor)


def _prior(light):
    """`LensPrior` of a lens beside a `LensLightFit`, or None where there is no light.

    Of real lenses, what is left of the galaxy draws the centre away from it, and theta_E with it.
    """
    from rim_tf.inference.lens_light import CENTRED
    from rim_tf.inference.misfit import LensPrior

    return None if light is None else LensPrior(offset=CENTRED, centre=tuple(light.parameters["centre"]))


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
