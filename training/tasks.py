"""What each kind of network is trained to find: the target, the losses it may be given, and the figure to watch."""

import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

from rim_tf.config import EstimatorConfig, JointConfig, RIMConfig, SourceErrorsConfig
from rim_tf.errors import InputError
from rim_tf.models.joint import WIDER, first_guess
from rim_tf.models.losses import (
    IterateLoss,
    JointLoss,
    LensLoss,
    SourceLoss,
    error_over_noise,
    final_rms_percent,
    last_theta_E_error_percent,
    theta_E_error_percent,
)
from rim_tf.models.pretrained import load_pretrained, rim_of_errors
from rim_tf.models.source_errors import views
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

LENS_LOSS, ERRORS_LOSS, JOINT_LOSS = "lens", "source-errors", "joint"


@dataclasses.dataclass(frozen=True)
class Task:
    """How networks of one kind are trained.

    Attributes:
      target: what is to be found, as in `rim_tf.data.streaming.simulate_batch`.
      losses: their names in a TrainingConfig.
      loss: name and settings of the network -> `keras.losses.Loss`.
      metric: a figure that people judge it by.
      prepare: settings of the network and the `MockConfig` -> the function that makes, of simulated inputs and what is
        to be found, what it takes; None where it takes the inputs as they are.
      picture: what the network puts out -> the sources in it, [batch, n, m]; None where there are none.
      truth: what is to be found -> the sources in it.
    """

    target: str | tuple[str, ...]
    losses: tuple[str, ...]
    loss: Callable
    metric: Callable
    prepare: Callable | None = None
    picture: Callable | None = None
    truth: Callable = lambda target: target


def _views(model, mocks):
    """What the frozen RIM of a `SourceErrorsConfig` makes of inputs, as `source_errors.views` says."""
    rim = rim_of_errors(model)

    def seen(inputs, target):
        problem = imaging_problem(inputs, rim.source_shape(ops.shape(inputs["image"])[1:]))
        return views(problem, rim.solve(problem))

    return seen


def _starts(model, mocks):
    """The answers of an estimator as a `JointConfig` names it, off by its own errors and less, as draws from them are.

    How much, and to which side, is that of the errors which the mocks add to each lens, in units of the largest.
    """
    estimator, mass = load_pretrained(model.estimator, "estimator"), MassModel(model.mass)
    lengths = np.array([column.unit == "arcsec" for column, indices in mass.columns for _ in indices])

    def started(inputs, target):
        guess = first_guess(estimator, inputs)
        if mocks.lens_error:
            truth = ops.convert_to_tensor(target["lens"])
            unit = ops.where(lengths, truth[:, :1], 1.0) * mocks.lens_error
            drawn = (ops.convert_to_tensor(inputs["lens"]) - truth) / unit
            guess["start"] = guess["start"] + guess["start_error"] * drawn
            guess["start_error"] = WIDER * guess["start_error"]
        return guess

    return started


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
    JointConfig: Task(
        ("lens", "source"),
        (JOINT_LOSS,),
        lambda name, model: JointLoss(model.mass),
        last_theta_E_error_percent,
        _starts,
        picture=lambda found: found["source"][:, -1],
        truth=lambda target: target["source"],
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
    if isinstance(model, EstimatorConfig | JointConfig) and model.mass != SIE_SHEAR.types:
        raise InputError(f"model.mass is {model.mass}; lenses are simulated with {SIE_SHEAR.types} alone.")
