"""Gaussian noise of known size: chi2, the log-likelihood (Eq. 6) and its gradient in the source (Eq. 7).

C_N is diagonal. It enters as `weight`, the inverse variance of each pixel, so that a masked pixel is weight 0.
"""

import math

from keras import ops


def inverse_variance(noise_rms, mask):
    """Diagonal of C_N^-1, [batch, rows, columns].

    Args:
      noise_rms: standard deviation of each pixel, above 0 where `mask` is true, [batch, rows, columns].
      mask: true where the pixel is to be used, the same shape, boolean.
    """
    used = ops.where(mask, noise_rms, 1.0)  # finite first: `where` differentiates both of its branches
    return ops.where(mask, 1.0 / used**2, 0.0)


def chi2(data, model_image, weight):
    """Sum of squared residuals in units of the noise, [batch]."""
    return ops.sum(weight * (data - model_image) ** 2, axis=(1, 2))


def log_likelihood(data, model_image, weight):
    """Eq. 6 with its normalisation, so that it is the log of a density over the unmasked pixels, [batch]."""
    used = weight > 0
    log_weight = ops.where(used, ops.log(ops.where(used, weight, 1.0)), 0.0)
    n_used = ops.sum(ops.cast(used, weight.dtype), axis=(1, 2))
    normalisation = ops.sum(log_weight, axis=(1, 2)) - n_used * math.log(2 * math.pi)
    return 0.5 * (normalisation - chi2(data, model_image, weight))


def score(operator, source, data, weight):
    """Gradient of the log-likelihood in the source, Eq. 7: A^T C_N^-1 (d - A s), shaped like `source`."""
    return operator.adjoint(weight * (data - operator.forward(source)))
