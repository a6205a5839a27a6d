"""The count of operations: against a hand count, the weights of the model itself, and TensorFlow's profiler."""

import dataclasses

import numpy as np
import pytest
from gradients import BACKEND

from rim_tf.config import PAPER, SMALL
from rim_tf.models.flops import convolutions, count_flops
from rim_tf.models.layers import RIMCell
from rim_tf.models.rim import RIM

pytestmark = pytest.mark.once
CONFIGS = {"paper": PAPER, "small": SMALL, "stride 3": dataclasses.replace(SMALL, stride=3, hidden=(7, 5))}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def test_one_layer_by_hand():
    embed = convolutions(SMALL, 64)[0]
    # 6 channels in, 32 out, 3 x 3 pixels, at every second pixel of 64 x 64; a multiplication and an addition each.
    assert embed.flops == 2 * 9 * 6 * 32 * 32 * 32


@each_config
def test_every_kernel_of_the_model_is_counted(config):
    kernels = [w for w in RIM(config).trainable_weights if w.path.endswith("kernel")]
    layers = convolutions(config, 96)
    assert len(kernels) == len(layers)
    for kernel, layer in zip(kernels, layers, strict=True):
        assert layer.flops == 2 * np.prod(kernel.shape) * layer.pixels**2, layer.name


def test_linear_in_pixels_and_steps():
    assert count_flops(SMALL, 128) == 4 * count_flops(SMALL, 64)
    assert count_flops(dataclasses.replace(SMALL, n_steps=20), 64) == 2 * count_flops(SMALL, 64)


def test_the_papers_network():
    assert count_flops(PAPER, 192) == pytest.approx(6.9e12, rel=0.02)  # 690 GFLOP a step


def test_side_must_be_a_multiple_of_the_stride():
    with pytest.raises(ValueError, match="multiple of the stride, 2"):
        convolutions(SMALL, 63)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the profiler is TensorFlow's")
@each_config
def test_agrees_with_the_profiler(config):
    import tensorflow as tf

    n = 24
    cell = RIMCell(2 if config.gradient_step else 1, config.features, config.hidden, config.kernel, config.stride)
    cell.build((None, None, None, len(config.inputs)))
    call = tf.function(lambda x: cell(x, cell.initial_state(1, n, n))[0], autograph=False)
    graph = call.get_concrete_function(tf.TensorSpec([1, n, n, len(config.inputs)]))
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    profile = tf.compat.v1.profiler.profile(graph.graph, cmd="op", options=options.with_empty_output().build())
    by_type = {}
    while profile.children:  # one kind of operation, which holds the next, and so on
        profile = profile.children[0]
        by_type[profile.name] = profile.float_ops
    ours = sum(layer.flops for layer in convolutions(config, n))
    assert by_type["Conv2D"] + by_type["Conv2DBackpropInput"] == ours
