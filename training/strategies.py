"""Where a run is trained: one device, all devices of a machine, or several machines (tf.distribute)."""

import json
import os

import tensorflow as tf

from rim_tf.errors import InputError

STRATEGIES = ("one-device", "mirrored", "multiworker")


# What a collective operation raises where another worker has gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def strategy_of(name):
    """The tf.distribute.Strategy of that name; of several machines, before TensorFlow has done anything else.

    Args:
      name: one of STRATEGIES. "mirrored": all GPUs of this machine, or its logical CPUs where it has none;
        "multiworker": this process is one of those in the environment variable TF_CONFIG, with all GPUs that it sees.

    Raises:
      InputError: no such name, or no TF_CONFIG that names this worker.
    """
    if name not in STRATEGIES:
        raise InputError(f"The strategy is {name!r}; it must be one of {', '.join(STRATEGIES)}.")
    if name == "multiworker":
        cluster_of(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in devices]
    return tf.distribute.MirroredStrategy(names) if name == "mirrored" else tf.distribute.OneDeviceStrategy(names[0])


def cluster_of(text):
    """The addresses of all workers and the number of this one, from the text of TF_CONFIG.

    Raises:
      InputError: it does not say so.
    """
    wanted = 'as {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": NUMBER}}'
    if not text:
        raise InputError(f"The strategy is 'multiworker', and TF_CONFIG is not set; set it for each worker, {wanted}.")
    try:
        values = json.loads(text)
        workers, kind, index = values["cluster"]["worker"], values["task"]["type"], int(values["task"]["index"])
        known = set(values["cluster"]) == {"worker"} and kind == "worker" and 0 <= index < len(workers)
    except (ValueError, TypeError, KeyError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"TF_CONFIG is no cluster of workers ({said}); set it {wanted}.") from None
    if not known:
        raise InputError(
            f"TF_CONFIG has the task {kind!r} {index} of {len(workers)} workers; all must be workers, from 0 on."
        )
    return workers, index


def summed(values):
    """In a replica: the sums over all replicas of the tensors in a list."""
    # What comes into a graph is on no device, and what is summed has to be on the replica's.
    values = [tf.identity(value) for value in values]
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


class Team:
    """The replicas of a strategy: who of them are here, and what all of them agree on.

    Args:
      strategy: tf.distribute.Strategy.

    Attributes:
      n: replicas on all workers together.
      local: numbers among them of those of this worker.
      is_chief: whether this worker writes.
      is_spread: whether there are other workers.
    """

    def __init__(self, strategy):
        self.strategy, self.n = strategy, strategy.num_replicas_in_sync
        found = []
        strategy.experimental_distribute_values_from_function(
            lambda context: found.append(context.replica_id_in_sync_group) or tf.constant(0)
        )
        self.local = sorted(map(int, found))
        resolver = strategy.cluster_resolver
        self.is_spread = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and self.n > len(self.local)
        self.is_chief = not self.is_spread or resolver.task_id == 0
        self._total = tf.function(lambda value: strategy.run(lambda: summed([value])), autograph=False)

    def spread(self, of):
        """One value to each replica here: of(number of the replica)."""
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: of(int(context.replica_id_in_sync_group))
        )

    def first(self, value):
        """What the first replica here has of a value that each has."""
        return tf.nest.map_structure(lambda each: self.strategy.experimental_local_results(each)[0], value)

    def agree(self, number):
        """Whether all workers give the same number, an integer from 0 to 2^20; all wait until the last has come."""
        if not self.is_spread:
            return True
        values = tf.constant([number, number**2], tf.int64)
        total, squares = map(int, self.first(self._total(values))[0].numpy())
        # Equal if and only if the mean of the squares is the square of the mean.
        return total * total == self.n * squares
