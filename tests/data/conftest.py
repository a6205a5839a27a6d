"""What tests of data share: TensorFlow on one thread, as a set's bytes need it, and a few galaxies."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.data.sources.procedural import procedural_galaxies

# Else every set is built by a process of its own, which imports TensorFlow again.
with contextlib.suppress(RuntimeError):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


@pytest.fixture(scope="session")
def galaxies():
    """Twelve procedural galaxies."""
    return procedural_galaxies(12, "test", 5)


@pytest.fixture(scope="session")
def stamps(galaxies):
    return GalaxyStamps.of(galaxies)


@pytest.fixture(scope="session")
def few_galaxies(galaxies):
    """Three galaxies to train on and three others to validate on, as `build` takes them."""

    def part(chosen):
        return GalaxySet(galaxies.images[chosen], galaxies.ids[chosen], galaxies.half_light_radius[chosen])

    return {"train": part(slice(3)), "validation": part(slice(3, 6))}


@pytest.fixture(scope="session")
def on_sky():
    """Function that puts an image [128, 128] on noisy sky, as a frame [180, 180] of float32."""
    rng = np.random.default_rng(0)

    def frame(image):
        sky = rng.normal(0, 0.001, (180, 180))
        sky[26:154, 26:154] += image
        return sky.astype(np.float32)

    return frame
