"""The arithmetic of a RIM, counted from its configuration alone: no weights, no backend, no run.

Only the convolutions are counted: everything else (the physics, activations, the link) is below one operation in a
hundred for the paper's network. A multiplication and an addition are two operations, and the zeros of the padding
count like any pixel, which is how TensorFlow's profiler and most tables in papers count.
"""

from typing import NamedTuple


class Convolution(NamedTuple):
    """One convolution of the cell, as it is done once in every step of the RIM."""

    name: str
    kernel: int
    """Side [pixels]."""
    inputs: int
    """Channels in. outputs: channels out."""
    outputs: int
    pixels: int
    """Side of the output, or of the input of a transpose convolution: where the kernel is applied once."""
    stride: int = 1
    transpose: bool = False

    @property
    def flops(self):
        return 2 * self.kernel**2 * self.inputs * self.outputs * self.pixels**2


def convolutions(config, n_pixels):
    """The convolutions of one step for a source of n_pixels x n_pixels, in the order of `RIMCell.call`.

    Args:
      config: `RIMConfig`.
      n_pixels: side of the source, a multiple of config.stride.
    """
    kernel, features, stride = config.kernel, config.features, config.stride
    if n_pixels % stride:
        raise ValueError(
            f"n_pixels is {n_pixels}; it must be a multiple of the stride, {stride}, as `RIM.call` pads it."
        )
    coarse = n_pixels // stride
    layers = [Convolution("embed", kernel, len(config.inputs), features, coarse, stride)]
    layers += _gru("coarse", kernel, features, config.hidden[0], coarse)
    layers += [Convolution("upsample", kernel, config.hidden[0], features, coarse, stride, transpose=True)]
    layers += _gru("fine", kernel, features, config.hidden[1], n_pixels)
    return [*layers, Convolution("output_layer", kernel, config.hidden[1], 2 if config.gradient_step else 1, n_pixels)]


def _gru(name, kernel, features, hidden, n_pixels):
    both = features + hidden
    return [
        Convolution(f"{name}.gates", kernel, both, 2 * hidden, n_pixels),
        Convolution(f"{name}.candidate", kernel, both, hidden, n_pixels),
    ]


def count_flops(config, n_pixels):
    """Floating-point operations of one reconstruction of n_pixels x n_pixels, all steps; one training step is 3 times.

    The arguments are those of `convolutions`.
    """
    return config.n_steps * sum(layer.flops for layer in convolutions(config, n_pixels))
