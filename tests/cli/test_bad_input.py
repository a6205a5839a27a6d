"""What cannot be used is told in one sentence, and nothing is left behind."""

import json
import os

import numpy as np
import pytest
from astropy.io import fits
from commands import LENS, fits_of, names_in, reconstruct


def changed_lens(**changes):
    def write(folder):
        values = {name: value for name, value in (LENS | changes).items() if value is not None}
        (folder / "lens.json").write_text(json.dumps(values))
        return folder / "lens.json"

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


def repeated_name(folder):
    text = changed_lens()(folder).read_text()
    (folder / "lens.json").write_text(text.replace("{", '{"theta_E": 0.7, ', 1))
    return folder / "lens.json"


def pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def larger_than_memory(folder):
    path = fits_of(np.ones((32, 32)))(folder)
    path.write_bytes(path.read_bytes()[:2880].replace(b"=                   32", b"=              2000000"))
    return path


def bright_block():
    image = np.ones((32, 32))
    image[4:12, 4:12] = 1e30
    return image


def no_scale(folder):
    fits.PrimaryHDU(np.ones((32, 32))).writeto(folder / "bare.fits")
    return folder / "bare.fits"


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
    "lens parameter twice": ("--lens", repeated_name, "'theta_E' stands twice in one object"),
    "pipe": ("image", pipe, "pipe cannot be read: it is a pipe or a device"),
    "no end": ("--noise", "/dev/zero", "/dev/zero cannot be read: it is a pipe or a device"),
    "pipe of a lens": ("--lens", pipe, "pipe cannot be read: it is a pipe or a device"),
    "cloud": ("image", "gs://bucket/lens.fits", "gs://bucket/lens.fits is an address and no file"),
    "web": ("--psf", "http://example.org/psf.fits[PSF]", "is an address and no file"),
    "superscript": ("image", lambda folder: f"{fits_of(np.ones((32, 32)))(folder)}[IMAGE,\u00b2]", "has no HDU IMAGE"),
    "larger than memory": ("image", larger_than_memory, "GB of memory"),
    "source larger than memory": ("--source-pixels", "10000000", "GB of memory"),
    "huge pixels": ("--pixel-scale", "1e300", "pixel_scale is 1e+300"),
    "block of 1e30": ("image", fits_of(lambda: bright_block()), "which no telescope reaches"),
    "truth of NaN": ("--truth", fits_of(np.full((32, 32), np.nan)), "bad.fits has pixels that are NaN"),
    "truth of other pixels": ("--truth", fits_of(np.ones((32, 32))), "truth has pixels of 0.1 arcsec"),
    "truth of another grid": ("--truth", fits_of(np.ones((9, 9))), "truth has shape (9, 9)"),
    "no pixel scale": ("image", lambda folder: no_scale(folder), "has no pixel scale"),
}


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
