"""`rim-tf evaluate` as a user types it, on systems as small as they can be."""

import dataclasses
import json

import numpy as np
import pytest
from commands import run as run_command

from rim_tf.cli.main import main
from rim_tf.evaluation import figures, store, study

TINY = ["--image-pixels", 16, "--pixel-scale", 0.3]


def run(*arguments):
    return run_command("evaluate", *arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from rim_tf.config import SMALL
    from rim_tf.models.pretrained import save_trained
    from rim_tf.models.rim import RIM

    path = tmp_path_factory.mktemp("weights") / "tiny"
    save_trained(RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4))), path, {})
    return path.with_suffix(".json")


@pytest.fixture(autouse=True)
def few_galaxies(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 2)
    monkeypatch.setattr(study, "_N_PROCEDURAL", 6)


def test_a_study_is_made_reported_and_made_longer(weights, tmp_path, monkeypatch):
    out = tmp_path / "out"
    np.savez(tmp_path / "digits.npz", images=np.eye(28)[None], labels=np.array([1]))
    options = ["--weights", weights, *TINY, "--seed", 2, "--out", out]
    result = run(*options, "--n", 3, "--n-inversion", 2, "--mnist", tmp_path / "digits.npz")
    assert result.exit_code == 0, result.stderr
    assert "RIM: 3 of 3 systems" in result.stderr and "linear inversion: 2 of 2 systems" in result.stderr
    assert f"Wrote {out / 'report.html'}" in result.stdout
    numbers = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert numbers["n"] == {"rim": 3, "inversion": 2}
    assert set(numbers["unusual"]["inversion"]) == {"text", "digit 1"}
    assert "| RMS error, median [% of peak] | < 0.5 |" in (out / "report.md").read_text()
    assert (out / "figures" / "comparison.png").stat().st_size > 10_000
    (path,) = (out / "chunks").glob("rim-*-000000.npz")
    first = path.read_bytes()

    monkeypatch.setattr(figures, "draw_figures", lambda *_: {})  # takes the longest, and has been seen to work
    result = run(*options, "--n", 4, "--method", "rim")
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes() == first
    assert json.loads((out / "report.json").read_text())["n"] == {"rim": 4, "inversion": 2}

    refused = run(*options[:-4], "--seed", 3, "--n", 4, "--out", out)
    assert refused.exit_code == 2 and "holds a study with another seed" in refused.stderr
    assert refused.stderr.count("\n") == 1

    (out / "report.md").unlink()
    assert run("--report-only", "--out", out).exit_code == 0
    assert (out / "report.md").exists()


def test_defaults_are_those_that_the_report_compares_with_the_paper():
    options = {option.name: option.default for option in main.commands["evaluate"].params}
    assert (options["n"], options["weights"], options["method"]) == (2000, "small", "all")


BAD = {
    "unknown weights": (["--weights", "huge"], "no weights 'huge'"),
    "no galaxies": (["--sources", "nowhere"], "nowhere"),
    "no digits": (["--mnist", "no.npz"], "no.npz cannot be read"),
    "nothing to report": (["--report-only"], "holds no study"),
    "no number": (["--n", "0"], "--n"),
    "too small": (["--image-pixels", "8"], "--image-pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(weights, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, complaint = BAD[case]
    result = run("--weights", weights, *TINY, "--n", 2, "--out", "out", *arguments)
    assert result.exit_code == 2 and complaint in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("--out", tmp_path / "file")
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path / 'file'} is a file; --out must be a folder.\n"
