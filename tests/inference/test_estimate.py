import dataclasses

import modelled
import numpy as np
import pytest

from rim_tf.inference import estimate
from rim_tf.inference.estimate import estimate_lens
from rim_tf.observation import Observation


@pytest.fixture(scope="module")
def network():
    return modelled.networks()[1]


@pytest.fixture
def observation():
    return Observation(modelled.ring(), 0.05, 0.05, None, modelled.SCALE)


def test_samples_have_the_mean_and_the_covariance_that_are_stated(network, observation):
    found = estimate_lens(observation, network)
    mean = found.samples.mean(0)
    mean[0] = np.median(found.samples[:, 0])
    np.testing.assert_allclose(found.lens.as_tuple(), mean, rtol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(found.samples.T))
    starts = found.starts(5)
    assert len(starts) == 5 and starts[0] == found.lens and len({each.as_tuple() for each in starts}) == 5
    assert np.abs(found.distance(found.lens)).max() == 0
    off = dataclasses.replace(found.lens, x_lens=found.lens.x_lens + 2 * np.sqrt(found.covariance[3, 3]))
    np.testing.assert_allclose(found.distance(off), [0, 0, 0, 2, 0, 0, 0], atol=1e-9)


def test_the_same_seed_draws_the_same_lenses(network, observation):
    one, two, other = (estimate_lens(observation, network, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.samples, two.samples)
    assert (one.samples != other.samples).any()


def test_a_stamp_is_taken_as_a_gaussian_is(network, observation):
    offset = np.arange(-4, 5) * modelled.SCALE
    psf = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 0.1**2))
    given = [dataclasses.replace(observation, psf=each) for each in (0.1, psf / psf.sum())]
    means = [estimate_lens(each, network).lens.as_tuple() for each in given]
    np.testing.assert_allclose(*means, rtol=0.02, atol=0.02)


def test_a_small_ring_in_a_wide_frame_is_looked_at_again(network, observation, monkeypatch):
    """Its second look is at so many theta_E; where that is the whole frame, there is none."""
    fields, look = [], estimate._look

    def looked(observation, model, field, seed):
        fields.append(field)
        return look(observation, model, field, seed)

    monkeypatch.setattr(estimate, "_look", looked)
    whole = modelled.PIXELS * modelled.SCALE
    first = look(observation, network, whole, 0)
    wanted = estimate._FIELD * first.lens.theta_E
    found = estimate_lens(observation, network)
    assert fields[0] == pytest.approx(whole) and found.field == fields[-1]
    assert fields[1:] == ([pytest.approx(wanted)] if wanted < 0.9 * whole else [])
    wide = Observation(np.pad(modelled.ring(), 40), 0.05, 0.05, None, modelled.SCALE)
    fields.clear()
    monkeypatch.setattr(estimate, "_FIELD", 0.5)
    estimate_lens(wide, network)
    assert len(fields) == 2 and fields[1] < fields[0]
