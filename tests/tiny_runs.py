"""Training runs of no size, for tests and for the processes that they start."""

import contextlib
import dataclasses

import pytest

from rim_tf.config import SMALL, MockConfig
from training.experiments import EXPERIMENTS

TINY = dataclasses.replace(
    EXPERIMENTS["small"],
    model=dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)),
    mocks=MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2),
    schedule="exponential",  # which does not depend on the length of the run
    batch_size=4,
    micro_batches=2,
    n_steps=36,
    steps_per_epoch=12,
    n_procedural=5,
)
SHORT = dataclasses.replace(TINY, n_steps=6, steps_per_epoch=2)


@contextlib.contextmanager
def few_held_out():
    """A few galaxies to validate on where there are none of the user's; a hundred take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rim_tf.data.sources.find.N_PROCEDURAL", {"train": 5, "validation": 5})
        patch.setattr("training.runs.VALIDATION_BATCHES", 8)
        patch.setattr("training.runs.VALIDATION_BATCH_SIZE", 2)  # of a micro-batch, so that one trace will do
        yield
