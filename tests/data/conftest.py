"""What tests of data share: TensorFlow on one thread, and a few galaxies."""

import numpy as np
import one_thread  # noqa: F401
import pytest

from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.procedural import procedural_galaxies


@pytest.fixture(scope="session")
def galaxies():
    """Twelve procedural galaxies."""
    return procedural_galaxies(12, "test", 5)


@pytest.fixture(scope="session")
def stamps(galaxies):
    return GalaxyStamps.of(galaxies)


@pytest.fixture(scope="session")
def on_sky():
    """Function that puts an image [128, 128] on noisy sky, as a frame [180, 180] of float32."""
    rng = np.random.default_rng(0)

    def frame(image):
        sky = rng.normal(0, 0.001, (180, 180))
        sky[26:154, 26:154] += image
        return sky.astype(np.float32)

    return frame
