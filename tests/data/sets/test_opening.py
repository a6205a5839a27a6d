"""Whatever is damaged in a prepared set is named, with what to do: when it is opened, shown, or trained on."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from rim_tf.cli.dataset import dataset
from rim_tf.data.seeds import seed_pair
from rim_tf.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
opening = importlib.import_module("rim_tf.data.sets.opening")
showing = importlib.import_module("rim_tf.data.sets.showing")
streams = importlib.import_module("rim_tf.data.sets.streams")
SEED = seed_pair("training", 1)
SHARD = "lenses-train.tfrecord-00001-of-00004"


def rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def change(name, key, value):
    def damage(folder):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {key: value}))

    return damage


def cut(to):
    def damage(folder):
        content = (folder / SHARD).read_bytes()
        (folder / SHARD).write_bytes(content[: int(to * len(content))])

    return damage


def flip(folder):
    content = bytearray((folder / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / SHARD).write_bytes(content)


def lose_a_record(folder):
    import tensorflow as tf

    records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / SHARD))]
    with tf.io.TFRecordWriter(str(folder / SHARD)) as writer:
        for record in records[:-1]:
            writer.write(record)


def other_shape(folder):
    text = (folder / "features.json").read_text()
    assert '"24"' in text
    (folder / "features.json").write_text(text.replace('"24"', '"25"'))


DAMAGES = {
    "empty info": (rewrite("dataset_info.json", ""), "dataset_info.json is not JSON"),
    "info of another kind": (rewrite("dataset_info.json", "[]"), "dataset_info.json holds no JSON object"),
    "info without splits": (rewrite("dataset_info.json", "{}"), "cannot be opened as a prepared set|has no split"),
    "splits of another kind": (change("dataset_info.json", "splits", 3), "cannot be opened as a prepared set"),
    "no features": (lambda folder: (folder / "features.json").unlink(), "features.json does not exist"),
    "empty features": (rewrite("features.json", ""), "features.json is not JSON"),
    "features of another kind": (rewrite("features.json", "{}"), "cannot be opened as a prepared set"),
    "features of another shape": (other_shape, "cannot be read as its dataset_info.json and features.json say"),
    "metadata of another kind": (rewrite("metadata.json", "7"), "metadata.json holds no JSON object"),
    "no shard": (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing"),
    "an empty shard": (cut(0.0), f"{SHARD} holds 0 records and not 8"),
    "a shard cut short": (cut(0.7), f"{SHARD} is damaged after 5 of 8 records"),
    "a shard of something else": (rewrite(SHARD, 10 * "nothing"), f"{SHARD} is damaged after 0 of 8 records"),
    "a shard that lost a record": (lose_a_record, f"{SHARD} holds 7 records and not 8"),
    "one bit": (flip, f"{SHARD} is damaged after . of 8 records"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_when_a_set_is_shown_and_when_it_is_trained_on(name, whole, tmp_path):
    damage, message = DAMAGES[name]
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    damage(folder)
    remedy = "Remove .* and dataset_info.json and build the set again, which makes what is missing|it has none"
    with pytest.raises(InputError, match=message) as caught:
        showing.show(folder, n=32)

    assert re.search(remedy, str(caught.value)) and "\n" not in str(caught.value)

    with pytest.raises(InputError, match=message):
        builder = opening.open_set(folder)
        with opening.damage_is_named(builder, "train"):
            for _ in streams.lens_stream(builder, "train", 9, SEED).take(3):
                pass


def test_damaged_sets_of_galaxies_are_named(galaxy_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(galaxy_set.data_dir, folder)
    (shard,) = folder.glob("*train.tfrecord*")
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 100)
    for read in (lambda: opening.read_galaxies(folder, "train"), lambda: showing.show(folder)):
        with pytest.raises(InputError, match=f"{shard.name} is damaged after . of . records. Prepare the set again"):
            read()


def test_errors_of_something_else_pass_through(whole):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="of a training step"):
        with opening.damage_is_named(opening.open_set(whole), "train"):
            tf.debugging.Assert(False, ["of a training step"])


def test_folders_that_are_no_set_get_a_sentence(whole, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        opening.open_set(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no prepared set; name the folder of one"):
        opening.open_set(tmp_path)
    for name in "ab":
        shutil.copytree(whole, tmp_path / name)
    with pytest.raises(InputError, match="holds 2 prepared sets .*name one of them"):
        opening.open_set(tmp_path)


def test_contact_sheet_of_a_set(whole, galaxy_set, tmp_path):
    figure = showing.show(whole, n=5, split="validation")
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 10  # image and source of each
    assert all(np.isfinite(ax.images[0].get_array()).any() for ax in drawn)
    assert len([ax for ax in showing.show(galaxy_set.data_dir, n=4).axes if ax.images]) == 4
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(dataset, ["show", str(whole.parent), "--out", str(sheet), "--n", "3"])
    assert done.exit_code == 0, done.output
    assert sheet.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no split 'test'; it has train, validation"):
        showing.show(whole, split="test")
