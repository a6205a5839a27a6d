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
from rim_tf.inference.misfit import specification
from rim_tf.lens import Lens, LensParameters, lens_of
from rim_tf.models.estimator import Estimator
from rim_tf.models.looks import SEEN, judge, see
from rim_tf.models.pretrained import load_pretrained
from rim_tf.observation import Observation
from rim_tf.systems import batch_of

# Looks whose Einstein radii differ by a smaller share say the same.
_SAME_RADIUS = 0.05


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
        radius = self.lens.mass.radius
        return float(np.sqrt(self.covariance[radius, radius]) / self.lens.theta_E)

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
    found = _looks(observation, model, seed)
    best, others = found[0], []
    for each in found[1:]:
        if all(abs(each.lens.theta_E / other.lens.theta_E - 1) > _SAME_RADIUS for other in (best, *others)):
            others.append(each)
    return dataclasses.replace(best, others=tuple(others))


def _looks(observation, model, seed):
    """A `LensEstimate` from each field that is large enough, the surest first."""
    # A batch has lenses, which the estimator does not read.
    inputs = batch_of([observation], [LensParameters(1.0)], [observation.pixel_scale])
    seen = _see(model, not isinstance(observation.psf, float))({name: tf.constant(inputs[name]) for name in SEEN})
    looks = judge(*seen, model.mass, seed)
    looks = {name: ops.convert_to_numpy(each)[0].astype(np.float64) for name, each in looks.items()}
    estimates = []
    for i in np.argsort(looks["doubt"]):
        if np.isfinite(looks["doubt"][i]):
            lens, covariance, samples, field = (looks[name][i] for name in ("lens", "covariance", "samples", "field"))
            estimates.append(LensEstimate(lens_of(model.mass, lens), covariance, samples, float(field)))
    return estimates


@functools.lru_cache(maxsize=4)
def _see(model, stamps):
    """`rim_tf.models.looks.see` for the inputs of a batch; traced once."""

    @tf.function(input_signature=[specification(stamps, SEEN)], autograph=False)
    def traced(inputs):
        return see(model, inputs)

    return traced
