import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from rim_tf import io
from rim_tf.errors import InputError, InputWarning


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


def test_sky_coordinates_without_a_size_of_the_pixel_say_nothing(tmp_path, image):
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0})
    path = write(tmp_path / "a.fits", ("SCI", image), headers=[header])
    assert io.read_image(path)[1] is None  # and not 3600 arcsec
    with pytest.raises(InputError, match="a.fits has no pixel scale"):
        io.read_observation(path, 0.1, 0.05)
    fits.setval(path, "PIXSCALE", value=0.04, ext=1)
    assert io.read_image(path)[1] == 0.04


@pytest.mark.parametrize(
    "header",
    [fits.Header({"PIXSCALE": 1e300}), fits.Header({"PIXSCALE": "wide"}), fits.Header({"PIXSCALE": 0}), "degrees"],
)
def test_a_pixel_scale_that_cannot_be_is_refused_unless_another_is_given(tmp_path, image, header):
    header = sky_header(3600, 3600) if header == "degrees" else header
    path = write(tmp_path / "a.fits", ("SCI", image), headers=[header])
    with pytest.raises(InputError, match="a.fits is .*; it must be a number above 0"):
        io.read_image(path)
    assert io.read_observation(path, 0.1, 0.05, pixel_scale=0.05).pixel_scale == 0.05


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


@pytest.mark.parametrize("hdu", ["ERR", 9, "9", "NOISE,2", "NOISE,\u00b2", "\u00b2", "NOISE,x", "-7", "9" * 5000])
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


@pytest.mark.parametrize("shape", [(100_000, 100_000), (2, 10**10)])
def test_an_image_larger_than_the_memory_is_refused_by_its_header(tmp_path, shape):
    header = fits.PrimaryHDU(np.zeros((2, 2), np.float32)).header
    header["NAXIS1"], header["NAXIS2"] = shape
    (tmp_path / "header.fits").write_bytes(header.tostring().encode())
    for path in ("header.fits", "header.fits[0]"):
        with pytest.raises(InputError, match="header.fits, HDU PRIMARY, takes about .* GB of memory"):
            io.read_image(tmp_path / path)


def test_a_file_of_holes_is_refused_before_it_is_read(tmp_path):
    header = fits.PrimaryHDU(np.zeros((2, 2), np.float32)).header
    header["NAXIS1"] = header["NAXIS2"] = 100_000
    path = tmp_path / "sparse.fits"
    path.write_bytes(header.tostring().encode())
    os.truncate(path, 2880 + 4 * 10**10)
    with pytest.raises(InputError, match="sparse.fits, HDU PRIMARY, takes about"):
        io.read_image(path)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_what_has_no_end_is_not_opened(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for path in (name, f"{name}[SCI]"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            io.read_image(path)


def test_a_damaged_file_is_named_wherever_it_is_damaged(tmp_path, many, rng):
    whole = many.read_bytes()
    path = tmp_path / "damaged.fits"
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole) if rng.random() < 0.5 else 6000, rng.integers(1, 5)):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else damaged))
        try:
            pixels, scale = io.read_image(path)
        except InputError as error:
            assert "damaged.fits" in str(error)
        else:
            assert pixels.ndim == 2 and (scale is None or 0 < scale < 1e4)


def test_neither_keras_nor_tensorflow_is_imported_to_read(many):
    code = f"""
import sys
from rim_tf import io
io.read_observation({str(many)!r}, {f"{many}[NOISE]"!r}, 0.05)
print([name for name in ("tensorflow", "keras", "matplotlib", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


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


def test_the_sky_is_handed_on_where_it_agrees_with_the_pixel_scale(tmp_path, many, image):
    header = sky_header(0.05, 0.05)
    path = write(tmp_path / "sky.fits", ("SCI", image), headers=[header])
    sky = WCS(io.read_observation(path, 0.1, 0.05).sky)
    # Pixels count from the centre of the field there, which is pixel (6, 4.5) of FITS here.
    np.testing.assert_allclose(
        sky.wcs_pix2world([[0, 0], [3, -2]], 1), WCS(header).wcs_pix2world([[6, 4.5], [9, 2.5]], 1)
    )
    assert io.read_observation(many, 0.1, 0.05).sky is None
    with pytest.warns(InputWarning, match="the given pixel scale is used"):
        assert io.read_observation(path, 0.1, 0.05, pixel_scale=0.1).sky is None


def test_a_psf_with_other_pixels_is_warned_of(tmp_path, many):
    header = fits.Header({"PIXSCALE": 0.0125})
    path = write(tmp_path / "psf.fits", ("PSF", np.full((3, 3), 1 / 9)), headers=[header])
    with pytest.warns(InputWarning, match="psf.fits says its pixels are 0.0125"):
        io.read_observation(many, 0.1, path)


@pytest.mark.parametrize("which", ["noise", "psf", "mask"])
def test_what_is_wrong_with_a_file_names_it(tmp_path, many, which):
    path = write(tmp_path / "odd.fits", ("ODD", np.zeros((4, 4))))
    with pytest.raises(InputError, match=f"odd.fits: {which} has shape"):
        io.read_observation(many, **({"noise": 0.1, "psf": 0.05} | {which: path}))
    with pytest.raises(InputError, match="^noise is -1"):
        io.read_observation(many, -1.0, 0.05)


@pytest.mark.parametrize("which", ["noise", "psf", "mask"])
def test_the_image_is_not_taken_for_its_own_noise(many, which):
    arguments = {"noise": 0.1, "psf": 0.05} | {which: str(many)}
    with pytest.raises(InputError, match=f"The {which} is .* the image itself"):
        io.read_observation(many, **arguments)
