"""A fixed set is the same bytes however it was made, and tfds opens it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from rim_tf.dataset_cli import dataset

from rim_tf.config import MockConfig
from rim_tf.data.mocks import GalaxyStamps, simulate_batch
from rim_tf.data.sources.galaxies import GalaxySet, half_light_radius
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("apache_beam")
fixed_sets = pytest.importorskip("rim_tf.data.sets.fixed")

CONFIG = MockConfig(image_pixels=24, source_pixels=24, mask_fraction=0.5)
# Four shards to train on, the last one not full, and one to validate on.
SIZES = {"n": 27, "n_validation": 5, "seed": 3, "batch_size": 4, "batches_per_shard": 2}


def few_galaxies():
    images = procedural_galaxies(6, seed=5)
    radii = np.array([half_light_radius(image) for image in images])
    return {
        split: GalaxySet(images[part], tuple(f"galaxy:{i}" for i in range(6))[part], radii[part])
        for split, part in (("train", slice(3)), ("validation", slice(3, 6)))
    }


def build(out, **options):
    """What is said while a set is made or finished in `out`."""
    said = []
    fixed_sets.build(**({"config": CONFIG, "galaxies": few_galaxies(), "say": said.append} | SIZES | options), out=out)
    return said


def shards(out):
    return {path.name: path.read_bytes() for path in out.glob("lenses-*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set made without interruption by one worker."""
    out = tmp_path_factory.mktemp("sets") / "whole"
    said = build(out)
    assert "To be made: 32 lenses" in said[0] and "kB" in said[0] and "in 5 files" in said[0]
    assert "holds 32 lenses in 5 files" in said[-1]
    return out


def test_a_set_reopens_with_the_lenses_of_the_stream(whole):
    builder = tfds.builder_from_directory(whole)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 27, "validation": 5}
    assert list(builder.info.splits["train"].shard_lengths) == [8, 8, 8, 3]
    assert len(shards(whole)) == 5 and builder.info.metadata["seed"] == 3
    for (split, galaxies), number in zip(few_galaxies().items(), (0, 1), strict=True):
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        assert len({example["image"].tobytes() for example in examples}) == len(examples)
        stamps = GalaxyStamps(galaxies.images, galaxies.half_light_radius)
        for index in range(len(examples) // 4):
            seed = tf.constant([3, number], tf.int32)
            inputs, source = simulate_batch(seed, tf.constant(index), 4, stamps, CONFIG)
            for i, example in enumerate(examples[4 * index : 4 * index + 4]):
                assert set(example) == {*inputs, "source"}
                # On another number of threads sums may come in another order.
                np.testing.assert_allclose(example["source"], source[i], atol=1e-5)
                for name, value in inputs.items():
                    assert example[name].dtype == value.dtype.as_numpy_dtype
                    np.testing.assert_allclose(example[name], value[i], rtol=1e-4, atol=1e-5)


def test_a_killed_build_goes_on_with_two_workers_to_the_bytes_that_one_writes(whole, tmp_path):
    out = tmp_path / "set"
    process = subprocess.Popen([sys.executable, __file__, out], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not shards(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert shards(out) and not (out / "dataset_info.json").exists()
    with pytest.raises(InputError, match="incomplete"):
        fixed_sets.open_set(out)
    # However far it came by the time it was killed: something for each worker to do, and something half done.
    for path in sorted(out.glob("lenses-*"))[1:]:
        path.unlink()
    (out / ".lenses-train.tfrecord-00003-of-00004.0.incomplete").write_bytes(b"half of it")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("lenses-*")}
    build(out, workers=2)
    assert shards(out) == shards(whole)
    assert not list(out.glob(".*.incomplete"))
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert fixed_sets.open_set(out).info.splits["train"].num_examples == 27


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


def test_a_folder_of_other_things_and_impossible_numbers_are_input_errors(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="thesis.tex"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    for options in ({"n": 0}, {"workers": 0}, {"n_validation": -1}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            build(tmp_path / "set", **options)


def test_other_runners_write_the_same_bytes_and_say_what_they_lack(whole, tmp_path):
    # In a process of its own, as LOOPBACK works in ours, where TensorFlow has more threads than one by now.
    options = ["PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
    subprocess.run([sys.executable, __file__, str(tmp_path / "portable"), *options], check=True)
    assert shards(tmp_path / "portable") == shards(whole)
    with pytest.raises(InputError, match="NoSuchRunner did not finish .* give the command again"):
        build(tmp_path / "none", runner="NoSuchRunner")
    with pytest.raises(InputError, match="DataflowRunner did not finish .*temp_location"):
        build(tmp_path / "flow", runner="DataflowRunner", pipeline_options=["--project=p"])


def test_contact_sheet_of_a_set(whole, tmp_path):
    figure = fixed_sets.show(whole, n=5, split="validation")
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 10  # image and source of each
    assert all(np.isfinite(ax.images[0].get_array()).any() for ax in drawn)
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(dataset, ["show", str(whole.parent), "--out", str(sheet), "--n", "3"])
    assert done.exit_code == 0, done.output
    assert sheet.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no split 'test'; it has train, validation"):
        fixed_sets.show(whole, split="test")
    with pytest.raises(InputError, match="no prepared set"):
        fixed_sets.show(tmp_path)


def test_the_command_builds_what_its_options_say(tmp_path, monkeypatch):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"theta_E": [0.2, 0.25], "mask_fraction": 0.5}))
    seen = {}
    monkeypatch.setattr(fixed_sets, "build", lambda *args, say, **options: seen.update(args=args, **options))
    options = "--n 10 --validation 2 --seed 7 --out set --galaxies great3 --pixels 64 --pixel-scale 0.05 --workers 3"
    done = CliRunner().invoke(
        dataset, ["build", *options.split(), "--config", str(settings), "--beam-option=--project=p"]
    )
    assert done.exit_code == 0, done.output
    config, *rest = seen["args"]
    assert config == MockConfig(
        image_pixels=64,
        source_pixels=64,
        log_pixel_scale=(0.05, 0.05),
        theta_E=(0.2, 0.25),
        mask_fraction=0.5,
    )
    assert rest == [10, 7, "set", "great3", 2, 3, "DirectRunner", ("--project=p",)]
    settings.write_text('{"theta": 1}')
    done = CliRunner().invoke(dataset, ["build", "--n", "1", "--out", "set", "--config", str(settings)])
    assert isinstance(done.exception, InputError) and "has theta; it may have" in str(done.exception)
    assert isinstance(dataset, click.Group)


if __name__ == "__main__":  # the process that is killed
    chosen = {"runner": sys.argv[2], "pipeline_options": sys.argv[3:]} if len(sys.argv) > 2 else {}
    build(sys.argv[1], **chosen)
