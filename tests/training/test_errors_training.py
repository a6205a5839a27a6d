"""Errors of sources train beside a frozen RIM, go on where they were stopped, are published and load."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from click.testing import CliRunner
from numpy.testing import assert_allclose

import training.on_tensorflow as module
from rim_tf.config import SMALL, MockConfig, SourceErrorsConfig
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.models.pretrained import fingerprint, load_pretrained, save_trained
from rim_tf.models.rim import RIM
from training import error_figures, publish, streams
from training.experiments import EXPERIMENTS

MOCKS = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2)


@pytest.fixture(scope="module", autouse=True)
def few_galaxies():
    """Runs are validated on few lenses: what is tested here is no figure of merit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "find_galaxies", lambda *given: procedural_galaxies(3, "validation", 0))
        patch.setattr("training.runs.VALIDATION_BATCHES", 1)
        patch.setattr(
            "training.runs.VALIDATION_BATCH_SIZE", 4
        )  # as in training, so that one trace of the draws will do
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An experiment with an untrained RIM, of which the weights are a file."""
    rim, path = RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4))), tmp_path_factory.mktemp("rim")
    save_trained(rim, path / "rim", {})
    return dataclasses.replace(
        EXPERIMENTS["source-errors"],
        model=SourceErrorsConfig(str(path / "rim.json"), fingerprint(rim), features=4, levels=2),
        mocks=MOCKS,
        batch_size=4,
        n_steps=4,
        steps_per_epoch=2,
        schedule="exponential",  # which does not depend on the length of the run
        n_procedural=5,
        larger_frames=(),
        turns=2,
        together=2,
    )


@pytest.fixture(scope="module", autouse=True)
def traced_once(tiny, few_galaxies):
    with tiny_runs.traced_once(tiny):
        yield


@pytest.fixture(scope="module")
def run(tiny, traced_once, tmp_path_factory):
    """The folder of a whole run, and its network as it was then; to be read only."""
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny_runs.copied(module.train(tiny, folder, verbose=0))


def test_a_run_that_was_stopped_among_turns_goes_on_as_if_nothing_had_happened(tiny, run, tmp_path):
    module.train(dataclasses.replace(tiny, n_steps=2), tmp_path, verbose=0)
    parts = module.train(tiny, tmp_path, verbose=0)
    for one, other in zip(run[1].get_weights(), parts.get_weights(), strict=True):
        assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_the_rim_stays_as_it_is_and_is_not_stored_again(tiny, run):
    assert fingerprint(load_pretrained(tiny.model.rim)) == tiny.model.rim_sha256
    loaded = load_pretrained(run[0] / "weights.json", "source-errors")
    assert loaded.config == tiny.model
    assert {id(weight) for weight in loaded.weights} == {id(weight) for weight in loaded.body.weights}


def test_every_batch_comes_in_every_turn():
    squares = np.float32([10 * i + np.arange(4).reshape(1, 2, 2) for i in range(4)])
    batches = tf.data.Dataset.from_tensor_slices((squares, squares))
    seen = [batch[0].numpy()[0] for batch in streams._turned(batches, turns=8, together=2)]
    assert len(seen) == 32
    # Two batches in turn, eight times, before the next two.
    assert [int(image.min()) // 10 for image in seen] == [0, 1] * 8 + [2, 3] * 8
    for batch in (0, 1):
        square = 10.0 * batch + np.arange(4.0).reshape(2, 2)
        group = {np.rot90(turned, k).tobytes() for turned in (square, square.T) for k in range(4)}
        assert {image.astype(float).tobytes() for image in seen[batch:16:2]} == group


def test_a_run_is_measured_and_its_weights_load(run, tmp_path, monkeypatch):
    monkeypatch.setattr(error_figures, "TEST_SETS", {"16 pixels": MOCKS})
    monkeypatch.setattr(publish, "find_galaxies", lambda *given: procedural_galaxies(3, "test", 0))
    done = CliRunner().invoke(publish.main, [str(run[0]), "tiny", "--n", "13", "--out", str(tmp_path / "tiny")])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)
    figures = written["test"]["figures"]["16 pixels"]
    assert figures["all"]["n"] == 13 == figures["noise 0.1-1 %"]["n"] + figures["noise 1-10 %"]["n"]
    assert 0 <= figures["all"]["flux"]["largest_deviation"] <= 1
    assert figures["all"]["pixels above the noise"]["n"] > 0
    assert load_pretrained(tmp_path / "tiny.json", "source-errors").config == run[1].config


def test_errors_of_another_rim_do_not_train(tiny, tmp_path):
    other = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, rim_sha256="0" * 64))
    with pytest.raises(InputError, match="of the fingerprint 000000000000, and the weights .* are another"):
        module.train(other, tmp_path, verbose=0)
