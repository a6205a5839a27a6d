"""Every stream of random numbers by name: no two of them share a number, whatever the user's seed.

A stream's number goes into the seed first, the user's seed second, and what else tells draws apart (a batch, a round)
is folded in after that. So `train --seed 7`, its validation and `simulate --seed 7` have nothing in common, by
construction and not by ranges that someone has to remember.
"""

import numpy as np

from rim_tf.errors import InputError

# A stream keeps its number for ever, as the numbers that were drawn from it depend on it. The first is 101: weights
# shipped up to version 0.1 were trained on streams of a smaller one.
STREAMS = {
    "training": 101,
    "validation": 102,
    "test": 103,
    "ablation": 104,
    "study": 105,
    "simulate": 106,
    "set: train": 107,
    "set: validation": 108,
    "priors": 109,
}
LARGEST = 2**31 - 1


def seed_pair(stream, seed):
    """The seed of TensorFlow's stateless draws, int32 [2].

    Args:
      stream: a name in STREAMS.
      seed: the user's, a whole number from 0 to LARGEST.

    Raises:
      InputError: a seed out of range.
    """
    return np.array([STREAMS[stream], check_seed(seed)], np.int32)


def generator(stream, seed, *more):
    """NumPy's Generator of a stream.

    Args:
      stream: a name in STREAMS.
      seed: the user's, a whole number from 0 to LARGEST.
      more: whole numbers that tell the draws of one stream apart; give as many each time.
    """
    return np.random.default_rng([STREAMS[stream], check_seed(seed), *more])


def generators(stream, seed, n):
    """n independent Generators of a stream, the first k of which are the k of a smaller n."""
    sequence = np.random.SeedSequence([STREAMS[stream], check_seed(seed)])
    return [np.random.default_rng(child) for child in sequence.spawn(n)]


def check_seed(seed):
    """`seed` as an int, where it is a whole number from 0 to LARGEST; InputError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= LARGEST:
        raise InputError(f"The seed is {seed!r}; it must be a whole number from 0 to {LARGEST}.")
    return int(seed)
