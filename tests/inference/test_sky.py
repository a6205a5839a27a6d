"""The sky is found where there is enough of it, whatever lies in it, and is none where it may be chance."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from rim_tf.inference import sky
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation

N, SCALE, NOISE = 64, 0.1, 0.3
LENS = LensParameters(1.0)


def frame(level=0.0, seed=0, correlated=False):
    noise = np.random.default_rng(seed).normal(size=(N + 1, N + 1))
    if correlated:
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 2
    return Observation(level + NOISE * noise[:N, :N], NOISE, 0.05, None, SCALE)


@pytest.mark.parametrize("correlated", [False, True])
def test_a_level_is_found_and_none_where_there_is_none(correlated):
    for seed in range(20):
        assert sky.level(frame(0.0, seed, correlated), LENS) == 0.0
        for level in (-0.2, 0.1, 5.0):
            assert sky.level(frame(level, seed, correlated), LENS) == pytest.approx(level, abs=0.04)


def test_lens_and_galaxies_are_no_sky():
    plain = frame(0.2)
    y, x = (np.indices((N, N)) - (N - 1) / 2) * SCALE
    galaxies = sum(30 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.02) for a, b in ((0, 0), (2.6, 2.0), (-2.7, 0.5)))
    ring = 9.0 * (np.abs(np.hypot(x, y) - 1.0) < 0.3)
    crowded = dataclasses.replace(plain, image=plain.image + galaxies + ring)
    assert sky.level(crowded, LENS) == pytest.approx(sky.level(plain, LENS), abs=0.02)
    empty = sky.empty(crowded, LENS)
    assert empty.sum() > 1000 and crowded.image[empty].max() < 2.0
    rms, where = sky.noise(crowded, LENS)
    assert rms == pytest.approx(1.0, rel=0.05) and (where == empty).all()


def test_too_little_sky_tells_nothing():
    middle, edge = np.zeros((2, N, N), bool)
    middle[20:44, 20:44] = True
    edge[:5] = True
    full = frame(5.0)
    galaxy = np.zeros((N, N), np.float32)
    galaxy[2, 32] = 100.0  # its wings leave less than it takes
    wide = dataclasses.replace(LENS, theta_E=2.1)
    cases = (
        (dataclasses.replace(full, mask=middle), LENS),
        (dataclasses.replace(full, image=full.image + galaxy, mask=edge), LENS),
        (full, wide),
    )
    for few, lens in cases:
        assert sky.empty(few, lens) is None and sky.level(few, lens) == 0.0 and sky.noise(few, lens) == (1.0, None)
    for enough in (full, dataclasses.replace(full, mask=edge)):
        assert sky.empty(enough, LENS) is not None and sky.level(enough, LENS) == pytest.approx(5.0, abs=0.1)
    # Nearer to the ring the noise is told by what no arcs are in, and no level, which they would raise.
    nearer = dataclasses.replace(LENS, theta_E=1.7)
    assert sky.empty(full, nearer) is None and sky.level(full, nearer) == 0.0
    rms, where = sky.noise(full, nearer)
    assert rms == pytest.approx(1.0, rel=0.1) and where.sum() > 300


def test_a_sky_of_one_value_has_a_level_and_no_noise():
    flat = dataclasses.replace(frame(), image=np.full((N, N), 2.0, np.float32))
    assert sky.level(flat, LENS) == 2.0 and sky.noise(flat, LENS) == (1.0, None)


@pytest.mark.parametrize("width", [0.0, 0.5, 0.7])
def test_noise_of_many_pixels_is_larger_where_neighbours_are_alike(width):
    """As large as its definition makes that of all of a frame's noise seen through the same Gaussian."""
    told = []
    for seed in range(10):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(N, N)), width)
        told.append(sky.correlation_ratio(noise, np.ones((N, N), bool)))
    if width == 0:
        assert told == [1.0] * 10
        return
    point = np.zeros((N + 1, N + 1))
    point[N // 2, N // 2] = 1.0
    alone, seen, both = (
        np.linalg.norm(ndimage.gaussian_filter(point, each)) for each in (width, 1.0, np.hypot(width, 1))
    )
    assert np.mean(told) == pytest.approx(both / seen / alone, rel=0.05) and np.std(told) < 0.1 * np.mean(told)


def test_a_few_pixels_of_sky_say_nothing_of_their_correlation():
    where = np.zeros((N, N), bool)
    assert sky.correlation_ratio(np.ones((N, N)), where) == 1
    where[3:9, 3:9] = True
    alike = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(N, N)), 0.5)
    assert sky.correlation_ratio(alike, where) == 1
    assert sky.correlation_ratio(np.zeros((N, N)), np.ones((N, N), bool)) == 1
    # Nor does what is bright beside it.
    bright = np.where(np.hypot(*np.indices((N, N)) - N / 2) < 10, 1e6, alike)
    where = np.hypot(*np.indices((N, N)) - N / 2) > 14
    assert sky.correlation_ratio(bright, where) == sky.correlation_ratio(alike, where) > 1


def test_a_clump_stands_out_by_what_noise_leaves_of_it():
    rng, where = np.random.default_rng(3), np.ones((80, 80), bool)
    where[:, 60:] = False
    noise = np.array([sky.largest_clump(rng.normal(size=where.shape), where) for _ in range(30)])
    # Of some dozens of independent places the highest is two to four deviations up.
    assert 1.5 < np.median(noise) < 3.5 and noise.max() < 5.5
    y, x = np.mgrid[:80, :80]
    for at in (30, 57):  # within, and beside what is masked
        clump = np.exp(-0.5 * ((x - at) ** 2 + (y - 40) ** 2) / 4.0**2) * where
        # As much as the best filter of all sees, which is a Gaussian of this width.
        signal = np.sqrt((clump**2).sum())
        assert sky.largest_clump(20 / signal * clump, where) == pytest.approx(20, rel=0.25)
    # What is masked does not count.
    assert sky.largest_clump(np.where(where, 0.0, 100.0), where) == 0.0
    assert sky.largest_clump(np.zeros((4, 4)), np.zeros((4, 4), bool)) == 0.0
