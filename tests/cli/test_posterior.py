"""`rim-tf posterior` as a user types it."""

import dataclasses
import json

import modelled
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from commands import names_in, reconstruct
from matplotlib.figure import Figure

from rim_tf.inference import lens_samples, workflow
from rim_tf.results import SourceErrors

LENS = {"theta_E": 0.9, "e1": 0.1, "e2": 0.0, "x_lens": 0.0, "y_lens": 0.0, "gamma1": 0.0, "gamma2": 0.0}
WRITTEN = ["posterior.ecsv", "posterior.fits", "posterior.json", "posterior.png"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Options that name tiny untrained networks."""
    return modelled.save_networks(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def options(tiny, tmp_path, monkeypatch):
    """Options of a `posterior` that works; "image" is its argument."""
    monkeypatch.setattr(lens_samples, "_STEPS", 1)
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(modelled.ring(galaxy=0.0), fits.Header({"PIXSCALE": modelled.SCALE})).writeto(path)
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    given = {"image": path, "--noise": 0.05, "--psf": 0.05, "--lens": tmp_path / "lens.json"}
    return given | {"--out": tmp_path / "out", "--samples": 50} | tiny


@pytest.fixture(scope="module")
def settled_once():
    """`settled` for tests that are given the same lens in the same image: it is worked out for the first."""
    found, settled = [], lens_samples.settled

    def once(*given, **named):
        if not found:
            found.append(settled(*given, **named))
        return found[0]

    return once


@pytest.fixture
def undrawn(monkeypatch):
    """The picture is empty: it takes seconds, and one of the tests has it drawn."""
    monkeypatch.setattr("rim_tf.plots.plot_posterior", lambda *_: Figure())


def posterior(options, *flags):
    return reconstruct(options, *flags, command="posterior")


def refused(result):
    """The one sentence of a refusal."""
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split("Error: ")[-1].split())


def test_draws_errors_and_prior_are_written_and_told(options, settled_once, monkeypatch):
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    result = posterior(options, "--truth-lens", options["--lens"])
    assert result.exit_code == 0, result.output
    assert names_in(options["--out"]) == WRITTEN
    summary = json.loads((options["--out"] / "posterior.json").read_text(), parse_constant=pytest.fail)
    theta_E = summary["methods"]["rim"]["parameters"]["theta_E"]
    assert f"{theta_E['mean']:.4f} +- {theta_E['std']:.4f} (true 0.9000)" in result.stdout
    assert "prior of e1: normal, mean 0, sigma 0.2" in result.stdout
    draws = Table.read(options["--out"] / "posterior.ecsv")
    assert len(draws) == 50 and set(draws["method"]) == {"rim"}
    assert np.std(draws["theta_E"], ddof=1) == pytest.approx(theta_E["std"])
    assert np.allclose(Table.read(options["--out"] / "posterior.fits")["gamma2"], draws["gamma2"])


def test_sources_are_written_and_told(options, settled_once, undrawn, monkeypatch):
    """By a stand-in, as nothing knows the errors of an untrained network; of which a warning speaks."""
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    plain = posterior(options)
    assert plain.exit_code == 0 and "The source has no errors" in plain.stderr
    figures = {name: np.linspace(1, 3, 40) for name in ("flux", "magnification", "source_peak", "half_light_radius")}
    drawn = SourceErrors(samples=np.random.default_rng(0).random((40, 32, 32)), figures=figures)
    asked = []
    monkeypatch.setattr(lens_samples, "draw_sources", lambda *given: asked.append(given) or drawn)
    result = posterior(options, "--sources", 40, "--overwrite")
    assert result.exit_code == 0, result.output
    assert names_in(options["--out"]) == [*WRITTEN, "sources-rim.fits"]
    ((_, lenses, _, of_one, *_),) = asked
    assert len(lenses) * of_one == 40
    error = drawn.summary()["magnification"]["error"]
    assert f"magnification        2 +- {error:.2g}" in result.stdout
    summary = json.loads((options["--out"] / "posterior.json").read_text(), parse_constant=pytest.fail)
    assert summary["methods"]["rim"]["source"]["magnification"]["error"] == pytest.approx(error)
    with fits.open(options["--out"] / "sources-rim.fits") as hdus:
        assert hdus["SAMPLES"].data.shape == (40, 32, 32) and len(hdus["FIGURES"].data) == 40
    # A figure that no draw has is unknown.
    without = dataclasses.replace(drawn, figures=figures | {"magnification": np.full(40, np.nan)})
    monkeypatch.setattr(lens_samples, "draw_sources", lambda *given: without)
    assert "magnification        unknown" in posterior(options, "--sources", 40, "--overwrite").stdout
    assert "sources is 1; errors are made of 2 draws" in refused(posterior(options, "--sources", 1))
    assert "0<=x<=10000" in refused(posterior(options, "--sources", -1))


def test_a_short_chain_is_called_so_and_kept_and_goes_on(options):
    sentence = refused(posterior(options, "--sampler", "emcee", "--steps", 20, "--walkers", 14))
    assert "has not converged" in sentence and "The estimate without sampling is theta_E" in sentence
    assert names_in(options["--out"]) == ["chain-rim-emcee.npz"]
    before = (options["--out"] / "chain-rim-emcee.npz").read_bytes()
    # Nothing of it is summarised, and another image's chain is not taken for it.
    assert "another model, data" in refused(
        posterior(options | {"--noise": 0.06}, "--sampler", "emcee", "--steps", 20, "--walkers", 14)
    )
    assert (options["--out"] / "chain-rim-emcee.npz").read_bytes() == before


def test_what_one_method_found_is_kept_where_the_other_does_not_converge(options, settled_once, undrawn, monkeypatch):
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    # Fewer draws than effective ones are wanted.
    monkeypatch.setattr(lens_samples, "INVERSION", {"draws": 70, "rounds": 0})
    sentence = refused(posterior(options, "--method", "both"))
    assert "has not converged" in sentence and "What the other method found is written" in sentence
    assert names_in(options["--out"]) == sorted(["chain-inversion-importance.npz", *WRITTEN])
    assert set(Table.read(options["--out"] / "posterior.ecsv")["method"]) == {"rim"}
    assert "has not converged" in json.loads((options["--out"] / "posterior.json").read_text())["failed"]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--sampler", "emcee", "--walkers", 3), "walkers is 3"),
        (("--sampler", "emcee", "--steps", 5), "steps is 5"),
        (("--sampler", "importance", "--steps", 5), "draws is 5"),
        (("--sampler", "importance", "--walkers", 5), "importance has none"),
        (("--sampler", "nuts", "--method", "inversion"), "no gradient"),
    ],
)
def test_what_makes_no_chain_is_refused_with_the_estimate(options, flags, wanted, settled_once, monkeypatch):
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    sentence = refused(posterior(options, *flags))
    assert wanted in sentence and "The estimate without sampling is theta_E" in sentence
    assert not options["--out"].exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"theta_E": [0.1, 0.001]}', "The prior excludes the estimate: theta_E is"),
        ('{"theta_e": [0.9, 0.1]}', "The prior is of 'theta_e'; parameters of this lens are theta_E"),
        ('{"theta_E": 0.9}', "prior.json: theta_E is 0.9; it must be [mean, standard deviation]"),
        ('{"theta_E": [0.9, -1]}', "the standard deviation -1.0"),
        ("[]", "must hold parameters by their names"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_no_prior_is_refused(options, text, wanted, settled_once, monkeypatch):
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    (options["--lens"].parent / "prior.json").write_text(text)
    assert wanted in refused(posterior(options, "--prior", options["--lens"].parent / "prior.json"))
    assert not options["--out"].exists()


def test_a_prior_is_kept_with_what_it_led_to(options, settled_once, undrawn, monkeypatch):
    monkeypatch.setattr(lens_samples, "settled", settled_once)
    path = options["--lens"].parent / "prior.json"
    path.write_text('{"gamma1": [0.02, 0.01]}')
    result = posterior(options, "--prior", path)
    assert result.exit_code == 0, result.output
    summary = json.loads((options["--out"] / "posterior.json").read_text())
    assert summary["input"]["prior"] == str(path)
    # The mild one that there is, of 0.07 about 0, multiplies it.
    assert any(line.startswith("gamma1: normal, mean 0.0196") for line in summary["methods"]["rim"]["prior"])


def test_without_a_lens_it_is_looked_for(options, undrawn, monkeypatch):
    monkeypatch.setattr(workflow, "model", lambda observation, *_, **__: modelled.believed(modelled.of(observation)))
    del options["--lens"]
    result = posterior(options)
    assert result.exit_code == 0, result.output
    summary = json.loads((options["--out"] / "posterior.json").read_text())
    assert summary["believed"] is True
