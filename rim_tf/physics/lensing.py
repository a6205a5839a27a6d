"""L, the lensing matrix, unrolled: bilinear interpolation of the source at the ray of each image pixel.

Each row of L has four entries (Treu & Koopmans 2004): the source pixels around the ray, and their overlaps with it.
They are worked out once for each system and used at every step of the RIM.
"""

from keras import ops

from rim_tf.physics.derivatives import by_hand
from rim_tf.physics.mass.model import SIE_SHEAR


def _cells(source):
    """The four corners of every cell between source pixels, [batch, (n_rows + 1) * (n_columns + 1), 4].

    There is a border of dark pixels around the source, so that cells at the edge have four corners too. A ray then
    reads its four pixels from one place in memory, which is several times faster than from four.
    """
    padded = ops.pad(source, [[0, 0], [1, 1], [1, 1]])
    return ops.stack([padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]], axis=-1)


def _cells_adjoint(cells):
    """The transpose of `_cells`: [batch, n_rows + 1, n_columns + 1, 4] -> [batch, n_rows, n_columns]."""
    return cells[:, 1:, 1:, 0] + cells[:, 1:, :-1, 1] + cells[:, :-1, 1:, 2] + cells[:, :-1, :-1, 3]


def _corners(source, cell):
    """The four source pixels around each ray, [batch, rows, columns, 4]."""
    return ops.take(ops.reshape(_cells(source), (-1, 4)), cell, axis=0)


def _gather(source, cell, weight):
    """sum over the four corners of weight * source: [batch, n_rows, n_columns] -> [batch, rows, columns].

    Its own gradient, and that of `_scatter`, call each other: what the one gathers the other scatters, so the
    derivative of either is exact to any order, with respect to the values and (through `weight`) the lens.
    """
    shape = ops.shape(source)

    # The cell is an argument, though it has no gradient: JAX can close over no variable of its compiler here.
    @by_hand
    def gather(source, cell, weight):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return (
                _scatter(upstream, cell, weight, shape),
                None,
                upstream[..., None] * _corners(source, cell),
            )

        return ops.sum(weight * _corners(source, cell), axis=-1), grad

    return gather(source, cell, weight)


def _scatter(image, cell, weight, shape):
    """The transpose of `_gather`: [batch, rows, columns] -> `shape`, which is (batch, n_rows, n_columns)."""
    batch, n_rows, n_columns = shape

    @by_hand
    def scatter(image, cell, weight):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _gather(upstream, cell, weight), None, image[..., None] * _corners(upstream, cell)

        contributions = ops.reshape(weight * image[..., None], (-1, 4))
        n_cells = batch * (n_rows + 1) * (n_columns + 1)
        cells = ops.segment_sum(contributions, ops.reshape(cell, (-1,)), num_segments=n_cells)
        return _cells_adjoint(ops.reshape(cells, (batch, n_rows + 1, n_columns + 1, 4))), grad

    return scatter(image, cell, weight)


def _split(position, n):
    """Cell (int32, from 0 to n) and place within it (from 0 to 1) of a position in pixels; cell i ends at pixel i.

    Positions off the grid of n are moved to the border of dark pixels that surrounds it.
    """
    position = ops.clip(position, -1.0, ops.cast(n, position.dtype))
    cell = ops.minimum(
        ops.cast(position + 1, "int32"), n
    )  # rounds towards zero: Keras on JAX has floor in float32 only
    return cell, position - ops.cast(cell - 1, position.dtype)


class LensingOperator:
    """L in d = B L s + n: each image pixel reads the four source pixels around its ray.

    Args:
      beta_column: where each ray lands, in source pixels, [batch, rows, columns].
      beta_row: likewise.
      n_rows: source pixels from bottom to top.
      n_columns: source pixels from left to right.

    Attributes:
      landing: beta_column and beta_row.
    """

    def __init__(self, beta_column, beta_row, n_rows, n_columns):
        column, along = _split(beta_column, n_columns)
        row, up = _split(beta_row, n_rows)
        self.shape = (ops.shape(beta_row)[0], n_rows, n_columns)
        first_cell = ops.reshape(ops.arange(self.shape[0], dtype="int32"), (-1, 1, 1)) * (
            (n_rows + 1) * (n_columns + 1)
        )
        self.cell = row * (n_columns + 1) + column + first_cell
        self.corner_weight = ops.stack(
            [(1 - along) * (1 - up), along * (1 - up), (1 - along) * up, along * up], axis=-1
        )
        self._column, self._row = column, row
        self._along, self._up = along, up
        self.landing = beta_column, beta_row

    def entries(self):
        """The rows of L: index [batch, rows, columns, 4] into the flattened sources, and weight, 0 off the grid."""
        batch, n_rows, n_columns = self.shape
        column = ops.stack([self._column - 1, self._column] * 2, axis=-1)
        row = ops.stack([self._row - 1] * 2 + [self._row] * 2, axis=-1)
        inside = (column >= 0) & (column < n_columns) & (row >= 0) & (row < n_rows)
        first_pixel = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1)) * (n_rows * n_columns)
        index = ops.where(inside, row * n_columns + column, 0) + first_pixel
        return index, ops.where(inside, self.corner_weight, 0.0)

    @property
    def index(self):
        return self.entries()[0]

    @property
    def weight(self):
        return self.entries()[1]

    @classmethod
    def from_lens(cls, lens, image_grid, source_grid, mass=SIE_SHEAR):
        """L of a lens between two `PixelGrid`s (Eq. 4).

        Args:
          lens: parameters, [batch, columns of `mass`].
          image_grid: of the image plane.
          source_grid: of the source plane.
          mass: `MassModel`.
        """
        theta_x, theta_y = image_grid.coordinates()
        ones = ops.ones_like(lens[:, 0])[:, None, None]  # a grid that all systems share has batch 1
        beta_x, beta_y = mass.ray_trace(theta_x * ones, theta_y * ones, lens)
        return cls(*source_grid.pixel_of(beta_x, beta_y), source_grid.rows, source_grid.columns)

    @property
    def outside(self):
        """Whether a ray lands beyond the outer edge of the source grid, boolean [batch, rows, columns]."""
        column, row = self.landing
        half_width, half_height = (ops.cast(n, column.dtype) / 2 for n in self.shape[:0:-1])
        return (ops.abs(column + 0.5 - half_width) > half_width) | (ops.abs(row + 0.5 - half_height) > half_height)

    def forward(self, source):
        """[batch, n_rows, n_columns] -> [batch, rows, columns]."""
        return _gather(source, self.cell, self.corner_weight)

    def slopes(self, source):
        """How the source changes where each ray lands, per source pixel along columns and along rows.

        Two tensors [batch, rows, columns], the derivatives of `forward` in beta_column and in beta_row; 0 for rays that
        miss the grid.
        """
        corners = _corners(source, self.cell)
        lower_left, lower_right, upper_left, upper_right = (corners[..., i] for i in range(4))
        along = (1 - self._up) * (lower_right - lower_left) + self._up * (upper_right - upper_left)
        up = (1 - self._along) * (upper_left - lower_left) + self._along * (upper_right - lower_right)
        column, row = self.landing
        n_rows, n_columns = (ops.cast(n, column.dtype) for n in self.shape[1:])
        # Rays beyond the dark border were moved to it, and stay there wherever they would go.
        seen = (column > -1) & (column < n_columns) & (row > -1) & (row < n_rows)
        return ops.where(seen, along, 0.0), ops.where(seen, up, 0.0)

    def adjoint(self, image):
        """[batch, rows, columns] -> [batch, n_rows, n_columns]; scatters what `forward` gathers."""
        return _scatter(image, self.cell, self.corner_weight, self.shape)
