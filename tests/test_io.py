import gzip
import json
import math
import os

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from rim_tf import io
from rim_tf.errors import InputError, InputWarning
from rim_tf.lens import LENS_PARAMETERS, LensParameters
from rim_tf.observation import Observation
from rim_tf.results import Reconstruction

LENS = LensParameters(1.2, 0.1, -0.05, 0.02, -0.03, 0.04, 0.01)


def sky_header(scale_x, scale_y, angle=0.3):
    """A rotated tangential WCS, east to the left, with pixels of these sides [arcsec]."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [5.0, 5.0]
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = rotation @ np.diag([-scale_x, scale_y]) / 3600
    return wcs.to_header()


def write(path, *images, headers=None):
    """An empty primary HDU and one for each (name, array)."""
    headers = headers or [None] * len(images)
    hdus = [fits.ImageHDU(a, header=h, name=n) for (n, a), h in zip(images, headers, strict=True)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


@pytest.fixture
def image(rng):
    return rng.normal(size=(8, 11)).astype(np.float32)


@pytest.fixture
def many(tmp_path, image):
    """One file with an image, its noise, PSF and mask."""
    mask = np.ones_like(image, np.uint8)
    mask[2, 3] = 0
    psf = np.full((3, 3), 1 / 9)
    noise = np.full_like(image, 0.1)
    images = ("SCI", image), ("NOISE", noise), ("PSF", psf), ("MASK", mask)
    header = fits.Header({"PIXSCALE": 0.05})
    return write(tmp_path / "many.fits", *images, headers=[header, None, None, None])


# -------------------------------------------------------------------------------------------------- reading


def test_an_image_is_read_as_it_is_stored(tmp_path, image):
    read, scale = io.read_image(write(tmp_path / "a.fits", ("SCI", image)))
    np.testing.assert_array_equal(read, image)
    assert read.dtype == np.float64 and read.dtype.isnative and scale is None


@pytest.mark.parametrize("hdu", [2, "2", "noise", "NOISE", "NOISE,1"])
def test_an_hdu_is_found_by_name_or_number_in_either_place(many, hdu):
    np.testing.assert_allclose(io.read_image(many, hdu)[0], 0.1, rtol=1e-6)
    np.testing.assert_allclose(io.read_image(f"{many}[{hdu}]")[0], 0.1, rtol=1e-6)


def test_brackets_may_be_part_of_a_name(tmp_path, image):
    path = write(tmp_path / "field[3].fits", ("SCI", image), ("OTHER", image + 1))
    np.testing.assert_array_equal(io.read_image(path)[0], image)
    odd = (tmp_path / "field[3]").with_suffix("")
    os.rename(path, odd)
    np.testing.assert_array_equal(io.read_image(odd)[0], image)
    np.testing.assert_array_equal(io.read_image(f"{odd}[OTHER]")[0], image + 1)


def test_integers_scaled_blank_compressed_and_gzipped_images(tmp_path, image):
    stored = fits.PrimaryHDU(np.arange(12, dtype=np.int16).reshape(3, 4))
    stored.header["BLANK"] = 5
    stored.writeto(tmp_path / "integers.fits")
    read, _ = io.read_image(tmp_path / "integers.fits")
    assert np.isnan(read[1, 1]) and read[2, 3] == 11
    compressed = fits.CompImageHDU(image, name="SCI", compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(tmp_path / "compressed.fits")
    np.testing.assert_array_equal(io.read_image(tmp_path / "compressed.fits")[0], image)
    path = write(tmp_path / "plain.fits", ("SCI", image))
    (tmp_path / "zipped.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(io.read_image(tmp_path / "zipped.fits.gz")[0], image)


def test_the_first_image_of_two_dimensions_is_taken(tmp_path, image):
    path = write(tmp_path / "a.fits", ("SPECTRUM", np.ones(5)), ("CUBE", np.ones((2, 4, 5))), ("SCI", image))
    np.testing.assert_array_equal(io.read_image(path)[0], image)


@pytest.mark.parametrize("shape", [(1, 8, 11), (8, 1, 11), (1, 1, 8, 11)])
def test_axes_of_length_one_are_left_out(tmp_path, image, shape):
    path = write(tmp_path / "a.fits", ("SCI", image.reshape(shape)))
    np.testing.assert_array_equal(io.read_image(path)[0], image)


@pytest.mark.parametrize("scale", [0.05, 0.263])
def test_the_pixel_scale_comes_from_the_sky_coordinates(tmp_path, image, scale):
    header = sky_header(scale, scale) + fits.Header({"PIXSCALE": 7.0})
    assert io.read_image(write(tmp_path / "a.fits", ("SCI", image), headers=[header]))[1] == pytest.approx(scale)


def test_the_pixel_scale_comes_from_pixscale_otherwise(tmp_path, many, image):
    assert io.read_image(many)[1] == 0.05
    linear = fits.Header({"CTYPE1": "X", "CTYPE2": "Y", "CDELT1": 0.3, "CDELT2": 0.3, "PIXSCALE": 0.3})
    assert io.read_image(write(tmp_path / "a.fits", ("SCI", image), headers=[linear]))[1] == 0.3
    path = write(tmp_path / "b.fits", ("SCI", image))
    fits.setval(path, "PIXSCALE", value=0.04, ext=0)  # where some pipelines put it
    assert io.read_image(path)[1] == 0.04


def test_pixels_that_are_not_square_are_refused(tmp_path, image):
    path = write(tmp_path / "a.fits", ("SCI", image), headers=[sky_header(0.05, 0.06)])
    with pytest.raises(InputError, match="a.fits has pixels of 0.05 x 0.06 arcsec"):
        io.read_image(path)


def test_a_file_that_is_not_there_or_no_fits_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.fits does not exist"):
        io.read_image(tmp_path / "nothing.fits")
    (tmp_path / "text.fits").write_text("not FITS")
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "bad.fits.gz").write_bytes(gzip.compress(b"x" * 10000)[:30])
    for name in ("text.fits", "empty.fits", "bad.fits.gz"):
        with pytest.raises(InputError, match=f"{name} is not a FITS file"):
            io.read_image(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read|not a FITS file"):
        io.read_image(tmp_path)


@pytest.mark.parametrize("hdu", ["ERR", 9, "9", "NOISE,2"])
def test_a_wrong_hdu_is_told_what_there_is(many, hdu):
    with pytest.raises(InputError, match=r"many.fits has no HDU .*1 SCI \(8 x 11\), 2 NOISE"):
        io.read_image(many, hdu)


def test_hdus_without_an_image_are_refused(tmp_path, many):
    with pytest.raises(InputError, match="HDU 0 of .*many.fits holds no image"):
        io.read_image(many, 0)
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.ones(3))], name="CATALOGUE")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    for path in ("table.fits", "table.fits[CATALOGUE]"):
        with pytest.raises(InputError, match="holds no image; its HDUs are 0 PRIMARY .*1 CATALOGUE"):
            io.read_image(tmp_path / path)


@pytest.mark.parametrize("shape", [(3, 8, 11), (2, 3, 4, 5)])
def test_a_cube_is_told_how_to_be_cut(tmp_path, shape):
    path = write(tmp_path / "cube.fits", ("CUBE", np.ones(shape)))
    with pytest.raises(InputError, match=r"cube.fits\[1\] has . dimensions, .*one plane"):
        io.read_image(path)


def test_a_spectrum_is_no_image(tmp_path):
    with pytest.raises(InputError, match="an image has two"):
        io.read_image(write(tmp_path / "a.fits", ("SPECTRUM", np.ones(5))))


@pytest.mark.parametrize("kept", [2890, 4000, 6000, 7000])
def test_a_truncated_file_is_named(tmp_path, kept):
    # 2880 bytes of primary header, 2880 of the image's, 8192 of pixels.
    path = write(tmp_path / "short.fits", ("SCI", np.ones((32, 32))))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="short.fits"):
        io.read_image(path)


# ---------------------------------------------------------------------------------------------- observation


def test_one_file_can_carry_everything(many, image):
    observation = io.read_observation(many, f"{many}[NOISE]", f"{many}[PSF]", f"{many}[MASK]")
    np.testing.assert_allclose(observation.image[observation.mask], image[observation.mask])
    assert not observation.mask[2, 3] and observation.mask.sum() == image.size - 1
    assert observation.psf.shape == (3, 3) and observation.pixel_scale == 0.05


def test_a_mask_of_any_kind_of_number_means_nonzero(tmp_path, many, image):
    mask = np.full(image.shape, 7.5)
    mask[0, 0], mask[1, 1] = 0, np.nan
    path = write(tmp_path / "mask.fits", ("MASK", mask))
    assert io.read_observation(many, 0.1, 0.05, path).mask.sum() == image.size - 2


def test_a_pixel_scale_is_needed_and_the_given_one_wins(tmp_path, many, image):
    path = write(tmp_path / "bare.fits", ("SCI", image))
    with pytest.raises(InputError, match="bare.fits has no pixel scale"):
        io.read_observation(path, 0.1, 0.05)
    assert io.read_observation(path, 0.1, 0.05, pixel_scale=0.2).pixel_scale == 0.2
    with pytest.warns(InputWarning, match="0.05 arcsec wide, the image's are taken to be 0.2"):
        assert io.read_observation(many, 0.1, 0.05, pixel_scale=0.2).pixel_scale == 0.2


def test_a_psf_with_other_pixels_is_warned_of(tmp_path, many):
    header = fits.Header({"PIXSCALE": 0.0125})
    path = write(tmp_path / "psf.fits", ("PSF", np.full((3, 3), 1 / 9)), headers=[header])
    with pytest.warns(InputWarning, match="psf.fits says its pixels are 0.0125"):
        io.read_observation(many, 0.1, path)


@pytest.mark.parametrize("which", ["noise", "psf", "mask"])
def test_the_image_is_not_taken_for_its_own_noise(many, which):
    arguments = {"noise": 0.1, "psf": 0.05} | {which: str(many)}
    with pytest.raises(InputError, match=f"The {which} is .* the image itself"):
        io.read_observation(many, **arguments)


# ---------------------------------------------------------------------------------------------------- lens


def lens_file(tmp_path, **changes):
    values = dict(zip(LENS_PARAMETERS, LENS.as_tuple(), strict=True)) | changes
    path = tmp_path / "lens.json"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return path


def test_a_lens_comes_back(tmp_path):
    assert io.read_lens(lens_file(tmp_path)) == LENS
    io.write_lens(LENS, tmp_path / "again.json")
    assert io.read_lens(tmp_path / "again.json") == LENS


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"theta_E": None}, "lacks theta_E"),
        ({"theta_E": None, "theta_e": 1.2}, "unknown 'theta_e', did you mean 'theta_E'"),
        ({"gamma1": None, "gama1": 0.1}, "unknown 'gama1', did you mean 'gamma1'"),
        ({"x_lens": None, "xlens": 0.1}, "unknown 'xlens', did you mean 'x_lens'"),
        ({"redshift": 0.5}, "unknown 'redshift'"),
        ({"theta_E": -1}, "theta_E is -1"),
        ({"theta_E": 10**400}, "theta_E is inf"),
        ({"e1": math.nan}, "e1 is nan"),
        ({"e1": 0.99}, "ellipticity"),
        ({"gamma1": "0.1"}, "gamma1 is '0.1'"),
        ({"gamma2": [0.1]}, "gamma2"),
    ],
)
def test_a_bad_lens_is_named_with_its_file(tmp_path, changes, complaint):
    with pytest.raises(InputError, match=f"^{tmp_path}/lens.json.*{complaint}"):
        io.read_lens(lens_file(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"theta_E = 1", b"\xff\xfe", b"[1, 2]", b"3"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "lens.json").write_bytes(content)
    with pytest.raises(InputError, match="lens.json is not"):
        io.read_lens(tmp_path / "lens.json")


def test_a_lens_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="lens.json does not exist"):
        io.read_lens(tmp_path / "lens.json")
    with pytest.raises(InputError, match="cannot be read"):
        io.read_lens(tmp_path)


# -------------------------------------------------------------------------------------------------- writing


def reconstruction(rng, psf=0.05):
    mask = np.ones((9, 12), bool)
    mask[1, 2] = False
    return Reconstruction(
        source=rng.random((6, 6)).astype(np.float32),
        source_pixel_scale=0.02,
        model_image=rng.random((9, 12)).astype(np.float32),
        iterates=np.zeros((2, 6, 6), np.float32),
        observation=Observation(rng.random((9, 12)), 0.1, psf, mask, 0.05),
        lens=LENS,
        seconds=0.5,
        flux_outside=0.0,
    )


@pytest.mark.parametrize("psf", [0.05, np.full((3, 5), 1 / 15)])
def test_what_is_written_is_enough_to_start_again(tmp_path, rng, psf):
    result = reconstruction(rng, psf)
    path = tmp_path / "result.fits"
    io.write_reconstruction(result, path, "small", lens_light=np.ones((9, 12)), provenance={"IN_IMAGE": "ä\n.fits"})
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert [header[name.upper()] for name in LENS_PARAMETERS] == list(LENS.as_tuple())
        assert (header["SRCSCALE"], header["WEIGHTS"], header["CHI2PIX"]) == (0.02, "small", result.chi2_per_pixel)
        np.testing.assert_array_equal(hdus["SOURCE"].data, result.source)
        np.testing.assert_array_equal(hdus["MODEL"].data, result.model_image)
        np.testing.assert_allclose(hdus["RESIDUAL"].data, result.residual, rtol=1e-6)
        assert np.isnan(hdus["RESIDUAL"].data[1, 2])
        assert hdus["LENSLIGHT"].data.shape == (9, 12)
        # The centre of the field is (0, 0) and a pixel is a pixel.
        world = WCS(hdus["SOURCE"].header).all_pix2world([[2.5, 2.5], [3.5, 2.5]], 0)
        np.testing.assert_allclose(world, [[0, 0], [0.02, 0]], atol=1e-12)
    again = io.read_observation(
        f"{path}[DATA]", f"{path}[NOISE]", psf if isinstance(psf, float) else f"{path}[PSF]", f"{path}[MASK]"
    )
    for name in ("image", "noise", "mask", "psf", "pixel_scale"):
        np.testing.assert_allclose(getattr(again, name), getattr(result.observation, name), rtol=1e-6)


def test_numbers_that_are_not_finite_become_null_in_json(tmp_path):
    io.write_json({"a": math.nan, "b": [np.float32(np.inf), (1, 2)], "c": {"d": np.int64(3)}}, tmp_path / "s.json")
    values = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert values == {"a": None, "b": [None, [1, 2]], "c": {"d": 3}}


def test_a_source_without_flux_can_be_written(tmp_path, rng):
    result = reconstruction(rng)
    result.source[:] = 0
    io.write_reconstruction(result, tmp_path / "dark.fits")
    with fits.open(tmp_path / "dark.fits") as hdus:
        assert hdus[0].header["MAGNIF"] is None


def test_nothing_half_written_stays_behind(tmp_path, rng, monkeypatch):
    result = reconstruction(rng)
    with pytest.raises(InputError, match="nowhere/result.fits cannot be written"):
        io.write_reconstruction(result, tmp_path / "nowhere" / "result.fits")
    (tmp_path / "result.fits").write_text("earlier work")

    def disk_full(self, file, **_):
        file.write_bytes(b"SIMPLE")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", disk_full)
    with pytest.raises(InputError, match="result.fits cannot be written: No space left"):
        io.write_reconstruction(result, tmp_path / "result.fits")
    assert [p.name for p in tmp_path.iterdir()] == ["result.fits"]
    assert (tmp_path / "result.fits").read_text() == "earlier work"


@pytest.mark.parametrize("psf", [0.05, np.full((3, 3), 1 / 9)])
def test_a_simulation_is_read_back_as_it_was(tmp_path, rng, psf):
    observation = Observation(rng.normal(size=(9, 9)), 0.1, psf, None, 0.08)
    io.write_simulation(tmp_path, observation, LENS, np.ones((4, 6)), 0.03, np.ones((9, 9)))
    psf_file = tmp_path / "psf.fits"
    assert psf_file.exists() == (not isinstance(psf, float))
    again = io.read_observation(
        tmp_path / "image.fits",
        tmp_path / "noise.fits",
        psf_file if psf_file.exists() else psf,
        tmp_path / "mask.fits",
    )
    for name in ("image", "noise", "mask", "psf", "pixel_scale"):
        np.testing.assert_allclose(getattr(again, name), getattr(observation, name), rtol=1e-6)
    assert io.read_lens(tmp_path / "lens.json") == LENS
    assert io.read_image(tmp_path / "truth.fits")[1] == 0.03
