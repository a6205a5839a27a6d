"""The estimator sees what is in an image and nothing else: no unit, no scale, nothing under a mask, no lens."""

import dataclasses
import functools
import json

import h5py
import numpy as np
import pytest
from gradients import array, grad, tensor, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import LAYERS, SMALL_ALEXNET, SMALL_ESTIMATOR, observation, stirred

from rim_tf.config import ESTIMATOR_PAPER, ESTIMATOR_PRESETS, ESTIMATOR_SMALL, EstimatorConfig, model_from_json
from rim_tf.errors import InputError
from rim_tf.models import mixture, pretrained
from rim_tf.models.estimator import INPUTS, Estimator, View
from rim_tf.models.mixture import LensPosterior
from rim_tf.models.pretrained import build_model, load_pretrained, save_trained
from rim_tf.physics.mass.model import SIE_SHEAR
from rim_tf.validation import to_json

# Of SIE and shear: what doubles where all angles do.
LENGTHS = np.array([2.0, 1, 1, 2, 2, 1, 1])
every_estimator = pytest.mark.parametrize("name", [name for name in sorted(LAYERS) if name.startswith("Estimator")])


@functools.cache
def network(name):
    """The estimator of the registry, made once; to be called only."""
    return LAYERS[name].build()


@functools.cache
def moments(model):
    """The function that gives mean and covariance of the lens, without dropout."""
    return whole(lambda inputs, given: LensPosterior(model(inputs, **given), model.mass).moments())


def found(model, inputs, **given):
    """Mean and covariance of the lens, without dropout, as arrays."""
    return [array(x) for x in moments(model)(inputs, given)]


@functools.cache
def heads(model):
    """The function that gives the head of the posterior, of one seed or another where there is dropout."""
    return whole(lambda inputs, seed=0: model.posterior(inputs, seed=seed).head, "seed")


@functools.cache
def outputs(model):
    """The function that gives the output."""
    return whole(lambda inputs: model(inputs))


def assert_same(model, inputs, changed, rtol=2e-4, **given):
    for one, other in zip(found(model, inputs), found(model, changed, **given), strict=True):
        assert np.isfinite(one).all()
        assert_allclose(other, one, rtol=rtol, atol=rtol * np.abs(one).max())


@every_estimator
@pytest.mark.parametrize("unit", [1e-20, 3.0, 1e15])
def test_the_unit_of_brightness_does_not_matter(name, unit):
    model, (inputs,) = network(name), LAYERS[name].arguments()
    unit = np.float32(unit)
    assert_same(model, inputs, inputs | {k: inputs[k] * unit for k in ("image", "noise_rms")})


@pytest.mark.parametrize("psf", ["gaussian", "stamp"])
def test_twice_the_pixel_scale_is_twice_the_lengths(psf):
    model, inputs = network("Estimator, residual"), observation(psf)
    doubled = inputs | {"pixel_scale": 2 * inputs["pixel_scale"]}
    doubled |= {"psf": 2 * inputs["psf"]} if psf == "gaussian" else {}
    (mean, covariance), (mean_2, covariance_2) = found(model, inputs), found(model, doubled)
    assert_allclose(mean_2, mean * LENGTHS, rtol=1e-4, atol=1e-6)
    assert_allclose(covariance_2, covariance * np.outer(LENGTHS, LENGTHS), rtol=1e-3, atol=1e-6)
    assert np.abs(mean_2 - mean).max() > 0.1


@every_estimator
def test_what_lies_under_the_mask_does_not_matter(name):
    model, (inputs,) = network(name), LAYERS[name].arguments()
    masked = ~inputs["mask"]
    for hidden in (np.nan, np.inf, -1e30):
        changed = {k: np.where(masked, np.float32(hidden), inputs[k]) for k in ("image", "noise_rms")}
        assert_same(model, inputs, inputs | changed, rtol=1e-6)
    # The test can fail: one column more under the mask is another image.
    other = inputs | {"mask": inputs["mask"] & (np.arange(12) != 5)}
    assert np.abs(found(model, inputs)[0] - found(model, other)[0]).max() > 1e-4


def test_the_lens_that_is_told_is_not_looked_at():
    model, inputs = network("Estimator, residual"), observation()
    assert_same(model, inputs, {k: v for k, v in inputs.items() if k not in ("lens", "source_pixel_scale")}, rtol=0)


def test_each_image_has_an_answer_of_its_own():
    model, inputs = network("Estimator, residual"), observation(batch=3)
    together = found(model, inputs)
    for i in range(3):
        for one, all_of_them in zip(found(model, {k: v[i : i + 1] for k, v in inputs.items()}), together, strict=True):
            assert_allclose(one[0], all_of_them[i], rtol=1e-4, atol=1e-5)


def test_a_field_is_a_crop_of_the_frame():
    # The middle of a frame with a wide dark margin, cut out by hand or named by its width; pixels as the network's own.
    model, inputs = stirred(Estimator(dataclasses.replace(SMALL_ESTIMATOR, pixels=12))), observation()
    margin = {"image": 0.0, "noise_rms": 0.05, "mask": True}
    wide = {k: np.pad(inputs[k], [(0, 0), (4, 4), (9, 9)], constant_values=v) for k, v in margin.items()}
    assert_same(model, inputs, inputs | wide, field=12 * inputs["pixel_scale"])
    # Without a name it is the shorter side of the frame.
    assert_same(model, inputs, inputs | {k: v[:, 4:-4] for k, v in wide.items()})
    assert np.abs(found(model, inputs)[0] - found(model, inputs | wide)[0]).max() > 1e-2


def test_pixels_smaller_than_the_networks_are_binned():
    # Each pixel as four equal ones with twice the noise is the same observation, for a network of coarser pixels.
    config = dataclasses.replace(SMALL_ESTIMATOR, pixels=8, inputs=("compressed", "significance", "mask", "log_noise"))
    model, inputs = stirred(Estimator(config)), observation(rows=16, columns=16)
    fine = {k: np.repeat(np.repeat(inputs[k], 2, 1), 2, 2) for k in ("image", "noise_rms", "mask")}
    fine |= {"noise_rms": 2 * fine["noise_rms"], "pixel_scale": inputs["pixel_scale"] / 2}
    one, other = (array(outputs(model)(each)) for each in (inputs, inputs | fine))
    assert np.isfinite(one).all() and np.std(one[0] - one[1]) > 0.01
    assert_allclose(other, one, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def test_every_input_is_a_number_of_order_one(rng):
    inputs = observation("stamp", rows=33, columns=40)

    @whole
    def seen(inputs):
        view = View(inputs, 16)
        return {name: channel(view) for name, channel in INPUTS.items()}

    for noise in (1e-4, 0.1):
        for name, values in seen(inputs | {"noise_rms": np.full_like(inputs["noise_rms"], noise)}).items():
            values = array(values)
            assert values.shape == (2, 16, 16) and values.dtype == "float32", name
            assert np.all(np.isfinite(values)) and 0.005 < np.abs(values).max() < 5, name


@pytest.mark.parametrize("changes", [{"mask": False}, {"image": 0.0}, {"image": -1.0}])
def test_a_frame_without_anything_has_a_finite_answer(changes):
    model, inputs = network("Estimator, residual"), observation()
    inputs = inputs | {k: np.full_like(inputs[k], v) for k, v in changes.items()}
    assert all(np.all(np.isfinite(x)) for x in found(model, inputs))


def test_the_posterior_has_a_slope_in_the_image():
    model, inputs = network("Estimator, residual"), observation()

    def total(image):
        return ops.sum(model(inputs | {"image": image}))

    slope = array(whole(grad(total))(tensor(inputs["image"], "float32")))
    assert np.all(np.isfinite(slope)) and np.all(slope[~inputs["mask"]] == 0)
    assert np.mean(slope != 0) > 0.8


def test_an_untrained_network_says_what_lenses_usually_are():
    model, inputs = Estimator(SMALL_ESTIMATOR), observation()
    mean, covariance = found(model, inputs)
    half_field = 6 * inputs["pixel_scale"]
    assert np.all((mean[:, 0] > 0.2 * half_field) & (mean[:, 0] < 0.9 * half_field))
    assert np.all(np.abs(mean[:, 1:]) < 0.3)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


# ------------------------------------------------------------------------------------------------ dropout


def test_passes_with_dropout_are_pooled():
    model, inputs = network("Estimator, as in the paper"), observation("stamp")
    of_seed = heads(model)
    head = array(of_seed(inputs, 2))
    assert head.shape == (2, SMALL_ALEXNET.passes * SMALL_ALEXNET.components, 36)
    passes = head.reshape(2, 5, 2, 36)
    assert np.all(np.ptp(passes[..., 1:8], axis=1).max(axis=-1) > 1e-3)  # each pass leaves out others
    assert_allclose(np.exp(passes[..., 0]).sum(axis=(1, 2)), 1.0, rtol=1e-5)
    assert_allclose(array(of_seed(inputs, 2)), head)
    assert np.abs(array(of_seed(inputs, 3)) - head).max() > 1e-3
    # Within one pass as well, two systems leave out others.
    twins = {k: np.repeat(v[:1], 2, axis=0) for k, v in inputs.items()}
    assert np.ptp(array(of_seed(twins, 2)), axis=0).max() > 1e-3
    assert np.ptp(array(outputs(model)(twins)), axis=0).max() < 1e-5


def test_dropout_is_for_training_and_posteriors():
    model, inputs = network("Estimator, as in the paper"), observation("stamp")
    plain = array(outputs(model)(inputs))
    assert_allclose(array(outputs(model)(inputs)), plain)
    one, other = (array(model(inputs, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - plain).max() > 1e-3
    # The paper's covariance is a variance for each parameter.
    below = plain[..., 15:]
    assert below.shape[-1] == 21 and np.all(below == 0)


def test_without_dropout_the_posterior_is_the_output():
    model, inputs = stirred(Estimator(dataclasses.replace(SMALL_ESTIMATOR, mirrored=False))), observation()
    output = array(outputs(model)(inputs))
    assert_allclose(array(heads(model)(inputs)), output, rtol=1e-6)
    assert np.all(output[..., 15:] != 0)


# ------------------------------------------------------------------------------------------------ mirror images


@pytest.mark.parametrize("psf", ["gaussian", "stamp"])
@pytest.mark.parametrize("mirror", [(1,), (2,), (1, 2)])
def test_a_mirror_image_has_the_mirrored_posterior(psf, mirror):
    # Of a network that is no more symmetric than any.
    model, inputs = network("Estimator, residual"), observation(psf)
    turned = {k: np.flip(v, mirror) if np.ndim(v) == 3 else v for k, v in inputs.items()}
    signs = model.mass.mirrored(*({2: "x", 1: "y"}[axis] for axis in mirror))
    posterior = whole(lambda inputs: model.posterior(inputs).moments())
    (mean, covariance), (mean_2, covariance_2) = ([array(x) for x in posterior(each)] for each in (inputs, turned))
    assert_allclose(mean_2, mean * signs, rtol=1e-4, atol=1e-6)
    assert_allclose(covariance_2, covariance * np.outer(signs, signs), rtol=1e-3, atol=1e-7)
    # The output, of one image alone, has not.
    assert np.abs(found(model, turned)[0] - found(model, inputs)[0] * signs).max() > 1e-3


def test_the_mirror_images_are_seen_alike_by_a_network_that_pools_them():
    model, inputs = network("Estimator, residual"), observation()
    head, n = array(heads(model)(inputs)), SMALL_ESTIMATOR.components
    assert head.shape[1] == 4 * n
    assert_allclose(np.exp(head[..., 0]).sum(1), 1.0, rtol=1e-5)
    assert_allclose(head[:, :n, 1:], array(outputs(model)(inputs))[..., 1:], rtol=1e-4, atol=1e-5)


def test_passes_with_dropout_and_mirror_images_keep_apart():
    # So little is left out that each pass is the output of its own image, in the order of the images.
    model = stirred(Estimator(dataclasses.replace(SMALL_ALEXNET, dropout=1e-6, passes=3, mirrored=True)))
    inputs, n = observation("stamp", batch=3), SMALL_ALEXNET.components
    head = array(heads(model)(inputs, 1)).reshape(3, 4, 3, n, -1)
    for i, axes in enumerate([(), (2,), (1,), (1, 2)]):
        turned = {k: np.flip(v, axes) if np.ndim(v) == 3 else v for k, v in inputs.items()}
        signs = model.mass.mirrored(*({2: "x", 1: "y"}[axis] for axis in axes))
        mean = array(outputs(model)(turned))[..., 1:8] * signs
        assert_allclose(head[:, i, ..., 1:8], np.repeat(mean[:, None], 3, axis=1), rtol=1e-3, atol=1e-3)
    assert np.ptp(head[..., 1:8], axis=0).max() > 0.01 and np.ptp(head[..., 1:8], axis=1).max() > 0.01


def test_a_posterior_is_stretched_as_the_settings_say():
    factors = (0.5, 0.6, 0.7, 0.8, 1.2, 1.4, 1.6)
    plain = stirred(Estimator(SMALL_ESTIMATOR))
    other, inputs = Estimator(dataclasses.replace(SMALL_ESTIMATOR, stretch=factors)), observation()
    other.set_weights(plain.get_weights())
    (mean, sigma), (mean_2, sigma_2) = (map(array, mixture.moments(heads(m)(inputs))) for m in (plain, other))
    assert_allclose(mean_2, mean, rtol=1e-4, atol=1e-5)
    assert_allclose(sigma_2, sigma * factors, rtol=1e-4)
    with pytest.raises(InputError, match="stretch has 2 numbers; it needs one for each of theta_E, e1"):
        Estimator(dataclasses.replace(SMALL_ESTIMATOR, stretch=(1.0, 1.0)))


# ------------------------------------------------------------------------------------------------ settings, files


@pytest.mark.once
@pytest.mark.parametrize("config", ESTIMATOR_PRESETS.values(), ids=ESTIMATOR_PRESETS)
def test_presets_are_valid_and_survive_json(config):
    config.__post_init__()
    assert model_from_json(json.loads(to_json(config))) == config


@pytest.mark.once
def test_the_shipped_kind_is_small():
    assert 4 * Estimator(ESTIMATOR_SMALL).count_params() < 10e6
    assert ESTIMATOR_PAPER == EstimatorConfig()


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"features": (8, 12)}, "each must be a multiple of 8"),
        ({"network": "alexnet"}, "an alexnet has five convolutions"),
        ({"inputs": ()}, "inputs is empty"),
        ({"inputs": ("colour",)}, "inputs"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be a number of at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_network_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        dataclasses.replace(ESTIMATOR_SMALL, **changes)


def test_a_mass_model_that_there_is_not_is_named():
    with pytest.raises(InputError, match="no mass profile 'nfw'"):
        Estimator(dataclasses.replace(SMALL_ESTIMATOR, mass=("nfw",)))


def test_another_mass_model_has_another_posterior():
    model = stirred(Estimator(dataclasses.replace(SMALL_ESTIMATOR, mass=("power_law", "shear", "sie"))))
    lenses = array(whole(lambda inputs: model.posterior(inputs).sample(200, 0))(observation()))
    assert lenses.shape == (2, 200, 13)
    slope = lenses[..., model.mass.names.index("slope")]
    assert np.all((slope > 1) & (slope < 3))


@pytest.mark.parametrize(
    "config",
    [SMALL_ALEXNET, SMALL_ESTIMATOR, dataclasses.replace(SMALL_ESTIMATOR, pixels=30, features=(8, 8, 16), blocks=3)],
)
def test_weights_are_known_by_their_shapes_and_come_back(config, tmp_path):
    model = stirred(Estimator(config))
    save_trained(model, tmp_path / "mine", {})
    found_shapes = {}
    with h5py.File(tmp_path / "mine.weights.h5") as file:
        file.visititems(
            lambda name, item: found_shapes.update({name: item.shape} if isinstance(item, h5py.Dataset) else {})
        )
    assert pretrained._NETWORKS[EstimatorConfig].shapes(config) == found_shapes
    loaded = load_pretrained(tmp_path / "mine.json", "estimator")
    assert loaded.config == config
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="of the kind 'estimator'; wanted are 'rim'"):
        load_pretrained(tmp_path / "mine.json")


def test_it_is_a_network_like_any_other():
    assert isinstance(build_model(SMALL_ESTIMATOR), Estimator) and build_model(SMALL_ESTIMATOR).mass == SIE_SHEAR
