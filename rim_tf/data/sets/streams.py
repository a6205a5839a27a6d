"""Prepared sets streamed into training: galaxies as they are needed, lenses observed anew.

What streams here is the same for the same seed and the same global seed of TensorFlow (`keras.utils.set_random_seed`,
which training sets), on any machine, and can be taken up at any batch.
"""

import tensorflow as tf
import tensorflow_datasets as tfds

from rim_tf.config import MockConfig
from rim_tf.data import builders, seeds
from rim_tf.data.mocks import found_of, image_systems, observing_draws, pool_draws
from rim_tf.data.observing import observe
from rim_tf.data.sets.opening import check_shards
from rim_tf.errors import InputError
from rim_tf.validation import from_json

# Records among which a stream draws at random; a set's records are in random order already.
_SHUFFLED = 2048


def galaxy_pools(builder, split, pool, seed, first_pool=0, procedural=None):
    """Galaxies read from disk as they are needed: what `streaming.stream` takes for a set that memory cannot hold.

    Args:
      builder: of a prepared set of galaxies.
      split: of it.
      pool: galaxies that one batch may choose from.
      seed: `seeds.seed_pair` of the order, which is another one in each pass over the set.
      first_pool: the number of the first pool, hence of the first batch.
      procedural: `GalaxyStamps` to mix in, in proportion to how many there are; or None.

    Returns:
      Endless tf.data.Dataset of (images [pool, k, k], half-light radii [pool]).
    """
    seeds.check_pair(seed)
    size = builders.check_split(builder, split)
    share = 0.0 if procedural is None else len(procedural) / (len(procedural) + size)
    n_drawn = min(pool - 1, round(pool * share))
    parse = _parser(builder, ("image", "half_light_radius"))

    @tf.autograph.experimental.do_not_convert
    def draw(index, records):
        galaxies = parse(records)
        images, radius = galaxies["image"], galaxies["half_light_radius"]
        if n_drawn:
            drawn = pool_draws(seed, tf.cast(index, tf.int32)).integer([n_drawn], len(procedural))
            images = tf.concat([images, tf.gather(procedural.images, drawn)], 0)
            radius = tf.concat([radius, tf.gather(procedural.half_light_radius, drawn)], 0)
        return images, radius

    return _batches(builder, split, pool - n_drawn, seed, first_pool).map(draw)


def lens_stream(
    builder, split, batch_size, seed, config=None, first_batch=0, psfs=None, shard=0, n_shards=1, target="source"
):
    """Endless stream of a fixed set of lenses, each time with another PSF and noise (Section 2.3).

    Lens and source are the set's; what is observed of them is drawn anew, so no image is seen twice.

    Args:
      builder: of a set that `building.build` made.
      split: of it.
      batch_size: lenses in a batch.
      seed: `seeds.seed_pair` of the order, PSFs, noise and masks.
      config: `MockConfig` of what is observed; by default the set's own. Its image_pixels must be the set's.
      first_batch: as in `streaming.stream`.
      psfs: likewise.
      shard: likewise.
      n_shards: likewise.
      target: likewise.

    Returns:
      What `streaming.stream` returns.

    Raises:
      InputError: the set holds no lenses, lacks the split, or has images of another size than `config`.
    """
    seeds.check_pair(seed)
    own = builder.info.metadata or {}
    if "mocks" not in own:
        raise InputError(f"{builder.data_path} is no set of simulated lenses; make one with: rim-tf dataset build.")
    own = from_json(MockConfig, own["mocks"], f"{builder.data_path / 'metadata.json'}")
    config = own if config is None else config
    if config.image_pixels != own.image_pixels:
        raise InputError(
            f"{builder.data_path} has images of {own.image_pixels} pixels and {config.image_pixels} are asked for; "
            "build a set of that size."
        )
    if split not in builder.info.splits:
        raise InputError(f"{builder.data_path} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    parse = _parser(builder, ("source", "lens", "pixel_scale", "source_pixel_scale"))

    @tf.autograph.experimental.do_not_convert
    def simulate(index, records):
        systems = parse(records)
        systems["lensed"] = image_systems(systems, config.image_pixels)
        inputs = observe(observing_draws(seed, tf.cast(index, tf.int32)), systems, config, psfs)
        return inputs | {"mask": tf.cast(inputs["mask"], tf.uint8)}, found_of(systems, target)

    batches = _batches(builder, split, batch_size, seed, first_batch).shard(n_shards, shard)
    return batches.map(simulate, num_parallel_calls=1, deterministic=True).prefetch(4)


def _batches(builder, split, size, seed, first):
    """(number, serialised records [size]) from number `first` on, for ever."""
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise InputError(f"{builder.data_path} holds {builder.info.file_format.value} files; only tfrecord is read.")
    check_shards(builder, split)
    files = [str(path) for path in builder.info.splits[split].filepaths]
    records = tf.data.TFRecordDataset(files).shuffle(_SHUFFLED, seed=seeds.shuffle_seed(seed)).repeat()
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
