"""Where galaxies are found: procedural ones, the sample files, a prepared set, or a folder of FITS files or pictures.

tfds is imported only where a prepared set or a folder is asked for, and astropy where files may be FITS: procedural
galaxies and those of `rim-tf dataset pack` need NumPy alone.
"""

import pathlib

from rim_tf.data.extras import imported
from rim_tf.data.sources.galaxies import GalaxySet, load_galaxies
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError

# Where no galaxies are given.
N_PROCEDURAL = {"train": 1000, "validation": 100}


def find_galaxies(where, split, stream, seed=0, n_procedural=None) -> GalaxySet:
    """The galaxies of one split from wherever the user has them.

    Args:
      where: None for procedural galaxies; a file FILE.npz of `galaxies.save_galaxies`; a folder with the files of
        `samples.LOADERS`, with a prepared set of galaxies, or with FITS, JPEG or PNG files of galaxies; or the tfds
        name of a prepared set.
      split: "train" or "validation"; no galaxy is in both.
      stream: that procedural galaxies are drawn from, a name in `rim_tf.data.seeds.STREAMS`.
      seed: likewise, the user's.
      n_procedural: how many of them; by default those of N_PROCEDURAL.

    Returns:
      `GalaxySet`, not empty.

    Raises:
      InputError: there is nothing of the kind, nothing in that split, or a package is not installed.
    """
    if where is None:
        return procedural_galaxies(N_PROCEDURAL[split] if n_procedural is None else n_procedural, stream, seed)
    found = _in_memory(pathlib.Path(where), split)
    if found is None:
        found = _prepared_sets().read_galaxies(where, split)
    if not len(found):
        raise InputError(f"{where} has no galaxies in the split {split!r}; give more galaxies.")
    return found


def _in_memory(path, split):
    """The galaxies of a file or of a folder of sample files; None for all else."""
    if path.suffix == ".npz":
        return load_galaxies(path, split)
    from rim_tf.data.sources.samples import has_samples, load_directory

    return load_directory(path).split(split) if has_samples(path) else None


def find_large_set(where):
    """The tfds builder of the prepared set of galaxies at `where`, to be read as it is needed; None for all else."""
    if where is None or pathlib.Path(where).suffix == ".npz":
        return None
    from rim_tf.data.sources.samples import has_samples

    if has_samples(where):
        return None
    return _prepared_sets().galaxy_builder(where)


def _prepared_sets():
    return imported("rim_tf.data.sets.opening", "datasets", "Reading galaxies from anything but the sample files")
