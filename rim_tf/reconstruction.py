"""From observations and their lenses to sources: the one call that most users make."""

import dataclasses
import functools
import time
import warnings

import numpy as np
from keras import ops

from rim_tf.config import SOURCE_SCALE_RATIO, LensParameters
from rim_tf.errors import InputError, InputWarning
from rim_tf.grids import PixelGrid
from rim_tf.observation import Observation, check_pixel_scale
from rim_tf.physics.deflection import ray_trace
from rim_tf.physics.imaging import imaging_operator
from rim_tf.pretrained import load_pretrained

# Warn where more than this share of an image's flux comes from outside the source grid.
_FLUX_OUTSIDE = 0.02
# Systems in one call of the network, which bounds the memory.
_BATCH = 16


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
        from rim_tf.evaluation.plots import plot_reconstruction

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


def reconstruct(observation, lens, model="small", source_pixel_scale=None, source_pixels=None):
    """The unlensed source of an observation, or of a list of them in as few calls of the network as possible.

    Args:
      observation: `Observation`, or a list of them with any noise maps, PSFs, masks, shapes and pixel scales.
      lens: `LensParameters`, or as long a list of them.
      model: a `RIM`, or the name of shipped weights.
      source_pixel_scale: [arcsec]; by default SOURCE_SCALE_RATIO times the image's, as in training.
      source_pixels: pixels on a side of the source grid; by default as many as the image's longer side. Rounded
        up to a multiple of the network's stride.

    Returns:
      `Reconstruction`, or a list of them in the order of the observations.

    Raises:
      InputError: lists of different lengths, or a source grid that is none.
    """
    if isinstance(observation, Observation):
        return reconstruct([observation], [lens], model, source_pixel_scale, source_pixels)[0]
    if isinstance(lens, LensParameters) or len(lens) != len(observation):
        n_lenses = 1 if isinstance(lens, LensParameters) else len(lens)
        raise InputError(f"There are {len(observation)} observations and {n_lenses} lenses; give one lens for each.")
    model = load_pretrained(model) if isinstance(model, str) else model
    grids = [source_grid(each, model.config.stride, source_pixel_scale, source_pixels) for each in observation]
    results = [None] * len(observation)
    for members in _batches(observation, grids):
        batch = _reconstruct_batch(
            [observation[i] for i in members], [lens[i] for i in members], [grids[i] for i in members], model
        )
        for i, result in zip(members, batch, strict=True):
            results[i] = result
    return results


def source_grid(observation, stride, pixel_scale, pixels):
    """(pixels on a side, pixel scale [arcsec]) of the source grid that `reconstruct` gives one observation."""
    if pixel_scale is None:
        pixel_scale = SOURCE_SCALE_RATIO * observation.pixel_scale
    pixel_scale = check_pixel_scale(pixel_scale, "source_pixel_scale")
    if pixels is None:
        pixels = max(observation.shape)
    if int(pixels) != pixels or pixels < 4:
        raise InputError(f"source_pixels is {pixels!r}; it must be a whole number of at least 4.")
    return -(-int(pixels) // stride) * stride, pixel_scale


def _batches(observations, grids):
    """Lists of indices that can share one call: equal image and source shapes, the same kind of PSF."""
    groups = {}
    for i, (each, (pixels, _)) in enumerate(zip(observations, grids, strict=True)):
        groups.setdefault((each.shape, pixels, isinstance(each.psf, float)), []).append(i)
    for members in groups.values():
        for start in range(0, len(members), _BATCH):
            yield members[start : start + _BATCH]


def network_inputs(observations, lenses, source_pixel_scales):
    """The dictionary that `RIM.call` takes, as float32 tensors, for observations of one shape and kind of PSF."""
    arrays = {
        "image": [each.image for each in observations],
        "noise_rms": [each.noise for each in observations],
        "psf": _stack_psfs([each.psf for each in observations]),
        "lens": [lens.as_tuple() for lens in lenses],
        "pixel_scale": [each.pixel_scale for each in observations],
        "source_pixel_scale": list(source_pixel_scales),
    }
    inputs = {name: ops.convert_to_tensor(np.asarray(value, np.float32)) for name, value in arrays.items()}
    return inputs | {"mask": ops.convert_to_tensor(np.stack([each.mask for each in observations]))}


def _stack_psfs(psfs):
    """Gaussian sigmas [batch], or stamps padded with zeros to the largest of them [batch, k, l]."""
    if isinstance(psfs[0], float):
        return psfs
    largest = np.max([psf.shape for psf in psfs], axis=0)
    margins = [(largest - psf.shape) // 2 for psf in psfs]  # whole, as all sides are odd
    return [np.pad(psf, [(m, m) for m in margin]) for psf, margin in zip(psfs, margins, strict=True)]


def _reconstruct_batch(observations, lenses, grids, model):
    started = time.perf_counter()
    shape = (grids[0][0], grids[0][0])
    inputs = network_inputs(observations, lenses, [scale for _, scale in grids])
    iterates = model(inputs, source_shape=shape)
    model_images = imaging_operator(inputs, shape).forward(iterates[:, -1])
    iterates, model_images = ops.convert_to_numpy(iterates), ops.convert_to_numpy(model_images)
    seconds = (time.perf_counter() - started) / len(observations)
    return [
        Reconstruction(
            source=iterates[i, -1],
            source_pixel_scale=grids[i][1],
            model_image=model_images[i],
            iterates=iterates[i],
            observation=observations[i],
            lens=lenses[i],
            seconds=seconds,
            flux_outside=share_outside(observations[i], lenses[i], *grids[i]),
        )
        for i in range(len(observations))
    ]


def share_outside(observation, lens, pixels, pixel_scale):
    """Share of the flux in pixels 3 sigma above the noise whose rays miss the source grid; warns above 2 %."""
    grid = PixelGrid(*observation.shape, pixel_scale=np.float32(observation.pixel_scale))
    parameters = ops.convert_to_tensor(np.asarray([lens.as_tuple()], np.float32))
    beta_x, beta_y = (ops.convert_to_numpy(beta)[0] for beta in ray_trace(*grid.coordinates(), parameters))
    bright = observation.mask & (observation.image > 3 * observation.noise)
    half_width = pixels * pixel_scale / 2
    outside = np.maximum(np.abs(beta_x), np.abs(beta_y)) > half_width
    total = observation.image[bright].sum()
    share = float(observation.image[bright & outside].sum() / total) if total > 0 else 0.0
    if share > _FLUX_OUTSIDE:
        warnings.warn(
            f"{100 * share:.0f} % of the image's flux comes from outside the source grid, which is "
            f"{2 * half_width:.2f} arcsec wide; make it wider (source_pixels, source_pixel_scale), mask what is not "
            "the lensed source, or check the lens parameters.",
            InputWarning,
            stacklevel=5,
        )
    return share
