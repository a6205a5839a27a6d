"""Files that are whole or not there, JSON without NaN, and what reading a damaged file raises.

A file is written under another name beside its own, and takes its own name when it is complete: whoever looks, at any
moment, finds the old file or the new one. What a killed process leaves under the other name is removed by `sweep`.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import re
import stat
import time
import uuid
import zipfile
import zlib

import numpy as np

from rim_tf.errors import InputError
from rim_tf.memory import check_memory

# What reading a file raises that was cut short, overwritten or is something else.
DAMAGED = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
_UNFINISHED = "incomplete"
# Seconds after which an unfinished file is one of a process that was killed, and not of one that runs now.
_ABANDONED = 600
# Python's values take about so many bytes for each of their JSON text.
_JSON_IN_MEMORY = 20


@contextlib.contextmanager
def written_whole(path):
    """A path to write to in the place of `path`, which takes that name where the block ends well.

    Its suffix is that of `path`, since libraries go by it. Where the block fails the unfinished file is removed.

    Args:
      path: of the file; an existing one is replaced.

    Raises:
      InputError: `path` cannot be written.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.{_UNFINISHED}{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


@contextlib.contextmanager
def locked(folder):
    """Keep other runs from a folder that is there; gives whether that was possible, as not every disk knows locks.

    The lock is one of the kernel, which takes it back when the process ends, however it ends.

    Raises:
      InputError: another run has it, or the folder cannot be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}.") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            raise InputError(f"Another run is writing into {folder}; wait for it, or choose another --out.") from None
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(handle)


def sweep(folder):
    """Remove the unfinished files of killed processes in `folder` and below, and none of a process that still runs."""
    for left_over in pathlib.Path(folder).glob(f"**/.*.{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # another process may be sweeping too
            if time.time() - left_over.stat().st_mtime > _ABANDONED:
                left_over.unlink()


def write_bytes(path, content):
    """`content` as the file `path`."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path, text):
    """`text` as the file `path`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path, values, indent=2):
    """Plain Python values, NumPy's numbers and arrays as JSON; NaN and infinity, which JSON has not, become null."""
    write_text(path, json.dumps(finite(values), indent=indent, allow_nan=False) + "\n")


def finite(values):
    """`values` with arrays as lists, NumPy's numbers as Python's, and None for what is no finite number."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple, np.ndarray)):
        return [finite(value) for value in values]
    if isinstance(values, np.generic):
        values = values.item()
    return None if isinstance(values, float) and not math.isfinite(values) else values


def check_file(path):
    """The size of a file that is about to be read [bytes].

    Args:
      path: of the file.

    Raises:
      InputError: nothing is there, or what would be read for ever or never begins: a folder, a pipe or a device; or
        the name is an address of the web or of a cloud.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", str(path)):
        raise InputError(f"{path} is an address and no file; copy it to this machine and name the copy.")
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} cannot be read: it is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} cannot be read: it is a pipe or a device; write its content to a file first.")
    return status.st_size


def read_json(path, parse_int=None):
    """The values in a JSON file.

    Args:
      path: of the file.
      parse_int: what makes a number of a text without a point; by default `int`.

    Raises:
      InputError: no such file, not readable, not JSON, or a name that stands twice in one object.
    """
    check_memory(_JSON_IN_MEMORY * check_file(path), f"Reading {path}", "it is too large for a file of settings")
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_int=parse_int, object_pairs_hook=_without_repeats)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON that can be read: {error}.") from None


def _without_repeats(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} stands twice in one object")
    return values


def save_arrays(path, arrays, compressed=True):
    """An .npz file of NumPy arrays by name, none of objects, which would be pickled; weights hardly compress."""
    if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
        raise TypeError("An array of objects would be pickled.")
    with written_whole(path) as unfinished:
        (np.savez_compressed if compressed else np.savez)(unfinished, **arrays)


def load_arrays(path):
    """All arrays of an .npz file by name; raises one of DAMAGED where it is damaged."""
    with np.load(path) as stored:
        return dict(stored)
