"""Galaxies and lenses stream from prepared sets as the seed says."""

import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources.galaxies import STAMP_SIZE
from rim_tf.data.streaming import stream
from rim_tf.errors import InputError
from rim_tf.physics.imaging import imaging_operator

tfds = pytest.importorskip("tensorflow_datasets")
builders = importlib.import_module("rim_tf.data.builders")
opening = importlib.import_module("rim_tf.data.sets.opening")
streams = importlib.import_module("rim_tf.data.sets.streams")
CONFIG = importlib.import_module("small_sets").CONFIG
SEED = seed_pair("training", 1)


@pytest.fixture(scope="module")
def lenses(whole):
    return opening.open_set(whole)


def taken(dataset, n):
    return [tf.nest.map_structure(np.array, element) for element in dataset.take(n)]


def assert_equal(these, those):
    assert len(these) == len(those) > 0
    for one, other in zip(these, those, strict=True):
        tf.nest.map_structure(assert_array_equal, one, other)


def test_pools_hold_the_galaxies_of_the_set(galaxy_set):
    read = builders.read_galaxies(galaxy_set, "train")
    known = {image.tobytes(): radius for image, radius in zip(read.images, read.half_light_radius, strict=True)}
    pools = taken(streams.galaxy_pools(galaxy_set, "train", 3, SEED), 6)
    seen = [(image.tobytes(), radius) for images, radii in pools for image, radius in zip(images, radii, strict=True)]
    assert len(seen) == 18
    assert all(known[image] == radius for image, radius in seen)
    assert len({image for image, _ in seen[: len(known)]}) == len(known)  # each once before any comes again


def test_a_small_set_among_many_procedural_galaxies_is_still_read(galaxy_set, galaxies):
    many = GalaxyStamps(*(np.repeat(each[9:], 100, axis=0) for each in (galaxies.images, galaxies.half_light_radius)))
    ((pool, _),) = taken(streams.galaxy_pools(galaxy_set, "train", 6, SEED, procedural=many), 1)
    drawn = {image.tobytes() for image in galaxies.images[9:]}
    assert sum(image.tobytes() not in drawn for image in pool) == 1


def test_pools_can_be_taken_up_anywhere_and_mix_procedural_galaxies_in(galaxy_set, galaxies):
    procedural = GalaxyStamps(galaxies.images[8:], galaxies.half_light_radius[8:])
    given = {"split": "train", "pool": 6, "seed": SEED, "procedural": procedural}
    whole = taken(streams.galaxy_pools(galaxy_set, **given), 5)
    assert_equal(whole[3:], taken(streams.galaxy_pools(galaxy_set, **given, first_pool=3), 2))
    drawn = {image.tobytes() for image in galaxies.images[8:]}
    n_real = galaxy_set.info.splits["train"].num_examples
    share = np.mean([image.tobytes() in drawn for pool, _ in whole for image in pool])
    assert_allclose(share, round(6 * 4 / (4 + n_real)) / 6)
    assert whole[0][0].shape == (6, STAMP_SIZE, STAMP_SIZE)


def test_workers_together_see_what_one_would(galaxy_set, lenses):
    def of_galaxies(first, shard=0, n_shards=1):
        pools = streams.galaxy_pools(galaxy_set, "train", 4, SEED, first)
        return stream(SEED, 2, pools, CONFIG, first, shard=shard, n_shards=n_shards)

    def of_lenses(first, shard=0, n_shards=1):
        return streams.lens_stream(lenses, "train", 2, SEED, None, first, shard=shard, n_shards=n_shards)

    for make in (of_galaxies, of_lenses):
        alone = taken(make(0), 6)
        first, second = (taken(make(2, worker, 2), 2) for worker in range(2))  # taken up at any batch
        assert_equal(alone[2:], [batch for pair in zip(first, second, strict=True) for batch in pair])


def test_a_fixed_set_is_observed_anew_in_every_pass_and_its_truth_fits_to_the_noise(lenses):
    batches = taken(streams.lens_stream(lenses, "train", 9, SEED), 6)
    sources = [source.tobytes() for _, batch in batches for source in batch]
    images = [image.tobytes() for inputs, _ in batches for image in inputs["image"]]
    assert len(set(sources)) == 27 and len(images) == len(set(images)) == 54
    kept = {example["source"].tobytes() for example in tfds.as_numpy(lenses.as_dataset(split="train"))}
    assert set(sources) == kept
    chi2 = []
    for inputs, source in batches:
        model = imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy()
        chi2.append(np.mean(((inputs["image"] - model) / inputs["noise_rms"]) ** 2))
    assert abs(np.mean(chi2) - 1) < 4 * np.sqrt(2 / (54 * 24**2))


def test_sets_that_do_not_fit_are_input_errors(galaxy_set, lenses):
    with pytest.raises(InputError, match="no set of simulated lenses"):
        streams.lens_stream(galaxy_set, "train", 2, SEED)
    with pytest.raises(InputError, match="24 pixels and 32 are asked for"):
        streams.lens_stream(lenses, "train", 2, SEED, dataclasses.replace(CONFIG, image_pixels=32))
    with pytest.raises(InputError, match="no split 'test'"):
        streams.lens_stream(lenses, "test", 2, SEED)
    with pytest.raises(InputError, match="no set of galaxies"):
        streams.galaxy_pools(lenses, "train", 2, SEED)
    with pytest.raises(TypeError, match="The seed is 1; give"):
        streams.lens_stream(lenses, "train", 2, 1)
    with pytest.raises(TypeError, match="The seed is 1; give"):
        streams.galaxy_pools(galaxy_set, "train", 2, 1)
