"""An estimator trains on the same stream as the RIM, resumes, is published and loads; on a network of no size."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from click.testing import CliRunner
from numpy.testing import assert_allclose
from registry import SMALL_ALEXNET, SMALL_ESTIMATOR

import training.on_tensorflow as module
from rim_tf.config import MockConfig
from rim_tf.data.mocks import GalaxyStamps, draw_accepted
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.data.streaming import simulate_batch
from rim_tf.errors import InputError
from rim_tf.evaluation.coverage import credibility_of_gaussian
from rim_tf.models.pretrained import load_pretrained
from rim_tf.physics.mass.model import SIE_SHEAR
from training import lens_figures, publish, streams
from training.experiments import EXPERIMENTS
from training.monitor import read_metrics
from training.runs import target_of

MOCKS = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2)
# With dropout, whose random numbers must go on as well.
TINY = dataclasses.replace(
    EXPERIMENTS["estimator-paper"],
    model=SMALL_ALEXNET,
    mocks=MOCKS,
    batch_size=4,
    n_steps=4,
    steps_per_epoch=2,
    schedule="exponential",  # which does not depend on the length of the run
    n_procedural=5,
)
STAMPS = GalaxyStamps.of(procedural_galaxies(3, "test", 1))


@pytest.fixture(scope="module", autouse=True)
def few_galaxies():
    """Runs are validated on few lenses: what is tested here is no figure of merit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "find_galaxies", lambda *given: procedural_galaxies(3, "validation", 0))
        patch.setattr("training.runs.VALIDATION_BATCHES", 2)
        patch.setattr("training.runs.VALIDATION_BATCH_SIZE", TINY.batch_size)  # so that one trace of the draws will do
        yield


@pytest.fixture(scope="module", autouse=True)
def traced_once(few_galaxies):
    with tiny_runs.traced_once(TINY):
        yield


@pytest.fixture(scope="module")
def run(traced_once, tmp_path_factory):
    """The folder of a whole run, and its network as it was then; to be read only."""
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny_runs.copied(module.train(TINY, folder, verbose=0))


def test_the_target_is_the_true_lens_whatever_the_network_of_sources_is_told():
    mocks, seed = dataclasses.replace(MOCKS, lens_error=0.1), tf.constant(seed_pair("test", 0))
    systems, _ = draw_accepted(seed, 0, 3, STAMPS, mocks)
    for target in ("lens", "source"):
        inputs, truth = simulate_batch(seed, 0, 3, STAMPS, mocks, target=target)
        assert_allclose(truth, systems[target])
        assert np.abs(inputs["lens"] - systems["lens"]).max() > 0.01
    assert (target_of(TINY), target_of(EXPERIMENTS["small"])) == ("lens", "source")


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(run, tmp_path):
    module.train(dataclasses.replace(TINY, n_steps=2), tmp_path, verbose=0)
    parts = module.train(TINY, tmp_path, verbose=0)
    for one, other in zip(run[1].get_weights(), parts.get_weights(), strict=True):
        assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_training_lowers_the_error_on_frames_of_two_sizes(tmp_path):
    changes = {"larger_frames": (24,), "n_steps": 60, "steps_per_epoch": 30, "batch_size": 9, "learning_rate": 3e-3}
    module.train(dataclasses.replace(TINY, model=SMALL_ESTIMATOR, **changes), tmp_path, verbose=0)
    first, last = read_metrics(tmp_path)
    assert last["val_loss"] < first["val_loss"]
    assert last["val_theta_E_error_percent"] > 0
    assert load_pretrained(tmp_path / "weights.json", "estimator").config == SMALL_ESTIMATOR


def test_a_run_is_measured_and_its_weights_load(run, tmp_path, monkeypatch):
    monkeypatch.setattr(lens_figures, "TEST_SETS", {"16 pixels": MOCKS})
    monkeypatch.setattr(publish, "find_galaxies", lambda *given: procedural_galaxies(3, "test", 0))
    folder, trained = run
    done = CliRunner().invoke(publish.main, [str(folder), "tiny", "--n", "23", "--out", str(tmp_path / "tiny")])
    assert done.exit_code == 0, done.output
    loaded = load_pretrained(tmp_path / "tiny.json", "estimator")
    for ours, theirs in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(loaded.config.stretch) == len(SIE_SHEAR.names)
    written = json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)
    assert written["steps"] == 4
    figures = written["test"]["figures"]["16 pixels"]
    assert figures["all"]["n"] == 23 == figures["noise 0.1-1 %"]["n"] + figures["noise 1-10 %"]["n"]
    assert set(figures["all"]["parameters"]) == set(SIE_SHEAR.names)
    assert 0 < figures["all"]["parameters"]["theta_E"]["rms"] < 3


def test_the_width_of_posteriors_is_found():
    # Samples of a posterior that is so many times as wide as the truths scatter, in each parameter, and off its middle.
    rng, wider = np.random.default_rng(3), np.array([0.8, 1.0, 1.6])
    truth = rng.normal(size=(900, 3))
    samples = 2.0 + wider * rng.normal(size=(900, 300, 3))
    factors = lens_figures._STRETCHES[np.argmin(lens_figures._deviations(samples, 2.0 + truth), axis=0)]
    assert_allclose(factors, 1 / wider, rtol=0.08)
    # Of two sets the one that is farther off counts: neither is made wrong to have the other right.
    narrow = 0.8 * wider * rng.normal(size=(900, 300, 3))
    worst = np.maximum(lens_figures._deviations(samples, 2.0 + truth), lens_figures._deviations(narrow, truth))
    between = lens_figures._STRETCHES[np.argmin(worst, axis=0)]
    assert np.all((between > 1.02 / wider) & (between < 1.23 / wider))


def test_figures_are_those_of_the_errors(run):
    measured = lens_figures.measure(run[1], STAMPS, MOCKS, n=6, batch_size=4)
    assert all(len(values) == 6 for values in measured.values())
    figures = lens_figures.report(measured)["all"]
    error = measured["mean"] - measured["truth"]
    for i, name in enumerate(SIE_SHEAR.names):
        assert_allclose(figures["parameters"][name]["rms"] ** 2, np.mean(error[:, i] ** 2), rtol=1e-5)
        assert_allclose(figures["parameters"][name]["bias"], np.mean(error[:, i]), atol=1e-6)
    # The credibility of the first truth from the same posterior, as if it were a normal distribution in each parameter.
    inputs, truth = simulate_batch(tf.constant(seed_pair("test", 0)), 0, 4, STAMPS, MOCKS, target="lens")
    assert_allclose(truth, measured["truth"][:4], rtol=1e-5)
    mean, covariance = run[1].posterior(inputs).moments()
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert_allclose(measured["credibility"][:4, 3:], credibility_of_gaussian(truth, mean, sigma)[:, 3:], atol=0.08)


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
