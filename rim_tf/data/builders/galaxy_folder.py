"""A folder of one's own galaxies, FITS, JPEG or PNG, as a tfds builder."""

import dataclasses
import functools
import math

import numpy as np
from astropy.io import fits

from rim_tf.data.builders.base import UNREADABLE, Candidate, GalaxyBuilder, GalaxyConfig, read_picture
from rim_tf.data.sources.preparation import prepare_cosmos, prepare_frame, unstretched
from rim_tf.errors import InputError
from rim_tf.io import is_cut_short, open_fits, pixel_scale_of

_FITS, _PICTURES = (".fits", ".fit", ".fits.gz", ".fits.fz"), (".jpg", ".jpeg", ".png")
# Extensions beside a galaxy's image that describe it and are none themselves.
_NO_GALAXY = {"ERR", "WHT", "CTX", "DQ", "NOISE", "RMS", "VAR", "WEIGHT", "MASK", "PSF", "MODEL", "RESIDUAL"}


@dataclasses.dataclass(eq=False)
class GalaxyFolderConfig(GalaxyConfig):
    prefix: str = "folder"
    """First part of the ids. Galaxies keep their splits as long as prefix and file names stay the same."""
    stretch: str = "linear"
    """Of JPEG and PNG pictures: "linear", or "sdss" for asinh as in Galaxy Zoo. FITS is linear."""
    pixel_scale: float = math.nan
    """[arcsec], where a file does not say."""
    band: str = ""
    """Filter, where a file does not say."""


class GalaxyFolder(GalaxyBuilder):
    """Builder `galaxy_folder`. Sets from two folders need configs of two names, or two data folders."""

    DESCRIPTION = "Galaxies from a folder of FITS, JPEG or PNG files, made into sources for lensing."
    HOMEPAGE = "https://arxiv.org/abs/1901.01359"
    BUILDER_CONFIGS = [GalaxyFolderConfig(name="folder", description="As the files are.")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Nothing is downloaded: give the folder of your galaxies as --manual_dir. Each JPEG, PNG or two-dimensional FITS image
(every image extension, but for those named as errors, weights, masks or PSFs) is a galaxy, in the middle third of its
frame and with sky around it, at least 32 pixels on a side; subfolders are looked into. FITS headers may give OBJID,
FILTER, and the pixel scale as WCS or PIXSCALE [arcsec]. Files that differ only in what follows the first dot are one
galaxy, seen in several bands, say, and share a split.
"""

    def candidates(self, folder):
        if self.builder_config.stretch not in ("linear", "sdss"):
            raise InputError(f'The stretch is {self.builder_config.stretch!r}; it must be "linear" or "sdss".')
        found = False
        for path in sorted(folder.glob("**/*")):
            name = str(path.relative_to(folder))
            if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
                continue
            if name.lower().endswith(_PICTURES):
                found = True
                yield self._candidate(name, "", path, functools.partial(self._read_picture, path), prepare_frame)
            elif name.lower().endswith(_FITS):
                found = True
                yield from self._in_fits(path, name)
        if not found:
            raise InputError(
                f"{folder} holds no {', '.join(_FITS + _PICTURES)} file. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )

    def _in_fits(self, path, name):
        try:
            with open_fits(path) as hdus:
                images = [
                    (i, hdu.header)
                    for i, hdu in enumerate(hdus)
                    if isinstance(hdu, (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU))
                    and hdu.header.get("NAXIS") == 2
                    and hdu.name.upper() not in _NO_GALAXY
                ]
                n_hdus, primary = len(hdus), hdus[0].header
                # Of compressed files the bytes are others than astropy's.
                cut_short = not name.lower().endswith("z") and is_cut_short(hdus, path)
        except UNREADABLE as error:
            self.skip(str(path), error)
            return
        if cut_short:
            self.skip(f"{path} after HDU {n_hdus - 1}", ValueError("what follows is cut short"))
        elif not images:
            self.skip(str(path), ValueError("holds no two-dimensional image"))
        for i, header in images:
            label = str(header.get("OBJID") or (header.get("EXTNAME") if len(images) > 1 else "") or "")
            label = label or (f"hdu{i}" if len(images) > 1 else "")
            read = functools.partial(_read_fits, path, i)
            given = self.builder_config.pixel_scale
            try:
                scale = pixel_scale_of(header, primary, f"{path}[{i}]", None if math.isnan(given) else given)
            except InputError as error:
                self.skip(f"{path}[{i}]", error)
                continue
            yield self._candidate(name, label, path, read, prepare_cosmos, header, i, scale)

    def _candidate(self, name, label, path, read, prepare, header=None, hdu=None, pixel_scale=None):
        settings, header = self.builder_config, header or {}
        galaxy = label or name.split("/")[-1].split(".")[0]
        return Candidate(
            f"{settings.prefix}:{name}[{label}]" if label else f"{settings.prefix}:{name}",
            str(path) if hdu is None else f"{path}[{hdu}]",
            read,
            prepare,
            settings.pixel_scale if pixel_scale is None else pixel_scale,
            str(header.get("FILTER") or header.get("BAND") or settings.band),
            galaxy=f"{settings.prefix}:{galaxy}",
        )

    def _read_picture(self, path):
        grey = np.mean(read_picture(path), axis=2)[::-1]  # row 0 of a picture is its top
        return unstretched(grey) if self.builder_config.stretch == "sdss" else grey


def _read_fits(path, index):
    with open_fits(path) as hdus:
        return np.asarray(hdus[index].data, np.float32)
