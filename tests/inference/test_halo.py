"""What of a source may be the lens galaxy's: the galaxy beside the arcs; what it comes to is spread."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.inference.halo import galaxy_over_arcs, spread, widening
from rim_tf.results import SourceErrors

FIGURES = {"flux": 2.0, "magnification": 5.0, "source_peak": 1.0, "half_light_radius": 0.2}


def drawn(n=20_000):
    return SourceErrors(
        samples=np.ones((n, 2, 2)), figures={name: np.full(n, value) for name, value in FIGURES.items()}
    )


def test_a_galaxy_as_bright_as_the_arcs_has_a_ratio_of_one(rng):
    arcs, used = rng.random((9, 12)), rng.random((9, 12)) < 0.8
    assert galaxy_over_arcs(arcs, arcs, used) == pytest.approx(1)
    assert galaxy_over_arcs(1e-12 * arcs, 3e-12 * arcs, used) == pytest.approx(3)
    # What is masked, or where no arcs are, does not count.
    beside = np.where(used, arcs, 1000)
    assert galaxy_over_arcs(arcs, beside, used) == pytest.approx(1)
    arcs[0] = 0
    assert galaxy_over_arcs(arcs, arcs + 5 * (arcs == 0), used) == pytest.approx(1)
    assert galaxy_over_arcs(arcs, 0 * arcs, used) == 0
    assert np.isnan(galaxy_over_arcs(0 * arcs, arcs, used))


def test_without_a_galaxy_nothing_is_spread():
    errors = drawn(10)
    assert spread(errors, 0.0) is errors and widening(0.0) == 1


def test_the_brighter_the_galaxy_the_less_is_known_up_to_a_limit():
    errors = drawn()
    deviation = [np.log(spread(errors, ratio).figures["flux"]).std() for ratio in (0.01, 0.1, 1.0, 1000.0)]
    assert_allclose(np.array(deviation) / deviation[-1], [1 / 11, 0.5, 10 / 11, 1.0], rtol=0.01)
    wider = [widening(ratio) - 1 for ratio in (0.01, 0.1, 1.0, float("nan"))]
    assert_allclose(np.array(wider) / wider[-1], [1 / 11, 0.5, 10 / 11, 1.0])
    found = spread(errors, 5.0, seed=3)
    assert_array_equal(found.samples, errors.samples)
    for name, value in FIGURES.items():
        assert np.median(found.figures[name]) == pytest.approx(value, rel=0.01)
    # Light that is the galaxy's makes the source too bright and too large, and the magnification too small.
    logs = {name: np.log(values) for name, values in found.figures.items()}
    assert np.corrcoef(logs["flux"], logs["half_light_radius"])[0, 1] == pytest.approx(1)
    assert np.corrcoef(logs["flux"], logs["magnification"])[0, 1] == pytest.approx(-1)
    assert abs(np.corrcoef(logs["flux"], logs["source_peak"])[0, 1]) < 0.05
    # Where nothing is known of the arcs, nothing is known of what is beside them.
    unknown = spread(errors, float("nan")).figures["flux"]
    assert np.log(unknown).std() == pytest.approx(deviation[-1], rel=0.01)
    again = spread(errors, 5.0, seed=3)
    assert_array_equal(again.figures["flux"], found.figures["flux"])
