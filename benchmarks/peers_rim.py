"""A recurrent inference machine in two packages, and its convolutions alone: the worker of rim.py.

    python peers_rim.py THREADS NAME

A case is {"config": name of a preset, "pixels": n, "batch": b, "n_steps": t, "parameters": p}: b systems of n x n
pixels seen through a round lens and a Gaussian PSF, with noise, are reconstructed in t steps.
"""

import pathlib
import sys

from timing import limit_threads, serve

if __name__ == "__main__":
    limit_threads(int(sys.argv[1]))
    # torch-rim's package is called rim, as is the benchmark in this folder.
    sys.path = [
        path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent
    ]

import numpy as np

_PIXEL_SCALE, _THETA_E, _SIGMA, _NOISE = 0.05, 0.2, 0.08, 0.03  # arcsec; theta_E over the field; arcsec; over the peak


class Observation:
    """Images of rings of one size with their own noise; what follows depends on no value here."""

    def __init__(self, case):
        self.n, self.batch = case["pixels"], case["batch"]
        field = self.n * _PIXEL_SCALE
        self.theta_E = _THETA_E * field
        i = (np.arange(self.n) - (self.n - 1) / 2) * _PIXEL_SCALE
        self.x, self.y = np.meshgrid(i, i)
        ring = np.exp(-(((np.hypot(self.x, self.y) - self.theta_E) / (0.05 * field)) ** 2))
        noise = np.random.default_rng(1).normal(scale=_NOISE, size=(self.batch, self.n, self.n))
        self.image = (ring + noise).astype(np.float32)


def rim_tf_inputs(case):
    """What `RIM.call` takes."""
    observation, batch = Observation(case), case["batch"]
    inputs = {
        "image": observation.image,
        "noise_rms": np.full_like(observation.image, _NOISE),
        "psf": np.full(batch, _SIGMA),
        "lens": np.repeat([[observation.theta_E, 0, 0, 0, 0, 0, 0]], batch, axis=0),
        "pixel_scale": np.full(batch, _PIXEL_SCALE),
        "source_pixel_scale": np.full(batch, 0.39 * _PIXEL_SCALE),
    }
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    return inputs | {"mask": np.ones(observation.image.shape, bool)}


def rim_tf_model(case):
    import dataclasses

    from rim_tf.config import PRESETS
    from rim_tf.models.rim import RIM

    return RIM(dataclasses.replace(PRESETS[case["config"]], n_steps=case["n_steps"]))


def rim_tf_tensorflow(case, jit_compile):
    import tensorflow as tf

    model = rim_tf_model(case)
    inputs = {name: tf.constant(value) for name, value in rim_tf_inputs(case).items()}
    compiled = tf.function(lambda inputs: model(inputs)[:, -1], jit_compile=jit_compile)

    def call():
        return compiled(inputs).numpy()

    return call, lambda: {"source": call(), "parameters": np.array(model.count_params())}


def rim_tf_jax(case):
    import jax

    model = rim_tf_model(case)
    inputs = {name: jax.numpy.asarray(value) for name, value in rim_tf_inputs(case).items()}
    compiled = jax.jit(lambda inputs: model(inputs)[:, -1])

    def call():
        return jax.block_until_ready(compiled(inputs))

    return call, lambda: {"source": np.asarray(call()), "parameters": np.array(model.count_params())}


def convolutions_alone(case):
    """The convolutions of one step, each on its own input, with nothing between them."""
    import tensorflow as tf

    from rim_tf.config import PRESETS
    from rim_tf.models.flops import convolutions

    layers = convolutions(PRESETS[case["config"]], case["pixels"])
    arguments = [_arguments(tf, layer, case["batch"]) for layer in layers]

    @tf.function
    def one_after_another(arguments):
        outputs = []
        for layer, (x, kernel) in zip(layers, arguments, strict=True):
            # In one graph they would share the cores, which the cell's, each waiting for the last, cannot.
            with tf.control_dependencies(outputs[-1:]):
                outputs.append(_convolve(tf, layer, x, kernel))
        return outputs

    def call():
        return one_after_another(arguments)[-1][0, 0, 0].numpy()

    return call, lambda: {"done": np.array(len(layers))}


def _arguments(tf, layer, batch):
    side = layer.pixels if layer.transpose else layer.pixels * layer.stride
    channels = (layer.outputs, layer.inputs) if layer.transpose else (layer.inputs, layer.outputs)
    kernel = tf.random.normal((layer.kernel, layer.kernel, *channels))
    return tf.random.normal((batch, side, side, layer.inputs)), kernel


def _convolve(tf, layer, x, kernel):
    if not layer.transpose:
        return tf.nn.conv2d(x, kernel, layer.stride, "SAME")
    side = layer.pixels * layer.stride
    return tf.nn.conv2d_transpose(x, kernel, (x.shape[0], side, side, layer.outputs), layer.stride)


def matrix_product(case):
    """2048 x 2048 times 2048 x 2048: what the cores can do at best."""
    import tensorflow as tf

    a, b = tf.random.normal((2048, 2048)), tf.random.normal((2048, 2048))
    product = tf.function(tf.matmul)

    def call():
        return product(a, b)[0, 0].numpy()

    return call, lambda: {"product": np.array(call())}


def torch_rim_model(case, score_fn):
    """torch-rim's own network for images, its default depth, as wide as gives about case["parameters"]."""
    import rim

    kernel = {"kernel_size": 11 if case["config"] == "paper" else 3}

    def network(width):
        return rim.Hourglass(channels=1, dimensions=2, nf=width, hidden_units=2 * width, **kernel)

    def parameters(model):
        return sum(p.numel() for p in model.parameters())

    widths = sorted(range(2, 65), key=lambda width: abs(_approximate(width, kernel) - case["parameters"]))
    best = min((network(width) for width in widths[:3]), key=lambda m: abs(parameters(m) - case["parameters"]))
    size = (case["pixels"],) * 2
    return rim.RIM(size, best, score_fn=score_fn, T=case["n_steps"], device="cpu"), parameters(best)


def _approximate(width, kernel):
    """Parameters of the network of this width: it grows as the square, and building all of them takes long."""
    import rim

    if not hasattr(_approximate, "unit"):
        reference = rim.Hourglass(channels=1, dimensions=2, nf=16, hidden_units=32, **kernel)
        _approximate.unit = sum(p.numel() for p in reference.parameters()) / 16**2
    return _approximate.unit * width**2


def torch_rim(case, compiled):
    """torch-rim has no lensing: it is given the rays, traced beforehand, PyTorch's own bilinear sampling and a blur."""
    import torch
    from torch.nn.functional import grid_sample

    torch.set_num_threads(int(sys.argv[1]))
    observation = Observation(case)
    radius = np.maximum(np.hypot(observation.x, observation.y), 1e-6)
    beta = np.stack([a * (1 - observation.theta_E / radius) for a in (observation.x, observation.y)], axis=-1)
    half_width = 0.39 * _PIXEL_SCALE * observation.n / 2
    rays = torch.tensor(np.repeat(beta[None] / half_width, case["batch"], axis=0), dtype=torch.float32)
    i = np.arange(observation.n)
    blur = np.exp(-(((i[:, None] - i) * _PIXEL_SCALE / _SIGMA) ** 2) / 2)
    blur = torch.tensor(blur / blur[len(i) // 2].sum(), dtype=torch.float32)

    def score_fn(source, data):
        def model(source):
            return blur @ grid_sample(source, rays, align_corners=False) @ blur

        image, transpose = torch.func.vjp(model, source)
        return transpose((data - image) / _NOISE**2)[0]

    model, parameters = torch_rim_model(case, score_fn)
    predict = torch.compile(model.predict, dynamic=False) if compiled else model.predict
    data = torch.tensor(observation.image[:, None])

    def call():
        with torch.no_grad():
            return predict(data)

    return call, lambda: {"source": call()[:, 0].numpy(), "parameters": np.array(parameters)}


CONTENDERS = {
    "rim_tf graph": lambda case: rim_tf_tensorflow(case, jit_compile=False),
    "rim_tf XLA": lambda case: rim_tf_tensorflow(case, jit_compile=True),
    "rim_tf JAX": rim_tf_jax,
    "convolutions alone": convolutions_alone,
    "matrix product": matrix_product,
    "torch-rim eager": lambda case: torch_rim(case, compiled=False),
    "torch-rim compiled": lambda case: torch_rim(case, compiled=True),
}


if __name__ == "__main__":
    serve(CONTENDERS[sys.argv[2]])
