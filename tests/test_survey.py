"""A catalogue is read or refused, each lens found once, and whatever stops a survey it goes on from there."""

import dataclasses
import json
import pickle
import types
import warnings

import modelled
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.wcs import WCS
from commands import names_in

from rim_tf import io, survey
from rim_tf.config import ModelConfig
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference import workflow
from rim_tf.inference.verdict import LIMITS
from rim_tf.lens import LENS_PARAMETERS
from rim_tf.models.pretrained import checksum_of, save_trained

HEADER = fits.Header({"PIXSCALE": modelled.SCALE})


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    paths = modelled.save_networks(tmp_path_factory.mktemp("weights"))
    return ModelConfig(weights=str(paths["--weights"]), estimator=str(paths["--estimator"]))


@pytest.fixture
def asked(monkeypatch):
    """The observations that `workflow.model` was called with; it is replaced by what gives a result at once."""
    asked = []

    def model(observation, config, progress, rim, estimator, joint):
        asked.append((observation, config))
        return modelled.of(observation)

    monkeypatch.setattr(workflow, "model", model)
    return asked


@pytest.fixture
def catalogue(tmp_path):
    """Writes a catalogue of n lenses with an image each, and returns its path; more are its further lines."""

    def write(n, *more, columns="name,image,noise,psf"):
        for i in range(n):
            fits.PrimaryHDU(modelled.ring(seed=i), HEADER).writeto(tmp_path / f"{i}.fits", overwrite=True)
        lines = [columns, *(f"lens{i},{i}.fits,0.05,0.05" for i in range(n)), *more]
        (tmp_path / "lenses.csv").write_text("\n".join(lines) + "\n")
        return str(tmp_path / "lenses.csv")

    return write


def run(path, out, config, **options):
    return survey.run(survey.read_catalogue(path), out, config, **{"pictures": False} | options)


# ----------------------------------------------------------------------------------------------- catalogues


def of_columns(path, kind):
    masks = ["mask.fits", ""]
    table = Table(
        {
            "name": ["007", "b"],
            "image": ["a.fits[SCI]", "/data/b.fits"],
            "noise": ["0.1", "noise.fits"],
            "psf": [0.05, 0.06],
            "mask": MaskedColumn(masks, mask=[False, True]),
            "pixel_scale": MaskedColumn([0.04, 0.0], mask=[False, True]),
            "no_lens_light": [True, False],
            "centre_x": MaskedColumn([0.5, 0.0], mask=[False, True]),
            "centre_y": MaskedColumn([-0.25, 0.0], mask=[False, True]),
            "ra": [10.0, 20.0],
        }
    )
    if kind == "csv":
        table.write(path, format="ascii.csv")
    else:
        table.write(path)


@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits"])
def test_a_catalogue_is_the_same_in_every_format(kind, tmp_path):
    path = str(tmp_path / f"lenses.{kind}")
    of_columns(path, kind)
    assert survey.is_catalogue(path)
    first, second = survey.read_catalogue(path)
    assert (first.name, first.image, first.noise) == ("007", str(tmp_path / "a.fits[SCI]"), 0.1)
    assert (second.image, second.noise, second.psf) == ("/data/b.fits", str(tmp_path / "noise.fits"), 0.06)
    assert (first.mask, second.mask) == (str(tmp_path / "mask.fits"), None)
    assert (first.pixel_scale, second.pixel_scale) == (0.04, None)
    assert (first.no_lens_light, second.no_lens_light, first.centre_psf) == (True, False, False)
    assert (first.centre, second.centre) == ((0.5, -0.25), None)
    of_columns(tmp_path / "other.csv", "csv")
    assert [row.checksum for row in survey.read_catalogue(str(tmp_path / "other.csv"))] == [
        first.checksum,
        second.checksum,
    ]


def test_an_image_is_no_catalogue_and_a_file_of_tables_is(tmp_path):
    table = fits.BinTableHDU(Table({"name": ["a"]}))
    image = fits.PrimaryHDU(np.ones((4, 4)))
    kinds = {
        "image": [image],
        "image and table": [image, table],
        "table": [fits.PrimaryHDU(), table],
        "image behind": [fits.PrimaryHDU(), table, fits.ImageHDU(np.ones((4, 4)))],
        "compressed": [fits.PrimaryHDU(), fits.CompImageHDU(np.ones((16, 16), np.float32))],
        "nothing": [fits.PrimaryHDU()],
    }
    for name, hdus in kinds.items():
        fits.HDUList(hdus).writeto(tmp_path / f"{name}.fits")
        assert survey.is_catalogue(str(tmp_path / f"{name}.fits")) == (name == "table"), name
    assert not survey.is_catalogue(str(tmp_path / "table.fits[1]"))
    with pytest.raises(InputError, match="no.fits does not exist"):
        survey.is_catalogue(str(tmp_path / "no.fits"))


GOOD = "name,image,noise,psf\na,a.fits,1,0.1\n"
BAD = {
    "missing column": (
        GOOD.replace("noise,", "").replace("1,", ""),
        "lacks the column noise; it must have name",
    ),
    "misspelt column": (GOOD.replace("noise", "niose"), "has a column 'niose', did you mean 'noise'"),
    "misspelt option": (
        GOOD.replace("psf", "psf,pixelscale").replace("0.1", "0.1,1"),
        "'pixelscale', did you mean 'pixel_scale'",
    ),
    "capital letters": (GOOD.replace("name", "Name"), "'Name', did you mean 'name'"),
    "no rows": (GOOD.split("\n")[0] + "\n", "has no rows"),
    "doubled name": (GOOD + "b,b.fits,1,1\na,b.fits,1,1\n", "has the name 'a' in rows 1 and 3"),
    "no name": (GOOD + ",b.fits,1,1\n", "row 2 has the name ''"),
    "path as a name": (GOOD + "../b,b.fits,1,1\n", "row 2 has the name '../b'"),
    "hidden name": (GOOD + ".b,b.fits,1,1\n", "row 2 has the name '.b'"),
    "name of the table": (GOOD + "table_0_of_2.ecsv,b.fits,1,1\n", "row 2 has the name 'table_0_of_2.ecsv'"),
    "long name": (GOOD + "b" * 300 + ",b.fits,1,1\n", "row 2 has the name 'bbb"),
    "neither true nor false": (
        GOOD.replace("psf", "psf,no_lens_light").replace("0.1", "0.1,perhaps"),
        "row 1: no_lens_light is 'perhaps'; it must be true or false",
    ),
    "half a centre": (
        GOOD.replace("psf", "psf,centre_x,centre_y").replace("0.1", "0.1,1.5,"),
        "row 1 has one of centre_x and centre_y and not the other",
    ),
    "centre without its other column": (
        GOOD.replace("psf", "psf,centre_x").replace("0.1", "0.1,1.5"),
        "row 1 has one of centre_x and centre_y and not the other",
    ),
    "no centre": (
        GOOD.replace("psf", "psf,centre_x,centre_y").replace("0.1", "0.1,left,0"),
        "row 1: centre_x, centre_y is ('left', '0'); it must be two numbers",
    ),
    "misspelt centre": (
        GOOD.replace("psf", "psf,center_x,centre_y").replace("0.1", "0.1,1,0"),
        "'center_x', did you mean 'centre_x'",
    ),
    "too many cells": (GOOD + "b,b.fits,1,1,1,1\n", "cannot be read as a catalogue"),
    "empty": ("", "is empty; a catalogue has the names of its columns in the first line"),
    "doubled column": (GOOD.replace("psf", "psf, image").replace("0.1", "0.1,b.fits"), "has the column image twice"),
    "semicolons": (GOOD.replace(",", ";"), "has ';' between its columns; put commas there"),
    "no text": ("\x00\xff\n", "lenses.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_catalogue_that_cannot_be_used_is_one_sentence(case, tmp_path):
    text, complaint = BAD[case]
    path = tmp_path / "lenses.csv"
    path.write_text(text, encoding="latin1")
    with pytest.raises(InputError) as error:
        survey.read_catalogue(str(path))
    assert complaint in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("name", ["a.ecsv", "a.fits", "a.csv"])
def test_what_is_no_table_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        survey.read_catalogue(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"\xff\xfe nonsense \x00" * 100)
    with pytest.raises(InputError, match=name):
        survey.read_catalogue(str(tmp_path / name))


# ------------------------------------------------------------------------------------------------ a survey


def test_each_lens_has_its_files_and_its_row(catalogue, tmp_path, config, asked, monkeypatch):
    monkeypatch.setattr(survey, "_PAGE", 2)
    more = ["round,1.fits,0.05,0.05,yes", "gone,no.fits,1,1,", "bare,0.fits,,0.05,"]
    path = catalogue(1, *more, columns="name,image,noise,psf,no_lens_light")
    fits.PrimaryHDU(modelled.ring(seed=1), HEADER).writeto(tmp_path / "1.fits")
    outcome = run(path, tmp_path / "out", config, pictures=True)
    assert [config.no_lens_light for _, config in asked] == [False, True]
    np.testing.assert_allclose(asked[1][0].image, modelled.ring(seed=1), rtol=1e-5)
    assert [row["name"] for row in outcome.dead] == ["gone", "bare"] and outcome.n_before == 0
    pages = ["contact_sheet.png", "contact_sheet_2.png"]
    assert names_in(tmp_path / "out") == sorted([*pages, "lens0", "round", "table.ecsv", "table.fits"])
    assert names_in(tmp_path / "out" / "lens0") == sorted(survey.FILES)
    assert all((tmp_path / "out" / page).stat().st_size > 5000 for page in pages)

    table = Table.read(tmp_path / "out" / "table.ecsv")
    assert list(table["name"]) == ["lens0", "round", "gone", "bare"] and list(table["row"]) == [0, 1, 2, 3]
    assert list(table["dead"]) == [False, False, True, True] and not table["believed"].any()
    assert list(table["error"].filled("")[1:]) == ["", f"{tmp_path}/no.fits does not exist.", "The row has no noise."]
    result = modelled.modelled()
    assert [name for name in LIMITS if table[f"flag_{name}"][0]] == list(result.verdict.flags)
    for i, name in enumerate(LENS_PARAMETERS):
        error = modelled.of(asked[0][0]).summary()["lens_error"][name]
        assert table[name][0] == result.lens.as_tuple()[i] and table[f"{name}_error"][0] == pytest.approx(error)
        assert table[f"estimate_{name}"][1] == result.estimate.lens.as_tuple()[i]
    assert table["theta_E"].unit == "arcsec" and table["seconds"].unit == "s" and table["seconds"][0] == 0.5
    assert np.isnan(table["theta_E"][2:]).all() and list(table["n_pixels"]) == [400, 400, 0, 0]
    assert table["q"][0] == pytest.approx((1 - 0.125**0.5 / 10**0.5) / (1 + 0.125**0.5 / 10**0.5))
    assert {f"test_{name}" for name in LIMITS} <= set(table.colnames)

    same = Table.read(tmp_path / "out" / "table.fits")
    assert same.colnames == table.colnames
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            np.testing.assert_array_equal(np.ma.filled(same[name], np.nan), table[name])
            assert same[name].unit == table[name].unit
        else:
            assert list(same[name].astype(str)) == list(table[name].astype(str))


def test_a_name_that_fits_does_not_know_is_kept_where_it_can_be(catalogue, tmp_path, config, asked):
    path = catalogue(1, "Ära,0.fits,0.05,0.05")
    run(path, tmp_path / "out", config)
    assert Table.read(tmp_path / "out" / "table.ecsv")["name"][1] == "Ära"
    assert Table.read(tmp_path / "out" / "table.fits")["name"][1] == "\\xc4ra"


def test_a_survey_that_was_killed_goes_on(catalogue, tmp_path, config, asked, monkeypatch):
    path, out = catalogue(4), tmp_path / "out"
    whole = run(path, tmp_path / "whole", config).rows
    write_json, left = survey.write_json, [2]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write_json(*arguments)

    monkeypatch.setattr(survey, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(path, out, config)
    monkeypatch.setattr(survey, "write_json", write_json)
    assert names_in(out) == ["lens0", "lens1", "lens2"]
    assert "model.fits" in names_in(out / "lens2") and "summary.json" not in names_in(out / "lens2")
    before = (out / "lens0" / "model.fits").stat().st_mtime_ns
    (out / "lens1" / "summary.json").write_text('{"fingerprint"')  # a disk that lost its end
    del asked[:]
    again = run(path, out, config)
    assert len(asked) == 3 and again.n_before == 1
    assert (out / "lens0" / "model.fits").stat().st_mtime_ns == before
    assert again.rows == whole  # of which one went through the file and the others did not
    # The same again does nothing, and neither do images that are gone by now.
    (tmp_path / "3.fits").unlink()
    assert run(path, out, config).n_before == 4 and len(asked) == 3


def test_what_was_found_with_other_settings_is_not_mixed_in(catalogue, tmp_path, config, asked):
    path, out = catalogue(2), tmp_path / "out"
    run(path, out, config)
    del asked[:]
    other = dataclasses.replace(config, starts=3)
    with pytest.raises(InputError, match="lens0 as it was found with other settings or weights; .* --overwrite"):
        run(path, out, other)
    text = (tmp_path / "lenses.csv").read_text()
    (tmp_path / "lenses.csv").write_text(text.replace("1.fits,0.05", "1.fits,0.06"))
    with pytest.raises(InputError, match="lens1 as it was found with another row of the catalogue"):
        run(path, out, config)
    (tmp_path / "lenses.csv").write_text(text)
    fits.PrimaryHDU(modelled.ring(seed=7), HEADER).writeto(tmp_path / "1.fits", overwrite=True)
    with pytest.raises(InputError, match="lens1 as it was found with another file of its image"):
        run(path, out, config)
    assert asked == []
    # Only what has changed is found anew.
    assert run(path, out, config, overwrite=True).n_before == 1
    np.testing.assert_allclose([observation.image for observation, _ in asked], [modelled.ring(seed=7)], rtol=1e-5)
    (tmp_path / "lenses.csv").write_text(text.replace("lens1", "another"))
    with pytest.raises(InputError, match="table.ecsv has lenses that are not in this catalogue, lens1;"):
        run(path, out, config)


def test_a_lens_that_was_dead_is_tried_again(catalogue, tmp_path, config, asked):
    path, out = catalogue(1, "late,late.fits,0.05,0.05"), tmp_path / "out"
    assert [row["name"] for row in run(path, out, config).dead] == ["late"]
    assert "late" not in names_in(out)
    fits.PrimaryHDU(modelled.ring(), HEADER).writeto(tmp_path / "late.fits")
    again = run(path, out, config)
    assert again.dead == [] and again.n_before == 1 and "late" in names_in(out)


def test_shards_together_are_the_whole(catalogue, tmp_path, config, asked):
    path = catalogue(5)
    whole = run(path, tmp_path / "whole", config).rows
    parts = [run(path, tmp_path / "out", config, shard=(i, 2)).rows for i in range(2)]
    assert [row["name"] for row in parts[1]] == ["lens1", "lens3"]
    assert sorted(sum(parts, []), key=lambda row: row["row"]) == whole
    kinds = [("contact_sheet", "png"), ("table", "ecsv"), ("table", "fits")]
    files = [f"{name}_{i}_of_2.{kind}" for name, kind in kinds for i in (0, 1)]
    assert names_in(tmp_path / "out") == sorted([*files, *(f"lens{i}" for i in range(5))])
    for shard in ((2, 2), (0, 0), (5, 6)):
        with pytest.raises(InputError, match="The shard"):
            run(path, tmp_path / "no", config, shard=shard)
    assert "no" not in names_in(tmp_path)


def test_where_all_are_dead_it_is_said_why(catalogue, tmp_path, config, asked):
    path = catalogue(0, "a,no.fits,1,1", "b,no.fits,1,1")
    with pytest.raises(InputError, match="None of the 2 lenses could be modelled; of a: .*no.fits does not exist"):
        run(path, tmp_path / "out", config)
    assert len(Table.read(tmp_path / "out" / "table.ecsv")) == 2


def test_what_data_do_to_numbers_kills_a_row_and_no_fault_of_ours_is_hidden(catalogue, tmp_path, config, monkeypatch):
    errors = iter([np.linalg.LinAlgError("Singular matrix"), MemoryError(), KeyError("ours")])

    def model(*_):
        raise next(errors)

    monkeypatch.setattr(workflow, "model", model)
    with pytest.raises(KeyError, match="ours"):
        run(catalogue(3), tmp_path / "out", config)
    rows = survey.read_catalogue(str(tmp_path / "lenses.csv"))
    errors = iter([np.linalg.LinAlgError("Singular matrix"), MemoryError()])
    with pytest.raises(InputError):
        survey.run(rows[:2], tmp_path / "out", config)
    found = list(Table.read(tmp_path / "out" / "table.ecsv")["error"])
    assert found[0] == "LinAlgError: Singular matrix" and found[1].startswith("The memory is not enough")


def test_what_is_doubted_is_kept_and_not_said(catalogue, tmp_path, config, monkeypatch):
    def model(observation, *_):
        warnings.warn("Look at it.", InputWarning, stacklevel=1)
        return modelled.believed(modelled.of(observation))

    monkeypatch.setattr(workflow, "model", model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        (row,) = run(catalogue(1), tmp_path / "out", config).rows
    assert row["believed"] and row["error"] == ""
    assert json.loads((tmp_path / "out" / "lens0" / "summary.json").read_text())["warnings"] == ["Look at it."]


def test_a_job_goes_to_another_process(catalogue, config, tmp_path):
    from rim_tf.cli.model import _quietly

    (row,) = survey.read_catalogue(catalogue(1))
    job = survey.Job(row, tmp_path, config, ("a", "b"), True, {"row": "c"}, 1)
    assert pickle.loads(pickle.dumps((_quietly, job))) == (_quietly, job)


def test_unknown_weights_and_a_file_in_the_way_are_refused_before_anything(catalogue, tmp_path, config):
    with pytest.raises(InputError, match="no weights 'huge'"):
        run(catalogue(1), tmp_path / "out", dataclasses.replace(config, weights="huge"))
    assert "out" not in names_in(tmp_path)
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out is a file; --out must be a folder"):
        run(catalogue(1), tmp_path / "out", config)


def test_the_files_of_a_lens_fit_together(tmp_path):
    result = modelled.modelled()
    summary = survey.write_model(tmp_path, result, ModelConfig(), {"image": "a.fits"})
    with fits.open(tmp_path / "model.fits") as hdus:
        header = hdus[0].header
        assert not header["BELIEVED"] and tuple(header["FLAGS"].split()) == result.verdict.flags
        assert header["SKYNOISE"] == result.verdict.sky_noise and header["IN_IMAGE"] == "a.fits"
        # What was given is what is explained and what was taken off, in the middle of the frame.
        assert hdus["DATA"].data.shape == (20, 20)
        given = result.observation.image[6:26, 6:26]
        np.testing.assert_allclose(hdus["DATA"].data + hdus["LENSLIGHT"].data, given, atol=1e-6)
    assert io.read_lens(tmp_path / "lens.json") == result.lens
    stored = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert stored["lens"] == result.lens.to_dict() == summary["lens"]
    assert stored["lens_fit"]["history"][1]["chi2_per_pixel"] == 2.0
    assert stored["lens_light_model"] == {"sky": 0.25, "centre": [0.0, 0.0], "components": []}


def test_errors_of_the_source_go_to_file_table_and_picture(tmp_path):
    result = modelled.with_sources()
    centre = (0.3, -0.2)
    lens_fit, fit = result.lens_fit, result.lens_fit.reconstruction
    fit = dataclasses.replace(fit, observation=dataclasses.replace(fit.observation, centre=centre))
    result = dataclasses.replace(result, lens_fit=dataclasses.replace(lens_fit, reconstruction=fit))
    summary = survey.write_model(tmp_path, result, ModelConfig(), {"image": "a.fits"})
    errors = result.posterior.sources.summary()
    assert json.loads((tmp_path / "summary.json").read_text())["source_errors"] == errors
    numbers = survey._numbers(types.SimpleNamespace(number=0, name="a"), summary)
    for name, each in errors.items():
        assert numbers[f"{name}_error"] == each["error"] > 0
    assert numbers["flux"] == result.source_fit.flux and survey._unit("half_light_radius_error") == "arcsec"
    with fits.open(tmp_path / "model.fits") as hdus:
        assert hdus[0].header["FLUXERR"] == errors["flux"]["error"]
        np.testing.assert_allclose(hdus["STDDEV"].data, result.posterior.sources.samples.std(axis=0), rtol=1e-5)
        assert hdus["STDDEV"].header["CRVAL1"] == hdus["SOURCE"].header["CRVAL1"] != 0


def test_what_was_found_in_a_part_of_a_frame_has_the_coordinates_of_the_whole(catalogue, tmp_path, config, asked):
    path = catalogue(1, "off,0.fits,0.05,0.05,0.3,-0.2", columns="name,image,noise,psf,centre_x,centre_y")
    outcome = run(path, tmp_path / "out", config, pictures=True)
    assert outcome.dead == [] and asked[1][0].shape == (28, 26)
    here, there = (json.loads((tmp_path / "out" / name / "summary.json").read_text()) for name in ("lens0", "off"))
    for name in ("lens", "estimate"):
        assert there[name]["x_lens"] == pytest.approx(here[name]["x_lens"] + 0.3)
        assert there[name]["y_lens"] == pytest.approx(here[name]["y_lens"] - 0.2)
    for key in ("history", "ends"):
        lenses = [
            [step["lens"] for step in each["lens_fit"][key]] if key == "history" else each["lens_fit"][key]["lens"]
            for each in (here, there)
        ]
        np.testing.assert_allclose(np.subtract(*lenses[::-1]), [[0, 0, 0, 0.3, -0.2, 0, 0]] * len(lenses[0]), atol=1e-9)
    light = [each["lens_light_model"]["centre"] for each in (here, there)]
    np.testing.assert_allclose(np.subtract(*light[::-1]), (0.3, -0.2), atol=1e-9)
    table = Table.read(tmp_path / "out" / "table.ecsv")
    assert list(table["centre_x"]) == [0, pytest.approx(0.3)] and table["centre_y"].unit == "arcsec"
    assert table["x_lens"][1] == io.read_lens(tmp_path / "out" / "off" / "lens.json").x_lens
    with fits.open(tmp_path / "out" / "off" / "model.fits") as hdus:
        assert hdus[0].header["X_LENS"] == table["x_lens"][1] and hdus[0].header["CENTRE_Y"] == pytest.approx(-0.2)
        # The pixel in which the lens is, by the coordinates of the images, is where the fit has it.
        place = WCS(hdus["MODEL"].header).wcs_world2pix([[table["x_lens"][1], table["y_lens"][1]]], 0)[0]
        lens = modelled.modelled().lens_fit.lens
        np.testing.assert_allclose(place, np.array([lens.x_lens, lens.y_lens]) / modelled.SCALE + 9.5, atol=1e-6)
        # And the middle of the source goes with it, but for the shear.
        middle = WCS(hdus["SOURCE"].header).wcs_pix2world([(np.array(hdus["SOURCE"].shape[::-1]) - 1) / 2], 0)[0]
        np.testing.assert_allclose(middle, lens.moved_source((0.3, -0.2)), atol=1e-6)


def test_weights_of_a_network_that_is_not_used_do_not_count(config, tmp_path):
    save_trained(modelled.joint(), tmp_path / "joint", {})
    config = dataclasses.replace(config, attempts=0, search="descent")
    without = survey._checksums(config)
    assert without[2] is None and without == survey._checksums(dataclasses.replace(config, joint="nothing"))
    fast = dataclasses.replace(config, fast=True, joint=str(tmp_path / "joint.json"))
    assert survey._checksums(dataclasses.replace(fast, fast=False, attempts=1)) == survey._checksums(fast)
    assert survey._checksums(fast) == (*without[:2], checksum_of(tmp_path / "joint.json", "joint"))
    assert survey._settings_checksum(fast, without) != survey._settings_checksum(config, without)
