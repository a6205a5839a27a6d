"""Every stream of random numbers by name: no two of them share a number, whatever the user's seed.

The number of a stream goes into the seed first and the user's seed second; what else tells draws apart (a batch, a
round) is folded in after that. So `train --seed 7`, its validation and `simulate --seed 7` have nothing in common, by
construction and not by ranges that someone has to remember. TensorFlow's draws take a `seed_pair`, NumPy's a
`generator`; neither can be made without the name of a stream. From the same name and seed TensorFlow and JAX draw other
numbers, of the same distributions.
"""

import numpy as np

from rim_tf.errors import InputError
from rim_tf.validation import LARGEST_SEED

# A stream keeps its number for ever, as the numbers that were drawn from it depend on it. All are from 101 to 999:
# weights shipped up to version 0.1 were trained on streams whose number, modulo 1000, is below 101.
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
    "study: drawings": 110,
    "weights": 111,
    "calibration": 112,
    "calibration: test": 113,
    "dropout": 114,
}
LARGEST_PART = 10**6


def seed_pair(stream, seed, part=0):
    """The seed of TensorFlow's stateless draws, int32 [2]: another one for each stream, seed and part.

    Args:
      stream: a name in STREAMS.
      seed: the user's, a whole number from 0 to LARGEST_SEED.
      part: which of several streams of that name, as training on frames of several sizes has, 0 to LARGEST_PART.

    Raises:
      InputError: a seed out of range.
    """
    return np.array([_number(stream) + 1000 * _whole(part, LARGEST_PART), check_seed(seed)], np.int32)


def check_pair(seed):
    """`seed`, where it is a `seed_pair`, an array or a tensor; TypeError for a mere number, which names no stream."""
    if getattr(seed, "shape", None) != (2,):
        raise TypeError(f"The seed is {seed!r}; give rim_tf.data.seeds.seed_pair(STREAM, SEED) in its place.")
    return seed


def shuffle_seed(pair):
    """The one number that tf.data's `shuffle` takes, from a `seed_pair`."""
    return int(np.random.SeedSequence([int(number) for number in pair]).generate_state(1)[0])


def generator(stream, seed, *more):
    """NumPy's Generator of a stream: another one for each stream, seed and `more`.

    Args:
      stream: a name in STREAMS.
      seed: the user's, a whole number from 0 to LARGEST_SEED.
      more: whole numbers that tell the draws of one stream apart, each from 0 to LARGEST_SEED.

    Raises:
      InputError: a seed out of range.
    """
    # SeedSequence([a, b]) is SeedSequence([a, b, 0]): how many numbers follow has to be one of them.
    more = [_whole(each, LARGEST_SEED) for each in more]
    return np.random.default_rng([_number(stream), check_seed(seed), len(more), *more])


def check_seed(seed):
    """`seed` as an int, where it is a whole number from 0 to LARGEST_SEED; InputError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"The seed is {seed!r}; it must be a whole number from 0 to {LARGEST_SEED}.")
    return int(seed)


def _number(stream):
    if stream not in STREAMS:
        raise ValueError(f"There is no stream {stream!r}; it must be one of {', '.join(STREAMS)}.")
    return STREAMS[stream]


def _whole(value, largest):
    if not 0 <= value <= largest:
        raise ValueError(f"{value!r} does not tell draws apart; it must be a whole number from 0 to {largest}.")
    return int(value)
