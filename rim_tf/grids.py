"""Where a pixel's centre is. Nothing else in the package knows.

Pixel (row i, column j) of an image with `columns` columns and `rows` rows has its centre at
x = (j - (columns - 1) / 2) * pixel_scale, y = (i - (rows - 1) / 2) * pixel_scale [arcsec]: row 0 is the smallest
y, the field's centre is (0, 0) or `centre`, and a field of n pixels is n * pixel_scale wide, edge to edge.
The same convention as lenstronomy, herculens, caustics and COOLEST.
"""

from keras import ops


def _per_system(value, like=None):
    """A scalar, or one number for each system, shaped to broadcast against [batch, rows, columns]."""
    value = ops.convert_to_tensor(value, dtype=like)
    return ops.reshape(value, (-1, 1, 1))


class PixelGrid:
    """A regular grid of square pixels, the same size for all systems of a batch.

    Args:
      rows: pixels from bottom to top, an integer or a scalar integer tensor.
      columns: pixels from left to right, likewise.
      pixel_scale: [arcsec], a scalar or [batch]; its dtype is the dtype of everything the grid returns.
      centre_x: position of the field's centre [arcsec], a scalar or [batch].
      centre_y: likewise.
    """

    def __init__(self, rows, columns, pixel_scale, centre_x=0.0, centre_y=0.0):
        self.rows, self.columns = rows, columns
        self.pixel_scale = _per_system(pixel_scale)
        self.dtype = self.pixel_scale.dtype
        self.centre_x = _per_system(centre_x, self.dtype)
        self.centre_y = _per_system(centre_y, self.dtype)

    def coordinates(self):
        """Pixel centres x, y [arcsec], each [batch, rows, columns] (batch 1 where one scale serves all)."""
        column = ops.cast(ops.arange(self.columns), self.dtype)[None, None, :]
        row = ops.cast(ops.arange(self.rows), self.dtype)[None, :, None]
        half_width = ops.cast(self.columns - 1, self.dtype) / 2
        half_height = ops.cast(self.rows - 1, self.dtype) / 2
        x = (column - half_width) * self.pixel_scale + self.centre_x
        y = (row - half_height) * self.pixel_scale + self.centre_y
        unit = ops.ones_like(x) * ops.ones_like(y)
        return x * unit, y * unit

    def pixel_of(self, x, y):
        """Fractional (column, row) of the positions x, y [arcsec]; the inverse of `coordinates`."""
        column = (x - self.centre_x) / self.pixel_scale + ops.cast(self.columns - 1, self.dtype) / 2
        row = (y - self.centre_y) / self.pixel_scale + ops.cast(self.rows - 1, self.dtype) / 2
        return column, row
