"""The posterior of a lens as a mixture of Gaussians in the coordinates without bounds of its mass model.

A mixture is one tensor `head` [batch, components, columns] for n parameters u, of the columns
  1             logarithm of the component's weight; the weights of all sum to 1
  n             mean
  n             logarithms of the diagonal D
  n (n - 1) / 2 below the diagonal of U, row after row
with the precision L L^T, L = U D lower triangular, U having ones on its diagonal: the log-Cholesky form, which is a
covariance whatever the numbers are. An element U_ij is how much parameter j follows a later parameter i.
"""

import math

import keras
import numpy as np
from keras import ops

from rim_tf.errors import InputError

# Bounds of what a network may put out, in units of each parameter's spread: no number that follows can overflow.
_FARTHEST, _NARROWEST, _STEEPEST = 10.0, 9.0, 30.0


def n_columns(n):
    """Columns of a head for n parameters."""
    return (n + 1) * (n + 2) // 2


def n_parameters(head):
    """The inverse of `n_columns`, from the static shape of a head."""
    return (math.isqrt(8 * head.shape[-1] + 1) - 3) // 2


def _split(head):
    n = n_parameters(head)
    return head[..., 0], head[..., 1 : n + 1], head[..., n + 1 : 2 * n + 1], head[..., 2 * n + 1 :]


def _unit_triangle(below):
    """U from its elements below the diagonal, [..., n (n - 1) / 2] -> [..., n, n]."""
    n = (1 + math.isqrt(1 + 8 * below.shape[-1])) // 2
    places = np.zeros((below.shape[-1], n * n))
    rows, columns = np.tril_indices(n, -1)
    places[np.arange(len(rows)), rows * n + columns] = 1.0
    flat = ops.matmul(below, ops.convert_to_tensor(places, dtype=below.dtype))
    return ops.reshape(flat, (*ops.shape(below)[:-1], n, n)) + ops.eye(n, dtype=below.dtype)


def from_raw(raw, centre, spread, diagonal=False):
    """A head from any real numbers, smooth, and such that nothing that is made of it is NaN or infinite.

    Raw numbers of 0 are a Gaussian with mean `centre` and standard deviation `spread`.

    Args:
      raw: [batch, components, columns].
      centre: of each parameter, [batch, n].
      spread: unit of each parameter, [batch, n].
      diagonal: leave U without anything below its diagonal.
    """
    weight, mean, log_diagonal, below = _split(raw)
    mean, log_diagonal = _bounded(mean, _FARTHEST), _bounded(log_diagonal, _NARROWEST)
    below = ops.zeros_like(below) if diagonal else _bounded(below, _STEEPEST)
    rows, columns = np.tril_indices(centre.shape[-1], -1)
    ratio = ops.take(spread, columns, axis=1) / ops.take(spread, rows, axis=1)
    parts = [
        ops.log_softmax(weight, axis=1)[..., None],
        centre[:, None] + spread[:, None] * mean,
        log_diagonal - ops.log(spread)[:, None],
        below * ratio[:, None],
    ]
    return ops.concatenate(parts, axis=-1)


def _bounded(x, bound):
    return bound * ops.tanh(x / bound)


def log_density(head, u):
    """Logarithm of the density at u [batch, m, n] -> [batch, m]."""
    log_weight, mean, log_diagonal, below = _split(head)
    offset = u[:, :, None] - mean[:, None]  # [batch, m, components, n]
    triangle = _unit_triangle(below)[:, None]
    # y = L^T (u - mean), of which the Gaussian is a product of standard ones.
    y = ops.sum(triangle * offset[..., None], axis=-2) * ops.exp(log_diagonal)[:, None]
    constant = log_weight + ops.sum(log_diagonal, axis=-1) - 0.5 * mean.shape[-1] * math.log(2 * math.pi)
    return ops.logsumexp(constant[:, None] - 0.5 * ops.sum(y**2, axis=-1), axis=-1)


def _roots(head):
    """A matrix B for each component with B B^T its covariance, [batch, components, n, n]."""
    _, mean, log_diagonal, below = _split(head)
    upper = ops.swapaxes(_unit_triangle(below), -1, -2)
    unit = ops.eye(mean.shape[-1], dtype=head.dtype) * ops.exp(-log_diagonal)[..., None, :]
    return ops.linalg.solve_triangular(upper, unit, lower=False)


def draw(head, n_samples, seed, shared=False):
    """Samples of u, [batch, n_samples, n].

    Args:
      head: [batch, components, columns].
      n_samples: for each system.
      seed: integer from 0 to 2^30.
      shared: every system gets the same random numbers, so that its samples are the same in whatever batch it is.
    """
    log_weight, mean, _, _ = _split(head)
    rows, n = 1 if shared else ops.shape(head)[0], mean.shape[-1]
    uniform = keras.random.uniform((rows, n_samples, 1), dtype=head.dtype, seed=2 * seed)
    unit = keras.random.normal((rows, n_samples, n), dtype=head.dtype, seed=2 * seed + 1)
    edges = ops.cumsum(ops.exp(log_weight), axis=1)[:, None, :-1]  # of the components' shares of 0 to 1
    which = ops.sum(ops.cast(uniform > edges, "int32"), axis=-1)
    roots = ops.take_along_axis(_roots(head), which[..., None, None], axis=1)
    return ops.take_along_axis(mean, which[..., None], axis=1) + ops.sum(roots * unit[:, :, None], axis=-1)


def sigma_points(head):
    """Points u [batch, components * 2 n, n] and their weights, which have the mixture's mean and covariance.

    Two for each axis of each component, sqrt(n) standard deviations to either side (Julier & Uhlmann 1997).
    """
    log_weight, mean, _, _ = _split(head)
    n = mean.shape[-1]
    steps = math.sqrt(n) * ops.swapaxes(_roots(head), -1, -2)
    points = mean[:, :, None] + ops.concatenate([steps, -steps], axis=2)
    weight = ops.repeat(ops.exp(log_weight) / (2 * n), 2 * n, axis=1)
    return ops.reshape(points, (ops.shape(head)[0], -1, n)), weight


def moments(head):
    """Mean and standard deviation of each parameter over the whole mixture, [batch, n] each."""
    points, weight = sigma_points(head)
    weight = weight[..., None]
    mean = ops.sum(weight * points, axis=1)
    return mean, ops.sqrt(ops.sum(weight * (points - mean[:, None]) ** 2, axis=1))


def pooled(heads):
    """One mixture of several, each of the same weight: [batch, passes, components, columns] -> a head."""
    batch, passes, components, columns = ops.shape(heads)
    equal = ops.concatenate([heads[..., :1] - math.log(heads.shape[1]), heads[..., 1:]], axis=-1)
    return ops.reshape(equal, (batch, passes * components, columns))


def mirrored(head, signs):
    """The mixture of u times signs of 1 and -1, [n]."""
    return _scaled(head, signs, 0.0)


def stretched(head, factors):
    """The mixture of u about its mean farther off, each parameter by a factor above 0, [n]; without any, as it is."""
    if not len(factors):
        return head
    log_weight, mean, _, _ = _split(head)
    centre = ops.sum(ops.exp(log_weight)[..., None] * mean, axis=1, keepdims=True)
    return _scaled(head, factors, centre)


def check_stretch(stretch, mass):
    """InputError where there are factors of `stretched`, and not one for each parameter of a `MassModel`."""
    if len(stretch) not in (0, mass.size):
        raise InputError(f"stretch has {len(stretch)} numbers; it needs one for each of {', '.join(mass.names)}.")


def _scaled(head, factors, centre):
    """The mixture of centre + factors (u - centre), whose factors [n] are numbers other than 0."""
    log_weight, mean, log_diagonal, below = _split(head)
    factors = np.asarray(factors, float)
    rows, columns = np.tril_indices(len(factors), -1)
    of_mean, of_diagonal, of_below = (
        ops.convert_to_tensor(x, dtype=head.dtype)
        for x in (factors, np.log(np.abs(factors)), factors[columns] / factors[rows])
    )
    parts = [
        log_weight[..., None],
        centre + of_mean * (mean - centre),
        log_diagonal - of_diagonal,
        below * of_below,
    ]
    return ops.concatenate(parts, axis=-1)


class LensPosterior:
    """A mixture read as the posterior of lenses.

    Args:
      head: tensor [batch, components, columns], as `rim_tf.models.estimator.Estimator` puts it out.
      mass: `MassModel`, whose parameters it is of.
    """

    def __init__(self, head, mass):
        self.head, self.mass = ops.convert_to_tensor(head), mass

    def log_prob(self, lens):
        """Logarithm of the density per unit of each parameter, [batch]; `lens` [batch, parameters]."""
        u = self.mass.to_real(lens)
        return log_density(self.head, u[:, None])[:, 0] - self.mass.log_slope(u)

    def sample(self, n, seed, shared=False):
        """Lenses drawn from it, all within their bounds, [batch, n, parameters]; the arguments are those of `draw`."""
        return self._lenses(draw(self.head, n, seed, shared))

    def moments(self):
        """Mean [batch, parameters] and covariance [batch, parameters, parameters] of the lens.

        Those of `sigma_points` taken through the bijection: right to second order in the width, and for parameters
        that the bijection leaves as they are, exact.
        """
        points, weight = sigma_points(self.head)
        lenses, weight = self._lenses(points), weight[..., None]
        mean = ops.sum(weight * lenses, axis=1)
        offset = lenses - mean[:, None]
        return mean, ops.matmul(ops.swapaxes(weight * offset, 1, 2), offset)

    def mean(self):
        """[batch, parameters], of `moments`."""
        return self.moments()[0]

    def covariance(self):
        """[batch, parameters, parameters], of `moments`."""
        return self.moments()[1]

    def _lenses(self, u):
        """[batch, n, parameters], coordinates without bounds -> lenses."""
        batch, n, parameters = ops.shape(u)
        return ops.reshape(self.mass.from_real(ops.reshape(u, (-1, parameters))), (batch, n, parameters))
