"""An estimator trains on the same stream as the RIM, resumes, is published and loads; on a network of no size."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from registry import SMALL_ALEXNET, SMALL_ESTIMATOR

from rim_tf.config import MockConfig
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.models.pretrained import load_pretrained
from rim_tf.physics.mass.model import SIE_SHEAR
from training import lens_figures, publish
from training.experiments import EXPERIMENTS
from training.train import train, training_stream

MOCKS = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2)
TINY = dataclasses.replace(
    EXPERIMENTS["estimator-small"],
    model=SMALL_ESTIMATOR,
    mocks=MOCKS,
    batch_size=4,
    n_steps=4,
    steps_per_epoch=2,
    schedule="exponential",  # which does not depend on the length of the run
    n_procedural=5,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a whole run, and its network as it was then; to be read only."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(TINY, folder, verbose=0)


def test_the_target_is_the_true_lens_whatever_the_network_of_sources_is_told():
    told_wrongly = dataclasses.replace(TINY, mocks=dataclasses.replace(MOCKS, lens_error=0.1))
    (inputs, truth), (exact, same_truth) = (next(iter(training_stream(config))) for config in (told_wrongly, TINY))
    assert truth.shape == (4, 7)
    assert_allclose(truth, same_truth)
    assert_allclose(truth, exact["lens"])
    assert np.abs(truth - inputs["lens"]).max() > 0.01


@pytest.mark.parametrize("model", [SMALL_ESTIMATOR, SMALL_ALEXNET], ids=["small", "paper"])
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(model, tmp_path):
    config = dataclasses.replace(TINY, model=model)
    whole = train(config, tmp_path / "whole", verbose=0)
    train(dataclasses.replace(config, n_steps=2), tmp_path / "parts", verbose=0)
    parts = train(config, tmp_path / "parts", verbose=0)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_training_lowers_the_error(tmp_path):
    config = dataclasses.replace(TINY, n_steps=60, steps_per_epoch=30, batch_size=16, learning_rate=3e-3)
    train(config, tmp_path, verbose=0)
    rows = [row.split(",") for row in (tmp_path / "log.csv").read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert float(rows[2][column]) < float(rows[1][column])
    assert "val_theta_E_error_percent" in rows[0]


def test_frames_of_several_sizes_train_one_network(tmp_path):
    train(dataclasses.replace(TINY, larger_frames=(24,), n_steps=2), tmp_path, verbose=0)
    assert load_pretrained(tmp_path / "weights.json", "estimator").config == SMALL_ESTIMATOR


def test_a_run_is_measured_and_its_weights_load(run, tmp_path, monkeypatch):
    monkeypatch.setattr(lens_figures, "TEST_SETS", {"16 pixels": MOCKS})
    folder, trained = run
    done = CliRunner().invoke(publish.main, [str(folder), "tiny", "--n", "23", "--out", str(tmp_path / "tiny")])
    assert done.exit_code == 0, done.output
    loaded = load_pretrained(tmp_path / "tiny.json", "estimator")
    for ours, theirs in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    written = json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)
    assert written["steps"] == 4
    figures = written["test"]["figures"]["16 pixels"]
    assert figures["all"]["n"] == 23 == figures["noise 0.1-1 %"]["n"] + figures["noise 1-10 %"]["n"]
    assert set(figures["all"]["parameters"]) == set(SIE_SHEAR.names)
    assert 0 < figures["all"]["parameters"]["theta_E"]["rms"] < 3


def test_figures_are_those_of_the_errors(run):
    stamps = GalaxyStamps(procedural_galaxies(3, seed=1), [15.0, 20.0, 25.0])
    measured = lens_figures.measure(run[1], stamps, MOCKS, n=6, batch_size=4)
    assert all(len(values) == 6 for values in measured.values())
    figures = lens_figures.report(measured)["all"]
    error = measured["mean"] - measured["truth"]
    for i, name in enumerate(SIE_SHEAR.names):
        assert_allclose(figures["parameters"][name]["rms"] ** 2, np.mean(error[:, i] ** 2), rtol=1e-5)
        assert_allclose(figures["parameters"][name]["bias"], np.mean(error[:, i]), atol=1e-6)
    # The credibility of one truth, from samples of its own posterior drawn here.
    inputs = next(iter(training_stream(TINY)))[0]
    posterior = run[1].posterior({name: value[:1] for name, value in inputs.items()})
    assert posterior.sample(8, 0).shape == (1, 8, 7)
    assert np.all((measured["credibility"] >= 0) & (measured["credibility"] <= 1))


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"loss": "rms"}, "loss is 'rms'; for a network of the type 'estimator' it must be one of"),
        ({"model": dataclasses.replace(SMALL_ESTIMATOR, mass=("power_law",))}, "lenses are simulated with"),
        ({"model": EXPERIMENTS["small"].model}, "loss is 'lens'; for a network of the type 'rim'"),
    ],
)
def test_runs_that_make_no_sense_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        dataclasses.replace(TINY, **changes)


def test_the_experiments_draw_what_the_issue_asks_for():
    for name in ("estimator-small", "estimator-paper"):
        mocks = EXPERIMENTS[name].mocks
        assert mocks.theta_E[0] * mocks.image_pixels == pytest.approx(3.0) and mocks.theta_E[1] == 0.4
        assert EXPERIMENTS[name].n_steps % EXPERIMENTS[name].steps_per_epoch == 0
