"""Errors of a source's figures that have been counted: draws of its flux and the like, spread as mocks show.

Draws of a source are right pixel by pixel, and what they add up to is not: the brightest of many uncertain pixels is
too bright, and the flux of the image is known better than that of each draw. `benchmarks/source_calibration.py` fits
the coefficients on some mocks and counts on others; docs/ERRORS.md has what it found.
"""

import dataclasses
import math

import numpy as np
from scipy import stats
from scipy.optimize import minimize


@dataclasses.dataclass(frozen=True)
class FigureCalibration:
    """How the draws of a figure of the source, as its flux, are to be spread so that the truth lies among them.

    A draw x, where the reconstruction has c, becomes c exp(shift + stretch log(x / c) + extra t), t of Student's t with
    TAIL degrees of freedom.

    Attributes:
      shift: of the logarithm.
      stretch: of the draws' own spread.
      extra: error that the draws know nothing of, as a share.
    """

    shift: float = 0.0
    stretch: float = 1.0
    extra: float = 0.0

    TAIL = 5.0

    def applied(self, drawn, centre, rng):
        """Draws [n] as they are to be spread about `centre`; what has no logarithm stays as it is."""
        more = self.extra * rng.standard_t(self.TAIL, size=len(drawn))
        if not centre > 0:
            return drawn
        with np.errstate(divide="ignore"):
            spread = centre * np.exp(self.shift + self.stretch * np.log(drawn / centre) + more)
        return np.where(drawn > 0, spread, drawn)


def fit_figure(truth, centre, median, sigma):
    """The `FigureCalibration` under which true figures are the most likely.

    Args:
      truth: of some systems, [n].
      centre: of their reconstructions, [n].
      median: of their draws, [n].
      sigma: standard deviation of the logarithm of their draws, [n].
    """
    off, middle = np.log(np.asarray(truth) / centre), np.log(np.asarray(median) / centre)

    def made(x):
        return FigureCalibration(float(x[0]), *map(math.exp, x[1:]))

    def loss(x):
        found = made(x)
        scale = np.hypot(found.stretch * np.asarray(sigma), found.extra)
        return -stats.t.logpdf(off, FigureCalibration.TAIL, found.shift + found.stretch * middle, scale).sum()

    best = minimize(loss, [0.0, 0.0, math.log(np.median(sigma) / 3)], method="Nelder-Mead", options={"maxiter": 2000})
    return made(best.x)


# Of the weights "source-errors-small".
FIGURES = {
    "flux": FigureCalibration(),
    "magnification": FigureCalibration(),
    "source_peak": FigureCalibration(),
    "half_light_radius": FigureCalibration(),
}
