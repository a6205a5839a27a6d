"""Memory: what is asked for is compared with what is there before it is taken, since a process that takes too much is
killed without a word."""

import os
import pathlib

from rim_tf.errors import InputError


def check_memory(needed, what, advice):
    """Refuse what would not fit into memory.

    Args:
      needed: estimate [bytes].
      what: the beginning of the error's sentence.
      advice: its end, what to do instead.

    Raises:
      InputError: less is there than `needed`.
    """
    there = available_memory()
    if there is not None and needed > there:
        raise InputError(
            f"{what} takes about {needed / 1e9:.3g} GB of memory, {there / 1e9:.3g} GB are free; {advice}."
        )


def available_memory():
    """Bytes that this process may still take, by the kernel and by the container's limit; None where nobody says."""
    return min((limit for limit in (_free(), _limit_of_container()) if limit is not None), default=None)


def _free():
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:  # not Linux: all that is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _limit_of_container():
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(pathlib.Path(path).read_text())
        except (OSError, ValueError):  # "max" where there is none
            pass
    return None
