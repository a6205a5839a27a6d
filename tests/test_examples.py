"""The scripts that users copy must run, and give what they promise."""

import pathlib

import numpy as np
import pytest
from scripts import loaded

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def load(name):
    return loaded(EXAMPLES / f"{name}.py")


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"one_lens", "power_law", "two_methods"}


def test_one_lens(tmp_path, capsys):
    result = load("one_lens").main(tmp_path)
    assert "chi^2 per pixel" in capsys.readouterr().out
    assert result.doubts() == []
    assert {"image.fits", "lens.json", "source.fits", "source.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_shipped_weights_reconstruct_a_power_law_with_a_second_deflector():
    result = load("power_law").main()
    assert result.chi2_per_pixel == pytest.approx(1, abs=0.1)
    assert result.lens.mass.types == ("power_law", "sie", "shear")


def test_two_methods():
    errors = load("two_methods").main(n=2)
    assert np.median(errors["RIM"]) < np.median(errors["linear inversion"])
