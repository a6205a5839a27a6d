"""GREAT3's galaxies as a tfds builder: COSMOS postage stamps with their PSFs, in GalSim's RealGalaxy format."""

import dataclasses
import functools

import numpy as np
import tensorflow_datasets as tfds

from rim_tf.data.builders.base import Candidate, GalaxyBuilder, GalaxyConfig
from rim_tf.data.sources.preparation import prepare_cosmos
from rim_tf.errors import InputError
from rim_tf.io import hdus_of, open_fits

_COLUMNS = ("IDENT", "MAG", "BAND", "GAL_FILENAME", "PSF_FILENAME", "GAL_HDU", "PSF_HDU", "PIXEL_SCALE")


@dataclasses.dataclass(eq=False)
class Great3Config(GalaxyConfig):
    catalogue: str = "real_galaxy_catalog_23.5.fits"
    """Name of the catalogue; the files it refers to lie beside it."""


class Great3(GalaxyBuilder):
    """Builder `great3`; its configs are `cosmos_23_5` (the default, which GREAT3 used) and `cosmos_25_2`."""

    DESCRIPTION = "Galaxies of COSMOS, HST/ACS F814W, as GREAT3 had them, made into sources for lensing."
    HOMEPAGE = "https://zenodo.org/records/3242143"
    CITATION = "Mandelbaum et al. (2014), ApJS 212, 5, arXiv:1308.4982"
    BUILDER_CONFIGS = [
        Great3Config(name="cosmos_23_5", description="56 000 galaxies to I = 23.5, as GREAT3 used."),
        Great3Config(
            name="cosmos_25_2",
            description="87 000 galaxies to I = 25.2.",
            catalogue="real_galaxy_catalog_25.2.fits",
        ),
    ]
    FURTHER_FEATURES = {
        "magnitude": tfds.features.Scalar(np.float32, doc="MAG of the catalogue, I band."),
        "psf": tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding="zlib", doc="Sum 1."),
        "psf_pixel_scale": tfds.features.Scalar(np.float32, doc="[arcsec]"),
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
From https://zenodo.org/records/3242143 fetch COSMOS_23.5_training_sample.tar.gz (4 GB; for the config cosmos_25_2
COSMOS_25.2_training_sample.tar.gz) and unpack it into the folder: tar -xzf COSMOS_23.5_training_sample.tar.gz.
GalSim's `galsim_download_cosmos -s 23.5 -d FOLDER` does the same. There must then be, here or in a subfolder,
real_galaxy_catalog_23.5.fits and, beside it, real_galaxy_images_23.5_n*.fits and real_galaxy_PSF_images_23.5_n*.fits.
"""

    def candidates(self, folder):
        name = self.builder_config.catalogue
        found = sorted(folder.glob(f"**/{name}"))
        if not found:
            raise InputError(f"{folder} holds no {name}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        table, folder = _read_catalogue(found[0]), found[0].parent
        for row in table:
            images, psfs = folder / str(row["GAL_FILENAME"]).strip(), folder / str(row["PSF_FILENAME"]).strip()
            scale, magnitude = float(row["PIXEL_SCALE"]), float(row["MAG"])
            yield Candidate(
                # The name that this galaxy has in the sample file hst_cosmos_f814w.fits, hence its split.
                f"cosmos:COSMOS23.5_{row['IDENT']}",
                f"{images}[{row['GAL_HDU']}]",
                functools.partial(_read_stamp, str(images), int(row["GAL_HDU"])),
                prepare_cosmos,
                scale,
                str(row["BAND"]).strip(),
                {
                    "magnitude": functools.partial(np.float32, magnitude),
                    "psf": functools.partial(_read_psf, str(psfs), int(row["PSF_HDU"])),
                    "psf_pixel_scale": functools.partial(np.float32, scale),
                },
            )


def _read_catalogue(path):
    try:
        with open_fits(path) as hdus:
            table = hdus[1].data
            missing = [name for name in _COLUMNS if name not in table.columns.names]
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as a catalogue in GalSim's RealGalaxy format ({error}).") from error
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it must be a RealGalaxy catalogue of GalSim.")
    return table


# A file holds a thousand stamps, in the order of the catalogue.
@functools.lru_cache(maxsize=2)
def _open(path):
    return hdus_of(path)


def _read_stamp(path, hdu):
    return np.asarray(_open(path)[hdu].data, np.float32)


def _read_psf(path, hdu):
    psf = _read_stamp(path, hdu)
    if psf.ndim != 2 or not np.all(np.isfinite(psf)) or np.sum(psf) <= 0:
        raise ValueError(f"its PSF, {path}[{hdu}], is no image that can be normalised")
    return psf / np.sum(psf)
