"""The sample files are read and prepared, and what is damaged in them is named."""

import numpy as np
import pytest
from astropy.io import fits

from rim_tf.data.sources import samples
from rim_tf.data.sources.preparation import mad_std, sky_clipped
from rim_tf.data.sources.samples import load_cosmos, load_directory
from rim_tf.errors import InputError, InputWarning


def gaussian(n, row, column, sigma):
    rows, columns = np.indices((n, n))
    return np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / sigma**2)


def frame(rng, n=128, noise_rms=0.005):
    """A galaxy of peak 1 and sigma 6 pixels, off the middle, on sky of level 0.3 with white noise."""
    return 0.3 + gaussian(n, 66, 60, 6.0) + rng.normal(0, noise_rms, (n, n))


def write_fits(path, frames):
    hdus = [fits.ImageHDU(image.astype(np.float32), name=name) for name, image in frames.items()]
    for hdu in hdus:
        hdu.header["OBJID"] = hdu.name
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def assert_ready_to_be_lensed(galaxy_set):
    images = galaxy_set.images
    assert images.shape == (len(galaxy_set.ids), 128, 128)
    assert images.dtype == np.float32
    assert np.all(images >= 0)
    assert np.all(np.max(images, axis=(1, 2)) == 1)
    for edge in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert np.all(edge == 0)
    assert len(set(galaxy_set.ids)) == len(galaxy_set.ids)
    assert galaxy_set.half_light_radius.shape == (len(galaxy_set.ids),)
    assert np.all(galaxy_set.half_light_radius > 0)


def test_a_noisy_off_centre_galaxy_is_recovered(tmp_path, rng):
    galaxy_set = load_cosmos(write_fits(tmp_path / "one.fits", {"ROUND": frame(rng)}))
    assert galaxy_set.ids == ("cosmos:ROUND",)
    assert_ready_to_be_lensed(galaxy_set)
    # The blur of 0.8 pixels is part of the truth.
    truth = gaussian(128, 64, 64, np.hypot(6.0, 0.8))
    assert np.max(np.abs(galaxy_set.images[0] - truth)) < 0.02
    assert np.sqrt(np.mean((galaxy_set.images[0] - truth) ** 2)) < 0.002


def test_a_neighbour_is_removed_and_the_galaxy_kept(tmp_path, rng):
    alone = frame(rng)
    with_neighbour = alone + 1.5 * gaussian(128, 100, 95, 3.0)
    path = write_fits(tmp_path / "two.fits", {"ALONE": alone, "ACCOMPANIED": with_neighbour})
    galaxy_set = load_cosmos(path)
    assert galaxy_set.ids == ("cosmos:ALONE", "cosmos:ACCOMPANIED")
    assert np.max(np.abs(galaxy_set.images[1] - galaxy_set.images[0])) < 0.01


def test_a_galaxy_that_drowns_in_noise_is_left_out(tmp_path, rng):
    assert len(load_cosmos(write_fits(tmp_path / "noisy.fits", {"FAINT": frame(rng, noise_rms=0.2)}))) == 0


def test_a_galaxy_cut_by_the_edge_of_the_frame_is_left_out(tmp_path, rng):
    cut = 0.3 + gaussian(128, 84, 64, 18.0) + rng.normal(0, 0.005, (128, 128))
    assert len(load_cosmos(write_fits(tmp_path / "cut.fits", {"CUT": cut}))) == 0


def test_a_large_galaxy_is_averaged_down_to_fit(tmp_path, rng):
    large = 0.3 + gaussian(300, 150, 150, 25.0) + rng.normal(0, 0.005, (300, 300))
    galaxy_set = load_cosmos(write_fits(tmp_path / "large.fits", {"LARGE": large}))
    assert_ready_to_be_lensed(galaxy_set)
    assert galaxy_set.half_light_radius[0] == pytest.approx(12.5 * np.sqrt(2 * np.log(2)), rel=0.05)


@pytest.mark.parametrize("missing_bytes", [2880, 40_000, 67_000])
def test_a_truncated_file_names_what_it_lost(tmp_path, rng, missing_bytes):
    path = write_fits(tmp_path / "short.fits", {"WHOLE": frame(rng), "BROKEN": frame(rng)})
    with open(path, "r+b") as file:
        # The last HDU is 2880 bytes of header and 66240 of pixels; the longest cut ends within its header.
        file.truncate(path.stat().st_size - missing_bytes)
    with pytest.warns(InputWarning, match=r"1 HDU.*(BROKEN|HDU 2)"):
        galaxy_set = load_cosmos(path)
    assert galaxy_set.ids == ("cosmos:WHOLE",)


def test_pixels_that_are_not_numbers_are_named(tmp_path, rng):
    broken = frame(rng)
    broken[3, 4] = np.nan
    path = write_fits(tmp_path / "nan.fits", {"WHOLE": frame(rng), "BROKEN": broken})
    with pytest.warns(InputWarning, match="BROKEN"):
        assert load_cosmos(path).ids == ("cosmos:WHOLE",)


def test_a_file_that_is_no_fits_and_an_empty_folder_are_input_errors(tmp_path):
    (tmp_path / "text.fits").write_text("not FITS")
    with pytest.raises(InputError, match="is not a FITS file, or its beginning is damaged"):
        load_cosmos(tmp_path / "text.fits")
    with pytest.raises(InputError, match="holds no galaxies"):
        load_directory(tmp_path)


@pytest.mark.parametrize("load", [samples.load_goods_udf, samples.load_galaxy_zoo])
def test_an_archive_without_its_arrays_is_an_input_error(tmp_path, load):
    np.savez(tmp_path / "other.npz", images=np.zeros((1, 128, 128)))
    with pytest.raises(InputError, match="has no ids"):
        load(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "broken.npz")


def test_clipping_and_robust_rms_find_the_noise_among_stars(rng):
    sky = rng.normal(0, 2.0, 20_000)
    assert mad_std(sky) == pytest.approx(2.0, rel=0.03)
    sky[:3000] += rng.uniform(10, 100, 3000)
    # A Gaussian cut at three sigma is narrower by a percent, and some of the stars stay in.
    assert np.std(sky_clipped(sky)) == pytest.approx(2.0, rel=0.08)


@pytest.fixture
def sample(shared, tmp_path):
    """Function that gives a sample file by name; of an archive the first galaxies, as all would take a minute."""

    def find(name):
        if name.endswith(".fits"):
            return shared / "data" / name
        with np.load(shared / "data" / name) as archive:
            arrays = dict(archive)
        np.savez(tmp_path / name, **{key: array[:45] for key, array in arrays.items() if array.ndim})
        return tmp_path / name

    return find


@pytest.mark.parametrize("name", sorted(samples.LOADERS))
def test_real_galaxies_are_ready_to_be_lensed(name, sample):
    galaxy_set = samples.LOADERS[name](sample(name))
    assert_ready_to_be_lensed(galaxy_set)
    assert len(galaxy_set) > 20
    assert np.all(galaxy_set.half_light_radius < 32)
