"""What each kind of network is trained to find: the target, the losses it may be given, and the figure to watch."""

import dataclasses
from collections.abc import Callable

from keras import ops

from rim_tf.config import EstimatorConfig, RIMConfig, SourceErrorsConfig
from rim_tf.errors import InputError
from rim_tf.models.losses import (
    IterateLoss,
    LensLoss,
    SourceLoss,
    error_over_noise,
    final_rms_percent,
    theta_E_error_percent,
)
from rim_tf.models.pretrained import rim_of_errors
from rim_tf.models.source_errors import views
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR

LENS_LOSS, ERRORS_LOSS = "lens", "source-errors"


@dataclasses.dataclass(frozen=True)
class Task:
    """How networks of one kind are trained.

    Attributes:
      target: what is to be found, as in `rim_tf.data.streaming.simulate_batch`.
      losses: their names in a TrainingConfig.
      loss: name and settings of the network -> `keras.losses.Loss`.
      metric: a figure that people judge it by.
      prepare: settings of the network -> the function that makes, of simulated inputs, what it takes; None where it
        takes them as they are.
      picture: what the network puts out -> the sources in it, [batch, n, m]; None where there are none.
    """

    target: str
    losses: tuple[str, ...]
    loss: Callable
    metric: Callable
    prepare: Callable | None = None
    picture: Callable | None = None


def _views(model):
    """What the frozen RIM of a `SourceErrorsConfig` makes of inputs, as `source_errors.views` says."""
    rim = rim_of_errors(model)

    def seen(inputs):
        problem = imaging_problem(inputs, rim.source_shape(ops.shape(inputs["image"])[1:]))
        return views(problem, rim.solve(problem))

    return seen


# By the class of the network's settings, as in `rim_tf.config.MODELS`.
TASKS = {
    RIMConfig: Task(
        "source",
        IterateLoss.KINDS,
        lambda name, model: IterateLoss(name),
        final_rms_percent,
        picture=lambda iterates: iterates[:, -1],
    ),
    EstimatorConfig: Task("lens", (LENS_LOSS,), lambda name, model: LensLoss(SIE_SHEAR.types), theta_E_error_percent),
    SourceErrorsConfig: Task(
        "source", (ERRORS_LOSS,), lambda name, model: SourceLoss(model.levels), error_over_noise, _views
    ),
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
