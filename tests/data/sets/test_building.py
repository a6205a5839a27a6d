"""A fixed set is the same bytes however it was made, and tfds opens it."""

import collections
import dataclasses
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner

from rim_tf.cli.dataset import dataset
from rim_tf.config import PAPER_MOCKS, MockConfig
from rim_tf.data import seeds
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.data.streaming import Simulator
from rim_tf.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
small_sets = importlib.import_module("small_sets")
building = importlib.import_module("rim_tf.data.sets.building")
opening = importlib.import_module("rim_tf.data.sets.opening")
CONFIG, build = small_sets.CONFIG, small_sets.build


def shards(out):
    return {path.name: path.read_bytes() for path in out.glob("lenses-*")}


def test_a_set_reopens_with_the_lenses_of_its_streams(whole):
    builder = tfds.builder_from_directory(whole)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 27, "validation": 5}
    assert list(builder.info.splits["train"].shard_lengths) == [8, 8, 8, 3]
    assert len(shards(whole)) == 5 and builder.info.metadata["seed"] == 3
    for split, galaxies in small_sets.few_galaxies().items():
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        assert len({example["image"].tobytes() for example in examples}) == len(examples)
        simulator = Simulator(seeds.seed_pair(f"set: {split}", 3), 4, GalaxyStamps.of(galaxies), CONFIG)
        for index in range(len(examples) // 4):
            inputs, source = simulator(index)
            for i, example in enumerate(examples[4 * index : 4 * index + 4]):
                assert set(example) == {*inputs, "source"}
                # On another number of threads sums may come in another order.
                np.testing.assert_allclose(example["source"], source[i], atol=1e-5)
                for name, value in inputs.items():
                    assert example[name].dtype == value.dtype.as_numpy_dtype
                    np.testing.assert_allclose(example[name], value[i], rtol=1e-4, atol=1e-5)


def test_a_killed_build_goes_on_with_two_workers_to_the_bytes_that_one_writes(whole, tmp_path):
    out = tmp_path / "set"
    # What a build has written by the time it first writes a shard.
    out.mkdir()
    for name in ("recipe.json", "galaxies.npz"):
        shutil.copy(whole / name, out)
    process = subprocess.Popen(
        [sys.executable, small_sets.__file__, out], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not shards(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert shards(out) and not (out / "dataset_info.json").exists()
    with pytest.raises(InputError, match="incomplete"):
        opening.open_set(out)
    # However far it came by the time it was killed: something for each worker to do, and something half done.
    for path in sorted(out.glob("lenses-*"))[1:]:
        path.unlink()
    abandoned, running = (out / f".lenses-train.{who}.incomplete.tfrecord-00003-of-00004" for who in "ab")
    for path in (abandoned, running):
        path.write_bytes(b"half of it")
    os.utime(abandoned, (0, 0))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("lenses-*")}
    build(out, workers=2)
    assert shards(out) == shards(whole)
    # A build that runs beside this one keeps what it is writing.
    assert running.exists() and not abandoned.exists()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert opening.open_set(out).info.splits["train"].num_examples == 27


def test_a_finished_set_is_left_alone_and_not_mixed_with_another(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("lenses-*")}
    assert len(build(whole)) == 1  # nothing was to be made
    for options, named in (
        ({"seed": 4}, r"seed \(there 3, now 4\)"),
        ({"n": 28}, "n "),
        ({"config": dataclasses.replace(CONFIG, theta_E=(0.1, 0.2))}, r"mocks\.theta_E"),
        ({"galaxies": None}, "galaxies"),
    ):
        with pytest.raises(InputError, match=named):
            build(whole, **options)
    assert before == {path: path.stat().st_mtime_ns for path in whole.glob("lenses-*")}


GOOD = {"mocks": {}, "seed": 1, "n": {"train": 1}, "galaxies": "x"}


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("", "is not JSON that can be read"),
        ([], r"recipe.json: all of it is \[\]; it must be a JSON object"),
        ({}, "recipe.json lacks mocks"),
        (GOOD | {"seed": 1.5}, "recipe.json: seed is 1.5; it must be a whole number from 0 to 2147483647"),
        (GOOD | {"mocks": 3}, "recipe.json: mocks is 3; it must be a JSON object"),
        (GOOD | {"mocks": {"theta": 3}}, "recipe.json has unknown 'mocks.theta', did you mean 'theta_E'"),
        (GOOD | {"n": [1]}, r"recipe.json: n is \[1\]; it must be a JSON object"),
        (GOOD | {"n": {"train": 0}}, "recipe.json: n.train is 0; it must be a whole number of at least 1"),
        (GOOD | {"galaxy": "x"}, "recipe.json has unknown 'galaxy', did you mean 'galaxies'"),
    ],
)
def test_a_damaged_recipe_is_named(tmp_path, recipe, message):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe) if recipe != "" else "")
    with pytest.raises(InputError, match=message):
        build(tmp_path)


def test_damaged_galaxies_are_named(whole, tmp_path):
    for name in ("recipe.json", "galaxies.npz"):
        shutil.copy(whole / name, tmp_path)
    with open(tmp_path / "galaxies.npz", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="galaxies.npz is damaged"):
        build(tmp_path)


def test_what_cannot_be_built_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="thesis.tex"):
        build(tmp_path / "thesis")
    with pytest.raises(InputError, match="is a file"):
        build(tmp_path / "thesis" / "thesis.tex")
    empty = {split: GalaxySet(found.images[:0], (), np.empty(0)) for split, found in small_sets.few_galaxies().items()}
    out = tmp_path / "new" / "set"
    for options, message in (
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"workers": 0}, "workers"),
        ({"n_validation": -1}, "n_validation"),
        ({"seed": -1}, "The seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n": 10**15}, "1000000000000005 lenses are more than 1000000 files of 8 hold"),
        ({"galaxies": empty}, "no galaxies in the split 'train'"),
        ({"galaxies": str(tmp_path / "nowhere")}, "neither a folder nor the name"),
        ({"galaxies": "great3"}, "has not been prepared"),
        ({"pipeline_options": ["--project=p"]}, "--project=p is for a runner of Apache Beam"),
        ({"out": "nowhere://bucket/set"}, "nowhere://bucket/set cannot be reached"),
    ):
        with pytest.raises(InputError, match=message):
            build(**{"out": out} | options)
    # Not before the galaxies are read can it be known that no lens will be accepted, or how large the set is.
    refused = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1e6)
    monkeypatch.setattr("rim_tf.data.mocks._ROUNDS", 2)
    with pytest.raises(InputError, match="Too few simulated systems are accepted"):
        build(out, config=refused)
    space = collections.namedtuple("usage", "total used free")(1, 1, 5000)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: space)
    with pytest.raises(InputError, match="has 5.0 kB left and the set needs .* kB; choose another --out"):
        build(out)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "thesis.tex"]


def test_a_disk_that_is_full_leaves_the_shards_that_are_whole(whole, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    (out / "dataset_info.json").unlink()
    lost = sorted(out.glob("lenses-train*"))[0]
    lost.unlink()
    before = shards(out)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=f"{lost.name} cannot be written"):
            build(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert shards(out) == before and not list(out.glob(".*"))


def test_runners_say_what_they_lack(whole, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(InputError, match="NoSuchRunner did not finish .* give the command again"):
        building._run_pipeline([], "NoSuchRunner", [])
    with pytest.raises(InputError, match="DataflowRunner did not finish .*temp_location"):
        building._run_pipeline([whole / "lenses"], "DataflowRunner", ["--project=p"])


def test_the_command_builds_what_its_options_say(tmp_path, monkeypatch):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"theta_E": [0.2, 0.25], "mask_fraction": 0.5, "image_pixels": 32}))
    seen = {}
    monkeypatch.setattr(building, "build", lambda *args, say, **options: seen.update(args=args, **options))
    options = "--n 10 --validation 2 --seed 7 --out set --galaxies great3 --pixels 64 --pixel-scale 0.05 --workers 3"
    options += " --runner FlinkRunner --beam-option=--project=p"
    done = CliRunner().invoke(dataset, ["build", *options.split(), "--config", str(settings)])
    assert done.exit_code == 0, done.output
    config, *rest = seen["args"]
    assert config == MockConfig(
        image_pixels=64,
        source_pixels=64,
        log_pixel_scale=(0.05, 0.05),
        theta_E=(0.2, 0.25),
        mask_fraction=0.5,
    )
    assert rest == [10, 7, "set", "great3", 2, 3, "FlinkRunner", ("--project=p",)]
    done = CliRunner().invoke(dataset, ["build", "--n", "10", "--out", "set"])
    assert done.exit_code == 0 and seen["args"] == (PAPER_MOCKS, 10, 1, "set", None, 0, 1, None, ())
    assert isinstance(dataset, click.Group)


@pytest.mark.parametrize(
    "options, text, message",
    [
        ([], '{"theta": 1}', "settings.json has unknown 'theta', did you mean 'theta_E'"),
        ([], "[1]", r"settings.json: all of it is \[1\]; it must be a JSON object"),
        ([], "{", "settings.json is not JSON that can be read"),
        ([], '{"theta_E": [-1, 2]}', r"settings.json: theta_E is \[-1, 2\]; it must be two numbers"),
        ([], '{"theta_E": [0.2, 0.1]}', "the smaller first"),
        ([], '{"ellipticity": [0, 2]}', "ellipticity is .*from 0 to 0.95"),
        ([], '{"mask_fraction": "half"}', "mask_fraction is 'half'; it must be a number from 0 to 1"),
        ([], '{"mask_fraction": true}', "mask_fraction is True; it must be a number from 0 to 1"),
        ([], '{"log_noise": [NaN, 1]}', "log_noise"),
        ([], '{"image_pixels": 64.5}', "image_pixels is 64.5; it must be a whole number from 8 to 4096"),
        ([], '{"psf_pixels": 20}', "psf_pixels is 20; it must be odd, or 0"),
        (["--pixel-scale", "1e30"], "{}", "What the options ask for: log_pixel_scale is"),
        (["--pixels", "100000"], "{}", "What the options ask for: image_pixels is 100000"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_done(tmp_path, options, text, message):
    (tmp_path / "settings.json").write_text(text)
    given = ["--n", "1", "--out", str(tmp_path / "set"), "--config", str(tmp_path / "settings.json"), *options]
    done = CliRunner().invoke(dataset, ["build", *given])
    assert isinstance(done.exception, InputError)
    with pytest.raises(InputError, match=message):
        raise done.exception
    assert not (tmp_path / "set").exists()
