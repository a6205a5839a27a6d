import dataclasses
import json
import shlex

import numpy as np
import pytest
from astropy.io import fits
from commands import LENS, SIMULATED, names_in, reconstruct, run

from rim_tf import __version__
from rim_tf.config import setting
from rim_tf.inference import methods
from rim_tf.results import SourceFit


def test_a_simulated_lens_goes_round(simulated, weights, tmp_path):
    printed = run("simulate", *SIMULATED, "--out", tmp_path / "lens").stdout
    # The command that `simulate` prints is the one that works.
    command = shlex.split(next(line for line in printed.splitlines() if line.startswith("  rim-tf")))
    result = run(*command[1:], "--weights", weights, "--out", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr == ""
    assert "chi^2 per pixel" in result.stdout and "RMS error" in result.stdout
    assert names_in(tmp_path / "out") == ["reconstruction.fits", "reconstruction.png", "summary.json"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["lens"] == json.loads((simulated / "lens.json").read_text())
    assert summary["versions"]["rim_tf"] == __version__
    assert {"chi2_per_pixel", "flux", "magnification", "seconds", "compared_with_truth"} <= set(summary)
    with fits.open(tmp_path / "out" / "reconstruction.fits") as hdus:
        assert hdus[0].header["CHI2PIX"] == summary["chi2_per_pixel"]
        assert hdus["SOURCE"].data.shape == (32, 32)
        np.testing.assert_array_equal(hdus["DATA"].data, fits.getdata(simulated / "image.fits", 1))


def test_a_result_can_be_reconstructed_again(options, tmp_path):
    assert reconstruct(options).exit_code == 0
    first = options["--out"] / "reconstruction.fits"
    again = options | {
        "image": f"{first}[DATA]",
        "--noise": f"{first}[NOISE]",
        "--mask": f"{first}[MASK]",
        "--out": tmp_path / "again",
    }
    assert reconstruct(again).exit_code == 0
    np.testing.assert_array_equal(
        fits.getdata(tmp_path / "again" / "reconstruction.fits", "SOURCE"), fits.getdata(first, "SOURCE")
    )


def test_warnings_are_lines_each_said_once(options, tmp_path, simulated):
    image = fits.getdata(simulated / "image.fits", 1)
    image[0, :3] = np.nan
    fits.PrimaryHDU(image).writeto(tmp_path / "image.fits")
    result = reconstruct(options | {"image": tmp_path / "image.fits", "--pixel-scale": 0.1})
    assert result.exit_code == 0
    assert result.stderr == "Warning: 3 pixels of image are NaN or infinite and are masked.\n"
    assert np.isnan(fits.getdata(options["--out"] / "reconstruction.fits", "RESIDUAL")[0, :3]).all()


def test_lens_light_and_lens_fit_are_written(options, monkeypatch):
    from rim_tf.inference import lens_light, optimise
    from rim_tf.lens import LensParameters

    def subtract(observation, lens):
        model = np.full(observation.shape, 0.01, np.float32)
        observation = dataclasses.replace(observation, image=observation.image - model)
        given = np.zeros(8), np.array([0.01]), ~observation.mask, np.zeros(model.shape), np.ones((1, *model.shape))
        return lens_light.LensLightFit(observation, model, {"sky": 0.01}, *given)

    def fit(observation, lens, model, fixed, progress, n_rim_steps):
        assert fixed == ("x_lens", "gamma1")
        for done in range(20):
            progress(done, 20)
        return optimise.LensFit(LensParameters(**LENS), [{"stage": "refine", "chi2": 1.0}], None, None, {})

    monkeypatch.setattr(lens_light, "subtract_lens_light", subtract)
    monkeypatch.setattr(optimise, "optimise_lens", fit)
    flags = ["--subtract-lens-light", "--fit-lens", "--fixed", "x_lens", "--fixed", "gamma1"]
    result = reconstruct(options, *flags)
    assert result.exit_code == 0 and "  18 of at most 20 steps" in result.stderr
    out = options["--out"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["lens"] == json.loads((out / "fitted_lens.json").read_text()) == LENS
    assert summary["lens_fit"]["start"] != LENS and summary["lens_light"] == {"sky": 0.01}
    with fits.open(out / "reconstruction.fits") as hdus:
        assert hdus[0].header["THETA_E"] == LENS["theta_E"] and hdus[0].header["LENSFIT"]
        light = hdus["LENSLIGHT"].data
        np.testing.assert_allclose(hdus["DATA"].data + light, fits.getdata(options["image"], 1), atol=1e-6)
    # What belongs to another run does not stay beside new results.
    assert reconstruct(options, "--overwrite").exit_code == 0
    assert "fitted_lens.json" not in names_in(out)


def test_arcs_that_leave_the_source_plane_are_warned_of(options, tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS | {"theta_E": 0.01}))
    result = reconstruct(options | {"--lens": tmp_path / "lens.json", "--source-pixel-scale": 0.005})
    assert result.exit_code == 0
    assert "Warning: " in result.stderr and "% of the image's flux comes from outside" in result.stderr


@pytest.mark.parametrize("unit", [1e-19, 1e-35, 1e25])
def test_brightness_may_have_any_unit(options, tmp_path, unit):
    for name, option in (("image", "image"), ("noise", "--noise")):
        array = unit * fits.getdata(options[option], 1).astype(float)
        fits.PrimaryHDU(array, fits.Header({"PIXSCALE": 0.1})).writeto(tmp_path / f"{name}.fits")
    scaled = options | {
        "image": tmp_path / "image.fits",
        "--noise": tmp_path / "noise.fits",
        "--out": tmp_path / "scaled",
    }
    results = [reconstruct(each) for each in (options, scaled)]
    assert [result.exit_code for result in results] == [0, 0] and results[0].stderr == results[1].stderr
    summaries = [json.loads((each["--out"] / "summary.json").read_text()) for each in (options, scaled)]
    for name, power in (("chi2_per_pixel", 0), ("magnification", 0), ("flux", 1), ("source_peak", 1)):
        assert summaries[1][name] == pytest.approx(unit**power * summaries[0][name], rel=1e-3)
    sources = [fits.getdata(each["--out"] / "reconstruction.fits", "SOURCE") for each in (options, scaled)]
    np.testing.assert_allclose(sources[1] / unit, sources[0], atol=1e-3 * sources[0].max())


def test_a_psf_of_even_sides_can_be_centred(options, tmp_path):
    y, x = np.mgrid[:8, :8] - 3.5
    psf = np.exp(-(x**2 + y**2) / 2)
    fits.PrimaryHDU(psf / psf.sum()).writeto(tmp_path / "psf.fits")
    given = options | {"--psf": tmp_path / "psf.fits"}
    refused = reconstruct(given)
    assert refused.exit_code == 2 and "sides must be odd" in refused.stderr and "--centre-psf" in refused.stderr
    assert reconstruct(given, "--centre-psf").exit_code == 0
    stamp = fits.getdata(options["--out"] / "reconstruction.fits", "PSF")
    assert stamp.shape == (9, 9) and np.unravel_index(stamp.argmax(), stamp.shape) == (4, 4)


@pytest.fixture
def options_of_inversion(options):
    return {name: value for name, value in options.items() if name != "--weights"}


def test_linear_inversion_is_a_command(options, options_of_inversion, tmp_path):
    from rim_tf.inference.linear.inversion import invert
    from rim_tf.io import read_lens, read_observation

    result = reconstruct(options_of_inversion | {"--regularisation": "curvature"}, command="invert")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    observation = read_observation(options["image"], options["--noise"], 0.05)
    expected = invert(observation, read_lens(options["--lens"]), regularisation="curvature")
    assert summary["method"] == "inversion" and summary["weights"] is None
    np.testing.assert_allclose(summary["log_evidence"], expected.log_evidence, rtol=1e-6)
    with fits.open(tmp_path / "out" / "reconstruction.fits") as hdus:
        np.testing.assert_allclose(hdus["SOURCE"].data, expected.source, atol=1e-5)
        np.testing.assert_allclose(hdus["STDDEV"].data, expected.standard_deviation, rtol=1e-3)


def test_matrix_free_inversion_has_errors_where_samples_are_asked_for(options_of_inversion, tmp_path):
    result = reconstruct(options_of_inversion | {"--solver": "matrix-free", "--samples": 3}, command="invert")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["solver"] == "matrix-free"
    with fits.open(tmp_path / "out" / "reconstruction.fits") as hdus:
        assert np.all(hdus["STDDEV"].data > 0)


def test_errors_of_an_inversion_are_in_table_and_files(options_of_inversion, tmp_path):
    result = reconstruct(options_of_inversion | {"--samples": 20}, "--errors", command="invert")
    assert result.exit_code == 0, result.output
    assert "half-light radius" in result.stdout and result.stdout.count(" +- ") == 4
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["source_errors"]
    assert set(summary) == {"flux", "magnification", "source_peak", "half_light_radius"}
    header = fits.getheader(tmp_path / "out" / "reconstruction.fits")
    np.testing.assert_allclose(header["FLUXERR"], summary["flux"]["error"], rtol=1e-6)
    assert header["NDRAWS"] == 20


def test_errors_of_another_rim_are_refused_before_anything_is_written(options):
    refused = reconstruct(options, "--errors")
    assert refused.exit_code == 2 and "and the RIM that was given is another" in refused.stderr
    assert not options["--out"].exists()


def test_a_method_has_its_own_options_and_no_others(options, options_of_inversion):
    refused = reconstruct(options | {"--strength": 10})
    assert refused.exit_code == 2 and "No such option '--strength'" in refused.stderr
    refused = reconstruct(options_of_inversion | {"--boundary": "periodic"}, command="invert")
    assert refused.exit_code == 2 and "'periodic' is not one of 'zero', 'suyu', 'free'" in refused.stderr
    assert not options["--out"].exists()


def test_a_method_that_is_registered_is_a_command(options_of_inversion, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Settings:
        level: float = setting(2.0, "Brightness everywhere.", above=0)

    class Flat:
        def __init__(self, settings):
            self.level = settings.level

        def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
            (data,), (lens,) = observations, lenses
            source, model = np.full((8, 8), self.level), np.zeros(data.shape)
            fit = {
                "source": source,
                "source_pixel_scale": 0.1,
                "model_image": model,
                "seconds": 0.0,
                "chi2_per_pixel": 1.0,
                "flux_outside": 0.0,
            }
            return [SourceFit(observation=data, lens=lens, **fit)]

    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    methods.register(methods.Method("flat", "flatten", "flat source", "k", Settings, Flat))
    assert "flatten      Find the source behind a lens by flat source." in run("--help").stdout
    assert "--level" in run("flatten", "--help").stdout
    result = reconstruct(options_of_inversion | {"--level": 3}, command="flatten")
    assert result.exit_code == 0, result.output
    summary = json.loads((options_of_inversion["--out"] / "summary.json").read_text())
    assert summary["method"] == "flat" and summary["settings"] == {"level": 3.0}
    assert (fits.getdata(options_of_inversion["--out"] / "reconstruction.fits", "SOURCE") == 3).all()
