"""Publishing measures a run and ships weights that load; all for real, on a network that is hardly trained."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from numpy.testing import assert_allclose

from rim_tf.config import SMALL, MockConfig
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources import find
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.data.streaming import simulate_batch
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import WEIGHTS, load_pretrained, sha256
from rim_tf.observation import Observation
from training import publish
from training.cards import card
from training.experiments import EXPERIMENTS
from training.on_tensorflow import train

MOCKS = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.1)
TINY = dataclasses.replace(
    EXPERIMENTS["small"],
    model=dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)),
    mocks=MOCKS,
    batch_size=2,
    n_steps=2,
    steps_per_epoch=2,
    n_procedural=3,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training run of two steps, and the network as it was then; to be read only."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "N_PROCEDURAL", {"train": 3, "validation": 3})
        patch.setattr("training.runs.VALIDATION_BATCH_SIZE", TINY.batch_size)  # so that one trace of the draws will do
        return folder, train(TINY, folder, verbose=0)


def published(*arguments):
    return CliRunner().invoke(publish.main, list(map(str, arguments)))


@pytest.fixture
def test_sets(monkeypatch):
    monkeypatch.setattr(publish, "TEST_SETS", {"16 pixels": MOCKS})
    monkeypatch.setattr(find, "N_PROCEDURAL", {"train": 3, "validation": 3})


def test_a_run_is_measured_and_its_weights_load(run, test_sets, tmp_path):
    folder, trained = run
    done = published(folder, "tiny", "--n", 3, "--out", tmp_path / "tiny", "--command", "python -m training.train")
    assert done.exit_code == 0, done.output
    loaded = load_pretrained(tmp_path / "tiny.json")
    assert loaded.config == TINY.model
    for ours, theirs in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    written = json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)
    assert (written["steps"], written["command"]) == (2, "python -m training.train")
    assert written["training"] == json.loads((folder / "config.json").read_text())
    test = written["test"]
    assert (test["galaxies"], test["lenses"]) == (3, 3)
    figures = test["figures"]["16 pixels"]
    assert figures["all"]["n"] == 3 == figures["noise 0.1-1 %"]["n"] + figures["noise 1-10 %"]["n"]
    assert figures["all"]["rms_percent_of_peak"]["median"] > 0
    assert "16 pixels: {" in done.stdout
    text = (tmp_path / "tiny.md").read_text()
    assert written["sha256"] in text and "| 16 pixels | " in text and "nobody has said" in text


def test_lenses_are_judged_as_a_user_would_judge_them(run):
    # One by one, through the call that users make, in place of a batch through the network.
    stamps = GalaxyStamps.of(procedural_galaxies(3, "test", 1))
    measured = publish.measure(run[1], stamps, MOCKS, n=3, batch_size=2)
    assert all(len(values) == 3 for values in measured.values())
    for number in (0, 2):
        batch, i = divmod(number, 2)
        inputs, source = simulate_batch(tf.constant(seed_pair("test", 0)), batch, 2, stamps, MOCKS)
        image, noise, psf, mask, scale, lens = (
            inputs[name][i].numpy() for name in ("image", "noise_rms", "psf", "mask", "pixel_scale", "lens")
        )
        observation = Observation(image, noise, float(psf), mask.astype(bool), float(scale))
        result = reconstruct(observation, LensParameters(*map(float, lens)), run[1])
        truth = source[i].numpy()
        rms = np.sqrt(np.mean((result.source - truth) ** 2)) / truth.max()
        assert_allclose(measured["rms"][number], rms, rtol=1e-3)
        assert_allclose(measured["flux_error"][number], result.source.sum() / truth.sum() - 1, atol=1e-4)
        chi2 = np.mean((((image - result.model_image) / noise) ** 2)[mask])
        assert_allclose(measured["chi2_per_pixel"][number], chi2, rtol=1e-3)


def test_noise_is_told_apart_by_decades():
    n = np.arange(20.0)
    measured = {"rms": n / 1000, "flux_error": n, "chi2_per_pixel": n, "noise": np.where(n < 5, 0.005, 0.05)}
    parts = publish.report(measured)
    assert {name: part["n"] for name, part in parts.items()} == {"all": 20, "noise 0.1-1 %": 5, "noise 1-10 %": 15}
    assert_allclose(parts["noise 0.1-1 %"]["rms_percent_of_peak"]["median"], 0.2)


def test_folders_without_a_run_are_refused_in_a_sentence(run, tmp_path):
    def refused(complaint):
        done = published(tmp_path, "tiny", "--n", 1, "--out", tmp_path / "tiny")
        assert done.exit_code == 2 and complaint in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "tiny.json").exists()

    refused("config.json does not exist")
    (tmp_path / "config.json").write_text("{}")
    refused("config.json lacks model")
    (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
    refused("holds no checkpoint")
    checkpoints = shutil.copytree(run[0] / "checkpoints", tmp_path / "checkpoints")
    for path in checkpoints.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    refused("is damaged")


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.json")), ids=lambda path: path.stem)
def test_weights_that_ship_have_a_card_that_says_what_their_description_does(path):
    text, values = path.with_suffix(".md").read_text(), json.loads(path.read_text())
    assert text == card(path)  # else: python -m training.cards
    for said in (values["command"], values["sha256"], values["data"], values["licence"], *values["limits"]):
        assert said in text
    assert values["sha256"] == sha256(path.with_suffix(".weights.h5"))
    assert "not on record" not in text and "nobody has said" not in text and "| test set |" in text
