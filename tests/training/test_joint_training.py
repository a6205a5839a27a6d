"""A network of lens and source trains from an estimator's answers, is published with its figures, and loads."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from registry import SMALL_ESTIMATOR
from tiny_runs import few_held_out

import training.on_tensorflow as module
from rim_tf.config import SMALL, JointConfig, MockConfig
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.models.pretrained import build_model, load_pretrained, save_trained
from rim_tf.models.rim import RIM
from training import joint_figures, lens_figures, publish
from training.experiments import EXPERIMENTS
from training.runs import initial_model, preparation

MOCKS = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2, lens_error=0.03)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An experiment whose estimator and first RIM are untrained, and files."""
    path = tmp_path_factory.mktemp("networks")
    save_trained(build_model(SMALL_ESTIMATOR), path / "estimator", {})
    save_trained(RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4))), path / "rim", {})
    model = JointConfig(
        estimator=str(path / "estimator.json"),
        n_steps=1,
        features=4,
        hidden=(4, 4),
        encoder=(4,),
        encoder_side=2,
        memory=8,
    )
    return dataclasses.replace(
        EXPERIMENTS["joint"],
        model=model,
        mocks=MOCKS,
        batch_size=4,
        micro_batches=2,  # as large as what is validated on, so that one trace will do
        n_steps=2,
        steps_per_epoch=2,
        n_procedural=5,
        initial=str(path / "rim.json"),
    )


def test_a_run_trains_every_weight_and_is_published(tiny, tmp_path, monkeypatch):
    with few_held_out():
        trained = module.train(tiny, tmp_path / "run", verbose=0)
    begun = build_model(tiny.model)
    begun.begin_from(load_pretrained(tiny.initial))
    moved = [
        np.abs(one - other).max()
        for one, other in zip(trained.cell.get_weights(), begun.cell.get_weights(), strict=True)
    ]
    assert 0 < min(moved) and max(moved) < 0.1  # all have learned, from where the RIM was
    monkeypatch.setattr(joint_figures, "TEST_SETS", {"16 pixels": dataclasses.replace(MOCKS, lens_error=0.0)})
    monkeypatch.setattr(joint_figures, "load_pretrained", lambda name="small", kind="rim": known[kind])
    monkeypatch.setattr(lens_figures, "_SAMPLES", 50)
    monkeypatch.setattr(publish, "find_galaxies", lambda *given: procedural_galaxies(3, "test", 0))
    known = {"rim": load_pretrained(tiny.initial), "estimator": load_pretrained(tiny.model.estimator, "estimator")}
    done = CliRunner().invoke(
        publish.main, [str(tmp_path / "run"), "tiny", "--n", "21", "--out", str(tmp_path / "tiny")]
    )
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)
    figures = written["test"]["figures"]["16 pixels"]
    assert figures["all"]["n"] == 21
    assert 0 <= figures["all"]["source"]["chi2_within_0.01"] <= figures["all"]["source"]["chi2_within_0.05"] <= 1
    # As wide as other lenses of the test sets ask for: what was trained, and the same weights.
    loaded = load_pretrained(tmp_path / "tiny.json", "joint")
    assert len(loaded.config.stretch) == 7 and min(loaded.config.stretch) >= 0.5
    assert dataclasses.replace(loaded.config, stretch=()) == tiny.model
    # A run may begin from them, which knows no stretch yet.
    begun = initial_model(dataclasses.replace(tiny, initial=str(tmp_path / "tiny.json")))
    assert begun.config == tiny.model
    for weights in (loaded.get_weights(), begun.get_weights()):
        for ours, theirs in zip(weights, trained.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_one_part_of_a_network_is_trained_alone(tiny, tmp_path):
    alone = dataclasses.replace(tiny, only=("head",))
    with few_held_out():
        trained = module.train(alone, tmp_path / "run", verbose=0)
    begun = initial_model(alone)
    for name in ("cell", "controller", "encoder", "head"):
        pairs = zip(getattr(trained, name).get_weights(), getattr(begun, name).get_weights(), strict=True)
        assert any(np.any(one != other) for one, other in pairs) == (name == "head")
    with pytest.raises(InputError, match="only is tail; the parts of this network are cell, controller, encoder, head"):
        initial_model(dataclasses.replace(tiny, only=("head", "tail")))


def test_starts_are_off_by_what_was_drawn_in_units_of_the_estimators_errors(tiny):
    given = {"lens": np.float32([[1.0, 0.13, 0.0, 0.03, 0.0, 0.0, 0.0]])}
    target = {"lens": np.float32([[1.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]])}
    inputs = given | {
        "image": np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32),
        "noise_rms": np.ones((1, 16, 16), np.float32),
        "mask": np.ones((1, 16, 16), bool),
        "psf": np.float32([0.1]),
        "pixel_scale": np.float32([0.2]),
    }
    exact = preparation(dataclasses.replace(tiny, mocks=dataclasses.replace(MOCKS, lens_error=0.0)))(inputs, target)
    off = preparation(tiny)(inputs, target)
    moved = np.asarray(off["start"] - exact["start"]) / np.asarray(exact["start_error"])
    np.testing.assert_allclose(moved, [[0, 1, 0, 1, 0, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(off["start_error"], 1.2 * np.asarray(exact["start_error"]), rtol=1e-5)


def test_weights_of_another_kind_are_no_beginning(tiny, tmp_path):
    other = dataclasses.replace(tiny, initial=tiny.model.estimator)
    with pytest.raises(InputError, match="of the kind 'estimator'; wanted are 'joint'"):
        module.train(other, tmp_path, verbose=0)
