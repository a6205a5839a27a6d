"""Semi-linear inversion: the most probable source under a Gaussian prior, and the Bayesian evidence for the prior.

Warren & Dye (2003), Suyu et al. (2006, MNRAS 371, 983). With d = A s + n, A = B L (Eq. 5), noise of covariance C_N
and the prior exp(-lambda E_S), E_S = 1/2 s^T H s, the posterior of the source is Gaussian:

    s_MP = (F + lambda H)^-1 D,   covariance (F + lambda H)^-1,   F = A^T C_N^-1 A,   D = A^T C_N^-1 d
    2 log evidence = - chi2(s_MP) - lambda s_MP^T H s_MP - log det(F + lambda H) + log det(lambda H)
                     - N_d log 2 pi - log det C_N                                              (Suyu's Eq. 19)

A is the one of the network (`rim_tf.physics`), so that both methods can be compared on equal terms.
"""

import dataclasses
import math
import time
import warnings

import numpy as np

from rim_tf.config import ERROR_SAMPLES, SOURCE_MULTIPLE, InversionSettings
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.linear.exact import EXACT_PIXELS, ExactSolver
from rim_tf.inference.linear.matrix_free import MatrixFreeSolver
from rim_tf.inference.linear.non_negative import non_negative_source
from rim_tf.inference.linear.regularisation import Regularisation
from rim_tf.inference.linear.system import DENSE_IMAGE_PIXELS, LinearSystem
from rim_tf.memory import check_memory
from rim_tf.results import SourceErrors, SourceFit, source_figures
from rim_tf.systems import source_grid
from rim_tf.validation import LARGEST_SEED, from_json, to_json

# Up to so many source pixels "auto" is exact: above it, Cholesky factors take longer than Lanczos runs.
_AUTO_PIXELS = 64 * 64
# What the matrix-free solver takes for each pixel of source and image: blocks of 64 right-hand sides, a few at once.
_BYTES_PER_PIXEL = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion(SourceFit):
    """The most probable source of one lens under a Gaussian prior, in float64.

    Attributes, beside those of `SourceFit`:
      strength: lambda [1 / brightness^2].
      log_evidence: log p(data | lambda, H, lens). Also for a non-negative source it is that of the Gaussian prior
        without the constraint: the constrained model's evidence is another quantity, which no solver here computes.
      log_evidence_error: its standard error; 0 where the solver is exact.
      evidence_terms: `chi2`, `regularisation` (lambda s^T H s), `log_det_posterior` (F + lambda H), `log_det_prior`
        (lambda H) and `noise_normalisation`, of which log_evidence is made, all of the unconstrained source;
        `good_parameters` (N - lambda tr (F + lambda H)^-1 H: how many the data determine) and `rank` (of H).
      standard_deviation: square root of the diagonal of the source's covariance, [n, m]; from `samples` alone, and
        so None without them, where the solver is matrix-free. Of the unconstrained posterior.
      samples: draws from the unconstrained posterior, [k, n, m].
      solver: "exact" or "matrix-free".
    """

    strength: float
    log_evidence: float
    log_evidence_error: float
    evidence_terms: dict
    samples: np.ndarray
    solver: str

    def summary(self):
        """Every number that describes the result, as plain Python values for JSON or a table."""
        names = ("strength", "log_evidence", "log_evidence_error", "evidence_terms", "solver")
        return super().summary() | {name: getattr(self, name) for name in names}


def invert(observation, lens, source_pixel_scale=None, source_pixels=None, **settings):
    """The most probable source of an observation by linear inversion, with its evidence.

    Args:
      observation: `Observation`; masked pixels have no weight.
      lens: `LensParameters` or `CompositeLens`.
      source_pixel_scale: [arcsec]; by default as `rim_tf.inference.rim.reconstruct` with the shipped weights, so that
        both give the same grid. Source pixels that no ray reaches are set by the prior alone.
      source_pixels: on a side of the source grid; by default likewise.
      **settings: those of `rim_tf.config.InversionSettings`, by name, which has their defaults.

    Settings:
      regularisation: "brightness", "gradient" or "curvature", the prior (`regularisation.Regularisation`).
      boundary: "zero", "suyu" or "free", what the prior finds beyond the grid.
      strength: lambda [1 / brightness^2]; None takes the one that maximises the evidence.
      solver: "exact" (Cholesky factors of dense matrices: time grows as the cube of the source's pixels, memory as
        the square), "matrix-free" (conjugate gradients; log det by stochastic Lanczos quadrature, with a standard
        error), or "auto" (exact up to 64 x 64).
      non_negative: the most probable source without negative pixels, at the same strength.
      errors: whether flux and more get an error too, from so many draws, or from ERROR_SAMPLES where that is 0.
      samples: how many draws from the posterior to return.
      seed: of the samples, and of the matrix-free solver's probes.

    Returns:
      `Inversion`.

    Raises:
      InputError: a setting that there is not, an unknown regularisation, boundary or solver, a strength not above 0,
        a source grid that is none, or one too large for the exact solver or for the machine's memory.
    """
    started = time.perf_counter()
    settings = from_json(InversionSettings, settings, "Linear inversion")
    pixels, pixel_scale = source_grid(observation, SOURCE_MULTIPLE, source_pixel_scale, source_pixels)
    name = _choose_solver(settings.solver, pixels)
    _check_memory(name, pixels, observation.shape)
    prior = Regularisation(settings.regularisation, settings.boundary, (pixels, pixels))
    # In units of the image's peak: what is added to a singular H has the unit of brightness^-2.
    unit = float(np.abs(observation.image[observation.mask]).max()) or 1.0
    system = LinearSystem.from_observation(observation, lens, (pixels, pixels), pixel_scale).in_units_of(unit)
    solver = {"exact": ExactSolver, "matrix-free": MatrixFreeSolver}[name](system, prior, int(settings.seed))
    strength = None if settings.strength is None else settings.strength * unit**2
    n_samples = int(settings.samples) or (ERROR_SAMPLES if settings.errors else 0)
    solution = solver.solve(strength, n_samples)
    source = solution.source
    if settings.non_negative:
        source = non_negative_source(system, prior, solution.strength, start=source)
    deviation, samples, errors = solution.standard_deviation, unit * solution.samples, None
    if settings.errors:
        area = system.adjoint(np.ones_like(system.data)) * observation.pixel_scale**2
        errors = SourceErrors(samples=samples, figures=source_figures(samples, pixel_scale, area))
    n_data = np.count_nonzero(system.weight)
    result = Inversion(
        source=unit * source,
        source_pixel_scale=pixel_scale,
        model_image=unit * system.forward(source),
        strength=solution.strength / unit**2,
        log_evidence=solution.log_evidence - n_data * np.log(unit),
        log_evidence_error=solution.log_evidence_error,
        evidence_terms=_terms_in_units(solution.evidence_terms, unit, prior.size, n_data),
        standard_deviation=None if deviation is None else unit * deviation,
        samples=samples,
        errors=errors,
        solver=name,
        chi2_per_pixel=system.chi2(source) / n_data,
        flux_outside=system.flux_outside,
        observation=observation,
        lens=lens,
        seconds=time.perf_counter() - started,
    )
    for doubt in result.doubts():
        warnings.warn(doubt, InputWarning, stacklevel=2)
    return result


def _terms_in_units(terms, unit, n_source, n_data):
    """The evidence's terms for data in units of which `unit` were one; those without a unit stay."""
    area = 2 * np.log(unit)
    return terms | {
        "log_det_posterior": terms["log_det_posterior"] - n_source * area,
        "log_det_prior": terms["log_det_prior"] - n_source * area,
        "noise_normalisation": terms["noise_normalisation"] + n_data * area,
    }


def _choose_solver(solver, pixels):
    if solver == "exact" and pixels**2 > EXACT_PIXELS:
        raise InputError(
            f"A source of {pixels} x {pixels} pixels would take {3 * 8e-9 * pixels**4:.0f} GB of memory in the exact "
            f'solver, whose limit is {int(EXACT_PIXELS**0.5)} x {int(EXACT_PIXELS**0.5)}; use solver "matrix-free".'
        )
    if solver == "auto":
        return "exact" if pixels**2 <= _AUTO_PIXELS else "matrix-free"
    return solver


def _check_memory(solver, pixels, image_shape):
    image_pixels = math.prod(image_shape)
    needed = _BYTES_PER_PIXEL * (pixels**2 + image_pixels)
    if solver == "exact":
        # F, its factor and the inverse of that; on the way to F as many numbers for each image pixel.
        needed += 3 * 8 * pixels**4 + 8 * min(image_pixels, DENSE_IMAGE_PIXELS) ** 2
    check_memory(
        needed,
        f"Linear inversion of {pixels} x {pixels} source and {' x '.join(map(str, image_shape))} image pixels",
        "make the source grid coarser, or cut out the region around the lens",
    )


class InversionSolver:
    """Linear inversion as one of the `rim_tf.inference.methods`.

    Args:
      settings: `InversionSettings`.

    Attributes:
      fingerprint: the settings as text.
    """

    def __init__(self, settings):
        self.settings = settings
        self.fingerprint = to_json(settings)

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        if self.settings.errors:
            samples, seed = self.settings.samples, self.settings.seed
            return self.with_errors(observations, lenses, samples, seed, source_pixel_scale, source_pixels)
        return self._inverted(observations, lenses, source_pixel_scale, source_pixels)

    def with_errors(self, observations, lenses, samples, seed=0, source_pixel_scale=None, source_pixels=None):
        """As `rim_tf.inference.methods.Solver` says."""
        changes = {"errors": True, "samples": samples}
        return self._inverted(observations, lenses, source_pixel_scale, source_pixels, seed, **changes)

    def _inverted(self, observations, lenses, source_pixel_scale, source_pixels, seed=None, **changes):
        """Each with a seed of its own, where one is given."""
        settings, fits = dataclasses.asdict(self.settings) | changes, []
        for i, (observation, lens) in enumerate(zip(observations, lenses, strict=True)):
            if seed is not None:
                settings["seed"] = (seed + i) % LARGEST_SEED
            fits.append(invert(observation, lens, source_pixel_scale, source_pixels, **settings))
        return fits
