"""Sets of simulated lenses on disk, as TensorFlow Datasets, made by processes of this machine or by Apache Beam.

A set is cut into shards, a shard into batches, and a batch is what `streaming.simulate_batch` makes of (seed, index):
no shard depends on another, on how many workers there are or on what was done before. A shard takes its name when it is
whole, so that whatever is there after an interruption need not be made again. `recipe.json` beside the shards holds all
that they follow from, and `galaxies.npz` the sources.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
import uuid

import humanize
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from rim_tf import __version__, files, heavy
from rim_tf.config import MockConfig
from rim_tf.data import seeds
from rim_tf.data.extras import imported
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.sets.opening import RECIPE
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.streaming import Simulator
from rim_tf.data.workers import shared_out
from rim_tf.errors import InputError
from rim_tf.validation import Count, Seed, check, from_json, to_json

NAME = "lenses"
BATCH_SIZE = 16
BATCHES_PER_SHARD = 16
_GALAXIES = "galaxies.npz"
# Files that a folder can hold and a list of their names can be made of.
_LARGEST_NUMBER_OF_SHARDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that the bytes of a set follow from, but for the kind of processor."""

    mocks: MockConfig
    seed: Seed
    n: dict[str, Count]
    """Lenses by split."""
    galaxies: str
    batch_size: Count = BATCH_SIZE
    batches_per_shard: Count = BATCHES_PER_SHARD
    rim_tf: str = __version__
    tensorflow: str = tf.__version__

    def __post_init__(self):
        check(self)
        size = self.batch_size * self.batches_per_shard
        if sum(self.n.values()) > _LARGEST_NUMBER_OF_SHARDS * size:
            raise InputError(
                f"{sum(self.n.values())} lenses are more than {_LARGEST_NUMBER_OF_SHARDS} files of {size} hold; build "
                "several sets."
            )

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
    runner=None,
    pipeline_options=(),
    batch_size=BATCH_SIZE,
    batches_per_shard=BATCHES_PER_SHARD,
    say=print,
):
    """Make a set of lenses, or what is missing of one; `opening.open_set(out)` opens it.

    The bytes do not depend on `workers`, `runner`, `pipeline_options` or interruptions. They can depend on the kind
    of processor, whose vector units decide the order of sums.

    Args:
      config: `MockConfig`.
      n: lenses in the split "train".
      seed: of everything that is drawn.
      out: folder; for a runner, one that all workers reach, gs:// for instance.
      galaxies: where the sources come from, as for `find_galaxies`, or a dictionary of a `GalaxySet` for each split.
      n_validation: lenses in the split "validation", whose galaxies are others than those of "train".
      workers: processes of this machine; a runner has pipeline options for it.
      runner: name of a runner of Apache Beam, in place of processes of this machine.
      pipeline_options: of Apache Beam, ["--name=value", ...].
      batch_size: lenses that are drawn together.
      batches_per_shard: batches in one file.
      say: is given the lines that tell of the size, the time and the end.

    Raises:
      InputError: settings or numbers that cannot be, too small a disk, a folder of something else, no galaxies.
    """
    _check_counts(n, n_validation, workers)
    if pipeline_options and runner is None:
        raise InputError(f"{', '.join(pipeline_options)} is for a runner of Apache Beam; name one, with --runner.")
    counts = {"train": n, "validation": n_validation} if n_validation else {"train": n}
    recipe = Recipe(config, seeds.check_seed(seed), counts, _describe(galaxies), batch_size, batches_per_shard)
    out = _reached(out)
    _check_folder(out, recipe)
    shards = recipe.shards(out)
    missing = [path for path in shards if not path.exists()]
    if missing or not (out / "dataset_info.json").exists():
        arrays = _read_galaxies(out) if (out / _GALAXIES).exists() else _arrays(galaxies, recipe)
        simulation = _Simulation(recipe, arrays)
        if missing:
            _estimate(simulation, sum(shards[path][2] for path in missing), len(missing), workers, out, say)
        # Written only now: settings that are refused leave nothing behind which would refuse the mended ones.
        with _begun(out, recipe, arrays):
            if runner is not None:
                _run_pipeline(missing, runner, pipeline_options)
            elif missing:
                _run_here(simulation, missing, shards, workers)
            _write_metadata(out, recipe, simulation.features)
    size = sum(path.stat().length for path in shards)
    say(f"{out} holds {sum(counts.values())} lenses in {len(shards)} files, {humanize.naturalsize(size)}.")


# ------------------------------------------------------------------------------------------------ the shards


class _Simulation:
    """Makes the shards of a set.

    Args:
      recipe: `Recipe`.
      arrays: the sources, as `_arrays` returns them.
    """

    def __init__(self, recipe, arrays):
        self.recipe = recipe
        # One thread to a process, of which there can be several: threads share out sums differently from run to run.
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.set_visible_devices([], "GPU")
        with tf.device("CPU:0"):
            self._simulators = {
                split: Simulator(
                    seeds.seed_pair(_stream(split), recipe.seed),
                    recipe.batch_size,
                    GalaxyStamps(arrays[f"{split}_images"], arrays[f"{split}_half_light_radius"]),
                    recipe.mocks,
                )
                for split in recipe.n
            }

    @property
    def on_one_thread(self):
        """Whether TensorFlow runs on one thread in this process, so that the bytes are those of any other."""
        return tf.config.threading.get_intra_op_parallelism_threads() == 1

    @functools.cached_property
    def features(self):
        """Of a lens, as tfds describes them. Masks, even noise and empty sky take no room compressed."""
        inputs, source = self._simulators["train"].specification
        return tfds.features.FeaturesDict(
            {
                name: tfds.features.Tensor(
                    shape=tuple(spec.shape[1:]),
                    dtype=spec.dtype.as_numpy_dtype,
                    encoding="zlib" if len(spec.shape) > 2 else "none",
                )
                for name, spec in (inputs | {"source": source}).items()
            }
        )

    def records(self, split, index, n):
        """The first n lenses of a batch as the bytes of tf.train.Examples."""
        with tf.device("CPU:0"):
            inputs, source = self._simulators[split](index)
        batch = {name: value.numpy() for name, value in (inputs | {"source": source}).items()}
        for i in range(n):
            record = self.features.serialize_example({name: value[i] for name, value in batch.items()})
            # tfds leaves the order of the features within the record to chance.
            yield tf.train.Example.FromString(record).SerializeToString(deterministic=True)

    def write(self, path):
        """Makes one shard, which takes its name when it is whole."""
        split, first, n = self.recipe.shards(path.parent)[path]
        size = self.recipe.batch_size
        starts = range(0, n, size)
        records = [
            record for start in starts for record in self.records(split, first + start // size, min(size, n - start))
        ]
        with _written_whole(path) as unfinished, _disk_errors(path):
            with tf.io.TFRecordWriter(os.fspath(unfinished)) as writer:
                for record in records:
                    writer.write(record)


@contextlib.contextmanager
def _disk_errors(path):
    """What TensorFlow says of a disk that is full or forbidden, as an InputError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise InputError(
            f"{path} cannot be written ({error.message}); make room, and give the command again: the shards that are "
            "whole stay."
        ) from None


def _run_here(simulation, missing, shards, workers):
    """Make the missing shards in processes of this machine, or in this one where it is as good as another."""
    in_this = workers == 1 and simulation.on_one_thread
    work = simulation.write if in_this else write_shard
    with tqdm(total=sum(shards[path][2] for path in missing), unit=" lenses", smoothing=0.05) as bar:
        tasks = ((path, work, path) for path in missing)
        for path, _ in shared_out(tasks, 0 if in_this else min(workers, len(missing)), heavy.import_quietly):
            bar.update(shards[path][2])


def write_shard(path):
    """Makes one shard of the set that `path` lies in; what the workers do."""
    path = epath.Path(path)
    simulation = _simulation_in(os.fspath(path.parent))
    if not simulation.on_one_thread:
        raise RuntimeError(
            "TensorFlow was in use in this process before, on more than one thread, and the set would not be the same "
            "again; choose a runner whose workers are processes of their own."
        )
    simulation.write(path)


@functools.lru_cache(maxsize=1)
def _simulation_in(out):
    """Of the set in a folder; one for all shards that a process makes."""
    out = epath.Path(out)
    return _Simulation(from_json(Recipe, _read_json(out / RECIPE), out / RECIPE), _read_galaxies(out))


def _run_pipeline(missing, runner, pipeline_options):
    """Make the missing shards by a runner of Apache Beam."""
    beam = imported("apache_beam", "beam", "A runner of Apache Beam")
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        with beam.Pipeline(runner, PipelineOptions(list(pipeline_options))) as pipeline:
            # Without a reshuffle Beam would run every shard where the list is made.
            paths = pipeline | beam.Create([os.fspath(path) for path in missing]) | beam.Reshuffle()
            _ = paths | beam.Map(write_shard)
    except Exception as error:
        # A cluster fails for reasons that are the user's to mend, and each runner has errors of its own.
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"Beam's {runner} did not finish ({type(error).__name__}: {reason}); mend that, or the pipeline options, "
            "and give the command again: the shards that are whole stay."
        ) from error


def _estimate(simulation, n_missing, n_files, workers, out, say):
    """Says what is to come, and raises where the disk is too small for it or no lens is accepted."""
    recipe = simulation.recipe
    for split in recipe.n:  # the first batch is traced, and would be refused
        for record in simulation.records(split, 0, 1):
            del record
    start = time.perf_counter()
    records = list(simulation.records(split, 1, recipe.batch_size))
    seconds = (time.perf_counter() - start) / len(records) * n_missing / workers
    size = n_missing * (sum(map(len, records)) / len(records) + 16)  # and what a TFRecord puts around each
    config = recipe.mocks
    say(
        f"To be made: {n_missing} lenses, images of {config.image_pixels} x {config.image_pixels} and sources of "
        f"{config.source_pixels} x {config.source_pixels} pixels, in {n_files} files: about "
        f"{humanize.naturalsize(size)}, and about {humanize.naturaldelta(seconds)} with {workers} worker(s) as fast as "
        "this process."
    )
    if not _is_remote(out) and size > (free := shutil.disk_usage(_existing(out)).free):
        raise InputError(
            f"{out} has {humanize.naturalsize(free)} left and the set needs {humanize.naturalsize(size)}; choose "
            "another --out, or fewer lenses."
        )


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


def _stream(split):
    """The random stream of a split: no two splits share a number."""
    return f"set: {split}"


def _arrays(galaxies, recipe):
    """The sources of each split as {name: array}, what galaxies.npz holds."""
    arrays = {}
    for split in recipe.n:
        if isinstance(galaxies, dict):
            found = galaxies[split]
        else:
            found = find_galaxies(galaxies, split, _stream(split), recipe.seed)
        if not len(found):
            raise InputError(f"There are no galaxies in the split {split!r}; give more galaxies.")
        arrays[f"{split}_images"] = np.asarray(found.images, np.float32)
        arrays[f"{split}_half_light_radius"] = np.asarray(found.half_light_radius, np.float32)
        arrays[f"{split}_ids"] = np.array(found.ids)
    return arrays


def _read_galaxies(out):
    try:
        with (out / _GALAXIES).open("rb") as file:
            return files.load_arrays(file)
    except files.DAMAGED as error:
        raise InputError(f"{out / _GALAXIES} is damaged ({error}); remove {out}, and build the set anew.") from None


def _describe(galaxies):
    """A text that tells sources apart: where they come from or, if they were handed over, a digest."""
    if not isinstance(galaxies, dict):
        return "procedural" if galaxies is None else str(galaxies)
    digest = hashlib.sha256()
    for split in sorted(galaxies):
        digest.update(f"{split} {galaxies[split].ids}".encode())
        digest.update(np.ascontiguousarray(galaxies[split].images))
    return f"sha256 {digest.hexdigest()}"


# ------------------------------------------------------------------------------------------------ the folder


def _check_counts(n, n_validation, workers):
    for name, value, least in (("n", n, 1), ("n_validation", n_validation, 0), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}.")


def _reached(out):
    """The folder as a path, where TensorFlow's file systems reach it."""
    try:
        path = epath.Path(out)
        path.exists()
        return path
    except Exception as error:  # each file system has errors of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{out} cannot be reached ({reason}); choose another --out.") from None


def _check_folder(out, recipe):
    """InputError where a folder holds something else than this set or a part of it."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    path = out / RECIPE
    if not path.exists():
        others = sorted(p.name for p in out.iterdir() if p.name != _GALAXIES and not p.name.startswith("."))
        if others:
            raise InputError(f"{out} holds other files ({', '.join(others[:3])}); choose an empty --out.")
        (out / _GALAXIES).unlink(missing_ok=True)  # of a run that ended before its recipe was written
        return
    there, now = (json.loads(to_json(each)) for each in (from_json(Recipe, _read_json(path), path), recipe))
    names = [
        f"{name} (there {there[name]}, now {now[name]})" for name in now if name != "mocks" and there[name] != now[name]
    ]
    names += [f"mocks.{name}" for name in now["mocks"] if there["mocks"][name] != now["mocks"][name]]
    if names:
        raise InputError(
            f"{out} holds a set with another {', '.join(names)}; choose another --out, or the options it has."
        )


@contextlib.contextmanager
def _begun(out, recipe, arrays):
    """A set whose shards can be made: what they follow from is written, what killed runs have left removed, and other
    runs are kept from the folder where the disk knows locks."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror or error}.") from None
    with contextlib.nullcontext() if _is_remote(out) else files.locked(out):
        _check_folder(out, recipe)  # of a run that was there first
        if not (out / _GALAXIES).exists():
            with _written_whole(out / _GALAXIES) as unfinished, unfinished.open("wb") as file:
                np.savez_compressed(file, **arrays)
        with _written_whole(out / RECIPE) as unfinished:
            unfinished.write_text(to_json(recipe))
        if not _is_remote(out):
            files.sweep(out)
        yield


def _read_json(path):
    return json.loads(path.read_text()) if _is_remote(path) else files.read_json(path)


@contextlib.contextmanager
def _written_whole(path):
    """`files.written_whole`, and the same where only TensorFlow's file systems reach."""
    if not _is_remote(path):
        with files.written_whole(path) as unfinished:
            yield epath.Path(unfinished)
        return
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_remote(path):
    return "://" in os.fspath(path)


def _existing(path):
    """The folder itself or, before it is made, the nearest one that there is above it."""
    path = pathlib.Path(path).absolute()
    return next(each for each in (path, *path.parents) if each.exists())
