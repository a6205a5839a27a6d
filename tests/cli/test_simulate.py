import json
import shlex

import numpy as np
import pytest
from astropy.io import fits
from commands import LENS, SIMULATED, fits_of, names_in, run


def test_a_seed_is_a_lens(simulated, tmp_path):
    for seed, out in ((4, "same"), (5, "other")):
        run("simulate", *SIMULATED, "--seed", seed, "--out", tmp_path / out)
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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--psf", "psf.fits", "--psf-sigma", "0.1"], "exclude each other"),
        (["--noise", "0"], "--noise"),
        (["--pixels", "3"], "--pixels"),
        (["--seed", "-1"], "--seed"),
        (["--pixel-scale", "nan"], "nan is not a finite number"),
        (["--pixel-scale", "inf"], "inf is not a finite number"),
        (["--pixel-scale", "1e30"], "pixel_scale is 1e+30"),
        (["--pixel-scale", "1e-30"], "pixel_scale is 1e-30"),
        (["--noise", "nan"], "nan is not a finite number"),
        (["--pixels", "10000000000"], "GB of memory"),
        (["--psf-sigma", "inf"], "inf is not a finite number"),
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


def test_a_lens_with_its_galaxy_is_to_be_found_from_the_image_alone(tmp_path):
    from astropy.io import fits

    printed = run("simulate", *SIMULATED, "--lens-galaxy", 0.5, "--out", tmp_path / "lens").stdout
    command = next(line for line in printed.splitlines() if line.startswith("  rim-tf"))
    assert command.startswith("  rim-tf model ") and "--truth-lens" in command and "--lens " not in command
    assert fits.getheader(tmp_path / "lens" / "image.fits")["GALAXY"] == 0.5
