"""Images on another grid: means over pixels with the weight of each, so that what is masked plays no part."""

from keras import ops


def resample(image, weight, pixels, step):
    """The centre of each image on a square grid of its own.

    A new pixel is the mean, weighted by inverse variance, of the old ones under a box that is as wide as the wider of
    the two pixels: the mean over the area where pixels grow, bilinear interpolation where they shrink, and the image
    itself where they stay. The two fields have the same centre.

    Args:
      image: [batch, rows, columns], finite.
      weight: inverse variance of each pixel, 0 where it is not to be used, the same shape.
      pixels: side of the new grid.
      step: new pixel over old pixel, [batch].

    Returns:
      Image, weight (of the mean, for noise that is independent from pixel to pixel) and the share of the box that is
      used; each [batch, pixels, pixels]. Beyond the old frame, and where nothing is used, image and weight are 0.
    """
    _, rows, columns = ops.shape(image)
    along_rows, along_columns = _overlap(rows, pixels, step), _overlap(columns, pixels, step)

    def total(values, over_rows=along_rows, over_columns=along_columns):
        return ops.matmul(ops.matmul(over_rows, values), ops.transpose(over_columns, (0, 2, 1)))

    weight_sum = total(weight)
    used = weight_sum > 0
    divisor = ops.where(used, weight_sum, 1.0)
    variance_sum = ops.where(used, total(weight, along_rows**2, along_columns**2), 1.0)
    mean = ops.where(used, total(weight * image) / divisor, 0.0)
    share = total(ops.cast(weight > 0, image.dtype))
    return mean, ops.where(used, weight_sum / variance_sum * weight_sum, 0.0), share


def _overlap(n, pixels, step):
    """What share of the box of each new pixel each of n old ones fills, along one axis, [batch, pixels, n]."""
    step = ops.reshape(step, (-1, 1, 1))
    old = ops.cast(ops.arange(n), step.dtype)[None, None, :] - (ops.cast(n, step.dtype) - 1) / 2
    new = (ops.cast(ops.arange(pixels), step.dtype)[None, :, None] - (pixels - 1) / 2) * step
    half = ops.maximum(step, 1.0) / 2
    length = ops.minimum(new + half, old + 0.5) - ops.maximum(new - half, old - 0.5)
    return ops.maximum(length, 0.0) / (2 * half)
