"""Folders of results: the results of a run appear in them together or not at all, and no two runs write into one.

A run works in a folder within the folder of its results. When it is done that folder is renamed to _FINISHED: from then
on the new results are the ones that count. The old ones are removed, the folder is renamed to _PLACING, and the new
ones take their places. A process that is killed on the way leaves new and old results never side by side, and the next
run that writes into the folder completes what was left.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile

from rim_tf.cli import interrupt
from rim_tf.errors import InputError

_WORK, _FINISHED, _PLACING = ".rim-tf-work-", ".rim-tf-finished", ".rim-tf-placing"
# In a folder of work: the names of all results that the new ones replace.
_NAMES = ".replaces"


@contextlib.contextmanager
def results(out, names, overwrite):
    """A folder to work in, of which the files `names` appear in `out` where the block ends well, and only then.

    Other files in `out` are left alone. Where some of `names` are there already they are refused before any work is
    done, or with `overwrite` replaced together.

    Args:
      out: path of the folder; one that is not there is made, and removed again where the block fails.
      names: of all files that the block may write; those that it does not write are removed from `out`.
      overwrite: whether older ones may be replaced.

    Raises:
      InputError: `out` is no folder, cannot be written, holds some of `names`, or another run writes into it.
    """
    from rim_tf.files import locked  # and with it NumPy, for which `--help` need not wait

    with _folder(out), locked(out) as alone:
        if alone:
            _complete(out)
            _sweep(out)
        refuse_existing(out, names, overwrite)
        with _named(out):
            work = pathlib.Path(tempfile.mkdtemp(prefix=_WORK, dir=out))
        try:
            yield work
            with _named(out), interrupt.held():
                refuse_existing(out, names, overwrite)  # by whom this run was not alone
                (work / _NAMES).write_text(json.dumps(names))
                os.rename(work, out / _FINISHED)
                _complete(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def refuse_existing(out, names, overwrite):
    """Raise InputError where some of the files `names` are in the folder `out` and must not be replaced."""
    folders = [name for name in names if (out / name).is_dir()]
    if folders:
        raise InputError(f"{out / folders[0]} is a folder, where a file is to be written; choose another --out.")
    there = [name for name in names if os.path.lexists(out / name)]
    if there and not overwrite:
        raise InputError(
            f"{out} already holds {', '.join(there)}; add --overwrite to replace, or choose another --out."
        )


def refuse_address(out):
    """Raise InputError where `out` is no path but an address, as gs://bucket is."""
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", str(out)):
        raise InputError(f"{out} is an address; --out must be a folder of this machine.")


# ------------------------------------------------------------------------------------------------- the steps


def _complete(out):
    """Bring finished results to their places; where an earlier call was killed, this one goes on."""
    finished, placing = out / _FINISHED, out / _PLACING
    if finished.is_dir():
        for name in json.loads((finished / _NAMES).read_text()):
            (out / name).unlink(missing_ok=True)
        os.rename(finished, placing)
    if placing.is_dir():
        for path in sorted(placing.iterdir()):
            if path.name != _NAMES:
                os.replace(path, out / path.name)
        shutil.rmtree(placing)


def _sweep(out):
    """Remove the work of runs that were killed; nobody else writes here now."""
    for left_over in out.glob(f"{_WORK}*"):
        shutil.rmtree(left_over, ignore_errors=True)


@contextlib.contextmanager
def _folder(out):
    """Make `out`; where the block fails, what of it was not there before is removed, unless others use it."""
    refuse_address(out)
    made = []
    try:
        with _named(out):
            for folder in (*reversed(out.parents), out):
                if not folder.is_dir():
                    if folder.exists():
                        raise InputError(f"{folder} is a file; --out must be a folder.")
                    folder.mkdir(exist_ok=True)
                    made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _named(out):
    try:
        yield
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}.") from None
