"""Gaussian priors of a pixelated source, as linear inversion uses them: brightness, gradient, curvature.

The log-prior is -lambda E_S plus a constant, with E_S = 1/2 s^T H s (Suyu et al. 2006, Eqs. 4 and A1 to A3). All our H
are sums over the two axes, H = R (x) 1 + 1 (x) C with small matrices R (rows) and C (columns), so that the
eigenvectors of H are products of theirs. H^-1/2 and log det H then cost a few small matrix products on any grid,
which is what makes inversion without matrices possible.
"""

import functools
import math

import numpy as np
import scipy.sparse as sp

from rim_tf.config import BOUNDARIES, REGULARISATIONS
from rim_tf.errors import InputError

# Added to lambda H where H is singular [1 / brightness^2], so that the prior can be normalised; as in PyAutoLens.
# It is small only beside data whose brightness is about 1, which is why `invert` works in units of the peak.
_RIDGE = 1e-8
# An eigenvalue of H below this share of its largest is zero but for rounding.
_NULL = 1e-13
# Stands in for the eigenvalue 0 where H^-1/2 is only a preconditioner; in units of H, whose largest is 8 or 32.
_STAND_IN = 1e-6


class Regularisation:
    """H in E_S = 1/2 s^T H s, its spectrum and its powers, for sources [..., rows, columns].

    The prior's precision is lambda H + ridge, ridge being 0 wherever H is regular.

    Args:
      kind: "brightness", sum of s^2; "gradient", sum of the squared differences of neighbours; "curvature", sum of
        the squared second differences s_i - 2 s_i+1 + s_i+2 along rows and along columns.
      boundary: what the differences find beyond the grid. "zero": dark sky on all four sides. "suyu": dark sky
        beyond the last row and the last column, by lower differences there (Suyu et al. 2006, A2 and A3). "free":
        nothing; H is then singular, since a constant source (for curvature, also a plane and x y) costs nothing.
        Brightness has no differences, hence one form.
      shape: rows and columns of the source grid, each at least 4.

    Raises:
      InputError: an unknown kind or boundary, or a shape that is none.
    """

    def __init__(self, kind, boundary, shape):
        if kind not in REGULARISATIONS:
            raise InputError(f"regularisation is {kind!r}; it must be one of {', '.join(REGULARISATIONS)}.")
        if boundary not in BOUNDARIES:
            raise InputError(f"boundary is {boundary!r}; it must be one of {', '.join(BOUNDARIES)}.")
        if len(shape) != 2 or min(shape) < 4:
            raise InputError(f"The source grid is {tuple(shape)}; it must have two sides of at least 4 pixels.")
        self.kind, self.boundary, self.shape = kind, boundary, tuple(int(n) for n in shape)
        self.size = self.shape[0] * self.shape[1]
        along = [_differences(kind, boundary, n) for n in self.shape]
        self._squares = [d.T @ d for d in along]
        (rows, self.row_modes), (columns, self.column_modes) = (np.linalg.eigh(s.toarray()) for s in self._squares)
        spectrum = np.maximum(rows, 0)[:, None] + np.maximum(columns, 0)[None, :]
        null = spectrum < _NULL * spectrum.max()
        self.spectrum = np.where(null, 0.0, spectrum)
        """Eigenvalues of H, [rows, columns], ascending along both axes."""
        self.positive_spectrum = np.where(null, _STAND_IN, spectrum)
        self.rank = self.size - int(null.sum())
        self.ridge = _RIDGE if null.any() else 0.0

    @functools.cached_property
    def matrix(self):
        """H as SciPy CSR for sources flattened row by row, symmetric, [size, size], without unit."""
        rows, columns = self._squares
        return sp.csr_matrix(sp.kron(rows, sp.eye(self.shape[1])) + sp.kron(sp.eye(self.shape[0]), columns))

    def apply(self, source):
        """H s, [..., rows, columns]."""
        rows, columns = (square.toarray() for square in self._squares)
        return rows @ source + source @ columns

    def log_det(self, strength):
        """log det(lambda H + ridge)."""
        return float(np.log(strength * self.spectrum + self.ridge).sum())

    def to_modes(self, source):
        """Coefficients of the eigenvectors, [..., rows, columns]; orthogonal."""
        return self.row_modes.T @ source @ self.column_modes

    def from_modes(self, coefficients):
        """The inverse of `to_modes`, and its transpose."""
        return self.row_modes @ coefficients @ self.column_modes.T


def _differences(kind, boundary, n):
    """The differences along one axis, one in each row, [n or so, n], so that H is the sum of D^T D over the axes."""
    if kind == "brightness":
        return sp.csr_matrix(sp.eye(n) / math.sqrt(2))  # the two axes then add up to the identity
    first = sp.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n))
    second = sp.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
    first_pixel, last_pixel = (sp.csr_matrix(([1.0], ([0], [i])), shape=(1, n)) for i in (0, n - 1))
    if kind == "gradient":
        beyond = {"zero": [first_pixel, last_pixel], "suyu": [last_pixel], "free": []}
        return sp.csr_matrix(sp.vstack([first, *beyond[boundary]]))
    outermost = [sp.diags([-2.0, 1.0], [0, 1], shape=(1, n)), sp.diags([1.0, -2.0], [n - 2, n - 1], shape=(1, n))]
    beyond = {"zero": outermost, "suyu": [first.tocsr()[-1:], last_pixel], "free": []}
    return sp.csr_matrix(sp.vstack([second, *beyond[boundary]]))
