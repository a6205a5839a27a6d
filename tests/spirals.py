"""Lensed spiral galaxies, for tests of what finds a lens."""

import dataclasses

import numpy as np
from keras import ops

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.data.sources.procedural import clumpy_spiral
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.systems import batch_of


def lensed_spiral(lens, pixels, pixel_scale, noise):
    """An `Observation` of a spiral galaxy, its peak 1, as a lens shows it, with white noise of that rms."""
    rng = np.random.default_rng(4)
    source = clumpy_spiral(rng, pixels)
    empty = Observation(np.zeros((pixels, pixels)), noise, 0.05, pixel_scale=pixel_scale)
    inputs = batch_of([empty], [lens], [SOURCE_SCALE_RATIO * pixel_scale])
    image = imaging_operator(inputs, source.shape).forward(ops.convert_to_tensor(source[None]))
    image = ops.convert_to_numpy(image)[0] + noise * rng.normal(size=empty.shape)
    return dataclasses.replace(empty, image=image)
