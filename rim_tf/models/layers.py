"""Keras layers of the RIM cell, and the link between what it updates and the source."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("rim_tf")
class ConvGRUCell(keras.layers.Layer):
    """A gated recurrent unit whose matrix products are convolutions.

    z, r = sigmoid(conv([x, h])); c = tanh(conv([x, r h])); h' = (1 - z) h + z c: z is the update gate, which
    decides what to add to the memory, r the reset gate, which decides what to remove (Section 2.1).

    Args:
      hidden: channels of the hidden state h.
      kernel: side of the convolution kernels [pixels].
    """

    def __init__(self, hidden, kernel, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.kernel = hidden, kernel
        self.gates = keras.layers.Conv2D(
            2 * hidden, kernel, padding="same", activation="sigmoid", dtype=self.dtype_policy
        )
        self.candidate = keras.layers.Conv2D(hidden, kernel, padding="same", activation="tanh", dtype=self.dtype_policy)

    def build(self, input_shape):
        both = (None, None, None, input_shape[-1] + self.hidden)
        self.gates.build(both)
        self.candidate.build(both)
        self.built = True

    def call(self, x, state):
        """x [batch, rows, columns, features], state [batch, rows, columns, hidden] -> the new state."""
        update, reset = ops.split(self.gates(ops.concatenate([x, state], -1)), 2, axis=-1)
        candidate = self.candidate(ops.concatenate([x, reset * state], -1))
        return state + update * (candidate - state)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.hidden)

    def get_config(self):
        return super().get_config() | {"hidden": self.hidden, "kernel": self.kernel}


@keras.saving.register_keras_serializable("rim_tf")
class RIMCell(keras.layers.Layer):
    """The five layers of Section 2.1 (Figure 2): embed, recur, upsample, recur, put out.

    Args:
      n_outputs: channels of the linear output layer.
      features: channels of the embedding and of the upsampling layer.
      hidden: channels of the two hidden states, the first on the grid that the embedding has made coarser.
      kernel: side of all convolution kernels [pixels].
      stride: of the embedding, and of the transpose convolution that undoes it.
    """

    def __init__(self, n_outputs, features, hidden, kernel, stride, **kwargs):
        super().__init__(**kwargs)
        self.n_outputs, self.features, self.hidden = n_outputs, features, tuple(hidden)
        self.kernel, self.stride = kernel, stride
        same = {"padding": "same", "dtype": self.dtype_policy}
        self.embed = keras.layers.Conv2D(features, kernel, strides=stride, activation="tanh", **same)
        self.coarse = ConvGRUCell(hidden[0], kernel, dtype=self.dtype_policy)
        self.upsample = keras.layers.Conv2DTranspose(features, kernel, strides=stride, activation="tanh", **same)
        self.fine = ConvGRUCell(hidden[1], kernel, dtype=self.dtype_policy)
        # Small at first: an untrained cell then hardly moves the estimate, instead of throwing it far off.
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.output_layer = keras.layers.Conv2D(n_outputs, kernel, kernel_initializer=small, **same)

    def build(self, input_shape):
        self.embed.build(input_shape)
        self.coarse.build((None, None, None, self.features))
        self.upsample.build((None, None, None, self.hidden[0]))
        self.fine.build((None, None, None, self.features))
        self.output_layer.build((None, None, None, self.hidden[1]))
        self.built = True

    def initial_state(self, batch, rows, columns):
        """Two hidden states of zeros for images of rows x columns, both multiples of the stride."""
        coarse = (batch, rows // self.stride, columns // self.stride, self.hidden[0])
        fine = (batch, rows, columns, self.hidden[1])
        return [ops.zeros(shape, dtype=self.compute_dtype) for shape in (coarse, fine)]

    def call(self, x, state):
        """x [batch, rows, columns, inputs] -> output [batch, rows, columns, n_outputs], new state."""
        coarse = self.coarse(self.embed(x), state[0])
        fine = self.fine(self.upsample(coarse), state[1])
        return self.output_layer(fine), [coarse, fine]

    def get_config(self):
        names = ("n_outputs", "features", "hidden", "kernel", "stride")
        return super().get_config() | {name: getattr(self, name) for name in names}


class Sigmoid:
    """source = 1 / (1 + exp(-latent)): between 0 and 1 (the paper's output nonlinearity, Section 2.1)."""

    @staticmethod
    def source(latent):
        return ops.sigmoid(latent)

    @staticmethod
    def latent(source):
        source = ops.clip(source, 1e-6, 1 - 1e-6)
        return ops.log(source) - ops.log(1 - source)

    @staticmethod
    def slope(source):
        """d source / d latent, as a function of the source."""
        return source * (1 - source)


class Softplus:
    """source = log(1 + exp(SHARPNESS latent)) / SHARPNESS: above 0, and the identity where it is bright."""

    SHARPNESS = math.log(2.0) * 4  # 0.25 at latent 0

    @classmethod
    def source(cls, latent):
        return ops.softplus(cls.SHARPNESS * latent) / cls.SHARPNESS

    @classmethod
    def latent(cls, source):
        scaled = cls.SHARPNESS * ops.maximum(source, 1e-6)
        # log(exp(s) - 1) = s + log(1 - exp(-s)), which neither overflows nor cancels.
        return (scaled + ops.log(-ops.expm1(-scaled))) / cls.SHARPNESS

    @classmethod
    def slope(cls, source):
        """d source / d latent, as a function of the source."""
        return -ops.expm1(-cls.SHARPNESS * source)


LINKS = {"sigmoid": Sigmoid, "softplus": Softplus}
