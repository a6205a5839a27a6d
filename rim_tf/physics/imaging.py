"""The instrument that takes images: B is the blur of a point spread function, the data are pixels (Eq. 5)."""

from keras import ops

from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.likelihood import inverse_variance
from rim_tf.physics.mass.model import SIE_SHEAR
from rim_tf.physics.operators import Compose
from rim_tf.physics.problem import Problem
from rim_tf.physics.psf import blur_operator

# A pixel is surely bright above so many standard deviations of its noise.
_BRIGHT = 3.0


class Imaging:
    """A camera, as an instrument of `rim_tf.physics.problem`.

    Args:
      psf: [batch] Gaussian sigma [arcsec], or [batch, k, k] stamps, k odd, each with unit sum.
      image_grid: `PixelGrid` of the image.
    """

    def __init__(self, psf, image_grid):
        self.blur = blur_operator(psf, image_grid)

    def forward(self, sky):
        """[batch, rows, columns] -> the same shape."""
        return self.blur.forward(sky)

    def adjoint(self, image):
        """The transpose of `forward`."""
        return self.blur.adjoint(image)

    def peak(self, image, weight):
        """About the brightest the source can be, [batch]: `image_peak`."""
        return image_peak(image, weight)

    def bright(self, image, weight):
        """The pixels well above their noise, [batch, rows, columns], 0 elsewhere."""
        return ops.where(image * ops.sqrt(weight) > _BRIGHT, image, 0.0)


def image_peak(image, weight):
    """Twice the largest weighted mean over 3 x 3 pixels, [batch]: near the source's peak, whatever the noise.

    Only pixels that count as much as a tenth of the best are looked at, so that one bad pixel sets no scale.

    Args:
      image: [batch, rows, columns].
      weight: inverse variance of each pixel, the same shape.
    """
    kernel = ops.ones((3, 3, 1, 1), dtype=image.dtype)
    total = ops.conv(weight[..., None], kernel, padding="same")
    flux = ops.conv((weight * image)[..., None], kernel, padding="same")
    trusted = total > 0.1 * ops.max(total, axis=(1, 2, 3), keepdims=True)
    mean = ops.where(trusted, flux / ops.where(trusted, total, 1.0), 0.0)
    peak = 2 * ops.max(mean, axis=(1, 2, 3))
    return ops.where(peak > 0, peak, 1.0)


def imaging_problem(inputs, source_shape, mass=SIE_SHEAR):
    """The `Problem` of a batch of images.

    Args:
      inputs: dictionary of tensors, as `rim_tf.systems.IMAGING` describes them.
      source_shape: rows and columns of the source grid, which is centred on (0, 0).
      mass: `MassModel`, to which the columns of inputs["lens"] belong.
    """
    mask = ops.cast(inputs["mask"], "bool")
    image, noise_rms = (ops.convert_to_tensor(inputs[name]) for name in ("image", "noise_rms"))
    data = ops.where(mask, image, 0.0)  # what lies under the mask may be NaN
    return Problem(*_parts(inputs, source_shape, mass), data, inverse_variance(noise_rms, mask))


def imaging_operator(inputs, source_shape, mass=SIE_SHEAR):
    """A alone, [batch, n, m] -> [batch, rows, columns]; of inputs["image"] only the shape is read.

    The arguments are those of `imaging_problem`.
    """
    return Compose(*_parts(inputs, source_shape, mass))


def _parts(inputs, source_shape, mass):
    """Instrument and lensing of a batch."""
    _, rows, columns = ops.shape(inputs["image"])
    image_grid = PixelGrid(rows, columns, inputs["pixel_scale"])
    source_grid = PixelGrid(*source_shape, inputs["source_pixel_scale"])
    lens, psf = (ops.convert_to_tensor(inputs[name]) for name in ("lens", "psf"))
    return Imaging(psf, image_grid), LensingOperator.from_lens(lens, image_grid, source_grid, mass)
