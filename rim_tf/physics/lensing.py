"""L, the lensing matrix, unrolled: bilinear interpolation of the source at the ray of each image pixel.

Each row of L has four entries (Treu & Koopmans 2004): the source pixels around the ray, and their overlaps with it.
They are worked out once for each system and used at every step of the RIM.
"""

from keras import ops

from rim_tf.physics.deflection import ray_trace


def _gather(values, index, weight):
    """sum over the last axis of weight * values[index]: values [m], index and weight [..., 4] -> [...].

    Its own gradient, and that of `_scatter`, call each other: what the one gathers the other scatters, so the
    derivative of either is exact to any order, with respect to the values and (through `weight`) the lens.
    """

    # The index is an argument, though it has no gradient: JAX can close over no variable of its compiler here.
    @ops.custom_gradient
    def gather(values, index, weight):
        corners = ops.take(values, index)

        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return (
                _scatter(upstream, index, weight, ops.shape(values)[0]),
                None,
                upstream[..., None] * ops.take(values, index),
            )

        return ops.sum(weight * corners, axis=-1), grad

    return gather(values, index, weight)


def _scatter(values, index, weight, size):
    """The transpose of `_gather`: values [...] -> [size]."""

    @ops.custom_gradient
    def scatter(values, index, weight):
        contributions = ops.reshape(weight * values[..., None], (-1,))

        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _gather(upstream, index, weight), None, values[..., None] * ops.take(upstream, index)

        return ops.segment_sum(contributions, ops.reshape(index, (-1,)), num_segments=size), grad

    return scatter(values, index, weight)


def _split(position, n):
    """Whole pixel (int32) and fraction of a position in pixels; positions far off the grid of n stay finite."""
    position = ops.clip(position, -2.0, ops.cast(n + 1, position.dtype))
    # Rounded towards zero, then down: Keras on JAX has floor in float32 only.
    pixel = ops.cast(position, "int32")
    pixel = pixel - ops.cast(ops.cast(pixel, position.dtype) > position, "int32")
    return pixel, position - ops.cast(pixel, position.dtype)


class LensingOperator:
    """L in d = B L s + n: each image pixel reads the four source pixels around its ray.

    Args:
      beta_column, beta_row: where each ray lands, in source pixels, [batch, rows, columns].
      n_rows, n_columns: source pixels on each side.
    """

    def __init__(self, beta_column, beta_row, n_rows, n_columns):
        left, along = _split(beta_column, n_columns)
        low, up = _split(beta_row, n_rows)
        index, weight = [], []
        for column, row, overlap in [
            (left, low, (1 - along) * (1 - up)),
            (left + 1, low, along * (1 - up)),
            (left, low + 1, (1 - along) * up),
            (left + 1, low + 1, along * up),
        ]:
            inside = (column >= 0) & (column < n_columns) & (row >= 0) & (row < n_rows)
            weight.append(ops.where(inside, overlap, 0.0))  # a ray that leaves the source grid sees empty sky
            index.append(ops.where(inside, row * n_columns + column, 0))
        self.batch = ops.shape(beta_row)[0]
        first_pixel = ops.reshape(ops.arange(self.batch, dtype="int32"), (-1, 1, 1, 1)) * (n_rows * n_columns)
        self.index = ops.stack(index, -1) + first_pixel
        self.weight = ops.stack(weight, -1)
        self.n_rows, self.n_columns = n_rows, n_columns

    @classmethod
    def from_lens(cls, lens, image_grid, source_grid):
        """L of an isothermal ellipsoid with shear, `lens` [batch, 7], between two `PixelGrid`s (Eq. 4)."""
        theta_x, theta_y = image_grid.coordinates()
        ones = ops.ones_like(lens[:, 0])[:, None, None]  # a grid that all systems share has batch 1
        beta_x, beta_y = ray_trace(theta_x * ones, theta_y * ones, lens)
        return cls(*source_grid.pixel_of(beta_x, beta_y), source_grid.rows, source_grid.columns)

    def forward(self, source):
        """[batch, n_rows, n_columns] -> [batch, rows, columns]."""
        return _gather(ops.reshape(source, (-1,)), self.index, self.weight)

    def adjoint(self, image):
        """[batch, rows, columns] -> [batch, n_rows, n_columns]; scatters what `forward` gathers."""
        size = self.batch * self.n_rows * self.n_columns
        source = _scatter(image, self.index, self.weight, size)
        return ops.reshape(source, (self.batch, self.n_rows, self.n_columns))
