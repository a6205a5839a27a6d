"""Whole lenses: an `Observation` in, what `rim_tf.io` writes as FITS out.

Of rim_tf only modules are imported that need NumPy and astropy alone.
"""

import dataclasses
import time

import numpy as np

from rim_tf.results import SourceFit
from rim_tf.systems import batch_of, source_grid

# What the shipped networks round the sides of a source grid up to; the server decides, this is for the batch alone.
_STRIDE = 2


@dataclasses.dataclass(frozen=True)
class SevenNumbers:
    """A singular isothermal ellipsoid with shear, as `rim_tf.LensParameters` for those who have no Keras.

    Attributes: see there.
    """

    theta_E: float
    e1: float = 0.0
    e2: float = 0.0
    x_lens: float = 0.0
    y_lens: float = 0.0
    gamma1: float = 0.0
    gamma2: float = 0.0

    mass = "SIE with shear"  # by which batches are told apart

    def as_tuple(self):
        """In the order of the tensor `lens`."""
        return dataclasses.astuple(self)

    def to_dict(self):
        """What lens.json holds of it."""
        return dataclasses.asdict(self)

    named = to_dict

    def moved(self, centre):
        """The same lens with its centre `centre` = x, y [arcsec] further."""
        return dataclasses.replace(self, x_lens=self.x_lens + centre[0], y_lens=self.y_lens + centre[1])

    def moved_source(self, centre):
        """Where the middle of the source plane then lies: less what the shear, which stays, deflects there."""
        x, y = centre
        return x - self.gamma1 * x - self.gamma2 * y, y - self.gamma2 * x + self.gamma1 * y


@dataclasses.dataclass(frozen=True)
class Found:
    """A lens and its source, from the image alone.

    Attributes:
      source_fit: `rim_tf.results.SourceFit`, whose lens is the one that was found.
      covariance: of the lens's parameters, [7, 7].
      field: width of the image that it was found in [arcsec].
    """

    source_fit: SourceFit
    covariance: np.ndarray
    field: float


def reconstruct(client, observation, lens):
    """The source behind a known lens.

    Args:
      client: `rim_tf_client.Client`.
      observation: `rim_tf.observation.Observation`.
      lens: `SevenNumbers`, `rim_tf.LensParameters`, or a `rim_tf.CompositeLens` of the components that the model was
        exported for (`mass_models`).

    Returns:
      `rim_tf.results.SourceFit`.

    Raises:
      ServerError: as of `Client.predict`.
    """
    return _fit(observation, lens, *_asked(client, "serving_default", "gaussian_psf", observation, lens))


def model(client, observation, lens_class=SevenNumbers):
    """Lens and source from the image alone, by the estimator and the RIM; nothing is fitted.

    Args:
      client: as of `reconstruct`.
      observation: likewise, without the light of a lens galaxy.
      lens_class: called with the numbers of the lens that was found.

    Returns:
      `Found`.
    """
    outputs, seconds = _asked(client, "model", "model_gaussian_psf", observation, None)
    lens = lens_class(*map(float, outputs["lens"][0]))
    return Found(_fit(observation, lens, outputs, seconds), outputs["lens_covariance"][0], float(outputs["field"][0]))


def mass_models(client):
    """Of which components the lenses of a model on a server are.

    Args:
      client: `rim_tf_client.Client`.

    Returns:
      Types of the components of the lens that `reconstruct` takes, and of the one that `model` finds; an empty tuple
      where the model finds none.

    Raises:
      ServerError: as of `Client.predict`; also of a model that does not say, which rim_tf 0.2 exported.
    """
    said = client.predict("about", {"item": np.zeros(1, np.int32)})
    names = ("mass_model", "found_mass_model")
    return tuple(tuple(word.decode() for word in said[name][0]) if name in said else () for name in names)


def _asked(client, of_stamps, of_gaussians, observation, lens):
    started = time.perf_counter()
    _, scale = source_grid(observation, _STRIDE)
    inputs = batch_of([observation], [SevenNumbers(1.0) if lens is None else lens], [scale])
    if lens is None:
        del inputs["lens"]
    outputs = client.predict(of_gaussians if isinstance(observation.psf, float) else of_stamps, inputs)
    return outputs, time.perf_counter() - started


def _fit(observation, lens, outputs, seconds):
    return SourceFit(
        source=observation.in_data_units(outputs["source"][0]),
        source_pixel_scale=source_grid(observation, _STRIDE)[1],
        model_image=observation.in_data_units(outputs["model_image"][0]),
        observation=observation,
        lens=lens,
        chi2_per_pixel=float(outputs["chi2_per_pixel"][0]),
        flux_outside=float(outputs["flux_outside"][0]),
        seconds=seconds,
    )
