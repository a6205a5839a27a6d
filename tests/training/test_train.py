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
import tiny_runs
from click.testing import CliRunner
from numpy.testing import assert_allclose
from tiny_runs import TINY

from rim_tf.errors import InputError
from rim_tf.files import read_json
from rim_tf.models.pretrained import build_model, load_pretrained
from rim_tf.validation import from_json, to_json
from training import checkpoints
from training.experiments import EXPERIMENTS, TrainingConfig
from training.monitor import read_metrics
from training.on_tensorflow import train
from training.runs import initial_model
from training.streams import training_stream
from training.train import main

# On two devices, which can be made before TensorFlow starts; and killed when the first epoch is saved.
KILLED = """
import os, signal
from rim_tf import heavy
heavy.import_quietly()
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from training import checkpoints, runs
from training.on_tensorflow import train
from tiny_runs import TINY
import rim_tf.data.sources.find

rim_tf.data.sources.find.N_PROCEDURAL = {{"train": 5, "validation": 5}}
runs.VALIDATION_BATCHES, runs.VALIDATION_BATCH_SIZE = 8, 2
save = checkpoints.save

def save_and_die(*given):
    save(*given)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save = save_and_die
train(TINY, {out!r}, verbose=0, strategy="mirrored")
"""


@pytest.fixture(scope="module", autouse=True)
def few_held_out():
    with tiny_runs.few_held_out():
        yield


@pytest.fixture(scope="module", autouse=True)
def traced_once(few_held_out):
    with tiny_runs.traced_once(TINY):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model, and the folder that it was trained in without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return tiny_runs.copied(train(TINY, folder, verbose=0)), folder


def test_a_run_killed_on_two_devices_goes_on_on_one_as_if_nothing_had_happened(whole, tmp_path, request):
    root, here = request.config.rootpath, request.path.parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(out=str(tmp_path / "killed"))],
        env={"PYTHONPATH": f"{root}:{here}:{here.parent}", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_json(tmp_path / "killed" / "run.json")["replicas"] == 2
    assert not (tmp_path / "killed" / "weights.weights.h5").exists()
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 24, "loss": 1.0}\n{"ste')  # as if it had been killed a little later
    resumed = train(TINY, tmp_path / "killed", verbose=0)
    for a, b in zip(resumed.get_weights(), whole[0].get_weights(), strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    # Three epochs are on record, none of them twice, with the same losses.
    ours, theirs = (read_metrics(folder) for folder in (tmp_path / "killed", whole[1]))
    assert [line["step"] for line in ours] == [12, 24, 36] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("loss", "gradient_norm", "val_loss"):
            assert_allclose(one[name], other[name], rtol=1e-5)


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
    lines = read_metrics(whole[1])
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]


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

    def learner(*given):
        raise OpenedError

    monkeypatch.setattr("training.on_tensorflow._Learner", learner)
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


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(whole, tmp_path, damage):
    path, before = (tmp_path / "run" / "checkpoints" / f"step-0000000{step}.npz" for step in (36, 24))
    shutil.copytree(whole[1], tmp_path / "run")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:1000], "changed": content, "empty": b""}[damage])
    with pytest.raises(InputError, match="step-000000036.npz is damaged .* remove it to go on from the one before"):
        train(TINY, tmp_path / "run", verbose=0)
    path.unlink()
    assert checkpoints.all_of(tmp_path / "run")[-1] == before
    model = initial_model(TINY)
    assert checkpoints.give_weights(before, model, averaged=False) == 24


def test_checkpoints_of_another_network_or_version_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match="is of another network or optimiser .*: weights_0 is .*, and wanted is"):
        checkpoints.load(checkpoints.all_of(whole[1])[-1], {"weights": [np.zeros(3, np.float32)]}, partly=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").write_text("model_checkpoint_path: ...")
    with pytest.raises(InputError, match="holds a run of version 0.2 or before"):
        train(TINY, tmp_path, verbose=0)


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    for step, loss in enumerate((3.0, 1.0, 2.0, 5.0, 4.0, np.nan), 1):
        checkpoints.save(tmp_path, step, {"weights": [np.full(2, step)]}, {"step": step, "val_loss": loss})
    assert [path.stem[-1] for path in checkpoints.all_of(tmp_path)] == ["2", "4", "5", "6"]
    assert checkpoints.best_of(tmp_path) == checkpoints.path_of(tmp_path, 2)


@pytest.fixture
def only_draws(monkeypatch):
    """Training draws a pass of its micro-batches, and takes no steps."""

    def steps(config, out, team, learner, step, seen, *others):
        for _ in range(8):
            next(seen[0])

    monkeypatch.setattr("training.on_tensorflow._steps", steps)


def test_a_fixed_set_trains_and_its_damage_is_named(tmp_path, only_draws):
    pytest.importorskip("tensorflow_datasets")
    small_sets = importlib.import_module("small_sets")
    small_sets.build(tmp_path / "lenses", config=TINY.mocks, n=8, n_validation=2, batch_size=2, batches_per_shard=4)
    batches, rest = (list(training_stream(TINY, lenses=tmp_path / "lenses", first_step=n).take(3)) for n in (0, 1))
    assert batches[0][1].shape == (2, 24, 24)
    np.testing.assert_array_equal(batches[2][1], rest[0][1])
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
    config = dataclasses.replace(TINY, larger_frames=(32,), micro_batches=1)
    frames = training_stream(config, galaxies=tmp_path / "sets").take(2)
    for (inputs, source), shape in zip(frames, ((4, 24, 24), (2, 32, 32)), strict=True):
        assert source.shape == shape and np.isfinite(inputs["image"]).all()
    with pytest.raises(InputError, match="no sources to train on"):
        training_stream(dataclasses.replace(TINY, n_procedural=0))


def taken(config, n, **options):
    return [tf.nest.map_structure(np.array, batch) for batch in training_stream(config, **options).take(n)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_frames_of_several_sizes_take_turns_and_resume_in_the_same_turn():
    config = dataclasses.replace(TINY, larger_frames=(36,), batch_size=8, micro_batches=1)
    whole = taken(config, 5)
    assert [source.shape for _, source in whole] == [(8, 24, 24), (3, 36, 36)] * 2 + [(8, 24, 24)]
    assert_same(whole[1:], taken(config, 4, first_step=1))


@pytest.mark.parametrize(
    "changes, sizes, replicas",
    [
        ({}, [24] * 4, (4,)),
        ({"larger_frames": (34,)}, [24, 34, 24, 34], (2, 4)),
        ({"growing_frames": ((18, 1), (34, 2)), "steps_per_epoch": 1}, [18, 34, 34, 24], (4,)),
        ({"turns": 2, "together": 2}, [24] * 4, (2,)),
    ],
)
def test_replicas_share_what_one_would_see_without_overlap_or_loss(monkeypatch, changes, sizes, replicas):
    plainly = tf.autograph.experimental.do_not_convert

    # That `stream` itself draws the same lenses for the same number is tested with it.
    def stream(seed, size, stamps, mocks, first, shard, n_shards, **given):
        def lenses(number):
            pixel = tf.range(mocks.source_pixels, dtype=tf.int64)
            squares = 100 * (1000 * int(seed[0]) + number) + pixel[:, None] + tf.zeros_like(pixel)
            return {"image": tf.repeat(squares[None], size, 0)}, tf.repeat(squares[None], size, 0)

        return tf.data.Dataset.counter(start=first + shard, step=n_shards).map(plainly(lenses))

    monkeypatch.setattr("training.streams.stream", stream)
    monkeypatch.setattr("training.streams._sources", lambda config, galaxies: (None, None))
    config = dataclasses.replace(TINY, batch_size=8, micro_batches=4, **changes)
    whole = taken(config, 16)
    assert [source.shape[1] for _, source in whole] == np.repeat(sizes, 4).tolist()
    if "turns" in changes:  # eight micro-batches, and the same eight mirrored
        np.testing.assert_array_equal(whole[0][1], whole[8][1][:, ::-1])
    else:
        assert len({source.tobytes() for _, source in whole}) == 16
    for n_shards in replicas:
        shards = [taken(config, 16 // n_shards, shard=i, n_shards=n_shards) for i in range(n_shards)]
        assert_same([shards[i % n_shards][i // n_shards] for i in range(16)], whole)
    # Taken up at another step, by another number of replicas.
    rest = [taken(config, 4, first_step=2, shard=i, n_shards=2) for i in range(2)]
    assert_same([rest[i % 2][i // 2] for i in range(8)], whole[8:])


def test_training_goes_on_from_weights_that_ship(tmp_path):
    model = initial_model(dataclasses.replace(EXPERIMENTS["small-frames"], initial="small"))
    for a, b in zip(model.get_weights(), load_pretrained("small").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="another network"):
        train(dataclasses.replace(TINY, initial="small"), tmp_path / "other", verbose=0)


def test_other_seeds_draw_other_weights():
    one, again, other = (initial_model(dataclasses.replace(TINY, seed=seed)).get_weights() for seed in (1, 1, 2))
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
        ({}, {"strategy": "tpu"}, "The strategy is 'tpu'; it must be one of one-device, mirrored, multiworker"),
        ({}, {"strategy": "multiworker"}, "TF_CONFIG is not set; set it for each worker"),
    ],
)
def test_runs_that_would_not_be_what_they_say_are_refused(tmp_path, changes, given, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(TINY, **changes), tmp_path, verbose=0, **given)


def test_micro_batches_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InputError, match="come in 2 micro-batches, which 3 replicas cannot share out evenly"):
        training_stream(TINY, n_shards=3)
