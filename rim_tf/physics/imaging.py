"""A = B L: from the source plane to what the telescope would have seen, without noise (Eq. 5)."""

from keras import ops

from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.operators import Compose
from rim_tf.physics.psf import blur_operator


def imaging_operator(inputs, source_shape):
    """The operator A of a batch of systems, [batch, n_rows, n_columns] <-> [batch, rows, columns].

    Args:
      inputs: dictionary of which it reads image (for its shape only), psf, lens, pixel_scale and
        source_pixel_scale, as `rim_tf.models.rim.RIM.call` describes them.
      source_shape: rows and columns of the source grid, which is centred on (0, 0).
    """
    _, rows, columns = ops.shape(inputs["image"])
    image_grid = PixelGrid(rows, columns, inputs["pixel_scale"])
    source_grid = PixelGrid(*source_shape, inputs["source_pixel_scale"])
    lensing = LensingOperator.from_lens(inputs["lens"], image_grid, source_grid)
    return Compose(blur_operator(inputs["psf"], image_grid), lensing)
