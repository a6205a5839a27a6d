"""What any method returns: a source, and how well it explains the data."""

from __future__ import annotations

import dataclasses
import typing
import warnings

import numpy as np

if typing.TYPE_CHECKING:
    from rim_tf.lens import Lens
    from rim_tf.observation import Observation

# Say aloud that more than this share of an image's light comes from outside the source grid.
_FLUX_OUTSIDE = 0.02
# Chi^2 per pixel that nobody should believe. Of 1000 unseen lenses with the true lens given, 0.4 % were above the first
# on pixels of 0.08", and 4 % on pixels of 0.03-0.1", nearly all of a noise below _FAINT_NOISE of the peak, where
# the network itself does not reach the noise. Noise maps of drizzled images that are too large by half give 0.4.
_CHI2_TOO_HIGH, _CHI2_TOO_LOW = 1.3, 0.1
_FAINT_NOISE = 0.003


def correlation_of_neighbours(residual, mask):
    """How alike neighbouring residuals are, along rows and along columns.

    Args:
      residual: [..., rows, columns], of any scale.
      mask: true where a pixel is used, the same shape.

    Returns:
      Correlation coefficient, NaN where there is nothing to tell it by; sum of the products of neighbours; and number
      of their pairs: three arrays [...].
    """
    residual, axes = np.where(mask, residual, 0.0).astype(float), (-2, -1)
    products = np.sum(residual[..., 1:] * residual[..., :-1], axes)
    products += np.sum(residual[..., 1:, :] * residual[..., :-1, :], axes)
    n_pairs = np.sum(mask[..., 1:] & mask[..., :-1], axes) + np.sum(mask[..., 1:, :] & mask[..., :-1, :], axes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / n_pairs / (np.sum(residual**2, axes) / np.sum(mask, axes)), products, n_pairs


def half_light_radius(image):
    """Radius of the circle about the centre of light that holds half of the light [pixels]; light below 0 is left out.

    Args:
      image: [rows, columns].
    """
    image = np.maximum(image, 0)
    row, column = np.indices(image.shape)
    centre = centre_of_light(image)
    radius = np.hypot(row - centre[0], column - centre[1]).ravel()
    order = np.argsort(radius)
    enclosed = np.cumsum(image.ravel()[order], dtype=float)
    return float(np.interp(0.5 * enclosed[-1], enclosed, radius[order]))


def centre_of_light(image):
    """(row, column) of an image's mean, weighted by its light."""
    total = np.sum(image, dtype=float)
    rows, columns = np.sum(image, axis=1, dtype=float), np.sum(image, axis=0, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([np.dot(rows, np.arange(rows.size)), np.dot(columns, np.arange(columns.size))]) / total


def source_figures(sources, source_pixel_scale, seen):
    """What each of some sources comes to.

    Args:
      sources: surface brightness, [k, n, m].
      source_pixel_scale: [arcsec].
      seen: of a source pixel of brightness one, the flux in the image [arcsec^2], [n, m].

    Returns:
      {name: [k]} of flux [image units arcsec^2], magnification, NaN for a source without flux, source_peak and
      half_light_radius [arcsec], all as in `SourceFit`.
    """
    flux = np.sum(sources, axis=(1, 2), dtype=float) * source_pixel_scale**2
    image_flux = np.einsum("kxy,xy->k", sources, seen, dtype=float)
    return {
        "flux": flux,
        "magnification": np.where(flux > 0, image_flux / np.where(flux > 0, flux, 1.0), np.nan),
        "source_peak": np.max(sources, axis=(1, 2)).astype(float),
        "half_light_radius": source_pixel_scale * np.array([half_light_radius(source) for source in sources]),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceErrors:
    """What the source of a lens may be, as draws.

    Attributes:
      samples: the draws, [k, n, m], in the units of the image.
      figures: what a source like each of them comes to, by the names of `source_figures`; of the RIM, spread as mocks
        show that they must be (`rim_tf.inference.figure_calibration`), beside a lens galaxy by what may be its light
        (`rim_tf.inference.halo`), and so not quite what `samples` have.
    """

    samples: np.ndarray
    figures: dict

    @classmethod
    def together(cls, several):
        """All draws of a list of `SourceErrors`, such as those of many lenses of one observation."""
        figures = {name: np.concatenate([each.figures[name] for each in several]) for name in several[0].figures}
        return cls(samples=np.concatenate([each.samples for each in several]), figures=figures)

    def summary(self):
        """Of each figure the median, the 16th and 84th percentile and half the distance of these, the error.

        Draws that have no such figure, as those without light have no magnification, do not count; NaN where none has.
        """
        found = {}
        for name, values in self.figures.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN
                low, median, high = np.nanquantile(values, (0.16, 0.5, 0.84)).tolist()
            found[name] = {"error": (high - low) / 2, "p16": low, "median": median, "p84": high}
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFit:
    """The source of one lens, by whatever method, and how well it explains the data.

    Attributes:
      source: surface brightness in the units of the image, [n, m], row 0 the smallest y, centred on (0, 0).
      source_pixel_scale: [arcsec].
      model_image: B L source, [rows, columns] (Eq. 5).
      observation: what it was made from.
      lens: likewise, `LensParameters` or `CompositeLens`.
      chi2_per_pixel: chi^2 for each unmasked pixel; near 1 where the residual is noise.
      flux_outside: share of the observed flux whose rays miss the source grid.
      seconds: wall-clock time of the call, shared out over the systems of its batch.
      standard_deviation: of each pixel of the source, [n, m]; None where the method gives none.
      errors: `SourceErrors`, where they were asked for.
    """

    source: np.ndarray
    source_pixel_scale: float
    model_image: np.ndarray
    observation: Observation
    lens: Lens
    chi2_per_pixel: float
    flux_outside: float
    seconds: float
    standard_deviation: np.ndarray | None = None
    errors: SourceErrors | None = None

    @property
    def residual(self):
        """Data minus model in units of the noise, NaN where masked, [rows, columns]."""
        residual = (self.observation.image - self.model_image) / self.observation.noise
        return np.where(self.observation.mask, residual, np.nan)

    @property
    def flux(self):
        """Flux of the source: surface brightness times area [image units arcsec^2]."""
        return float(self.source.sum(dtype=np.float64) * self.source_pixel_scale**2)

    @property
    def magnification(self):
        """Flux of the model image over flux of the source; NaN for a source without flux."""
        image_flux = self.model_image.sum(dtype=np.float64) * self.observation.pixel_scale**2
        return float(image_flux / self.flux) if self.flux > 0 else float("nan")

    @property
    def half_light_radius(self):
        """Radius of the circle that holds half the source's light [arcsec]; NaN for a source without light."""
        return half_light_radius(self.source) * self.source_pixel_scale

    def summary(self):
        """Every number that describes the result, as plain Python values for JSON or a table."""
        residual = self.residual
        used = self.observation.mask
        errors = {} if self.errors is None else {"source_errors": self.errors.summary()}
        return {
            "chi2_per_pixel": self.chi2_per_pixel,
            "n_pixels": int(used.sum()),
            "flux": self.flux,
            "magnification": self.magnification,
            "source_peak": float(self.source.max()),
            "half_light_radius": self.half_light_radius,
            "source_pixel_scale": self.source_pixel_scale,
            "source_shape": list(self.source.shape),
            "flux_outside_source_grid": self.flux_outside,
            "residual_mean": float(np.nanmean(residual)),
            "residual_largest": float(np.nanmax(np.abs(residual))),
            "residual_beyond_3_sigma": float((np.abs(residual[used]) > 3).mean()),
            "residual_neighbour_correlation": float(correlation_of_neighbours(residual, used)[0]),
            "seconds": self.seconds,
            **errors,
        }

    def doubts(self):
        """Reasons not to believe the result, a list of sentences, empty where nothing looks wrong."""
        found = []
        if self.flux_outside > _FLUX_OUTSIDE:
            width = self.source.shape[1] * self.source_pixel_scale
            found.append(
                f"{100 * self.flux_outside:.0f} % of the image's flux comes from outside the source grid, which is "
                f"{width:.2f} arcsec wide; make it wider (source_pixels, source_pixel_scale), mask what is not the "
                "lensed source, or check the lens parameters."
            )
        if self.chi2_per_pixel > _CHI2_TOO_HIGH:
            peak = float(self.model_image.max())
            noise = float(np.median(self.observation.noise[self.observation.mask])) / peak if peak > 0 else np.inf
            faint = f", or the network falls short of a noise of {100 * noise:.2g} % of the peak"
            found.append(
                f"chi^2 per pixel is {self.chi2_per_pixel:.3g}, so the model does not explain the image; probably the "
                "lens parameters are wrong (fit them), lens light is left, the PSF is another, or the noise is given "
                f"too small{faint if noise < _FAINT_NOISE else ''}."
            )
        if self.chi2_per_pixel < _CHI2_TOO_LOW:
            found.append(
                f"chi^2 per pixel is {self.chi2_per_pixel:.3g}, far below 1, so the noise is given too large; it must "
                "be a standard deviation in the units of the image, neither a variance nor a weight."
            )
        return found

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

    def summary(self):
        """As of `SourceFit`, and how many steps the network took."""
        return super().summary() | {"steps": len(self.iterates)}
