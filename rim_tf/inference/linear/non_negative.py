"""The most probable source without negative pixels: a quadratic under bounds, by SciPy's L-BFGS-B."""

import numpy as np
from scipy.optimize import Bounds, minimize

from rim_tf.errors import InputError

_MOST_STEPS = 50_000
# Earlier steps that L-BFGS-B remembers: with 10, its default, there are as many steps and each costs more.
_MEMORY = 5
# How far the conditions of a minimum may be broken, relative to D.
TOLERANCE = 1e-6


def non_negative_source(system, prior, strength, start=None, tolerance=TOLERANCE):
    """The source s >= 0 that minimises 1/2 s^T (F + lambda H) s - D^T s, [n, m].

    At the minimum the conditions of Karush, Kuhn and Tucker hold: the gradient vanishes in every pixel above 0 and
    is not negative in any pixel at 0, to `tolerance` times the norm of D.

    Args:
      system: `LinearSystem`.
      prior: `Regularisation`.
      strength: lambda [1 / brightness^2].
      start: first guess, [n, m]; its negative pixels are set to 0.
      tolerance: see above.

    Raises:
      InputError: no convergence.
    """
    # Pixels are measured in units in which the quadratic's diagonal is about 1; the sign stays what it is.
    unit = _diagonal(system, prior, strength) ** -0.5
    right = unit * system.gradient_at_zero
    goal = tolerance * np.linalg.norm(right)

    def energy_and_slope(x):
        s = unit * x.reshape(right.shape)
        slope = unit * (system.curvature(s) + strength * prior.apply(s) + prior.ridge * s) - right
        return float(np.vdot(x, slope - right)) / 2, slope.reshape(-1)

    found = minimize(
        energy_and_slope,
        np.zeros(right.size) if start is None else np.maximum(start / unit, 0).reshape(-1),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(0, np.inf),
        # It looks at the largest element of the slope, the conditions at the norm.
        options={
            "maxcor": _MEMORY,
            "ftol": 0,
            "gtol": goal / right.size**0.5,
            "maxiter": _MOST_STEPS,
            "maxfun": 2 * _MOST_STEPS,
        },
    )
    broken = np.where(found.x > 0, found.jac, np.minimum(found.jac, 0))
    # Not `success`: rounding may end the search after the goal and before what L-BFGS-B was asked for.
    if not np.linalg.norm(broken) <= goal:
        raise InputError(
            f"The non-negative source did not converge in {found.nit} steps at strength {strength:g}; raise the "
            "strength."
        )
    return unit * found.x.reshape(right.shape)


def _diagonal(system, prior, strength):
    """About the diagonal of F + lambda H, as if the four source pixels of a ray were blurred apart."""
    squared = system.lensing_adjoint.multiply(system.lensing_adjoint).tocsr()
    blurred = squared @ (system.blur.energy * system.weight.reshape(-1))
    return blurred.reshape(system.source_shape) + strength * prior.matrix.diagonal().reshape(prior.shape)
