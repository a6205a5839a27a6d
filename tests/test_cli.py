import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from rim_tf import __version__
from rim_tf.cli import main

LENS = {"theta_E": 0.6, "e1": 0.1, "e2": 0.05, "x_lens": 0.0, "y_lens": 0.02, "gamma1": 0.02, "gamma2": 0.0}
RIM_TF = str(pathlib.Path(sys.executable).with_name("rim-tf"))


def run(*arguments):
    """The command line as a user would type it: the result of click's runner, without a traceback to hide."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of a network as shipped but small and untrained: what is tested is the way to it and back."""
    from rim_tf.config import SMALL
    from rim_tf.models.pretrained import save_trained
    from rim_tf.models.rim import RIM

    path = tmp_path_factory.mktemp("weights") / "tiny"
    save_trained(RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4))), path, {})
    return path.with_suffix(".json")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """The folder of a simulated lens."""
    out = tmp_path_factory.mktemp("simulated") / "lens"
    result = run("simulate", "--seed", 4, "--pixels", 32, "--pixel-scale", 0.1, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def options(simulated, weights, tmp_path):
    """Options of a `reconstruct` that works; "image" is its argument."""
    return {
        "image": simulated / "image.fits",
        "--noise": simulated / "noise.fits",
        "--psf": "0.05",
        "--lens": simulated / "lens.json",
        "--weights": weights,
        "--out": tmp_path / "out",
    }


def reconstruct(options, *flags):
    return run(
        "reconstruct",
        options["image"],
        *flags,
        *(a for o, v in options.items() if o != "image" for a in (o, v)),
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------- what works


def test_a_simulated_lens_goes_round(simulated, weights, tmp_path):
    printed = run("simulate", "--seed", 4, "--pixels", 32, "--pixel-scale", 0.1, "--out", tmp_path / "lens").stdout
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


def test_a_seed_is_a_lens(simulated, tmp_path):
    for seed, out in ((4, "same"), (5, "other")):
        run("simulate", "--seed", seed, "--pixels", 32, "--pixel-scale", 0.1, "--out", tmp_path / out)
    for name in ("image.fits", "truth.fits", "lens.json"):
        original = (simulated / name).read_bytes()
        assert (tmp_path / "same" / name).read_bytes() == original
        assert (tmp_path / "other" / name).read_bytes() != original


def test_a_lens_and_a_source_can_be_given(options, tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    source = np.exp(-0.5 * ((np.mgrid[:20, :20] - 9.5) ** 2).sum(0) / 3**2)
    fits.PrimaryHDU(source, fits.Header({"PIXSCALE": 0.05})).writeto(tmp_path / "source.fits")
    fits.PrimaryHDU(np.full((3, 3), 1 / 9)).writeto(tmp_path / "psf.fits")
    given = (
        "--lens",
        tmp_path / "lens.json",
        "--source",
        tmp_path / "source.fits",
        "--psf",
        tmp_path / "psf.fits",
    )
    result = run("simulate", *given, "--pixels", 33, "--noise", 0.02, "--out", tmp_path / "lens")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "lens" / "lens.json").read_text()) == LENS
    np.testing.assert_allclose(fits.getdata(tmp_path / "lens" / "truth.fits", "SOURCE"), source, rtol=1e-6)
    noiseless = fits.getdata(tmp_path / "lens" / "truth.fits", "MODEL")
    noise = fits.getdata(tmp_path / "lens" / "noise.fits", 1)
    np.testing.assert_allclose(noise, 0.02 * noiseless.max(), rtol=1e-5)
    scatter = (fits.getdata(tmp_path / "lens" / "image.fits", 1) - noiseless) / noise
    assert scatter.std() == pytest.approx(1, abs=0.1)
    command = shlex.split(result.stdout.split("\n\n")[1])
    assert command[command.index("--psf") + 1] == str(tmp_path / "lens" / "psf.fits")
    assert run(*command[1:], "--weights", options["--weights"], "--out", tmp_path / "out").exit_code == 0


def test_a_procedural_source_lies_behind_a_given_lens(tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    out = tmp_path / "lens"
    assert run("simulate", "--lens", tmp_path / "lens.json", "--pixels", 32, "--out", out).exit_code == 0
    magnification = fits.getdata(out / "truth.fits", "MODEL").sum() * 0.08**2
    magnification /= (
        fits.getdata(out / "truth.fits", "SOURCE").sum() * fits.getval(out / "truth.fits", "PIXSCALE", 1) ** 2
    )
    assert magnification > 2


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
        return lens_light.LensLightFit(observation, model, {"sky": 0.01}, ~observation.mask)

    def fit(observation, lens, model):
        return optimise.LensFit(LensParameters(**LENS), [{"stage": "refine", "chi2": 1.0}], None)

    monkeypatch.setattr(lens_light, "subtract_lens_light", subtract)
    monkeypatch.setattr(optimise, "optimise_lens", fit)
    assert reconstruct(options, "--subtract-lens-light", "--fit-lens").exit_code == 0
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


def test_finished_work_is_safe(options):
    out = options["--out"]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert reconstruct(options).exit_code == 0
    before = {name: (out / name).read_bytes() for name in names_in(out)}
    refused = reconstruct(options)
    assert refused.exit_code == 2
    assert "already holds reconstruction.fits" in refused.stderr and "--overwrite" in refused.stderr
    # A run that fails replaces nothing, with --overwrite too.
    assert reconstruct(options | {"--psf": "-1"}, "--overwrite").exit_code == 2
    assert {name: (out / name).read_bytes() for name in names_in(out)} == before
    assert reconstruct(options | {"--psf": "0.06"}, "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "summary.json").read_bytes() != before["summary.json"]


# -------------------------------------------------------------------------------------------- what does not


def changed_lens(**changes):
    def write(folder):
        values = {name: value for name, value in (LENS | changes).items() if value is not None}
        (folder / "lens.json").write_text(json.dumps(values))
        return folder / "lens.json"

    return write


def fits_of(array):
    def write(folder):
        array_here = array() if callable(array) else array
        fits.PrimaryHDU(np.asarray(array_here, np.float32), fits.Header({"PIXSCALE": 0.1})).writeto(folder / "bad.fits")
        return folder / "bad.fits"

    return write


def text_file(folder):
    (folder / "text.fits").write_text("not FITS at all")
    return folder / "text.fits"


def truncated_file(folder):
    path = fits_of(np.ones((32, 32)))(folder)
    path.write_bytes(path.read_bytes()[:4000])
    return path


def truncated_weights(folder):
    from rim_tf.models import pretrained

    for suffix in (".json", ".weights.h5"):
        content = (pretrained.WEIGHTS / f"small{suffix}").read_bytes()
        (folder / f"small{suffix}").write_bytes(content if suffix == ".json" else content[: len(content) // 2])
    return folder / "small.json"


def one_bad_pixel(value):
    noise = np.full((32, 32), 0.1)
    noise[5, 6] = value
    return noise


BAD_INPUT = {
    "missing image": ("image", lambda folder: folder / "no.fits", "no.fits does not exist"),
    "missing noise": ("--noise", lambda folder: folder / "no.fits", "no.fits does not exist"),
    "missing mask": ("--mask", lambda folder: folder / "no.fits", "no.fits does not exist"),
    "missing psf": ("--psf", lambda folder: folder / "no.fits", "no.fits does not exist"),
    "missing lens": ("--lens", lambda folder: folder / "no.json", "no.json does not exist"),
    "not FITS": ("image", text_file, "text.fits is not a FITS file"),
    "truncated image": ("image", truncated_file, "bad.fits"),
    "wrong HDU": ("image", lambda folder: f"{fits_of(np.ones((32, 32)))(folder)}[SCI]", "has no HDU SCI"),
    "3-D image": ("image", fits_of(np.ones((2, 32, 32))), "has 3 dimensions"),
    "all-NaN image": ("image", fits_of(np.full((32, 32), np.nan)), "image has no finite pixel"),
    "noise of another shape": ("--noise", fits_of(np.ones((31, 32))), "noise has shape (31, 32)"),
    "mask of another shape": ("--mask", fits_of(np.ones((32, 31))), "mask has shape (32, 31)"),
    "mask of nothing": ("--mask", fits_of(np.zeros((32, 32))), "masked"),
    "zero noise": ("--noise", "0", "noise is 0"),
    "negative noise": ("--noise", "-0.1", "noise is -0.1"),
    "NaN noise": ("--noise", "nan", "noise is nan"),
    "zero in noise map": ("--noise", fits_of(one_bad_pixel(0.0)), "noise is 0 at row 5, column 6"),
    "negative in noise map": ("--noise", fits_of(one_bad_pixel(-1.0)), "noise is -1 at row 5, column 6"),
    "NaN in noise map": ("--noise", fits_of(one_bad_pixel(np.nan)), "noise is nan at row 5, column 6"),
    "even PSF": ("--psf", fits_of(np.full((4, 4), 1 / 16)), "psf has shape (4, 4); its sides must be odd"),
    "all-zero PSF": ("--psf", fits_of(np.zeros((3, 3))), "psf sums to 0"),
    "negative-sum PSF": ("--psf", fits_of(np.full((3, 3), -1.0)), "psf sums to -9"),
    "negative PSF sigma": ("--psf", "-0.1", "psf is -0.1"),
    "lens out of range": ("--lens", changed_lens(theta_E=-1.0), "theta_E is -1"),
    "ellipticity out of range": ("--lens", changed_lens(e1=0.99), "ellipticity"),
    "lens parameter missing": ("--lens", changed_lens(e1=None), "lens.json lacks e1"),
    "lens parameter misspelt": ("--lens", changed_lens(theta_E=None, thetaE=1.0), "did you mean 'theta_E'"),
    "lens no JSON": ("--lens", text_file, "text.fits is not JSON"),
    "truncated weights": ("--weights", truncated_weights, "small.weights.h5 is truncated"),
    "unknown weights": ("--weights", "huge", "no weights 'huge'"),
    "truth of another grid": ("--truth", fits_of(np.ones((9, 9))), "truth has shape (9, 9)"),
    "no pixel scale": ("image", lambda folder: no_scale(folder), "has no pixel scale"),
}


def no_scale(folder):
    fits.PrimaryHDU(np.ones((32, 32))).writeto(folder / "bare.fits")
    return folder / "bare.fits"


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(options, tmp_path, case):
    option, value, complaint = BAD_INPUT[case]
    work = tmp_path / "work"
    work.mkdir()
    result = reconstruct(
        options | {option: value(work) if callable(value) else value, "--out": tmp_path / "new" / "out"}
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert complaint in result.stderr
    assert result.stdout == ""
    assert names_in(tmp_path) == ["work"]  # neither the results nor the folder for them


@pytest.mark.parametrize(
    "arguments", [["--pixel-scale", "0"], ["--source-pixels", "2"], ["--source-pixel-scale", "-1"]]
)
def test_options_out_of_range_are_usage_errors(options, arguments):
    result = reconstruct(options, *arguments)
    assert result.exit_code == 2 and arguments[0] in result.stderr
    assert not options["--out"].exists()


def test_arcs_that_leave_the_source_plane_are_warned_of(options, tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS | {"theta_E": 0.01}))
    result = reconstruct(options | {"--lens": tmp_path / "lens.json", "--source-pixel-scale": 0.005})
    assert result.exit_code == 0
    assert "Warning: " in result.stderr and "% of the image's flux comes from outside" in result.stderr


def test_a_file_in_place_of_the_folder_is_refused(options, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        result = reconstruct(options | {"--out": out})
        assert result.exit_code == 2
        assert result.stderr == f"Error: {tmp_path / 'file'} is a file; --out must be a folder.\n"


def test_a_folder_that_cannot_be_written_is_refused(options, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # Root may write anywhere, but not there.
    out = (locked if os.geteuid() != 0 else pathlib.Path("/proc")) / "out"
    result = reconstruct(options | {"--out": out})
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {out} cannot be written: ")


def test_a_full_disk_leaves_nothing_behind(options, tmp_path, monkeypatch):
    def disk_full(self, file, **_):
        file.write_bytes(b"SIMPLE")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", disk_full)
    result = reconstruct(options)
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--psf", "psf.fits", "--psf-sigma", "0.1"], "exclude each other"),
        (["--noise", "0"], "--noise"),
        (["--pixels", "3"], "--pixels"),
        (["--seed", "-1"], "--seed"),
        (["--lens", "no.json"], "no.json does not exist"),
        (["--source", "no.fits"], "no.fits does not exist"),
        (["--psf", "no.fits"], "no.fits does not exist"),
    ],
)
def test_bad_simulations_are_refused_and_leave_nothing_behind(tmp_path, arguments, complaint):
    result = run("simulate", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2 and complaint in result.stderr
    assert names_in(tmp_path) == []


def test_a_source_of_nothing_is_refused(tmp_path):
    fits_of(np.zeros((8, 8)))(tmp_path)
    result = run("simulate", "--source", tmp_path / "bad.fits", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "bad.fits" in result.stderr
    assert names_in(tmp_path) == ["bad.fits"]


# ----------------------------------------------------------------------------------------- as a process


def test_help_and_import_are_quick():
    heavy = "tensorflow", "keras", "matplotlib", "astropy", "numpy"
    code = f"import sys, rim_tf, rim_tf.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

    def seconds():
        started = time.perf_counter()
        assert "reconstruct" in subprocess.run([RIM_TF, "--help"], capture_output=True, text=True, check=True).stdout
        return time.perf_counter() - started

    # The least of a few, as the machine may be busy with other things.
    assert min(seconds() for _ in range(5)) < 0.5


def test_a_process_says_one_sentence_and_no_more(tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    command = [RIM_TF, "reconstruct", "no.fits", "--noise", "0.1", "--psf", "0.05", "--lens", "lens.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: no.fits does not exist.\n"
    assert names_in(tmp_path) == ["lens.json"]


def test_the_demo_shows_the_truth_and_can_be_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    assert "RMS error" in result.stdout and "chi^2 per pixel" in result.stdout
    assert names_in(tmp_path / "demo") == [
        "lens",
        "reconstruction.fits",
        "reconstruction.png",
        "summary.json",
    ]
    assert "compared_with_truth" in json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert run("demo").exit_code == 2
    assert run("demo", "--overwrite").exit_code == 0


def test_linear_inversion_is_a_method(options, tmp_path):
    from rim_tf.inference.linear.inversion import invert
    from rim_tf.io import read_lens, read_observation

    result = reconstruct(options | {"--method": "inversion", "--regularisation": "curvature"})
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    observation = read_observation(options["image"], options["--noise"], 0.05)
    expected = invert(observation, read_lens(options["--lens"]), regularisation="curvature")
    assert summary["method"] == "inversion" and summary["weights"] is None
    np.testing.assert_allclose(summary["log_evidence"], expected.log_evidence, rtol=1e-6)
    with fits.open(tmp_path / "out" / "reconstruction.fits") as hdus:
        np.testing.assert_allclose(hdus["SOURCE"].data, expected.source, atol=1e-5)
        np.testing.assert_allclose(hdus["STDDEV"].data, expected.standard_deviation, rtol=1e-3)


def test_matrix_free_inversion_has_errors_where_samples_are_asked_for(options, tmp_path):
    result = reconstruct(options | {"--method": "inversion", "--solver": "matrix-free", "--samples": 3})
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["solver"] == "matrix-free"
    with fits.open(tmp_path / "out" / "reconstruction.fits") as hdus:
        assert np.all(hdus["STDDEV"].data > 0)


def test_settings_of_the_inversion_need_it(options, tmp_path):
    result = reconstruct(options | {"--strength": 10}, "--non-negative")
    assert result.exit_code == 2 and "--non-negative, --strength" in result.stderr and "--method" in result.stderr
    assert not (tmp_path / "out").exists()
    result = reconstruct(options | {"--method": "inversion", "--boundary": "periodic"})
    assert result.exit_code == 2 and "boundary is 'periodic'" in result.stderr
