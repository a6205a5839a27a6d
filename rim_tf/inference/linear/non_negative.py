"""The most probable source without negative pixels: a quadratic under bounds, by projected conjugate gradients."""

import numpy as np

from rim_tf.errors import InputError

_MOST_STEPS = 50_000
# How far the conditions of a minimum may be broken, relative to D.
TOLERANCE = 1e-6


def non_negative_source(system, prior, strength, start=None, tolerance=TOLERANCE):
    """The source s >= 0 that minimises 1/2 s^T (F + lambda H) s - D^T s, [n, m].

    Modified proportioning with reduced gradient projections (Dostal & Schoeberl 2005): conjugate gradients while
    the pixels above 0 are not yet in balance, otherwise a step that frees pixels which want to rise from 0. It ends
    when the conditions of Karush, Kuhn and Tucker hold: the gradient vanishes in every pixel above 0 and is not
    negative in any pixel at 0, to `tolerance` times the norm of D.

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

    def operator(x):
        s = unit * x
        return unit * (system.curvature(s) + strength * prior.apply(s) + prior.ridge * s)

    right = unit * system.gradient_at_zero
    goal = tolerance * np.linalg.norm(right)
    longest = 1.9 / _largest_eigenvalue(operator, right.shape)
    x = np.zeros_like(right) if start is None else np.maximum(start / unit, 0)
    gradient = operator(x) - right
    direction = np.where(x > 0, gradient, 0)
    for _ in range(_MOST_STEPS):
        free, chopped = np.where(x > 0, gradient, 0), np.where(x > 0, 0, np.minimum(gradient, 0))
        if np.hypot(np.linalg.norm(free), np.linalg.norm(chopped)) <= goal:
            return unit * x
        if (chopped**2).sum() > (np.minimum(x / longest, free) * free).sum():
            image = operator(chopped)
            step = np.vdot(gradient, chopped) / np.vdot(chopped, image)
            x, gradient = x - step * chopped, gradient - step * image
            direction = np.where(x > 0, gradient, 0)
            continue
        image = operator(direction)
        bend = np.vdot(direction, image)
        step = np.vdot(gradient, direction) / bend
        falling = direction > 0
        feasible = (x[falling] / direction[falling]).min() if falling.any() else np.inf
        if step <= feasible:
            x, gradient = x - step * direction, gradient - step * image
            free = np.where(x > 0, gradient, 0)
            direction = free - np.vdot(free, image) / bend * direction
        else:  # to the first bound, and along the gradient from there, cut off at 0
            x, gradient = np.maximum(x - feasible * direction, 0), gradient - feasible * image
            x = np.maximum(x - longest * np.where(x > 0, gradient, 0), 0)
            gradient = operator(x) - right
            direction = np.where(x > 0, gradient, 0)
    raise InputError(
        f"The non-negative source did not converge in {_MOST_STEPS} steps at strength {strength:g}; raise the strength."
    )


def _diagonal(system, prior, strength):
    """About the diagonal of F + lambda H, as if the four source pixels of a ray were blurred apart."""
    squared = system.lensing_adjoint.multiply(system.lensing_adjoint).tocsr()
    blurred = squared @ (system.blur.energy * system.weight.reshape(-1))
    return blurred.reshape(system.source_shape) + strength * prior.matrix.diagonal().reshape(prior.shape)


def _largest_eigenvalue(operator, shape):
    """An upper bound, nearly: a power iteration's estimate and a tenth."""
    x = np.random.default_rng(0).uniform(size=shape)
    for _ in range(30):
        x = operator(x / np.linalg.norm(x))
    return 1.1 * np.linalg.norm(x)
