"""Along the valley that chi^2 has about a lens: what else explains the image about as well.

At low noise chi^2 has ripples, of pixels and of the network's own error, in which a descent stops, while the valley
that they lie in is long and bent: theta_E, ellipticity, shear and centre change together and chi^2 hardly does. So
theta_E is led away from the lens in steps, to both sides, and all else follows by a few steps of descent, over the
ripples, until chi^2 has risen too far (a profile of the likelihood).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from rim_tf.inference.descent import LONGEST, Descent
from rim_tf.inference.misfit import LensPrior, Misfit, View
from rim_tf.lens import Lens, lens_of
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.mass.model import MassModel

# Where theta_E is led, as shares of it; and the steps in which all else follows.
_PLACES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
_STEPS = 3
# A side ends where chi^2 per pixel is higher than at the lowest place by so much, or its sum by so much, as in frames
# of 64 pixels; or, where it is told how high is too high, at so many such places in a row, as one may be a ripple.
_TOO_HIGH, _TOO_HIGH_IN_ALL, _IN_A_ROW = 0.03, 120.0, 2
# Chi^2 is known no better than its ripples are high: a place that is lower by so much is as likely. Counted on mocks
# (docs/ERRORS.md).
RIPPLE = 3.0
# Where it is higher by more, a lens lies in one of a thousand cases.
UNLIKELY = 14 * RIPPLE


@dataclasses.dataclass(frozen=True)
class Valley:
    """Places along a valley, in the order of theta_E.

    Attributes:
      lenses: [n, columns].
      u: the same in the coordinates without bounds, [n, columns].
      rise: by how much the sum of squares is larger there than at the lens that the valley is about, [n].
      start: which of them is that lens.
      mass: `MassModel`.
    """

    lenses: np.ndarray
    u: np.ndarray
    rise: np.ndarray
    start: int
    mass: MassModel

    def lowest(self, n: int) -> list[Lens]:
        """At most n places that are lower than those beside them, the lowest first, without the start."""
        padded = np.pad(self.rise, 1, constant_values=np.inf)
        is_dip = (self.rise <= padded[:-2]) & (self.rise <= padded[2:])
        is_dip[self.start] = False
        dips = np.flatnonzero(is_dip)
        return [lens_of(self.mass, self.lenses[i]) for i in dips[np.argsort(self.rise[dips])][:n]]

    def weights(self, noise_factor: float = 1.0) -> np.ndarray:
        """How probable each place is, [n]: by its rise at RIPPLE, for the stretch of log theta_E that it stands for.

        Args:
          noise_factor: by what the noise is larger than that of the sum of squares.
        """
        theta_E = np.log(self.lenses[:, self.mass.radius])
        stretch = np.diff(np.r_[theta_E[0], (theta_E[1:] + theta_E[:-1]) / 2, theta_E[-1]])
        weights = stretch * np.exp((self.rise.min() - self.rise) / (2 * RIPPLE * noise_factor**2))
        return weights / weights.sum()

    def summary(self, noise_factor: float = 1.0) -> dict:
        """Plain values for JSON: theta_E of each place [arcsec], its rise, and what the valley adds to the errors.

        Args:
          noise_factor: as of `weights`.
        """
        error = np.sqrt(np.diag(self.covariance(noise_factor))).tolist()
        return {
            "theta_E": self.lenses[:, self.mass.radius].tolist(),
            "chi2_rise": self.rise.tolist(),
            "error": dict(zip(self.mass.names, error, strict=True)),
        }

    def covariance(self, noise_factor: float = 1.0) -> np.ndarray:
        """Of the parameters about the start, as far as the lens may lie elsewhere in the valley, [columns, columns].

        Args:
          noise_factor: as of `weights`.
        """
        away = self.lenses - self.lenses[self.start]
        return (self.weights(noise_factor)[:, None] * away).T @ away

    def shifts(self, u: np.ndarray, n: int, generator: np.random.Generator, noise_factor: float = 1.0) -> np.ndarray:
        """By how much draws about a lens in the valley are to be moved, that they lie all over it, [n, columns].

        Args:
          u: the lens in the coordinates without bounds, [columns]; it need not be the start.
          n: how many.
          generator: of random numbers.
          noise_factor: as of `weights`.
        """
        nearest = np.argmin(np.abs(self.u[:, self.mass.radius] - u[self.mass.radius]))
        return self.u[generator.choice(len(self.u), n, p=self.weights(noise_factor))] - self.u[nearest]


def walk(
    observation: Observation,
    lens: Lens,
    model: RIM,
    left_over: np.ndarray | None = None,
    source_pixels: int | None = None,
    prior: LensPrior | None = None,
    n_rim_steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    highest: float | None = None,
) -> Valley:
    """The valley about a lens.

    Args:
      observation: as of `rim_tf.inference.optimise.refine`, and so all else.
      lens: where a fit has ended.
      model: as there.
      left_over: as there.
      source_pixels: as there.
      prior: as there.
      n_rim_steps: as there.
      progress: as there; of places.
      highest: a side ends at two places in a row where the sum of squares is higher than at the lowest by so much; None
        for walks that look for what is lower, and end where the sum is far higher.

    Returns:
      `Valley`.
    """
    mass, values = lens.mass, np.asarray(lens.as_tuple())
    size = mass.radius
    view = View(observation, model, mass, n_rim_steps, source_pixels)
    prior = (prior or LensPrior()).columns(lens)
    misfit = Misfit(view, values, np.zeros(mass.size, bool), prior, left_over)
    descent = Descent(misfit, lens.theta_E, [values, values], 0.0, roughly=True, held=[size])
    sides, far, start = np.array([1.0, -1.0]), np.ones(2, bool), float(descent.value[0])
    too_high, n_above = _TOO_HIGH * misfit.n_used, np.zeros(2, int)
    if highest is None:
        too_high, highest = min(too_high, _TOO_HIGH_IN_ALL), np.inf
    descent.work_out(np.arange(2))
    lenses, u, chi2 = [values], [descent.u[0].copy()], [start]
    for done, place in enumerate(_PLACES):
        members = np.flatnonzero(far)
        if not len(members):
            break
        if progress is not None:
            progress(done, len(_PLACES))
        aims = np.tile(values, (len(members), 1))
        aims[:, size] *= 1 + sides[members] * place
        aims = misfit.coordinates(aims)[:, size]
        descent.put(members, np.stack([_led(descent, i, size, aim) for i, aim in zip(members, aims, strict=True)]))
        descent.active[~far] = False
        descent.run(_STEPS, "valley", [], None)
        lenses += list(descent.lenses()[members])
        u += list(descent.u[members])
        chi2 += list(descent.value[members])
        n_above = np.where(descent.value < min(chi2) + highest, 0, n_above + 1)
        far &= (descent.value < min(chi2) + too_high) & (n_above < _IN_A_ROW)
    order = np.argsort(np.array(lenses)[:, size])
    lenses, u, chi2 = (np.array(each)[order] for each in (lenses, u, chi2))
    return Valley(lenses, u, chi2 - start, int(np.flatnonzero(order == 0)[0]), mass)


def _led(descent, i, size, aim):
    """Where a start would be with one coordinate elsewhere and the others as its slopes have them follow, [columns]."""
    slope = descent.worked_out[i].astype(np.float64)
    curvature = slope @ slope.T
    curvature += 1e-6 * np.diag(curvature).max() * np.eye(len(curvature))
    others = np.arange(len(curvature)) != size
    step = np.zeros(len(curvature))
    step[size] = (aim - descent.u[i, size]) / descent.unit[size]
    step[others] = -np.linalg.solve(curvature[np.ix_(others, others)], curvature[others, size] * step[size])
    step[others] = np.clip(step[others], -LONGEST, LONGEST)
    return descent.u[i] + step * descent.unit
