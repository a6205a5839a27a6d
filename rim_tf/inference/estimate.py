"""The lens from its image alone: the estimator looks at the whole frame, and again at the ring that it found."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.config import ModelConfig
from rim_tf.lens import Lens, LensParameters, lens_of
from rim_tf.models.estimator import Estimator
from rim_tf.models.mixture import LensPosterior
from rim_tf.models.pretrained import load_pretrained
from rim_tf.observation import Observation
from rim_tf.systems import GAUSSIAN_PSF, IMAGING, batch_of

# Width of what the second look sees [theta_E]: the ring takes up about half of it, as in the training set's middle.
_FIELD = 4.5
# A look at more than this share of the first one would show the same.
_SAME_FIELD = 0.9
# Samples that moments are taken of: the bijection is not linear.
_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class LensEstimate:
    """What the estimator says of one lens.

    Attributes:
      lens: the posterior's mean; that of theta_E is the median, since its tails are long.
      covariance: of the parameters, [columns, columns].
      samples: lenses drawn from the posterior, [n, columns].
      field: width of the image that it was found in [arcsec].
    """

    lens: Lens
    covariance: np.ndarray
    samples: np.ndarray
    field: float

    def starts(self, n):
        """The first n of: the mean, then samples, as lenses."""
        return [self.lens, *(lens_of(self.lens.mass, each) for each in self.samples[: max(n - 1, 0)])][:n]

    def distance(self, lens):
        """How far a lens is from the mean, in standard deviations of each parameter, [columns]."""
        return (np.array(lens.as_tuple()) - self.lens.as_tuple()) / np.sqrt(np.diag(self.covariance))


def estimate_lens(
    observation: Observation, model: Estimator | str = ModelConfig.estimator, seed: int = 0
) -> LensEstimate:
    """The lens in an image, with or without the lens galaxy in it.

    Args:
      observation: `Observation`, the lens within some hundredths of the field from its middle.
      model: an `Estimator`, or the name of shipped weights.
      seed: of the samples, from 0 to 2^30.

    Returns:
      `LensEstimate`.
    """
    model = load_pretrained(model, "estimator") if isinstance(model, str) else model
    whole = min(observation.shape) * observation.pixel_scale
    first = _look(observation, model, whole, seed)
    field = _FIELD * first.lens.theta_E
    return first if field > _SAME_FIELD * whole else _look(observation, model, field, seed)


def _look(observation, model, field, seed):
    mass = model.mass
    # A batch has a lens, which the estimator does not read.
    inputs = batch_of([observation], [LensParameters(1.0)], [observation.pixel_scale])
    inputs = {name: tf.constant(inputs[name]) for name in _SEEN}
    head = _head(model, not isinstance(observation.psf, float))(inputs, tf.constant([field], tf.float32))
    posterior = LensPosterior(head, mass)
    samples = ops.convert_to_numpy(posterior.sample(_SAMPLES, seed))[0].astype(np.float64)
    mean = samples.mean(0)
    mean[0] = np.median(samples[:, 0])
    return LensEstimate(lens_of(mass, mean), np.cov(samples.T), samples, field)


_SEEN = ("image", "noise_rms", "mask", "psf", "pixel_scale")


@functools.lru_cache(maxsize=4)
def _head(model, stamps):
    """The head of the posterior for the inputs of a batch and the fields that are looked at; traced once."""
    axes = {name: IMAGING[name].axes for name in _SEEN}
    if not stamps:
        axes["psf"] = GAUSSIAN_PSF.axes
    specification = {name: tf.TensorSpec([None] * len(axes[name]), IMAGING[name].dtype) for name in _SEEN}

    @tf.function(input_signature=[specification, tf.TensorSpec([None], tf.float32)], autograph=False)
    def head(inputs, field):
        return model.posterior(inputs, field).head

    return head
