"""Sets of galaxies to be lensed, on stamps of 128 x 128 pixels, and the split that each galaxy is in. NumPy only."""

import dataclasses
import hashlib

import numpy as np

from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, load_arrays, save_arrays

STAMP_SIZE = 128


@dataclasses.dataclass(frozen=True)
class GalaxySet:
    """Galaxies ready to be lensed.

    Attributes:
      images: surface brightness, peak 1, non-negative, 0 on the border, [N, 128, 128] float32.
      ids: a name per galaxy, "<set>:<name within it>", unique over all sets.
      half_light_radius: radius of the circle about the centre of light that holds half of it
        [stamp pixels], [N].
    """

    images: np.ndarray
    ids: tuple[str, ...]
    half_light_radius: np.ndarray

    def __len__(self):
        return len(self.ids)

    def split(self, name, validation_fraction=0.1):
        """The galaxies of one split, "train" or "validation" (see `split_of`), in their order here."""
        if name not in ("train", "validation"):
            raise ValueError(f'The split is {name!r}; it must be "train" or "validation".')
        chosen = [i for i, galaxy in enumerate(self.ids) if split_of(galaxy, validation_fraction) == name]
        return GalaxySet(self.images[chosen], tuple(self.ids[i] for i in chosen), self.half_light_radius[chosen])


def joined(sets):
    """One `GalaxySet` of several, at least one, in their order."""
    return GalaxySet(
        np.concatenate([each.images for each in sets]),
        tuple(galaxy for each in sets for galaxy in each.ids),
        np.concatenate([each.half_light_radius for each in sets]),
    )


def save_galaxies(path, sets):
    """Several `GalaxySet`s by the name of their split as one .npz file, to be read where little is installed."""
    whole = joined(list(sets.values()))
    arrays = {"images": whole.images, "half_light_radius": whole.half_light_radius, "ids": np.array(whole.ids)}
    save_arrays(path, arrays | {"split": np.repeat(list(sets), [len(each) for each in sets.values()])})


def load_galaxies(path, split):
    """The `GalaxySet` of that split that `save_galaxies` wrote; InputError where the file is none of these."""
    advice = "make it with `rim-tf dataset pack`"
    try:
        stored = load_arrays(path)
        images, radius, ids, splits = (stored[name] for name in ("images", "half_light_radius", "ids", "split"))
    except DAMAGED as error:
        raise InputError(f"{path} is no file of galaxies ({type(error).__name__}); {advice}.") from None
    n = len(ids)
    if images.dtype != np.float32 or images.shape != (n, STAMP_SIZE, STAMP_SIZE) or splits.shape != (n,):
        raise InputError(
            f"{path} holds {n} names, {len(splits)} splits and images {images.dtype} {images.shape}; wanted are as "
            f"many images of {STAMP_SIZE} x {STAMP_SIZE} in float32; {advice}."
        )
    if not np.isfinite(images).all() or images.min(initial=0) < 0:
        raise InputError(f"{path}: images hold light below zero or what is no number; {advice}.")
    if radius.shape != (n,) or not (np.isfinite(radius) & (radius > 0)).all():
        raise InputError(f"{path}: half_light_radius must be {n} finite numbers above 0; {advice}.")
    chosen = np.flatnonzero(splits == split)
    return GalaxySet(images[chosen], tuple(map(str, ids[chosen])), radius[chosen])


def split_of(galaxy_id: str, validation_fraction: float = 0.1) -> str:
    """The split of a galaxy, "train" or "validation", from its name alone.

    A hash, unlike a shuffled list, leaves a galaxy in its split when other galaxies come or go, on any
    machine.
    """
    digest = hashlib.sha256(galaxy_id.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"
