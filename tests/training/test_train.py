"""Training learns, and a killed run goes on where it stopped as if nothing had happened."""

import dataclasses
import importlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import one_thread  # noqa: F401
import pytest
import tensorflow as tf
from click.testing import CliRunner
from numpy.testing import assert_allclose

from rim_tf.config import SMALL, MockConfig
from rim_tf.errors import InputError
from rim_tf.files import read_json
from rim_tf.models.pretrained import build_model, load_pretrained
from rim_tf.validation import from_json, to_json
from training.experiments import EXPERIMENTS, TrainingConfig
from training.on_tensorflow import train
from training.streams import training_stream
from training.runs import initial_model
from training.train import main

TINY = dataclasses.replace(
    EXPERIMENTS["small"],
    model=dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)),
    mocks=MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2),
    schedule="exponential",  # which does not depend on the length of the run
    batch_size=4,
    n_steps=36,
    steps_per_epoch=12,
    n_procedural=5,
)

KILLED = """
import os, signal
import training.on_tensorflow as module
from test_train import TINY

class SaveAndDie(module.SaveCheckpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 0:
            os.kill(os.getpid(), signal.SIGKILL)

module.SaveCheckpoint = SaveAndDie
module.train(TINY, {out!r}, verbose=0)
"""


@pytest.fixture(scope="module", autouse=True)
def few_held_out():
    """A few galaxies to validate on where there are none of the user's; a hundred take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rim_tf.data.sources.find.N_PROCEDURAL", {"train": 5, "validation": 5})
        patch.setattr("training.runs.VALIDATION_BATCHES", 4)
        patch.setattr("training.runs.VALIDATION_BATCH_SIZE", TINY.batch_size)  # so that one trace of the draws will do
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model, and the folder that it was trained in without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train(TINY, folder, verbose=0), folder


def test_killed_run_goes_on_as_if_nothing_had_happened(whole, tmp_path, request):
    root, here = request.config.rootpath, request.path.parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(out=str(tmp_path / "killed"))],
        env={"PYTHONPATH": f"{root}:{here}:{here.parent}", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "weights.weights.h5").exists()
    resumed = train(TINY, tmp_path / "killed", verbose=0)
    assert int(resumed.optimizer.iterations) == int(whole[0].optimizer.iterations) == TINY.n_steps
    for a, b in zip(resumed.get_weights(), whole[0].get_weights(), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # Three epochs are on record, none of them twice.
    rows = (tmp_path / "killed" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]


def test_a_finished_run_is_described_by_what_it_leaves(whole):
    model, folder = whole
    assert from_json(TrainingConfig, read_json(folder / "config.json"), "config.json") == TINY
    loaded = load_pretrained(folder / "weights.json")
    assert loaded.config == TINY.model
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert read_json(folder / "weights.json")["training"] == read_json(folder / "config.json")


def test_training_lowers_the_error(whole):
    # Weak galaxies of a fixed law and a network that starts at the back-projection: 40 steps must help on fresh lenses.
    rows = [row.split(",") for row in (whole[1] / "log.csv").read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert float(rows[3][column]) < float(rows[1][column])


@pytest.mark.parametrize(
    "text, message", [("{}", "another configuration"), ("[]", "another configuration"), ("{", "JSON")]
)
def test_other_configuration_in_the_same_folder_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        train(TINY, tmp_path, verbose=0)


def test_a_run_goes_on_with_the_psfs_that_it_began_with_or_not_at_all(tmp_path, monkeypatch):
    class OpenedError(Exception):
        pass

    def compiled_model(config):
        raise OpenedError

    monkeypatch.setattr("training.runs.compiled_model", compiled_model)
    psfs = np.random.default_rng(0).uniform(size=(2, 3, 3)).astype(np.float32)
    for began, others, how in (
        (psfs, (None, psfs[::-1], psfs[:1]), "with other PSFs than now"),
        (None, (psfs,), "without PSFs"),
    ):
        out = tmp_path / how
        for same in (began, None if began is None else began.astype(float)):
            with pytest.raises(OpenedError):
                train(TINY, out, psfs=same)
        for other in others:
            with pytest.raises(InputError, match=f"holds a run that began {how}; give --psfs as it was then"):
                train(TINY, out, psfs=other)
        assert set(read_json(out / "psfs.json")) == {"sha256"}  # and no path of this machine
    # A run that began before this was kept goes on, and keeps it from then on.
    (out / "psfs.json").unlink()
    with pytest.raises(OpenedError):
        train(TINY, out, psfs=psfs)
    with pytest.raises(InputError, match="with other PSFs"):
        train(TINY, out)


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("ckpt-3.data*"):
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "run" / "checkpoints" / "ckpt-3.index").write_bytes(b"nothing")
    with pytest.raises(InputError, match="ckpt-3 cannot be read .* to go on from the one before"):
        train(TINY, tmp_path / "run", verbose=0)


@pytest.fixture
def only_draws(monkeypatch):
    """Training draws a pass of its batches, and takes no steps."""
    monkeypatch.setattr("keras.Model.fit", lambda model, batches, **options: list(batches.take(4)))


def test_a_fixed_set_trains_and_its_damage_is_named(tmp_path, only_draws):
    pytest.importorskip("tensorflow_datasets")
    small_sets = importlib.import_module("small_sets")
    small_sets.build(tmp_path / "lenses", config=TINY.mocks, n=8, n_validation=2, batch_size=4)
    batches, rest = (list(training_stream(TINY, lenses=tmp_path / "lenses", first_batch=n).take(2)) for n in (0, 1))
    assert batches[0][1].shape == (4, 24, 24)
    np.testing.assert_array_equal(batches[1][1], rest[0][1])
    with pytest.raises(InputError, match="is no set of galaxies"):
        training_stream(TINY, galaxies=tmp_path / "lenses")
    given = {"lenses": tmp_path / "lenses", "verbose": 0}
    train(TINY, tmp_path / "run", **given)
    (shard,) = (tmp_path / "lenses").glob("lenses-train*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=f"{shard.name} is damaged after . of 8 records"):
        train(TINY, tmp_path / "run", **given)


def test_a_prepared_set_of_galaxies_is_read_as_it_is_needed(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    builders = importlib.import_module("rim_tf.data.builders")
    from astropy.io import fits

    from rim_tf.data.sources.procedural import procedural_galaxies

    (tmp_path / "fits").mkdir()
    rng = np.random.default_rng(0)
    for i, image in enumerate(procedural_galaxies(3, "test", 5).images):
        sky = rng.normal(0, 0.001, (180, 180))
        sky[26:154, 26:154] += image
        fits.writeto(tmp_path / f"fits/galaxy{i}.fits", sky.astype(np.float32))
    builder = builders.GalaxyFolder(data_dir=tmp_path / "sets")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "fits"))
    frames = training_stream(dataclasses.replace(TINY, larger_frames=(32,)), galaxies=tmp_path / "sets").take(2)
    for (inputs, source), shape in zip(frames, ((4, 24, 24), (2, 32, 32)), strict=True):
        assert source.shape == shape and np.isfinite(inputs["image"]).all()
    with pytest.raises(InputError, match="no sources to train on"):
        training_stream(dataclasses.replace(TINY, n_procedural=0))


def test_frames_of_several_sizes_take_turns_and_resume_in_the_same_turn():
    config = dataclasses.replace(TINY, larger_frames=(36,), batch_size=8)
    whole = [tf.nest.map_structure(np.array, batch) for batch in training_stream(config).take(5)]
    assert [source.shape for _, source in whole] == [(8, 24, 24), (3, 36, 36)] * 2 + [(8, 24, 24)]
    rest = [tf.nest.map_structure(np.array, batch) for batch in training_stream(config, first_batch=1).take(4)]
    for one, other in zip(whole[1:], rest, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_training_goes_on_from_weights_that_ship(tmp_path):
    model = compiled_model(dataclasses.replace(EXPERIMENTS["small-frames"], initial="small"))
    for a, b in zip(model.get_weights(), load_pretrained("small").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="another network"):
        train(dataclasses.replace(TINY, initial="small"), tmp_path / "other", verbose=0)


def test_other_seeds_draw_other_weights():
    one, again, other = (compiled_model(dataclasses.replace(TINY, seed=seed)).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert len(one) == len(build_model(TINY.model).get_weights())


def test_lenses_that_are_never_accepted_end_a_run_with_the_reason(tmp_path, only_draws, monkeypatch):
    monkeypatch.setattr("rim_tf.data.mocks._ROUNDS", 2)
    refuses = dataclasses.replace(TINY, mocks=dataclasses.replace(TINY.mocks, minimum_magnification=1e6))
    with pytest.raises(InputError, match="^Too few simulated systems are accepted: 0 of 32 drawn, where . are wanted."):
        train(refuses, tmp_path, verbose=0)


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_experiments_are_settings_that_can_be_read_again(name):
    import json

    assert from_json(TrainingConfig, json.loads(to_json(EXPERIMENTS[name])), "config.json") == EXPERIMENTS[name]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--seed -1", "TrainingConfig: seed is -1; it must be a whole number from 0 to 2147483647"),
        ("--seed 4000000000", "TrainingConfig: seed is 4000000000; it must be a whole number from 0 to 2147483647"),
        ("--steps 0", "TrainingConfig: n_steps is 0; it must be a whole number of at least 1"),
        ("--steps 150", "n_steps is 150; it must be a multiple of the 100 steps of an epoch"),
        ("--initial nothing --steps 100", "There are no weights 'nothing'"),
        ("--out /dev/null/run", "/dev/null/run cannot be made a folder: Not a directory"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, options, message):
    done = CliRunner().invoke(main, ["small", "--out", str(tmp_path / "run"), *options.split()])
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize(
    "changes, given, message",
    [
        ({"n_steps": 5}, {}, "n_steps is 5; it must be a multiple of the 12 steps of an epoch"),
        ({"larger_frames": (32,)}, {"lenses": "."}, "frames of one size"),
    ],
)
def test_runs_that_would_not_be_what_they_say_are_refused(tmp_path, changes, given, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(TINY, **changes), tmp_path, verbose=0, **given)


def test_frames_of_several_sizes_are_not_shared_out():
    with pytest.raises(InputError, match="cannot be shared out"):
        training_stream(dataclasses.replace(TINY, larger_frames=(32,)), n_shards=2)
