"""Prepared tfds sets, of galaxies and of simulated lenses: found, opened, and named where they are damaged."""

import contextlib
import pathlib
import tempfile

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from rim_tf.data import builders
from rim_tf.errors import InputError
from rim_tf.files import read_json

# Beside the shards of a set that `building.build` made: all that they follow from.
RECIPE = "recipe.json"
# What TFRecord puts around the bytes of each record.
_RECORD_FRAME = 16
# What reading records raises that were cut short, overwritten, or are not what the features say.
_UNREADABLE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError)


def read_galaxies(where, split):
    """The `GalaxySet` of one split of a prepared set, or of a folder of FITS, JPEG or PNG files of galaxies.

    Args:
      where: as for `galaxy_builder`.
      split: "train" or "validation".
    """
    builder = galaxy_builder(where)
    if builder is not None:
        builders.check_split(builder, split)
        check_shards(builder, split)
        with damage_is_named(builder, split):
            return builders.read_galaxies(builder, split)
    with tempfile.TemporaryDirectory() as data_dir:
        builder = builders.GalaxyFolder(data_dir=data_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=pathlib.Path(where)))
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
    """The tfds builder of the prepared set in a folder, or in the one folder below it that has one.

    Raises:
      InputError: there is no such set, more than one, or the files that describe it are damaged.
    """
    found = _prepared_within(where)
    if len(found) != 1:
        what = f"{len(found)} prepared sets ({', '.join(map(str, found))})" if found else "no prepared set"
        advice = "name one of them" if found else "name the folder of one"
        if (pathlib.Path(where) / RECIPE).is_file():
            advice = "it is incomplete, so build it again with the same options, which makes what is missing"
        raise InputError(f"{where} holds {what}; {advice}.")
    (folder,) = found
    for name in ("dataset_info.json", "features.json", "metadata.json"):
        path = folder / name
        if name == "metadata.json" and not path.exists():  # sets without further information have none
            continue
        try:
            if not isinstance(read_json(path), dict):
                raise InputError(f"{path} holds no JSON object.")
        except InputError as error:
            raise InputError(f"{error} {_remedy(folder, path)}") from None
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever tfds makes of files that are JSON, but not its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{folder} cannot be opened as a prepared set: dataset_info.json or features.json is not what tfds wrote "
            f"({reason}). {_remedy(folder, folder / 'dataset_info.json')}"
        ) from error


def _prepared_within(where):
    """Folders of prepared sets: this one, or all that are below it."""
    where = pathlib.Path(where)
    if not where.is_dir():
        raise InputError(f"{where} is no folder; name the folder of a prepared set.")
    if (where / "dataset_info.json").is_file():
        return [where]
    return sorted(path.parent for path in where.glob("**/dataset_info.json"))


def check_shards(builder, split):
    """InputError where a file of a split is missing, or all together have another size than they were written with."""
    info = builder.info.splits[split]
    paths = [epath.Path(path) for path in info.filepaths]
    sizes = [path.stat().length if path.exists() else -1 for path in paths]
    # tfds notes the bytes of the records or, where it does not know, 0; `building` notes those of the files.
    noted = (info.num_bytes, info.num_bytes + _RECORD_FRAME * info.num_examples)
    if min(sizes, default=0) < 0 or (info.num_bytes and sum(sizes) not in noted):
        _raise_damage(builder, split, f"its files hold {sum(sizes)} bytes and not {noted[0]}")


@contextlib.contextmanager
def damage_is_named(builder, split):
    """What TensorFlow says of records that cannot be read, as an InputError with the name of their file."""
    try:
        yield
    except _UNREADABLE as error:
        said = " ".join(str(error.message).split())
        _raise_damage(builder, split, said[:200], sure="Iterator::" in said or "parse" in said)
        raise  # of something else, as a training step can be


def _raise_damage(builder, split, reason, sure=True):
    """InputError that names the damaged file; where no file is, and it is `sure` that something is, the description."""
    info = builder.info.splits[split]
    for path, wanted in zip(map(epath.Path, info.filepaths), info.shard_lengths, strict=True):
        if what := _damage(path, wanted):
            raise InputError(f"{path} {what}. {_remedy(path.parent, path)}")
    folder = epath.Path(builder.data_path)
    if sure:
        raise InputError(
            f"{folder} cannot be read as its dataset_info.json and features.json say ({reason}). "
            f"{_remedy(folder, folder / 'dataset_info.json')}"
        )


def _damage(path, wanted):
    """What is wrong with a file of `wanted` records, in words; None where nothing is."""
    if not path.exists():
        return "is missing"
    found = 0
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            found += 1
    except tf.errors.OpError:
        return f"is damaged after {found} of {wanted} records"
    return f"holds {found} records and not {wanted}" if found != wanted else None


def _remedy(folder, path):
    if (folder / RECIPE).exists():
        return f"Remove {path.name} and dataset_info.json and build the set again, which makes what is missing."
    return "Prepare the set again."
