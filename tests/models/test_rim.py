"""The recursion with a cell whose answer is known, and the symmetries that a reconstruction must have."""

import dataclasses

import keras
import numpy as np
import pytest
from gradients import BACKEND, array, grad, slopes, tensor, traced, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import SMALL_PAPER, SMALL_SMALL, doubled, observation, smaller, stirred

from rim_tf.config import PAPER, PRESETS, SMALL, RIMConfig
from rim_tf.errors import InputError
from rim_tf.models.losses import IterateLoss, rms_over_peak
from rim_tf.models.rim import INPUTS, RIM, unroll
from rim_tf.physics.imaging import imaging_problem

NETWORKS = {"paper": SMALL_PAPER, "small": SMALL_SMALL}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_psf = pytest.mark.parametrize("psf", ["gaussian", "stamp"])


@pytest.fixture(scope="module")
def models():
    def called(model):
        return whole(lambda inputs, source_shape=None: model(inputs, source_shape=source_shape), "source_shape")

    return {name: called(stirred(RIM(config))) for name, config in NETWORKS.items()}


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


# --- the recursion ---------------------------------------------------------------------------------------


def test_unroll_with_a_hand_written_cell_is_gradient_descent(rng):
    curvature, best, start = (
        rng.uniform(0.2, 1, (2, 3, 4)),
        rng.normal(size=(2, 3, 4)),
        rng.normal(size=(2, 3, 4)),
    )

    def descent(latent, gradient, state):
        return 0.5 * gradient, state

    iterates = unroll(descent, lambda x: tensor(curvature) * (tensor(best) - x), tensor(start), None, 7)
    assert iterates.shape == (2, 7, 3, 4)
    for step in range(7):
        expected = best + (1 - 0.5 * curvature) ** (step + 1) * (start - best)
        assert_allclose(array(iterates)[:, step], expected, rtol=1e-12)


def test_unroll_hands_the_state_on_and_the_newest_estimate_in():
    seen = []

    def counting(latent, gradient, state):
        seen.append((array(latent).item(), array(gradient).item(), state))
        return latent, state + 1

    iterates = unroll(counting, lambda x: 10 * x, tensor([[[1.0]]]), 5, 3)
    assert_allclose(array(iterates).ravel(), [2, 4, 8])
    assert seen == [(1, 10, 5), (2, 20, 6), (4, 40, 7)]


# --- what a reconstruction must do -----------------------------------------------------------------------


@every_network
@every_psf
def test_iterates_are_finite_and_depend_on_the_data(network, psf, models):
    inputs = observation(psf)
    iterates = array(models[network](inputs))
    assert iterates.shape == (2, 2, 12, 12) and iterates.dtype == "float32"
    assert np.all(np.isfinite(iterates))
    changed = array(models[network](inputs | {"image": inputs["image"][:, ::-1]}))
    # The symmetries below would hold of a network that looks at nothing.
    assert np.abs(changed[:, -1] - iterates[:, -1]).max() > 1e-3 * iterates.max()


@every_network
def test_estimate_of_the_paper_is_a_fraction_and_any_source_is_positive(network, models):
    iterates = array(models[network](observation()))
    assert np.all(iterates > 0)
    if network == "paper":
        assert np.all(iterates < 1)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces anew for each shape, and none is unknown to it")
@every_network
def test_batch_and_image_size_may_be_unknown(network, models):
    import tensorflow as tf

    unknown = {
        name: tf.TensorSpec([None] * (value.ndim - 1) + [7 if name == "lens" else None], value.dtype)
        for name, value in observation().items()
    }
    call = tf.function(lambda inputs: models[network](inputs), input_signature=[unknown], autograph=False)
    for batch, rows, columns in [(1, 12, 12), (3, 12, 12), (2, 10, 14)]:
        inputs = observation(batch=batch, rows=rows, columns=columns)
        iterates = array(call(tensors(inputs)))
        assert iterates.shape == (batch, 2, rows, columns)
        assert_allclose(iterates, array(models[network](inputs)), rtol=2e-4, atol=1e-5)


@every_network
@pytest.mark.parametrize("rows, columns, source", [(9, 7, (10, 8))])
def test_odd_and_oblong_images(network, rows, columns, source, models):
    iterates = array(models[network](observation(rows=rows, columns=columns)))
    assert iterates.shape == (2, 2, *source)
    assert np.all(np.isfinite(iterates))


@every_network
def test_the_last_iterate_alone_is_that_of_as_many_steps(network, models):
    model, inputs = stirred(RIM(NETWORKS[network])), observation("gaussian")
    iterates = array(models[network](inputs))

    @whole
    def last(inputs, n=None):
        return model.solve_last(imaging_problem(inputs, iterates.shape[2:]), n)

    for n in (1, iterates.shape[1]):
        assert_allclose(array(last(tensors(inputs), n)), iterates[:, n - 1], rtol=1e-4, atol=1e-5)
    assert_allclose(array(last(tensors(inputs))), iterates[:, -1], rtol=1e-4, atol=1e-5)


@every_network
def test_source_shape_can_be_chosen(network, models):
    iterates = array(models[network](observation(rows=9, columns=7), source_shape=(6, 14)))
    assert iterates.shape == (2, 2, 6, 14)
    assert np.all(np.isfinite(iterates))


@every_network
@every_psf
def test_each_system_is_reconstructed_as_if_alone(network, psf, models):
    inputs = observation(psf)
    together = array(models[network](inputs))
    for i in range(2):
        alone = array(models[network]({name: value[i : i + 1] for name, value in inputs.items()}))
        assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-5)


@every_network
def test_order_in_the_batch_does_not_matter(network, models):
    inputs, order = observation(), [1, 0]
    permuted = array(models[network]({name: value[order] for name, value in inputs.items()}))
    assert_allclose(permuted, array(models[network](inputs))[order], rtol=1e-4, atol=1e-5)


@every_psf
@pytest.mark.parametrize("factor", [1000.0, 1e-3])
def test_unit_of_brightness_does_not_matter(psf, factor, models):
    inputs = observation(psf)
    factor = np.float32(factor)
    scaled = inputs | {name: factor * inputs[name] for name in ("image", "noise_rms")}
    once = array(models["small"](inputs))
    assert_allclose(array(models["small"](scaled)), factor * once, rtol=1e-3, atol=1e-4 * factor * once.max())


@every_network
def test_unit_of_angle_does_not_matter(network, models):
    inputs = observation()
    twice = {name: 2 * inputs[name] for name in ("pixel_scale", "source_pixel_scale", "psf")}
    lens = inputs["lens"] * np.array([2, 1, 1, 2, 2, 1, 1], "float32")
    assert_allclose(
        array(models[network](inputs | twice | {"lens": lens})),
        array(models[network](inputs)),
        rtol=1e-4,
        atol=1e-5,
    )


@every_network
@every_psf
def test_what_lies_under_the_mask_has_no_influence(network, psf, models):
    inputs = observation(psf)
    clean = array(models[network](inputs))
    for there in (np.nan, np.inf, 1e30, -1e30):
        hidden = {name: np.where(inputs["mask"], inputs[name], np.float32(there)) for name in ("image", "noise_rms")}
        assert_allclose(array(models[network](inputs | hidden)), clean, rtol=1e-6, err_msg=f"{there}")
    no_noise = {"noise_rms": np.where(inputs["mask"], inputs["noise_rms"], np.float32(0))}
    assert_allclose(array(models[network](inputs | no_noise)), clean, rtol=1e-6)


@every_network
def test_masked_pixels_leave_gradients_finite(network, models):
    inputs = observation()
    inputs["image"] = np.where(inputs["mask"], inputs["image"], np.float32(np.nan))
    inputs["noise_rms"] = np.where(inputs["mask"], inputs["noise_rms"], np.float32(0))
    fixed = tensors(inputs)
    names = ("lens", "psf", "image", "noise_rms")

    def total(*values):
        return ops.sum(models[network](fixed | dict(zip(names, values, strict=True))))

    for name, slope in zip(names, whole(grad(total, (0, 1, 2, 3)))(*(fixed[n] for n in names)), strict=True):
        assert np.all(np.isfinite(array(slope))), name
        assert np.any(array(slope) != 0), name


def test_system_masked_altogether_spoils_no_other(models):
    inputs = observation()
    dark = inputs | {"mask": inputs["mask"] & np.array([True, False])[:, None, None]}
    for model in models.values():
        iterates = array(model(dark))
        assert np.all(np.isfinite(iterates[0]))
        assert_allclose(iterates[0], array(model(inputs))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras on JAX convolves in float32, too coarse for a difference")
@every_network
def test_gradient_through_the_whole_reconstruction_in_the_lens(network):
    # In float64 throughout, so that a finite difference is worth something.
    model = RIM(NETWORKS[network], dtype="float64")
    model.cell.output_layer.set_weights([0.3 * w for w in model.cell.output_layer.get_weights()])
    inputs = doubled(observation())
    weight = np.random.default_rng(0).normal(size=(2, 12, 12))

    def total(lens):
        return ops.sum(tensor(weight) * model(inputs | {"lens": lens})[:, -1])

    lens = array(inputs["lens"])
    expected = slopes(traced(total), lens)
    scale = np.abs(expected).max()
    assert scale > 0
    assert_allclose(array(grad(total)(tensor(lens))), expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("network", ["small"] if BACKEND == "jax" else NETWORKS)  # a minute of compiling each
def test_fit_learns(network, rng):
    keras.utils.set_random_seed(1)
    # Through two steps, as what acts on the state has no gradient at the first; the paper's cell is the same.
    model = RIM(dataclasses.replace(NETWORKS[network], n_steps=2 if network == "small" else 1))
    inputs = tensors(observation(batch=4))
    y, x = np.mgrid[-1:1:12j, -1:1:12j]
    centre = rng.uniform(-0.5, 0.5, (2, 4, 1, 1))
    source = (0.8 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.1)).astype("float32")
    model.compile(loss=IterateLoss("rms"), optimizer=keras.optimizers.Adam(3e-3))
    model.optimizer.build(model.trainable_variables)  # or the step is traced twice
    losses = model.fit(inputs, source, batch_size=4, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    error = rms_over_peak(ops.convert_to_tensor(source), whole(lambda inputs: model(inputs)[:, -1])(inputs))
    assert np.all(np.isfinite(array(error)))


# --- presets ---------------------------------------------------------------------------------------------


@pytest.mark.once
def test_paper_preset_is_the_papers_network():
    assert (PAPER.kernel, PAPER.link, PAPER.inputs) == (11, "sigmoid", ("latent", "gradient"))
    assert (PAPER.gradient_step, PAPER.flux_scale, PAPER.start) == (False, "unit", 1e-4)
    model = RIM(PAPER)
    assert 14.0e6 < model.count_params() < 16.5e6  # "about 15 million"
    cell = model.cell
    convolutions = [
        cell.embed,
        cell.coarse.gates,
        cell.coarse.candidate,
        cell.upsample,
        cell.fine.gates,
        cell.fine.candidate,
        cell.output_layer,
    ]
    assert all(layer.kernel_size == (11, 11) for layer in convolutions)
    assert [layer.activation.__name__ for layer in convolutions] == [
        "tanh",
        "sigmoid",
        "tanh",
        "tanh",
        "sigmoid",
        "tanh",
        "linear",
    ]
    assert cell.embed.strides == cell.upsample.strides == (2, 2)
    assert isinstance(cell.upsample, keras.layers.Conv2DTranspose)
    assert cell.output_layer.filters == 1


def test_paper_preset_starts_at_its_constant():
    # Without an update the estimate stays where it starts.
    model = RIM(SMALL_PAPER)
    model.cell.output_layer.set_weights([0 * w for w in model.cell.output_layer.get_weights()])
    assert_allclose(array(whole(lambda inputs: model(inputs))(observation())), SMALL_PAPER.start, rtol=1e-5)


@pytest.mark.once
def test_small_preset_ships_few_weights():
    assert RIM(SMALL).count_params() < 200_000


@pytest.mark.once
def test_presets_are_what_their_names_say():
    assert PRESETS == {"paper": PAPER, "small": SMALL}
    # Half as wide again, and else the same.
    assert RIMConfig() == PAPER


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_input_of_the_cell_can_be_chosen(name):
    model = stirred(RIM(smaller(SMALL, inputs=(name,))))
    assert np.all(np.isfinite(array(model(observation()))))


def test_unknown_link_or_input_is_refused():
    with pytest.raises(InputError, match="logistic"):
        RIM(dataclasses.replace(SMALL_PAPER, link="logistic"))
