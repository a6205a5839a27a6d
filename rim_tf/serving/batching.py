"""Requests of the same shape are answered together: a worker that is free takes what has gathered meanwhile.

Nobody waits for a batch to fill. As long as a worker is free a request is answered at once; when all are busy those
that arrive make up the next batch.
"""

import collections
import concurrent.futures
import threading

import numpy as np

from rim_tf.serving.refusals import Refusal


class Batcher:
    """Worker threads over a queue of requests.

    Args:
      run: (key, {name: array}) -> {name: array}, each with the batch as its first axis.
      workers: threads.
      largest_batch: systems in one call of `run`, unless one request has more.
      longest_queue: requests that may wait.
    """

    def __init__(self, run, workers=1, largest_batch=16, longest_queue=1024):
        self._run, self._largest, self._longest = run, largest_batch, longest_queue
        self._waiting = collections.OrderedDict()  # key and shapes -> requests, the oldest first
        self._n_waiting, self._closed = 0, False
        self._changed = threading.Condition()
        self.sizes = collections.Counter()  # of the batches that were run
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, key, arrays):
        """A Future of what `run` gives for one request; cancelled before it is run, it never is.

        Raises:
          Refusal: too many are waiting, or the server is closing.
        """
        shapes = tuple(sorted((name, array.shape[1:]) for name, array in arrays.items()))
        future = concurrent.futures.Future()
        with self._changed:
            if self._closed:
                raise Refusal("UNAVAILABLE", "The server is closing; try another, or again later.")
            if self._n_waiting >= self._longest:
                raise Refusal("UNAVAILABLE", f"{self._n_waiting} requests are waiting already; try again later.")
            self._waiting.setdefault((key, shapes), collections.deque()).append((arrays, future))
            self._n_waiting += 1
            self._changed.notify()
        return future

    def close(self):
        """Answer what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self):
        """The key and the requests of the next batch; None when there will be none."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            (key, shapes), queue = self._waiting.popitem(last=False)
            taken, size = [], 0
            while queue and (not taken or size + _systems(queue[0][0]) <= self._largest):
                taken.append(queue.popleft())
                size += _systems(taken[-1][0])
            if queue:  # behind all that came meanwhile
                self._waiting[(key, shapes)] = queue
            self._n_waiting -= len(taken)
        return key, taken

    def _work(self):
        while (batch := self._take()) is not None:
            key, taken = batch
            taken = [(arrays, future) for arrays, future in taken if future.set_running_or_notify_cancel()]
            if taken:
                self._answer(key, taken)

    def _answer(self, key, taken):
        sizes = [_systems(arrays) for arrays, _ in taken]
        self.sizes[sum(sizes)] += 1
        try:
            joined = {name: np.concatenate([arrays[name] for arrays, _ in taken]) for name in taken[0][0]}
            outputs = self._run(key, joined if len(taken) > 1 else taken[0][0])
        except BaseException as error:
            if len(taken) == 1:
                taken[0][1].set_exception(error)
                return
            for one in taken:  # one bad request must not take others with it
                self._answer(key, [one])
            return
        ends = np.cumsum(sizes)
        for (_, future), size, end in zip(taken, sizes, ends, strict=True):
            future.set_result({name: value[end - size : end] for name, value in outputs.items()})


def _systems(arrays):
    return len(next(iter(arrays.values())))
