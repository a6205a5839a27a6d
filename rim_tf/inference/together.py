"""Lens and source found together by a network, from what an estimator says of the lens: a search without descent."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.config import JointConfig
from rim_tf.lens import Lens, lens_of
from rim_tf.models.joint import JointRIM
from rim_tf.observation import Observation
from rim_tf.systems import GAUSSIAN_PSF, IMAGING, batch_of

# It was trained with errors that much wider than the estimator's, and for half as many steps; its lens still gets
# better after these, though its errors do not.
_WIDER, _STEPS = 1.2, 2 * JointConfig.n_steps


@dataclasses.dataclass(frozen=True)
class Together:
    """What a network has found from several starts, the best first.

    Attributes:
      lenses: of the starts.
      chi2_per_pixel: with the source that belongs to each.
      path: parameters of the best, from its start on, one tuple for each step.
    """

    lenses: list[Lens]
    chi2_per_pixel: np.ndarray
    path: list[tuple]


def find_together(
    observation: Observation,
    starts: Sequence[Lens],
    samples: np.ndarray,
    model: JointRIM,
    n_steps: int = _STEPS,
) -> Together:
    """Lens and source from each of several starts, all in one call of the network.

    Args:
      observation: `Observation`, cut to about 2.3 theta_E, the lens galaxy taken off.
      starts: lenses of the network's mass model.
      samples: of the posterior that they are from, [n, columns], which say how uncertain they are.
      model: `JointRIM`.
      n_steps: how many.

    Returns:
      `Together`.
    """
    n, config = len(starts), model.config
    batch = batch_of([observation] * n, starts, [config.source_scale_ratio * observation.pixel_scale] * n)
    inputs = {name: tf.constant(value) for name, value in batch.items()}
    u = ops.convert_to_numpy(model.mass.to_real(tf.constant(samples, tf.float32)))
    error = _WIDER * np.maximum(u.std(0), 1e-4)
    inputs["start"] = model.mass.to_real(inputs.pop("lens"))
    inputs["start_error"] = tf.constant(np.tile(error, (n, 1)), tf.float32)
    lenses, chi2 = (each.numpy() for each in _traced(model, not isinstance(observation.psf, float))(inputs, n_steps))
    chi2 = np.where(np.isfinite(chi2) & np.isfinite(lenses).all((1, 2)), chi2, np.inf)
    order = [i for i in np.argsort(chi2, kind="stable") if np.isfinite(chi2[i])]
    return Together(
        [lens_of(model.mass, lenses[i, -1].astype(float)) for i in order],
        chi2[order],
        [tuple(map(float, each)) for each in lenses[order[0]]] if order else [],
    )


@functools.lru_cache(maxsize=4)
def _traced(model, stamps):
    """A function of the inputs of a batch and the number of steps -> what `JointRIM.search` returns; traced once."""
    names = [name for name in IMAGING if name != "lens"]
    axes = {name: IMAGING[name].axes for name in names}
    if not stamps:
        axes["psf"] = GAUSSIAN_PSF.axes
    specification = {
        name: tf.TensorSpec([None] * len(axes[name]), IMAGING[name].dtype if name == "mask" else "float32")
        for name in names
    }
    of_lens = tf.TensorSpec([None, model.mass.size])
    specification |= {"start": of_lens, "start_error": of_lens}

    @tf.function(input_signature=[specification, tf.TensorSpec([], tf.int32)], autograph=False)
    def traced(inputs, n_steps):
        return model.search(inputs, n_steps)

    return traced
