"""Checkpoints of a run on either backend, the last and the best: an .npz file of plain arrays each, whole or absent.

Each array in it has a checksum of its own, which reading looks at.
"""

import contextlib
import json
import pathlib

import numpy as np

from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, load_arrays, save_arrays

# How many of the last are kept, and the best beside them, by the loss on lenses that no network is trained on.
KEPT = 3
_FOLDER, _ENDING = "checkpoints", ".npz"


def path_of(run, step):
    """The file of the checkpoint after `step` steps in the folder of a run."""
    return pathlib.Path(run) / _FOLDER / f"step-{step:09d}{_ENDING}"


def all_of(run):
    """The checkpoints in the folder of a run, the newest last."""
    return sorted((pathlib.Path(run) / _FOLDER).glob(f"step-*{_ENDING}"))


def best_of(run):
    """The checkpoint of the smallest validation loss; None where none has been validated."""
    judged = {path: loss for path in all_of(run) if np.isfinite(loss := _val_loss(path))}
    return min(judged, key=judged.get, default=None)


def save(run, step, groups, notes):
    """Write a checkpoint, and remove those that are neither among the last nor the best.

    Args:
      run: the run's folder.
      step: how many steps have been done.
      groups: {name: list of arrays}.
      notes: JSON-ready dictionary of numbers; its "val_loss" says which checkpoint is the best.

    Raises:
      InputError: it cannot be written; those that were there are as they were.
    """
    path = path_of(run, step)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir()
    arrays = {f"{name}_{i}": np.asarray(array) for name, group in groups.items() for i, array in enumerate(group)}
    loss = np.float64(notes.get("val_loss", np.nan))
    save_arrays(path, arrays | {"notes": np.array(json.dumps(notes)), "val_loss": loss}, compressed=False)
    for old in {*all_of(run)[:-KEPT]} - {best_of(run)}:
        old.unlink(missing_ok=True)


def give_weights(path, model, averaged):
    """The weights in a checkpoint to a network of the run; returns the step.

    Args:
      path: of the checkpoint.
      model: a network of the settings of the run.
      averaged: whether to take the averaged ones.

    Raises:
      InputError: as in `load`.
    """
    name = "average" if averaged else "weights"
    stored, notes = load(path, {name: model.get_weights()}, partly=True)
    model.set_weights(stored[name])
    return notes["step"]


def load(path, groups, partly=False):
    """Groups of arrays and notes, as `save` was given them.

    Args:
      path: of the checkpoint.
      groups: of the run that goes on: which arrays there must be, of which shapes and types.
      partly: whether there may be more.

    Raises:
      InputError: it is damaged, or of another network.
    """
    try:
        stored = load_arrays(path)
        notes = json.loads(str(stored.pop("notes")))
        stored.pop("val_loss")
    except DAMAGED as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); remove it to go on from the one before, or choose another "
            "--out."
        ) from error
    wanted = {f"{name}_{i}": array for name, group in groups.items() for i, array in enumerate(group)}
    for name in sorted(wanted if partly else {*wanted, *stored}):
        one, other = (_kind(arrays.get(name)) for arrays in (stored, wanted))
        if one != other:
            raise InputError(
                f"{path} is of another network or optimiser than the configuration beside it: {name} is {one}, and "
                f"wanted is {other}; choose another --out."
            )
    return {name: [stored[f"{name}_{i}"] for i in range(len(group))] for name, group in groups.items()}, notes


def _kind(array):
    return "absent" if array is None else f"{np.asarray(array).dtype} {list(np.shape(array))}"


def _val_loss(path):
    """The loss of a checkpoint of which nothing else is read; NaN where it has none, or is damaged."""
    try:
        with np.load(path) as stored:
            return float(stored["val_loss"])
    except DAMAGED:
        return np.nan
