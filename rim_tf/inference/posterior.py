"""The posterior of a lens: one function of many lenses at once, which every sampler takes.

    log p(lens | data) = log L(lens) / T + log prior(lens) + constant

L is that of the residuals with the source that the RIM finds for the lens (profiled), or of any registered method: its
evidence where it has one (linear inversion, the source integrated out), its residuals otherwise. T is a temperature: 1,
or above it where the RIM's own errors make the likelihood too sharp (`rim_tf.inference.calibration`). Samplers walk in
the coordinates u without bounds of the mass model, where the density gains |d lens / d u|.
"""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.misfit import LensPrior, Misfit, View, finite_residual
from rim_tf.inference.rim import RIMSolver
from rim_tf.lens import Lens, lens_of
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.mass.model import MassModel

# How much wider than a law the draws are that it is corrected by.
_WIDER = 1.5
# No prior is narrower [unit of the parameter].
_NARROWEST = 1e-9
# A prior that is farther from the estimate than this many of its standard deviations excludes it.
_EXCLUDED = 5.0


# -------------------------------------------------------------------------------------------------- likelihoods


class RIMLikelihood:
    """log L of lenses with the source that the RIM finds for each: half of chi^2, without its normalisation.

    Args:
      observation: `Observation`, the arcs alone (`rim_tf.inference.optimise.cropped`).
      model: `RIM`.
      mass: `MassModel`.
      left_over: as of `rim_tf.inference.optimise.optimise_lens`.
      source_pixels: as in `rim_tf.systems.source_grid`.
    """

    def __init__(
        self,
        observation: Observation,
        model: RIM,
        mass: MassModel,
        left_over: np.ndarray | None = None,
        source_pixels: int | None = None,
    ):
        view = View(observation, model, mass, model.config.n_steps, source_pixels)
        nothing = np.zeros(mass.size), np.full(mass.size, np.inf)
        self.misfit = Misfit(view, np.zeros(mass.size), np.zeros(mass.size, bool), nothing, left_over)
        self.observation, self.mass = observation, mass
        self._parts = ["rim", RIMSolver(None, model).fingerprint, source_pixels, left_over]

    def __call__(self, lenses):
        """[n, columns] -> [n]."""
        return -0.5 * (self.residuals(lenses) ** 2).sum(1)

    def residuals(self, lenses):
        """[n, columns] -> [n, data], in float64."""
        return finite_residual(self.misfit.of_lenses(lenses))[:, : -self.mass.size].astype(np.float64)

    def tensor(self, lenses):
        """The same as a function of tensors of float32, which can be differentiated."""
        return -0.5 * ops.sum(self.misfit.data_residuals(lenses) ** 2, axis=1)

    @property
    def fingerprint(self):
        """Changes with the data, the network and what else the numbers depend on."""
        return checksum(self.observation, *self._parts)


class SolverLikelihood:
    """log L of lenses by a registered method: its `log_evidence` where its results have one, else half of chi^2.

    Args:
      observation: as of `RIMLikelihood`.
      solver: a `Solver` of `rim_tf.inference.methods`.
      mass: `MassModel`.
      source_pixels: as in `rim_tf.systems.source_grid`.
      source_pixel_scale: likewise, [arcsec].
    """

    def __init__(self, observation, solver, mass, source_pixels=None, source_pixel_scale=None):
        self.observation, self.solver, self.mass = observation, solver, mass
        self.grid = source_pixel_scale, source_pixels

    def __call__(self, lenses):
        """[n, columns] -> [n]."""
        given = [lens_of(self.mass, each) for each in lenses]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # of lenses on the way
            fits = self.solver([self.observation] * len(given), given, *self.grid)
        n_used = int(self.observation.mask.sum())
        return np.array([getattr(fit, "log_evidence", -0.5 * n_used * fit.chi2_per_pixel) for fit in fits])

    @property
    def fingerprint(self):
        """As of `RIMLikelihood`."""
        return checksum(self.observation, self.solver.fingerprint, *self.grid)


def checksum(*parts):
    """SHA-256 of observations, arrays, numbers and text."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Observation):
            part = [part.image, part.noise, part.mask, part.psf, part.pixel_scale]
        for each in part if isinstance(part, list | tuple) else [part]:
            array = np.ascontiguousarray(str(each) if each is None or isinstance(each, str) else each)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------- priors


def prior_columns(known, mass):
    """Mean and standard deviation of each parameter of a mass model, infinite where nothing is said of it.

    Args:
      known: {name: (mean, standard deviation)}.
      mass: `MassModel`.

    Returns:
      [2, columns]

    Raises:
      InputError: no such parameter, a mean that is no number, or a standard deviation that is not above 1e-9.
    """
    columns = np.array([np.zeros(mass.size), np.full(mass.size, np.inf)])
    for name, (mean, width) in known.items():
        if name not in mass.names:
            raise InputError(f"The prior is of {name!r}; parameters of this lens are {', '.join(mass.names)}.")
        if not (math.isfinite(mean) and _NARROWEST <= width < math.inf):
            raise InputError(
                f"The prior of {name} has the mean {mean} and the standard deviation {width}; they must be numbers, "
                f"the second at least {_NARROWEST:g}."
            )
        columns[:, mass.names.index(name)] = mean, width
    return columns


def prior_in_words(prior, names):
    """What a prior [2, columns] of parameters of these names is, a line for each."""
    flat, lines = "uniform within its bounds", []
    for name, centre, sigma in zip(names, *prior, strict=True):
        lines.append(f"{name}: {f'normal, mean {centre:g}, sigma {sigma:g}' if np.isfinite(sigma) else flat}")
    return lines


def both_priors(one, other):
    """The product of two normal priors, [2, columns] each, up to a constant."""
    precision = one[1] ** -2.0 + other[1] ** -2.0
    weighted = one[0] * one[1] ** -2.0 + other[0] * other[1] ** -2.0
    known = precision > 0
    precision = np.where(known, precision, 1.0)
    return np.array([np.where(known, weighted / precision, one[0]), np.where(known, precision**-0.5, np.inf)])


# ---------------------------------------------------------------------------------------------------- posterior


class LogPosterior:
    """log of the posterior's density, up to a constant; `posterior(u)` in the coordinates without bounds.

    Args:
      likelihood: `RIMLikelihood`, `SolverLikelihood`, or what has their attributes `mass` and `fingerprint` and takes
        lenses [n, columns] to log L [n]; with `tensor`, there is a gradient.
      prior: mean and standard deviation of each parameter, infinite where it is flat, [2, columns], as
        `LensPrior.columns` makes them.
      temperature: T.
    """

    def __init__(self, likelihood, prior: np.ndarray, temperature: float = 1.0):
        self.likelihood, self.mass, self.temperature = likelihood, likelihood.mass, float(temperature)
        self.prior = np.asarray(prior, float)
        if self.prior.shape != (2, self.mass.size) or not (self.prior[1] > 0).all():
            raise InputError(
                f"The prior has shape {self.prior.shape}; it must be a mean and a standard deviation above 0 for each "
                f"of {', '.join(self.mass.names)}."
            )
        if not temperature > 0:
            raise InputError(f"The temperature is {temperature}; it must be above 0.")

    def __call__(self, u):
        """[n, columns] -> [n]; minus infinity where it is no number."""
        u = np.asarray(u, float)
        slope = ops.convert_to_numpy(self.mass.log_slope(ops.convert_to_tensor(u.astype(np.float32))))
        return _sure(self.of_lenses(self.lenses(u)) + slope)

    def of_lenses(self, lenses):
        """The same per unit of each parameter, for lenses [n, columns]."""
        lenses = np.asarray(lenses, float)
        return _sure(self.likelihood(lenses) / self.temperature + self.log_prior(lenses))

    def log_prior(self, lenses):
        """Up to a constant, [n]."""
        mean, width = self.prior
        return -0.5 * (((lenses - mean) / width) ** 2).sum(1)

    def tensor(self, u):
        """As a function of a tensor of float32, [n, columns] -> [n], for automatic differentiation."""
        if not self.has_gradient:
            raise InputError("This likelihood has no gradient; take a sampler that needs none.")
        lenses = self.mass.from_real(u)
        mean, width = (ops.convert_to_tensor(each.astype(np.float32)) for each in self.prior)
        log_prior = -0.5 * ops.sum(((lenses - mean) / width) ** 2, axis=1)
        return self.likelihood.tensor(lenses) / self.temperature + log_prior + self.mass.log_slope(u)

    @property
    def has_gradient(self):
        return hasattr(self.likelihood, "tensor")

    def value_and_gradient(self, u):
        """[n, columns] -> [n], [n, columns], in float32."""
        u = tf.constant(u, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(u)
            value = self.tensor(u)
        return value.numpy(), tape.gradient(value, u).numpy()

    def lenses(self, u):
        """Coordinates -> lenses, [n, columns]."""
        return np.asarray(ops.convert_to_numpy(self.mass.from_real(np.asarray(u, np.float32))), float)

    def coordinates(self, lenses):
        """The inverse of `lenses`."""
        return np.asarray(ops.convert_to_numpy(self.mass.to_real(np.asarray(lenses, np.float32))), float)

    def linearised(self, law, n, generator):
        """A `Gaussian` that is nearer to the posterior than `law` is: Gauss-Newton with slopes that are averaged.

        Slopes by small differences see the roughness of log L, which bilinear pixels and unrolled steps make, and an
        optimum is the bottom of some pit. So residuals are drawn all over `law`, made wider, and a plane is fitted to
        them by least squares: statistical linearisation (Gelb 1974). Pairs of draws on either side of the centre keep
        curvature out of the slopes.

        Args:
          law: `Gaussian` about the best lens.
          n: draws, at least twice the columns and four.
          generator: NumPy `Generator`.

        Raises:
          InputError: no plane fits the residuals.
        """
        with np.errstate(all="ignore"):
            try:
                found = self._linearised(law, n, generator)
            except np.linalg.LinAlgError:
                found = None
        if found is None or not (np.isfinite(found.u).all() and np.isfinite(found.covariance).all()):
            raise InputError(
                "The errors of the lens could not be worked out: about the best one the residuals follow no plane; "
                "look at them: a mask, a noise map or a start that is far off may be the reason."
            )
        return found

    def _linearised(self, law, n, generator):
        half = law.widened(_WIDER, np.inf).draw(n // 2, generator)
        off = np.concatenate([half, 2 * law.u - half]) - law.u
        residuals = self.residuals(law.u + off)
        design = np.concatenate([np.ones((len(off), 1)), off], axis=1)
        plane, *_ = np.linalg.lstsq(design, residuals, rcond=None)
        centre, slope = plane[0], plane[1:]
        rough = ((residuals - design @ plane) ** 2).sum() / (len(off) - len(plane))
        covariance = inverse(slope @ slope.T)
        # What the scatter about the plane adds to the squares of the slopes makes errors too small.
        added = rough * np.linalg.inv(design.T @ design)[1:, 1:]
        excess = np.trace(covariance @ added) / len(law.u)
        return Gaussian(law.u - covariance @ (slope @ centre), (1 + excess) * covariance)

    def residuals(self, u):
        """Those of the data, then distances from the prior, [n, data + columns] in float64.

        Half the sum of their squares is minus the logarithm of the posterior of lenses.
        """
        if not hasattr(self.likelihood, "residuals"):
            raise InputError("This likelihood is no sum of squares; take a sampler.")
        lenses = self.lenses(u)
        mean, width = self.prior
        data = self.likelihood.residuals(lenses) / math.sqrt(self.temperature)
        return np.concatenate([data, (lenses - mean) / width], axis=1)

    def check_estimate(self, lens, error=0.0):
        """InputError where the prior excludes a lens that was found before.

        Args:
          lens: `Lens`.
          error: standard deviation of its parameters, [columns] or one number: what is known poorly excludes little.
        """
        off = np.abs(np.array(lens.as_tuple()) - self.prior[0]) / np.hypot(self.prior[1], error)
        worst = int(np.argmax(off))
        if off[worst] > _EXCLUDED:
            raise InputError(
                f"The prior excludes the estimate: {self.mass.names[worst]} is {lens.as_tuple()[worst]:.4g}, "
                f"{off[worst]:.1f} standard deviations from the prior's {self.prior[0][worst]:.4g}; widen the "
                f"prior. The estimate is {in_words(lens)}."
            )

    @property
    def fingerprint(self):
        """Changes with model, data, prior and temperature."""
        return checksum(self.likelihood.fingerprint, list(self.mass.types), self.prior, self.temperature)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A normal distribution, or Student's t, in the coordinates without bounds: what is known before sampling.

    Attributes:
      u: its mean, [columns].
      covariance: of the normal distribution; of Student's t its scale matrix, [columns, columns].
      dof: degrees of freedom of Student's t; infinite for the normal distribution.
    """

    u: np.ndarray
    covariance: np.ndarray
    dof: float = np.inf

    def draw(self, n, generator):
        """[n, columns] by a NumPy `Generator`."""
        z = generator.normal(size=(n, len(self.u)))
        return self.u + self._stretch(n, generator) * (z @ np.linalg.cholesky(self.covariance).T)

    def widened(self, factor, dof=None):
        """About the same mean, deviations times a factor; with other degrees of freedom where some are given."""
        return Gaussian(self.u, factor**2 * self.covariance, self.dof if dof is None else dof)

    def _stretch(self, n, generator):
        return 1.0 if np.isinf(self.dof) else np.sqrt(self.dof / generator.chisquare(self.dof, (n, 1)))

    def log_density(self, u):
        """With its normalisation, [n, columns] -> [n]."""
        return log_density(np.asarray(u, float) - self.u, self.covariance, self.dof)


def log_density(off, covariance, dof):
    """Of Student's t, or of the normal distribution where dof is infinite, with its normalisation.

    Args:
      off: from the mean, [n, columns].
      covariance: scale matrix, [columns, columns], or one for each, [n, columns, columns].
      dof: degrees of freedom.

    Returns:
      [n]
    """
    root = np.linalg.cholesky(covariance)
    square = (np.linalg.solve(root, off[..., None])[..., 0] ** 2).sum(-1)
    n = off.shape[-1]
    volume = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    if np.isinf(dof):
        return -0.5 * square - volume - 0.5 * n * math.log(2 * math.pi)
    constant = math.lgamma((dof + n) / 2) - math.lgamma(dof / 2) - 0.5 * n * math.log(dof * math.pi)
    return constant - volume - 0.5 * (dof + n) * np.log1p(square / dof)


def rim_posterior(
    observation: Observation,
    lens: Lens,
    model: RIM,
    prior: LensPrior | None = None,
    temperature: float = 1.0,
    left_over: np.ndarray | None = None,
    source_pixels: int | None = None,
) -> LogPosterior:
    """The posterior with the source by the RIM, the prior's centre about `lens`.

    Args:
      observation: as of `RIMLikelihood`.
      lens: about which the prior's centre is.
      model: `RIM`.
      prior: `LensPrior`; None takes its defaults.
      temperature: T.
      left_over: as of `RIMLikelihood`.
      source_pixels: likewise.

    Returns:
      `LogPosterior`.
    """
    likelihood = RIMLikelihood(observation, model, lens.mass, left_over, source_pixels)
    return LogPosterior(likelihood, (prior or LensPrior()).columns(lens), temperature)


def inversion_posterior(
    observation, lens, settings, prior=None, source_pixels=None, source_pixel_scale=None, best_strength=True
):
    """The posterior by linear inversion: the source integrated out.

    Args:
      observation: as of `RIMLikelihood`.
      lens: about which the prior's centre is, and of which the strength is.
      settings: `rim_tf.config.InversionSettings`; with a strength, that one is kept.
      prior: `LensPrior`; None takes its defaults.
      source_pixels: on a side; time grows as its sixth power.
      source_pixel_scale: [arcsec]; as in `rim_tf.systems.source_grid`.
      best_strength: keep the strength of the largest evidence for `lens`, which is one factor for each lens; otherwise
        each lens has its own.

    Returns:
      `LogPosterior`.
    """
    from rim_tf.inference.linear.inversion import InversionSolver

    solver = InversionSolver(settings)
    if settings.strength is None and best_strength:
        (fit,) = solver([observation], [lens], source_pixel_scale, source_pixels)
        solver = InversionSolver(dataclasses.replace(settings, strength=fit.strength))
    likelihood = SolverLikelihood(observation, solver, lens.mass, source_pixels, source_pixel_scale)
    return LogPosterior(likelihood, (prior or LensPrior()).columns(lens))


def in_words(lens: Lens, error: Sequence[float] | None = None) -> str:
    """The numbers of a lens, with their errors where there are some, for a sentence."""
    given = zip(lens.mass.names, lens.as_tuple(), error if error is not None else [None] * lens.mass.size, strict=True)
    return ", ".join(f"{name} {value:.4f}" + ("" if e is None else f" +- {e:.4f}") for name, value, e in given)


def _sure(value):
    return np.where(np.isfinite(value), value, -np.inf)


def inverse(curvature):
    """Of a symmetric matrix that rounding may have made indefinite, or in which the data say nothing of a direction.

    Its eigenvalues, each parameter in units of what it alone says, are raised to a share of the largest.
    """
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-12 * np.diag(curvature).max()) + 1e-30)
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    values = np.maximum(values, 1e-8 * values.max())
    return (vectors / values) @ vectors.T / np.outer(scale, scale)
