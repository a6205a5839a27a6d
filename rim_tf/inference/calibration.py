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

import numpy as np

from rim_tf.inference.misfit import unit_steps
from rim_tf.inference.posterior import Gaussian

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
        covariance = self.stretch(noise) ** 2 * gaussian.covariance
        covariance = covariance + self.floor**2 * np.diag(unit_steps(mass, theta_E) ** 2)
        return Gaussian(gaussian.u, covariance, self.dof)


# Of the weights "small".
CALIBRATION = Calibration((0.5,), 0.0, 8.0)


def noise_over_peak(observation, model_image):
    """The noise of a typical pixel over the peak of the model image, what a calibration goes by."""
    return float(np.median(observation.noise[observation.mask]) / model_image.max())
