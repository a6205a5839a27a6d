"""Levenberg and Marquardt's method on the misfit of many lenses at once: the steps that every search is made of.

Slopes of the residuals are worked out once for lenses that are near each other, and kept up by what each step shows of
them (Broyden 1965).
"""

import numpy as np

from rim_tf.inference.misfit import finite_residual, matmul, unit_steps

# A start whose sum of squares is larger than the best one's by this factor goes no further.
_HOPELESS = 1.5
# Each step tries these factors on the damping that the last one found best; with rough slopes the first alone.
_DAMPINGS = (0.3, 10.0)
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-6, 10.0
# Differences and longest steps, in units of a column's `step`.
_DIFFERENCE, LONGEST = 0.5, 15.0
# A start has arrived when a step lowers its chi^2 by less than this share.
_GAIN_SHARE = 3e-4
# Starts as near as this in units of a column's `step` are the same; as near as that they have the same slopes.
_SAME, _NEAR = 1.0, 3.0
# Slopes that promised so many times what a step gained are worked out anew.
_PROMISED = 4.0


class Descent:
    """Levenberg and Marquardt's method from many starts at once.

    Args:
      misfit: `Misfit`.
      theta_E: unit of lengths [arcsec].
      starts: [n, columns].
      gain: a start has arrived when a step lowers its sum of squares by less.
      roughly: whether slopes without differences will do, where no parameter is fixed.
      held: indices of coordinates that no step moves.

    Attributes, each of all starts:
      u: where they are, [n, columns].
      residual: there, [n, data + columns].
      slope: of the residual in u in units of `unit`, kept up from step to step, [n, columns, data + columns]; 0 in what
        is held.
      worked_out: the last that was worked out, of all coordinates.
      place: where that was, in u; NaN where none was.
      stale: whether it is to be worked out anew.
      damping: of the next step.
      active: whether there is one.
      followed: whether there ever was to be one.
    """

    def __init__(self, misfit, theta_E, starts, gain, roughly=False, held=()):
        self.misfit, self.gain, self.roughly = misfit, gain, roughly and not misfit.fixed.any()
        self.unit, self.held = unit_steps(misfit.mass, theta_E), list(held)
        self.u = misfit.coordinates(starts)
        self.residual = finite_residual(misfit(self.u))
        n = len(self.u)
        self.slope = np.zeros((n, self.u.shape[1], self.residual.shape[1]), np.float32)
        self.worked_out, self.place = self.slope.copy(), np.full_like(self.u, np.nan)
        self.stale, self.active, self.followed = np.ones((3, n), bool)
        self.damping = np.full(n, _FIRST_DAMPING)
        self.signs = np.random.default_rng(0)

    @property
    def value(self):
        return (self.residual.astype(np.float64) ** 2).sum(1)

    def lenses(self):
        return self.misfit.lenses(self.u)

    def run(self, n_steps, stage, history, told, target_chi2=None):
        """At most n_steps steps; where they begin and where each leads is added to `history`.

        `told`, unless it is None, is told of each by its method `step`.
        """
        for step in range(n_steps + 1):
            best = int(np.argmin(self.value))
            chi2 = float(self.misfit.chi2_per_pixel(self.residual)[best])
            lens = tuple(map(float, self.lenses()[best]))
            history.append({"stage": stage, "chi2_per_pixel": chi2, "lens": lens})
            if step == n_steps or not self.active.any() or (target_chi2 is not None and chi2 <= target_chi2):
                return
            if told is not None:
                told.step()
            self._step(np.flatnonzero(self.active))

    def add(self, lens):
        """One more start, which is not followed."""
        other = Descent(self.misfit, 1.0, [lens.as_tuple()], self.gain)
        other.active[:] = other.followed[:] = False
        for name in self._OF_STARTS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))

    _OF_STARTS = ("u", "residual", "slope", "worked_out", "place", "stale", "damping", "active", "followed")

    def keep(self, n, doubt=1.0):
        """The n best starts alone, of which no two are the same and none is hopeless.

        Args:
          n: how many at the most.
          doubt: what their sums of squares are multiplied by, [starts].
        """
        chosen, value = [], self.value * doubt
        for i in np.argsort(value):
            if value[i] > _HOPELESS * value[chosen[0] if chosen else i]:
                break
            if all(self._apart(self.u[i], self.u[j]) > _SAME for j in chosen):
                chosen.append(i)
        for name in self._OF_STARTS:
            setattr(self, name, getattr(self, name)[chosen[:n]])

    def put(self, members, u):
        """Starts [k] to other places [k, columns], from where they go on."""
        self.u[members], self.residual[members] = u, finite_residual(self.misfit(u))
        self.stale[members] = self.active[members] = True
        self.damping[members] = _FIRST_DAMPING

    def take_over(self, other):
        """The slopes of another `Descent` on the same frame, with another noise or left-overs, where they hold."""
        if other.residual.shape[1] != self.residual.shape[1] or other.roughly != self.roughly:
            return
        apart = self._apart(self.u[:, None], other.place)
        nearest = np.argmin(np.where(np.isnan(apart), np.inf, apart), axis=1)
        for i in np.flatnonzero(apart[np.arange(len(self.u)), nearest] < _NEAR):
            j = nearest[i]
            self.slope[i] = self.misfit.carried(other.slope[j], other.misfit)
            self.worked_out[i] = self.misfit.carried(other.worked_out[j], other.misfit)
            self.place[i], self.stale[i] = other.place[j], False

    def _apart(self, one, other):
        """How far two places are from each other, in units."""
        return np.abs((one - other) / self.unit).max(axis=-1)

    def work_out(self, members):
        """Slopes, one for all that are near; differences to either side in turn, so that no bias builds up."""
        chosen = {}
        for i in members[np.argsort(self.value[members])]:
            near = [j for j in chosen if self._apart(self.u[i], self.u[j]) < _NEAR]
            chosen.setdefault(near[0] if near else i, []).append(i)
        if not chosen:
            return
        centres = list(chosen)
        if self.roughly:
            slopes = self.misfit.tangent_slopes(self.u[centres], self.unit)
        else:
            difference = self.signs.choice([-1.0, 1.0], (len(centres), self.u.shape[1])) * _DIFFERENCE
            slopes = self.misfit.slopes(self.u[centres], self.residual[centres], difference, self.unit)
        for centre, slope in zip(centres, slopes, strict=True):
            near = chosen[centre]
            self.slope[near] = self.worked_out[near] = slope
            self.slope[np.ix_(near, self.held)] = 0.0
            self.place[near], self.stale[near] = self.u[centre], False

    def be_exact(self):
        """Slopes are by differences from now on."""
        if self.roughly:
            self.roughly = False
            self.place[:], self.stale[:] = np.nan, True

    def near_place(self, members):
        """Whether the slopes of starts were worked out near where they are."""
        return self._apart(self.u[members], self.place[members]) < _NEAR  # not where that is NaN

    def _step(self, members):
        self.work_out(members[self.stale[members]])
        slope = self.slope[members]
        gradient = np.einsum("kip,kp->ki", slope, self.residual[members]).astype(np.float64)
        curvature = matmul(slope, slope.transpose(0, 2, 1)).astype(np.float64)
        diagonal = np.einsum("kii->ki", curvature)
        # What the data say nothing of, a fixed parameter for one, does not move.
        diagonal = diagonal + 1e-6 * diagonal.max(axis=1, keepdims=True) + 1e-12
        steps = []
        for factor in _DAMPINGS[: 1 if self.roughly else None]:
            damped = curvature + (factor * self.damping[members])[:, None, None] * _diagonal(diagonal)
            steps.append(-np.linalg.solve(damped, gradient[..., None])[..., 0])
        steps = np.clip(np.stack(steps, 1), -LONGEST, LONGEST)
        tried = self.u[members, None] + steps * self.unit
        residual = finite_residual(self.misfit(tried.reshape(-1, tried.shape[-1]))).reshape(*tried.shape[:2], -1)
        value = (residual.astype(np.float64) ** 2).sum(-1)
        before, near = self.value, self.near_place(members)
        for k, i in enumerate(members):
            best = int(np.argmin(value[k]))
            gain = before[i] - value[k, best]
            step = steps[k, best]
            promised = -(2 * step @ gradient[k] + step @ curvature[k] @ step)
            if gain > 0:
                self._move(i, tried[k, best], residual[k, best], step)
                self.damping[i] = max(_LEAST_DAMPING, self.damping[i] * _DAMPINGS[best])
            enough = gain > max(self.gain, _GAIN_SHARE * before[i])
            if not near[k]:
                self.stale[i] = not enough or _PROMISED * gain < promised
            elif gain > 0:
                self.active[i] = enough
            else:
                self.active[i] = self.damping[i] < _MOST_DAMPING
                self.damping[i] *= 3 * _DAMPINGS[-1]

    def _move(self, i, u, residual, step):
        """To a place a step away [units]; what the slopes did not foresee, they lacked in that direction."""
        unforeseen = residual - self.residual[i] - (step @ self.slope[i]).astype(np.float32)
        self.slope[i] += (step / (step @ step)).astype(np.float32)[:, None] * unforeseen
        self.u[i], self.residual[i] = u, residual


def _diagonal(values):
    return values[..., None] * np.eye(values.shape[-1])
