"""Errors of the source that a RIM finds: the distribution of the true source, given the lens and the data.

Brightness is taken to coordinates without bounds, which are linear well above the noise and logarithmic below it, so
that no source that is drawn is negative. There, what the RIM found and a correction are the mean; and the wavelets of
what is missing from it are independent, each with a width of its own, which is to say that structure of each size has
its own error at each place. Errors of a network have long tails, so that behind each Gaussian is a wider one. A small
network that sees what the RIM ends with puts all of this out. It has no scale of its own, as the RIM has none:
brightness is a multiple of the noise.

Factors of low rank, tried in place of wavelets, gave the truth a lower density; tried on top of them, they were wrong
by factors, as the density hardly depends on the width of eight directions among thousands.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from rim_tf.config import SourceErrorsConfig
from rim_tf.models.wavelets import analyse, assembled, interleaved, synthesise

# What is fainter than this [noise] counts as nothing.
NOTHING = 0.05
# Sides of the blocks whose alternation shows how much the data know of structure of each size [source pixels].
_BLOCKS = (1, 2, 4, 8)
# Logarithms of standard deviations stay within this, the deviations [noise] above that, the ratio of two below this.
_WIDEST, _NARROWEST, _RATIO = 8.0, 0.02, 20.0
# Before it has learned anything the wide Gaussian has a share of 1 in 20, and logits of that stay within these.
_RARE, _LOGIT = -3.0, 8.0
N_OF_WAVELETS, N_COLUMNS = 3, 6
# Where `SourceErrorsConfig.widths` stand: brightness of what the RIM found [noise], for each noise [peak of the image].
BRIGHTNESSES = (0.1, 0.5, 1.5, 5.0, 15.0, 50.0)
NOISES = (0.003, 0.03)


def to_real(source, unit):
    """Brightness -> coordinates without bounds, where it is in units of the noise.

    Args:
      source: [batch, ..., n, m], what is below 0 counts as 0.
      unit: of brightness, the noise of a typical datum, [batch].
    """
    x = ops.maximum(source / _per_system(unit, source), 0.0) + NOTHING
    return x + ops.log(-ops.expm1(-x))


def from_real(y, unit):
    """The inverse of `to_real`, from 0 on."""
    return _per_system(unit, y) * ops.maximum(ops.softplus(y) - NOTHING, 0.0)


def _interpolated(x, places, values):
    """Linear between `values` at rising `places`, constant beyond them."""
    result = values[0] * ops.ones_like(x)
    for a, b, start, end in zip(places, places[1:], values, values[1:], strict=False):
        result = result + (end - start) * ops.clip((x - a) / (b - a), 0.0, 1.0)
    return result


def _per_system(unit, like):
    return ops.reshape(unit, (-1,) + (1,) * (len(like.shape) - 1))


# ------------------------------------------------------------------------------------------- what the network sees


def views(problem, iterates):
    """What a RIM ends with, as `SourceErrors` takes it.

    Args:
      problem: `Problem`.
      iterates: the sources that the RIM found on its way, [batch, steps, n, m], of which the last two are looked at.

    Returns:
      Dictionary of `seen` [batch, n, m, channels], `estimate` [batch, n, m], the RIM's source in the coordinates of
      `to_real`, and `unit` [batch], the noise of a typical datum in the data's units.
    """
    unit = problem.noise_level
    inner = problem.in_units_of(unit)
    source, before = (iterates[:, i] / _per_system(unit, iterates[:, i]) for i in (-1, -2))
    gradient, bound = inner.score(source), inner.curvature_bound
    peak = problem.peak() / unit
    seen = [
        _compressed(source),
        source / _per_system(peak, source),
        _compressed(gradient / bound),
        ops.arcsinh(gradient / ops.sqrt(bound)),
        _compressed(source - before),
        ops.log(_per_system(peak, source)) / 2.0 - 2.0 + ops.zeros_like(source),
        inner.log_coverage,
        *(_response(inner, side) for side in _BLOCKS),
    ]
    return {"seen": ops.stack(seen, axis=-1), "estimate": to_real(source, ops.ones_like(unit)), "unit": unit}


N_SEEN = 7 + len(_BLOCKS)
_LOG_PEAK = 5


def _compressed(x):
    return ops.arcsinh(3.0 * x)


def _response(problem, side):
    """How well the data see blocks of so many source pixels that alternate, compressed, [batch, n, m].

    With z a chequerboard, z A^T C_N^-1 A z is what the data's curvature leaves of structure of that size, summed over a
    few blocks: the inverse of its variance, if there were no prior.
    """
    _, n, m = problem.lensing.shape
    rows, columns = ops.arange(n) // side, ops.arange(m) // side
    board = ops.cast(1 - 2 * ((rows[:, None] + columns[None, :]) % 2), problem.weight.dtype)
    board = board[None] * ops.ones_like(problem.coverage)
    curvature = board * problem.operator.adjoint(problem.weight * problem.operator.forward(board))
    mean = ops.average_pool(curvature[..., None], min(2 * side, 8), 1, "same")[..., 0]
    return ops.log1p(ops.maximum(mean, 0.0) * 10.0)


# ------------------------------------------------------------------------------------------------- the distribution


class SourceDistribution:
    """The distribution of true sources that the output of `SourceErrors` stands for.

    Args:
      head: [batch, n, m, N_COLUMNS]: the mean of each pixel; the unit; for each wavelet the logarithms of its
        standard deviation and of how many times wider the second Gaussian is, and the logit of the share that it has;
        and for each pixel the logarithm of a factor on all that the wavelets come to there.
      levels: of the wavelets.
    """

    def __init__(self, head, levels):
        self.mean, self.unit, self.levels = head[..., 0], head[:, 0, 0, 1], levels
        self.log_sigma, self.log_ratio, self.logit, self.log_width = (head[..., i] for i in (2, 3, 4, 5))

    def log_prob(self, source):
        """Logarithm of the density at the coordinates of a source [batch, n, m], -> [batch]."""
        return ops.sum(self.log_prob_of_wavelets(source) - self.log_width, axis=(1, 2))

    def log_prob_of_wavelets(self, source):
        """The summands of that before the factors, in the layout of the wavelets, [batch, n, m]."""
        offset = (to_real(source, self.unit) - self.mean) * ops.exp(-self.log_width)
        offset = analyse(offset, self.levels) * ops.exp(-self.log_sigma)
        narrow = -0.5 * offset**2 - ops.softplus(self.logit)
        wide = -0.5 * (offset * ops.exp(-self.log_ratio)) ** 2 - self.log_ratio - ops.softplus(-self.logit)
        return ops.logaddexp(narrow, wide) - self.log_sigma - 0.5 * math.log(2 * math.pi)

    def sample(self, n, seed):
        """Sources drawn from it, none below 0, [batch, n, rows, columns].

        Args:
          n: for each system.
          seed: integer from 0 to 2^30.
        """
        batch, rows, columns = ops.shape(self.mean)
        shape = (batch, n, rows, columns)
        unit = keras.random.normal(shape, dtype=self.mean.dtype, seed=2 * seed)
        chance = keras.random.uniform(shape, dtype=self.mean.dtype, seed=2 * seed + 1)
        is_wide = ops.cast(chance < ops.sigmoid(self.logit)[:, None], unit.dtype)
        drawn = unit * ops.exp(self.log_sigma[:, None] + is_wide * self.log_ratio[:, None])
        drawn = ops.reshape(synthesise(ops.reshape(drawn, (-1, rows, columns)), self.levels), shape)
        drawn = drawn * ops.exp(self.log_width)[:, None]
        return from_real(self.mean[:, None] + drawn, self.unit)


# ------------------------------------------------------------------------------------------------------ the network


@keras.saving.register_keras_serializable("rim_tf")
class SourceErrors(keras.Model):
    """What a RIM ends with -> the distribution of the true source.

    Args:
      config: `SourceErrorsConfig`.
    """

    def __init__(self, config: SourceErrorsConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.body = Pyramid(config.features, config.levels, N_OF_WAVELETS, dtype=self.dtype_policy)
        self.body.build((None, None, None, N_SEEN))
        self.built = True

    def call(self, inputs):
        """The head of `SourceDistribution`, [batch, n, m, N_COLUMNS], in float32.

        Args:
          inputs: as `views` makes them, sides multiples of 2^levels.
        """
        estimate = ops.convert_to_tensor(inputs["estimate"])
        outputs = self.body(ops.cast(inputs["seen"], self.compute_dtype))
        shift, maps = (ops.cast(each, estimate.dtype) for each in outputs)
        # Bounded on both sides, or a pixel that is known exactly, as dark ones are, would make the density infinite.
        log_sigma = _WIDEST * ops.tanh(maps[..., 0] / _WIDEST)
        log_sigma = 0.5 * ops.log(ops.exp(2 * log_sigma) + _NARROWEST**2)
        log_ratio = math.log(_RATIO) * ops.sigmoid(maps[..., 1])
        logit = _LOGIT * ops.tanh((maps[..., 2] + _RARE) / _LOGIT)
        mean = estimate + shift
        unit = _per_system(inputs["unit"], mean) * ops.ones_like(mean)
        width = self._log_width(estimate, ops.convert_to_tensor(inputs["seen"]))
        return ops.stack([mean, unit, log_sigma, log_ratio, logit, width], axis=-1)

    def _log_width(self, estimate, seen):
        """The logarithm of the factors that the settings name, for each pixel."""
        if not self.config.widths:
            return ops.zeros_like(estimate)
        low, high = (
            _interpolated(ops.log(ops.softplus(estimate)), np.log(BRIGHTNESSES), np.log(widths))
            for widths in (self.config.widths[: len(BRIGHTNESSES)], self.config.widths[len(BRIGHTNESSES) :])
        )
        # The logarithm of noise over peak, of which `views` makes a channel.
        log_noise = -2.0 * (ops.cast(seen[..., _LOG_PEAK], estimate.dtype) + 2.0)
        start, end = np.log(NOISES)
        return low + (high - low) * ops.clip((log_noise - start) / (end - start), 0.0, 1.0)

    def distribution(self, inputs):
        """The `SourceDistribution`; the argument is that of `call`."""
        return SourceDistribution(self(inputs), self.config.levels)

    def get_config(self):
        return super().get_config() | {"config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, values):
        values = dict(values)
        return cls(SourceErrorsConfig(**values.pop("config")), **values)


@keras.saving.register_keras_serializable("rim_tf")
class Pyramid(keras.layers.Layer):
    """Down to coarse pixels and up again: a number for each pixel, and numbers for each wavelet.

    Of the pixels themselves, four become one with four times the channels, so that nothing is done at full size.

    Args:
      features: channels of each convolution.
      levels: halvings of the sides, at least 1.
      n_maps: numbers for each wavelet.
    """

    def __init__(self, features, levels, n_maps, **kwargs):
        super().__init__(**kwargs)
        self.features, self.levels, self.n_maps = features, levels, n_maps
        same = {"padding": "same", "dtype": self.dtype_policy}
        active, small = {"activation": "relu", **same}, keras.initializers.RandomNormal(stddev=0.01)
        self.down = [keras.layers.Conv2D(features, 3, strides=2 if i else 1, **active) for i in range(levels)]
        self.deep = [keras.layers.Conv2D(features, 3, **active) for _ in range(levels)]
        self.up = [keras.layers.Conv2D(features, 3, **active) for _ in range(levels - 1)]
        self.pixels = keras.layers.Conv2D(4, 3, kernel_initializer=small, **same)
        # For wavelets of three orientations at each level, the first the coarsest, and before it for what is left.
        self.maps = [
            keras.layers.Conv2D((3 if i else 4) * n_maps, 1, kernel_initializer=small, **same) for i in range(levels)
        ]

    def build(self, input_shape):
        inner = (None, None, None, self.features)
        for i, layer in enumerate(self.down):
            layer.build(inner if i else (None, None, None, 4 * input_shape[-1]))
        for layer in (*self.deep, *self.up, *self.maps, self.pixels):
            layer.build(inner)
        self.built = True

    def call(self, x):
        """x [batch, n, m, inputs] -> pixels [batch, n, m], and maps [batch, n, m, n_maps] in the wavelets' layout."""
        x = ops.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)
        ways = []
        for down, deep in zip(self.down, self.deep, strict=True):
            x = down(x)
            x = x + deep(x)
            ways.append(x)
        maps = assembled(*ops.split(self.maps[0](x), 4, axis=-1))
        for i, up in enumerate(self.up):
            x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2) + ways[-2 - i]
            x = x + up(x)
            maps = assembled(maps, *ops.split(self.maps[i + 1](x), 3, axis=-1))
        return interleaved(*ops.split(self.pixels(x), 4, axis=-1))[..., 0], maps

    def compute_output_shape(self, input_shape):
        return input_shape[:-1], (*input_shape[:-1], self.n_maps)

    def get_config(self):
        names = ("features", "levels", "n_maps")
        return super().get_config() | {name: getattr(self, name) for name in names}
