"""Linear inversion of one small source at a given strength, with its evidence, as tensors that a graph can hold.

What it computes is that of `rim_tf.inference.linear` (Warren & Dye 2003; Suyu et al. 2006), which finds the strength
too and goes further than dense matrices do, but needs SciPy. Beyond the grid the sky is dark (boundary "zero"), so that
the prior is made of the second difference T = tridiag(-1, 2, -1).
"""

import math

from keras import ops

# The smallest strength, as a share of the largest diagonal element of F. With it 32 x 32 pixels have factors.
_LEAST = 1e-9


def invert(problem, strength, regularisation, prior_mean):
    """The most probable source under the prior exp(-lambda/2 (s - m)^T H (s - m)), and the evidence.

    H is R (x) 1 + 1 (x) C, with R and C half the identity (brightness), T (gradient) or T^2 (curvature). Dense matrices
    of all source pixels squared are made and factored, so float64 is for the caller to choose.

    Args:
      problem: `Problem` of one system.
      strength: lambda [1 / brightness^2], a scalar.
      regularisation: 0 for brightness, 1 for gradient, 2 for curvature, an integer scalar.
      prior_mean: m, [n, m]; zeros where nothing is known of the source.

    Returns:
      Dictionary of source [n, m], its standard_deviation [n, m] and log_evidence, a scalar (Suyu et al., Eq. 19); NaN
      where the strength is too small for F + lambda H to be regular to rounding.
    """
    dtype, shape = problem.data.dtype, ops.shape(prior_mean)
    response = _response(problem)  # A^T
    weight, mean = ops.reshape(problem.weight, (-1,)), ops.reshape(prior_mean, (-1,))
    data = ops.reshape(problem.data, (-1,)) - ops.matmul(mean, response)

    curvature = ops.matmul(response * weight, ops.transpose(response))
    # A factor that fails would take the whole graph with it.
    least = _LEAST * ops.max(ops.diagonal(curvature))
    enough = strength >= least
    strength = ops.maximum(strength, least)

    rows, row_spectrum = _regularisation(shape[0], regularisation, dtype)
    columns, column_spectrum = _regularisation(shape[1], regularisation, dtype)
    unit = [ops.eye(n, dtype=dtype) for n in shape]
    prior = strength * (_kronecker(rows, unit[1]) + _kronecker(unit[0], columns))
    spectrum = strength * (row_spectrum[:, None] + column_spectrum[None, :])

    factor = ops.cholesky(curvature + prior)
    inverse = ops.solve_triangular(factor, ops.eye(ops.shape(factor)[0], dtype=dtype), lower=True)
    change = ops.matmul(ops.matmul(inverse, ops.matmul(response, weight * data)), inverse)

    used = weight > 0
    log_weight = ops.sum(ops.where(used, ops.log(ops.where(used, weight, 1.0)), 0.0))
    normalisation = ops.sum(ops.cast(used, dtype)) * math.log(2 * math.pi) - log_weight
    chi2 = ops.sum(weight * (data - ops.matmul(change, response)) ** 2)
    penalty = ops.sum(change * ops.matmul(prior, change))
    log_det_posterior = 2 * ops.sum(ops.log(ops.diagonal(factor)))
    determinants = log_det_posterior - ops.sum(ops.log(spectrum))
    found = {
        "source": ops.reshape(mean + change, shape),
        "standard_deviation": ops.reshape(ops.sqrt(ops.sum(inverse**2, axis=0)), shape),
        "log_evidence": -0.5 * (chi2 + penalty + determinants + normalisation),
    }
    return {name: ops.where(enough, value, float("nan")) for name, value in found.items()}


def _response(problem):
    """A^T of a batch of one: what each source pixel of brightness 1 looks like, [source pixels, data]."""
    index, weight = problem.lensing.entries()
    _, n_rows, n_columns = problem.lensing.shape
    _, rows, columns, _ = ops.shape(index)
    n_pixels = rows * columns
    pixel = ops.reshape(ops.arange(n_pixels, dtype="int32"), (1, rows, columns, 1))
    place = ops.reshape(index * n_pixels + pixel, (-1,))
    lensed = ops.segment_sum(ops.reshape(weight, (-1,)), place, num_segments=n_rows * n_columns * n_pixels)
    # The instrument of one system takes many skies as well.
    seen = problem.instrument.forward(ops.reshape(lensed, (n_rows * n_columns, rows, columns)))
    return ops.reshape(seen, (n_rows * n_columns, -1))


def _regularisation(n, order, dtype):
    """R [n, n] and its eigenvalues [n]."""
    one = ops.eye(n, dtype=dtype)
    second = 2 * one - ops.eye(n, k=1, dtype=dtype) - ops.eye(n, k=-1, dtype=dtype)
    matrix = ops.where(order == 0, 0.5 * one, ops.where(order == 1, second, ops.matmul(second, second)))
    return matrix, ops.eigh(matrix)[0]


def _kronecker(a, b):
    size = ops.shape(a)[0] * ops.shape(b)[0]
    return ops.reshape(a[:, None, :, None] * b[None, :, None, :], (size, size))
