"""The recurrent cell against a loop written out, and the links against their inverses."""

import numpy as np
import pytest
from gradients import array, grad, tensor, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import built

from rim_tf.models.layers import LINKS, ConvGRUCell, RIMCell


def logistic(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def cell():
    """A recurrent cell of 2 features and 3 hidden channels whose kernels are single pixels."""
    return built(ConvGRUCell(3, 1), 2)


@pytest.fixture
def x_and_state(rng):
    return rng.normal(size=(2, 4, 5, 2)).astype("float32"), rng.normal(size=(2, 4, 5, 3)).astype("float32")


def test_gru_is_a_gru_at_each_pixel(cell, x_and_state):
    gates, gates_bias, candidate, candidate_bias = (w.squeeze() for w in cell.get_weights())
    x, state = x_and_state
    ours = array(cell(x, state))
    for pixel in np.ndindex(2, 4, 5):
        feature, h = x[pixel], state[pixel]
        both = logistic(np.concatenate([feature, h]) @ gates + gates_bias)
        z, r = both[:3], both[3:]
        c = np.tanh(np.concatenate([feature, r * h]) @ candidate + candidate_bias)
        assert_allclose(ours[pixel], (1 - z) * h + z * c, rtol=1e-5, atol=1e-6)


def with_gate_bias(cell, update, reset):
    gates, _, *candidate = cell.get_weights()
    cell.set_weights([gates, np.repeat([update, reset], cell.hidden).astype("float32"), *candidate])
    return cell


@pytest.mark.parametrize("reset", [-100.0, 0.0, 100.0])
def test_closed_update_gate_keeps_the_memory(cell, x_and_state, reset):
    x, state = x_and_state
    assert_allclose(array(with_gate_bias(cell, -100.0, reset)(x, state)), state, rtol=1e-6)


def test_open_update_gate_puts_the_candidate_in_its_place(cell, x_and_state):
    x, state = x_and_state
    for reset in (0.0, 1.0):
        _, _, kernel, bias = with_gate_bias(cell, 100.0, 200 * reset - 100).get_weights()
        candidate = np.tanh(np.concatenate([x, reset * state], -1) @ kernel[0, 0] + bias)
        assert_allclose(array(cell(x, state)), candidate, rtol=1e-5, atol=1e-6)


def test_closed_reset_gate_forgets_the_past(cell, x_and_state):
    x, state = x_and_state
    forgetful = with_gate_bias(cell, 100.0, -100.0)
    assert_allclose(array(forgetful(x, state)), array(forgetful(x, 0 * state)), atol=1e-6)
    remembering = with_gate_bias(cell, 100.0, 100.0)
    assert np.abs(array(remembering(x, state)) - array(remembering(x, 0 * state))).max() > 0.1


def test_memory_stays_within_one(cell, rng):
    # A mean of the last memory and of a tanh: it cannot run away, however long the recursion.
    state = np.zeros((2, 4, 5, 3), "float32")
    for _ in range(20):
        state = array(cell(rng.normal(size=(2, 4, 5, 2), scale=30).astype("float32"), state))
    assert np.abs(state).max() <= 1


@pytest.mark.parametrize("stride, rows, columns", [(1, 5, 3), (2, 6, 4)])
def test_cell_gives_back_the_grid_it_was_given(stride, rows, columns, rng):
    cell = RIMCell(2, 4, (5, 3), 3, stride)
    cell.build((None, None, None, 3))
    state = cell.initial_state(2, rows, columns)
    assert all(np.all(array(h) == 0) for h in state)
    x = rng.normal(size=(2, rows, columns, 3)).astype("float32")
    output, new_state = whole(lambda x, state: cell(x, state))(x, state)
    assert output.shape == (2, rows, columns, 2)
    assert [h.shape for h in new_state] == [h.shape for h in state]
    assert state[0].shape == (2, rows // stride, columns // stride, 5)
    assert state[1].shape == (2, rows, columns, 3)


def test_both_memories_are_used(rng):
    cell = built(RIMCell(1, 4, (5, 3), 3, 2), 3)
    x = rng.normal(size=(1, 6, 6, 3)).astype("float32")
    none = [array(h) for h in cell.initial_state(1, 6, 6)]
    call = whole(lambda x, state: cell(x, state)[0])
    output = array(call(x, none))
    for i in range(2):
        other = [h + 0.5 * (j == i) for j, h in enumerate(none)]
        assert np.abs(array(call(x, other)) - output).max() > 1e-3


# Brightnesses over the whole range of each link.
BRIGHTNESS = {
    "sigmoid": np.array([1e-5, 1e-4, 0.01, 0.5, 0.9, 0.9999]),
    "softplus": np.geomspace(1e-5, 300, 40),
}
every_link = pytest.mark.parametrize("name", sorted(LINKS))


@every_link
def test_link_round_trips(name):
    link, source = LINKS[name], BRIGHTNESS[name]
    assert_allclose(array(link.source(link.latent(tensor(source)))), source, rtol=1e-9)
    latent = array(link.latent(tensor(source)))
    assert_allclose(array(link.latent(link.source(tensor(latent)))), latent, rtol=1e-9, atol=1e-9)
    assert_allclose(array(link.source(link.latent(tensor(source, "float32")))), source, rtol=2e-4)


@every_link
def test_link_is_increasing_and_keeps_its_range(name):
    source = array(LINKS[name].source(tensor(np.linspace(-30, 30, 200), "float32")))
    assert np.all(np.diff(source) >= 0) and np.all(source >= 0) and np.all(np.isfinite(source))
    assert_allclose(source[-1], 1 if name == "sigmoid" else 30, rtol=1e-6)


@every_link
def test_link_slope_is_its_derivative(name):
    link = LINKS[name]
    latent = link.latent(tensor(BRIGHTNESS[name]))
    automatic = grad(lambda latent: ops.sum(link.source(latent)))(latent)
    assert_allclose(array(link.slope(link.source(latent))), array(automatic), rtol=1e-9)
    h = 1e-5
    difference = (array(link.source(latent + h)) - array(link.source(latent - h))) / (2 * h)
    assert_allclose(array(automatic), difference, rtol=1e-6, atol=1e-10)


@every_link
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_latent_of_no_brightness_at_all_is_finite(name, value):
    assert np.isfinite(array(LINKS[name].latent(tensor(value, "float32"))))
