"""The lens of one observation with its errors: the best lens, then draws from its posterior.

What is drawn by default is the calibrated distribution about the best lens (`rim_tf.inference.calibration`), whose
errors have been counted on mocks and which costs nothing beyond the fit. Any registered sampler can be asked for
instead; it takes the likelihood at the calibrated temperature. Sources are drawn with the lenses, so that what is said
of a source holds whichever of them is right.
"""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from keras import ops

from rim_tf.config import (
    SOURCE_SCALE_RATIO,
    InversionSettings,
    ModelConfig,
    PosteriorConfig,
    RIMSettings,
    SourceErrorsConfig,
)
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.calibration import CALIBRATION, noise_over_peak
from rim_tf.inference.halo import spread, widening
from rim_tf.inference.optimise import (
    cropped,
    middle,
    model_image,
    noise_floor,
    refine,
    source_pixels_of,
    with_noise_floor,
)
from rim_tf.inference.posterior import (
    Gaussian,
    LogPosterior,
    both_priors,
    in_words,
    inverse,
    inversion_posterior,
    prior_columns,
    prior_in_words,
    rim_posterior,
)
from rim_tf.inference.rim import RIMSolver
from rim_tf.inference.samplers.chain import Chain, NotConverged, normalised, resampled, run
from rim_tf.inference.samplers.registry import find_sampler
from rim_tf.inference.source_errors import draw_sources
from rim_tf.inference.valley import Valley
from rim_tf.lens import Lens, lens_of
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.results import SourceErrors, SourceFit

# Floors of the noise, as shares of the peak. Below a few tenths of a per cent log L is rough, and a descent from a
# start that is many errors off ends in any pit: so the lens is searched at the first, and the last is the posterior's.
FLOORS = 0.01, 0.003
# Steps of the search, and draws of each linearisation after it: at the first floor once, at the last one twice.
_STEPS, _DRAWS = 8, (32, 64)
# Linear inversion has so many times fewer source pixels on a side than the RIM, over the same field: its time grows as
# their sixth power.
_COARSER = 2
# With each of some lenses so many sources are drawn: most of the time goes into the first.
_SOURCES_OF_ONE = {"rim": 4, "inversion": 10}
# Pixels on a side of the smallest source that the network of its errors sees; smaller ones are drawn on such a grid.
_SMALLEST = 2**SourceErrorsConfig.levels
# So many draws are weighed by a prior of the user's, of which so many must count.
_WEIGHED, _COUNTED = 200_000, 100
# Whose sources, each with every step on its way, are in memory together.
_LENSES_AT_ONCE = 16
# Settings of importance sampling by linear inversion, of which a draw takes about as long as ten of the RIM: few draws,
# and rounds in which the distribution about the RIM's best lens is moved to where those of linear inversion are.
INVERSION = {"draws": 256, "rounds": 2}


@dataclasses.dataclass(frozen=True)
class LensSamples:
    """Draws from the posterior of a lens.

    Attributes:
      lens: the best one by the RIM, whatever the method.
      samples: lenses of equal weight, [n, columns], in the order of `lens.mass.names`.
      method: "rim" or "inversion", how the source is found inside.
      sampler: its name, or "calibrated" for the distribution about the best lens.
      prior: mean and standard deviation of each parameter, infinite where it is flat, [2, columns].
      temperature: of the likelihood.
      noise: over the image's peak.
      chain: `Chain`, or None where there is none.
      noise_factor: by what the noise map was multiplied.
      sources: `rim_tf.results.SourceErrors`, a few draws with each of some of these lenses; None where none were asked
        for, or where nothing knows the errors of the sources of this network.
      source_pixel_scale: of these [arcsec].
      galaxy_over_arcs: by which lenses lie farther apart, where the RIM found them, and what sources come to; as of
        `rim_tf.inference.halo`.
    """

    lens: Lens
    samples: np.ndarray
    method: str
    sampler: str
    prior: np.ndarray
    temperature: float
    noise: float
    chain: Chain | None = None
    noise_factor: float = 1.0
    sources: SourceErrors | None = None
    source_pixel_scale: float | None = None
    galaxy_over_arcs: float = 0.0

    @property
    def mean(self):
        """[columns]"""
        return self.samples.mean(axis=0)

    @property
    def standard_deviation(self):
        """[columns]"""
        return self.samples.std(axis=0, ddof=1)

    def lenses(self, n=None):
        """The first n samples, or all, as lenses."""
        return [lens_of(self.lens.mass, each) for each in self.samples[:n]]

    def chain_lenses(self):
        """All draws of the chain as lenses, [chains, draws, columns]."""
        u, mass = self.chain.u, self.lens.mass
        lenses = mass.from_real(ops.convert_to_tensor(u.reshape(-1, u.shape[-1]).astype(np.float32)))
        return np.asarray(ops.convert_to_numpy(lenses), float).reshape(u.shape)

    def moved(self, centre):
        """The same about another origin, as `Lens.moved`."""
        there = [each.moved(centre).as_tuple() for each in self.lenses()]
        lens = self.lens.moved(centre)
        prior = self.prior + np.array([np.subtract(lens.as_tuple(), self.lens.as_tuple()), np.zeros(lens.mass.size)])
        return dataclasses.replace(self, lens=lens, samples=np.array(there), prior=prior)

    def summary(self):
        """Every number but the draws, as plain values."""
        names = self.lens.mass.names
        low, median, high = np.quantile(self.samples, [0.15865, 0.5, 0.84135], axis=0)
        by_name = {
            name: {"mean": m, "std": s, "median": q, "low_68": a, "high_68": b}
            for name, m, s, q, a, b in zip(names, self.mean, self.standard_deviation, median, low, high, strict=True)
        }
        return {
            "best": self.lens.to_dict(),
            "parameters": by_name,
            "correlation": np.corrcoef(self.samples.T),
            "method": self.method,
            # What a sampler draws has been counted here and there (docs/ERRORS.md), linear inversion's not at all.
            "counted": self.sampler == "calibrated",
            "sampler": self.sampler,
            "n_samples": len(self.samples),
            "prior": prior_in_words(self.prior, names),
            "temperature": self.temperature,
            "noise_over_peak": self.noise,
            "noise_factor": self.noise_factor,
            "source": None if self.sources is None else self.sources.summary(),
            "galaxy_over_arcs": self.galaxy_over_arcs,
            "galaxy_factor": widening(self.galaxy_over_arcs) if self.method == "rim" else 1.0,
            "chain": None if self.chain is None else self.chain.figures(),
        }


def sample_lens(
    observation: Observation,
    lens: Lens,
    model: RIM,
    config: PosteriorConfig | None = None,
    left_over: np.ndarray | None = None,
    noise_factor: float = 1.0,
    folder: pathlib.Path | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    valley: Valley | None = None,
    fit: SourceFit | None = None,
    galaxy_over_arcs: float = 0.0,
    prior: Mapping[str, tuple[float, float]] | None = None,
) -> list[LensSamples]:
    """The posterior of a lens near one that is known, by the RIM, by linear inversion, or by both.

    Args:
      observation: `Observation` without lens light.
      lens: near the best one, as `rim_tf.inference.workflow.model` finds it.
      model: `RIM`.
      config: `PosteriorConfig`; None takes its defaults.
      left_over: as of `rim_tf.inference.optimise.optimise_lens`, of the whole frame.
      noise_factor: by what the noise map is multiplied, as of `Verdict.noise_factor`.
      folder: where chains are kept, from which a run goes on; None keeps none.
      progress: a `Progress` of `rim_tf.inference.workflow`.
      valley: `Valley` about the lens, all over which the calibrated distribution is drawn; None where there is none.
      fit: of the lens, on whose frame and grid the RIM draws sources; None draws them on those of the posterior.
      galaxy_over_arcs: by which the posterior by the RIM is widened, and what sources come to is spread
        (`rim_tf.inference.halo`); 0 where there is no galaxy.
      prior: {name: (mean, standard deviation)} of parameters of which something is known besides, normal; it multiplies
        the mild one that there is, and moves draws, not the best lens.

    Returns:
      `LensSamples` of each method, with sources where `config` asks for them.

    Raises:
      InputError: settings that make no chain, a prior of no parameter or that excludes the lens or nearly all draws, a
        chain of something else. NotConverged, which is one too: draws that must not be trusted. Each
        says what the estimate is without sampling.
    """
    config, progress = config or PosteriorConfig(), progress or (lambda step, done, total: None)
    own = prior_columns(prior or {}, lens.mass)
    observation = _noisier(observation, noise_factor)
    arcs = cropped(observation, config.fit_radius * lens.theta_E)

    def grid(width):
        """Pixels on a side; no more than the frame has, unless the source asks for a wider grid than usual."""
        most = source_pixels_of(observation, max(1.0, width / ModelConfig.source_width))
        return min(most, source_pixels_of(arcs, width))

    pixels = grid(config.source_width)
    left_over = None if left_over is None else middle(left_over, arcs.shape)
    progress("lens", 0, None)
    plain, law, _ = settled(arcs, [lens], model, left_over, pixels, config.seed)
    best, found = lens_of(lens.mass, plain.lenses(law.u[None])[0]), []
    seen = plain.likelihood.observation
    noise = noise_over_peak(seen, model_image(seen, best, model, pixels))
    wider = widening(galaxy_over_arcs)
    temperature = wider**2 * CALIBRATION.temperature(noise)
    # Linear inversion's posterior is not widened, nor where its draws begin.
    laws = {"inversion": CALIBRATION.distribution(law, noise)}
    laws["rim"] = laws["inversion"].widened(wider)
    generator = np.random.default_rng(config.seed)
    methods = ("rim", "inversion") if config.method == "both" else (config.method,)
    sampled = [method for method in methods if method != "rim" or config.sampler != "calibrated"]
    # By the user's prior draws of the calibrated distribution are weighed, where it is asked for.
    weighed = bool(prior) and len(sampled) < len(methods)
    n = max(config.samples, _WEIGHED) if weighed else config.samples
    draws = laws["rim"].draw(n, generator)
    if valley is not None:
        draws = draws + valley.shifts(laws["rim"].u, n, generator, wider * noise_factor)
    draws = plain.lenses(draws)
    deviation = draws.std(axis=0)
    estimate = f"The estimate without sampling is {in_words(best, deviation)}."
    given = both_priors(plain.prior, own)
    try:
        LogPosterior(plain.likelihood, given).check_estimate(best, deviation if prior else 0.0)
        draws = _weighed(draws, own, config.samples, generator) if weighed else draws
        samplers = {method: _sampler(config, method) for method in sampled}
    except InputError as error:
        raise InputError(f"{error} {estimate}") from None
    for method in methods:
        progress(method, 0, None)
        if method == "rim":
            target = LogPosterior(plain.likelihood, given, temperature)
            seen, n = (arcs, pixels) if fit is None else (_noisier(fit.observation, noise_factor), len(fit.source))
            source = RIMSolver(RIMSettings(), model), seen, n, SOURCE_SCALE_RATIO * arcs.pixel_scale
        if method not in samplers:
            lenses, sampler, chain = draws, "calibrated", None
        else:
            sampler = samplers[method].name
            path = None if folder is None else pathlib.Path(folder) / f"chain-{method}-{sampler}.npz"
            try:
                if method == "inversion":
                    # Nothing else takes what lies beyond its grid.
                    n, scale = coarse_grid(arcs, grid(max(config.source_width, ModelConfig.source_width)))
                    target = inversion_posterior(arcs, best, InversionSettings(), None, n, scale)
                    target = LogPosterior(target.likelihood, both_priors(target.prior, own))
                    source = target.likelihood.solver, arcs, n, scale
                told = functools.partial(progress, method)
                chain = run(samplers[method], target, laws[method], path, told)
                lenses = target.lenses(chain.draws(config.samples, config.seed))
            except NotConverged as error:
                kept = f" The chain is kept in {path}; ask for more, or take another sampler." if path else ""
                raise NotConverged(f"{error}{kept} {estimate}", error.chain, found) from None
            except InputError as error:
                raise InputError(f"{error} {estimate}") from None
        stated = target.prior, target.temperature, noise, chain, noise_factor
        drawn = LensSamples(best, lenses, method, sampler, *stated, galaxy_over_arcs=galaxy_over_arcs)
        if config.sources > 0:
            progress("sources", 0, None)
            drawn = _with_sources(drawn, *source, config)
        found.append(drawn)
    return found


def _weighed(draws, prior, n, generator):
    """So many of the draws, [n, columns], as often as a prior [2, columns] that they know nothing of makes them."""
    mean, width = prior
    weights = normalised(-0.5 * (((draws - mean) / width) ** 2).sum(1))
    counted = 1 / (weights**2).sum()  # by Kish's formula
    if not counted >= _COUNTED:
        raise InputError(
            f"The prior leaves {counted:.0f} of {len(draws)} draws of the calibrated distribution, and {_COUNTED} are "
            "needed; widen it, or take a sampler that walks there, such as emcee."
        )
    return draws[resampled(weights, n, generator)]


def _noisier(observation, factor):
    return observation if factor == 1 else dataclasses.replace(observation, noise=factor * observation.noise)


def _with_sources(found, solver, observation, pixels, scale, config):
    """`LensSamples` with as many sources as `config` asks for, behind lenses from all over the draws."""
    n_lenses = min(-(-config.sources // _SOURCES_OF_ONE[found.method]), len(found.samples))
    of_one = -(-config.sources // n_lenses)
    numbers = np.linspace(0, len(found.samples) - 1, n_lenses).round().astype(int)
    lenses = [lens_of(found.lens.mass, found.samples[i]) for i in numbers]
    several, n = [], max(pixels, _SMALLEST if found.method == "rim" else 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # of the model, said before
            for first in range(0, n_lenses, _LENSES_AT_ONCE):
                some = lenses[first : first + _LENSES_AT_ONCE]
                several.append(draw_sources(observation, some, solver, of_one, config.seed + first, scale, n))
    except InputError as error:
        warnings.warn(f"The source has no errors: {error}", InputWarning, stacklevel=3)
        return found
    sources = SourceErrors.together(several)
    # As many as were asked for, of all lenses.
    kept = np.linspace(0, len(sources.samples) - 1, config.sources).round().astype(int)
    figures = {name: values[kept] for name, values in sources.figures.items()}
    sources = SourceErrors(samples=middle(sources.samples[kept], (pixels, pixels)), figures=figures)
    sources = spread(sources, found.galaxy_over_arcs, config.seed)
    return dataclasses.replace(found, sources=sources, source_pixel_scale=scale)


def coarse_grid(observation, pixels):
    """Pixels on a side, and their scale [arcsec], of the grid of linear inversion where the RIM's has `pixels`."""
    return -(-pixels // _COARSER), _COARSER * SOURCE_SCALE_RATIO * observation.pixel_scale


def settled(observation, starts, model, left_over=None, source_pixels=None, seed=0):
    """The best lens near some starts, and the Gaussian about it.

    Args:
      observation: `Observation`, the arcs alone.
      starts: list of lenses.
      model: `RIM`.
      left_over: as of `rim_tf.inference.optimise.optimise_lens`.
      source_pixels: likewise.
      seed: of the draws.

    Raises:
      InputError: no plane fits the residuals.

    Returns:
      `LogPosterior` of the image with the last of FLOORS, about the best lens, at a temperature of 1; `Gaussian`, which
      no calibration has widened; and the `Sought` that it began with.
    """
    generator = np.random.default_rng(seed)
    noise = np.median(observation.noise[observation.mask])
    first = FLOORS[0] if noise < noise_floor(observation, FLOORS[0]) else FLOORS[-1]
    seen = with_noise_floor(observation, first)
    sought = refine(seen, starts, model, left_over, _STEPS, source_pixels=source_pixels)
    law = Gaussian(sought.u, inverse(sought.curvature()))
    plan = [(first, _DRAWS[0])] if first != FLOORS[-1] else []
    for floor, n in [*plan, *((FLOORS[-1], n) for n in _DRAWS)]:
        seen = with_noise_floor(observation, floor)
        target = rim_posterior(seen, sought.lens, model, None, 1.0, left_over, source_pixels)
        law = target.linearised(law, n, generator)
    return target, law, sought


def _sampler(config, method):
    """The sampler that `config` asks for, with its own settings where something is said of them."""
    name = "importance" if config.sampler == "calibrated" else config.sampler
    known = find_sampler(name)
    if method == "inversion" and known.needs_gradient:
        raise InputError(f"Linear inversion has no gradient in the lens, which {name} needs; take importance or emcee.")
    length = {"importance": "draws", "emcee": "steps"}.get(name, "draws")
    given = {"seed": config.seed}
    if config.steps is not None:
        given[length] = config.steps
    if method == "inversion" and name == "importance":
        given = INVERSION | given
    if config.walkers is not None:
        names = {field.name for field in dataclasses.fields(known.settings)}
        wanted = next((each for each in ("walkers", "chains") if each in names), None)
        if wanted is None:
            raise InputError(f"walkers is {config.walkers}, but {name} has none; leave it away.")
        given[wanted] = config.walkers
    return known.build(known.settings(**given))
