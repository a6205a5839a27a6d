"""The convolutional networks of the estimator: an image with channels -> numbers."""

import keras
from keras import ops

from rim_tf.config import NORMALISED_GROUPS

# Seeds of one pass are less than this apart from those of its next layer.
_SEEDS = 1 << 24


@keras.saving.register_keras_serializable("rim_tf")
class DenseHead(keras.layers.Layer):
    """All pixels and channels in one row, dense layers, and a linear output; with dropout before each of them.

    Args:
      n_outputs: numbers to put out.
      hidden: units of each dense layer.
      dropout: share of the units that are left out where a seed is given.
    """

    def __init__(self, n_outputs, hidden, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.n_outputs, self.hidden, self.dropout = n_outputs, tuple(hidden), dropout
        same = {"dtype": self.dtype_policy}
        self.dense = [keras.layers.Dense(n, activation="relu", **same) for n in self.hidden]
        # Near 0 at first, which is what lenses usually are; not at 0, or all components would stay one.
        small, apart = keras.initializers.RandomNormal(stddev=0.01), keras.initializers.RandomNormal(stddev=0.1)
        self.output_layer = keras.layers.Dense(n_outputs, kernel_initializer=small, bias_initializer=apart, **same)

    def build(self, input_shape):
        n = input_shape[1] * input_shape[2] * input_shape[3]
        for layer in (*self.dense, self.output_layer):
            layer.build((None, n))
            n = layer.units
        self.built = True

    def call(self, x, seed=None, passes=1):
        """[batch, rows, columns, channels] -> [batch * passes, n_outputs], all passes of one image together.

        Args:
          x: features.
          seed: of the dropout, a keras.random.SeedGenerator or an integer below 2^24; None for no dropout.
          passes: how many times, each with a dropout of its own.
        """
        x = ops.repeat(ops.reshape(x, (-1, x.shape[1] * x.shape[2] * x.shape[3])), passes, axis=0)
        for i, layer in enumerate((*self.dense, self.output_layer)):
            if self.dropout and seed is not None:
                x = keras.random.dropout(x, self.dropout, seed=seed + i * _SEEDS if isinstance(seed, int) else seed)
            x = layer(x)
        return x

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in ("n_outputs", "hidden", "dropout")}


@keras.saving.register_keras_serializable("rim_tf")
class AlexNet(keras.layers.Layer):
    """Five convolutions and dense layers (Krizhevsky et al. 2012, as Hezaveh et al. 2017 use it).

    Args:
      n_outputs: as of `DenseHead`.
      features: channels of the five convolutions.
      hidden: as of `DenseHead`.
      dropout: likewise.
    """

    KERNELS, STRIDES, POOLED = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (True, True, False, False, True)

    def __init__(self, n_outputs, features, hidden, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.n_outputs, self.features, self.hidden, self.dropout = n_outputs, tuple(features), tuple(hidden), dropout
        same = {"padding": "same", "dtype": self.dtype_policy}
        self.convolutions = [
            keras.layers.Conv2D(n, kernel, strides=stride, activation="relu", **same)
            for n, kernel, stride in zip(features, self.KERNELS, self.STRIDES, strict=True)
        ]
        self.head = DenseHead(n_outputs, hidden, dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        side, channels = input_shape[1], input_shape[-1]
        for layer, stride, pooled in zip(self.convolutions, self.STRIDES, self.POOLED, strict=True):
            layer.build((None, None, None, channels))
            side, channels = -(-side // (stride * (1 + pooled))), layer.filters
        self.head.build((None, side, side, channels))
        self.built = True

    def call(self, x, seed=None, passes=1):
        """[batch, n, n, channels] -> [batch * passes, n_outputs]; seed and passes as of `DenseHead.call`."""
        for layer, pooled in zip(self.convolutions, self.POOLED, strict=True):
            x = layer(x)
            if pooled:
                x = ops.max_pool(x, 3, strides=2, padding="same")
        return self.head(x, seed=seed, passes=passes)

    def get_config(self):
        names = ("n_outputs", "features", "hidden", "dropout")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _normalisation(policy):
    """Within each image: what else is in the batch must not change an answer."""
    return keras.layers.GroupNormalization(NORMALISED_GROUPS, dtype=policy)


@keras.saving.register_keras_serializable("rim_tf")
class ResidualBlock(keras.layers.Layer):
    """Two 3 x 3 convolutions beside a short cut, each after normalisation and rectification (He et al. 2016).

    Args:
      features: channels that come out.
      stride: of the first convolution and of the short cut.
    """

    def __init__(self, features, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.features, self.stride = features, stride
        same = {"padding": "same", "use_bias": False, "dtype": self.dtype_policy}
        self.norm_1, self.norm_2 = _normalisation(self.dtype_policy), _normalisation(self.dtype_policy)
        self.conv_1 = keras.layers.Conv2D(features, 3, strides=stride, **same)
        self.conv_2 = keras.layers.Conv2D(features, 3, **same)
        self.short_cut = None

    def build(self, input_shape):
        channels = input_shape[-1]
        self.norm_1.build(input_shape)
        self.conv_1.build((None, None, None, channels))
        self.norm_2.build((None, None, None, self.features))
        self.conv_2.build((None, None, None, self.features))
        if self.stride > 1 or channels != self.features:
            self.short_cut = keras.layers.Conv2D(
                self.features, 1, strides=self.stride, use_bias=False, dtype=self.dtype_policy
            )
            self.short_cut.build((None, None, None, channels))
        self.built = True

    def call(self, x):
        """[batch, n, n, channels] -> [batch, n / stride, n / stride, features]"""
        y = ops.relu(self.norm_1(x))
        beside = x if self.short_cut is None else self.short_cut(y)
        return beside + self.conv_2(ops.relu(self.norm_2(self.conv_1(y))))

    def compute_output_shape(self, input_shape):
        sides = (None if n is None else -(-n // self.stride) for n in input_shape[1:3])
        return (input_shape[0], *sides, self.features)

    def get_config(self):
        return super().get_config() | {"features": self.features, "stride": self.stride}


@keras.saving.register_keras_serializable("rim_tf")
class ResidualNetwork(keras.layers.Layer):
    """A residual network that keeps where things are: its last feature maps go into the dense layers pixel by pixel.

    Args:
      n_outputs: as of `DenseHead`.
      features: channels of each stage, multiples of the groups that are normalised;
        the stem and each stage but the first halve the sides.
      blocks: in each stage.
      hidden: as of `DenseHead`.
      dropout: likewise.
    """

    def __init__(self, n_outputs, features, blocks, hidden, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.n_outputs, self.features, self.blocks = n_outputs, tuple(features), blocks
        self.hidden, self.dropout = tuple(hidden), dropout
        self.stem = keras.layers.Conv2D(features[0], 5, strides=2, padding="same", dtype=self.dtype_policy)
        self.stages = [
            ResidualBlock(n, 2 if stage and not i else 1, dtype=self.dtype_policy)
            for stage, n in enumerate(features)
            for i in range(blocks)
        ]
        self.norm = _normalisation(self.dtype_policy)
        self.head = DenseHead(n_outputs, hidden, dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        shape = (None, -(-input_shape[1] // 2), -(-input_shape[2] // 2), self.features[0])
        self.stem.build(input_shape)
        for block in self.stages:
            block.build(shape)
            shape = block.compute_output_shape(shape)
        self.norm.build(shape)
        self.head.build(shape)
        self.built = True

    def call(self, x, seed=None, passes=1):
        """[batch, n, n, channels] -> [batch * passes, n_outputs]; seed and passes as of `DenseHead.call`."""
        x = self.stem(x)
        for block in self.stages:
            x = block(x)
        return self.head(ops.relu(self.norm(x)), seed=seed, passes=passes)

    def get_config(self):
        names = ("n_outputs", "features", "blocks", "hidden", "dropout")
        return super().get_config() | {name: getattr(self, name) for name in names}
