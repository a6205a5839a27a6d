"""Errors of a lens that have been counted: what the curvature says, made as wide as mocks show that it must be.

The curvature at the best lens (Gauss-Newton) is that of a likelihood with the source profiled by the RIM, which knows
nothing of the RIM's own errors and drops the source's volume. On mocks the true lens is so far from the best one as

    u_true - u_best ~ Student's t with `dof` degrees of freedom and the scale matrix s^2 C

with C the inverse curvature and log s a polynomial in x = log10(noise over the image's peak / 0.01). The coefficients
were fitted by maximum likelihood on mocks, and counted on others: `benchmarks/calibration.py` does both, and
docs/ERRORS.md has the figures. Samplers take a likelihood that is as wide: it is raised to the power 1 / T with the
temperature T at which a Gaussian has the variance of Student's t.
"""

import dataclasses
import math

import numpy as np
from scipy.optimize import minimize

from rim_tf.inference.posterior import log_density


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Coefficients of what is said above.

    Attributes:
      log_s: coefficients of log s in x, the constant first.
      dof: degrees of freedom of Student's t, above 2.
      fitted_in: noise over the peak in which the coefficients were fitted; beyond, those at the nearer end hold.
    """

    log_s: tuple[float, ...] = (0.0,)
    dof: float = np.inf
    fitted_in: tuple[float, float] = (3e-3, 1e-1)

    def stretch(self, noise):
        """s, for a noise over the image's peak."""
        x = np.log10(np.clip(noise, *self.fitted_in) / 0.01)
        return np.exp(np.polynomial.polynomial.polyval(x, self.log_s))

    def temperature(self, noise):
        """T of the likelihood for samplers."""
        return float(self.stretch(noise) ** 2 * self._variance)

    @property
    def _variance(self):
        """Of Student's t over its scale."""
        return 1.0 if np.isinf(self.dof) else self.dof / (self.dof - 2)

    def distribution(self, gaussian, noise):
        """The calibrated posterior in the coordinates without bounds.

        Args:
          gaussian: `Gaussian` of the curvature, at a temperature of 1.
          noise: over the image's peak.
        """
        return gaussian.widened(self.stretch(noise), self.dof)


def fit_calibration(laws, truth, noise, order=0, with_tails=True):
    """The `Calibration` under which true lenses are the most likely.

    Args:
      laws: list of `Gaussian` of the curvature at the best lenses.
      truth: true lenses in the coordinates without bounds, [n, columns].
      noise: over the image's peak, [n].
      order: of the polynomial log s.
      with_tails: whether the degrees of freedom are fitted; infinite otherwise.

    Returns:
      `Calibration`, and minus the logarithm of the likelihood.
    """
    off = np.asarray(truth) - [law.u for law in laws]
    covariance = np.array([law.covariance for law in laws])

    def made(x):
        x = [float(each) for each in x]
        # Below two degrees of freedom there would be no covariance.
        dof = 2 + math.exp(x.pop()) if with_tails else np.inf
        return Calibration(tuple(x), dof)

    def loss(x):
        calibration = made(x)
        scale = calibration.stretch(np.asarray(noise))[:, None, None] ** 2 * covariance
        return -log_density(off, scale, calibration.dof).sum()

    start = [0.4] + [0.0] * order + [1.0] * with_tails
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 500, "xatol": 1e-3, "fatol": 1e-2})
    return made(found.x), float(found.fun)


# Of the weights "small"; 96 mocks, the fewest coefficients that Akaike's criterion asks for.
CALIBRATION = Calibration((0.045,), 5.0)
# Of slopes by small differences where `rim_tf.inference.workflow.model` ended, before the valley that it walked along
# is added, and before errors beside a galaxy were widened (`rim_tf.inference.halo`): two thirds of the parameters of
# 259 other mocks without a flag are off by at most so much. Near 1 % it is the least: below, the RIM's own error counts
# as much as the noise; above, a lens is known too poorly for a normal law.
DIFFERENCES = Calibration((0.295, -0.435, 0.851), fitted_in=(1e-3, 1e-1))
# Of the curvature where the network `joint-small` stopped and nothing was fitted, as with `--fast`: of the 90
# without a flag of 150 other mocks two thirds are off by so many times as much. It knows nothing of the best lens.
UNFITTED = Calibration((1.49, -1.38))


def noise_over_peak(observation, model_image):
    """The noise of a typical pixel over the peak of the model image, what a calibration goes by."""
    return float(np.median(observation.noise[observation.mask]) / model_image.max())
