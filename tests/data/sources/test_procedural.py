import numpy as np
import pytest

from rim_tf.data.sources.procedural import clumpy_spiral, procedural_galaxies, sersic_galaxy
from rim_tf.results import half_light_radius

N_GALAXIES = 60


@pytest.fixture(scope="module", params=[clumpy_spiral, sersic_galaxy])
def stamps(request):
    rng = np.random.default_rng(1)
    return np.stack([request.param(rng, 128) for _ in range(N_GALAXIES)])


def border(images):
    """The outermost pixels of each stamp, [N, 4, n]."""
    return np.stack([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)


def test_a_galaxy_is_non_negative_with_peak_one_on_a_zero_border(stamps):
    assert stamps.dtype == np.float32
    assert np.all(stamps >= 0)
    assert np.all(np.max(stamps, axis=(1, 2)) == 1)
    assert np.all(border(stamps) == 0)


def test_light_reaches_the_border_without_a_step(stamps):
    next_to_border = border(stamps[:, 1:-1, 1:-1])
    assert np.max(next_to_border) < 1e-3


def test_half_light_radius_is_about_a_seventh_of_the_side(stamps):
    radius = np.array([half_light_radius(stamp) for stamp in stamps]) / 128
    assert 0.11 < np.median(radius) < 0.16
    assert np.all((radius > 0.05) & (radius < 0.22))


def test_galaxies_lie_within_a_few_pixels_of_the_middle(stamps):
    row, column = np.indices(stamps.shape[1:])
    flux = np.sum(stamps, axis=(1, 2))
    for position in (row, column):
        centre = np.sum(stamps * position, axis=(1, 2)) / flux
        assert np.all(np.abs(centre - 63.5) < 8)


def test_a_galaxy_keeps_its_shape_when_sampled_more_coarsely():
    fine = sersic_galaxy(np.random.default_rng(3), 128)
    coarse = sersic_galaxy(np.random.default_rng(3), 64)
    np.testing.assert_allclose(half_light_radius(fine) / 128, half_light_radius(coarse) / 64, rtol=0.03)


def test_the_seed_decides_and_nothing_else():
    galaxies = procedural_galaxies(6, "test", 5, n=64)
    np.testing.assert_array_equal(galaxies.images, procedural_galaxies(6, "test", 5, n=64).images)
    np.testing.assert_array_equal(galaxies.images[:3], procedural_galaxies(3, "test", 5, n=64).images)
    others = [procedural_galaxies(6, "test", 6, n=64), procedural_galaxies(6, "training", 5, n=64)]
    every = [image.tobytes() for each in (galaxies, *others) for image in each.images]
    assert len(set(every)) == len(every) == 18
    names = [name for each in (galaxies, *others) for name in each.ids]
    assert len(set(names)) == 18
    assert galaxies.half_light_radius[2] == half_light_radius(galaxies.images[2])
