"""The mixture against SciPy's normal distribution, its own integral and its own samples."""

import functools

import numpy as np
import pytest
from gradients import array, grad, tensor, whole
from keras import ops
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal, norm

from rim_tf.models import mixture
from rim_tf.models.losses import LensLoss, theta_E_error_percent
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

SHEAR = MassModel(("shear",))
log_density, draw = whole(mixture.log_density), whole(mixture.draw, "n_samples", "seed")


def head_of(weights, means, covariances):
    """A head [1, components, columns] with these components, by NumPy's Cholesky factor alone."""
    rows = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        lower = np.linalg.cholesky(np.linalg.inv(covariance))
        diagonal = np.diag(lower)
        below = (lower / diagonal)[np.tril_indices(len(mean), -1)]
        rows.append(np.concatenate([[np.log(weight)], mean, np.log(diagonal), below]))
    return tensor(np.array(rows)[None])


def some_covariance(rng, n, scale=1.0):
    root = rng.normal(size=(n, n))
    return scale**2 * (root @ root.T + 0.1 * np.eye(n))


@pytest.fixture
def components(rng):
    """Weights, means and covariances of a mixture of three for seven parameters."""
    return [0.5, 0.3, 0.2], rng.normal(size=(3, 7)), [some_covariance(rng, 7) for _ in range(3)]


def test_density_is_scipys(components, rng):
    u = rng.normal(size=(5, 7))
    each = [np.log(w) + multivariate_normal(m, c).logpdf(u) for w, m, c in zip(*components, strict=True)]
    assert_allclose(array(log_density(head_of(*components), tensor(u[None])))[0], logsumexp(each, axis=0))


def test_density_in_the_lens_integrates_to_one(rng):
    # Two parameters, the shear, over the whole of the disc that it must lie in.
    head = head_of([0.7, 0.3], [[0.1, -0.2], [-0.3, 0.4]], [some_covariance(rng, 2, 0.15) for _ in range(2)])
    gamma = (np.arange(400) + 0.5) / 200 - 1
    lenses = np.stack(np.meshgrid(gamma, gamma), axis=-1).reshape(-1, 2)
    lenses = lenses[np.hypot(*lenses.T) < 0.95]
    heads = ops.repeat(head, len(lenses), axis=0)
    log_prob = whole(lambda heads, lenses: mixture.LensPosterior(heads, SHEAR).log_prob(lenses))
    assert_allclose(np.exp(array(log_prob(heads, tensor(lenses)))).sum() / 200**2, 1.0, atol=2e-3)


def test_a_mixture_is_mirrored_and_stretched_about_its_mean(components, rng):
    weights, means, covariances = components
    factors, signs = rng.uniform(0.5, 2.0, 7), rng.choice([-1.0, 1.0], 7)
    centre = np.average(means, axis=0, weights=weights)
    for found, factor, about in (
        (mixture.stretched(head_of(*components), factors), factors, centre),
        (mixture.mirrored(head_of(*components), signs), signs, 0.0),
    ):
        expected = head_of(weights, about + factor * (means - about), np.outer(factor, factor) * covariances)
        assert_allclose(array(found), array(expected), rtol=1e-6, atol=1e-6)


def test_samples_have_the_stated_distribution(components):
    head = ops.cast(head_of(*components), "float32")
    u = array(draw(head, 40_000, seed=3))[0]
    points, weight = (array(x)[0] for x in whole(mixture.sigma_points)(head))
    mean, covariance = weight @ points, np.cov(points.T, aweights=weight, ddof=0)
    # What the components say, without any matrix of ours.
    weights, means, covariances = components
    assert_allclose(mean, np.average(means, axis=0, weights=weights), atol=1e-4)
    spread = [c + np.outer(m - mean, m - mean) for m, c in zip(means, covariances, strict=True)]
    assert_allclose(covariance, np.average(spread, axis=0, weights=weights), rtol=1e-3, atol=1e-3)
    sigma = np.sqrt(np.diag(covariance))
    assert_allclose(u.mean(axis=0), mean, atol=4 * sigma.max() / 200)
    assert_allclose(np.cov(u.T), covariance, atol=0.05 * covariance.max())
    # Each marginal as a whole, against the sum of normal ones.
    for i in range(7):

        def cumulative(x, i=i):
            each = [norm.cdf(x, m[i], np.sqrt(c[i, i])) for m, c in zip(means, covariances, strict=True)]
            return np.average(each, axis=0, weights=weights)

        assert kstest(u[:, i], cumulative).pvalue > 1e-4
    again, other = (array(draw(head, 10, seed=seed)) for seed in (3, 4))
    assert_allclose(again[0], array(draw(head, 10, seed=3))[0])
    assert np.abs(again - other).max() > 0.01


def test_moments_of_the_lens_are_those_of_its_samples(rng):
    mean = np.array([0.1, 0.2, -0.1, 0.05, 0.02, 0.03, -0.02])
    head = ops.cast(head_of([1.0], [mean], [some_covariance(rng, 7, 0.03)]), "float32")

    @whole
    def figures(head):
        posterior = mixture.LensPosterior(head, SIE_SHEAR)
        return posterior.sample(50_000, seed=1)[0], posterior.mean()[0], posterior.covariance()[0]

    lenses, mean, covariance = map(array, figures(head))
    assert np.all(lenses[:, 0] > 0) and np.all(np.hypot(lenses[:, 1], lenses[:, 2]) < 0.95)
    sigma = lenses.std(axis=0)
    assert_allclose(mean, lenses.mean(axis=0), atol=0.02 * sigma.max())
    assert_allclose(covariance / np.outer(sigma, sigma), np.corrcoef(lenses.T), atol=0.05)


def test_pooled_mixtures_are_the_mean_of_their_densities(components, rng):
    weights, means, covariances = components
    heads = ops.stack([head_of([1.0], means[i : i + 1], covariances[i : i + 1]) for i in range(3)], axis=1)
    u = tensor(rng.normal(size=(1, 4, 7)))
    each = [np.exp(array(log_density(heads[:, i], u))) for i in range(3)]
    assert_allclose(np.exp(array(log_density(mixture.pooled(heads), u))), np.mean(each, axis=0), rtol=1e-9)


def test_raw_numbers_mean_what_they_say_in_any_unit(rng):
    centre, spread = rng.normal(size=(1, 7)), rng.uniform(0.1, 2, size=(1, 7))
    density = whole(lambda raw, *where, of: mixture.log_density(mixture.from_raw(raw, *where), of))
    u = centre + spread * rng.normal(size=(6, 7))
    expected = multivariate_normal(centre[0], np.diag(spread[0] ** 2)).logpdf(u)
    where = tensor(centre), tensor(spread)
    assert_allclose(array(density(tensor(np.zeros((1, 1, 36))), *where, of=tensor(u[None])))[0], expected)
    # A density in other units is the density times the Jacobian of the units.
    raw, unit = tensor(rng.normal(size=(1, 2, 36))), tensor(np.ones((1, 7)))
    scaled = density(raw, *where, of=tensor(u[None]))
    plain = density(raw, 0 * unit, unit, of=tensor(((u - centre) / spread)[None]))
    assert_allclose(array(scaled), array(plain) - np.log(spread).sum())


@functools.cache
def loss_and_slope():
    """The loss of what a network says of four lenses, and its slope in that."""
    some, tiny, huge = [1.0, 0.1, 0.2, 0.0, 0.0, 0.1, 0.0], [1e-3, 0, 0, 5, 5, 0, 0], [50.0, 0, 0, 0, 0, 0, 0]
    lens = tensor([some, tiny, huge, some], "float32")
    unit = tensor(np.ones((4, 7)), "float32")

    def loss(raw):
        return ops.sum(LensLoss()(lens, mixture.from_raw(raw, 0 * unit, unit)))

    return whole(loss), whole(grad(loss))


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3, 1e30])
def test_loss_and_its_slope_are_finite_whatever_the_network_says(size, rng):
    raw = tensor(size * rng.normal(size=(4, 2, 36)), "float32")
    loss, slope = loss_and_slope()
    assert np.isfinite(array(loss(raw)))
    assert np.all(np.isfinite(array(slope(raw))))


def test_loss_is_least_for_the_distribution_that_lenses_come_from(rng):
    # The expected loss is the cross entropy: any other mean, width or correlation must cost.
    covariance = some_covariance(rng, 2, 0.1)
    u = rng.multivariate_normal([0.1, 0.0], covariance, size=20_000)
    lenses = tensor(array(SHEAR.from_real(tensor(u))))

    losses = whole(LensLoss(("shear",)).call)

    def loss(mean, covariance):
        head = ops.repeat(head_of([1.0], [mean], [covariance]), len(u), axis=0)
        return float(np.mean(array(losses(lenses, head))))

    right = loss([0.1, 0.0], covariance)
    others = ([0.13, 0.0], covariance), ([0.1, 0.0], 1.3 * covariance), ([0.1, 0.0], np.diag(np.diag(covariance)))
    assert all(right < loss(*other) for other in others)


def test_metric_is_the_error_of_the_einstein_radius():
    head = head_of([1.0], [[np.log(1.1), 0, 0, 0, 0, 0, 0]], [np.eye(7)])
    truth = tensor([[1.0, 0, 0, 0, 0, 0, 0]])
    assert float(array(theta_E_error_percent(truth, head))) == pytest.approx(10.0, rel=1e-5)
