"""Sets of galaxies: sizes, splits, and several as one."""

import numpy as np
import pytest

from rim_tf.data.sources import galaxies
from rim_tf.data.sources.galaxies import (
    load_galaxies,
    save_galaxies,
    split_of,
)
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError


def test_a_galaxy_stays_in_its_split():
    ids = [f"cosmos:{i}" for i in range(2000)]
    splits = [split_of(galaxy) for galaxy in ids]
    assert splits == [split_of(galaxy) for galaxy in ids]
    assert splits.count("validation") == pytest.approx(200, abs=50)
    # More validation galaxies are added to those there were, none is exchanged.
    assert {g for g in ids if split_of(g) == "validation"} <= {g for g in ids if split_of(g, 0.3) == "validation"}
    # Written down, since another hash would validate older models on galaxies that they were trained on.
    assert [i for i in range(45) if splits[i] == "validation"] == [5, 19, 24, 35, 41, 44]


def test_the_splits_share_nothing_and_leave_nothing_out(rng):
    ids = tuple(f"set:{i}" for i in range(50))
    whole = galaxies.GalaxySet(rng.random((50, 4, 4)), ids, np.arange(50.0))
    train, validation = whole.split("train", 0.3), whole.split("validation", 0.3)
    assert not set(train.ids) & set(validation.ids)
    assert set(train.ids) | set(validation.ids) == set(ids)
    for part in (train, validation):
        for galaxy, image, radius in zip(part.ids, part.images, part.half_light_radius, strict=True):
            np.testing.assert_array_equal(image, whole.images[ids.index(galaxy)])
            assert radius == ids.index(galaxy)
    with pytest.raises(ValueError, match="'test'"):
        whole.split("test")


def test_sets_are_joined_in_their_order(rng):
    names = [("a", "b"), ("c", "d", "e")]
    sets = [galaxies.GalaxySet(rng.random((len(ids), 4, 4)), ids, rng.random(len(ids))) for ids in names]
    whole = galaxies.joined(sets)
    assert whole.ids == tuple("abcde")
    np.testing.assert_array_equal(whole.images[2:], sets[1].images)
    np.testing.assert_array_equal(whole.half_light_radius[2:], sets[1].half_light_radius)


def test_sets_in_one_file_are_the_same_sets(tmp_path):
    sets = {"train": procedural_galaxies(3, "test", 0), "validation": procedural_galaxies(2, "test", 1)}
    save_galaxies(tmp_path / "set.npz", sets)
    for split, given in sets.items():
        again = load_galaxies(tmp_path / "set.npz", split)
        assert again.ids == given.ids
        np.testing.assert_array_equal(again.images, given.images)
        np.testing.assert_array_equal(again.half_light_radius, given.half_light_radius)


def test_what_is_no_file_of_galaxies_gets_a_sentence(tmp_path):
    images = procedural_galaxies(2, "test", 0).images
    good = {"images": images, "half_light_radius": np.ones(2), "ids": np.array(["a", "b"])}
    good["split"] = np.array(["train", "train"])
    path = tmp_path / "bad.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no file of galaxies"):
        load_galaxies(path, "train")
    for change, match in (
        ({"images": images[:1]}, "holds 2 names, 2 splits and images float32"),
        ({"images": -images}, "light below zero"),
        ({"half_light_radius": np.array([1.0, np.inf])}, "half_light_radius must be 2 finite numbers"),
    ):
        np.savez(path, **(good | change))
        with pytest.raises(InputError, match=match):
            load_galaxies(path, "train")
