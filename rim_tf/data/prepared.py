"""Prepared tfds sets, of galaxies and of simulated lenses: found, opened, and streamed into training.

What streams here is the same for the same seed and the same global seed of TensorFlow (`keras.utils.set_random_seed`,
which training sets), on any machine, and can be taken up at any batch.
"""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from rim_tf.data import builders
from rim_tf.data.mocks import MockConfig, image_systems, observing_draws
from rim_tf.data.observing import observe
from rim_tf.data.sources.galaxies import GalaxySet, half_light_radius, has_samples, load_directory
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError

# Which numbers a split has is part of the seed, so that no two splits share any.
SPLIT_SEEDS = {"train": 0, "validation": 1}
N_PROCEDURAL = {"train": 1000, "validation": 100}
RECIPE = "recipe.json"
# Records among which a stream draws at random; a set's records are in random order already.
_SHUFFLED = 2048


def find_galaxies(where, split, seed=0):
    """The `GalaxySet` of one split from wherever the user's galaxies are.

    Args:
      where: None for procedural galaxies; a folder with the files of `rim_tf.data.sources.galaxies.LOADERS`, with a
        prepared set of galaxies, or with FITS, JPEG or PNG files of galaxies; or the tfds name of a prepared set.
      split: "train" or "validation". seed: of procedural galaxies.
    """
    if where is None:
        # Training draws below 10^6, validation above it, and `rim_tf.evaluation.study` from 2 10^6 on.
        images = procedural_galaxies(N_PROCEDURAL[split], seed % 1_000_000 + 1_000_000 * SPLIT_SEEDS[split])
        ids = tuple(f"procedural:{split}:{i}" for i in range(len(images)))
        return GalaxySet(images, ids, np.array([half_light_radius(image) for image in images]))
    folder = pathlib.Path(where)
    if has_samples(folder):
        return load_directory(folder).split(split)
    builder = galaxy_builder(where)
    if builder is not None:
        return builders.read_galaxies(builder, split)
    with tempfile.TemporaryDirectory() as data_dir:
        builder = builders.GalaxyFolder(data_dir=data_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
        return builders.read_galaxies(builder, split)


def galaxy_builder(where):
    """The tfds builder of a prepared set of galaxies, by its folder or tfds name; None for a folder without one."""
    folder = pathlib.Path(where)
    if folder.exists():
        return open_set(folder) if _prepared_within(folder) else None
    try:
        builder = tfds.builder(str(where))
        if builder.builder_config is None:
            raise ValueError("it has no configs, as sets of galaxies do")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputError(
            f"{where} is neither a folder nor the name of a tfds set of galaxies, as galaxy_zoo, great3 and "
            "galaxy_folder are."
        ) from error
    if not builder.data_path.exists():
        raise InputError(
            f"{where} has not been prepared; do it with: tfds build {builder.name}/{builder.builder_config.name} "
            "--imports rim_tf.data.builders --manual_dir FOLDER."
        )
    return builder


def open_set(where):
    """The tfds builder of the prepared set in a folder, or in the one folder below it that has one."""
    found = _prepared_within(where)
    if len(found) != 1:
        what = f"{len(found)} prepared sets ({', '.join(map(str, found))})" if found else "no prepared set"
        recipe = pathlib.Path(where) / RECIPE
        advice = "name one of them" if found else "name the folder of one"
        if recipe.is_file():
            advice = "it is incomplete, so build it again with the same options, which makes what is missing"
        raise InputError(f"{where} holds {what}; {advice}.")
    return tfds.builder_from_directory(found[0])


def _prepared_within(where):
    """Folders of prepared sets: this one, or all that are below it."""
    where = pathlib.Path(where)
    if not where.is_dir():
        raise InputError(f"{where} is no folder; name the folder of a prepared set.")
    if (where / "dataset_info.json").is_file():
        return [where]
    return sorted(path.parent for path in where.glob("**/dataset_info.json"))


def galaxy_pools(builder, split, pool, seed, first_pool=0, procedural=None):
    """Galaxies read from disk as they are needed: what `mocks.stream` takes for a set that memory cannot hold.

    Args:
      builder: of a prepared set of galaxies. split: of it.
      pool: galaxies that one batch may choose from.
      seed: of the order, another one in each pass over the set.
      first_pool: the number of the first pool, hence of the first batch.
      procedural: `GalaxyStamps` to mix in, in proportion to how many there are; or None.

    Returns:
      Endless tf.data.Dataset of (images [pool, k, k], half-light radii [pool]).
    """
    size = builders.check_split(builder, split)
    share = 0.0 if procedural is None else len(procedural) / (len(procedural) + size)
    n_drawn = min(pool - 1, round(pool * share))
    parse = _parser(builder, ("image", "half_light_radius"))

    def draw(index, records):
        galaxies = parse(records)
        images, radius = galaxies["image"], galaxies["half_light_radius"]
        if n_drawn:
            drawn = tf.random.stateless_uniform([n_drawn], [seed, index], maxval=len(procedural), dtype=tf.int32)
            images = tf.concat([images, tf.gather(procedural.images, drawn)], 0)
            radius = tf.concat([radius, tf.gather(procedural.half_light_radius, drawn)], 0)
        return images, radius

    return _batches(builder, split, pool - n_drawn, seed, first_pool).map(draw)


def lens_stream(builder, split, batch_size, seed, config=None, first_batch=0, psfs=None, shard=0, n_shards=1):
    """Endless stream of a fixed set of lenses, each time with another PSF and noise (Section 2.3).

    Lens and source are the set's; what is observed of them is drawn anew, so no image is seen twice. The arguments
    are those of `mocks.stream`, and so is what it returns.

    Args:
      builder: of a set that `fixed_sets.build` made. split: of it.
      config: `MockConfig` of what is observed; by default the set's own. Its image_pixels must be the set's.

    Raises:
      InputError: the set holds no lenses, lacks the split, or has images of another size than `config`.
    """
    own = builder.info.metadata or {}
    if "mocks" not in own:
        raise InputError(f"{builder.data_path} is no set of simulated lenses; make one with: rim-tf dataset build.")
    own = MockConfig.from_dict(own["mocks"])
    config = own if config is None else config
    if config.image_pixels != own.image_pixels:
        raise InputError(
            f"{builder.data_path} has images of {own.image_pixels} pixels and {config.image_pixels} are asked for; "
            "build a set of that size."
        )
    if split not in builder.info.splits:
        raise InputError(f"{builder.data_path} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    parse = _parser(builder, ("source", "lens", "pixel_scale", "source_pixel_scale"))
    seed_pair = tf.constant([seed, 0], tf.int32)

    def simulate(index, records):
        systems = parse(records)
        systems["lensed"] = image_systems(systems, config.image_pixels)
        inputs = observe(observing_draws(seed_pair, tf.cast(index, tf.int32)), systems, config, psfs)
        return inputs | {"mask": tf.cast(inputs["mask"], tf.uint8)}, systems["source"]

    batches = _batches(builder, split, batch_size, seed, first_batch).shard(n_shards, shard)
    return batches.map(simulate, num_parallel_calls=1, deterministic=True).prefetch(4)


def _batches(builder, split, size, seed, first):
    """(number, serialised records [size]) from number `first` on, for ever."""
    files = [str(path) for path in builder.info.splits[split].filepaths]
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise InputError(f"{builder.data_path} holds {builder.info.file_format.value} files; only tfrecord is read.")
    records = tf.data.TFRecordDataset(files).shuffle(_SHUFFLED, seed=seed).repeat()
    return records.batch(size, drop_remainder=True).enumerate().skip(first)


def _parser(builder, names):
    """Function of serialised records [n] that gives the features `names`, dictionary of [n, ...].

    Reading a whole batch at once is several times faster than tfds, which decodes examples one by one.
    """
    features = {name: builder.info.features[name] for name in names}
    packed = {name for name, feature in features.items() if len(feature.shape) > 1}

    def parse(records):
        columns = {
            name: tf.io.FixedLenFeature(
                [] if name in packed else feature.shape, tf.string if name in packed else feature.dtype
            )
            for name, feature in features.items()
        }
        values = tf.io.parse_example(records, columns)
        for name in packed:
            raw = tf.io.decode_raw(tf.io.decode_compressed(values[name], "ZLIB"), features[name].dtype)
            values[name] = tf.reshape(raw, [records.shape[0], *features[name].shape])
        return values

    return parse
