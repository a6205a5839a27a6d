"""Galaxies and lenses stream from prepared sets as the seed says, and are found wherever the user has them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.config import MockConfig
from rim_tf.data.mocks import GalaxyStamps, stream
from rim_tf.data.sources.galaxies import STAMP_SIZE, GalaxySet, half_light_radius
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.physics.imaging import imaging_operator

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("apache_beam")
fixed_sets = pytest.importorskip("rim_tf.data.sets.fixed")
prepared_sets = pytest.importorskip("rim_tf.data.prepared")

CONFIG = MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """Builder of a prepared set of nine galaxies, made from a folder of FITS files."""
    folder = tmp_path_factory.mktemp("fits")
    rng = np.random.default_rng(0)
    for i, image in enumerate(procedural_galaxies(9, seed=5)):
        sky = rng.normal(0, 0.001, (180, 180))
        sky[26:154, 26:154] += image
        fits.writeto(folder / f"galaxy{i}.fits", sky.astype(np.float32))
    builder = prepared_sets.builders.GalaxyFolder(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return builder


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    """Builder of a fixed set of twelve lenses."""
    images = procedural_galaxies(3, seed=5)
    radii = np.array([half_light_radius(image) for image in images])
    out = tmp_path_factory.mktemp("sets") / "lenses"
    sources = {"train": GalaxySet(images, ("a", "b", "c"), radii)}
    fixed_sets.build(CONFIG, 12, 3, out, sources, batch_size=4, batches_per_shard=1, say=lambda line: None)
    return prepared_sets.open_set(out)


def taken(dataset, n):
    return [tf.nest.map_structure(np.array, element) for element in dataset.take(n)]


def assert_equal(these, those):
    assert len(these) == len(those) > 0
    for one, other in zip(these, those, strict=True):
        tf.nest.map_structure(assert_array_equal, one, other)


def test_pools_hold_the_galaxies_of_the_set(galaxies):
    known = {image.tobytes(): radius for image, radius in zip(*of_set(galaxies), strict=True)}
    pools = taken(prepared_sets.galaxy_pools(galaxies, "train", 3, seed=1), 6)
    seen = [(image.tobytes(), radius) for images, radii in pools for image, radius in zip(images, radii, strict=True)]
    assert len(seen) == 18
    assert all(known[image] == radius for image, radius in seen)
    assert len({image for image, _ in seen[: len(known)]}) == len(known)  # each once before any comes again


def test_a_small_set_among_many_procedural_galaxies_is_still_read(galaxies):
    images = procedural_galaxies(4, seed=8)
    many = GalaxyStamps(np.repeat(images, 100, axis=0), np.repeat([half_light_radius(image) for image in images], 100))
    ((pool, _),) = taken(prepared_sets.galaxy_pools(galaxies, "train", 6, seed=1, procedural=many), 1)
    drawn = {image.tobytes() for image in images}
    assert sum(image.tobytes() not in drawn for image in pool) == 1


def of_set(builder):
    galaxies = prepared_sets.builders.read_galaxies(builder, "train")
    return galaxies.images, galaxies.half_light_radius


def test_pools_can_be_taken_up_anywhere_and_mix_procedural_galaxies_in(galaxies):
    images = procedural_galaxies(4, seed=8)
    procedural = GalaxyStamps(images, [half_light_radius(image) for image in images])
    given = {"split": "train", "pool": 6, "seed": 1, "procedural": procedural}
    whole = taken(prepared_sets.galaxy_pools(galaxies, **given), 5)
    assert_equal(whole[3:], taken(prepared_sets.galaxy_pools(galaxies, **given, first_pool=3), 2))
    drawn = {image.tobytes() for image in images}
    n_real = galaxies.info.splits["train"].num_examples
    share = np.mean([image.tobytes() in drawn for pool, _ in whole for image in pool])
    assert_allclose(share, round(6 * 4 / (4 + n_real)) / 6)
    assert whole[0][0].shape == (6, STAMP_SIZE, STAMP_SIZE)


def test_workers_together_see_what_one_would(galaxies, lenses):
    def of_galaxies(first, shard=0, n_shards=1):
        pools = prepared_sets.galaxy_pools(galaxies, "train", 4, 1, first)
        return stream(7, 2, pools, CONFIG, first, shard=shard, n_shards=n_shards)

    def of_lenses(first, shard=0, n_shards=1):
        return prepared_sets.lens_stream(lenses, "train", 2, 7, None, first, shard=shard, n_shards=n_shards)

    for make in (of_galaxies, of_lenses):
        alone = taken(make(0), 8)
        assert_equal(alone[2:], taken(make(2), 6))  # taken up at any batch
        first, second = (taken(make(2, worker, 2), 3) for worker in range(2))
        assert_equal(alone[2:], [batch for pair in zip(first, second, strict=True) for batch in pair])


def test_a_fixed_set_is_observed_anew_in_every_pass(lenses):
    batches = taken(prepared_sets.lens_stream(lenses, "train", 4, seed=1), 6)
    sources = [source.tobytes() for _, batch in batches for source in batch]
    images = [image.tobytes() for inputs, _ in batches for image in inputs["image"]]
    assert len(set(sources)) == 12 and len(images) == len(set(images)) == 24
    kept = {example["source"].tobytes() for example in tfds.as_numpy(lenses.as_dataset(split="train"))}
    assert set(sources) == kept


def test_streamed_truth_fits_to_the_noise(lenses):
    chi2 = []
    for inputs, source in taken(prepared_sets.lens_stream(lenses, "train", 4, seed=1), 12):
        model = imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy()
        chi2.append(np.mean(((inputs["image"] - model) / inputs["noise_rms"]) ** 2))
    assert abs(np.mean(chi2) - 1) < 4 * np.sqrt(2 / (48 * 24**2))


def test_sets_that_do_not_fit_are_input_errors(galaxies, lenses):
    with pytest.raises(InputError, match="no set of simulated lenses"):
        prepared_sets.lens_stream(galaxies, "train", 2, 1)
    with pytest.raises(InputError, match="24 pixels and 32 are asked for"):
        prepared_sets.lens_stream(lenses, "train", 2, 1, dataclasses.replace(CONFIG, image_pixels=32))
    with pytest.raises(InputError, match="no split 'test'"):
        prepared_sets.lens_stream(lenses, "test", 2, 1)
    with pytest.raises(InputError, match="no set of galaxies"):
        prepared_sets.galaxy_pools(lenses, "train", 2, 1)


def test_galaxies_come_from_a_folder_of_files_or_a_prepared_set(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, image in enumerate(procedural_galaxies(3, seed=5)):
        sky = rng.normal(0, 0.001, (180, 180))
        sky[26:154, 26:154] += image
        fits.writeto(folder / f"galaxy{i}.fits", sky.astype(np.float32))
    # Of these three names none is one of the tenth that validates.
    read = prepared_sets.find_galaxies(folder, "train")
    assert set(read.ids) <= {f"folder:galaxy{i}.fits" for i in range(3)} and len(read) >= 2
    with pytest.raises(InputError, match="no galaxies in the split 'validation'"):
        prepared_sets.find_galaxies(folder, "validation")
    with pytest.raises(InputError, match="neither a folder nor the name"):
        prepared_sets.find_galaxies("no_such_set_of_galaxies", "train")
    monkeypatch.setattr(prepared_sets, "N_PROCEDURAL", {"train": 2, "validation": 2})
    procedural = [set(prepared_sets.find_galaxies(None, split).ids) for split in ("train", "validation")]
    assert not procedural[0] & procedural[1]
