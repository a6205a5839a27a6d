"""B, blurring by the point spread function: each system has its own, and beyond the frame the sky is dark.

Zeros, not periodic copies: nothing wraps around, and light that is blurred over the edge is lost from the frame.
"""

import math

from keras import ops

from rim_tf.physics.derivatives import by_hand

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
        self.along_rows = _gaussian_matrix(sigma, image_grid.rows)
        self.along_columns = _gaussian_matrix(sigma, image_grid.columns)

    def forward(self, image):
        """[batch, rows, columns] -> the same shape; a symmetric matrix from either side."""
        return ops.matmul(ops.matmul(self.along_rows, image), self.along_columns)

    def adjoint(self, image):
        """The transpose, which is `forward` itself: a Gaussian is its own mirror image."""
        return self.forward(image)


def _gaussian_matrix(sigma, n):
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

    The upper half of the image and i times the lower half make one complex field, half as large. A stamp is real, so
    one complex transform blurs both halves, and each gets what the other sheds over the seam.

    Args:
      psf: [batch, k, l], k and l odd, the centre in the middle pixel; used as it is, so normalise it first.
      image_grid: `PixelGrid` of the image.
    """

    def __init__(self, psf, image_grid):
        for side in psf.shape[1:]:
            if side is not None and side % 2 == 0:
                raise ValueError(
                    f"psf has shape {tuple(psf.shape)}; its sides must be odd, or every image shifts by half a "
                    "pixel. Pad it, or resample it on an odd grid."
                )
        self.halves = _Halves(image_grid.rows, image_grid.columns, *ops.shape(psf)[1:])
        field = self.halves.field(psf, (0, 0))
        real, imag = ops.fft2((field, ops.zeros_like(field)))
        # Divided here by what the inverse transform would divide by.
        samples = ops.cast(self.halves.size[0] * self.halves.size[1], psf.dtype)
        self.transfer = real / samples, imag / samples

    def forward(self, image):
        """[batch, rows, columns] -> the same shape: the convolution, cut back to the frame."""
        return _convolve(image, *self.transfer, self.halves)

    def adjoint(self, image):
        """The transpose: set back into the frame it was cut from, then correlated with the stamp."""
        return _correlate(image, *self.transfer, self.halves)


class _Halves:
    """Where the halves of an image lie in the complex field (real part, imaginary part) before and after a blur.

    Args:
      rows: of the image.
      columns: of the image.
      stamp_rows: of the stamp, which reaches half of them beyond a pixel to either side.
      stamp_columns: likewise.

    Attributes:
      size: rows and columns of the field. A blurred half is higher than a half by the stamp, and must not wrap into
        itself. To the sides only the frame is wanted: what wraps around may fall beside it.
    """

    def __init__(self, rows, columns, stamp_rows, stamp_columns):
        self.rows, self.columns = rows, columns
        self.upper = rows // 2
        self.lower = rows - self.upper  # the larger one, and never empty
        self.over, self.beside = stamp_rows // 2, stamp_columns // 2
        self.size = (
            _fast_length(self.lower + stamp_rows - 1),
            _fast_length(_larger(columns + self.beside, stamp_columns)),
        )

    def split(self, image):
        """Image -> field: the two halves, each at the field's corner."""
        return self.field(image[:, : self.upper], (0, 0)), self.field(image[:, self.upper :], (0, 0))

    def split_transpose(self, upper, lower):
        """Field -> image."""
        halves = upper[:, : self.upper, : self.columns], lower[:, : self.lower, : self.columns]
        return ops.concatenate(halves, axis=1)

    def merge(self, upper, lower):
        """Field -> image, of halves blurred over their own borders: their sum, without what lies off the frame."""
        frame = slice(self.beside, self.beside + self.columns)
        upper = upper[:, self.over : self.over + self.rows, frame]
        lower = lower[:, : self.lower + self.over, frame][:, -self.rows :]
        below, above = self.rows - ops.shape(upper)[1], self.rows - ops.shape(lower)[1]
        return ops.pad(upper, [[0, 0], [0, below], [0, 0]]) + ops.pad(lower, [[0, 0], [above, 0], [0, 0]])

    def merge_transpose(self, image):
        """Image -> field."""
        end = self.lower + self.over
        upper, lower = image[:, : self.size[0] - self.over], image[:, -end:]
        return self.field(upper, (self.over, self.beside)), self.field(lower, (end - ops.shape(lower)[1], self.beside))

    def field(self, image, before):
        """`image` in dark sky of `size`, `before` pixels from its edges."""
        margin = [[b, n - b - side] for b, n, side in zip(before, self.size, ops.shape(image)[1:], strict=True)]
        return ops.pad(image, [[0, 0], *margin])


def _convolve(image, real, imag, halves):
    """The blurred image, for the transfer function (real, imag) of the stamp.

    Its own gradient, and that of `_correlate`, call each other, as those of `lensing` do. What TensorFlow and JAX
    derive by themselves is as right, but takes 1.5 times as long in a graph of TensorFlow.
    """

    @by_hand
    def convolve(image, real, imag):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _correlate(upstream, real, imag, halves), *_transfer_gradient(image, upstream, halves)

        return halves.merge(*_filtered(halves.split(image), real, imag)), grad

    return convolve(image, real, imag)


def _correlate(image, real, imag, halves):
    """The transpose of `_convolve`."""

    @by_hand
    def correlate(image, real, imag):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _convolve(upstream, real, imag, halves), *_transfer_gradient(upstream, image, halves)

        return halves.split_transpose(*_filtered(halves.merge_transpose(image), real, -imag)), grad

    return correlate(image, real, imag)


def _filtered(field, real, imag):
    """A complex field times (real, imag) in Fourier space; `ops.fft2` takes and gives pairs."""
    a, b = ops.fft2(field)
    # An inverse transform is a transform with both parts exchanged before and after.
    lower, upper = ops.fft2((a * imag + b * real, a * real - b * imag))
    return upper, lower


def _transfer_gradient(image, blurred, halves):
    """Gradient of the sum of `blurred` * `_convolve(image, real, imag)` in real and imag."""
    (a, b), (c, d) = ops.fft2(halves.split(image)), ops.fft2(halves.merge_transpose(blurred))
    return a * c + b * d, a * d - b * c


# Lengths of which transforms are fast: 218 = 2 x 109 samples take four times as long as 216 = 8 x 27.
_FAST_LENGTHS = sorted(2**a * 3**b * 5**c for a in range(17) for b in range(11) for c in range(8))


def _fast_length(n):
    """The next fast length; n is a tensor where the image's size is unknown when it is traced."""
    if isinstance(n, int):
        return next(length for length in _FAST_LENGTHS if length >= n)
    lengths = ops.convert_to_tensor([length for length in _FAST_LENGTHS if length <= 2**16], dtype="int32")
    return ops.min(ops.where(lengths >= n, lengths, 2**16))


def _larger(a, b):
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ops.maximum(a, b)


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
