"""Lens and source found together by a network, from what an estimator says of the lens: a search without descent."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.errors import InputError
from rim_tf.inference.misfit import specification
from rim_tf.lens import Lens, lens_of
from rim_tf.models.joint import JointRIM, from_samples
from rim_tf.observation import Observation
from rim_tf.systems import batch_of

# As many times the steps that it was trained for: its lens still gets better after these, though its errors do not.
_LONGER = 2


@dataclasses.dataclass(frozen=True)
class Together:
    """What a network has found from several starts, the best first.

    Attributes:
      lenses: of those starts that ended at a lens; there may be none.
      chi2_per_pixel: of each, at every step, with the source as it was then, [lenses, steps + 1].
      path: parameters of each, from its start on, [lenses, steps + 1, columns].
    """

    lenses: list[Lens]
    chi2_per_pixel: np.ndarray
    path: np.ndarray


def find_together(
    observation: Observation,
    starts: Sequence[Lens],
    samples: np.ndarray,
    model: JointRIM,
    n_steps: int | None = None,
) -> Together:
    """Lens and source from each of several starts, all in one call of the network.

    Args:
      observation: `Observation`, cut to about 2.3 theta_E, the lens galaxy taken off.
      starts: lenses of the network's mass model.
      samples: of the posterior or posteriors that they are from, [n, columns], which say how uncertain they are.
      model: `JointRIM`.
      n_steps: how many; None for twice as many as it was trained for.

    Returns:
      `Together`.

    Raises:
      InputError: starts of another mass model.
    """
    n, config = len(starts), model.config
    for start in starts:
        if start.mass != model.mass:
            raise InputError(
                f"A start has the mass model {start.mass.types}, and the network that finds lens and source together "
                f"knows {model.mass.types}; take weights of one mass model."
            )
    n_steps = _LONGER * config.n_steps if n_steps is None else n_steps
    batch = batch_of([observation] * n, starts, [config.source_scale_ratio * observation.pixel_scale] * n)
    inputs = {name: tf.constant(value) for name, value in batch.items()}
    inputs["start"] = model.mass.to_real(inputs.pop("lens"))
    error = from_samples(tf.constant(samples[None], tf.float32), model.mass)["start_error"]
    inputs["start_error"] = tf.repeat(error, n, axis=0)
    found = _traced(model, not isinstance(observation.psf, float))(inputs, n_steps)
    path, chi2 = (found[name].numpy() for name in ("path", "chi2_per_pixel"))
    at_last = chi2[:, -1]
    ended = np.isfinite(at_last) & ops.convert_to_numpy(model.mass.allows(tf.constant(path[:, -1])))
    order = [i for i in np.argsort(at_last, kind="stable") if ended[i]]
    return Together([lens_of(model.mass, each) for each in path[order, -1]], chi2[order], path[order])


@functools.lru_cache(maxsize=4)
def _traced(model, stamps):
    """A function of a batch's inputs and the number of steps -> path and chi^2 of `JointRIM.search`; traced once."""
    of_lens = tf.TensorSpec([None, model.mass.size])
    inputs = specification(stamps) | {"start": of_lens, "start_error": of_lens}

    @tf.function(input_signature=[inputs, tf.TensorSpec([], tf.int32)], autograph=False)
    def traced(inputs, n_steps):
        found = model.search(inputs, n_steps)
        return {name: found[name] for name in ("path", "chi2_per_pixel")}

    return traced
