"""What any method returns: a source, and how well it explains the data."""

import dataclasses
import functools

import numpy as np

from rim_tf.lens import LensParameters
from rim_tf.observation import Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFit:
    """The source of one lens, by whatever method, and how well it explains the data.

    Attributes:
      source: surface brightness in the units of the image, [n, m], row 0 the smallest y, centred on (0, 0).
      source_pixel_scale: [arcsec].
      model_image: B L source, [rows, columns] (Eq. 5).
      observation, lens: what it was made from.
      seconds: wall-clock time of the call, shared out over the systems of its batch.
      flux_outside: share of the observed flux whose rays miss the source grid.
      standard_deviation: of each pixel of the source, [n, m]; None where the method gives none.
    """

    source: np.ndarray
    source_pixel_scale: float
    model_image: np.ndarray
    observation: Observation
    lens: LensParameters
    seconds: float
    flux_outside: float
    standard_deviation: np.ndarray | None = None

    @property
    def residual(self):
        """Data minus model in units of the noise, NaN where masked, [rows, columns]."""
        residual = (self.observation.image - self.model_image) / self.observation.noise
        return np.where(self.observation.mask, residual, np.nan)

    @functools.cached_property
    def chi2(self):
        """Chi^2 for each unmasked pixel; near 1 where the residual is noise."""
        return float(np.nanmean(self.residual**2))

    @property
    def flux(self):
        """Flux of the source: surface brightness times area [image units arcsec^2]."""
        return float(self.source.sum(dtype=np.float64) * self.source_pixel_scale**2)

    @property
    def magnification(self):
        """Flux of the model image over flux of the source; NaN for a source without flux."""
        image_flux = self.model_image.sum(dtype=np.float64) * self.observation.pixel_scale**2
        return float(image_flux / self.flux) if self.flux > 0 else float("nan")

    def summary(self):
        """Every number that describes the result, as plain Python values for JSON or a table."""
        residual = self.residual
        used = self.observation.mask
        neighbours = residual[:, 1:] * residual[:, :-1]
        return {
            "chi2_per_pixel": self.chi2,
            "n_pixels": int(used.sum()),
            "flux": self.flux,
            "magnification": self.magnification,
            "source_peak": float(self.source.max()),
            "source_pixel_scale": self.source_pixel_scale,
            "source_shape": list(self.source.shape),
            "flux_outside_source_grid": self.flux_outside,
            "residual_mean": float(np.nanmean(residual)),
            "residual_largest": float(np.nanmax(np.abs(residual))),
            "residual_beyond_3_sigma": float((np.abs(residual[used]) > 3).mean()),
            "residual_neighbour_correlation": float(np.nanmean(neighbours) / np.nanmean(residual**2)),
            "seconds": self.seconds,
        }

    def plot(self, truth=None):
        """A matplotlib Figure in the manner of the paper's Figure 3; `truth` [n, m] adds its last column."""
        from rim_tf.plots import plot_reconstruction

        return plot_reconstruction(self, truth)

    def save(self, path):
        """Write the FITS file that `rim_tf.io.write_reconstruction` describes."""
        from rim_tf.io import write_reconstruction

        write_reconstruction(self, path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(SourceFit):
    """A source by the RIM.

    Attributes:
      iterates: the source after each step of the network, [n_steps, n, m]; the last is `source`.
    """

    iterates: np.ndarray
