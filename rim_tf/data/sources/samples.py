"""The sample files of real galaxies that this package was developed on, read and prepared; see data/README.md."""

import pathlib
import warnings

import numpy as np

from rim_tf.data.sources.galaxies import STAMP_SIZE, GalaxySet, joined
from rim_tf.data.sources.preparation import (
    is_blended,
    prepare_cosmos,
    prepare_cutout,
    prepare_frame,
    unstretched,
)
from rim_tf.errors import InputError, InputWarning
from rim_tf.files import DAMAGED, load_arrays
from rim_tf.io import is_cut_short, open_fits

# A hand-drawn mask that cuts a galaxy above this fraction of its peak would lend the galaxy its outline.
MAX_RIM = 0.07


def load_goods_udf(path) -> GalaxySet:
    """Galaxies of GOODS-South and the UDF, HST/ACS, 0.03 arcsec/pixel, cut out by hand (hst_goods_udf_030mas.npz)."""
    images, names, rims = _read_arrays(path, ("images", "ids", "mask_rim_over_peak"))
    kept = rims < MAX_RIM
    return _collect(
        {f"goods_udf:{name}": prepare_cutout(image) for name, image in zip(names[kept], images[kept], strict=True)}
    )


def load_cosmos(path) -> GalaxySet:
    """Galaxies of COSMOS and AEGIS, HST/ACS F814W, 0.03 arcsec/pixel, one to an HDU (hst_cosmos_f814w.fits).

    HDUs that cannot be read are skipped and named in one InputWarning.
    """
    return _collect({f"cosmos:{name}": prepare_cosmos(image) for name, image in _readable_hdus(path)})


def load_galaxy_zoo(path) -> GalaxySet:
    """Galaxy Zoo 2: SDSS gri, 0.04 Petrosian R90 per pixel (galaxyzoo2_128.npz); morphology, not photometry.

    Frames flagged unclean, and those in which another object overlaps the galaxy, are left out.
    """
    images, names, sky_levels, clean = _read_arrays(path, ("images", "ids", "bg_level", "clean"))
    images = images[:, ::-1]  # row 0 of a JPEG is its top
    stamps = {}
    for i in np.flatnonzero(clean):
        stretched = images[i] - sky_levels[i]
        # Told before it is prepared, which takes ten times as long.
        if not is_blended(stretched):
            stamps[f"galaxy_zoo:{names[i]}"] = prepare_frame(unstretched(stretched))
    return _collect(stamps)


LOADERS = {
    "hst_goods_udf_030mas.npz": load_goods_udf,
    "hst_cosmos_f814w.fits": load_cosmos,
    "galaxyzoo2_128.npz": load_galaxy_zoo,
}


def has_samples(folder) -> bool:
    """Whether a folder holds any of the files that `load_directory` reads."""
    return any((pathlib.Path(folder) / name).is_file() for name in LOADERS)


def load_directory(folder) -> GalaxySet:
    """Every set whose file lies in `folder` under its usual name, a key of LOADERS, one after the other."""
    folder = pathlib.Path(folder)
    sets = [load(folder / name) for name, load in LOADERS.items() if (folder / name).is_file()]
    if not sets:
        raise InputError(f"{folder} holds no galaxies: put one of {', '.join(LOADERS)} there, or name another folder.")
    return joined(sets)


def _collect(stamps):
    """A GalaxySet of those that are clean of the `Stamp`s (or None) by name."""
    kept = {galaxy: stamp for galaxy, stamp in stamps.items() if stamp is not None and stamp.quality == "clean"}
    images = [stamp.image for stamp in kept.values()]
    return GalaxySet(
        np.stack(images) if images else np.empty((0, STAMP_SIZE, STAMP_SIZE), np.float32),
        tuple(kept),
        np.array([stamp.half_light_radius for stamp in kept.values()]),
    )


def _read_arrays(path, keys):
    """The arrays of an .npz file that have these keys, in this order."""
    try:
        arrays = load_arrays(path)
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read as a NumPy .npz archive ({error}); fetch it again.") from error
    if missing := [key for key in keys if key not in arrays]:
        raise InputError(f"{path} has no {', '.join(missing)}; it must hold the arrays {', '.join(keys)}.")
    return [arrays[key] for key in keys]


def _readable_hdus(path):
    """(name, image) of each HDU with a finite two-dimensional image; an InputWarning names the others."""
    images, unreadable = [], []
    with open_fits(path) as hdus:
        for index in range(len(hdus)):
            name, image = _read_hdu(hdus, index)
            if image is not None and image.ndim == 2 and np.all(np.isfinite(image)):
                images.append((name, image.astype(np.float32)))
            elif image is not None:
                unreadable.append(name)
        if is_cut_short(hdus, path):
            unreadable.append(f"HDU {len(hdus)}")
    if unreadable:
        warnings.warn(
            f"{path}: skipped {len(unreadable)} HDU(s) that hold no readable image: {', '.join(unreadable)}.",
            InputWarning,
            stacklevel=3,
        )
    return images


def _read_hdu(hdus, index):
    """Name and image of an HDU, None where it has none, and an empty array where it cannot be read."""
    name = f"HDU {index}"
    try:
        hdu = hdus[index]
        name = hdu.header.get("OBJID", hdu.name or name)
        return name, hdu.data
    except (OSError, TypeError, ValueError):
        return name, np.empty(0)
