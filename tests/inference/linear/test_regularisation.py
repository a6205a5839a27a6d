"""The priors: the energies that they are named after, their spectra, and draws from them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from rim_tf.config import BOUNDARIES, REGULARISATIONS
from rim_tf.errors import InputError
from rim_tf.inference.linear.regularisation import Regularisation


@pytest.mark.parametrize("kind", REGULARISATIONS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_matrix_spectrum_and_action_agree(kind, boundary, rng):
    prior = Regularisation(kind, boundary, (5, 7))
    H = prior.matrix.toarray()
    source = rng.normal(size=(2, 5, 7))
    assert_allclose(prior.apply(source).reshape(2, -1), source.reshape(2, -1) @ H, atol=1e-12)
    assert_allclose(prior.from_modes(prior.spectrum * prior.to_modes(source)), prior.apply(source), atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(H)
    assert prior.rank == (eigenvalues > 1e-10).sum()
    if prior.ridge == 0:
        assert_allclose(prior.log_det(3.0), np.linalg.slogdet(3.0 * H)[1], rtol=1e-10)


def test_energies_are_what_they_are_called(rng):
    s = rng.normal(size=(5, 7))
    framed = np.pad(s, 1)
    energy = {
        ("brightness", "zero"): (s**2).sum(),
        ("gradient", "free"): (np.diff(s, axis=0) ** 2).sum() + (np.diff(s, axis=1) ** 2).sum(),
        ("gradient", "zero"): (np.diff(framed, axis=0) ** 2).sum() + (np.diff(framed, axis=1) ** 2).sum(),
        ("curvature", "free"): (np.diff(s, 2, axis=0) ** 2).sum() + (np.diff(s, 2, axis=1) ** 2).sum(),
        ("curvature", "zero"): (np.diff(framed[:, 1:-1], 2, axis=0) ** 2).sum()
        + (np.diff(framed[1:-1], 2, axis=1) ** 2).sum(),
    }
    # Suyu et al. (2006), A2 and A3: the last row and column are differenced with the darkness beyond.
    last = (s[-1] ** 2).sum() + (s[:, -1] ** 2).sum()
    slope = ((s[-1] - s[-2]) ** 2).sum() + ((s[:, -1] - s[:, -2]) ** 2).sum()
    energy["gradient", "suyu"] = energy["gradient", "free"] + last
    energy["curvature", "suyu"] = energy["curvature", "free"] + slope + last
    for (kind, boundary), expected in energy.items():
        H = Regularisation(kind, boundary, s.shape).matrix
        assert_allclose(s.ravel() @ (H @ s.ravel()), expected, rtol=1e-12, err_msg=f"{kind} {boundary}")


def test_free_boundary_costs_flat_sources_nothing():
    y, x = np.mgrid[:6, :8]
    for kind, flat in [("gradient", [1 + 0 * x]), ("curvature", [1 + 0 * x, x, y, x * y])]:
        prior = Regularisation(kind, "free", (6, 8))
        assert prior.size - prior.rank == len(flat)
        for source in flat:
            assert_allclose(prior.apply(source.astype(float)), 0, atol=1e-12)


def test_its_own_draws_have_the_energy_and_the_density_of_the_prior(rng):
    prior = Regularisation("gradient", "zero", (12, 12))
    draws = prior.from_modes((2.0 * prior.spectrum) ** -0.5 * rng.normal(size=(300, 12, 12)))
    energies = 2.0 * (draws * prior.apply(draws)).sum(axis=(1, 2))
    # chi^2 with as many degrees of freedom as H has rank
    sigmas = (energies - prior.rank) / np.sqrt(2 * prior.rank)
    assert abs(np.mean(sigmas)) < 4 / np.sqrt(300)
    assert 0.8 < np.std(sigmas) < 1.2
    density = multivariate_normal(cov=np.linalg.inv(2.0 * prior.matrix.toarray())).logpdf(draws[0].ravel())
    log_density = (prior.log_det(2.0) - prior.size * np.log(2 * np.pi) - energies[0]) / 2
    assert_allclose(log_density, density, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("entropy", "zero", (8, 8)), "regularisation is 'entropy'"),
        (("gradient", "periodic", (8, 8)), "boundary is 'periodic'"),
        (("gradient", "zero", (8,)), "two sides"),
        (("gradient", "zero", (8, 3)), "two sides"),
    ],
)
def test_what_is_no_prior_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Regularisation(*arguments)
