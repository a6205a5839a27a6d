"""`rim-tf model` as a user types it, for an image and for a catalogue."""

import json

import modelled
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from commands import names_in, reconstruct, run

from rim_tf import io, survey
from rim_tf.inference import lens_samples, workflow

SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 3.0, "CRPIX2": 4.0}
SKY |= {"CDELT1": -modelled.SCALE / 3600, "CDELT2": modelled.SCALE / 3600}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Options that name tiny untrained networks."""
    return modelled.save_networks(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def options(tiny, tmp_path):
    """Options of a `model` that works; "image" is its argument."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "image.fits"
    fits.PrimaryHDU(modelled.ring(), fits.Header(SKY)).writeto(path)
    return {"image": path, "--noise": 0.05, "--psf": 0.05, "--out": tmp_path / "out"} | tiny


@pytest.fixture
def at_once(monkeypatch):
    """`workflow.model` gives a result without any work, against which no test speaks."""
    monkeypatch.setattr(workflow, "model", lambda observation, *_: modelled.believed(modelled.of(observation)))


def model(options, *flags):
    return reconstruct(options, *flags, command="model")


def test_from_an_image_to_its_lens_its_source_and_a_verdict(options, tmp_path):
    result = model(options, "--starts", 2, "--rounds", 1)
    assert result.exit_code == 0, result.output
    assert names_in(options["--out"]) == sorted(survey.FILES)
    summary = json.loads((options["--out"] / "summary.json").read_text(), parse_constant=pytest.fail)
    assert f"{summary['lens']['theta_E']:.4f} +- {summary['lens_error']['theta_E']:.4f} arcsec" in result.stdout
    assert "Fitting the lens ..." in result.stderr
    # An untrained network explains nothing, and what speaks against it is said once, and kept.
    assert not summary["believed"] and f"see the warnings: {', '.join(summary['flags'])}" in result.stdout
    for sentence in summary["warnings"]:
        assert result.output.count(sentence) == 1
    assert sum("(flag " in sentence for sentence in summary["warnings"]) == len(summary["flags"])
    assert summary["settings"]["starts"] == 2 and summary["input"]["noise"] == "0.05"
    # The lens is one that `reconstruct` takes.
    again = {name: options[name] for name in ("image", "--noise", "--psf", "--weights")}
    again |= {"--lens": options["--out"] / "lens.json", "--out": tmp_path / "again"}
    assert reconstruct(again).exit_code == 0


def test_with_a_posterior_the_errors_are_those_of_its_draws(options, monkeypatch):
    monkeypatch.setattr(lens_samples, "_STEPS", 1)
    result = model(options, "--starts", 1, "--rounds", 0, "--attempts", 0, "--posterior")
    assert result.exit_code == 0, result.output
    assert names_in(options["--out"]) == sorted([*survey.FILES, *survey.POSTERIOR])
    summary = json.loads((options["--out"] / "summary.json").read_text(), parse_constant=pytest.fail)
    draws = Table.read(options["--out"] / "posterior.ecsv")
    assert summary["counted_errors"] and len(draws) == summary["posterior"]["n_samples"]
    for name, error in summary["lens_error"].items():
        assert error == pytest.approx(np.std(draws[name], ddof=1)) == summary["posterior"]["parameters"][name]["std"]
    # Without one, none of an earlier run is left beside the new model.
    monkeypatch.setattr(workflow, "model", lambda observation, *_: modelled.of(observation))
    assert model(options, "--overwrite", "--no-figures").exit_code == 0
    assert names_in(options["--out"]) == ["lens.json", "model.fits", "summary.json"]


def test_what_is_written_has_the_sky_of_the_image(options, at_once):
    result = model(options, "--no-figures")
    assert result.exit_code == 0 and "no test speaks against this model" in result.stdout
    assert result.stderr == ""
    with fits.open(options["--out"] / "model.fits") as hdus:
        assert hdus[0].header["BELIEVED"] and hdus[0].header["FLAGS"] == ""
        for name in ("MODEL", "DATA", "LENSLIGHT"):
            # Of 32 pixels the 20 in the middle are left.
            place = WCS(hdus[name].header).wcs_pix2world([[3 - 6, 4 - 6]], 1)
            np.testing.assert_allclose(place, [[150, 2]], atol=1e-9)


def test_a_lens_off_the_centre_is_found_where_it_is(options, at_once):
    """By the option that the verdict offers; the sky is that of the image, and so are all coordinates."""
    assert model(options, "--centre", "-0.2,0.3", "--no-figures").exit_code == 0
    lens, out = modelled.modelled().lens, options["--out"]
    assert io.read_lens(out / "lens.json").x_lens == pytest.approx(lens.x_lens - 0.2)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["input"]["centre"] == [-0.2, 0.3] and summary["lens"]["y_lens"] == pytest.approx(lens.y_lens + 0.3)
    with fits.open(out / "model.fits") as hdus:
        # Of 32 pixels 26 rows and 28 columns are left, and of those 20 in the middle.
        place = WCS(hdus["DATA"].header).wcs_pix2world([[3 - 4, 4 - 9]], 1)
        np.testing.assert_allclose(place, [[150, 2]], atol=1e-9)


def test_the_true_lens_is_shown_beside_the_one_that_is_found(options, at_once, tmp_path):
    io.write_lens(modelled.modelled().estimate.lens, tmp_path / "truth.json")
    result = model(options | {"--truth-lens": tmp_path / "truth.json"})
    assert result.exit_code == 0 and "(true " in result.stdout
    summary = json.loads((options["--out"] / "summary.json").read_text())
    assert summary["true_lens"] == json.loads((tmp_path / "truth.json").read_text())
    refused = model(options)
    assert (
        refused.exit_code == 2
        and "already holds model.fits, model.png, path.png, stages.png, lens.json" in refused.stderr
    )
    assert model(options, "--overwrite", "--no-figures").exit_code == 0
    assert names_in(options["--out"]) == ["lens.json", "model.fits", "summary.json"]


def catalogue(folder, *lines):
    path = folder / "lenses.csv"
    path.write_text("\n".join(["name,image,noise,psf", *lines]) + "\n")
    return path


GOOD, DEAD = "good,image.fits,0.05,0.05", "dead,no.fits,0.05,0.05"


def of_catalogue(options, *lines):
    kept = {name: value for name, value in options.items() if name not in ("image", "--noise", "--psf")}
    return {"image": catalogue(options["image"].parent, *lines)} | kept


def test_a_catalogue_is_done_lens_by_lens(options, at_once):
    given, out = of_catalogue(options, GOOD, DEAD), options["--out"]
    result = model(given, "--workers", 1, "--no-figures")
    assert result.exit_code == 0, result.output
    assert "Lenses: 2, finished before: 0, not to be believed: 0." in result.stdout
    assert "Could not be modelled: 1;" in result.stdout
    assert f"dead: {given['image'].parent}/no.fits does not exist." in result.stderr
    assert names_in(out) == ["contact_sheet.png", "good", "table.ecsv", "table.fits"]
    assert list(Table.read(out / "table.ecsv")["believed"]) == [True, False]
    assert names_in(out / "good") == ["lens.json", "model.fits", "summary.json"]
    again = model(given, "--workers", 1)
    assert again.exit_code == 0 and "finished before: 1" in again.stdout


def test_flagged_lenses_of_a_catalogue_are_named(options, monkeypatch):
    monkeypatch.setattr(workflow, "model", lambda observation, *_: modelled.of(observation))
    monkeypatch.setattr("rim_tf.cli.model._NAMED", 1)
    lines = [GOOD, GOOD.replace("good", "other")]
    result = model(of_catalogue(options, *lines), "--workers", 1, "--no-figures")
    assert result.exit_code == 0, result.output
    flags = ", ".join(modelled.modelled().verdict.flags)
    assert flags and "not to be believed: 2." in result.stdout and f"  {'good':<20} {flags}" in result.stdout
    assert "and 1 more; the columns flag_* of the table" in result.stdout and "Wrote" in result.stdout


BAD = {
    "no noise": ({"--noise": None}, [], "--noise is missing"),
    "no psf": ({"--psf": None}, [], "--psf is missing"),
    "no image": ({"image": "no.fits"}, [], "no.fits does not exist"),
    "address": ({"image": "gs://bucket/image.fits"}, [], "is an address and no file"),
    "shard of an image": ({"--shard": "0/2"}, [], "--shard cannot be given here"),
    "workers of an image": ({"--workers": "2"}, [], "--workers cannot be given here"),
    "no weights": ({"--weights": "huge"}, [], "no weights 'huge'"),
    "no centre": ({"--centre": "1.2"}, [], "--centre is '1.2'; it must be X,Y, two numbers [arcsec]"),
    "centre of words": ({"--centre": "left,0"}, [], "--centre is 'left,0'; it must be X,Y"),
    "centre of nothing": ({"--centre": "nan,0"}, [], "--centre is 'nan,0'; it must be X,Y"),
    "centre outside": ({"--centre": "9,0"}, [], "centre is (9, 0) arcsec, at or beyond the edge of the frame"),
    "centre at the edge": ({"--centre": "1,0"}, [], "image has shape (32, 12); no ring can be seen in less than 24"),
    "centre of a catalogue": ({"--centre": "0,0"}, [GOOD], "--centre cannot be given here"),
    "no truth": ({"--truth-lens": "no.json"}, [], "no.json does not exist"),
    "noise of a catalogue": ({}, [GOOD], None),
    "shard out of range": ({"--shard": "1/1"}, [GOOD], "The shard is 1/1"),
    "shard of nothing": ({"--shard": "0/0"}, [GOOD], "The shard is 0/0"),
    "no shard": ({"--shard": "first"}, [GOOD], "--shard is 'first'; it must be I/N"),
    "doubled name": ({}, [GOOD, GOOD], "has the name 'good' in rows 1 and 2"),
    "no rows": ({}, [""], "lenses.csv has no rows"),
    "weights of a catalogue": ({"--estimator": "huge"}, [GOOD], "no weights 'huge'"),
    "out of a catalogue": ({"--out": "gs://bucket/out"}, [GOOD], "is an address"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(case, options, tmp_path):
    changes, lines, complaint = BAD[case]
    if lines and complaint is not None:
        options = of_catalogue(options, *lines)
    elif lines:  # with options of an image
        options["image"], complaint = catalogue(tmp_path / "data", *lines), "--noise cannot be given here"
    given = {name: value for name, value in (options | changes).items() if value is not None}
    result = model(given)
    assert result.exit_code == 2 and complaint in result.stderr, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert result.stdout == "" and names_in(tmp_path) == ["data"]


def test_where_all_lenses_are_dead_it_is_an_error(options, at_once):
    result = model(of_catalogue(options, DEAD))
    assert result.exit_code == 2 and "Error: None of the 1 lenses could be modelled; of dead: " in result.stderr


def test_its_options_are_those_of_its_settings():
    text = run("model", "--help").stdout
    for option in ("--starts", "--rounds", "--no-lens-light", "--estimator", "--shard", "--truth-lens"):
        assert option in text
    assert "--lens " not in text
