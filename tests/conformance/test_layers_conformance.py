"""What every layer must survive: saving, tracing, half precision, another backend, several devices."""

import dataclasses
import functools
import inspect
import os
import pathlib
import pkgutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from gradients import BACKEND, array, grad, tensor, traced, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import IMAGE, LAYERS, LENSES, OPERATORS, SOURCE, image_grid, source_grid, stamps

import rim_tf.models
import rim_tf.physics
import rim_tf.physics.likelihood
from rim_tf.models.joint import JointRIM
from rim_tf.models.rim import RIM
from rim_tf.physics.lensing import LensingOperator
from rim_tf.physics.likelihood import score
from rim_tf.physics.operators import Compose
from rim_tf.physics.psf import blur_operator

TESTS = pathlib.Path(__file__).resolve().parents[1]
every_layer = pytest.mark.parametrize("name", sorted(LAYERS))
# The rest are parts of these.
MODELS = sorted(name for name in LAYERS if name.startswith(("RIM,", "Joint RIM", "Estimator,", "Source errors,")))
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is TensorFlow's")


def outputs(result):
    """All tensors that a layer returned, as NumPy arrays."""
    return [array(x) for x in keras.tree.flatten(result)]


def as_tensors(arguments):
    return keras.tree.map_structure(ops.convert_to_tensor, arguments)


@functools.cache
def answer(name):
    """What a layer of that name gives in single precision; to be read only.

    Each build has the same weights. Compiled as one on JAX, and not even traced on TensorFlow.
    """
    layer, arguments = LAYERS[name].build(), as_tensors(LAYERS[name].arguments())
    return outputs(whole(lambda *args: layer(*args))(*arguments))


def classes_of(package):
    """Every class written in a module of the package."""
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        imported = __import__(module.name, fromlist=["_"])
        for _, value in inspect.getmembers(imported, inspect.isclass):
            if value.__module__ == module.name:
                yield value


@pytest.mark.once
def test_registry_is_complete():
    classes = [*classes_of(rim_tf.physics), *classes_of(rim_tf.models)]
    operators = {c for c in classes if hasattr(c, "forward") and hasattr(c, "adjoint")}
    layers = {c for c in classes if issubclass(c, keras.layers.Layer)}
    assert operators == {type(make()[0]) for make in OPERATORS.values()}
    built = {name: case.build() for name, case in LAYERS.items()}
    assert layers == set(map(type, built.values()))
    assert MODELS == sorted(name for name, layer in built.items() if isinstance(layer, keras.Model))


@pytest.mark.once
@every_layer
def test_config_round_trip(name):
    case = LAYERS[name]
    layer, arguments = case.build(), case.arguments()
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is type(layer) and twin.get_config() == layer.get_config()
    if not twin.built:
        twin(*arguments)
    twin.set_weights(layer.get_weights())
    for ours, theirs in zip(outputs(twin(*arguments)), answer(name), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_saved_as_keras_file(name, tmp_path):
    LAYERS[name].build().save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    call = whole(lambda *args: again(*args))
    for ours, theirs in zip(outputs(call(*as_tensors(LAYERS[name].arguments()))), answer(name), strict=True):
        assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# On JAX, where each operation of what is not traced is compiled by itself, the models, with all of their parts.
@pytest.mark.parametrize("name", MODELS if BACKEND == "jax" else sorted(LAYERS))
def test_tracing_changes_nothing(name):
    case = LAYERS[name]
    layer, arguments = case.build(), as_tensors(case.arguments())
    # `answer` is traced on JAX and not on TensorFlow; here it is the other way round.
    call = layer if BACKEND == "jax" else traced(lambda *args: layer(*args))
    # One inverts matrices of differences, in which rounding grows.
    tolerance = 1e-3 if isinstance(layer, JointRIM) else 1e-4
    for ours, theirs in zip(outputs(call(*arguments)), answer(name), strict=True):
        assert_allclose(ours, theirs, rtol=tolerance, atol=0.1 * tolerance)


@every_layer
def test_mixed_precision_is_close_to_single(name, monkeypatch):
    case, seen = LAYERS[name], set()

    def listening(operator, source, data, weight):
        result = score(operator, source, data, weight)
        seen.update(keras.backend.standardize_dtype(x.dtype) for x in (source, data, weight, result))
        return result

    monkeypatch.setattr(rim_tf.physics.likelihood, "score", listening)
    layer, arguments = case.build(dtype="mixed_float16"), case.arguments()
    half, single = outputs(whole(lambda *args: layer(*args))(*as_tensors(arguments))), answer(name)
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}
    inner = next((part for name in ("cell", "body") if (part := getattr(layer, name, None)) is not None), layer)
    assert all(w.compute_dtype == "float16" for w in inner._flatten_layers())
    assert any(np.any(a != b) for a, b in zip(half, single, strict=True))  # it was half precision indeed
    for ours, theirs in zip(half, single, strict=True):
        assert np.all(np.isfinite(ours))
        assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())
    if isinstance(layer, keras.Model):
        assert seen == (
            {"float32"} if isinstance(layer, RIM | JointRIM) else set()
        )  # physics is not rounded to half precision
        assert half[0].dtype == "float32"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The function that gives a layer of that name, its arguments, and the same layer as a SavedModel loaded again."""
    import tensorflow as tf

    def unknown_batch(x):
        return tf.TensorSpec([None, *x.shape[1:]], x.dtype)

    @functools.cache
    def save(name):
        folder, case = tmp_path_factory.mktemp("saved"), LAYERS[name]
        layer, arguments = case.build(), as_tensors(case.arguments())
        module, signature = tf.Module(), keras.tree.map_structure(unknown_batch, arguments)
        module.layer = layer
        module.call = tf.function(lambda *args: layer(*args), input_signature=signature, autograph=False)
        tf.saved_model.save(module, folder, options=tf.saved_model.SaveOptions(experimental_custom_gradients=True))
        return layer, arguments, tf.saved_model.load(folder)

    return save


@tensorflow_only
@every_layer
def test_saved_model_gives_the_same_numbers(name, saved):
    _, arguments, loaded = saved(name)
    for ours, theirs in zip(outputs(loaded.call(*arguments)), answer(name), strict=True):
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@tensorflow_only
def test_gradient_in_the_lens_passes_through_a_saved_model(saved):
    model, (inputs,), loaded = saved("RIM, as shipped")

    def slope(call):
        return array(grad(lambda lens: ops.sum(call(inputs | {"lens": lens})))(inputs["lens"]))

    expected = slope(model)
    assert_allclose(slope(loaded.call), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def gradient_numbers():
    """Gradients through every custom gradient of the package, first and second, and through whole RIMs."""
    rng = np.random.default_rng(2)
    source, image, direction = rng.normal(size=SOURCE), rng.normal(size=IMAGE), rng.normal(size=LENSES.shape)

    def physics(source, lens, image, stamp):
        L = LensingOperator.from_lens(lens, image_grid(), source_grid())
        A = Compose(blur_operator(stamp, image_grid()), L)
        return ops.sum(score(A, source**2, image, image**2) ** 2)

    def along(*args):
        return ops.sum(tensor(direction) * grad(physics, 1)(*args))

    at = [tensor(x) for x in (source, LENSES + 0.03, image, stamps(3, 5))]
    numbers = {f"physics {i}": slope for i, slope in enumerate(whole(grad(physics, (0, 1, 2, 3)))(*at))}
    numbers |= {f"second {i}": slope for i, slope in enumerate(whole(grad(along, (0, 1, 2, 3)))(*at))}
    for name in ("RIM, as in the paper", "RIM, as shipped"):
        model, (inputs,) = LAYERS[name].build(), as_tensors(LAYERS[name].arguments())
        if name == "RIM, as in the paper":  # one step of it: what steps hand on is in the other
            one = RIM(dataclasses.replace(model.config, n_steps=1))
            one.set_weights(model.get_weights())
            model = one
        changed = [inputs[key] for key in ("lens", "psf", "image", "noise_rms")]

        def total(lens, psf, image, noise_rms, model=model, inputs=inputs):
            given = {"lens": lens, "psf": psf, "image": image, "noise_rms": noise_rms}
            return ops.sum(model(inputs | given) ** 2)

        slopes = whole(grad(total, (0, 1, 2, 3)))(*changed)
        numbers |= {f"{name} {i}": slope for i, slope in enumerate(slopes)}
    return {name: array(value) for name, value in numbers.items()}


def run(script, *arguments, **environment):
    """Python in a process of its own, where backends and devices can still be chosen."""
    path = os.pathsep.join(map(str, [TESTS.parent, TESTS, TESTS / "conformance"]))
    environment = os.environ | {"PYTHONPATH": path, "JAX_ENABLE_X64": "1"} | environment
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.mark.once
def test_gradients_are_the_same_on_both_backends(tmp_path):
    other = "jax" if BACKEND == "tensorflow" else "tensorflow"
    pytest.importorskip(other)
    path = str(tmp_path / "numbers.npz")
    script = "import numpy, sys, test_layers_conformance as t; numpy.savez(sys.argv[1], **t.gradient_numbers())"
    run(script, path, KERAS_BACKEND=other)
    ours, theirs = gradient_numbers(), np.load(path)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        exact = value.dtype == "float64"
        assert np.any(value != 0), name
        assert_allclose(
            value,
            theirs[name],
            rtol=1e-9 if exact else 1e-3,
            atol=(1e-11 if exact else 2e-4) * np.abs(value).max(),
            err_msg=name,
        )


# Two logical CPUs share a step as two GPUs would; they can only be made before TensorFlow starts.
DISTRIBUTED = """
import sys
from rim_tf import heavy
heavy.import_quietly()
import as_traced, keras, numpy as np, tensorflow as tf
keras.config.disable_traceback_filtering()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from registry import SMALL_SMALL, observation, smaller, stirred
from rim_tf.models.losses import IterateLoss, final_rms_percent
from rim_tf.models.rim import RIM

def after_one_step(strategy):
    with strategy.scope():
        model = stirred(RIM(smaller(SMALL_SMALL, n_steps=1)))
        # With all of its variables, or the step is traced twice.
        metric = keras.metrics.MeanMetricWrapper(final_rms_percent, name="final_rms_percent")
        model.compile(loss=IterateLoss("rms"), optimizer=keras.optimizers.SGD(0.1), metrics=[metric])
        model.optimizer.build(model.trainable_variables)
    inputs = observation(batch=4)
    inputs["mask"] = inputs["mask"].astype("uint8")  # as `streaming.stream` has it: Keras cannot reduce booleans
    y, x = np.mgrid[-1:1:12j, -1:1:12j]
    source = np.stack([k * np.exp(-(x**2 + y**2) / (0.1 * k)) for k in (1, 2, 3, 4)]).astype("float32")
    before = [np.array(w) for w in model.get_weights()]
    data = tf.data.Dataset.from_tensor_slices((inputs, source)).batch(4)
    history = model.fit(data, epochs=1, verbose=0).history
    moved = max(np.abs(a - b).max() for a, b in zip(before, model.get_weights()))
    assert moved > 1e-3, moved
    return history, model.get_weights()

devices = tf.config.list_logical_devices("CPU")
assert len(devices) == 2
one, weights = after_one_step(tf.distribute.get_strategy())
two_strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
assert two_strategy.num_replicas_in_sync == 2
two, weights_of_two = after_one_step(two_strategy)
np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-6)
np.testing.assert_allclose(two["final_rms_percent"], one["final_rms_percent"], rtol=1e-5)
for a, b in zip(weights, weights_of_two):
    np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_two_replicas_learn_what_one_does():
    run(DISTRIBUTED, KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="")
