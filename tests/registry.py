"""A small instance of every operator and of every layer, for the tests that hold of them all."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gradients import array, tensor
from keras import ops

from rim_tf.config import ESTIMATOR_PAPER, ESTIMATOR_SMALL, PAPER, SMALL, JointConfig, SourceErrorsConfig
from rim_tf.grids import PixelGrid
from rim_tf.models.estimator import Estimator
from rim_tf.models.joint import ImageEncoder, JointRIM, LensUpdate
from rim_tf.models.layers import ConvGRUCell, RIMCell
from rim_tf.models.networks import AlexNet, DenseHead, ResidualBlock, ResidualNetwork
from rim_tf.models.rim import RIM
from rim_tf.models.source_errors import N_SEEN, Pyramid, SourceErrors
from rim_tf.physics.imaging import Imaging
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.mass.model import SIE_SHEAR
from rim_tf.physics.operators import Compose
from rim_tf.physics.psf import GaussianBlur, StampBlur

# A lens of each mass profile, flat, round and in between, [1, columns]; the shear with something to shear.
PROFILES = {
    "sie": {
        "round": [1.1, 0.0, 0.0, 0.0, 0.0],
        "general": [1.3, 0.25, -0.1, 0.1, -0.2],
        "flat": [0.9, 0.46, 0.48, -0.1, 0.0],
    },
    "shear": {"general": [0.06, -0.04], "none": [0.0, 0.0]},
    "power_law": {
        "round": [1.1, 2.2, 0.0, 0.0, 0.0, 0.0],
        "shallow": [1.3, 1.6, 0.25, -0.1, 0.1, -0.2],
        "isothermal": [1.3, 2.0, 0.25, -0.1, 0.1, -0.2],
        "steep and flat": [0.9, 2.4, 0.46, 0.48, -0.1, 0.0],
    },
}

# Two systems: one round and centred, one not, close enough to the edge that some rays leave the source grid.
LENSES = np.array([[0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.2, 0.2, -0.15, 0.1, -0.05, 0.05, -0.08]])
IMAGE, SOURCE = (2, 9, 7), (2, 6, 8)
IMAGE_SCALE, SOURCE_SCALE = [0.35, 0.3], [0.25, 0.2]


def image_grid(dtype="float64"):
    return PixelGrid(*IMAGE[1:], tensor(IMAGE_SCALE, dtype))


def source_grid(dtype="float64"):
    return PixelGrid(*SOURCE[1:], tensor(SOURCE_SCALE, dtype))


def stamps(rows, columns, batch=2):
    """PSF images without any symmetry, of unit sum."""
    stamp = np.random.default_rng(5).uniform(size=(batch, rows, columns)) ** 3
    return stamp / stamp.sum(axis=(1, 2), keepdims=True)


def lensing(dtype="float64"):
    return LensingOperator.from_lens(tensor(LENSES, dtype), image_grid(dtype), source_grid(dtype))


def gaussian(dtype="float64", sigma=(0.2, 0.45)):
    return GaussianBlur(tensor(sigma, dtype), image_grid(dtype))


def stamp(dtype="float64", rows=3, columns=5):
    return StampBlur(tensor(stamps(rows, columns), dtype), image_grid(dtype))


# name -> function of the dtype that gives the operator, the shape of what it acts on, and of what comes out.
OPERATORS = {
    "lensing": lambda dtype="float64": (lensing(dtype), SOURCE, IMAGE),
    "gaussian blur": lambda dtype="float64": (gaussian(dtype), IMAGE, IMAGE),
    "gaussian blur, one of width 0": lambda dtype="float64": (gaussian(dtype, (0.0, 0.3)), IMAGE, IMAGE),
    "stamp blur": lambda dtype="float64": (stamp(dtype), IMAGE, IMAGE),
    "stamp blur, larger than the frame": lambda dtype="float64": (stamp(dtype, 21, 17), IMAGE, IMAGE),
    "camera": lambda dtype="float64": (Imaging(tensor(stamps(3, 5), dtype), image_grid(dtype)), IMAGE, IMAGE),
    "gaussian blur of lensing": lambda dtype="float64": (
        Compose(gaussian(dtype), lensing(dtype)),
        SOURCE,
        IMAGE,
    ),
    "stamp blur of lensing": lambda dtype="float64": (Compose(stamp(dtype), lensing(dtype)), SOURCE, IMAGE),
}


class Case(NamedTuple):
    """build: settings of any Keras layer -> the layer; arguments: those of its call, NumPy arrays."""

    build: Callable
    arguments: Callable


def stirred(layer, seed=3):
    """The same layer with weights, biases too, that are large enough to matter, whatever its initialisers."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [rng.normal(size=w.shape, scale=np.prod(w.shape[:-1]) ** -0.5).clip(-1, 1) for w in layer.get_weights()]
    )
    return layer


def built(layer, channels, side=None):
    layer.build((None, side, side, channels))
    return stirred(layer)


def observation(psf="gaussian", batch=2, rows=12, columns=12, seed=7):
    """What `RIM.call` takes: noisy rings of different sizes, noise maps, masks, lenses and pixel scales."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.25, 0.35, batch)
    x = (np.arange(columns) - (columns - 1) / 2)[None, None, :] * scale[:, None, None]
    y = (np.arange(rows) - (rows - 1) / 2)[None, :, None] * scale[:, None, None]
    theta_E = rng.uniform(0.8, 1.2, batch)
    ring = np.exp(-(((np.hypot(x - 0.05, y) - theta_E[:, None, None]) / 0.3) ** 2)) * (1 + 0.5 * np.sin(3 * x))
    noise_rms = rng.uniform(0.03, 0.06, (batch, rows, columns))
    inputs = {
        "image": ring + noise_rms * rng.normal(size=ring.shape),
        "noise_rms": noise_rms,
        "psf": rng.uniform(0.1, 0.4, batch) if psf == "gaussian" else stamps(5, 3, batch),
        "lens": np.concatenate([theta_E[:, None], rng.normal(size=(batch, 6), scale=0.08)], axis=1),
        "pixel_scale": scale,
        "source_pixel_scale": 0.5 * scale,
    }
    inputs = {name: value.astype("float32") for name, value in inputs.items()}
    return inputs | {"mask": rng.uniform(size=ring.shape) > 0.1}


def doubled(inputs):
    """The same systems in float64, for the physics."""
    return {name: tensor(v) if v.dtype == "float32" else tensor(v, "bool") for name, v in inputs.items()}


def smaller(config, **changes):
    """A preset with everything that decides its kind, and few weights."""
    return dataclasses.replace(config, **({"n_steps": 2, "features": 4, "hidden": (6, 3)} | changes))


# The paper's start, 1e-4, is at a latent of -9, where a network of random weights is saturated and blind.
SMALL_PAPER, SMALL_SMALL = smaller(PAPER, kernel=5, start=0.1), smaller(SMALL)

SMALL_ESTIMATOR = dataclasses.replace(ESTIMATOR_SMALL, pixels=16, features=(8, 16), blocks=1, hidden=(12,))
SMALL_ALEXNET = dataclasses.replace(
    ESTIMATOR_PAPER, pixels=32, features=(4, 6, 8, 8, 6), hidden=(12, 12), components=2, passes=5
)

SMALL_ERRORS = SourceErrorsConfig("none", features=5, levels=2)


def _of_rows(layer, channels):
    layer.build((None, channels))
    return layer


def _views():
    (seen,) = _images(N_SEEN)
    return {"seen": seen, "estimate": seen[..., 0], "unit": np.float32([0.5, 2.0])}


def _images(*channels, n=8):
    rng = np.random.default_rng(11)
    return [rng.normal(size=(2, n, n, c)).astype("float32") for c in channels]


def _cell_arguments():
    x, fine = _images(3, 4)
    (coarse,) = _images(5, n=4)
    return x, [coarse, fine]


SMALL_JOINT = JointConfig(n_steps=1, features=4, hidden=(4, 3), encoder=(4, 4), encoder_side=2, memory=8)


def started(inputs, error=0.02):
    """What `JointRIM.call` takes: systems that start with their own lenses, which it is not told."""
    inputs = dict(inputs)
    lens = ops.convert_to_tensor(inputs.pop("lens"))
    start = SIE_SHEAR.to_real(lens)
    return inputs | {"start": array(start), "start_error": np.full(start.shape, error, "float32")}


LAYERS = {
    "ImageEncoder": Case(lambda **policy: built(ImageEncoder((4, 5), 2, 3, **policy), 3), lambda: tuple(_images(3))),
    "LensUpdate": Case(
        lambda **policy: stirred(_of_rows(LensUpdate(6, 5, **policy), 4)),
        lambda: tuple(each[:, 0, 0] for each in _images(4, 5)),
    ),
    "Joint RIM": Case(lambda **policy: stirred(JointRIM(SMALL_JOINT, **policy)), lambda: (started(observation()),)),
    "ConvGRUCell": Case(lambda **policy: built(ConvGRUCell(5, 3, **policy), 3), lambda: tuple(_images(3, 5))),
    "RIMCell": Case(lambda **policy: built(RIMCell(2, 4, (5, 4), 3, 2, **policy), 3), _cell_arguments),
    "RIM, as in the paper": Case(lambda **policy: stirred(RIM(SMALL_PAPER, **policy)), lambda: (observation("stamp"),)),
    "RIM, as shipped": Case(lambda **policy: stirred(RIM(SMALL_SMALL, **policy)), lambda: (observation(),)),
    "Pyramid": Case(lambda **policy: built(Pyramid(5, 2, 3, **policy), 4), lambda: tuple(_images(4))),
    "Source errors, small": Case(lambda **policy: stirred(SourceErrors(SMALL_ERRORS, **policy)), lambda: (_views(),)),
    "DenseHead": Case(lambda **policy: built(DenseHead(3, (5,), **policy), 2, 4), lambda: tuple(_images(2, n=4))),
    "ResidualBlock": Case(lambda **policy: built(ResidualBlock(16, 2, **policy), 8), lambda: tuple(_images(8))),
    "ResidualNetwork": Case(
        lambda **policy: built(ResidualNetwork(3, (8, 16), 1, (5,), **policy), 3, 8), lambda: tuple(_images(3))
    ),
    "AlexNet": Case(
        lambda **policy: built(AlexNet(3, (4, 5, 6, 6, 4), (5,), **policy), 2, 32), lambda: tuple(_images(2, n=32))
    ),
    "Estimator, as in the paper": Case(
        lambda **policy: stirred(Estimator(SMALL_ALEXNET, **policy)), lambda: (observation("stamp"),)
    ),
    "Estimator, residual": Case(
        lambda **policy: stirred(Estimator(SMALL_ESTIMATOR, **policy)), lambda: (observation(),)
    ),
}
