"""Experiments by name: everything that fixes a training run but its length's share of the clock."""

import dataclasses
from typing import Annotated, Literal

from rim_tf.config import (
    ESTIMATOR_PAPER,
    ESTIMATOR_SMALL,
    JOINT_SMALL,
    PAPER,
    PAPER_MOCKS,
    SMALL,
    SOURCE_ERRORS_SMALL,
    MockConfig,
    Model,
    RIMConfig,
)
from rim_tf.errors import InputError
from rim_tf.validation import Count, Limits, Positive, Seed, check
from training.tasks import ERRORS_LOSS, JOINT_LOSS, LENS_LOSS, LOSSES, check_task


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One training run. Its JSON is saved beside the checkpoints and fixes every number that follows."""

    model: Model
    """The settings of any network; which one, says its `type`."""
    mocks: MockConfig
    loss: Annotated[str, Limits(choices=LOSSES)]
    """One of those of the network's `training.tasks.Task`."""
    learning_rate: Positive
    schedule: Literal["cosine", "exponential"]
    """"cosine": down to 1 % at the last step; "exponential": times 0.96 every 5000 steps (Section 2.4)."""
    clip_norm: Positive
    """Largest norm of the gradient over all weights."""
    batch_size: Count
    n_steps: Count
    steps_per_epoch: Count = 100
    """Steps between checkpoints, validations and lines in metrics.jsonl."""
    n_procedural: Annotated[int, Limits(least=0)] = 1000
    seed: Seed = 1
    larger_frames: tuple[Annotated[int, Limits(least=8, most=4096)], ...] = ()
    """Pixels of further frames, which take turns with those of `mocks`, with fewer lenses to a batch."""
    turns: Annotated[int, Limits(least=1, most=8)] = 1
    """Steps that see the same batch, turned and mirrored: for networks that take what a slower one has made of it."""
    together: Count = 1
    """Batches that are seen before the first of them comes again."""
    initial: str | None = None
    """Weights to start from: a shipped name, or the .json beside the file; None for random ones."""
    only: tuple[str, ...] = ()
    """Parts of the network whose weights are trained, by their names, such as "head" of a JointRIM; none for all."""
    micro_batches: Count = 1
    """Equal parts in which each batch is drawn and its gradient taken, which divide batch_size. The replicas of a
    strategy share them out, and each adds up the gradients of its own: the numbers of a run depend on how many parts
    there are, and not on how many replicas."""
    growing_frames: tuple[tuple[Annotated[int, Limits(least=8, most=4096)], Count], ...] = ()
    """Frames that the run begins with, before those of `mocks`: (pixels, steps) each, with more lenses to a batch where
    they are smaller. Steps are multiples of steps_per_epoch."""
    average_decay: Annotated[float, Limits(least=0, below=1)] = 0.0
    """The weights that are validated and saved are a moving average, of which each step keeps this share; less in the
    first steps. 0 for the weights themselves."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Of the convolutions and dense layers; physics, weights and losses are of float32 always."""
    recompute: bool = False
    """Of a RIM: take the activations of its steps anew for the gradient, in place of keeping them."""
    most_skipped: Count = 20
    """Steps in a row whose loss or gradient is no finite number, and which change nothing, before a run is given up."""

    def __post_init__(self):
        check(self)
        check_task(self.model, self.loss)
        if self.batch_size % self.micro_batches:
            raise InputError(
                f"micro_batches is {self.micro_batches}; it must divide batch_size, which is {self.batch_size}."
            )
        if self.recompute and not isinstance(self.model, RIMConfig):
            raise InputError(f"recompute is of a RIM alone; this network is of the type {self.model.type!r}.")
        if self.growing_frames and self.larger_frames:
            raise InputError("growing_frames and larger_frames are both given; frames grow, or take turns.")
        if self.growing_frames and self.turns > 1:
            raise InputError(f"turns is {self.turns}; it must be 1 where frames grow.")
        for pixels, steps in self.growing_frames:
            if steps % self.steps_per_epoch:
                raise InputError(
                    f"growing_frames has {steps} steps of {pixels} pixels; they must be a multiple of the "
                    f"{self.steps_per_epoch} steps of an epoch."
                )


# Pixel scales over all of a survey's range, which is to say PSFs from none to 3.3 pixels.
SMALL_MOCKS = MockConfig(log_pixel_scale=(0.03, 0.1), noise_map_fraction=0.25, mask_fraction=0.25)

_SMALL = TrainingConfig(
    model=SMALL,
    mocks=SMALL_MOCKS,
    loss="log_rms",
    learning_rate=1e-3,
    schedule="cosine",
    clip_norm=1.0,
    batch_size=8,
    n_steps=10_000,
)

# Frames as telescopes make them: some PSFs measured, noise that grows with the light or lies between neighbours, and
# what a fit leaves of the lens galaxy.
_TELESCOPES = MockConfig(
    log_pixel_scale=(0.03, 0.1),
    lens_offset=0.03,
    minimum_magnification=2.0,
    psf_pixels=21,
    given_psf_fraction=0.3,
    noise_map_fraction=0.5,
    correlated_noise_fraction=0.5,
    log_noise_overestimate=(1.0, 1.5),
    lens_light_error=0.02,
    lens_light_error_decades=1.0,
)

# Wherever and whatever a lens may be in a cutout: theta_E from 3 of 64 pixels to 0.4 of the field, the lens galaxy in
# the image or taken off more or less well, and neighbours.
ESTIMATOR_MOCKS = dataclasses.replace(
    _TELESCOPES,
    theta_E=(3 / 64, 0.4),
    ellipticity=(0.0, 0.4),
    shear=(0.0, 0.15),
    edge_flux=0.03,
    mask_fraction=0.25,
    lens_galaxy_fraction=0.5,
    lens_light_fraction=0.7,
    neighbour_fraction=0.3,
)

_ESTIMATOR = TrainingConfig(
    model=ESTIMATOR_SMALL,
    mocks=ESTIMATOR_MOCKS,
    loss=LENS_LOSS,
    learning_rate=1e-3,
    schedule="cosine",
    clip_norm=10.0,
    batch_size=256,
    n_steps=12_000,
    steps_per_epoch=1000,
)

# Cut to a few theta_E, with a lens as well known as a fit or a network knows it.
SKY_MOCKS = dataclasses.replace(
    _TELESCOPES,
    theta_E=(0.10, 0.32),
    ellipticity=(0.0, 0.35),
    shear=(0.0, 0.12),
    log_half_light_radius=(0.02, 0.15),
    edge_flux=0.02,
    log_noise=(1e-3, 0.15),
    mask_fraction=0.3,
    lens_light_fraction=0.5,
    lens_error=0.03,
    lens_error_decades=2.5,
)

# The lens is looked for in a frame of some 4.6 theta_E, as the workflow cuts it, and the source on a grid that ends
# beyond the ring, at 1.15 theta_E.
_JOINT_MOCKS = dataclasses.replace(
    SKY_MOCKS, source_scale_ratio=0.5, theta_E=(0.12, 0.30), lens_error=0.03, lens_error_decades=1.0
)

EXPERIMENTS = {
    "small": _SMALL,
    # The shipped weights are those of `small`, then of these two: on larger frames as well,
    "small-frames": dataclasses.replace(
        _SMALL,
        learning_rate=2e-4,
        n_steps=2000,
        seed=2,
        larger_frames=(96, 128),
        initial="runs/small/weights.json",
    ),
    # and at last with the flux in the loss.
    "small-flux": dataclasses.replace(
        _SMALL,
        loss="log_rms_flux",
        learning_rate=1e-4,
        n_steps=700,
        seed=3,
        larger_frames=(96, 128),
        initial="runs/small-frames/weights.json",
    ),
    "sky": dataclasses.replace(
        _SMALL,
        mocks=SKY_MOCKS,
        loss="log_rms_flux",
        learning_rate=4e-4,
        n_steps=12_000,
        steps_per_epoch=120,
        seed=4,
        larger_frames=(96, 128),
        initial="small",
    ),
    # For frames of the paper's size, and sources with more of their own in them than small frames can show.
    "small-192": dataclasses.replace(
        _SMALL,
        mocks=dataclasses.replace(SMALL_MOCKS, image_pixels=192, source_pixels=192),
        loss="log_rms_flux",
        learning_rate=4e-4,
        batch_size=24,
        n_steps=2000,
        steps_per_epoch=50,
        seed=7,
        initial="small",
    ),
    # Section 2.4: Adam, 2e-5 times 0.96 every 5000 steps, clipped gradients, the RMSE. The sources' peak is 1, so that
    # "rms" is just that. Batch and clipping, on which the paper is silent, are those of its authors' earlier code.
    "paper": TrainingConfig(
        model=PAPER,
        mocks=PAPER_MOCKS,
        loss="rms",
        learning_rate=2e-5,
        schedule="exponential",
        clip_norm=5.0,
        batch_size=5,
        n_steps=400_000,
    ),
    "source-errors": dataclasses.replace(
        _SMALL,
        model=SOURCE_ERRORS_SMALL,
        loss=ERRORS_LOSS,
        learning_rate=2e-3,
        n_steps=3000,
        seed=5,
        larger_frames=(96, 128),
        turns=8,
        together=50,
    ),
    # The cell begins as that of the RIM `small`.
    "joint": TrainingConfig(
        model=JOINT_SMALL,
        mocks=_JOINT_MOCKS,
        loss=JOINT_LOSS,
        learning_rate=1e-3,
        schedule="cosine",
        clip_norm=3.0,
        batch_size=32,
        n_steps=20_000,
        seed=6,
        initial="small",
    ),
    "estimator-small": _ESTIMATOR,
    # Its network sees 192 pixels, to which the frames are interpolated; dropout wants a lower rate.
    "estimator-paper": dataclasses.replace(
        _ESTIMATOR,
        model=ESTIMATOR_PAPER,
        learning_rate=1e-4,
        batch_size=32,
        n_steps=100_000,
        steps_per_epoch=100,
    ),
}
