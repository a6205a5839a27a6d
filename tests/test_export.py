"""The exported model gives RIM's numbers in a process that cannot import rim_tf, by both ways of loading it."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import rim_tf
from rim_tf.errors import InputError
from rim_tf.export import SIGNATURES, export_saved_model
from rim_tf.grids import PixelGrid
from rim_tf.models.rim import RIM
from rim_tf.physics.imaging import imaging_operator, imaging_problem
from rim_tf.systems import batch_of

LOADER = pathlib.Path(__file__).parent / "load_saved_model.py"


def batch(psfs, shape, rng):
    """Inputs of lenses of a smooth source: on noise alone a RIM would amplify rounding errors."""
    n = len(psfs)
    noise = 0.02 + 0.02 * rng.uniform(size=(n, *shape))
    observations = [
        rim_tf.Observation(np.zeros(shape), noise[i], psfs[i], rng.uniform(size=shape) < 0.9, pixel_scale=0.05)
        for i in range(n)
    ]
    lenses = [rim_tf.LensParameters(0.5 + 0.05 * i, 0.1, -0.05, 0.02, 0.01, 0.03, 0.02) for i in range(n)]
    inputs = batch_of(observations, lenses, [0.02] * n)
    x, y = (coordinate.numpy() for coordinate in PixelGrid(40, 40, 0.02).coordinates())
    source = tf.constant(np.exp(-((x - 0.05) ** 2 + (y + 0.02) ** 2) / (2 * 0.08**2)), tf.float32)
    image = imaging_operator(inputs, (40, 40)).forward(tf.repeat(source, n, axis=0))
    inputs["image"] = image + inputs["noise_rms"] * rng.normal(size=image.shape)
    return {name: tf.constant(value) for name, value in inputs.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with the weights that ship, but of two steps, and the folder of its SavedModel."""
    trained = rim_tf.load_pretrained("small")
    model = RIM(dataclasses.replace(trained.config, n_steps=2))
    model.set_weights(trained.get_weights())
    path = tmp_path_factory.mktemp("export") / "model"
    export_saved_model(model, path)
    return model, path


@pytest.fixture(scope="module")
def run_elsewhere(exported, tmp_path_factory):
    """Inputs of each signature, and the folder of what a process without rim_tf made of them."""
    folder, rng = tmp_path_factory.mktemp("elsewhere"), np.random.default_rng(20190106)
    # A batch and a frame that the model has not seen, odd in one direction.
    with pytest.warns(rim_tf.InputWarning):
        stamps = batch([rng.uniform(size=(5, 7)) for _ in range(3)], (33, 40), rng)
    inputs = {"serving_default": stamps, "gaussian_psf": batch([0.03, 0.07, 0.0], (33, 40), rng)}
    assert set(inputs) == set(SIGNATURES)
    for signature, tensors in inputs.items():
        np.savez(folder / f"{signature}.npz", **{name: value.numpy() for name, value in tensors.items()})
    # -I: no PYTHONPATH and no working directory; the loader asserts that rim_tf was not imported.
    arguments = [sys.executable, "-I", LOADER, exported[1], folder]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    return inputs, folder


@pytest.mark.parametrize("signature", sorted(SIGNATURES))
def test_same_numbers_without_rim_tf(exported, run_elsewhere, signature):
    model, inputs = exported[0], run_elsewhere[0][signature]
    with tf.GradientTape() as tape:
        tape.watch(inputs["lens"])
        problem = imaging_problem(inputs, (34, 40))
        source = model.solve(problem)[:, -1]
        total = tf.reduce_sum(source**2)
    slope = tape.gradient(total, inputs["lens"])
    model_image, scale = problem.model_image(source), np.abs(source).max()
    for loader in ("saved_model", "session"):
        outputs = np.load(run_elsewhere[1] / f"{loader}-{signature}.npz")
        assert outputs["source"].shape == (3, 34, 40) and outputs["model_image"].shape == (3, 33, 40)
        assert_allclose(outputs["source"], source, atol=1e-5 * scale, err_msg=loader)
        assert_allclose(outputs["model_image"], model_image, atol=1e-5 * scale, err_msg=loader)
        assert_allclose(outputs["chi2_per_pixel"], problem.chi2_per_pixel(model_image), rtol=1e-4, err_msg=loader)
        used = inputs["mask"].numpy()
        residual = np.where(used, (inputs["image"] - outputs["model_image"]) / inputs["noise_rms"], 0)
        assert_allclose(outputs["chi2_per_pixel"], (residual**2).sum((1, 2)) / used.sum((1, 2)), rtol=1e-4)
        if loader == "saved_model":
            assert_allclose(outputs["slope"], slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max())


def test_refuses_to_write_over_anything(exported):
    model, path = exported
    with pytest.raises(InputError, match="exists already"):
        export_saved_model(model, path)


@pytest.mark.parametrize("fails", ["tensorflow.saved_model.save", "shutil.move"])
def test_nothing_half_written(fails, exported, tmp_path, monkeypatch):
    def save(module, path, *more):
        shutil.copytree(exported[1], path)

    def fail(*arguments):
        if fails != "shutil.move":
            save(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorflow.saved_model.save", save)
    monkeypatch.setattr(fails, fail)
    with pytest.raises(InputError, match="No space left"):
        export_saved_model(exported[0], tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
