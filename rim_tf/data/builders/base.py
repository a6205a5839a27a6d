"""What the builders of galaxies share: the features, the splits, and how a bad file is dealt with."""

import dataclasses
import itertools
import math
import pathlib
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import tensorflow_datasets as tfds

from rim_tf.data.sources.galaxies import STAMP_SIZE, GalaxySet, split_of
from rim_tf.data.sources.preparation import QUALITIES
from rim_tf.data.workers import shared_out
from rim_tf.errors import InputError, InputWarning

# What the readers of FITS, images and archives raise at a file that is cut short or is something else.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    SyntaxError,
    struct.error,
    zlib.error,
    tarfile.TarError,
)
_MIN_FRAME = 32
_NAMED_IN_WARNING = 20


@dataclasses.dataclass(eq=False)
class GalaxyConfig(tfds.core.BuilderConfig):
    """Settings that all builders of galaxies have."""

    strict: bool = False
    """Raise InputError at the first file that cannot be read, instead of naming and skipping it."""
    keep_flawed: bool = False
    """Keep the galaxies whose `quality` is not "clean"; otherwise they are counted and left out."""
    validation_fraction: float = 0.1
    """Share of the galaxies in the split "validation", the others being "train"; see `split_of`."""
    workers: int = 1
    """Processes that prepare galaxies; the result does not depend on it."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A galaxy that is yet to be read.

    Attributes:
      id: its name in the set, "<set>:<name within it>", unique.
      file: what to call it where it cannot be read.
      read: reads the frame, the argument of `prepare`.
      prepare: frame -> `Stamp` or None; a function of `rim_tf.data.sources.preparation`, so that processes can share
        the work.
      pixel_scale: of the frame that `prepare` starts from [arcsec]; NaN where it is not known.
      band: filter, "" where it is not known.
      features: functions that give the further features of the builder, by name.
      galaxy: the name that decides its split; `id` by default.
    """

    id: str
    file: str
    read: Callable
    prepare: Callable
    pixel_scale: float = math.nan
    band: str = ""
    features: dict[str, Callable] = dataclasses.field(default_factory=dict)
    galaxy: str = ""


class GalaxyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders: one of them says what there is in the manual folder (`candidates`).

    In `info.metadata` of the finished set are `skipped`, a line for each file that could not be read, and
    `left_out`, how many galaxies were left out by what was wrong with them.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION, HOMEPAGE, CITATION = "", "", ""
    FURTHER_FEATURES = {}

    def candidates(self, folder):
        """Every `Candidate` in the folder; `self.skip(file, error)` where something cannot be listed."""
        raise NotImplementedError

    def download_and_prepare(self, **options):
        """As in tfds, and then says what was skipped."""
        is_new = not self.data_path.exists()
        super().download_and_prepare(**options)
        skipped = self.info.metadata["skipped"] if is_new else []
        if skipped:
            more = len(skipped) - _NAMED_IN_WARNING
            named = "; ".join(skipped[:_NAMED_IN_WARNING]) + (f"; and {more} more, in its metadata" if more > 0 else "")
            warnings.warn(
                f"{self.name}: skipped {len(skipped)} file(s) that cannot be read: {named}.", InputWarning, stacklevel=2
            )

    def _info(self):
        features = {
            # Surface brightness, peak 1, 0 on the border; row 0 is the smallest y.
            "image": tfds.features.Tensor(shape=(STAMP_SIZE, STAMP_SIZE), dtype=np.float32, encoding="zlib"),
            "pixel_scale": tfds.features.Scalar(np.float32, doc="Of the image [arcsec]; NaN where unknown."),
            "half_light_radius": tfds.features.Scalar(np.float32, doc="[pixels of the image]"),
            "id": tfds.features.Text(doc="<set>:<name within it>"),
            "band": tfds.features.Text(doc="Filter; empty where unknown."),
            "quality": tfds.features.ClassLabel(names=list(QUALITIES)),
        }
        settings = {
            field.name: getattr(self.builder_config, field.name)
            for field in dataclasses.fields(self.builder_config)
            if field.name not in {"version", "release_notes", "supported_versions", "tags", "workers"}
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(features | self.FURTHER_FEATURES),
            metadata=tfds.core.MetadataDict(settings=settings, skipped=[], left_out={}),
        )

    def _split_generators(self, dl_manager):
        try:
            folder = pathlib.Path(dl_manager.manual_dir)
        except AssertionError as error:  # tfds says so of a folder that is empty or not there
            raise InputError(" ".join(str(error).split())) from None
        parts = {"train": [], "validation": []}
        for candidate in self.candidates(folder):
            name = split_of(candidate.galaxy or candidate.id, self.builder_config.validation_fraction)
            parts[name].append(candidate)
        # tfds refuses an empty split, and whether one is empty shows only when its first galaxy is prepared.
        generators = {}
        for name, part in parts.items():
            examples = self._generate_examples(part)
            first = next(examples, None)
            if first is not None:
                generators[name] = itertools.chain([first], examples)
        if not generators:
            raise InputError(f"{folder} yields no galaxy for {self.name}: {self._losses() or 'it holds none'}.")
        return generators

    def _generate_examples(self, candidates):
        for candidate, stamp in self._prepared(candidates):
            quality = "empty" if stamp is None else stamp.quality
            if quality != "clean" and not (stamp and self.builder_config.keep_flawed):
                left_out = self.info.metadata["left_out"]
                left_out[quality] = left_out.get(quality, 0) + 1
                continue
            try:
                further = {name: read() for name, read in candidate.features.items()}
            except UNREADABLE as error:
                self.skip(candidate.file, error)
                continue
            yield (
                candidate.id,
                {
                    "image": stamp.image,
                    "pixel_scale": np.float32(candidate.pixel_scale * stamp.frame_pixels),
                    "half_light_radius": np.float32(stamp.half_light_radius),
                    "id": candidate.id,
                    "band": candidate.band,
                    "quality": stamp.quality,
                    **further,
                },
            )

    def _prepared(self, candidates):
        """(candidate, its `Stamp` or None) of those that can be read, in order."""
        tasks = ((c, c.prepare, frame) for c in candidates if (frame := self._frame(c)) is not None)
        workers = self.builder_config.workers
        return shared_out(tasks, 0 if workers == 1 else workers)

    def _frame(self, candidate):
        """The frame of a candidate, or None where it cannot be read or holds no image."""
        try:
            frame = candidate.read()
            if frame.ndim not in (2, 3) or min(frame.shape[:2]) < _MIN_FRAME:
                size = " x ".join(map(str, frame.shape))
                raise ValueError(f"is {size} pixels; a galaxy needs at least {_MIN_FRAME} on a side")
            if not np.all(np.isfinite(frame)):
                raise ValueError("has pixels that are NaN or infinite")
        except UNREADABLE as error:
            self.skip(candidate.file, error)
            return None
        return frame

    def skip(self, file, error):
        """Notes that a file cannot be read; where the settings are strict, raises."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if self.builder_config.strict:
            raise InputError(f"{file} cannot be read ({reason}); mend or remove it, or leave out strict=True.")
        self.info.metadata["skipped"].append(f"{file} ({reason})")

    def _losses(self):
        """What became of all galaxies where none is left, in words."""
        skipped, left_out = self.info.metadata["skipped"], self.info.metadata["left_out"]
        words = [f"{len(skipped)} file(s) cannot be read, the first being {skipped[0]}"] if skipped else []
        words += [f"{sum(left_out.values())} frames are no good ({left_out})"] if left_out else []
        return " and ".join(words)


def read_galaxies(builder, split):
    """A split of a prepared set of galaxies, as the `GalaxySet` that `rim_tf.data.mocks` lenses.

    Args:
      builder: of a set prepared by one of the builders here.
      split: "train", "validation", or any that tfds knows.
    """
    check_split(builder, split)
    examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
    return GalaxySet(
        np.stack([example["image"] for example in examples]),
        tuple(example["id"].decode() for example in examples),
        np.array([example["half_light_radius"] for example in examples]),
    )


def check_split(builder, split):
    """How many galaxies a split of a prepared set has; InputError where it has none, or no galaxies at all."""
    if "half_light_radius" not in (builder.info.features or {}):
        raise InputError(f"{builder.data_dir} is no set of galaxies; build one with rim_tf.data.builders.")
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        raise InputError(f"{builder.data_dir} has no galaxies in the split {split!r}; it has {there}.")
    return builder.info.splits[split].num_examples


def read_picture(file):
    """Red, green and blue over the largest value of the file's type, [rows, columns, 3] float32, row 0 its top.

    Args:
      file: path, or a file open for reading, of a JPEG or PNG.
    """
    from PIL import Image

    with Image.open(file) as picture:
        if picture.mode.startswith("I"):  # 16 bits of grey, which PIL would cut to 8 on the way to RGB
            grey = np.asarray(picture, np.float32) / 65535
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(picture.convert("RGB"), np.float32) / 255
