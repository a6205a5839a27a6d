"""Gaussian noise of known size: chi2, the log-likelihood (Eq. 6) and its gradient in the source (Eq. 7).

C_N is diagonal. It enters as `weight`, the inverse variance of each datum, so that a masked one has weight 0. Data are
[batch, ...]: the pixels of an image, or whatever else an instrument measures.
"""

import math

from keras import ops


def inverse_variance(noise_rms, mask):
    """Diagonal of C_N^-1, shaped like `noise_rms`.

    Args:
      noise_rms: standard deviation of each datum, above 0 where `mask` is true, [batch, ...].
      mask: true where the datum is to be used, the same shape, boolean.
    """
    used = ops.where(mask, noise_rms, 1.0)  # finite first: `where` differentiates both of its branches
    return ops.where(mask, 1.0 / used**2, 0.0)


def chi2(data, model, weight):
    """Sum of squared residuals in units of the noise, [batch]."""
    return _total(weight * (data - model) ** 2)


def log_likelihood(data, model, weight):
    """Eq. 6 with its normalisation, so that it is the log of a density over the data of any weight, [batch]."""
    used = weight > 0
    log_weight = ops.where(used, ops.log(ops.where(used, weight, 1.0)), 0.0)
    normalisation = _total(log_weight) - _total(ops.cast(used, weight.dtype)) * math.log(2 * math.pi)
    return 0.5 * (normalisation - chi2(data, model, weight))


def score(operator, source, data, weight):
    """Gradient of the log-likelihood in the source, Eq. 7: A^T C_N^-1 (d - A s), shaped like `source`."""
    return operator.adjoint(weight * (data - operator.forward(source)))


def _total(values):
    """Sum over all but the batch, [batch]."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))
