"""Simulated lenses fulfil the paper's conditions, and a stream is what its seed and index say."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.config import MockConfig
from rim_tf.data import mocks, observing, seeds, single, streaming
from rim_tf.data.distributions import draw_distributions
from rim_tf.data.draws import Draws
from rim_tf.data.observing import Sky, gaussian_reach
from rim_tf.errors import InputError
from rim_tf.evaluation.metrics import chi2_per_pixel
from rim_tf.grids import PixelGrid
from rim_tf.physics.imaging import imaging_operator
from rim_tf.results import half_light_radius

PIXELS = 32
CONFIG = MockConfig(image_pixels=PIXELS, source_pixels=PIXELS, noise_map_fraction=0.5, mask_fraction=0.5)


@functools.lru_cache(maxsize=4)
def batch(stamps, seed, n, config):
    """Inputs and sources of n systems, drawn at once and not traced, which takes longer than drawing."""
    drawn = streaming.simulate_batch(seeds.seed_pair("test", seed), 0, n, stamps, config)
    return tf.nest.map_structure(np.array, drawn)


def simulated(stamps, seed, n):
    simulator = streaming.Simulator(seeds.seed_pair("test", seed), 4, stamps, CONFIG)
    return [tf.nest.map_structure(np.array, simulator(index)) for index in range(n)]


def streamed(stamps, n, **options):
    dataset = streaming.stream(seeds.seed_pair("test", 3), 4, stamps, CONFIG, **options).take(n)
    return [tf.nest.map_structure(np.array, each) for each in dataset]


def noiseless(inputs, source):
    return imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy()


def test_stream_can_be_taken_up_at_any_batch_and_shared_out(stamps):
    whole = simulated(stamps, 3, 5)
    workers = [streamed(stamps, 2, first_batch=1, shard=worker, n_shards=2) for worker in range(2)]
    for (inputs, source), (inputs_again, source_again) in zip(
        whole[1:], (batch for pair in zip(*workers, strict=True) for batch in pair), strict=True
    ):
        assert_array_equal(source, source_again)
        assert inputs.keys() == inputs_again.keys()
        for name, value in inputs.items():
            assert_array_equal(value, inputs_again[name])


def test_no_image_comes_twice_within_a_stream_or_between_seeds(stamps):
    images = [
        image.tobytes() for seed in (3, 4) for inputs, _ in simulated(stamps, seed, 4) for image in inputs["image"]
    ]
    assert len(set(images)) == len(images) == 32


def test_every_system_is_magnified_and_on_the_frame(stamps):
    config = dataclasses.replace(CONFIG, minimum_magnification=6.0)
    systems, tally = mocks.draw_accepted(seeds.seed_pair("test", 1), 0, 32, stamps, config)
    assert tally[0] >= 32 and tally[1] >= tally[0]
    ratio = config.source_scale_ratio
    magnification = np.sum(systems["lensed"], (1, 2)) / np.sum(systems["source"], (1, 2)) / ratio**2
    assert len(magnification) == 32 and (magnification >= 6 * (1 - 1e-5)).all()
    lensed = systems["lensed"].numpy()
    edge = lensed.sum((1, 2)) - lensed[:, 2:-2, 2:-2].sum((1, 2))
    assert (edge <= config.edge_flux * lensed.sum((1, 2))).all()
    assert_allclose(systems["source"].numpy().max((1, 2)), 1, rtol=1e-6)


def test_truth_fits_the_data_to_the_noise(stamps):
    # The draw's noise must be what its noise map says: this is what later makes chi^2 = 1 mean "as good as can be".
    inputs, source = batch(stamps, 3, 40, CONFIG)
    chi2 = chi2_per_pixel(inputs["image"], noiseless(inputs, source), inputs["noise_rms"], inputs["mask"])
    n_pixels = 40 * CONFIG.image_pixels**2
    assert abs(np.mean(chi2) - 1) < 4 * np.sqrt(2 / (0.9 * n_pixels))


def test_noise_over_peak_is_log_uniform_in_its_range(stamps):
    config = dataclasses.replace(CONFIG, noise_map_fraction=0.0, psf_sigma=(0.0, 0.0))
    inputs, source = batch(stamps, 5, 120, config)
    level = inputs["noise_rms"][:, 0, 0] / noiseless(inputs, source).max((1, 2))
    quantile = (np.log10(level) + 3) / 2
    assert quantile.min() > -1e-3 and quantile.max() < 1 + 1e-3
    assert abs(quantile.mean() - 0.5) < 4 / np.sqrt(12 * quantile.size)


def test_lens_error_reaches_the_network_and_not_the_sky(stamps):
    (exact, _), (wrong, _) = (
        batch(stamps, 3, 40, dataclasses.replace(CONFIG, lens_error=error)) for error in (0.0, 0.01)
    )
    assert_array_equal(exact["image"], wrong["image"])
    error = wrong["lens"] - exact["lens"]
    error[:, [0, 3, 4]] /= exact["lens"][:, :1]  # of lengths, in theta_E
    assert_allclose(error.std(), 0.01, rtol=0.2)


def test_errors_of_the_lens_are_of_many_sizes_and_their_lengths_of_theta_E(stamps):
    config = dataclasses.replace(CONFIG, lens_error=0.03, lens_error_decades=2.0)
    (exact, _), (wrong, _) = (batch(stamps, 3, 160, each) for each in (CONFIG, config))
    true = exact["lens"]
    error = wrong["lens"] - true
    error[:, [0, 3, 4]] /= true[:, :1]
    size = np.sqrt((error**2).mean(1))
    # log10 of the size is uniform over two decades, blurred by the scatter of the rms of seven numbers.
    assert_allclose(np.median(np.log10(size / 0.03)), -1.0, atol=0.25)
    assert 0.4 < np.std(np.log10(size)) < 0.75
    assert_allclose(error.std(0) / error.std(), 1.0, atol=0.45)


def test_the_noise_of_a_drizzled_image_is_told_too_large_and_of_no_other(stamps):
    both = dataclasses.replace(CONFIG, correlated_noise_fraction=0.5, log_noise_overestimate=(1.5, 1.5))
    plain = dataclasses.replace(both, log_noise_overestimate=(1.0, 1.0))
    (told, _), (true, _) = (batch(stamps, 3, 80, each) for each in (both, plain))
    assert_array_equal(told["image"], true["image"])
    ratios = (told["noise_rms"] / true["noise_rms"]).reshape(80, -1)
    assert_allclose(ratios, np.where(ratios > 1.2, 1.5, 1.0), rtol=1e-5)
    assert 0.3 < (ratios[:, 0] > 1.2).mean() < 0.7


def test_masks_have_holes_in_their_share_of_the_systems(stamps):
    with_holes = ~batch(stamps, 3, 160, CONFIG)[0]["mask"].all((1, 2))
    assert 0.3 < with_holes.mean() < 0.6  # half of them, less those whose holes are too small or hit nothing


def test_placed_source_has_the_size_and_place_asked_for(stamps):
    grid = PixelGrid(96, 96, tf.constant([0.03]))
    given = [tf.constant([value]) for value in (0.2, -0.3, 0.35, 0.7, 1.0, 1.0)]
    source = mocks.place_sources(stamps, tf.constant([2]), grid, *given).numpy()[0]
    assert_allclose(half_light_radius(source) * 0.03, 0.35, rtol=0.03)
    x, y = (coordinate.numpy()[0] for coordinate in grid.coordinates())
    # The stamp's own centre of light lies within a few of its pixels of the middle.
    assert_allclose([np.average(x, weights=source), np.average(y, weights=source)], [0.2, -0.3], atol=0.06)


def test_pixelated_psfs_are_centred_of_sum_one_and_as_wide_as_asked_for():
    fwhm, beta, zero = tf.constant([4.0, 6.0]), tf.constant([3.0, 4.5]), tf.constant([0.0, 0.0])
    stamps = observing.moffat_stamps(fwhm, beta, zero, zero, 41).numpy()
    assert_allclose(stamps.sum((1, 2)), 1, rtol=1e-5)
    assert_allclose(stamps, stamps[:, ::-1, ::-1], atol=1e-7)
    row = np.arange(-20, 21)
    for stamp, width in zip(stamps, (4.0, 6.0), strict=True):
        fine = np.linspace(0, 10, 2001)
        half = fine[np.argmin(np.abs(np.interp(fine, row, stamp[20]) - stamp.max() / 2))]
        assert_allclose(2 * half, width, rtol=0.1)  # a pixel is an average, and linear between its neighbours
    elongated = observing.moffat_stamps(fwhm, beta, zero + 0.1, zero, 41).numpy()[0]
    x2, y2 = ((elongated * square).sum() for square in (row[None, :] ** 2, row[:, None] ** 2))
    # Along x, as e1 > 0 says, with q = 0.9 / 1.1; the stamp cuts the wings, whose second moment is large.
    assert_allclose(np.sqrt(y2 / x2), 0.9 / 1.1, rtol=0.05)


def test_psfs_of_a_list_are_used_as_they_are(stamps):
    psfs = np.zeros((2, 5, 5), np.float32)
    psfs[0, 2, 2] = psfs[1, 2, 1] = 1
    inputs, _ = streaming.Simulator(seeds.seed_pair("test", 3), 8, stamps, CONFIG, psfs)(0)
    assert {psf.tobytes() for psf in inputs["psf"].numpy()} == {psf.tobytes() for psf in psfs}


def test_psfs_of_a_list_may_be_a_share_of_all(stamps):
    psfs = np.zeros((1, 5, 5), np.float32)
    psfs[0, 2, 1] = 1
    config = dataclasses.replace(CONFIG, psf_pixels=5, given_psf_fraction=0.5)
    seed = seeds.seed_pair("test", 3)
    is_given = (streaming.simulate_batch(seed, 0, 64, stamps, config, psfs)[0]["psf"].numpy() == psfs).all((1, 2))
    assert 0.25 < is_given.mean() < 0.75
    with pytest.raises(InputError, match=r"have the shape \(5, 5\); .* must have that .* \(7, 7\)"):
        streaming.Simulator(seed, 2, stamps, dataclasses.replace(config, psf_pixels=7), psfs)(0)


def test_truth_fits_the_data_with_pixelated_psfs_and_correlated_noise(stamps):
    config = dataclasses.replace(CONFIG, psf_pixels=15, correlated_noise_fraction=1.0, noise_correlation=(0.7, 0.7))
    inputs, source = batch(stamps, 3, 80, config)
    assert inputs["psf"].shape == (80, 15, 15)
    residuals = (inputs["image"] - noiseless(inputs, source)) / inputs["noise_rms"]
    # Neighbours share noise as two Gaussians of sigma 0.7, one pixel apart, overlap: exp(-1 / (4 0.7^2)) = 0.600; the
    # number of independent pixels is less than that of pixels by the sum of the squared correlations, about 6.
    error = np.sqrt(6 / residuals.size)
    assert abs(np.mean(residuals**2) - 1) < 4 * np.sqrt(2) * error
    assert abs(np.mean(residuals[..., 1:] * residuals[..., :-1]) - 0.600) < 0.005 + 4 * error
    border = residuals[:, [0, -1]]
    assert abs(np.mean(border**2) - 1) < 4 * np.sqrt(2 * 6 / border.size)


def test_lens_galaxies_are_in_their_share_of_the_images_and_nothing_else_changes(stamps):
    config = dataclasses.replace(CONFIG, noise_map_fraction=0.0, mask_fraction=0.0)
    (bare, _), (with_light, _), (beside, _) = (
        batch(stamps, 7, 32, dataclasses.replace(config, **change))
        for change in ({}, {"lens_galaxy_fraction": 0.5}, {"neighbour_fraction": 0.5})
    )
    y, x = np.indices((PIXELS, PIXELS)) - (PIXELS - 1) / 2
    assert_array_equal(bare["lens"], with_light["lens"])
    scale = bare["pixel_scale"][:, None, None]
    lens_x, lens_y, theta_E = (bare["lens"][:, i, None, None] / scale for i in (3, 4, 0))
    radius = np.hypot(x - lens_x, y - lens_y)
    galaxy = with_light["image"] - bare["image"]
    neighbours = beside["image"] - bare["image"]
    for light, r, ring, b in zip(galaxy, radius, theta_E[:, 0, 0], neighbours, strict=True):
        # Light of galaxies is positive, the lens's brightest near the lens, a neighbour's outside of its ring.
        assert light.min() > -1e-4 and b.min() > -1e-4
        assert light.max() < 1e-3 or r.ravel()[light.argmax()] < 0.2 * ring + 2
        assert b.max() < 1e-2 or r.ravel()[b.argmax()] > 1.3 * ring
    with_galaxy, with_neighbours = (np.abs(light).max((1, 2)) > 1e-3 for light in (galaxy, neighbours))
    assert 8 <= with_galaxy.sum() <= 24 and 3 <= with_neighbours.sum() <= 20


def test_lens_light_leaves_residue_at_the_lens_in_its_share_of_the_systems(stamps):
    config = dataclasses.replace(CONFIG, psf_sigma=(0.0, 0.0), noise_map_fraction=0.0, log_noise=(1e-3, 1e-3))
    lit = dataclasses.replace(config, lens_light_fraction=0.5, lens_light_error=0.02)
    (without, _), (with_light, _) = (batch(stamps, 4, 120, each) for each in (config, lit))
    assert_array_equal(without["noise_rms"], with_light["noise_rms"])  # the same draws otherwise
    added = np.abs((with_light["image"] - without["image"]) / (without["noise_rms"] * 1e3))
    x, y = PixelGrid(PIXELS, PIXELS, tf.constant(without["pixel_scale"])).coordinates()
    distance = np.hypot(x - without["lens"][:, 3, None, None], y - without["lens"][:, 4, None, None])
    has = added.max((1, 2)) > 1e-4
    assert 0.35 < has.mean() < 0.65
    inner = np.array([a[d < 0.4].mean() for a, d in zip(added[has], distance[has], strict=True)])
    outer = np.array([a[d > 1.5].mean() for a, d in zip(added[has], distance[has], strict=True)])
    assert np.median(inner / outer) > 3
    assert 1e-3 < np.median(inner) < 1  # some percent of a galaxy about as bright as the arcs, and brighter within


def test_photons_of_the_lens_are_in_the_noise_map(stamps):
    config = dataclasses.replace(CONFIG, noise_map_fraction=1.0, mask_fraction=0.0)
    lit = dataclasses.replace(config, lens_light_fraction=1.0)
    dark, bright = (batch(stamps, 4, 24, each)[0]["noise_rms"] for each in (config, lit))
    assert (bright >= dark * (1 - 1e-6)).all()
    assert np.mean(bright.max((1, 2)) > 1.1 * dark.max((1, 2))) > 0.9  # but for galaxies a tenth as bright as the arcs


REFUSES_ALL = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1e6)
REFUSAL = (
    r"^Too few simulated systems are accepted: 0 of 48 drawn, where \d are wanted. 100 % are magnified less than "
    r"1e\+06 times \(minimum_magnification\), \d+ % have more than 1 % of their light at the edge of the image and "
    r"\d+ % at the edge of the source grid \(edge_flux\); loosen these conditions, or draw other lenses and sources.$"
)


def test_draws_that_accept_nothing_say_which_condition_refuses(stamps, monkeypatch):
    monkeypatch.setattr(mocks, "_ROUNDS", 3)
    seed = seeds.seed_pair("test", 0)
    with pytest.raises(InputError, match=REFUSAL):
        streaming.Simulator(seed, 2, stamps, REFUSES_ALL)(0)
    # In a graph of tf.data, TensorFlow puts the sentence among its own.
    with pytest.raises(InputError, match=REFUSAL), streaming.refusals_are_input_errors():
        next(iter(streaming.stream(seed, 2, stamps, REFUSES_ALL)))
    with pytest.raises(InputError, match="0 of 100 drawn.* 100 % are magnified less than 1e"):
        draw_distributions(REFUSES_ALL, stamps, 100)
    with pytest.raises(tf.errors.InvalidArgumentError, match="else"), streaming.refusals_are_input_errors():
        tf.debugging.Assert(False, ["something else"])
    wide = MockConfig(image_pixels=16, source_pixels=16, log_half_light_radius=(0.9, 1.0), minimum_magnification=0)
    with pytest.raises(InputError, match="0 of 48 drawn.* 0 % are magnified.* 100 % at the edge of the source grid"):
        streaming.simulate_batch(seed, 0, 1, stamps, wide)


def test_few_that_are_accepted_are_enough(stamps):
    rare = MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=14.0)
    _, conditions = mocks.draw_systems(Draws(seeds.seed_pair("test", 1), 0), 256, stamps, rare)
    assert 0 < conditions.numpy().all(axis=1).mean() < 0.1
    inputs, _ = batch(stamps, 0, 2, rare)
    assert np.isfinite(inputs["image"]).all()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e30, 1e-30, 0.0, -0.08])
def test_a_pixel_scale_that_cannot_be_is_refused_at_once(scale):
    with pytest.raises(InputError, match="The image that is asked for: log_pixel_scale is"):
        single.draw_system(0, 64, scale)


def test_one_system_is_the_same_again_and_another_for_another_seed_or_stream():
    drawn = [single.draw_system(seed, 24, 0.2, stream=stream) for seed, stream in ((1, "simulate"),) * 2]
    drawn += [single.draw_system(2, 24, 0.2), single.draw_system(1, 24, 0.2, stream="study: drawings")]
    assert drawn[0][0] == drawn[1][0] and len({lens for lens, _, _ in drawn}) == 3
    assert_array_equal(drawn[0][1], drawn[1][1])
    lens, source, scale = drawn[0]
    observed = [single.observe_system(seed, lens, source, scale, 24, 0.2, 0.01, 0.1) for seed in (1, 1, 2)]
    assert_array_equal(observed[0][0].image, observed[1][0].image)
    noise = [(each.image - noiseless) / each.noise for each, noiseless in observed]
    assert abs(np.corrcoef(noise[0].ravel(), noise[2].ravel())[0, 1]) < 4 / 24
    # With the lens given, the galaxy is drawn alone.
    given = single.draw_system(1, 24, 0.2, lens=lens)
    assert given[0] is lens and given[1].shape == (24, 24) and given[1].max() == 1


@pytest.mark.parametrize("psf", [np.float32([0.08]), np.full((1, 3, 9), 1 / 27, np.float32)])
def test_light_of_the_sky_does_not_end_with_the_frame(psf):
    frame = PixelGrid(12, 9, np.float32(0.05))
    sky = Sky(psf, frame, gaussian_reach(0.08, 0.05))
    seen = sky.seen(np.ones((1, sky.grid.rows, sky.grid.columns), np.float32))
    assert seen.shape == (1, 12, 9)
    assert_allclose(seen, 1, atol=1e-4)
    # The frame's own pixels are those in the middle.
    x, y = sky.grid.coordinates()
    for wide, narrow in zip((x, y), frame.coordinates(), strict=True):
        assert_allclose(sky.seen(wide), narrow, atol=1e-4)


@pytest.mark.parametrize("light", ["lens_galaxy_fraction", "lens_light_fraction"])
def test_light_that_is_drawn_does_not_end_with_the_frame(stamps, light):
    """The PSF keeps what is smooth at the edge, where it once took half of it."""
    config = dataclasses.replace(CONFIG, noise_map_fraction=0.0, mask_fraction=0.0, log_noise=(1e-6, 1e-6))
    config = dataclasses.replace(config, lens_light_error=0.3)
    edge = []
    for sigma in (0.01, 0.1):
        blurred = dataclasses.replace(config, psf_sigma=(sigma, sigma))
        lit = dataclasses.replace(blurred, **{light: 1.0})
        with_light, without = (batch(stamps, 5, 32, each)[0] for each in (lit, blurred))
        per_peak = (with_light["image"] - without["image"]) / with_light["noise_rms"].max((1, 2), keepdims=True)
        edge.append(np.abs(per_peak[:, :, [0, -1]]).sum())
    assert edge[1] == pytest.approx(edge[0], rel=0.1)


def test_a_galaxy_is_the_same_in_a_larger_frame():
    """To its edge: light comes in from beyond."""
    lens, source, scale = single.draw_system(3, 48, 0.1)
    galaxies = []
    for pixels in (32, 48):
        bare, lit = (
            single.observe_system(3, lens, source, scale, pixels, 0.1, 0.01, 0.2, lens_galaxy=galaxy)
            for galaxy in (0.0, 0.5)
        )
        galaxies.append((lit[0].image - bare[0].image) / bare[1].max())
    assert_allclose(galaxies[0], galaxies[1][8:-8, 8:-8], rtol=1e-3, atol=1e-5)


def test_a_lens_galaxy_of_a_single_system_is_as_bright_as_asked():
    lens, source, scale = single.draw_system(3, 48, 0.1)
    bare, noiseless = single.observe_system(3, lens, source, scale, 48, 0.1, 0.01, 0.1)
    lit, same = single.observe_system(3, lens, source, scale, 48, 0.1, 0.01, 0.1, lens_galaxy=0.5)
    assert_array_equal(noiseless, same)
    galaxy = (lit.image - bare.image) / noiseless.max()
    x, y = (np.array(each)[0] for each in PixelGrid(48, 48, np.float32(0.1)).coordinates())
    # Half of the light is within theta_E, where it is as bright as was asked; the ellipse crosses that circle.
    at_theta_E = np.abs(np.hypot(x - lens.x_lens, y - lens.y_lens) - lens.theta_E) < 0.05
    assert np.median(galaxy[at_theta_E]) == pytest.approx(0.5, rel=0.1)
    assert galaxy.max() > 3 and galaxy.min() > 0
