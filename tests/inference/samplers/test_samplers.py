"""Every sampler on laws that are known, and what is said of chains that are not to be trusted."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from posteriors import BEND, COVARIANCE, MEAN, Known, banana, gaussian, near_banana, near_gaussian

from rim_tf.config import EnsembleSettings, HamiltonianSettings, ImportanceSettings
from rim_tf.errors import InputError
from rim_tf.inference.posterior import Gaussian
from rim_tf.inference.samplers.chain import Chain, NotConverged, run
from rim_tf.inference.samplers.importance import moved
from rim_tf.inference.samplers.registry import SAMPLERS, find_sampler

SETTINGS = {
    "importance": ImportanceSettings(draws=4000, stretch=1.3),
    "emcee": EnsembleSettings(walkers=32, steps=800),
    "hmc": HamiltonianSettings(chains=8, warm_up=100, draws=300),
    "nuts": HamiltonianSettings(chains=8, warm_up=100, draws=300),
}
NEEDS = {"emcee": "emcee", "hmc": "tensorflow_probability", "nuts": "tensorflow_probability"}


def build(name, **changes):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    return find_sampler(name).build(dataclasses.replace(SETTINGS[name], **changes))


def test_every_sampler_is_tested():
    assert set(SETTINGS) == set(SAMPLERS)


@pytest.mark.parametrize("name", SETTINGS)
def test_moments_of_a_gaussian(name):
    chain = run(build(name), gaussian(), near_gaussian()).check()
    draws = chain.draws(4000)
    error = np.sqrt(np.diag(COVARIANCE) / chain.effective_samples().min())
    assert_allclose(draws.mean(0), MEAN, atol=4 * error.max())
    assert_allclose(np.cov(draws.T), COVARIANCE, atol=0.15 * 4)
    assert_allclose(np.diag(np.cov(draws.T)), np.diag(COVARIANCE), rtol=0.2)


@pytest.mark.parametrize("name", SETTINGS)
def test_moments_of_a_banana(name):
    more = {"hmc": {"draws": 800}, "nuts": {"draws": 400}}.get(name, {})
    chain = run(build(name, **more), banana(), near_banana()).check()
    u, weights = chain.u.reshape(-1, 2), chain.weights.ravel()
    mean = weights @ u
    assert_allclose(mean, 0, atol=0.15)
    assert_allclose(weights @ (u - mean) ** 2, [1, 0.25 + 2 * BEND**2], rtol=0.25)
    # What a Gaussian would not have: E[x^2 y] = 2 bend.
    assert_allclose(weights @ (u[:, 0] ** 2 * u[:, 1]), 2 * BEND, rtol=0.3)


def test_rounds_bring_a_proposal_that_is_off_to_where_the_posterior_is():
    off = dataclasses.replace(near_gaussian(), u=MEAN + 5 * np.sqrt(np.diag(COVARIANCE)), covariance=0.3 * COVARIANCE)
    assert run(build("importance", draws=1000), gaussian(), off).faults()
    chain = run(build("importance", draws=1000, rounds=4), gaussian(), off).check()
    assert chain.effective_samples().min() > 300 and chain.n_evaluations > 1000
    draws = chain.draws(1000)
    assert_allclose(draws.mean(0), MEAN, atol=0.2 * np.sqrt(np.diag(COVARIANCE)).max())
    assert_allclose(np.diag(np.cov(draws.T)), np.diag(COVARIANCE), rtol=0.3)


def test_a_proposal_stays_where_too_few_draws_can_be(rng):
    law, u = near_gaussian(), rng.normal(size=(50, len(MEAN)))
    assert moved(law, u, np.full(50, -np.inf)) is law
    # And goes no farther than a few of its errors, and gets no wider than thrice, where the density is nearly flat.
    flat = moved(law, law.u + u @ np.linalg.cholesky(law.covariance).T, 1e-6 * u[:, 0])
    assert_allclose(flat.covariance, 9 * law.covariance, rtol=0.1, atol=1e-6)
    off = flat.u - law.u
    assert off @ np.linalg.solve(law.covariance, off) < 5.01**2


@pytest.mark.parametrize("name", ["importance", "emcee"])
def test_draws_do_not_depend_on_the_coordinates(name):
    """Of an affine map of the posterior they are the mapped draws."""
    root, shift = np.array([[0.01, 0.0, 0.0], [2.0, 30.0, 0.0], [0.0, 1.0, 1.0]]), np.array([5.0, 0.0, -1.0])
    inverse = np.linalg.inv(root)
    plain = gaussian()
    mapped = Known(lambda u: plain.tensor((u - shift.astype("f")) @ inverse.T.astype("f")), "mapped")
    start = near_gaussian()
    moved = Gaussian(root @ start.u + shift, root @ start.covariance @ root.T)
    few = {"draws": 400} if name == "importance" else {"steps": 30}
    one, other = (run(build(name, **few), *each) for each in ((plain, start), (mapped, moved)))
    assert_allclose(other.u, one.u @ root.T + shift, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["importance", "emcee", "hmc"])
def test_a_chain_that_was_stopped_ends_as_if_it_had_not_been(name, tmp_path):
    few = {"importance": {"draws": 600, "rounds": 1}, "emcee": {"steps": 120}, "hmc": {"draws": 120, "warm_up": 20}}[
        name
    ]
    whole = run(build(name, **few), gaussian(), near_gaussian())
    path, seen = tmp_path / "chain.npz", []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(build(name, **few), gaussian(), near_gaussian(), path, stop)
    target = gaussian()
    resumed = run(build(name, **few), target, near_gaussian(), path)
    assert_array_equal(resumed.u, whole.u)
    assert_array_equal(resumed.log_prob, whole.log_prob)
    target.calls.clear()
    assert_array_equal(run(build(name, **few), target, near_gaussian(), path).u, whole.u)
    assert not target.calls  # nothing is worked out of a chain that is done


def test_a_chain_goes_on_when_more_is_asked_for(tmp_path):
    path = tmp_path / "chain.npz"
    run(build("emcee", steps=50), gaussian(), near_gaussian(), path)
    longer = run(build("emcee", steps=100, burn_in=0.0), gaussian(), near_gaussian(), path)
    assert_array_equal(longer.u, run(build("emcee", steps=100, burn_in=0.0), gaussian(), near_gaussian()).u)


@pytest.mark.parametrize("name", ["importance", "emcee"])
def test_a_chain_of_something_else_is_refused(name, tmp_path):
    path, few = tmp_path / "chain.npz", {"draws": 100} if name == "importance" else {"steps": 50}
    run(build(name, **few), gaussian(), near_gaussian(), path)
    before = path.read_bytes()
    for target, start in ((banana(), near_banana()), (gaussian(), near_gaussian(2.0))):
        with pytest.raises(InputError, match="another model, data, prior"):
            run(build(name, **few), target, start, path)
    with pytest.raises(InputError, match="another model, data, prior"):
        run(build(name, seed=1, **few), gaussian(), near_gaussian(), path)
    assert path.read_bytes() == before
    path.write_bytes(before[:100])
    with pytest.raises(InputError, match="no chain that can be read"):
        run(build(name, **few), gaussian(), near_gaussian(), path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("emcee", {"walkers": 4}),
        ("emcee", {"walkers": 33}),
        ("emcee", {"steps": 5}),
        ("importance", {"draws": 10}),
        ("hmc", {"chains": 1}),
        ("nuts", {"draws": 2}),
    ],
)
def test_too_little_is_refused_before_anything_is_worked_out(name, changes):
    target = gaussian()
    with pytest.raises(InputError):
        run(build(name, **changes), target, near_gaussian())
    assert not target.calls


def test_a_start_of_zero_probability_is_refused():
    nowhere = Known(lambda u: u[:, 0] * np.nan, "nowhere")
    with pytest.raises(InputError, match="zero probability"):
        run(build("importance"), nowhere, near_gaussian())


def test_stuck_chains_are_called_stuck():
    """A needle in a plane of zero probability: no step is ever accepted."""
    start = near_gaussian()
    needle = Known(lambda u: np.where(np.abs(u - start.u).max(1) < 1e-3, 0.0, -np.inf).astype("f"), "needle")
    chain = run(build("emcee", steps=60), needle, start)
    with pytest.raises(NotConverged, match="stuck") as caught:
        chain.draws(10)
    assert caught.value.chain is chain


def test_chains_that_differ_have_not_converged(rng):
    u = rng.normal(size=(4, 500, 2))
    of_u = dict(log_weight=None, acceptance=np.full(4, 0.3), n_evaluations=2000, sampler="test")
    assert not Chain(u, u[..., 0], **of_u).faults()
    u[1] += 0.5
    with pytest.raises(NotConverged, match="R-hat"):
        Chain(u, u[..., 0], **of_u).check()


def test_short_chains_have_not_converged():
    with pytest.raises(NotConverged, match="effective samples"):
        run(build("emcee", steps=20), gaussian(), near_gaussian()).check()


def test_weights_on_few_draws_are_not_trusted():
    with pytest.raises(NotConverged, match="Pareto"):
        run(build("importance", draws=300, stretch=0.2, dof=30.0), gaussian(), near_gaussian()).check()


def test_arviz_opens_what_is_written(tmp_path):
    xarray = pytest.importorskip("xarray")
    chain = run(build("importance", draws=300), gaussian(), near_gaussian())
    chain.write(tmp_path / "posterior.nc", ("a", "b", "c"), chain.u)
    tree = xarray.open_datatree(tmp_path / "posterior.nc")
    assert_allclose(tree["posterior"]["b"].values, chain.u[..., 1])
    assert_allclose(tree["sample_stats"]["lp"].values, chain.log_prob)
