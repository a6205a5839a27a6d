"""d = B L s + n in float64 for one observation: A and its transpose without matrices, and F = A^T C_N^-1 A as one.

L comes from `rim_tf.physics.lensing` and the Gaussian B from `rim_tf.physics.psf`, so the model is the one that the
network sees; SciPy's sparse products and transforms then apply them faster than TensorFlow's gathers do.
"""

import contextlib
import functools

import keras
import numpy as np
import scipy.fft
import scipy.sparse as sp
from keras import ops

from rim_tf.errors import InputError
from rim_tf.physics.imaging import imaging_problem
from rim_tf.systems import batch_of

# F by way of the dense B^T C_N^-1 B up to so many image pixels: 0.6 GB.
DENSE_IMAGE_PIXELS = 6200
# Elements of the temporary arrays that F is built through: 0.13 GB.
_BLOCK = 1 << 24
# Rows of a Gaussian's matrix that are applied at once, and what share of its peak is below rounding error.
_BAND, _NOTHING = 48, 1e-18
# A source pixel whose light arrives by less than this share is not seen.
_UNSEEN = 1e-9
# Singular values of a stamp below this share of the largest are the rounding of float32, in which stamps come.
_SEPARABLE = 1e-6


@contextlib.contextmanager
def _double_precision():
    """JAX has no float64 unless told to, and gives float32 in its place without a word."""
    if keras.backend.backend() != "jax":
        yield
        return
    try:
        from jax import enable_x64
    except ImportError:  # before JAX 0.8
        from jax.experimental import enable_x64
    with enable_x64(True):
        yield


class LinearSystem:
    """The linear inversion problem of one lens, without its prior.

    Args:
      lensing: L, SciPy CSR [rows * columns, n * m].
      blur: `SeparableBlur` or `FourierBlur` of [rows, columns].
      data: [rows, columns].
      weight: inverse variance of each pixel, 0 where masked, [rows, columns].
      source_shape: (n, m).
      flux_outside: share of the observed light whose rays miss the source grid, where it is known.

    Raises:
      InputError: no ray of an unmasked pixel meets the source grid.
    """

    def __init__(self, lensing, blur, data, weight, source_shape, flux_outside=0.0):
        self.flux_outside = flux_outside
        self.lensing, self.blur, self.source_shape = sp.csr_matrix(lensing), blur, tuple(source_shape)
        self.lensing_adjoint = self.lensing.T.tocsr()
        self.data, self.weight = np.asarray(data, np.float64), np.asarray(weight, np.float64)
        self.gradient_at_zero = self.adjoint(self.weight * self.data)
        """D = A^T C_N^-1 d, [n, m]."""
        # Tails of a Gaussian and the rounding of transforms see every pixel, a little.
        if self.adjoint(self.weight).max(initial=0) <= _UNSEEN * self.weight.max():
            raise InputError(
                "No unmasked pixel sees the source grid; check the lens, the mask, and the source grid's size."
            )

    @classmethod
    @_double_precision()
    def from_observation(cls, observation, lens, source_shape, source_pixel_scale):
        """The system of an `Observation` seen through a lens of any mass model; `flux_outside` is then known."""
        batch = batch_of([observation], [lens], [source_pixel_scale], "float64")
        inputs = {name: ops.convert_to_tensor(array, dtype=array.dtype.name) for name, array in batch.items()}
        problem = imaging_problem(inputs, source_shape, lens.mass)
        index = ops.convert_to_numpy(problem.lensing.index).reshape(-1)
        weight = ops.convert_to_numpy(problem.lensing.weight).reshape(-1)
        pixels = observation.image.size
        lensing = sp.csr_matrix(
            (weight, index, np.arange(0, weight.size + 1, 4)), shape=(pixels, source_shape[0] * source_shape[1])
        )
        lensing.sum_duplicates()  # corners off the grid all point to pixel 0, with weight 0
        lensing.eliminate_zeros()
        if isinstance(observation.psf, float):
            gaussian = problem.instrument.blur
            blur = SeparableBlur(
                *(ops.convert_to_numpy(along)[0] for along in (gaussian.along_rows, gaussian.along_columns))
            )
        else:
            blur = SeparableBlur.from_stamp(observation.psf, observation.shape)
            blur = blur or FourierBlur(observation.psf, observation.shape)
        data, weight = (ops.convert_to_numpy(each)[0] for each in (problem.data, problem.weight))
        flux_outside = float(ops.convert_to_numpy(problem.flux_outside())[0])
        # A batch is in units of its own; back to those of the data, without rounding, as a unit is a power of two.
        unit = observation.unit
        return cls(lensing, blur, unit * data, weight / unit**2, source_shape, flux_outside)

    def in_units_of(self, unit):
        """The same system with the brightness `unit` as one."""
        data, weight = self.data / unit, self.weight * unit**2
        return LinearSystem(self.lensing, self.blur, data, weight, self.source_shape, self.flux_outside)

    def forward(self, source):
        """A s = B L s, [..., n, m] -> [..., rows, columns] (Eq. 5)."""
        return self.blur.forward(_apply(self.lensing, source, self.data.shape))

    def adjoint(self, image):
        """A^T, [..., rows, columns] -> [..., n, m]."""
        return _apply(self.lensing_adjoint, self.blur.adjoint(image), self.source_shape)

    def curvature(self, source):
        """F s, [..., n, m] -> the same."""
        image = self.forward(source)
        image *= self.weight
        return self.adjoint(image)

    def chi2(self, source):
        """Sum over the unmasked pixels of the squared residual in units of the noise."""
        return float((self.weight * (self.data - self.forward(source)) ** 2).sum())

    @property
    def noise_normalisation(self):
        """N_d log 2 pi + log det C_N over the unmasked pixels."""
        used = self.weight[self.weight > 0]
        return float(used.size * np.log(2 * np.pi) - np.log(used).sum())

    @property
    def _has_short_way(self):
        """Whether `SeparableBlur.normal_matrix` and what it goes through fit into memory."""
        few = self.data.size <= DENSE_IMAGE_PIXELS and max(self.data.shape) ** 3 <= _BLOCK
        return few and isinstance(self.blur, SeparableBlur)

    @functools.cached_property
    def curvature_matrix(self):
        """F = A^T C_N^-1 A, dense, [n m, n m] in Fortran's order; symmetric but for rounding."""
        if self._has_short_way:
            # L has four entries in a row, so that what costs is B^T C_N^-1 B, for which there is a short way.
            half = self.lensing_adjoint @ self.blur.normal_matrix(self.weight)
            return np.asfortranarray((self.lensing_adjoint @ np.ascontiguousarray(half.T)).T)
        n_source = self.source_shape[0] * self.source_shape[1]
        F = np.empty((n_source, n_source), order="F")
        step = max(1, _BLOCK // self.data.size)
        for start in range(0, n_source, step):
            columns = self.lensing[:, start : start + step].T.toarray().reshape(-1, *self.data.shape)
            lensed = self.blur.adjoint(self.weight * self.blur.forward(columns))
            F[:, start : start + step] = self.lensing_adjoint @ lensed.reshape(len(columns), -1).T
        return F


def _apply(matrix, x, shape):
    """A sparse matrix to each of a stack of flattened images."""
    stack = x.shape[:-2]
    if not stack:
        return (matrix @ x.reshape(-1)).reshape(shape)
    return np.ascontiguousarray((matrix @ np.ascontiguousarray(x.reshape(-1, matrix.shape[1]).T)).T).reshape(
        *stack, *shape
    )


class SeparableBlur:
    """B as a matrix along the columns of the image times one along its rows, as for a Gaussian PSF.

    Args:
      along_rows: what becomes of one column of the image, [rows, rows].
      along_columns: what becomes of one row, [columns, columns].
    """

    def __init__(self, along_rows, along_columns):
        self.along_rows, self.along_columns = along_rows, along_columns
        self._forward = _bands(along_rows), _bands(along_columns)
        self._adjoint = _bands(along_rows.T), _bands(along_columns.T)
        self.energy = float((along_rows**2).sum(axis=0).max() * (along_columns**2).sum(axis=0).max())
        """Sum of the squares of the PSF."""

    @classmethod
    def from_stamp(cls, psf, shape):
        """The blur of a stamp [k, l] that is a product to the rounding of float32, or None."""
        left, size, right = np.linalg.svd(psf.astype(np.float64), full_matrices=False)
        if len(size) > 1 and size[1] > _SEPARABLE * size[0]:
            return None
        root = np.sqrt(size[0]) * np.sign(left[:, 0].sum())
        return cls(_convolution_matrix(root * left[:, 0], shape[0]), _convolution_matrix(root * right[0], shape[1]))

    def forward(self, image):
        """[..., rows, columns] -> the same."""
        return _two_sided(image, *self._forward)

    def adjoint(self, image):
        """The transpose."""
        return _two_sided(image, *self._adjoint)

    def normal_matrix(self, weight):
        """B^T diag(weight) B, [rows columns, rows columns].

        Element (i j, k l) is sum_r R_ri R_rk (sum_c C_cj C_cl w_rc): two small products in place of a large one.
        """
        rows, columns = weight.shape
        pairs_of_rows = (self.along_rows[:, :, None] * self.along_rows[:, None, :]).reshape(rows, rows**2)
        pairs_of_columns = (self.along_columns[:, :, None] * self.along_columns[:, None, :]).reshape(columns, -1)
        product = pairs_of_rows.T @ (weight @ pairs_of_columns)
        return product.reshape(rows, rows, columns, columns).transpose(0, 2, 1, 3).reshape(weight.size, weight.size)


def _convolution_matrix(profile, n):
    """[n, n] matrix of the convolution with a profile of odd length, cut off at the frame."""
    half = len(profile) // 2
    return sum(profile[half + k] * np.eye(n, k=-k) for k in range(-half, half + 1) if abs(k) < n)


def _two_sided(image, row_bands, column_bands):
    half, whole = np.empty_like(image), np.empty_like(image)
    for inside, reach, matrix in column_bands:
        np.matmul(image[..., reach], matrix.T, out=half[..., inside])
    for inside, reach, matrix in row_bands:
        np.matmul(matrix, half[..., reach, :], out=whole[..., inside, :])
    return whole


def _bands(matrix):
    """Blocks (slice of rows, slice of the columns that they reach, block) of a matrix near to its diagonal."""
    near = np.abs(matrix) > _NOTHING * np.abs(matrix).max()
    bands = []
    for start in range(0, len(matrix), _BAND):
        reached = np.flatnonzero(near[start : start + _BAND].any(axis=0))
        inside = slice(start, min(start + _BAND, len(matrix)))
        reach = slice(reached[0], reached[-1] + 1) if reached.size else slice(0, 1)
        bands.append((inside, reach, np.ascontiguousarray(matrix[inside, reach])))
    return bands


class FourierBlur:
    """Convolution with any stamp by Fourier transforms, zero beyond the frame, as `rim_tf.physics.psf.StampBlur`.

    Args:
      psf: [k, l], odd sides.
      shape: rows and columns of the image.
    """

    def __init__(self, psf, shape):
        self.psf, self.shape = np.asarray(psf, np.float64), tuple(shape)
        self.half = tuple(side // 2 for side in self.psf.shape)
        # Only what stays in the frame matters, so that a margin of half a stamp keeps it from wrapping around.
        self.padded = tuple(scipy.fft.next_fast_len(n + h, real=True) for n, h in zip(shape, self.half, strict=True))
        centred = np.zeros(self.padded)
        rows, columns = (np.arange(-h, h + 1) for h in self.half)
        # A stamp may be larger than the image; what of it no pair of pixels can reach is left out.
        near = np.ix_(np.abs(rows) < shape[0], np.abs(columns) < shape[1])
        np.add.at(centred, np.ix_(rows[np.abs(rows) < shape[0]], columns[np.abs(columns) < shape[1]]), self.psf[near])
        self.transfer = scipy.fft.rfft2(centred)
        self.energy = float((self.psf**2).sum())
        """Sum of the squares of the PSF."""

    def forward(self, image):
        """[..., rows, columns] -> the same."""
        return self._convolve(image, self.transfer)

    def adjoint(self, image):
        """The transpose: correlation with the stamp."""
        return self._convolve(image, self.transfer.conj())

    def _convolve(self, image, transfer):
        product = scipy.fft.rfft2(image, self.padded) * transfer
        return scipy.fft.irfft2(product, self.padded)[..., : self.shape[0], : self.shape[1]]
