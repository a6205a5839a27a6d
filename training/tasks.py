"""What each kind of network is trained to find: the target, the losses it may be given, and the figure to watch."""

import dataclasses
from collections.abc import Callable

from rim_tf.config import EstimatorConfig, RIMConfig
from rim_tf.errors import InputError
from rim_tf.models.losses import IterateLoss, LensLoss, final_rms_percent, theta_E_error_percent
from rim_tf.physics.mass.model import SIE_SHEAR

LENS_LOSS = "lens"


@dataclasses.dataclass(frozen=True)
class Task:
    """How networks of one kind are trained.

    Attributes:
      target: what is to be found, as in `rim_tf.data.streaming.simulate_batch`.
      losses: their names in a TrainingConfig.
      loss: name -> `keras.losses.Loss`.
      metric: for `compile`.
    """

    target: str
    losses: tuple[str, ...]
    loss: Callable
    metric: Callable


# By the class of the network's settings, as in `rim_tf.config.MODELS`.
TASKS = {
    RIMConfig: Task("source", IterateLoss.KINDS, IterateLoss, final_rms_percent),
    EstimatorConfig: Task("lens", (LENS_LOSS,), lambda name: LensLoss(SIE_SHEAR.types), theta_E_error_percent),
}
LOSSES = tuple(name for task in TASKS.values() for name in task.losses)


def check_task(model, loss):
    """InputError where a network of the settings `model` cannot be trained with that loss on the mocks that there are.

    Args:
      model: settings, one of `rim_tf.config.MODELS`.
      loss: its name.
    """
    losses = TASKS[type(model)].losses
    if loss not in losses:
        raise InputError(f"loss is {loss!r}; for a network of the type {model.type!r} it must be one of {losses}.")
    if isinstance(model, EstimatorConfig) and model.mass != SIE_SHEAR.types:
        raise InputError(f"model.mass is {model.mass}; lenses are simulated with {SIE_SHEAR.types} alone.")
