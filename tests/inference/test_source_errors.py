"""Errors of sources: of which RIM they are, in whose units, one lens or many; and those of linear inversion, exact."""

import dataclasses
import json

import numpy as np
import pytest
from astropy.io import fits
from inversions import LENS, dense, observe, tiny
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from spirals import lensed_spiral

from rim_tf.config import SMALL, InversionSettings, RIMSettings, SourceErrorsConfig
from rim_tf.errors import InputError
from rim_tf.inference import source_errors as module
from rim_tf.inference.figure_calibration import COUNTED
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.inversion import InversionSolver, invert
from rim_tf.inference.linear.regularisation import Regularisation
from rim_tf.inference.rim import RIMSolver, reconstruct
from rim_tf.inference.source_errors import draw_sources, source_errors
from rim_tf.models.pretrained import build_model, fingerprint, load_pretrained, save_trained
from rim_tf.models.rim import RIM
from rim_tf.results import SourceErrors, source_figures

# The network here is untrained, so no image is explained.
pytestmark = pytest.mark.filterwarnings("ignore:chi.2 per pixel")
FIGURES = {"flux", "magnification", "source_peak", "half_light_radius"}


@pytest.fixture(scope="module")
def rim():
    return RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4)))


@pytest.fixture(scope="module")
def network(rim):
    """Errors of that RIM, untrained: the noise, about."""
    return build_model(SourceErrorsConfig("tiny", fingerprint(rim), features=4, levels=3))


@pytest.fixture(scope="module")
def fit(rim):
    return reconstruct(observe(16, 18)[0], LENS, rim)


def test_a_reconstruction_gets_errors(fit, rim, network):
    found = source_errors(fit, 50, 1, rim, network)
    # 18 pixels are no multiple of what the network halves; beyond the edge it sees their mirror image.
    assert found.errors.samples.shape == (50, 18, 18)
    assert found.errors.samples.min() >= 0
    assert_allclose(found.standard_deviation, found.errors.samples.std(axis=0))
    assert found.source is fit.source
    summary = found.summary()["source_errors"]
    assert set(summary) == FIGURES
    for name in FIGURES:
        assert summary[name]["p16"] < summary[name]["median"] < summary[name]["p84"]
        assert_allclose(2 * summary[name]["error"], summary[name]["p84"] - summary[name]["p16"])
    json.dumps(found.summary())
    assert "source_errors" not in fit.summary()


def test_draws_without_a_figure_do_not_count():
    values = np.r_[np.nan, np.linspace(1, 3, 101)]
    errors = SourceErrors(samples=np.ones((102, 2, 2)), figures={"magnification": values, "flux": np.full(102, np.nan)})
    found = errors.summary()
    assert found["magnification"]["median"] == 2 and found["magnification"]["error"] == pytest.approx(0.68)
    assert np.isnan(found["flux"]["error"])


def test_brighter_data_have_errors_in_proportion(fit, rim, network):
    observation = fit.observation
    brighter = dataclasses.replace(observation, image=10 * observation.image, noise=10 * observation.noise)
    one, ten = (source_errors(reconstruct(o, LENS, rim), 40, 1, rim, network).errors for o in (observation, brighter))
    assert_allclose(ten.samples, 10 * one.samples, rtol=0.02, atol=0.02 * one.samples.max())
    factors = {"flux": 10, "magnification": 1, "source_peak": 10, "half_light_radius": 1}
    for name, factor in factors.items():
        assert_allclose(ten.summary()[name]["error"], factor * one.summary()[name]["error"], rtol=0.1)


def test_each_of_a_list_has_its_own_draws_whatever_it_is_called_with(fit, rim, network):
    several = source_errors([fit, fit], 5, 3, rim, network)
    alone = source_errors([fit], 5, 3, rim, network)[0]
    assert_allclose(several[0].errors.samples, alone.errors.samples, atol=1e-5)
    assert np.abs(several[1].errors.samples - several[0].errors.samples).max() > 0.01


def test_errors_of_another_rim_are_refused(fit, network):
    other = RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4)))
    with pytest.raises(InputError, match="errors of a source are known for the RIM 'tiny' .* was given is another"):
        source_errors(fit, 5, 0, other, network)


def test_bad_numbers_are_refused(fit, rim, network):
    with pytest.raises(InputError, match="samples is 0"):
        source_errors(fit, 0, 0, rim, network)
    small = reconstruct(observe(16, 18)[0], LENS, rim, source_pixels=6)
    with pytest.raises(InputError, match="source has 6 pixels on a side; its errors are known from 8 on"):
        source_errors(small, 5, 0, rim, network)


@pytest.fixture
def solvers(rim, network, tmp_path):
    save_trained(network, tmp_path / "errors", {})
    settings = RIMSettings(errors=True, errors_weights=str(tmp_path / "errors.json"), samples=4, seed=5)
    return {"rim": RIMSolver(settings, rim), "inversion": InversionSolver(InversionSettings(errors=True, samples=4))}


@pytest.mark.parametrize("method", ["rim", "inversion"])
def test_a_solver_gives_errors_where_its_settings_ask_for_them(method, solvers):
    observation = observe(16, 18)[0]
    (found,) = solvers[method]([observation], [LENS], None, 16)
    assert found.errors.samples.shape == (4, 16, 16)
    assert found.standard_deviation.shape == (16, 16)
    assert set(found.summary()["source_errors"]) == FIGURES
    plain = dataclasses.replace(solvers[method].settings, errors=False)
    without = RIMSolver(plain, solvers[method].model) if method == "rim" else InversionSolver(plain)
    (fit,) = without([observation], [LENS], None, 16)
    assert fit.errors is None
    assert_allclose(fit.source, found.source)


@pytest.mark.parametrize("method", ["rim", "inversion"])
def test_sources_over_many_lenses(method, solvers):
    lenses = [dataclasses.replace(LENS, theta_E=theta_E) for theta_E in (1.0, 1.1, 1.1)]
    drawn = draw_sources(observe(16, 18)[0], lenses, solvers[method], n=3, seed=2, source_pixels=16)
    assert drawn.samples.shape == (9, 16, 16)
    assert all(values.shape == (9,) for values in drawn.figures.values())
    # The same lens twice, and other draws.
    assert np.abs(drawn.samples[3:6] - drawn.samples[6:]).max() > 1e-3
    again = draw_sources(observe(16, 18)[0], lenses, solvers[method], n=3, seed=2, source_pixels=16)
    assert_allclose(again.samples, drawn.samples, atol=1e-5)


@pytest.mark.parametrize("method", ["rim", "inversion"])
def test_file_and_picture_show_them(method, solvers, tmp_path):
    (found,) = solvers[method]([observe(16, 18)[0]], [LENS], None, 16)
    found.save(tmp_path / "result.fits")
    with fits.open(tmp_path / "result.fits") as hdus:
        assert_allclose(hdus["STDDEV"].data, found.standard_deviation, rtol=1e-5)
        header, summary = hdus[0].header, found.errors.summary()
        for card, name in (("FLUX", "flux"), ("MAGN", "magnification"), ("PEAK", "source_peak")):
            assert_allclose(header[f"{card}ERR"], summary[name]["error"], rtol=1e-6)
        assert_allclose(header["RHALFERR"], summary["half_light_radius"]["error"], rtol=1e-6)
        assert header["NDRAWS"] == 4
        assert_allclose(header["PEAK"], found.source.max(), rtol=1e-6)
    figure = found.plot(found.source)
    assert isinstance(figure, Figure)
    titles = [axes.get_title() for sub in figure.subfigs for axes in sub.axes]
    assert [title for title in titles if title][-2:] == ["truth", "standard deviation"]


def test_the_shipped_errors_are_of_the_shipped_rim():
    solver = RIMSolver(RIMSettings(errors=True))
    assert module.load_pretrained(solver.settings.errors_weights, "source-errors").config.rim_sha256 == (
        solver.fingerprint
    )


def test_errors_of_another_number_of_steps_are_refused():
    rim = load_pretrained("small")
    fit = reconstruct(lensed_spiral(LENS, 32, 0.08, 0.02), LENS, rim, n_steps=15)
    with pytest.raises(InputError, match="took 15 steps, and its errors were counted with 10"):
        source_errors(fit, 10, 1, rim)


def test_figures_of_the_shipped_errors_are_spread_as_counted():
    rim, network = load_pretrained("small"), load_pretrained("source-errors-small", "source-errors")
    assert fingerprint(network) == COUNTED
    fit = reconstruct(lensed_spiral(LENS, 32, 0.08, 0.02), LENS, rim)
    spread, drawn = (source_errors(fit, 60, 1, rim, network, counted).errors for counted in (True, False))
    np.testing.assert_array_equal(spread.samples, drawn.samples)
    for name in ("flux", "half_light_radius"):
        np.testing.assert_allclose(spread.figures[name], drawn.figures[name])
    off = np.log(drawn.figures["magnification"] / fit.magnification)
    found = np.log(spread.figures["magnification"] / fit.magnification)
    np.testing.assert_allclose(found, 0.66 * off, atol=2e-3)
    wider = [np.ptp(np.quantile(each.figures["source_peak"], (0.16, 0.84))) for each in (spread, drawn)]
    assert wider[0] > 1.5 * wider[1]


# ---------------------------------------------------------------------------------------------- linear inversion


def test_covariance_of_inversion_is_that_of_a_dense_matrix():
    system, prior, strength = tiny(), Regularisation("gradient", "zero", (8, 8)), 20.0
    A, weight = dense(system), system.weight.ravel()
    covariance = np.linalg.inv(A.T @ (weight[:, None] * A) + strength * prior.matrix.toarray())
    solution = ExactSolver(system, prior).solve(strength, samples=20_000)
    assert_allclose(solution.standard_deviation.ravel(), np.sqrt(np.diag(covariance)), rtol=1e-8)
    found = np.cov(solution.samples.reshape(20_000, -1).T)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs((found - covariance) / scale).max() < 6 * np.sqrt(2 / 20_000)


def test_error_of_a_flux_is_that_of_the_covariance():
    observation = observe(8, 10, noise=0.05, psf=0.3)[0]
    result = invert(observation, LENS, 0.25, 8, strength=20.0, errors=True, samples=20_000)
    system, prior = tiny(), Regularisation("gradient", "zero", (8, 8))
    A, weight = dense(system), system.weight.ravel()
    covariance = np.linalg.inv(A.T @ (weight[:, None] * A) + 20.0 * prior.matrix.toarray())
    area = 0.25**2
    assert_allclose(result.errors.figures["flux"].std(), area * np.sqrt(covariance.sum()), rtol=0.03)
    assert_allclose(np.mean(result.errors.figures["flux"]), result.flux, rtol=0.01)
    assert result.errors.samples.min() < 0  # a Gaussian knows no bound


# ----------------------------------------------------------------------------------------------------- the figures


def test_figures_of_draws_are_those_of_a_fit(fit, rim):
    from rim_tf.physics.imaging import imaging_operator
    from rim_tf.systems import batch_of

    inputs = batch_of([fit.observation], [LENS], [fit.source_pixel_scale])
    operator = imaging_operator(inputs, fit.source.shape)
    seen = np.asarray(operator.adjoint(np.ones((1, 18, 18), "float32")))[0] * fit.observation.pixel_scale**2
    figures = source_figures(fit.source[None], fit.source_pixel_scale, seen)
    for name in ("flux", "magnification", "half_light_radius"):
        assert_allclose(figures[name][0], getattr(fit, name), rtol=1e-4)
    assert_allclose(figures["source_peak"][0], fit.source.max())


def test_draws_are_put_together():
    parts = [SourceErrors(samples=np.full((2, 3, 3), i), figures={"flux": np.full(2, i)}) for i in range(3)]
    whole = SourceErrors.together(parts)
    assert whole.samples.shape == (6, 3, 3)
    assert_allclose(whole.figures["flux"], [0, 0, 1, 1, 2, 2])
