"""Calibrations: what they do to a Gaussian, and that they are found again from lenses that were drawn from them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rim_tf.inference.calibration import CALIBRATION, Calibration, fit_calibration
from rim_tf.inference.posterior import Gaussian


def test_a_calibrated_law_is_as_wide_as_it_says(rng):
    law = Gaussian(np.zeros(3), np.diag([1e-6, 4e-6, 1e-6]))
    calibration = Calibration((np.log(2.0), 0.5), 8.0)
    found = calibration.distribution(law, 0.01)
    assert_allclose(found.covariance, 4 * law.covariance)
    # Of the draws, and of a Gaussian likelihood at the temperature for samplers.
    assert_allclose(np.cov(found.draw(100_000, rng).T).trace(), calibration.temperature(0.01) * 6e-6, rtol=0.05)
    assert calibration.stretch(0.1) == pytest.approx(2 * np.exp(0.5))
    # Beyond what was measured nothing is extrapolated.
    assert calibration.stretch(1e-6) == calibration.stretch(3e-3) < calibration.stretch(4e-3)
    wider = Calibration((np.log(2.0), 0.5), fitted_in=(1e-3, 2e-2))
    assert wider.stretch(1e-6) == wider.stretch(1e-3) < wider.stretch(3e-3)
    assert wider.stretch(0.5) == wider.stretch(2e-2) > wider.stretch(1e-2)


def test_coefficients_are_found_again(rng):
    known, laws, truth, noise = Calibration((0.5, 0.3), 6.0), [], [], 10 ** rng.uniform(-2.5, -1, 300)
    for each in noise:
        root = 1e-3 * rng.normal(size=(7, 7))
        laws.append(Gaussian(0.1 * rng.normal(size=7), root @ root.T + 1e-7 * np.eye(7)))
        truth.append(known.distribution(laws[-1], each).draw(1, rng)[0])
    found, loss = fit_calibration(laws, truth, noise, 1)
    assert_allclose(found.log_s, known.log_s, atol=0.15)
    assert 3.5 < found.dof < 12
    plain, worse = fit_calibration(laws, truth, noise, 0, False)
    assert np.isinf(plain.dof) and worse > loss + 10


def test_what_is_shipped_widens():
    noise = np.geomspace(1e-3, 0.1, 20)
    assert (CALIBRATION.stretch(noise) >= 1).all() and CALIBRATION.dof > 2
