"""B, blurring by the point spread function: each system has its own, and beyond the frame the sky is dark.

Zeros, not periodic copies: nothing wraps around, and light that is blurred over the edge is lost from the frame.
"""

import math

from keras import ops

# Narrower than this [pixels], a Gaussian sampled at pixel centres is a delta function in double precision.
_NARROWEST = 0.05


def blur_operator(psf, image_grid):
    """The operator B for `psf`: [batch] Gaussian sigma [arcsec], or [batch, k, k] stamps with odd k.

    Raises:
      ValueError: psf has neither one nor three axes, or a stamp has an even side.
    """
    if len(psf.shape) == 1:
        return GaussianBlur(psf, image_grid)
    if len(psf.shape) == 3:
        return StampBlur(psf, image_grid)
    raise ValueError(
        f"psf has shape {tuple(psf.shape)}; wanted one Gaussian sigma for each system, [batch], "
        "or one stamp for each, [batch, k, k]."
    )


class GaussianBlur:
    """Convolution with a circular Gaussian sampled at pixel centres, its sum over the whole plane 1.

    Such a Gaussian is a product of two one-dimensional ones, so B is a matrix product from either side.

    Args:
      sigma: [batch] [arcsec]; 0 leaves the image as it is.
      image_grid: `PixelGrid` of the image.
    """

    def __init__(self, sigma, image_grid):
        sigma = ops.reshape(sigma, (-1, 1, 1)) / image_grid.pixel_scale
        sigma = ops.maximum(sigma, _NARROWEST)
        self.along_rows = _toeplitz(sigma, image_grid.rows)
        self.along_columns = _toeplitz(sigma, image_grid.columns)

    def forward(self, image):
        """[batch, rows, columns] -> the same shape; a symmetric matrix from either side."""
        return ops.matmul(ops.matmul(self.along_rows, image), self.along_columns)

    def adjoint(self, image):
        """The transpose, which is `forward` itself: a Gaussian is its own mirror image."""
        return self.forward(image)


def _toeplitz(sigma, n):
    """[batch, n, n] matrix of one-dimensional convolution with a unit-sum Gaussian of `sigma` pixels."""
    i = ops.cast(ops.arange(n), sigma.dtype)
    distance2 = (i[None, :, None] - i[None, None, :]) ** 2
    # The sum over all integer offsets, not over those in the frame: light may leave it. By Poisson's formula it
    # is sigma sqrt(2 pi) but for terms of exp(-2 pi^2 sigma^2), which matter below one pixel.
    offset = ops.cast(ops.arange(-8, 9), sigma.dtype)
    narrow = ops.sum(ops.exp(-(offset**2) / (2 * ops.minimum(sigma, 1.0) ** 2)), axis=-1, keepdims=True)
    norm = ops.where(sigma < 1.0, narrow, sigma * math.sqrt(2 * math.pi))
    return ops.exp(-distance2 / (2 * sigma**2)) / norm


class StampBlur:
    """Convolution with a pixelated PSF, by Fourier transforms padded so that nothing wraps around.

    Args:
      psf: [batch, k, k], k odd, the centre in the middle pixel; used as it is, so normalise it first.
      image_grid: `PixelGrid` of the image.
    """

    def __init__(self, psf, image_grid):
        for side in psf.shape[1:]:
            if side is not None and side % 2 == 0:
                raise ValueError(
                    f"psf has shape {tuple(psf.shape)}; its sides must be odd, or every image shifts by half a "
                    "pixel. Pad it, or resample it on an odd grid."
                )
        self.rows, self.columns = image_grid.rows, image_grid.columns
        stamp_rows, stamp_columns = ops.shape(psf)[1], ops.shape(psf)[2]
        self.half_rows, self.half_columns = stamp_rows // 2, stamp_columns // 2
        # Linear convolution needs n + k - 1 samples.
        self.size = _fast_length(self.rows + stamp_rows - 1), _fast_length(self.columns + stamp_columns - 1)
        self.psf_real, self.psf_imag = _fourier(psf, (0, 0), self.size)

    def forward(self, image):
        """[batch, rows, columns] -> the same shape: the convolution, cut back to the frame."""
        real, imag = _fourier(image, (0, 0), self.size)
        full, _ = ops.ifft2((real * self.psf_real - imag * self.psf_imag, real * self.psf_imag + imag * self.psf_real))
        bottom, left = self.half_rows, self.half_columns
        return full[:, bottom : bottom + self.rows, left : left + self.columns]

    def adjoint(self, image):
        """The transpose: set back into the frame it was cut from, then correlated with the stamp."""
        real, imag = _fourier(image, (self.half_rows, self.half_columns), self.size)
        full, _ = ops.ifft2((real * self.psf_real + imag * self.psf_imag, imag * self.psf_real - real * self.psf_imag))
        return full[:, : self.rows, : self.columns]


def _fast_length(n):
    """The next multiple of 16: a transform of 218 = 2 x 109 samples takes four times as long as one of 224."""
    return (n + 15) // 16 * 16


def _fourier(image, before, size):
    """Real and imaginary part of the transform of `image` in dark sky of `size`, `before` pixels from its edge."""
    margin = [[b, n - b - side] for b, n, side in zip(before, size, ops.shape(image)[1:], strict=True)]
    image = ops.pad(image, [[0, 0], *margin])
    return ops.fft2((image, ops.zeros_like(image)))


def psf_width(psf, pixel_scale):
    """How wide a point spread function is [pixels], [batch]: the sigma of the Gaussian that is as sharp.

    As sharp is: with the same sum of squares, which is what decides how well a point is seen on noise, and which the
    faint wings of a stamp do not govern, as they do its second moment. A stamp of a Gaussian gives what its sigma does.

    Args:
      psf: as in `blur_operator`.
      pixel_scale: [batch] [arcsec].
    """
    if len(psf.shape) == 3:
        squares = ops.sum(psf**2, axis=(1, 2)) / ops.sum(psf, axis=(1, 2)) ** 2
        return ops.sqrt(1 / (4 * math.pi * squares))
    sigma = ops.maximum(psf / pixel_scale, _NARROWEST)
    offset = ops.cast(ops.arange(-16, 17), sigma.dtype)
    narrow = ops.exp(-(offset**2) / (2 * ops.minimum(sigma, 2.0)[:, None] ** 2))
    squares = (ops.sum(narrow**2, axis=1) / ops.sum(narrow, axis=1) ** 2) ** 2
    # From two pixels on the samples are as good as an integral.
    return ops.where(sigma < 2.0, ops.sqrt(1 / (4 * math.pi * squares)), sigma)
