"""From observations and their lenses to sources, by the RIM: the one call that most users make."""

import functools
import hashlib
import time

import numpy as np
from keras import ops

from rim_tf.config import to_json
from rim_tf.errors import InputError
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.results import Reconstruction
from rim_tf.systems import batches, network_inputs, share_outside, source_grid


def reconstruct(observation, lens, model="small", source_pixel_scale=None, source_pixels=None):
    """The unlensed source of an observation, or of a list of them in as few calls of the network as possible.

    Args:
      observation: `Observation`, or a list of them with any noise maps, PSFs, masks, shapes and pixel scales.
      lens: `LensParameters`, or as long a list of them.
      model: a `RIM`, or the name of shipped weights.
      source_pixel_scale: [arcsec]; by default SOURCE_SCALE_RATIO times the image's, as in training.
      source_pixels: pixels on a side of the source grid; by default as many as the image's longer side. Rounded
        up to a multiple of the network's stride.

    Returns:
      `Reconstruction`, or a list of them in the order of the observations.

    Raises:
      InputError: lists of different lengths, or a source grid that is none.
    """
    if isinstance(observation, Observation):
        return reconstruct([observation], [lens], model, source_pixel_scale, source_pixels)[0]
    if isinstance(lens, LensParameters) or len(lens) != len(observation):
        n_lenses = 1 if isinstance(lens, LensParameters) else len(lens)
        raise InputError(f"There are {len(observation)} observations and {n_lenses} lenses; give one lens for each.")
    model = load_pretrained(model) if isinstance(model, str) else model
    grids = [source_grid(each, model.config.stride, source_pixel_scale, source_pixels) for each in observation]
    results = [None] * len(observation)
    for members in batches(observation, grids):
        batch = _reconstruct_batch(
            [observation[i] for i in members], [lens[i] for i in members], [grids[i] for i in members], model
        )
        for i, result in zip(members, batch, strict=True):
            results[i] = result
    return results


def _reconstruct_batch(observations, lenses, grids, model):
    started = time.perf_counter()
    shape = (grids[0][0], grids[0][0])
    inputs = network_inputs(observations, lenses, [scale for _, scale in grids])
    iterates = model(inputs, source_shape=shape)
    model_images = imaging_operator(inputs, shape).forward(iterates[:, -1])
    iterates, model_images = ops.convert_to_numpy(iterates), ops.convert_to_numpy(model_images)
    seconds = (time.perf_counter() - started) / len(observations)
    return [
        Reconstruction(
            source=observations[i].in_data_units(iterates[i, -1]),
            source_pixel_scale=grids[i][1],
            model_image=observations[i].in_data_units(model_images[i]),
            iterates=observations[i].in_data_units(iterates[i]),
            observation=observations[i],
            lens=lenses[i],
            seconds=seconds,
            flux_outside=share_outside(observations[i], lenses[i], *grids[i]),
        )
        for i in range(len(observations))
    ]


class RIMSolver:
    """The RIM as one of the `rim_tf.inference.methods`.

    Args:
      settings: `RIMSettings`.
      model: a `RIM` in place of the weights that the settings name.

    Attributes:
      model: the `RIM`.
      fingerprint: SHA-256 of the network's settings and weights, which a file's name may not tell apart.
    """

    def __init__(self, settings, model=None):
        self.model = load_pretrained(settings.weights) if model is None else model

    @functools.cached_property
    def fingerprint(self):
        digest = hashlib.sha256(to_json(self.model.config).encode())
        for array in self.model.get_weights():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        return reconstruct(observations, lenses, self.model, source_pixel_scale, source_pixels)
