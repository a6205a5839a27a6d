"""Errors of a lens that have been counted: what the curvature says, made as wide as mocks show that it must be.

The curvature at the best lens (Gauss-Newton) is that of a likelihood with the source profiled by the RIM, which knows
nothing of the RIM's own errors and drops the source's volume. On mocks the true lens is so far from the best one as

    u_true - u_best ~ Student's t with `dof` degrees of freedom and the scale matrix s^2 C + d^2 diag(step^2)

with C the inverse curvature, `step` a careful step in each coordinate (`rim_tf.inference.misfit.unit_steps`), and
log s a polynomial in x = log10(noise over the image's peak / 0.01). The coefficients were fitted by maximum likelihood
on mocks, and counted on others: `benchmarks/calibration.py` does both, docs/ERRORS.md has the figures. Samplers take
the same s: the likelihood is raised to the power 1 / T with the temperature T = s^2.
"""

import dataclasses
import math

import numpy as np
from keras import ops
from scipy.optimize import minimize

from rim_tf.inference.misfit import unit_steps
from rim_tf.inference.posterior import Gaussian, log_density

# Decades of noise that the coefficients were fitted in; beyond, those at the nearer end hold.
_NOISE = 1e-3, 1e-1


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Coefficients of what is said above.

    Attributes:
      log_s: coefficients of log s in x, the constant first.
      floor: d.
      dof: degrees of freedom of Student's t.
    """

    log_s: tuple[float, ...] = (0.0,)
    floor: float = 0.0
    dof: float = np.inf

    def stretch(self, noise):
        """s, for a noise over the image's peak."""
        x = np.log10(np.clip(noise, *_NOISE) / 0.01)
        return np.exp(np.polynomial.polynomial.polyval(x, self.log_s))

    def temperature(self, noise):
        """T of the likelihood for samplers."""
        return float(self.stretch(noise) ** 2)

    def distribution(self, gaussian, mass, theta_E, noise):
        """The calibrated posterior in the coordinates without bounds.

        Args:
          gaussian: `Gaussian` of the curvature, at a temperature of 1.
          mass: `MassModel`.
          theta_E: of the best lens [arcsec].
          noise: over the image's peak.
        """
        floor = np.diag(unit_steps(mass, theta_E) ** 2)
        return Gaussian(gaussian.u, self.scale(gaussian.covariance, floor, noise), self.dof)

    def scale(self, covariance, floor, noise):
        """The scale matrix from C and diag(step^2), [..., columns, columns] both, and noise [...]."""
        return self.stretch(noise)[..., None, None] ** 2 * covariance + self.floor**2 * floor


def fit_calibration(laws, truth, noise, mass, order=1, with_floor=True, with_tails=True):
    """The `Calibration` under which true lenses are the most likely.

    Args:
      laws: list of `Gaussian` of the curvature at the best lenses.
      truth: true lenses in the coordinates without bounds, [n, columns].
      noise: over the image's peak, [n].
      mass: `MassModel`.
      order: of the polynomial log s.
      with_floor: whether d is fitted; 0 otherwise.
      with_tails: whether the degrees of freedom are fitted; infinite otherwise.

    Returns:
      `Calibration`, and minus the logarithm of the likelihood.
    """

    def made(x):
        x = [float(each) for each in x]
        floor = math.exp(x.pop()) if with_floor else 0.0
        # Below two there would be no covariance.
        dof = 2 + math.exp(x.pop()) if with_tails else np.inf
        return Calibration(tuple(x), floor, dof)

    best = np.array([law.u for law in laws])
    covariance = np.array([law.covariance for law in laws])
    theta_E = ops.convert_to_numpy(mass.from_real(ops.convert_to_tensor(best.astype(np.float32))))[:, 0]
    floor = np.array([np.diag(unit_steps(mass, float(each)) ** 2) for each in theta_E])

    def loss(x):
        calibration = made(x)
        return -log_density(truth - best, calibration.scale(covariance, floor, noise), calibration.dof).sum()

    start = [0.4] + [0.0] * order + [1.0] * with_tails + [-3.0] * with_floor
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 500, "xatol": 1e-3, "fatol": 1e-2})
    return made(found.x), float(found.fun)


# Of the weights "small".
CALIBRATION = Calibration((0.5,), 0.0, 8.0)


def noise_over_peak(observation, model_image):
    """The noise of a typical pixel over the peak of the model image, what a calibration goes by."""
    return float(np.median(observation.noise[observation.mask]) / model_image.max())
