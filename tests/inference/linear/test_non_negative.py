"""The source without negative pixels: the conditions of a minimum."""

import numpy as np
import pytest
from inversions import observe

from rim_tf.errors import InputError
from rim_tf.inference.linear import non_negative
from rim_tf.inference.linear.exact import ExactSolver
from rim_tf.inference.linear.non_negative import TOLERANCE, non_negative_source
from rim_tf.inference.linear.regularisation import Regularisation


@pytest.mark.parametrize("pixels", [8, 24])
def test_is_the_minimum(pixels):
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


def test_a_search_cut_short_is_refused(monkeypatch):
    monkeypatch.setattr(non_negative, "_MOST_STEPS", 3)
    _, system, _ = observe(24, 32)
    with pytest.raises(InputError, match="did not converge in 3 steps at strength 50"):
        non_negative_source(system, Regularisation("gradient", "zero", (24, 24)), 50.0)
