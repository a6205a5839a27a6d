"""Lens and source found together: the best start first, its path, and what is not a number left out."""

import modelled
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from rim_tf.errors import InputError
from rim_tf.inference import together
from rim_tf.inference.together import find_together
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.observation import Observation

STARTS = [LensParameters(theta_E, 0.1, 0.0, 0.02, 0.0, 0.01, 0.0) for theta_E in (0.5, 0.8, 1.1)]
SAMPLES = np.array([lens.as_tuple() for lens in STARTS]) + 0.01 * np.random.default_rng(1).normal(size=(3, 7))


def observation():
    return Observation(modelled.ring(galaxy=0.0)[:21, :20], 0.05, 0.05, None, modelled.SCALE)


def test_the_best_of_all_starts_comes_first():
    found = find_together(observation(), STARTS, SAMPLES, modelled.joint(), n_steps=3)
    assert len(found.lenses) == 3
    assert (np.diff(found.chi2_per_pixel[:, -1]) >= 0).all() and np.isfinite(found.chi2_per_pixel).all()
    assert found.path.shape == (3, 4, 7) and found.chi2_per_pixel.shape == (3, 4)
    starts = np.array([start.as_tuple() for start in STARTS])
    assert_allclose(found.path[np.argsort(found.path[:, 0, 0]), 0], starts, rtol=1e-5, atol=1e-5)
    assert_allclose(found.path[:, -1], [lens.as_tuple() for lens in found.lenses], rtol=1e-5, atol=1e-6)
    # Each by itself is what it is among others.
    alone = find_together(observation(), STARTS[1:2], SAMPLES, modelled.joint(), n_steps=3)
    chi2 = alone.chi2_per_pixel[0, -1]
    assert np.abs(found.chi2_per_pixel[:, -1] - chi2).min() < 1e-3 * chi2


def test_more_steps_than_it_was_trained_for_go_on_where_it_was():
    short, long = (find_together(observation(), STARTS[:1], SAMPLES, modelled.joint(), n_steps=n) for n in (2, 4))
    assert_allclose(long.path[:, :3], short.path, rtol=1e-4, atol=1e-5)
    assert_allclose(long.chi2_per_pixel[:, :3], short.chi2_per_pixel, rtol=1e-3)


def test_what_is_no_lens_is_left_out(monkeypatch):
    traced = together._traced(modelled.joint(), False)

    def broken(inputs, n_steps):
        path, chi2 = (traced(inputs, n_steps)[name].numpy() for name in ("path", "chi2_per_pixel"))
        chi2[0, -1] = np.nan
        path[1, -1, 0] = 0.0  # no ring is of no size
        return {"path": tf.constant(path), "chi2_per_pixel": tf.constant(chi2)}

    monkeypatch.setattr(together, "_traced", lambda *given: broken)
    found = find_together(observation(), STARTS, SAMPLES, modelled.joint(), n_steps=2)
    assert len(found.lenses) == len(found.chi2_per_pixel) == len(found.path) == 1


def test_a_start_of_another_mass_model_is_refused():
    other = CompositeLens(Component("power_law", theta_E=1.0))
    with pytest.raises(InputError, match=r"mass model \('power_law',\), and the network .* knows \('sie', 'shear'\)"):
        find_together(observation(), [other], SAMPLES, modelled.joint())
