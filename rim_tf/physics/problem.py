"""d = A s + n for a batch of systems: rays are traced once, here, and all else follows from what is found.

A = B L: L lenses the source (`lensing`), and B is the instrument that sees the lensed sky. An instrument is an operator
with two more methods, so that nothing here assumes that its data are an image:

    forward(sky), adjoint(data)   exact transposes: [batch, rows, columns] <-> [batch, ...]
    peak(data, weight)            about the brightest the source can be, [batch], in the units of the data
    bright(data, weight)          the light that surely is in the sky, [batch, rows, columns], 0 where there is none
"""

import functools

from keras import ops

from rim_tf.physics import likelihood
from rim_tf.physics.operators import Compose

# Half a datum of coverage: the preconditioner trusts a source pixel seen by less only in part.
_DAMPING = 0.5


class Problem:
    """What was observed of a batch of sources, and how.

    Args:
      instrument: see above; `rim_tf.physics.imaging.Imaging` for instance.
      lensing: `LensingOperator`.
      data: [batch, ...], finite also where it has no weight.
      weight: inverse variance of each datum, 0 where it is not to be used, the same shape.

    Attributes: the arguments, and
      operator: A.
    """

    def __init__(self, instrument, lensing, data, weight):
        self.instrument, self.lensing, self.data, self.weight = instrument, lensing, data, weight
        self.operator = Compose(instrument, lensing)

    def in_units_of(self, unit):
        """The same problem with the brightness `unit` [batch] as one; nothing is traced anew."""
        unit = ops.reshape(unit, self._per_system)
        return Problem(self.instrument, self.lensing, self.data / unit, self.weight * unit**2)

    def through(self, lensing):
        """The same data of the same instrument, seen through another `LensingOperator`."""
        return Problem(self.instrument, lensing, self.data, self.weight)

    @property
    def _per_system(self):
        return (-1,) + (1,) * (len(self.data.shape) - 1)

    # ------------------------------------------------------------------------------------- a source and the data

    def model_image(self, source):
        """A s, what the instrument would see without noise, shaped like the data (Eq. 5)."""
        return self.operator.forward(source)

    def chi2(self, model_image):
        """Sum over the data of the squared residual in units of the noise, [batch]."""
        return likelihood.chi2(self.data, model_image, self.weight)

    def chi2_per_pixel(self, model_image):
        """Chi^2 for each datum that has weight, [batch]; 0 where none has."""
        return self.chi2(model_image) / ops.maximum(self.n_used, 1.0)

    def log_likelihood(self, model_image):
        """Eq. 6 with its normalisation, [batch]."""
        return likelihood.log_likelihood(self.data, model_image, self.weight)

    def score(self, source):
        """Gradient of the log-likelihood in the source, Eq. 7, shaped like it."""
        return likelihood.score(self.operator, source, self.data, self.weight)

    def flux_outside(self):
        """Share of the observed light whose rays miss the source grid, [batch]."""
        bright = self.instrument.bright(self.data, self.weight)
        outside = ops.sum(ops.where(self.lensing.outside, bright, 0.0), axis=(1, 2))
        total = ops.sum(bright, axis=(1, 2))
        return ops.where(total > 0, outside / ops.where(total > 0, total, 1.0), 0.0)

    # ------------------------------------------------------------------------------------- what a solver goes by

    @functools.cached_property
    def n_used(self):
        """Data of any weight, a float [batch]."""
        return ops.sum(ops.cast(self.weight > 0, self.weight.dtype), axis=self._axes)

    @functools.cached_property
    def mean_weight(self):
        """Over the data that are used, [batch]."""
        return ops.sum(self.weight, axis=self._axes) / ops.maximum(self.n_used, 1.0)

    @property
    def _axes(self):
        return tuple(range(1, len(self.data.shape)))

    @property
    def noise_level(self):
        """The noise of a typical datum, [batch]."""
        return 1 / ops.sqrt(self.mean_weight)

    @functools.cached_property
    def coverage(self):
        """A^T C_N^-1 1: the weight with which each source pixel is seen, [batch, n, m]."""
        return self.operator.adjoint(self.weight)

    @functools.cached_property
    def curvature_bound(self):
        """A diagonal above A^T C_N^-1 A, [batch, n, m].

        A has no negative entry and its rows sum to at most 1, so A^T C_N^-1 A is below diag(A^T C_N^-1 1): the
        step of SIRT, which converges for every lens, PSF, mask and noise map.
        """
        return self.coverage + _DAMPING * self.mean_weight[:, None, None]

    @functools.cached_property
    def log_coverage(self):
        """log(1 + coverage in data of mean weight), [batch, n, m]."""
        return ops.log1p(self.coverage / self.mean_weight[:, None, None])

    def backprojection(self):
        """Each source pixel the weighted mean of the data that see it: flux-normalised, not an adjoint."""
        return self.operator.adjoint(self.weight * self.data) / self.curvature_bound

    def peak(self):
        """About the brightest the source can be, [batch], in the units of the data."""
        return self.instrument.peak(self.data, self.weight)
