"""The lens from its image alone: the estimator looks at the frame and at smaller fields in its middle.

Where the ring takes up a small part of the frame the estimator is lost, and says so: of all looks that one counts that
is surest of the Einstein radius.
"""

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

# Widths of the fields that are looked at, as shares of the frame's shorter side, and by what the uncertainty of each
# is multiplied before they are compared: of a field in which there is no ring, the core of the lens galaxy seems one.
_LOOKS = ((1.0, 1.0), (0.75, 1.0), (0.55, 1.2), (0.4, 2.0), (0.3, 3.0))
# Fewer pixels of the frame than this show no ring.
_LEAST_FIELD = 24
# Looks whose Einstein radii differ by a smaller share say the same.
_SAME_RADIUS = 0.05
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
      others: what other fields say, where it is something else, the surest first.
    """

    lens: Lens
    covariance: np.ndarray
    samples: np.ndarray
    field: float
    others: tuple["LensEstimate", ...] = ()

    @property
    def uncertainty(self):
        """Standard deviation of theta_E over theta_E."""
        return float(np.sqrt(self.covariance[0, 0]) / self.lens.theta_E)

    def starts(self, n):
        """The first n of: the mean, those of `others`, then samples, as lenses."""
        means = [self.lens, *(other.lens for other in self.others)][:n]
        return means + [lens_of(self.lens.mass, each) for each in self.samples[: max(n - len(means), 0)]]

    def distance(self, lens, centred=0.0):
        """How far a lens is from the mean, in standard deviations of each parameter, [columns].

        Args:
          lens: of the same mass model.
          centred: by what the mass may be off the light that shows its centre, standard deviation [theta_E].
        """
        is_centre = np.isin(lens.mass.names, ("x_lens", "y_lens"))
        variance = np.diag(self.covariance) + np.where(is_centre, centred * lens.theta_E, 0.0) ** 2
        return (np.array(lens.as_tuple()) - self.lens.as_tuple()) / np.sqrt(variance)


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
    side = min(observation.shape)
    looks = [(share, factor) for share, factor in _LOOKS if share == 1 or share * side >= _LEAST_FIELD]
    fields = [share * side * observation.pixel_scale for share, _ in looks]
    found = _looks(observation, model, fields, seed)
    order = np.argsort([each.uncertainty * factor for each, (_, factor) in zip(found, looks, strict=True)])
    best, others = found[order[0]], []
    for each in (found[i] for i in order[1:]):
        if all(abs(each.lens.theta_E / other.lens.theta_E - 1) > _SAME_RADIUS for other in (best, *others)):
            others.append(each)
    return dataclasses.replace(best, others=tuple(others))


def _looks(observation, model, fields, seed):
    """A `LensEstimate` from each of the fields."""
    mass, n = model.mass, len(fields)
    # A batch has lenses, which the estimator does not read.
    inputs = batch_of([observation] * n, [LensParameters(1.0)] * n, [observation.pixel_scale] * n)
    inputs = {name: tf.constant(inputs[name]) for name in _SEEN}
    head = _head(model, not isinstance(observation.psf, float))(inputs, tf.constant(fields, tf.float32))
    found = ops.convert_to_numpy(LensPosterior(head, mass).sample(_SAMPLES, seed)).astype(np.float64)
    estimates = []
    for samples, field in zip(found, fields, strict=True):
        mean = samples.mean(0)
        mean[0] = np.median(samples[:, 0])
        estimates.append(LensEstimate(lens_of(mass, mean), np.cov(samples.T), samples, field))
    return estimates


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
