"""A JAX pipeline that differentiates through a SavedModel: the log-likelihood of source and lens as a function of JAX.

python examples/serving/with_jax.py models/rim/1
The call leaves JAX for TensorFlow and comes back. For a function that XLA compiles, use the networks themselves on JAX:
KERAS_BACKEND=jax and rim_tf.load_pretrained("small").
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf


def likelihood_of(path, inputs):
    """(source, lens) -> log-likelihood, [batch], differentiable in both.

    Args:
      path: of the SavedModel.
      inputs: the other inputs of its signature log_likelihood_gaussian_psf, as arrays.
    """
    signature = tf.saved_model.load(path).signatures["log_likelihood_gaussian_psf"]
    fixed = {name: tf.constant(value) for name, value in inputs.items()}

    def evaluate(source, lens):
        outputs = signature(**fixed, source=tf.constant(source, tf.float32), lens=tf.constant(lens, tf.float32))
        return [outputs[name].numpy() for name in ("log_likelihood", "gradient_source", "gradient_lens")]

    def called(source, lens):
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (source.shape[:1], source.shape, lens.shape)]
        return jax.pure_callback(evaluate, shapes, source, lens)

    @jax.custom_vjp
    def log_likelihood(source, lens):
        return called(source, lens)[0]

    def forward(source, lens):
        value, *slopes = called(source, lens)
        return value, slopes

    def backward(slopes, upstream):
        in_source, in_lens = slopes
        return upstream[:, None, None] * in_source, upstream[:, None] * in_lens

    log_likelihood.defvjp(forward, backward)
    return log_likelihood


def main(path, pixels=24, pixel_scale=0.2):
    y, x = (np.mgrid[:pixels, :pixels] - (pixels - 1) / 2) * pixel_scale
    image = np.exp(-(((np.hypot(x, y) - 1.2) / 0.25) ** 2))
    arrays = {
        "image": image,
        "noise_rms": np.full(x.shape, 0.05),
        "psf": 0.1,
        "pixel_scale": pixel_scale,
        "source_pixel_scale": 0.39 * pixel_scale,
    }
    inputs = {name: np.float32(value)[None] for name, value in arrays.items()} | {"mask": np.ones((1, *x.shape), bool)}
    log_likelihood = likelihood_of(path, inputs)

    def loss(parameters):  # compiled around the call, as a pipeline would have it
        source = jnp.exp(parameters["log_source"])
        return -jnp.sum(log_likelihood(source, parameters["lens"])) + 0.5 * jnp.sum(parameters["log_source"] ** 2)

    lens = np.float32([[1.1, 0.05, 0, 0, 0, 0, 0]])
    blob = -((0.39 * x) ** 2 + (0.39 * y) ** 2) / 0.2
    parameters = {"log_source": jnp.asarray(blob[None], jnp.float32), "lens": jnp.asarray(lens)}
    value, slope = jax.jit(jax.value_and_grad(loss))(parameters)
    print(f"loss {float(value):.1f}, its slope in theta_E {float(slope['lens'][0, 0]):.1f}")
    return loss, parameters, slope


if __name__ == "__main__":
    main(sys.argv[1])
