"""No two random streams share a number: shown of their seeds, and of what is drawn from them."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from rim_tf.config import MockConfig
from rim_tf.data import mocks, seeds, single, streaming
from rim_tf.data.draws import Draws
from rim_tf.errors import InputError

# Those of users, and those that the numbers of streams once were.
SEEDS = (0, 1, 3, 101, 2019, 100_001, 900_000, 1_000_000, 2_000_000, 3_000_000, seeds.LARGEST_SEED)
PARTS = range(4)  # frames of several sizes
ALL = list(itertools.product(seeds.STREAMS, SEEDS, PARTS))


def test_pairs_are_disjoint_by_construction():
    pairs = [tuple(seeds.seed_pair(*each)) for each in ALL]
    assert len(set(pairs)) == len(pairs)
    # Whatever the seed is: stream and part are in the first number alone, and in no other way twice.
    first = [seeds.seed_pair(stream, 0, part)[0] for stream in seeds.STREAMS for part in (*PARTS, seeds.LARGEST_PART)]
    assert len(set(first)) == len(first) and len(set(seeds.STREAMS.values())) == len(seeds.STREAMS)
    assert all(101 <= number <= 999 for number in seeds.STREAMS.values())


def test_no_stream_shares_with_those_of_the_shipped_weights():
    # They were trained on (seed + 100000 frame, 0), validated on (1000000, 0) and tested on (2000000, 0).
    old = {(seed + 100_000 * frame, 0) for seed in (1, 2, 3) for frame in range(3)} | {(1_000_000, 0), (2_000_000, 0)}
    assert not old & {tuple(map(int, seeds.seed_pair(*each))) for each in ALL}


def test_tensorflow_draws_no_number_twice():
    @tf.function(autograph=False)
    def draw(pair, index):
        drawn = [Draws(pair, index, round_index) for round_index in range(2)]
        drawn += [mocks.observing_draws(pair, index), mocks.pool_draws(pair, index)]
        return tf.concat([tf.bitcast(each.uniform([4]), tf.int32) for each in drawn for _ in range(2)], 0)

    # Groups of four numbers of 24 bits: that two are equal by chance has odds of one in 2^96.
    groups = [draw(tf.constant(seeds.seed_pair(*each)), tf.constant(i)).numpy() for each in ALL for i in range(2)]
    groups = np.concatenate(groups).reshape(-1, 4)
    assert len(np.unique(groups, axis=0)) == len(groups) == 16 * len(ALL)


def test_numpy_draws_no_number_twice():
    # SeedSequence([a, b]) is SeedSequence([a, b, 0]), so draws that are told apart by nothing and by 0 could be one.
    further = [(), (0,), (1,), (2,), (0, 0), (1, 0), (0, 1), (0, 0, 0), (1, 0, 0)]
    assert np.random.default_rng([5, 1]).random() == np.random.default_rng([5, 1, 0]).random()
    drawn = [seeds.generator(stream, seed, *more).integers(2**62) for stream, seed, _ in ALL[::4] for more in further]
    assert len(set(drawn)) == len(drawn)


def test_a_stream_is_the_same_again_and_its_first_draws_do_not_depend_on_the_others():
    first, again = (seeds.generator("study", 5, i).random(3) for i in (2, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(seeds.seed_pair("study", 5), [seeds.STREAMS["study"], 5])
    assert seeds.shuffle_seed(seeds.seed_pair("study", 5)) != seeds.shuffle_seed(seeds.seed_pair("training", 5))


@pytest.mark.parametrize("seed", [-1, 2**31, 2.5, 1.0, True, "1", None, float("nan")])
def test_seeds_out_of_range_get_one_sentence(seed):
    wanted = "The seed is .*; it must be a whole number from 0 to 2147483647"
    for make in (seeds.check_seed, lambda seed: seeds.seed_pair("study", seed), lambda s: seeds.generator("study", s)):
        with pytest.raises(InputError, match=wanted):
            make(seed)


def test_a_number_is_no_stream(stamps):
    config = MockConfig(image_pixels=16, source_pixels=16)
    for draw in (
        lambda seed: streaming.stream(seed, 2, stamps, config),
        lambda seed: streaming.simulate_batch(seed, 0, 2, stamps, config),
        lambda seed: mocks.draw_accepted(seed, 0, 2, stamps, config),
    ):
        with pytest.raises(TypeError, match="The seed is 5; give rim_tf.data.seeds.seed_pair"):
            draw(5)
    with pytest.raises(ValueError, match="no stream 5; it must be one of training"):
        seeds.seed_pair(5, 5)
    with pytest.raises(ValueError, match="does not tell draws apart"):
        seeds.generator("study", 5, -1)


@pytest.fixture
def used(monkeypatch):
    """The pairs that lenses are drawn from, and the (stream, seed) that procedural galaxies are."""
    import training.streams

    pairs, of_galaxies = [], []
    draw = mocks.draw_accepted

    def draw_accepted(seed, *arguments):
        pairs.append(tuple(map(int, np.asarray(seed))))
        return draw(seed, *arguments)

    def stream(seed, *arguments, **options):
        pairs.append(tuple(map(int, np.asarray(seed))))
        return tf.data.Dataset.from_tensors((np.zeros(2, np.float32),) * 2)

    def generator(stream, seed, *more):
        if more:
            of_galaxies.append((stream, seed))
        return np.random.default_rng(0)

    monkeypatch.setattr(mocks, "draw_accepted", draw_accepted)
    monkeypatch.setattr(training.streams, "stream", stream)
    monkeypatch.setattr("rim_tf.data.sources.procedural.seeds.generator", generator)
    return pairs, of_galaxies


def test_training_on_frames_of_several_sizes_never_reads_what_it_is_validated_on(used, monkeypatch):
    # `train small-frames --seed 900000` once did: frames added 100000 to the seed, and 1000000 was the validation's.
    from training.experiments import EXPERIMENTS
    from training.streams import held_out_stream, training_stream

    monkeypatch.setattr("rim_tf.data.sources.find.N_PROCEDURAL", {"train": 2, "validation": 2})
    config = dataclasses.replace(EXPERIMENTS["small-frames"], n_procedural=2)
    pairs, of_galaxies = used
    for seed in SEEDS:
        training_stream(dataclasses.replace(config, seed=seed))
    assert len(set(pairs)) == len(pairs) == 3 * len(SEEDS)
    trained, sources = set(pairs), set(of_galaxies)
    held_out_stream(config)
    assert pairs[-1] not in trained and of_galaxies[-1] not in sources


def test_simulate_draws_what_no_training_has_seen(used):
    # `simulate --seed 0` once shared the lenses of `train --seed 2019`.
    from training.experiments import EXPERIMENTS
    from training.streams import training_stream

    pairs, _ = used
    for seed in SEEDS:
        training_stream(dataclasses.replace(EXPERIMENTS["small"], n_procedural=1, seed=seed))
    trained = set(pairs)
    for seed in (0, 2019):
        single.draw_system(seed, 24, 0.2)
        assert pairs[-1] not in trained
