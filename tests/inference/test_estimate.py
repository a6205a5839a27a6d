import dataclasses

import keras
import modelled
import numpy as np
import pytest
from registry import SMALL_ESTIMATOR

from rim_tf.inference import estimate
from rim_tf.inference.estimate import estimate_lens
from rim_tf.lens import LensParameters
from rim_tf.models.looks import LEAST_FIELD, LOOKS, judge, see
from rim_tf.models.pretrained import build_model
from rim_tf.observation import Observation
from rim_tf.systems import batch_of


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)  # whatever ran before, as some weights hardly look at the image
    return build_model(SMALL_ESTIMATOR)


@pytest.fixture
def observation():
    return Observation(modelled.ring(), 0.05, 0.05, None, modelled.SCALE)


def test_samples_have_the_mean_and_the_covariance_that_are_stated(network, observation):
    found = estimate_lens(observation, network)
    mean = found.samples.mean(0)
    mean[0] = np.median(found.samples[:, 0])
    spread = found.samples.std(0)
    np.testing.assert_allclose(found.lens.as_tuple(), mean, rtol=1e-6, atol=1e-5 * spread.min())
    np.testing.assert_allclose(found.covariance, np.cov(found.samples.T), atol=1e-5 * np.outer(spread, spread).min())
    starts = found.starts(5)
    assert len(starts) == 5 and starts[0] == found.lens and len({each.as_tuple() for each in starts}) == 5
    assert np.abs(found.distance(found.lens)).max() == 0
    off = dataclasses.replace(found.lens, x_lens=found.lens.x_lens + 2 * np.sqrt(found.covariance[3, 3]))
    np.testing.assert_allclose(found.distance(off), [0, 0, 0, 2, 0, 0, 0], atol=1e-9)
    # Where the light may be off the mass, by as much as twice the error of the estimate, less is unexpected.
    centred = (off.x_lens - found.lens.x_lens) / off.theta_E
    np.testing.assert_allclose(found.distance(off, centred), [0, 0, 0, 2 / np.sqrt(5), 0, 0, 0], atol=1e-9)


def test_theta_E_is_where_the_mass_model_has_it(observation):
    keras.utils.set_random_seed(1)
    network = build_model(dataclasses.replace(SMALL_ESTIMATOR, mass=("shear", "sie")))
    found = estimate_lens(observation, network)
    radius = found.lens.mass.radius
    assert found.lens.mass.names[radius] == "theta_E" and radius != 0
    drawn = found.samples[:, radius]
    assert found.lens.theta_E == pytest.approx(np.median(drawn), rel=1e-5)
    assert found.uncertainty == pytest.approx(drawn.std(ddof=1) / np.median(drawn), rel=1e-4)
    others = np.delete(np.arange(len(found.samples[0])), radius)
    np.testing.assert_allclose(np.array(found.lens.as_tuple())[others], found.samples.mean(0)[others], atol=1e-5)


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


def test_the_surest_look_counts_and_what_others_say_is_kept(network):
    wide = Observation(np.pad(modelled.ring(), 40), 0.05, 0.05, None, modelled.SCALE)
    found = estimate_lens(wide, network)
    side = wide.shape[0] * modelled.SCALE
    looks = estimate._looks(wide, network, 0)
    factors = {share * side: factor for share, factor in LOOKS}
    assert len(looks) == len(LOOKS)
    weighted = [each.uncertainty * factors[min(factors, key=lambda f: abs(f - each.field))] for each in looks]
    assert weighted == sorted(weighted)
    assert found.lens == looks[0].lens and found.field == looks[0].field
    radii = [each.lens.theta_E for each in (found, *found.others)]
    assert all(abs(a / b - 1) > 0.05 for i, a in enumerate(radii) for b in radii[:i])
    assert found.starts(16)[: len(radii)] == [each.lens for each in (found, *found.others)]
    assert len(found.starts(16)) == 16 and found.starts(1) == [found.lens]


def test_no_field_is_too_small_for_a_ring(network):
    small = modelled.ring()[4:-4, 4:-4]
    looks = estimate._looks(Observation(small, 0.05, 0.05, None, modelled.SCALE), network, 0)
    fields = sorted(each.field for each in looks)
    assert fields[-1] == pytest.approx(len(small) * modelled.SCALE)
    assert all(field >= LEAST_FIELD * modelled.SCALE for field in fields[:-1]) and len(fields) < len(LOOKS)


def test_what_is_said_of_an_image_does_not_depend_on_those_beside_it(network, observation):
    inputs = batch_of([observation] * 2, [LensParameters(1.0)] * 2, [0.05] * 2)
    inputs["image"][0] = inputs["image"][0].T[::-1]
    alone, beside = (
        judge(*see(network, {name: value[-n:] for name, value in inputs.items()}), network.mass) for n in (1, 2)
    )
    for name, value in alone.items():
        np.testing.assert_allclose(value[0], beside[name][1], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(np.subtract(*beside["lens"])).max() > 1e-3
