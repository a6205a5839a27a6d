"""Losses against sums written out, to float32: Keras on JAX takes means in it whatever it is given."""

import keras
import numpy as np
import pytest
from gradients import array, grad, tensor
from keras import ops
from numpy.testing import assert_allclose

from rim_tf.models.losses import IterateLoss, final_rms_percent, rms_over_peak


@pytest.fixture
def source_and_iterates(rng):
    return rng.uniform(size=(3, 4, 5)), rng.uniform(size=(3, 2, 4, 5))


def rms_by_hand(source, estimate):
    return np.sqrt(np.mean((source - estimate) ** 2)) / source.max()


def test_rms_of_known_errors():
    source = np.zeros((2, 2))
    source[0, 1] = 5.0
    assert_allclose(array(rms_over_peak(tensor(source), tensor(source + 0.1))), 0.02, rtol=1e-6)
    assert array(rms_over_peak(tensor(source), tensor(source))) < 1e-6


@pytest.mark.parametrize(
    "kind, of_iterate",
    [
        ("squared", lambda s, e: 0.5 * np.sum((s - e) ** 2)),
        ("rms", rms_by_hand),
        ("log_rms", lambda s, e: np.log(rms_by_hand(s, e))),
        ("log_rms_flux", lambda s, e: np.log(rms_by_hand(s, e)) + 10 * np.hypot(e.sum() / s.sum() - 1, 0.002)),
    ],
)
def test_loss_is_the_mean_over_iterates_of_each_system(kind, of_iterate, source_and_iterates):
    source, iterates = source_and_iterates
    expected = [np.mean([of_iterate(s, e) for e in its]) for s, its in zip(source, iterates, strict=True)]
    loss = IterateLoss(kind)
    assert_allclose(array(loss.call(tensor(source), tensor(iterates))), expected, rtol=1e-6, atol=5e-7)
    assert_allclose(array(loss(tensor(source), tensor(iterates))), np.mean(expected), rtol=1e-6, atol=5e-7)


def test_final_rms_looks_at_the_last_iterate_only(source_and_iterates):
    source, iterates = source_and_iterates
    expected = 100 * np.mean([rms_by_hand(s, its[-1]) for s, its in zip(source, iterates, strict=True)])
    assert_allclose(array(final_rms_percent(tensor(source), tensor(iterates))), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "log_rms"])
def test_relative_losses_have_no_unit(kind, source_and_iterates):
    source, iterates = source_and_iterates
    loss = IterateLoss(kind)
    once = array(loss.call(tensor(source), tensor(iterates)))
    assert_allclose(array(loss.call(tensor(1e3 * source), tensor(1e3 * iterates))), once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", IterateLoss.KINDS)
def test_gradient_of_a_perfect_estimate_is_finite(kind):
    source = tensor(np.eye(3)[None], "float32")
    slope = grad(lambda e: ops.sum(IterateLoss(kind).call(source, e)))(source[:, None])
    assert np.all(np.isfinite(array(slope)))


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'rsm' is unknown; it must be one of squared, rms, log_rms"):
        IterateLoss("rsm")


@pytest.mark.once
@pytest.mark.parametrize("kind", IterateLoss.KINDS)
def test_config_round_trip(kind):
    loss = keras.losses.deserialize(keras.losses.serialize(IterateLoss(kind)))
    assert isinstance(loss, IterateLoss) and loss.kind == kind
