"""`invert`, through the front door, with either solver: samples, masks, units, settings, other backends."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from inversions import LENS, dense, observe, tiny
from numpy.testing import assert_allclose

from rim_tf.config import InversionSettings
from rim_tf.errors import InputError
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.inversion import invert
from rim_tf.inference.linear.matrix_free import MatrixFreeSolver
from rim_tf.inference.linear.regularisation import Regularisation
from rim_tf.inference.linear.system import LinearSystem

either_solver = pytest.mark.parametrize("solver", ["exact", "matrix-free"])


@either_solver
def test_reference_through_the_front_door(reference, reference_observation, solver):
    result = invert(*reference_observation, 3.0 / 24, 24, boundary="suyu", strength=100.0, solver=solver)
    # An Observation is float32, noise included: chi2 then differs by 1e-4.
    assert_allclose(result.source.ravel(), reference["suyu_fixed_s"], atol=1e-5)
    error = abs(result.log_evidence - reference["suyu_fixed_log_evidence"])
    assert error < 3 * result.log_evidence_error + 1e-2
    assert_allclose(result.chi2_per_pixel * 64**2, reference["suyu_fixed_chi2"], rtol=1e-5)


def test_defaults_are_those_of_the_network():
    observation, _, _ = observe(8, 12)
    result = invert(observation, LENS, strength=10.0)
    assert result.source.shape == (12, 12)
    assert_allclose(result.source_pixel_scale, observation.pixel_scale * (3 / 192) / 0.04)
    assert result.solver == "exact"
    assert result.source.dtype == np.float64
    assert_allclose(result.chi2_per_pixel, np.mean(result.residual**2))
    assert result.samples.shape == (0, 12, 12)


def test_non_negative_option_changes_the_source_alone():
    observation, _, _ = observe(16, 32)
    plain, positive = (invert(observation, LENS, 0.125, 16, strength=50.0, non_negative=each) for each in (False, True))
    assert plain.source.min() < 0 <= positive.source.min()
    assert positive.log_evidence == plain.log_evidence
    assert positive.chi2_per_pixel > plain.chi2_per_pixel


@pytest.mark.parametrize("solver", [ExactSolver, MatrixFreeSolver])
@pytest.mark.parametrize("boundary", ["zero", "free"])
def test_samples_have_the_covariance_of_the_posterior(solver, boundary):
    prior = Regularisation("gradient", boundary, (8, 8))
    solution = solver(tiny(), prior).solve(20.0, samples=4000)
    A = dense(tiny())
    precision = A.T @ (tiny().weight.reshape(-1, 1) * A) + 20.0 * prior.matrix.toarray()
    # In units in which the posterior is N(0, 1), the sample covariance is 1 to 4000^-1/2.
    white = (solution.samples - solution.source).reshape(4000, -1) @ np.linalg.cholesky(precision)
    assert_allclose(white.T @ white / 4000, np.eye(64), atol=6 / np.sqrt(4000) * np.sqrt(2))
    assert_allclose(white.mean(axis=0), 0, atol=5 / np.sqrt(4000))
    deviation = np.sqrt(np.diag(np.linalg.inv(precision))).reshape(8, 8)
    assert_allclose(solution.standard_deviation, deviation, rtol=1e-9 if solver is ExactSolver else 0.06)


def test_truth_lies_within_the_standard_deviation():
    observation, system, source = observe(24, 48)
    result = invert(observation, LENS, 2.0 / 24, 24)
    reached = (system.lensing_adjoint @ np.ones(48**2)).reshape(24, 24) > 0
    pull = ((result.source - source) / result.standard_deviation)[reached]
    assert np.sqrt((pull**2).mean()) < 1.5


@either_solver
def test_masked_pixels_do_not_matter(solver, rng):
    mask = rng.uniform(size=(20, 20)) > 0.3
    observation = dataclasses.replace(observe(12, 20)[0], mask=mask)
    spoilt = dataclasses.replace(observation, image=np.where(mask, observation.image, np.inf))
    results = [invert(each, LENS, 2 / 12, 12, strength=30.0, solver=solver) for each in (observation, spoilt)]
    assert_allclose(results[0].source, results[1].source, atol=1e-12)
    assert results[0].log_evidence == results[1].log_evidence
    assert np.isnan(results[0].residual[~mask]).all()
    assert np.isfinite(results[0].residual[mask]).all()


@either_solver
def test_pixels_without_rays_follow_the_prior(solver):
    # A grid of 8 arcsec under a field of 5: far out H s = 0 and the source fades towards the dark border.
    observation, _, _ = observe(24, 32, width=8.0)
    result = invert(observation, LENS, 8 / 24, 24, strength=30.0, solver=solver)
    system = LinearSystem.from_observation(observation, LENS, (24, 24), 8 / 24)
    unseen = ~system.curvature(np.eye(576).reshape(-1, 24, 24)).any(axis=0)
    assert unseen.sum() > 150
    force = Regularisation("gradient", "zero", (24, 24)).apply(result.source)
    # lambda H s = D - F s, of which the second side is 0 there up to the tolerance of the solver.
    assert_allclose(force[unseen], 0, atol=1e-7 * abs(system.gradient_at_zero).max() / 30)
    assert abs(result.source[unseen]).max() > 1e-4


@functools.cache
def in_units_of(unit, boundary, solver):
    observation, _, _ = observe(12, 20)
    scaled = dataclasses.replace(observation, image=observation.image * unit, noise=observation.noise * unit)
    return invert(scaled, LENS, 2 / 12, 12, boundary=boundary, solver=solver, samples=2)


@pytest.mark.parametrize("boundary", ["zero", "free"])
@either_solver
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**17])  # exact in float32, in which observations are
def test_a_source_in_other_units_is_the_same_source(boundary, solver, unit):
    one, other = in_units_of(1.0, boundary, solver), in_units_of(unit, boundary, solver)
    assert_allclose(other.strength * unit**2, one.strength, rtol=1e-4)
    assert_allclose(other.source / unit, one.source, atol=1e-4 * one.source.max())
    assert_allclose(other.model_image / unit, one.model_image, atol=1e-4 * one.source.max())
    assert_allclose(other.standard_deviation / unit, one.standard_deviation, rtol=1e-3)
    assert_allclose(other.chi2_per_pixel, one.chi2_per_pixel, rtol=1e-4)
    # The density of the data, per unit of brightness to the power of their number.
    assert_allclose(other.log_evidence + one.observation.image.size * np.log(unit), one.log_evidence, atol=0.05)
    terms = other.evidence_terms
    total = sum(terms[name] for name in ("chi2", "regularisation", "log_det_posterior", "noise_normalisation"))
    assert_allclose(-0.5 * (total - terms["log_det_prior"]), other.log_evidence, atol=0.05)


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
        ({"seed": -1}, "seed is -1"),
        ({"source_pixels": 3}, "source_pixels is 3"),
        ({"source_pixel_scale": -0.1}, "source_pixel_scale"),
        ({"solver": "exact", "source_pixels": 192}, 'use solver "matrix-free"'),
        ({"source_pixels": 10**6}, "takes about 2e.06 GB of memory"),
        ({"regularization": "gradient"}, "unknown 'regularization', did you mean 'regularisation'?"),
        ({"lambda_": 3.0}, "unknown 'lambda_'; it may have regularisation, boundary"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, message):
    observation, _, _ = observe(8, 10)
    with pytest.raises(InputError, match=message):
        invert(observation, LENS, **{"source_pixels": 8} | options)


@pytest.mark.parametrize("psf", [0.0, 0.08, np.full((3, 3), 1 / 9)], ids=["no PSF", "Gaussian", "stamp"])
def test_nothing_to_see_is_refused(psf):
    observation, _, _ = observe(8, 10)
    corner = np.zeros((10, 10), bool)
    corner[0, 0] = True
    with pytest.raises(InputError, match="No unmasked pixel sees the source grid"):
        invert(dataclasses.replace(observation, mask=corner, psf=psf), LENS, 0.01, 8)


ON_JAX = """
import json, sys
from inversions import LENS
from rim_tf.inference.linear.inversion import invert
from rim_tf.observation import Observation

result = invert(Observation(json.load(sys.stdin), 0.02, 0.08, None, 5.12 / 24), LENS, 0.125, 16, strength=50.0)
print("RESULT", json.dumps([result.log_evidence, result.source.tolist()]))
"""


def test_float64_on_jax_too_where_nobody_asked_for_it():
    pytest.importorskip("jax")
    observation, _, _ = observe(16, 24)
    given = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    given |= {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    image = json.dumps(observation.image.tolist())
    done = subprocess.run([sys.executable, "-c", ON_JAX], env=given, input=image, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    log_evidence, source = json.loads(line.removeprefix("RESULT "))
    ours = invert(observation, LENS, 0.125, 16, strength=50.0)
    # Rays in float32 move the evidence by 2e-4 here, and by 10 where the noise is low.
    assert_allclose(log_evidence, ours.log_evidence, atol=1e-6)
    assert_allclose(source, ours.source, atol=1e-8)


def test_every_default_is_that_of_the_settings():
    observation, _, _ = observe(8, 10)
    plain = invert(observation, LENS, 0.25, 8)
    spelt = invert(observation, LENS, 0.25, 8, **dataclasses.asdict(InversionSettings()))
    assert plain.log_evidence == spelt.log_evidence
    assert plain.summary() | {"seconds": 0} == spelt.summary() | {"seconds": 0}
