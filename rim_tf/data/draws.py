"""Random numbers without a state, on TensorFlow and on JAX: the same for the same seed and numbers folded into it.

The two backends draw other numbers from one seed, of the same distributions.
"""

import math

import keras
from keras import ops

if keras.backend.backend() == "jax":
    import jax

    def _fold_in(seed, number):
        # A raw key of Threefry is a pair of numbers, as a seed of TensorFlow's is.
        return jax.random.fold_in(ops.cast(seed, "uint32"), ops.cast(number, "uint32"))

    def _uniform(shape, seed):
        return jax.random.uniform(seed, shape, "float32")

    def _normal(shape, seed):
        return jax.random.normal(seed, shape, "float32")

    def _integer(shape, seed, high):
        return jax.random.randint(seed, shape, 0, high, "int32")

else:
    import tensorflow as tf

    _fold_in = tf.random.fold_in
    _uniform = tf.random.stateless_uniform
    _normal = tf.random.stateless_normal

    def _integer(shape, seed, high):
        return tf.random.stateless_uniform(shape, seed, maxval=high, dtype=tf.int32)


class Draws:
    """Random numbers, others at each call.

    Args:
      seed: `seeds.seed_pair` of a stream, int32 [2].
      numbers: scalar integers that are folded into it, one after another, such as those of a batch and of a round.
    """

    def __init__(self, seed, *numbers):
        self.seed = ops.convert_to_tensor(seed)
        for number in numbers:
            self.seed = _fold_in(self.seed, number)
        self.count = 0

    def next_seed(self):
        """A seed that nothing else of these draws has, of two integers."""
        self.count += 1
        return _fold_in(self.seed, self.count)

    def uniform(self, shape, low=0.0, high=1.0):
        return low + (high - low) * _uniform(shape, self.next_seed())

    def log_uniform(self, shape, low, high):
        return ops.exp(self.uniform(shape, math.log(low), math.log(high)))

    def normal(self, shape, scale=1.0):
        return scale * _normal(shape, self.next_seed())

    def integer(self, shape, high):
        return _integer(shape, self.next_seed(), high)
