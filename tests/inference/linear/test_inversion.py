"""Linear inversion against a reference of others, against SciPy's densities, and one solver against the other."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.linear.evidence import log_evidence_slope
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.linear.matrix_free import MatrixFreeSolver
from rim_tf.inference.linear.non_negative import TOLERANCE, non_negative_source
from rim_tf.inference.linear.regularisation import (
    BOUNDARIES,
    REGULARISATIONS,
    Regularisation,
    log_prior,
    regularisation_matrix,
    sigmas_between,
)
from rim_tf.inference.linear.system import LinearSystem, SeparableBlur, StampBlur
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator

LENS = LensParameters(1.1, 0.12, -0.07, 0.03, -0.05, 0.04, -0.03)
# What the reference calls our boundaries and terms.
THEIRS = {"zero": "dirichlet", "suyu": "suyu", "free": "neumann"}
TERMS = {
    "chi2": "chi2",
    "regularisation": "reg_term",
    "log_det_posterior": "logdet_F_plus_H",
    "log_det_prior": "logdet_H",
    "noise_normalisation": "noise_norm",
    "good_parameters": "good_params",
}
REGULAR = [
    ("brightness", "zero"),
    ("gradient", "zero"),
    ("gradient", "suyu"),
    ("curvature", "zero"),
    ("curvature", "suyu"),
]


def clumps(pixels, seed=3):
    """A source of a dozen Gaussian clumps, peak 1, [pixels, pixels], and the generator for its noise."""
    rng = np.random.default_rng(seed)
    x = (np.arange(pixels) - (pixels - 1) / 2) / pixels
    source = np.zeros((pixels, pixels))
    for _ in range(12):
        (x0, y0), width = 0.1 * rng.normal(size=2), rng.uniform(0.015, 0.1)
        source += rng.uniform(0.2, 1) * np.exp(-((x - x0) ** 2 + (x[:, None] - y0) ** 2) / (2 * width**2))
    return source / source.max(), rng


def observe(pixels, image_pixels, noise=0.02, psf=0.08, mask=None, width=2.0):
    """An observation of 5.12 arcsec of the sky, whose source is `clumps(pixels)` on a grid of `width` arcsec."""
    source, rng = clumps(pixels)
    empty = Observation(np.zeros((image_pixels,) * 2), noise, psf, mask, 5.12 / image_pixels)
    system = LinearSystem.from_observation(empty, LENS, source.shape, width / pixels)
    image = system.forward(source) + noise * rng.normal(size=empty.shape)
    observation = dataclasses.replace(empty, image=image)
    return observation, LinearSystem.from_observation(observation, LENS, source.shape, width / pixels), source


def dense(system):
    """A as a matrix, [image pixels, source pixels], by its action on unit vectors."""
    pixels = int(np.prod(system.source_shape))
    return system.forward(np.eye(pixels).reshape(pixels, *system.source_shape)).reshape(pixels, -1).T


@pytest.fixture(scope="module")
def tiny():
    """10 x 10 image pixels, 8 x 8 source pixels: small enough for any matrix."""
    return observe(8, 10, noise=0.05, psf=0.3)[1]


@pytest.fixture(scope="module")
def reference(shared):
    return np.load(shared / "refs/inversion_24.npz")


@pytest.fixture(scope="module")
def reference_system(reference):
    """The reference's problem in its own float64 numbers, but for L, which is ours."""
    observation = Observation(reference["image"], float(reference["sigma"]), reference["kernel"], None, 0.12)
    lensing = LinearSystem.from_observation(
        observation, LensParameters(*reference["params"]), (24, 24), 3.0 / 24
    ).lensing
    weight = np.full((64, 64), reference["sigma"] ** -2)
    return LinearSystem(lensing, StampBlur(reference["kernel"], (64, 64)), reference["image"], weight, (24, 24))


def sparse(reference, name):
    parts = [reference[f"{name}_{part}"] for part in ("data", "indices", "indptr")]
    return sp.csr_matrix(tuple(parts), shape=tuple(reference[f"{name}_shape"])).toarray()


class TestReference:
    def test_matrices(self, reference, reference_system):
        assert_allclose(reference_system.lensing.toarray(), sparse(reference, "L"), atol=1e-9)
        F = sparse(reference, "F")
        assert_allclose(reference_system.curvature_matrix, F, atol=1e-9 * F.max())
        assert_allclose(reference_system.gradient_at_zero.ravel(), reference["D"], atol=1e-9 * reference["D"].max())

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_every_term_at_a_fixed_strength(self, reference, reference_system, boundary):
        name = THEIRS[boundary]
        H = regularisation_matrix("gradient", boundary, (24, 24)).toarray()
        assert_allclose(H, sparse(reference, f"C_{name}"), atol=1e-14)
        solution = ExactSolver(reference_system, Regularisation("gradient", boundary, (24, 24))).solve(100.0)
        for ours, theirs in TERMS.items():
            assert_allclose(solution.evidence_terms[ours], reference[f"{name}_fixed_{theirs}"], rtol=1e-7, err_msg=ours)
        assert_allclose(solution.log_evidence, reference[f"{name}_fixed_log_evidence"], atol=1e-5)
        assert_allclose(solution.source.ravel(), reference[f"{name}_fixed_s"], atol=1e-8)

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_optimal_strength(self, reference, reference_system, boundary):
        name = THEIRS[boundary]
        prior = Regularisation("gradient", boundary, (24, 24))
        solution = ExactSolver(reference_system, prior, tolerance=1e-9).solve()
        assert_allclose(solution.strength, reference[f"{name}_opt_lam"], rtol=2e-5)
        assert_allclose(solution.log_evidence, reference[f"{name}_opt_log_evidence"], atol=1e-5)
        assert_allclose(solution.source.ravel(), reference[f"{name}_opt_s"], atol=1e-6)
        quick = ExactSolver(reference_system, prior).solve()
        assert solution.log_evidence - 0.01 <= quick.log_evidence <= solution.log_evidence + 1e-6

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_curve_over_the_strength(self, reference, reference_system, boundary):
        solver = ExactSolver(reference_system, Regularisation("gradient", boundary, (24, 24)))
        name = THEIRS[boundary]
        strengths, evidences = reference[f"{name}_curve_lam"], reference[f"{name}_curve_logev"]
        for strength, theirs in zip(strengths[::6], evidences[::6], strict=True):
            # "free" hangs on an eigenvalue of 1e-8, which the reference's log det has to five digits.
            assert_allclose(solver.at(strength).log_evidence, theirs, atol=2e-4)

    @pytest.mark.parametrize("solver", ["exact", "matrix-free"])
    def test_through_the_front_door(self, reference, solver):
        observation = Observation(reference["image"], float(reference["sigma"]), reference["kernel"], None, 0.12)
        result = invert(
            observation,
            LensParameters(*reference["params"]),
            3.0 / 24,
            24,
            boundary="suyu",
            strength=100.0,
            solver=solver,
        )
        # An Observation is float32, noise included: chi2 then differs by 1e-4.
        assert_allclose(result.source.ravel(), reference["suyu_fixed_s"], atol=1e-5)
        error = abs(result.log_evidence - reference["suyu_fixed_log_evidence"])
        assert error < 3 * result.log_evidence_error + 1e-2
        assert_allclose(result.chi2_per_pixel * 64**2, reference["suyu_fixed_chi2"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "stamp", "separable stamp", "large separable stamp"])
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_system_is_the_one_of_the_network(kind, shape, rng):
    k, m = (25, 31) if kind.startswith("large") else (5, 7)
    psf = rng.uniform(size=(k, m)) if kind == "stamp" else np.outer(rng.uniform(size=k), rng.uniform(size=m))
    psf = 0.1 if kind == "gaussian" else psf / psf.sum()
    observation = Observation(rng.normal(size=shape), 0.1, psf, rng.uniform(size=shape) > 0.2, 0.3)
    system = LinearSystem.from_observation(observation, LENS, (8, 8), 0.2)
    # A product is known as one to the float32 of stamps.
    tolerance = 1e-6 if "separable" in kind else 1e-12
    assert isinstance(system.blur, StampBlur if kind == "stamp" else SeparableBlur)
    inputs = {
        "image": observation.image[None].astype(np.float64),
        "psf": np.asarray([psf]) if kind == "gaussian" else observation.psf[None].astype(np.float64),
        "lens": np.asarray([LENS.as_tuple()]),
        "pixel_scale": np.asarray([0.3]),
        "source_pixel_scale": np.asarray([0.2]),
    }
    physics = imaging_operator(inputs, (8, 8))
    source, image = rng.normal(size=(8, 8)), rng.normal(size=shape)
    assert_allclose(system.forward(source), np.asarray(physics.forward(source[None]))[0], atol=tolerance)
    assert_allclose(system.adjoint(image), np.asarray(physics.adjoint(image[None]))[0], atol=tolerance)
    stack = rng.normal(size=(3, 8, 8))
    assert_allclose(system.curvature(stack)[1], system.curvature(stack[1]), atol=1e-9)


@pytest.mark.parametrize("kind", ["separable", "stamp", "stamp larger than the image"])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_curvature_matrix(kind, in_blocks, rng, monkeypatch):
    shape = (9, 12)
    if kind == "separable":
        blur = SeparableBlur(*(rng.normal(size=(n, n)) for n in shape))
    else:
        blur = StampBlur(rng.uniform(size=(3, 5) if kind == "stamp" else (21, 27)), shape)
    lensing = sp.random(108, 30, 0.1, random_state=1, format="csr")
    weight = np.where(rng.uniform(size=shape) > 0.3, rng.uniform(size=shape), 0)
    system = LinearSystem(lensing, blur, rng.normal(size=shape), weight, (5, 6))
    if in_blocks:
        monkeypatch.setattr("rim_tf.inference.linear.system._DENSE_IMAGE_PIXELS", 0)
        monkeypatch.setattr("rim_tf.inference.linear.system._BLOCK", 7 * 108)
    A = dense(system)
    assert_allclose(system.curvature_matrix, A.T @ (weight.reshape(-1, 1) * A), rtol=1e-10, atol=1e-12)


class TestRegularisation:
    @pytest.mark.parametrize("kind", REGULARISATIONS)
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_matrix_spectrum_and_action_agree(self, kind, boundary, rng):
        prior = Regularisation(kind, boundary, (5, 7))
        H = prior.matrix.toarray()
        source = rng.normal(size=(2, 5, 7))
        assert_allclose(prior.apply(source).reshape(2, -1), source.reshape(2, -1) @ H, atol=1e-12)
        assert_allclose(prior.from_modes(prior.spectrum * prior.to_modes(source)), prior.apply(source), atol=1e-12)
        eigenvalues = np.linalg.eigvalsh(H)
        assert prior.rank == (eigenvalues > 1e-10).sum()
        if prior.ridge == 0:
            assert_allclose(prior.log_det(3.0), np.linalg.slogdet(3.0 * H)[1], rtol=1e-10)

    def test_energies_are_what_they_are_called(self, rng):
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
            H = regularisation_matrix(kind, boundary, s.shape)
            assert_allclose(s.ravel() @ (H @ s.ravel()), expected, rtol=1e-12, err_msg=f"{kind} {boundary}")

    def test_free_boundary_costs_flat_sources_nothing(self):
        y, x = np.mgrid[:6, :8]
        for kind, flat in [("gradient", [1 + 0 * x]), ("curvature", [1 + 0 * x, x, y, x * y])]:
            prior = Regularisation(kind, "free", (6, 8))
            assert prior.size - prior.rank == len(flat)
            for source in flat:
                assert_allclose(prior.apply(source.astype(float)), 0, atol=1e-12)

    def test_log_prior_of_its_own_draws(self, rng):
        prior = Regularisation("gradient", "zero", (12, 12))
        draws = prior.from_modes((2.0 * prior.spectrum) ** -0.5 * rng.normal(size=(300, 12, 12)))
        sigmas = [log_prior(source, 2.0)["sigmas"] for source in draws]
        assert abs(np.mean(sigmas)) < 4 / np.sqrt(300)
        assert 0.8 < np.std(sigmas) < 1.2
        density = multivariate_normal(cov=np.linalg.inv(2.0 * prior.matrix.toarray())).logpdf(draws[0].ravel())
        assert_allclose(log_prior(draws[0], 2.0)["log_density"], density, rtol=1e-9)

    def test_the_papers_sigmas(self):
        # Section 4: a log-prior 85 lower is "about 13 sigma worse".
        first, second = np.zeros((8, 8)), np.zeros((8, 8))
        second[3, 3] = np.sqrt(2 * 85.0)
        assert_allclose(sigmas_between(first, second, 1.0, "brightness"), 13.04, atol=0.01)


class TestEvidence:
    @pytest.mark.parametrize(("kind", "boundary"), REGULAR)
    def test_is_the_marginal_likelihood(self, tiny, kind, boundary):
        # Integrating the source out leaves data ~ N(0, C): SciPy gets there without any of our algebra.
        prior, A = Regularisation(kind, boundary, (8, 8)), dense(tiny)
        C = A @ np.linalg.inv(20.0 * prior.matrix.toarray()) @ A.T + np.diag(1 / tiny.weight.ravel())
        expected = multivariate_normal(cov=C).logpdf(tiny.data.ravel())
        assert_allclose(ExactSolver(tiny, prior).solve(20.0).log_evidence, expected, rtol=1e-9)

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    @pytest.mark.parametrize("kind", REGULARISATIONS)
    def test_slope(self, tiny, kind, boundary):
        prior = Regularisation(kind, boundary, (8, 8))
        solver, h = ExactSolver(tiny, prior), 1e-3
        values = [solver.at(20.0 * np.exp(x)).log_evidence for x in (-h, h)]
        slope = log_evidence_slope(solver.at(20.0).terms, prior.size)
        assert_allclose(slope, (values[1] - values[0]) / (2 * h), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("kind", REGULARISATIONS)
    @pytest.mark.parametrize("solver", ["exact", "matrix-free"])
    def test_best_strength_is_best(self, kind, solver):
        observation, system, _ = observe(16, 20, noise=0.05)
        prior = Regularisation(kind, "zero", (16, 16))
        best = invert(observation, LENS, 2.0 / 16, 16, kind, solver=solver)
        at = ExactSolver(system, prior).at
        # 0.25 in log lambda is far beyond what 16 probes leave open
        assert at(best.strength).log_evidence > max(at(best.strength * f).log_evidence for f in (0.8, 1.25))

    def test_without_a_maximum_there_is_a_warning(self):
        observation, _, _ = observe(8, 10)
        dark = dataclasses.replace(observation, image=np.zeros((10, 10)))
        with pytest.warns(InputWarning, match="no maximum"):
            invert(dark, LENS, 0.25, 8)


class TestMatrixFree:
    @pytest.mark.parametrize("pixels", [24, 48, 64])
    def test_agrees_with_exact_within_its_error(self, pixels):
        _, system, _ = observe(pixels, 64)
        prior = Regularisation("gradient", "zero", (pixels, pixels))
        free = MatrixFreeSolver(system, prior).solve()
        exact = ExactSolver(system, prior).solve(free.strength)
        assert 0 < free.log_evidence_error < 6
        assert abs(free.log_evidence - exact.log_evidence) < 2.5 * free.log_evidence_error
        assert_allclose(free.source, exact.source, atol=1e-6)
        for term in ("chi2", "regularisation", "log_det_prior", "noise_normalisation"):
            assert_allclose(free.evidence_terms[term], exact.evidence_terms[term], rtol=1e-6, err_msg=term)
        assert_allclose(free.evidence_terms["good_parameters"], exact.evidence_terms["good_parameters"], rtol=0.03)

    @pytest.mark.parametrize("kind", REGULARISATIONS)
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_every_prior(self, kind, boundary):
        _, system, _ = observe(20, 24, noise=0.05)
        prior = Regularisation(kind, boundary, (20, 20))
        free = MatrixFreeSolver(system, prior, known_modes=6).solve()
        exact = ExactSolver(system, prior).solve(free.strength)
        assert abs(free.log_evidence - exact.log_evidence) < 4 * free.log_evidence_error
        assert_allclose(free.source, exact.source, atol=1e-5)

    def test_is_exact_where_all_modes_are_known(self, tiny):
        prior = Regularisation("gradient", "zero", (8, 8))
        free, exact = MatrixFreeSolver(tiny, prior).solve(20.0), ExactSolver(tiny, prior).solve(20.0)
        assert_allclose(free.log_evidence, exact.log_evidence, atol=1e-3)

    def test_error_estimate_is_the_scatter(self):
        _, system, _ = observe(16, 20, noise=0.05)
        prior = Regularisation("gradient", "zero", (16, 16))
        exact = ExactSolver(system, prior).solve(50.0).log_evidence
        solutions = [MatrixFreeSolver(system, prior, seed, known_modes=4).solve(50.0) for seed in range(40)]
        pulls = [(each.log_evidence - exact) / each.log_evidence_error for each in solutions]
        assert 0.7 < np.std(pulls) < 1.5
        assert abs(np.mean(pulls)) < 0.7

    def test_seed_decides(self):
        observation, _, _ = observe(16, 20)
        first, same, other = (
            invert(observation, LENS, 0.125, 16, strength=50.0, solver="matrix-free", samples=1, seed=seed)
            for seed in (1, 1, 2)
        )
        assert first.log_evidence == same.log_evidence
        assert_allclose(first.samples, same.samples, atol=0)
        assert first.log_evidence != other.log_evidence
        assert abs(first.samples - other.samples).max() > 1e-3

    def test_data_of_high_signal_to_noise_converge_to_the_exact_source(self):
        # Noise of 0.05 % of the peak: without a preconditioner, 2000 steps of conjugate gradients are too few.
        _, system, _ = observe(48, 64, noise=5e-4)
        prior = Regularisation("gradient", "zero", (48, 48))
        exact = ExactSolver(system, prior).solve(500.0)
        found = MatrixFreeSolver(system, prior).solve(500.0)
        deviation = exact.standard_deviation
        assert abs((found.source - exact.source) / deviation).max() < 1e-3
        assert abs(found.log_evidence - exact.log_evidence) < 3 * found.log_evidence_error + 0.2


class TestUncertainty:
    @pytest.mark.parametrize("solver", [ExactSolver, MatrixFreeSolver])
    @pytest.mark.parametrize("boundary", ["zero", "free"])
    def test_samples_have_the_covariance_of_the_posterior(self, tiny, solver, boundary):
        prior = Regularisation("gradient", boundary, (8, 8))
        solution = solver(tiny, prior).solve(20.0, samples=4000)
        A = dense(tiny)
        precision = A.T @ (tiny.weight.reshape(-1, 1) * A) + 20.0 * prior.matrix.toarray()
        # In units in which the posterior is N(0, 1), the sample covariance is 1 to 4000^-1/2.
        white = (solution.samples - solution.source).reshape(4000, -1) @ np.linalg.cholesky(precision)
        assert_allclose(white.T @ white / 4000, np.eye(64), atol=6 / np.sqrt(4000) * np.sqrt(2))
        assert_allclose(white.mean(axis=0), 0, atol=5 / np.sqrt(4000))
        deviation = np.sqrt(np.diag(np.linalg.inv(precision))).reshape(8, 8)
        assert_allclose(solution.standard_deviation, deviation, rtol=1e-9 if solver is ExactSolver else 0.06)

    def test_of_the_matrix_free_solver_needs_samples(self, tiny):
        assert MatrixFreeSolver(tiny, Regularisation("gradient", "zero", (8, 8))).solve(20.0).standard_deviation is None

    def test_truth_lies_within_it(self):
        observation, system, source = observe(24, 48)
        result = invert(observation, LENS, 2.0 / 24, 24)
        reached = (system.lensing_adjoint @ np.ones(48**2)).reshape(24, 24) > 0
        pull = ((result.source - source) / result.standard_deviation)[reached]
        assert np.sqrt((pull**2).mean()) < 1.5


@pytest.mark.parametrize("pixels", [8, 24])
def test_non_negative_source_is_the_minimum(pixels):
    # Karush, Kuhn and Tucker: at 0 the gradient may only push further down, elsewhere it vanishes.
    _, system, _ = observe(pixels, 32)
    prior, strength = Regularisation("gradient", "zero", (pixels, pixels)), 50.0
    free = ExactSolver(system, prior).solve(strength).source
    assert free.min() < 0
    for start in (None, free):
        source = non_negative_source(system, prior, strength, start)
        gradient = system.curvature(source) + strength * prior.apply(source) - system.gradient_at_zero
        size = np.linalg.norm(system.gradient_at_zero)
        assert source.min() == 0
        assert abs(gradient[source > 0]).max() < 10 * TOLERANCE * size
        assert gradient[source == 0].min() > -10 * TOLERANCE * size


def test_non_negative_option_changes_the_source_alone():
    observation, _, _ = observe(16, 32)
    plain, positive = (invert(observation, LENS, 0.125, 16, strength=50.0, non_negative=each) for each in (False, True))
    assert plain.source.min() < 0 <= positive.source.min()
    assert positive.log_evidence == plain.log_evidence
    assert positive.chi2_per_pixel > plain.chi2_per_pixel


class TestMask:
    @pytest.mark.parametrize("solver", ["exact", "matrix-free"])
    def test_masked_pixels_do_not_matter(self, solver, rng):
        mask = rng.uniform(size=(20, 20)) > 0.3
        observation, _, _ = observe(12, 20, mask=mask)
        spoilt = dataclasses.replace(observation, image=np.where(mask, observation.image, np.inf))
        results = [invert(each, LENS, 2 / 12, 12, strength=30.0, solver=solver) for each in (observation, spoilt)]
        assert_allclose(results[0].source, results[1].source, atol=1e-12)
        assert results[0].log_evidence == results[1].log_evidence
        assert np.isnan(results[0].residual[~mask]).all()
        assert np.isfinite(results[0].residual[mask]).all()

    def test_evidence_counts_unmasked_pixels_alone(self, rng):
        mask = rng.uniform(size=(10, 10)) > 0.3
        _, system, _ = observe(8, 10, noise=0.05, psf=0.3, mask=mask)
        prior, A = Regularisation("gradient", "zero", (8, 8)), dense(system)[mask.ravel()]
        C = A @ np.linalg.inv(20.0 * prior.matrix.toarray()) @ A.T + np.diag(1 / system.weight[mask])
        expected = multivariate_normal(cov=C).logpdf(system.data[mask])
        assert_allclose(ExactSolver(system, prior).solve(20.0).log_evidence, expected, rtol=1e-9)

    @pytest.mark.parametrize("solver", ["exact", "matrix-free"])
    def test_pixels_without_rays_follow_the_prior(self, solver):
        # A grid of 8 arcsec under a field of 5: far out H s = 0 and the source fades towards the dark border.
        observation, _, _ = observe(32, 48, width=8.0)
        result = invert(observation, LENS, 0.25, 32, strength=30.0, solver=solver)
        system = LinearSystem.from_observation(observation, LENS, (32, 32), 0.25)
        unseen = ~system.curvature(np.eye(1024).reshape(-1, 32, 32)).any(axis=0)
        assert unseen.sum() > 300
        force = Regularisation("gradient", "zero", (32, 32)).apply(result.source)
        # lambda H s = D - F s, of which the second side is 0 there up to the tolerance of the solver.
        assert_allclose(force[unseen], 0, atol=1e-7 * abs(system.gradient_at_zero).max() / 30)
        assert abs(result.source[unseen]).max() > 1e-4


class TestUnits:
    @pytest.mark.parametrize("boundary", ["zero", "free"])
    @pytest.mark.parametrize("solver", ["exact", "matrix-free"])
    @pytest.mark.parametrize("unit", [2.0**-20, 2.0**17])  # exact in float32, in which observations are
    def test_a_source_in_other_units_is_the_same_source(self, boundary, solver, unit):
        observation, _, _ = observe(16, 32)
        scaled = dataclasses.replace(observation, image=observation.image * unit, noise=observation.noise * unit)
        given = {"source_pixel_scale": 0.125, "source_pixels": 16, "boundary": boundary, "solver": solver, "samples": 2}
        one, other = (invert(each, LENS, **given) for each in (observation, scaled))
        assert_allclose(other.strength * unit**2, one.strength, rtol=1e-4)
        assert_allclose(other.source / unit, one.source, atol=1e-4 * one.source.max())
        assert_allclose(other.model_image / unit, one.model_image, atol=1e-4 * one.source.max())
        assert_allclose(other.standard_deviation / unit, one.standard_deviation, rtol=1e-3)
        assert_allclose(other.chi2_per_pixel, one.chi2_per_pixel, rtol=1e-4)
        # The density of the data, per unit of brightness to the power of their number.
        assert_allclose(other.log_evidence + observation.image.size * np.log(unit), one.log_evidence, atol=0.05)
        terms = other.evidence_terms
        total = sum(terms[name] for name in ("chi2", "regularisation", "log_det_posterior", "noise_normalisation"))
        assert_allclose(-0.5 * (total - terms["log_det_prior"]), other.log_evidence, atol=0.05)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"regularisation": "entropy"}, "regularisation is 'entropy'"),
            ({"boundary": "periodic"}, "boundary is 'periodic'"),
            ({"solver": "magic"}, "solver is 'magic'"),
            ({"strength": -1.0}, "strength is -1.0"),
            ({"strength": 0}, "strength is 0"),
            ({"strength": float("nan")}, "strength is nan"),
            ({"strength": "much"}, "strength is 'much'"),
            ({"samples": -1}, "samples is -1"),
            ({"samples": 1.5}, "samples is 1.5"),
            ({"source_pixels": 3}, "source_pixels is 3"),
            ({"source_pixel_scale": -0.1}, "source_pixel_scale"),
            ({"solver": "exact", "source_pixels": 192}, 'use solver "matrix-free"'),
        ],
    )
    def test_is_refused_in_one_sentence(self, options, message):
        observation, _, _ = observe(8, 10)
        with pytest.raises(InputError, match=message):
            invert(observation, LENS, **{"source_pixels": 8} | options)

    @pytest.mark.parametrize("psf", [0.0, 0.08, np.full((3, 3), 1 / 9)], ids=["no PSF", "Gaussian", "stamp"])
    def test_nothing_to_see(self, psf):
        observation, _, _ = observe(8, 10)
        corner = np.zeros((10, 10), bool)
        corner[0, 0] = True
        with pytest.raises(InputError, match="No unmasked pixel sees the source grid"):
            invert(dataclasses.replace(observation, mask=corner, psf=psf), LENS, 0.01, 8)

    def test_grid_with_one_axis(self):
        with pytest.raises(InputError, match="two sides"):
            log_prior(np.zeros(8), 1.0)


def test_defaults_are_those_of_the_network():
    observation, _, _ = observe(8, 12)
    result = invert(observation, LENS, strength=10.0)
    assert result.source.shape == (12, 12)
    assert_allclose(result.source_pixel_scale, observation.pixel_scale * (3 / 192) / 0.04)
    assert result.solver == "exact"
    assert result.source.dtype == np.float64
    assert_allclose(result.chi2_per_pixel, np.mean(result.residual**2))
    assert result.samples.shape == (0, 12, 12)
