"""Galaxy Zoo 2 as a tfds builder: SDSS galaxies, as JPEG pictures."""

import csv
import dataclasses
import functools
import re
import tarfile

import numpy as np

from rim_tf.data.builders.base import Candidate, GalaxyBuilder, GalaxyConfig, read_picture
from rim_tf.data.sources.preparation import prepare_galaxy_zoo
from rim_tf.errors import InputError

_SIDE = 424
# Two samples number their galaxies from 1, so a number needs its sample's name to be a name.
_PREFIXED = re.compile(r"(gz2_asset|kaggle_gz)_(.+)")


@dataclasses.dataclass(eq=False)
class GalaxyZooConfig(GalaxyConfig):
    sample: str = "gz2_asset"
    """Whose numbers the files are named by: "gz2_asset" (images_gz2.zip) or "kaggle_gz" (the Kaggle challenge)."""


class GalaxyZoo(GalaxyBuilder):
    """Builder `galaxy_zoo`; its configs are `gz2` (the default) and `kaggle`."""

    DESCRIPTION = "Galaxy Zoo 2: SDSS gri pictures made into sources for lensing; morphology, not photometry."
    HOMEPAGE = "https://data.galaxyzoo.org"
    CITATION = "Willett et al. (2013), MNRAS 435, 2835, arXiv:1308.3496"
    BUILDER_CONFIGS = [
        GalaxyZooConfig(name="gz2", description="The original sample, about 240 000 galaxies.", sample="gz2_asset"),
        GalaxyZooConfig(name="kaggle", description="The 61 578 training images of 2013.", sample="kaggle_gz"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Config gz2: from https://zenodo.org/records/3565489 fetch images_gz2.zip and unzip it into the folder.
Pixel scales are known if these lie there too (otherwise they are NaN): gz2_filename_mapping.csv, from the same
page, and gz2sample.csv, from https://data.galaxyzoo.org ("Galaxy Zoo 2", metadata; unpacked).

Config kaggle: from https://www.kaggle.com/c/galaxy-zoo-the-galaxy-challenge/data (a Kaggle account is needed) fetch
images_training_rev1.zip and unzip it into the folder.

The JPEG files, 424 x 424 pixels each, may lie in subfolders, or in uncompressed or compressed tar archives.
"""

    def candidates(self, folder):
        scales = _pixel_scales(folder)
        found = False
        for path in sorted(folder.glob("**/*")):
            if path.suffix.lower() in {".jpg", ".jpeg"} and not path.name.startswith("."):
                found = True
                read = functools.partial(_read_frame, functools.partial(open, path, "rb"))
                yield self._candidate(path.stem, str(path), read, scales)
            elif path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
                found = True
                yield from self._in_archive(path, scales)
        if not found:
            raise InputError(f"{folder} holds no .jpg file and no .tar archive. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")

    def _in_archive(self, path, scales):
        try:
            archive = tarfile.open(path)
        except (OSError, tarfile.TarError) as error:
            self.skip(str(path), error)
            return
        while True:
            try:
                member = archive.next()
            except (OSError, EOFError, tarfile.TarError) as error:
                self.skip(f"{path} from byte {archive.offset} on", error)
                return
            if member is None:
                # A header that is cut short or broken ends the archive too; only zeros end it as they should.
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(512) != bytes(512):
                    self.skip(f"{path} from byte {archive.offset} on", ValueError("the archive is cut short or broken"))
                return
            stem, _, suffix = member.name.rpartition("/")[2].rpartition(".")
            if member.isfile() and suffix.lower() in {"jpg", "jpeg"} and not stem.startswith("."):
                read = functools.partial(_read_frame, functools.partial(archive.extractfile, member))
                yield self._candidate(stem, f"{path}:{member.name}", read, scales)

    def _candidate(self, stem, file, read, scales):
        sample, number = match.groups() if (match := _PREFIXED.fullmatch(stem)) else (self.builder_config.sample, stem)
        scale = scales.get(number, np.nan) if sample == "gz2_asset" else np.nan
        return Candidate(f"galaxy_zoo:{sample}:{number}", file, read, prepare_galaxy_zoo, scale, "SDSS gri")


def _read_frame(opening):
    with opening() as file:
        rgb = read_picture(file)
    if rgb.shape != (_SIDE, _SIDE, 3):
        raise ValueError(f"is {rgb.shape[0]} x {rgb.shape[1]} pixels; Galaxy Zoo frames are {_SIDE} x {_SIDE}")
    return rgb


def _pixel_scales(folder):
    """Asset -> pixel of the frame that `prepare_galaxy_zoo` averages [arcsec]; empty without the two tables."""
    tables = [sorted(folder.glob(f"**/{name}")) for name in ("gz2_filename_mapping.csv", "gz2sample.csv")]
    if not all(tables):
        return {}
    mapping, sample = (_columns(found[0], names) for found, names in zip(tables, _TABLES, strict=True))
    # A JPEG pixel is 0.02 Petrosian R90, and two are averaged.
    scale_of_object = {objid: 0.04 * float(radius) for objid, radius in sample if radius}
    return {asset: scale_of_object[objid] for objid, asset in mapping if objid in scale_of_object}


_TABLES = ("objid", "asset_id"), ("objid", "petror90_r")


def _columns(path, names):
    """The columns that have these names, in whatever case, as a list of tuples of text."""
    with open(path, newline="") as file:
        rows = csv.reader(file)
        header = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in names if name not in header]:
            raise InputError(f"{path} has no column {', '.join(missing)}; fetch it again, or remove it.")
        indices = [header.index(name) for name in names]
        return [tuple(row[i].strip() for i in indices) for row in rows if len(row) == len(header)]
