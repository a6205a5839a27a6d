"""Sets of simulated lenses on disk, as TensorFlow Datasets, made by an Apache Beam pipeline.

A set is cut into shards, a shard into batches, and a batch is what `mocks.simulate_batch` makes of (seed, index): no
shard depends on another, on how many workers there are or on what was done before. A shard appears under its name
when it is whole, so that whatever is there after an interruption need not be made again. `recipe.json` beside the
shards holds all that they follow from, and `galaxies.npz` the sources.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import uuid

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from rim_tf import __version__
from rim_tf.data.mocks import GalaxyStamps, MockConfig, simulate_batch
from rim_tf.data.prepared import RECIPE, SPLIT_SEEDS, find_galaxies, open_set
from rim_tf.errors import InputError

NAME = "lenses"
BATCH_SIZE = 16
BATCHES_PER_SHARD = 16
_GALAXIES = "galaxies.npz"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that the bytes of a set follow from, but for the kind of processor."""

    mocks: dict
    seed: int
    n: dict[str, int]
    """Lenses by split."""
    galaxies: str
    batch_size: int = BATCH_SIZE
    batches_per_shard: int = BATCHES_PER_SHARD
    rim_tf: str = __version__
    tensorflow: str = tf.__version__

    @property
    def config(self):
        """The MockConfig that `mocks` was made from."""
        return MockConfig.from_dict(self.mocks)

    def shards(self, out):
        """Path -> (split, index of its first batch, number of lenses)."""
        out, size = epath.Path(out), self.batch_size * self.batches_per_shard
        return {
            out / f"{NAME}-{split}.tfrecord-{i:05d}-of-{math.ceil(n / size):05d}": (
                split,
                i * self.batches_per_shard,
                min(size, n - i * size),
            )
            for split, n in self.n.items()
            for i in range(math.ceil(n / size))
        }


def build(
    config,
    n,
    seed,
    out,
    galaxies=None,
    n_validation=0,
    workers=1,
    runner="DirectRunner",
    pipeline_options=(),
    batch_size=BATCH_SIZE,
    batches_per_shard=BATCHES_PER_SHARD,
    say=print,
):
    """Make a set of lenses, or what is missing of one; `tfds.builder_from_directory(out)` opens it.

    The bytes do not depend on `workers`, `runner`, `pipeline_options` or interruptions. They can depend on the kind
    of processor, whose vector units decide the order of sums.

    Args:
      config: `MockConfig`. n: lenses in the split "train". seed: of everything that is drawn.
      out: folder; of other runners than the DirectRunner, one that all workers reach, gs:// for instance.
      galaxies: where the sources come from, as for `find_galaxies`, or a dictionary of a `GalaxySet` for each split.
      n_validation: lenses in the split "validation", whose galaxies are others than those of "train".
      workers: processes of the DirectRunner; other runners have pipeline options for it.
      runner: of Apache Beam. pipeline_options: of Apache Beam, ["--name=value", ...].
      say: is given the lines that tell of the size, the time and the end.
    """
    _check_counts(n, n_validation, seed, workers, batch_size, batches_per_shard)
    out = epath.Path(out)
    counts = {"train": n, "validation": n_validation} if n_validation else {"train": n}
    recipe = Recipe(
        json.loads(json.dumps(dataclasses.asdict(config))),
        seed,
        counts,
        _describe(galaxies),
        batch_size,
        batches_per_shard,
    )
    _check_recipe(out, recipe)
    if not (out / _GALAXIES).exists():
        _write_galaxies(out, {split: _split_of(galaxies, split, seed) for split in counts})
    _write_whole(out / RECIPE, json.dumps(dataclasses.asdict(recipe), indent=2).encode() + b"\n")
    for left_over in out.glob(".*.incomplete"):
        left_over.unlink()

    shards = recipe.shards(out)
    missing = [path for path in shards if not path.exists()]
    if missing or not (out / "dataset_info.json").exists():
        simulator = _Simulator(out)
        if missing:
            n_missing = sum(shards[path][2] for path in missing)
            lens_bytes = _estimate(simulator, recipe, n_missing, len(missing), workers, out, say)
            with _progress(out, missing, shards, lens_bytes):
                _run(missing, workers, runner, pipeline_options)
        _write_metadata(out, recipe, simulator.features)
    size = sum(path.stat().length for path in shards)
    say(f"{out} holds {sum(counts.values())} lenses in {len(shards)} files, {_bytes(size)}.")


def show(where, n=24, split=None):
    """A contact sheet of any prepared set, of lenses or of galaxies: a matplotlib Figure.

    Args:
      where: folder of the set. n: how many examples. split: the first one by default.
    """
    from matplotlib.figure import Figure

    builder = open_set(where)
    split = split or next(iter(builder.info.splits))
    if split not in builder.info.splits:
        raise InputError(f"{where} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    if "image" not in builder.info.features:
        raise InputError(f"{where} has no images; a set of galaxies or of lenses has.")
    examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False).take(n)))
    is_lenses = "source" in builder.info.features
    panels = [panel for example in examples for panel in _panels(example, builder, is_lenses)]
    columns = min(6, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, (image, title, colours) in zip(axes, panels, strict=False):
        ax.imshow(image, origin="lower", cmap=colours, interpolation="nearest")
        ax.set_title(title, fontsize=7)
    total = builder.info.splits[split].num_examples
    figure.suptitle(f"{where}, {split}: {len(examples)} of {total}", fontsize=9)
    return figure


# ------------------------------------------------------------------------------------------------ the shards


class _Simulator:
    """Makes shards of the set whose recipe and galaxies are in a folder."""

    def __init__(self, out):
        # One thread to a process: threads share out sums differently from run to run, and Beam has the processes.
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already; for an estimate that is good enough
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.set_visible_devices([], "GPU")
        self.out = epath.Path(out)
        self.recipe = Recipe(**json.loads((self.out / RECIPE).read_text()))
        with (self.out / _GALAXIES).open("rb") as file, np.load(file) as arrays:
            stamps = {
                split: GalaxyStamps(arrays[f"{split}_images"], arrays[f"{split}_half_light_radius"])
                for split in self.recipe.n
            }
        self.simulate = {split: self._simulation(stamps[split], split) for split in self.recipe.n}

    def _simulation(self, stamps, split):
        seed = tf.constant([self.recipe.seed, SPLIT_SEEDS[split]], tf.int32)
        config, batch_size = self.recipe.config, self.recipe.batch_size

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
        def simulate(index):
            inputs, source = simulate_batch(seed, index, batch_size, stamps, config)
            return inputs | {"source": source}

        return simulate

    def batch(self, split, index):
        """A batch as a dictionary of arrays, each with the lens along its first axis."""
        with tf.device("CPU:0"):
            return {name: value.numpy() for name, value in self.simulate[split](tf.constant(index)).items()}

    @functools.cached_property
    def features(self):
        """Of a batch's examples, as tfds describes them. Masks, even noise and empty sky take no room compressed."""
        outputs = self.simulate["train"].get_concrete_function().structured_outputs
        return tfds.features.FeaturesDict(
            {
                name: tfds.features.Tensor(
                    shape=tuple(spec.shape[1:]),
                    dtype=spec.dtype.as_numpy_dtype,
                    encoding="zlib" if len(spec.shape) > 2 else "none",
                )
                for name, spec in outputs.items()
            }
        )

    def records(self, split, index, n):
        """The first n lenses of a batch as the bytes of tf.train.Examples."""
        batch = self.batch(split, index)
        for i in range(n):
            record = self.features.serialize_example({name: value[i] for name, value in batch.items()})
            # tfds leaves the order of the features within the record to chance.
            yield tf.train.Example.FromString(record).SerializeToString(deterministic=True)

    def write(self, path):
        """Makes one shard, which is there when it is whole and not before."""
        split, first, n = self.recipe.shards(self.out)[path]
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
        with tf.io.TFRecordWriter(os.fspath(partial)) as writer:
            for start in range(0, n, self.recipe.batch_size):
                index = first + start // self.recipe.batch_size
                for record in self.records(split, index, min(self.recipe.batch_size, n - start)):
                    writer.write(record)
        partial.replace(path)


@functools.lru_cache(maxsize=1)
def _simulator(out):
    """One for all shards that a process makes."""
    return _Simulator(out)


def write_shard(path):
    """Makes one shard of the set that `path` lies in; what the workers do."""
    path = epath.Path(path)
    simulator = _simulator(os.fspath(path.parent))
    if tf.config.threading.get_intra_op_parallelism_threads() != 1:
        raise RuntimeError(
            "TensorFlow was in use in this process before, on more than one thread, and the set would not be the same "
            "again; choose a runner whose workers are processes of their own."
        )
    simulator.write(path)


def _run(missing, workers, runner, pipeline_options):
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    settings = {}
    if runner == "DirectRunner":
        # Processes, even if it is one: in our own, TensorFlow may run on many threads already.
        settings = {"direct_num_workers": workers, "direct_running_mode": "multi_processing"}
        settings["default_sdk_harness_log_level"] = "ERROR"
    options = PipelineOptions(list(pipeline_options), **settings)
    try:
        with beam.Pipeline(_local_runner(options) if runner == "DirectRunner" else runner, options) as pipeline:
            # Without a reshuffle Beam would run every shard where the list is made.
            paths = pipeline | beam.Create([os.fspath(path) for path in missing]) | beam.Reshuffle()
            _ = paths | beam.Map(write_shard)
    except Exception as error:
        if runner == "DirectRunner":
            raise
        # A cluster fails for reasons that are the user's to mend, and each runner has errors of its own.
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"Beam's {runner} did not finish ({type(error).__name__}: {reason}); mend that, or the pipeline options, "
            "and give the command again: the shards that are whole stay."
        ) from error


def _local_runner(options):
    """What Beam's DirectRunner comes down to, after trying to download the Prism runner."""
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))


@contextlib.contextmanager
def _progress(out, missing, shards, lens_bytes):
    """A bar that follows the files as they grow, for any runner that writes where we can look."""
    total, over = sum(shards[path][2] for path in missing), threading.Event()

    def lenses():
        done = sum(shards[path][2] for path in missing if path.exists())
        growing = 0
        for path in out.glob(".*.incomplete"):
            with contextlib.suppress(OSError):  # renamed in between
                growing += path.stat().length
        return min(total, done + int(growing / lens_bytes))

    with tqdm(total=total, unit=" lenses", smoothing=0.05) as bar:

        def follow():
            while not over.wait(1.0):
                bar.update(lenses() - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            bar.update(lenses() - bar.n)


def _estimate(simulator, recipe, n_missing, n_files, workers, out, say):
    """Says what is to come, and raises where the disk is too small for it; returns the bytes of a lens."""
    split = next(iter(recipe.n))
    for record in simulator.records(split, 0, 1):  # the first batch is traced
        del record
    start = time.perf_counter()
    records = list(simulator.records(split, 1, recipe.batch_size))
    seconds = (time.perf_counter() - start) / len(records)
    lens_bytes = sum(map(len, records)) / len(records) + 16  # and what a TFRecord puts around each
    size = n_missing * lens_bytes
    config = recipe.config
    say(
        f"To be made: {n_missing} lenses, images of {config.image_pixels} x {config.image_pixels} and sources of "
        f"{config.source_pixels} x {config.source_pixels} pixels, in {n_files} files: about {_bytes(size)}, and about "
        f"{_duration(seconds * n_missing / workers)} with {workers} worker(s) as fast as this process."
    )
    if "://" not in os.fspath(out) and size > (free := shutil.disk_usage(out).free):
        raise InputError(f"{out} has {_bytes(free)} left and the set needs {_bytes(size)}; choose another --out.")
    return lens_bytes


def _write_metadata(out, recipe, features):
    """What makes tfds open the folder, written last."""
    shards = recipe.shards(out)
    template = tfds.core.ShardedFileTemplate(data_dir=out, dataset_name=NAME, filetype_suffix="tfrecord")
    splits = []
    for split in recipe.n:
        lengths = {path: n for path, (of, _, n) in shards.items() if of == split}
        size = sum(path.stat().length for path in lengths)
        splits.append(tfds.core.SplitInfo(split, list(lengths.values()), size, template.replace(split=split)))
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=features,
        split_infos=splits,
        filename_template=template,
        check_data=False,
        description="Simulated strong lenses, by rim_tf.",
        metadata=tfds.core.MetadataDict(dataclasses.asdict(recipe)),
    )


# ----------------------------------------------------------------------------------------------- the sources


def _split_of(galaxies, split, seed):
    found = galaxies[split] if isinstance(galaxies, dict) else find_galaxies(galaxies, split, seed)
    if not len(found):
        raise InputError(f"{galaxies} has no galaxies in the split {split!r}; give more galaxies.")
    return found


def _describe(galaxies):
    """A text that tells sources apart: where they come from or, if they were handed over, a digest."""
    if not isinstance(galaxies, dict):
        return "procedural" if galaxies is None else str(galaxies)
    digest = hashlib.sha256()
    for split in sorted(galaxies):
        digest.update(f"{split} {galaxies[split].ids}".encode())
        digest.update(np.ascontiguousarray(galaxies[split].images))
    return f"sha256 {digest.hexdigest()}"


def _write_galaxies(out, sets):
    arrays = {}
    for split, galaxies in sets.items():
        arrays[f"{split}_images"] = np.asarray(galaxies.images, np.float32)
        arrays[f"{split}_half_light_radius"] = np.asarray(galaxies.half_light_radius, np.float32)
        arrays[f"{split}_ids"] = np.array(galaxies.ids)
    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, **arrays)
        file.seek(0)
        _write_whole(out / _GALAXIES, file.read())


# ----------------------------------------------------------------------------------------- checks and wording


def _check_counts(n, n_validation, seed, workers, batch_size, batches_per_shard):
    given = {"n": n, "workers": workers, "batch_size": batch_size, "batches_per_shard": batches_per_shard}
    for name, value in given.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    if n_validation < 0:
        raise InputError(f"n_validation is {n_validation}; it must not be negative.")
    if not 0 <= seed < 2**31:
        raise InputError(f"The seed is {seed}; it must be from 0 to {2**31 - 1}.")


def _check_recipe(out, recipe):
    """Makes the folder, or refuses one that holds something else than this set or a part of it."""
    if not out.exists():
        out.mkdir(parents=True)
    path, new = out / RECIPE, json.loads(json.dumps(dataclasses.asdict(recipe)))
    if not path.exists():
        others = [p.name for p in out.iterdir() if p.name != _GALAXIES and not p.name.startswith(".")]
        if others:
            raise InputError(f"{out} holds other files ({', '.join(sorted(others)[:3])}); choose an empty --out.")
        (out / _GALAXIES).unlink(missing_ok=True)  # of a run that ended before its recipe was written
        return
    old = json.loads(path.read_text())
    differing = [name for name in new if old.get(name) != new[name]]
    if differing:
        names = ", ".join(f"{name} (there {old.get(name)}, now {new[name]})" for name in differing if name != "mocks")
        if "mocks" in differing:
            changed = [key for key in new["mocks"] if old.get("mocks", {}).get(key) != new["mocks"][key]]
            names = ", ".join(filter(None, [names, *(f"mocks.{key}" for key in changed)]))
        raise InputError(f"{out} holds a set with another {names}; choose another --out, or the options it has.")


def _write_whole(path, content):
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
    partial.write_bytes(content)
    partial.replace(path)


def _panels(example, builder, is_lenses):
    """(image, title, colours) of each picture that an example has."""
    if not is_lenses:
        quality = builder.info.features["quality"].int2str(example["quality"])
        name = example["id"].decode().split(":")[-1]
        flaw = "" if quality == "clean" else f" ({quality})"
        # The outskirts, where the preparation works, are too faint for a linear scale.
        return [(np.arcsinh(30 * example["image"]), f"{name[-24:]}{flaw}", "magma")]
    theta_E = float(example["lens"][0])
    image = np.where(example["mask"], example["image"], np.nan) if "mask" in example else example["image"]
    return [(image, f'image, theta_E {theta_E:.2f}"', "magma"), (example["source"], "source", "viridis")]


def _bytes(size):
    power = min(4, int(math.log10(max(size, 1)) / 3))
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds):
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
