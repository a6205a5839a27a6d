"""Simulated lenses fulfil the paper's conditions, and a stream is what its seed and index say."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.data import mocks, observing
from rim_tf.data.sources.galaxies import half_light_radius
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.evaluation.metrics import chi2_per_pixel
from rim_tf.grids import PixelGrid
from rim_tf.physics.imaging import imaging_operator

CONFIG = mocks.MockConfig(image_pixels=48, source_pixels=48, noise_map_fraction=0.5, mask_fraction=0.5)


@pytest.fixture(scope="module")
def stamps():
    images = procedural_galaxies(12, seed=5)
    return mocks.GalaxyStamps(images, [half_light_radius(image) for image in images])


def batches(stamps, seed, n, config=CONFIG, first_batch=0):
    dataset = mocks.stream(seed, 4, stamps, config, first_batch).take(n)
    return [(tf.nest.map_structure(np.array, inputs), np.array(source)) for inputs, source in dataset]


def test_stream_can_be_taken_up_at_any_batch(stamps):
    whole, rest = batches(stamps, 3, 4), batches(stamps, 3, 2, first_batch=2)
    for (inputs, source), (inputs_again, source_again) in zip(whole[2:], rest, strict=True):
        assert_array_equal(source, source_again)
        for name, value in inputs.items():
            assert_array_equal(value, inputs_again[name])


def test_no_image_comes_twice_within_a_stream_or_between_seeds(stamps):
    images = [image.tobytes() for seed in (3, 4) for inputs, _ in batches(stamps, seed, 4) for image in inputs["image"]]
    assert len(set(images)) == len(images) == 32


def test_every_system_is_magnified_and_on_the_frame(stamps):
    seed = tf.constant([1, 0])
    config = dataclasses.replace(CONFIG, minimum_magnification=6.0)
    systems = mocks.draw_accepted(seed, 0, 32, stamps, config)
    ratio = config.source_scale_ratio
    magnification = np.sum(systems["lensed"], (1, 2)) / np.sum(systems["source"], (1, 2)) / ratio**2
    assert len(magnification) == 32 and (magnification >= 6 * (1 - 1e-5)).all()
    lensed = systems["lensed"].numpy()
    edge = lensed.sum((1, 2)) - lensed[:, 2:-2, 2:-2].sum((1, 2))
    assert (edge <= config.edge_flux * lensed.sum((1, 2))).all()
    assert_allclose(systems["source"].numpy().max((1, 2)), 1, rtol=1e-6)


def test_truth_fits_the_data_to_the_noise(stamps):
    # The draw's noise must be what its noise map says: this is what later makes chi^2 = 1 mean "as good as can be".
    chi2 = []
    for inputs, source in batches(stamps, 3, 10):
        model = imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy()
        chi2.append(chi2_per_pixel(inputs["image"], model, inputs["noise_rms"], inputs["mask"]))
    n_pixels = 40 * CONFIG.image_pixels**2
    assert abs(np.mean(chi2) - 1) < 4 * np.sqrt(2 / (0.9 * n_pixels))


def test_noise_over_peak_is_log_uniform_in_its_range(stamps):
    config = dataclasses.replace(CONFIG, noise_map_fraction=0.0, psf_sigma=(0.0, 0.0))
    level = []
    for inputs, source in batches(stamps, 5, 30, config):
        peak = imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy().max((1, 2))
        level.append(inputs["noise_rms"][:, 0, 0] / peak)
    quantile = (np.log10(np.concatenate(level)) + 3) / 2
    assert quantile.min() > -1e-3 and quantile.max() < 1 + 1e-3
    assert abs(quantile.mean() - 0.5) < 4 / np.sqrt(12 * quantile.size)


def test_lens_error_reaches_the_network_and_not_the_sky(stamps):
    exact, wrong = (batches(stamps, 3, 8, dataclasses.replace(CONFIG, lens_error=error)) for error in (0.0, 0.01))
    errors = np.concatenate([b["lens"] - a["lens"] for (a, _), (b, _) in zip(exact, wrong, strict=True)])
    assert_allclose(errors.std(), 0.01, rtol=0.2)


def test_masks_have_holes_in_their_share_of_the_systems(stamps):
    with_holes = np.concatenate([~inputs["mask"].all((1, 2)) for inputs, _ in batches(stamps, 6, 40)])
    assert 0.3 < with_holes.mean() < 0.6  # half of them, less those whose holes are too small or hit nothing


def test_placed_source_has_the_size_and_place_asked_for(stamps):
    grid = PixelGrid(96, 96, tf.constant([0.03]))
    given = [tf.constant([value]) for value in (0.2, -0.3, 0.35, 0.7, 1.0, 1.0)]
    source = mocks.place_sources(stamps, tf.constant([2]), grid, *given).numpy()[0]
    assert_allclose(half_light_radius(source) * 0.03, 0.35, rtol=0.03)
    x, y = (coordinate.numpy()[0] for coordinate in grid.coordinates())
    # The stamp's own centre of light lies within a few of its pixels of the middle.
    assert_allclose([np.average(x, weights=source), np.average(y, weights=source)], [0.2, -0.3], atol=0.06)


def test_workers_share_out_a_stream(stamps):
    alone = batches(stamps, 3, 4, first_batch=1)
    for worker in range(2):
        shard = mocks.stream(3, 4, stamps, CONFIG, 1, shard=worker, n_shards=2).take(2)
        for (inputs, source), (expected_inputs, expected_source) in zip(shard, alone[worker::2], strict=True):
            assert_array_equal(source, expected_source)
            tf.nest.map_structure(assert_array_equal, dict(inputs), expected_inputs)


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
    inputs, _ = next(iter(mocks.stream(3, 8, stamps, CONFIG, psfs=psfs)))
    assert {psf.tobytes() for psf in inputs["psf"].numpy()} == {psf.tobytes() for psf in psfs}


def test_pixelated_psfs_need_an_odd_side():
    with pytest.raises(InputError, match="psf_pixels is 20"):
        dataclasses.replace(CONFIG, psf_pixels=20)


def test_truth_fits_the_data_with_pixelated_psfs_and_correlated_noise(stamps):
    config = dataclasses.replace(CONFIG, psf_pixels=15, correlated_noise_fraction=1.0, noise_correlation=(0.7, 0.7))
    residuals = []
    for inputs, source in batches(stamps, 3, 20, config):
        assert inputs["psf"].shape == (4, 15, 15)
        model = imaging_operator(inputs, source.shape[1:]).forward(tf.constant(source)).numpy()
        residuals.append((inputs["image"] - model) / inputs["noise_rms"])
    residuals = np.concatenate(residuals)
    # Neighbours share noise as two Gaussians of sigma 0.7, one pixel apart, overlap: exp(-1 / (4 0.7^2)) = 0.600; the
    # number of independent pixels is less than that of pixels by the sum of the squared correlations, about 6.
    error = np.sqrt(6 / residuals.size)
    assert abs(np.mean(residuals**2) - 1) < 4 * np.sqrt(2) * error
    assert abs(np.mean(residuals[..., 1:] * residuals[..., :-1]) - 0.600) < 0.005 + 4 * error
    border = residuals[:, [0, -1]]
    assert abs(np.mean(border**2) - 1) < 4 * np.sqrt(2 * 6 / border.size)


def test_lens_light_leaves_residue_at_the_lens_in_its_share_of_the_systems(stamps):
    config = dataclasses.replace(CONFIG, psf_sigma=(0.0, 0.0), noise_map_fraction=0.0, log_noise=(1e-3, 1e-3))
    lit = dataclasses.replace(config, lens_light_fraction=0.5, lens_light_error=0.02)
    clean, residue = (batches(stamps, 4, 30, each) for each in (config, lit))
    added, distance = [], []
    for (without, _), (with_light, _) in zip(clean, residue, strict=True):
        assert_array_equal(without["noise_rms"], with_light["noise_rms"])  # the same draws otherwise
        added.append((with_light["image"] - without["image"]) / (without["noise_rms"] * 1e3))
        x, y = PixelGrid(48, 48, tf.constant(without["pixel_scale"])).coordinates()
        distance.append(np.hypot(x - without["lens"][:, 3, None, None], y - without["lens"][:, 4, None, None]))
    added, distance = np.abs(np.concatenate(added)), np.concatenate(distance)
    has = added.max((1, 2)) > 1e-4
    assert 0.35 < has.mean() < 0.65
    inner = np.array([a[d < 0.4].mean() for a, d in zip(added[has], distance[has], strict=True)])
    outer = np.array([a[d > 1.5].mean() for a, d in zip(added[has], distance[has], strict=True)])
    assert np.median(inner / outer) > 3
    assert 1e-3 < np.median(inner) < 1  # some percent of a galaxy about as bright as the arcs, and brighter within


def test_photons_of_the_lens_are_in_the_noise_map(stamps):
    config = dataclasses.replace(CONFIG, noise_map_fraction=1.0, mask_fraction=0.0)
    lit = dataclasses.replace(config, lens_light_fraction=1.0)
    for (dark, _), (bright, _) in zip(batches(stamps, 4, 4, config), batches(stamps, 4, 4, lit), strict=True):
        assert (bright["noise_rms"] >= dark["noise_rms"] * (1 - 1e-6)).all()
        assert (bright["noise_rms"].max((1, 2)) > 1.1 * dark["noise_rms"].max((1, 2))).all()
