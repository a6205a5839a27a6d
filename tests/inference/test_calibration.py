"""Calibrations: what they do to a Gaussian, and that they are found again from lenses that were drawn from them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rim_tf.inference.calibration import CALIBRATION, Calibration, fit_calibration
from rim_tf.inference.misfit import unit_steps
from rim_tf.inference.posterior import Gaussian
from rim_tf.physics.mass.model import SIE_SHEAR


def test_a_calibrated_law_is_stretched_and_has_a_floor():
    law = Gaussian(np.zeros(7), np.diag(np.full(7, 1e-6)))
    calibration = Calibration((np.log(2.0), 0.5), 0.1, 8.0)
    found = calibration.distribution(law, SIE_SHEAR, 1.5, 0.01)
    assert_allclose(found.covariance, 4e-6 * np.eye(7) + 0.01 * np.diag(unit_steps(SIE_SHEAR, 1.5) ** 2))
    assert found.dof == 8.0 and calibration.temperature(0.01) == pytest.approx(4.0)
    assert calibration.stretch(0.1) == pytest.approx(2 * np.exp(0.5))
    # Beyond what was measured nothing is extrapolated.
    assert calibration.stretch(1e-6) == calibration.stretch(1e-3)


def test_coefficients_are_found_again(rng):
    known, laws, truth, noise = Calibration((0.5, 0.3), 0.0, 6.0), [], [], 10 ** rng.uniform(-3, -1, 300)
    for each in noise:
        root = 1e-3 * rng.normal(size=(7, 7))
        laws.append(Gaussian(0.1 * rng.normal(size=7), root @ root.T + 1e-7 * np.eye(7)))
        truth.append(known.distribution(laws[-1], SIE_SHEAR, 1.0, each).draw(1, rng)[0])
    found, loss = fit_calibration(laws, np.array(truth), noise, SIE_SHEAR, 1, False, True)
    assert_allclose(found.log_s, known.log_s, atol=0.12)
    assert 3.5 < found.dof < 12
    plain, worse = fit_calibration(laws, np.array(truth), noise, SIE_SHEAR, 0, False, False)
    assert np.isinf(plain.dof) and worse > loss + 10


def test_what_is_shipped_widens():
    noise = np.geomspace(1e-3, 0.1, 20)
    assert (CALIBRATION.stretch(noise) >= 1).all() and CALIBRATION.dof > 2
