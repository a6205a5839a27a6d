"""Work shared out over the processes of one machine."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading

from rim_tf.errors import InputError

# Tasks that wait for each process: enough that none is idle, and few enough that their arguments take no memory.
_WAITING = 4


def shared_out(tasks, workers, first=None):
    """Do tasks in other processes, and give back what they return in the order of the tasks.

    Processes are spawned, since forked copies of a process that runs TensorFlow can hang; so what they are to run must
    be importable. They end at once with Ctrl-C, and where the process that started them ends, however it does.

    Args:
      tasks: iterable of (key, function, argument), read as processes become free.
      workers: how many processes; 0 does the work in this one.
      first: what each process calls before all else, importable like the tasks: `heavy.import_quietly`, for tasks that
        need TensorFlow.

    Returns:
      Iterator of (key, what the function returned).

    Raises:
      InputError: a process was ended from outside.
    """
    if not workers:
        yield from ((key, function(argument)) for key, function, argument in tasks)
        return
    start, waiting = multiprocessing.get_context("spawn"), collections.deque()
    with concurrent.futures.ProcessPoolExecutor(workers, start, _begun, (first,)) as pool:
        try:
            for key, function, argument in tasks:
                waiting.append((key, pool.submit(function, argument)))
                if len(waiting) > _WAITING * workers:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        except concurrent.futures.process.BrokenProcessPool:
            raise InputError(
                "One of the worker processes was ended from outside, as a machine does that runs out of memory; give "
                "the command again, with fewer workers if need be."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _first(waiting):
    key, future = waiting.popleft()
    return key, future.result()


def _begun(first):
    """In a worker: say nothing at Ctrl-C, end with the process that started it, and do what comes first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if first is not None:
        # What is wrong with it the task will say, as its own error; raised here it would break the pool.
        with contextlib.suppress(Exception):
            first()
