"""Orthonormal wavelets of images, periodic at the edges: structure of each size at each place, in as many numbers."""

import math

from keras import ops

# Daubechies' filter of four taps: orthonormal, and blind to what is constant or linear.
_ROOT = math.sqrt(3.0)
_LOW = tuple(value / (4 * math.sqrt(2.0)) for value in (1 + _ROOT, 3 + _ROOT, 3 - _ROOT, 1 - _ROOT))
_HIGH = (_LOW[3], -_LOW[2], _LOW[1], -_LOW[0])


def analyse(image, levels):
    """Coefficients of an image, laid out as the image is: coarse ones in its corner, a quarter of a quarter and so on.

    Args:
      image: [batch, n, m], sides multiples of 2^levels.
      levels: sizes of structure; 0 leaves the image as it is.

    Returns:
      [batch, n, m], with the same sum of squares.
    """
    if levels == 0:
        return image
    low, high = _halves(image, 1)
    (coarse, along), (across, both) = _halves(low, 2), _halves(high, 2)
    return assembled(analyse(coarse, levels - 1), along, across, both)


def synthesise(coefficients, levels):
    """The inverse of `analyse`, and its transpose."""
    if levels == 0:
        return coefficients
    rows, columns = (side // 2 for side in ops.shape(coefficients)[1:])
    coarse = synthesise(coefficients[:, :rows, :columns], levels - 1)
    low = _joined(coarse, coefficients[:, :rows, columns:], 2)
    high = _joined(coefficients[:, rows:, :columns], coefficients[:, rows:, columns:], 2)
    return _joined(low, high, 1)


def level_of(rows, columns, levels):
    """Of each coefficient, how often its sides were halved before it was split off, [rows, columns] integers.

    0 for the finest; what is left in the end has `levels`, as many as nothing else.
    """
    found = ops.zeros((rows, columns), dtype="int32")
    row, column = ops.arange(rows)[:, None], ops.arange(columns)[None, :]
    for level in range(1, levels + 1):
        within = (row < rows // 2**level) & (column < columns // 2**level)
        found = found + ops.cast(within, "int32")
    return found


def assembled(coarse, along, across, both):
    """The layout of one level: four [batch, n, m] -> [batch, 2 n, 2 m]."""
    upper, lower = ops.concatenate([coarse, along], axis=2), ops.concatenate([across, both], axis=2)
    return ops.concatenate([upper, lower], axis=1)


def interleaved(*quarters):
    """Pixels of four in turn, [batch, n, m, ...] each -> [batch, 2 n, 2 m, ...]; they come row by row."""
    upper, lower = (_in_turn(*pair, axis=2) for pair in (quarters[:2], quarters[2:]))
    return _in_turn(upper, lower, axis=1)


def _halves(x, axis):
    """Low and high half of one level along an axis."""
    even, odd = (x[:, i::2] if axis == 1 else x[:, :, i::2] for i in (0, 1))
    even_after, odd_after = ops.roll(even, -1, axis), ops.roll(odd, -1, axis)
    return [taps[0] * even + taps[1] * odd + taps[2] * even_after + taps[3] * odd_after for taps in (_LOW, _HIGH)]


def _joined(low, high, axis):
    """The transpose of `_halves`."""
    low_before, high_before = ops.roll(low, 1, axis), ops.roll(high, 1, axis)
    even, odd = (
        _LOW[i] * low + _LOW[i + 2] * low_before + _HIGH[i] * high + _HIGH[i + 2] * high_before for i in (0, 1)
    )
    return _in_turn(even, odd, axis)


def _in_turn(even, odd, axis):
    """Rows or columns of two in turn, [batch, n, m, ...]."""
    shape = list(ops.shape(even))
    shape[axis] = 2 * shape[axis]
    return ops.reshape(ops.stack([even, odd], axis=axis + 1), shape)
