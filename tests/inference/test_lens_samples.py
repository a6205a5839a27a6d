"""A lens with its errors: the truth lies within them, and a lens that was found before is where they begin."""

import dataclasses
import functools
import math
import types

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from spirals import lensed_spiral

from rim_tf.config import SOURCE_SCALE_RATIO, ModelConfig, PosteriorConfig, RIMSettings
from rim_tf.data.sources.procedural import clumpy_spiral
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference import lens_samples
from rim_tf.inference.halo import widening
from rim_tf.inference.lens_samples import coarse_grid, sample_lens
from rim_tf.inference.rim import RIMSolver, reconstruct
from rim_tf.inference.samplers.chain import NotConverged
from rim_tf.inference.source_errors import draw_sources
from rim_tf.inference.valley import Valley
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.results import SourceErrors

TRUTH = LensParameters(0.75, 0.15, 0.1, 0.03, -0.02, 0.03, -0.02)
NAMES = TRUTH.mass.names
NEAR = dataclasses.replace(TRUTH, theta_E=0.76, e1=0.13, x_lens=0.02)


@functools.cache
def observed(pixels=24, pixel_scale=0.1, noise=0.02):
    return lensed_spiral(TRUTH, pixels, pixel_scale, noise)


@functools.cache
def sampled(**config):
    return sample_lens(observed(), NEAR, load_pretrained("small"), PosteriorConfig(**{"sources": 0} | config))


def test_the_truth_lies_within_the_errors():
    (found,) = sampled()
    off = np.array(TRUTH.as_tuple()) - found.mean
    squared = off @ np.linalg.solve(np.cov(found.samples.T), off)
    assert squared < 24  # what seven parameters exceed once in a thousand cases
    assert found.standard_deviation[0] < 0.02
    assert found.sampler == "calibrated" and found.chain is None and len(found.lenses(3)) == 3


def with_prior(prior, **config):
    config = PosteriorConfig(**{"sources": 0, "samples": 4000} | config)
    return sample_lens(observed(), NEAR, load_pretrained("small"), config, prior=prior)


def test_a_prior_and_the_data_are_weighed_by_their_errors():
    """Of a normal law and a normal prior the product is known; Student's t is nearly one where it is narrow."""
    (plain,) = sampled(samples=4000)
    mean, error = plain.mean[0], plain.standard_deviation[0]
    (found,) = with_prior({"theta_E": (mean + error, 0.5 * error)})
    np.testing.assert_allclose((found.mean[0] - mean) / error, 0.8, atol=0.1)
    np.testing.assert_allclose(found.standard_deviation[0] / error, 0.2**0.5, atol=0.06)
    # What goes with theta_E goes along, and the best lens stays.
    slopes = np.cov(plain.samples.T)[0] / error**2
    off = (found.mean - plain.mean - 0.8 * error * slopes) / plain.standard_deviation
    np.testing.assert_allclose(off, 0, atol=0.12)
    assert found.lens == plain.lens and found.prior[0, 0] == mean + error
    assert len(np.unique(found.samples[:, 0])) > 3000


def test_a_sampler_walks_where_the_prior_is():
    """Also where it is so narrow that hardly any of the calibrated draws are there."""
    (plain,) = sampled(samples=4000)
    mean, error = plain.mean[0], plain.standard_deviation[0]
    prior = {"theta_E": (mean + error, 0.5 * error)}
    (found,) = with_prior(prior, sampler="importance", steps=2000)
    (weighed,) = with_prior(prior)
    assert abs(found.mean[0] - weighed.mean[0]) < 0.5 * weighed.standard_deviation[0]
    # However few are asked for, as many are weighed.
    assert len(with_prior(prior, samples=2)[0].samples) == 2
    known = zip(plain.mean, 0.01 * plain.standard_deviation, strict=True)
    narrow = dict(zip(NAMES, known, strict=True))
    with pytest.raises(InputError, match="of 200000 draws .* take a sampler that walks there, such as emcee"):
        with_prior(narrow)
    with pytest.raises(NotConverged):
        with_prior(narrow, sampler="emcee", steps=20, walkers=14)


def test_a_prior_goes_along_to_another_origin():
    (found,) = with_prior({"x_lens": (0.02, 0.01)}, samples=10)
    moved = found.moved((1.0, -2.0))
    np.testing.assert_allclose(moved.prior[0] - found.prior[0], [0, 0, 0, 1, -2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(moved.prior[1], found.prior[1])
    assert moved.summary()["prior"][3].startswith("x_lens: normal, mean 1.0")


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        ({"theta_E": (0.5, 0.01)}, "The prior excludes the estimate: theta_E is"),
        ({"x_lens": (0.03, 1e-6), "y_lens": (-0.02, 1e-6)}, r"The prior leaves \d+ of 200000 draws"),
        ({"radius": (0.5, 0.01)}, "The prior is of 'radius'"),
    ],
)
def test_a_prior_that_leaves_nothing_is_refused(prior, told):
    with pytest.raises(InputError, match=told) as refused:
        with_prior(prior)
    assert "radius" in prior or "The estimate without sampling is theta_E 0.7" in str(refused.value)


def test_sources_are_drawn_with_the_lenses():
    """What is not known of the lens is not known of the source."""
    observation, small = lensed_spiral(TRUTH, 32, 0.1, 0.02), load_pretrained("small")
    (found,) = sample_lens(observation, NEAR, small, PosteriorConfig(sources=40))
    sources, scale = found.sources, SOURCE_SCALE_RATIO * 0.1
    assert len(sources.samples) == 40 and found.source_pixel_scale == scale
    given_lens = draw_sources(observation, [found.lens], RIMSolver(RIMSettings(), small), 40, 1, scale, 32)
    errors = [each.summary() for each in (sources, given_lens)]
    for name in ("flux", "magnification"):
        assert errors[0][name]["error"] > 1.2 * errors[1][name]["error"]
    true = clumpy_spiral(np.random.default_rng(4), 32).sum() * scale**2
    assert abs(errors[0]["flux"]["median"] - true) < 3 * errors[0]["flux"]["error"]
    assert found.summary()["source"] == errors[0]
    # Beside a galaxy what they come to is less sure, and on another frame their grid is another one.
    arcs = dataclasses.replace(observation, image=observation.image[1:-1, 1:-1], noise=0.02, mask=None)
    fit = reconstruct(arcs, found.lens, small, source_pixels=36)
    given = observation, NEAR, small, PosteriorConfig(sources=40)
    (beside,) = sample_lens(*given, fit=fit, galaxy_over_arcs=3.0)
    assert beside.sources.samples.shape[1:] == fit.source.shape == (36, 36)
    assert beside.sources.summary()["flux"]["error"] > 2 * errors[0]["flux"]["error"]
    assert beside.summary()["galaxy_over_arcs"] == 3.0 and beside.summary()["counted"] is True


def test_a_small_source_has_errors_on_its_own_grid():
    """Though the network that knows them sees no fewer than 32 pixels."""
    (found,) = sample_lens(observed(), NEAR, load_pretrained("small"), PosteriorConfig(sources=8))
    assert found.sources.samples.shape == (8, 24, 24)


def test_what_is_said_of_the_noise_reaches_the_sources(monkeypatch):
    asked = []

    def draw(*given):
        asked.append(given)
        raise InputError("Nobody knows them.")

    monkeypatch.setattr(lens_samples, "draw_sources", draw)
    fit = reconstruct(observed(), NEAR, load_pretrained("small"))
    given = observed(), NEAR, load_pretrained("small"), PosteriorConfig(samples=20)
    with pytest.warns(InputWarning, match="The source has no errors: Nobody knows them."):
        (found,) = sample_lens(*given, noise_factor=2.0, fit=fit)
    assert found.sources is None and found.summary()["source"] is None
    assert_array_equal(asked[0][0].noise, 2 * fit.observation.noise)
    # None are drawn where none are asked for.
    sample_lens(*given[:3], dataclasses.replace(given[3], sources=0))
    assert len(asked) == 1


def test_linear_inversion_draws_sources_as_its_chain_does(monkeypatch):
    """On the grid of the chain and at its strength; what the first method found has its own by then."""
    asked, drawn = [], sampled()[0]
    errors = SourceErrors(samples=np.ones((20, 32, 32)), figures={"flux": np.ones(20), "source_peak": np.ones(20)})

    def draw(observation, lenses, solver, n, *grid):
        asked.append((observation, solver, len(lenses) * n, grid[1:]))
        return errors

    chain = types.SimpleNamespace(draws=lambda n, seed: np.tile(u, (n, 1)))
    u = np.asarray(drawn.lens.mass.to_real(np.array([drawn.lens.as_tuple()], np.float32)))[0]
    targets, laws = [], []

    def run(sampler, target, law, *_):
        targets.append(target)
        laws.append(law)
        return chain

    monkeypatch.setattr(lens_samples, "run", run)
    monkeypatch.setattr(lens_samples, "draw_sources", draw)
    config = PosteriorConfig(method="both", sources=20, source_width=0.8)
    rim, inversion = sample_lens(observed(), NEAR, load_pretrained("small"), config, galaxy_over_arcs=1.0)
    likelihood = targets[0].likelihood
    # It knows nothing of a galaxy, nor do its draws begin as if it did.
    unaware = dataclasses.replace(config, method="inversion", sources=0)
    sample_lens(observed(), NEAR, load_pretrained("small"), unaware)
    assert_array_equal(laws[0].covariance, laws[1].covariance)
    assert inversion.temperature == targets[1].temperature == 1 < rim.temperature
    assert asked[1][:3] == (likelihood.observation, likelihood.solver, 20) and asked[1][1].settings.strength > 0
    assert asked[1][3] == likelihood.grid and inversion.source_pixel_scale == likelihood.grid[0]
    assert rim.sources is not None and rim.source_pixel_scale == SOURCE_SCALE_RATIO * 0.1

    def refused(*_):
        raise NotConverged("The chain has not converged.", chain)

    monkeypatch.setattr(lens_samples, "run", refused)
    with pytest.raises(NotConverged) as caught:
        sample_lens(observed(), NEAR, load_pretrained("small"), config)
    assert [each.method for each in caught.value.found] == ["rim"] and caught.value.found[0].sources is not None


@pytest.mark.parametrize(("samples", "sources", "lenses"), [(1000, 200, 50), (3, 200, 3), (1000, 2, 1), (1000, 70, 18)])
def test_as_many_sources_are_drawn_as_were_asked_for(monkeypatch, samples, sources, lenses):
    asked = []

    def draw(observation, some, solver, n, *_):
        asked.append((len(some), n))
        return SourceErrors(samples=np.ones((len(some) * n, 32, 32)), figures={"flux": np.ones(len(some) * n)})

    monkeypatch.setattr(lens_samples, "draw_sources", draw)
    found = dataclasses.replace(sampled()[0], samples=sampled()[0].samples[:samples])
    given = RIMSolver(RIMSettings()), observed(), 24, 0.04, PosteriorConfig(sources=sources)
    drawn = lens_samples._with_sources(found, *given).sources
    assert sum(n for n, _ in asked) == lenses
    assert len(drawn.samples) == len(drawn.figures["flux"]) == sources


def test_the_same_seed_gives_the_same_draws():
    (one,) = sampled()
    (other,) = sample_lens(observed(), NEAR, load_pretrained("small"), PosteriorConfig())
    assert_array_equal(one.samples, other.samples)


def test_a_sampler_agrees_with_the_calibrated_law():
    """At a noise of 2 % the posterior is one smooth hill, which both describe."""
    (law,), (drawn,) = sampled(), sampled(sampler="importance", steps=256)
    assert drawn.chain.figures()["converged"]
    ratio = drawn.standard_deviation / law.standard_deviation
    assert (ratio > 0.5).all() and (ratio < 2.0).all()
    assert (np.abs(drawn.mean - law.mean) < 2 * law.standard_deviation).all()


def test_a_noise_map_that_is_too_small_gives_larger_errors():
    (plain,) = sampled()
    (wider,) = sample_lens(observed(), NEAR, load_pretrained("small"), PosteriorConfig(), noise_factor=2.0)
    assert wider.standard_deviation[0] == pytest.approx(2 * plain.standard_deviation[0], rel=0.4)
    assert [each.summary()["noise_factor"] for each in (plain, wider)] == [1.0, 2.0]


def test_beside_a_galaxy_the_lens_is_less_certain():
    """By the RIM, whatever draws it; about the same lens."""
    for settings in ({}, {"sampler": "importance", "steps": 256}):
        (plain,) = sampled(**settings)
        config = PosteriorConfig(sources=0, **settings)
        (wider,) = sample_lens(observed(), NEAR, load_pretrained("small"), config, galaxy_over_arcs=1.0)
        ratio = wider.standard_deviation / plain.standard_deviation
        assert wider.lens == plain.lens and np.median(ratio) == pytest.approx(widening(1.0), rel=0.15)
        assert wider.summary()["galaxy_factor"] == widening(1.0) and plain.summary()["galaxy_factor"] == 1
        assert wider.temperature == pytest.approx(widening(1.0) ** 2 * plain.temperature)
        assert wider.summary()["counted"] == (settings == {})


@pytest.mark.parametrize(("width", "times"), [(1.0, 1.0), (ModelConfig.source_width, 1.0), (2.25, 1.5)])
def test_the_source_grid_is_no_wider_than_the_frame_unless_that_is_asked_for(monkeypatch, width, times):
    """A lens that was fitted on a wider grid is sampled on it."""
    given = []

    def settled(arcs, lenses, model, left_over, pixels, seed):
        given.append((max(arcs.shape), pixels))
        raise InputError("enough")

    monkeypatch.setattr(lens_samples, "settled", settled)
    with pytest.raises(InputError, match="enough"):
        sample_lens(observed(), NEAR, load_pretrained("small"), PosteriorConfig(source_width=width))
    ((arcs, pixels),) = given
    assert pixels == min(math.ceil(width * arcs), math.ceil(times * max(observed().shape)))


def test_draws_lie_all_over_a_valley():
    """About whichever of its places is nearest to the best lens, and as often as each is probable."""
    (plain,) = sampled()
    lenses = np.tile(plain.lens.as_tuple(), (3, 1))
    lenses[:, 0] *= (0.8, 1.0, 1.25)
    u = np.asarray(plain.lens.mass.to_real(lenses.astype(np.float32)))
    for start in (0, 1):
        valley = Valley(lenses, u, np.zeros(3), start, plain.lens.mass)
        given = observed(), NEAR, load_pretrained("small"), PosteriorConfig()
        (found,) = sample_lens(*given, valley=valley)
        nearest = np.abs(found.samples[:, :1] / lenses[:, 0] - 1).argmin(axis=1)
        np.testing.assert_allclose(np.bincount(nearest, minlength=3) / len(nearest), valley.weights(), atol=0.06)
        middle = found.samples[nearest == 1]
        assert middle[:, 0].mean() == pytest.approx(plain.mean[0], rel=0.005)
        assert middle[:, 0].std() == pytest.approx(plain.standard_deviation[0], rel=0.2)


def test_samples_move_with_their_lens():
    (found,) = sampled()
    moved = found.moved((1.0, -2.0))
    assert moved.mean - found.mean == pytest.approx([0, 0, 0, 1, -2, 0, 0], abs=1e-9)


@pytest.mark.parametrize("pixels", [64, 75])
def test_the_grid_of_linear_inversion_covers_the_field_of_the_network(pixels):
    coarse, scale = coarse_grid(observed(), pixels)
    field = pixels * SOURCE_SCALE_RATIO * observed().pixel_scale
    assert field <= coarse * scale < field + 2 * scale and coarse < 0.6 * pixels
