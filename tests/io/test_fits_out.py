import dataclasses
import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from rim_tf import io
from rim_tf.errors import InputError
from rim_tf.lens import LENS_PARAMETERS, Component, CompositeLens, LensParameters, lens_from_dict
from rim_tf.observation import Observation
from rim_tf.results import Reconstruction, SourceErrors

LENS = LensParameters(1.2, 0.1, -0.05, 0.02, -0.03, 0.04, 0.01)


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
        chi2_per_pixel=1.0,
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


def test_draws_of_a_source_are_stored_with_what_they_come_to(tmp_path, rng):
    samples = rng.random((30, 6, 8))
    names = ("flux", "magnification", "source_peak", "half_light_radius")
    errors = SourceErrors(samples=samples, figures={name: rng.random(30) for name in names})
    path = tmp_path / "sources.fits"
    io.write_sources(path, errors, 0.02, (0.3, -0.1), {"METHOD": "rim"})
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert (header["METHOD"], header["NDRAWS"], header["SRCSCALE"]) == ("rim", 30, 0.02)
        assert header["MAGNERR"] == pytest.approx(errors.summary()["magnification"]["error"])
        np.testing.assert_allclose(hdus["SAMPLES"].data, samples, rtol=1e-6)
        np.testing.assert_allclose(hdus["MEAN"].data, samples.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(hdus["STDDEV"].data, samples.std(axis=0), rtol=1e-6)
        for name in names:
            np.testing.assert_array_equal(hdus["FIGURES"].data[name], errors.figures[name])
        for name in ("MEAN", "SAMPLES"):
            world = WCS(hdus[name].header, naxis=2).all_pix2world([[3.5, 2.5], [4.5, 3.5]], 0)
            np.testing.assert_allclose(world, [[0.3, -0.1], [0.32, -0.08]], atol=1e-12)


def test_the_sky_of_the_input_is_that_of_the_output(tmp_path, rng):
    sky = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0})
    sky.update({"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600, "CRPIX1": 2.0, "CRPIX2": -1.0})
    result = reconstruction(rng)
    result = dataclasses.replace(result, observation=dataclasses.replace(result.observation, sky=sky))
    io.write_reconstruction(result, tmp_path / "result.fits", lens_light=np.ones((9, 12)))
    with fits.open(tmp_path / "result.fits") as hdus:
        hdus.verify("exception")
        for name in ("MODEL", "RESIDUAL", "DATA", "NOISE", "MASK", "LENSLIGHT"):
            wcs = WCS(hdus[name].header)
            assert wcs.has_celestial
            # 2 to the right of the centre and 1 below it, counted from 1: the pixel of (150, 2) degrees.
            np.testing.assert_allclose(wcs.wcs_pix2world([[6.5 + 2, 5 - 1]], 1), [[150, 2]], atol=1e-9)
            np.testing.assert_allclose(
                WCS(hdus[name].header, key="A").wcs_pix2world([[7.5, 5]], 1), [[0.05, 0]], atol=1e-9
            )
        assert not WCS(hdus["SOURCE"].header).has_celestial
    again = io.read_observation(f"{tmp_path}/result.fits[DATA]", 0.1, 0.05, f"{tmp_path}/result.fits[MASK]")
    assert again.pixel_scale == 0.05
    assert again.sky["CRPIX1"] == pytest.approx(2) and again.sky["CRPIX2"] == pytest.approx(-1)


def test_a_lens_of_components_is_in_the_header(tmp_path, rng):
    lens = CompositeLens(
        Component("power_law", theta_E=1.1, slope=2.1, x_lens=0.02),
        Component("sie", theta_E=0.3, x_lens=1.0),
        Component("shear", gamma1=0.1),
    )
    result = dataclasses.replace(reconstruction(rng), lens=lens)
    io.write_reconstruction(result, tmp_path / "result.fits")
    header = fits.getheader(tmp_path / "result.fits")
    assert (header["THETA_E_1"], header["SLOPE"], header["X_LENS_2"], header["GAMMA1"]) == (1.1, 2.1, 1.0, 0.1)
    assert lens_from_dict(json.loads(header["LENS"])) == lens


@pytest.mark.parametrize("peak", [1e-60, 1e-20, 1.0, 1e60])
def test_brightness_of_any_unit_comes_back(tmp_path, rng, peak):
    result = reconstruction(rng)
    source = peak * result.source.astype(float)
    io.write_reconstruction(dataclasses.replace(result, source=source), tmp_path / "result.fits")
    np.testing.assert_allclose(fits.getdata(tmp_path / "result.fits", "SOURCE"), source, rtol=1e-6)


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
