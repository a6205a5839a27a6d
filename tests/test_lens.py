"""Lenses as users give them: seven numbers, or any components; and what is said of those that are none."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rim_tf.errors import InputError
from rim_tf.lens import LENS_PARAMETERS, Component, CompositeLens, LensParameters, lens_from_dict, lens_of
from rim_tf.physics.mass.model import SIE_SHEAR

LENS = {"theta_E": 1.2, "e1": 0.1, "e2": -0.05, "x_lens": 0.0, "y_lens": 0.1, "gamma1": 0.02, "gamma2": 0.0}
POWER_LAW = {"type": "power_law", "theta_E": 1.2, "slope": 2.1, "e1": 0.1, "e2": 0.0, "x_lens": 0.1, "y_lens": -0.2}
SHEAR = {"type": "shear", "gamma1": 0.03, "gamma2": -0.01}


def test_parameters_come_in_the_order_of_their_names():
    assert tuple(field.name for field in dataclasses.fields(LensParameters)) == LENS_PARAMETERS == SIE_SHEAR.names
    lens = lens_from_dict(LENS)
    assert lens.as_tuple() == tuple(LENS[name] for name in LENS_PARAMETERS)
    assert lens.to_dict() == lens.named() == LENS


def test_axis_ratio_and_angle_give_the_ellipticity():
    lens = LensParameters.from_axis_ratio(1.0, q=0.5, phi=math.radians(30), x_lens=0.1)
    assert math.hypot(lens.e1, lens.e2) == pytest.approx(1 / 3)
    assert math.atan2(lens.e2, lens.e1) / 2 == pytest.approx(math.radians(30))
    assert lens.x_lens == 0.1
    round_lens = LensParameters.from_axis_ratio(1.0, q=1.0, phi=0.7)
    assert round_lens.e1 == round_lens.e2 == 0


def test_numbers_of_numpy_are_numbers():
    lens = LensParameters(np.float32(1.25), e1=np.float64(0.1), x_lens=np.int64(0), y_lens=np.array(0.5))
    assert lens == LensParameters(1.25, 0.1, 0.0, 0.0, 0.5)
    assert all(type(value) is float for value in lens.as_tuple())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"theta_E": 0.0}, "theta_E"),
        ({"theta_E": -1.0}, "theta_E"),
        ({"theta_E": math.nan}, "theta_E"),
        ({"theta_E": np.float32(np.nan)}, "theta_E"),
        ({"x_lens": math.inf}, "x_lens"),
        ({"x_lens": np.array([0.1, 0.2])}, "x_lens"),
        ({"x_lens": 10**400}, "x_lens"),
        ({"gamma1": "0.1"}, "gamma1"),
        ({"gamma1": True}, "gamma1"),
        ({"gamma1": np.True_}, "gamma1"),
        ({"gamma1": 0.1j}, "gamma1"),
        ({"y_lens": None}, "y_lens"),
        ({"e1": 0.8, "e2": 0.6}, "ellipticity"),
        ({"gamma1": 0.8, "gamma2": 0.6}, "shear"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, complaint):
    with pytest.raises(InputError, match=complaint):
        lens_from_dict(LENS | change)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.1, math.nan])
def test_an_axis_ratio_that_is_none_is_refused(q):
    with pytest.raises(InputError, match="axis ratio"):
        LensParameters.from_axis_ratio(1.0, q=q, phi=0.0)


def test_names_must_be_all_there_and_no_others():
    with pytest.raises(InputError, match="lacks e2, gamma2"):
        lens_from_dict({name: value for name, value in LENS.items() if name not in ("e2", "gamma2")})
    with pytest.raises(InputError, match="unknown 'colour'"):
        lens_from_dict(LENS | {"colour": 0.1})
    with pytest.raises(InputError, match="not a JSON object"):
        lens_from_dict([1.0] * 7)


def test_components_there_and_back():
    lens = lens_from_dict({"components": [POWER_LAW, SHEAR]})
    assert lens == CompositeLens(Component(**POWER_LAW), Component("shear", gamma1=0.03, gamma2=-0.01))
    assert lens_from_dict(json.loads(json.dumps(lens.to_dict()))) == lens == lens_of(lens.mass, lens.as_tuple())
    assert (lens.theta_E, lens.x_lens, lens.y_lens) == (1.2, 0.1, -0.2)
    assert lens.mass.names == ("theta_E", "slope", "e1", "e2", "x_lens", "y_lens", "gamma1", "gamma2")
    assert len({lens, lens_of(lens.mass, lens.as_tuple())}) == 1  # hashable
    assert lens_of(SIE_SHEAR, LENS.values()) == lens_from_dict(LENS)


def test_what_a_component_leaves_out_is_zero_or_isothermal():
    assert Component("power_law", theta_E=1.0).to_dict() == {
        **{"type": "power_law", "theta_E": 1.0, "slope": 2.0},
        **dict.fromkeys(("e1", "e2", "x_lens", "y_lens"), 0.0),
    }
    with pytest.raises(InputError, match="lacks theta_E"):
        Component("sie")


@pytest.mark.parametrize(
    ("components", "complaint"),
    [
        ([POWER_LAW | {"type": "powerlaw"}], "lens.json, component 1: .*'powerlaw', did you mean 'power_law'"),
        ([POWER_LAW, {"gamma1": 0.1}], 'component 2 has no "type"; it must be one of power_law, shear, sie'),
        ([{("slop" if k == "slope" else k): v for k, v in POWER_LAW.items()}], "unknown 'slop', did you mean 'slope'"),
        ([POWER_LAW | {"slope": 3.0}], "component 1: .*slope is 3; it must be above 1.1 and below 2.9"),
        ([POWER_LAW | {"slope": "steep"}], "slope is 'steep'; it must be a finite number"),
        ([POWER_LAW | {"type": 7}], "no mass profile 7"),
        ([SHEAR], "no component with theta_E"),
        ([], "list of at least one component"),
        ({"type": "sie"}, "list of at least one component"),
        (["sie"], 'no "type"'),
    ],
)
def test_components_that_are_none_are_refused_by_place_and_name(components, complaint):
    with pytest.raises(InputError, match=complaint):
        lens_from_dict({"components": components}, "lens.json")


def test_components_and_the_seven_names_exclude_each_other():
    with pytest.raises(InputError, match="unknown 'theta_E'; it must hold components"):
        lens_from_dict({"components": [POWER_LAW], "theta_E": 1.0})


COMPOSITE = CompositeLens(
    Component("shear", gamma1=0.05, gamma2=-0.02),
    Component("power_law", theta_E=1.2, slope=2.2, e1=0.1, e2=0.2, x_lens=0.1, y_lens=-0.2),
    Component("sie", theta_E=0.3, x_lens=0.8, y_lens=0.5),
)


@pytest.mark.parametrize("lens", [LensParameters(1.1, 0.1, -0.2, 0.1, 0.05, 0.06, -0.03), COMPOSITE])
def test_a_moved_lens_deflects_as_before_about_its_new_place(lens):
    """The same rays but for where the source plane has its middle: the shear stays about the origin."""
    centre, rng = (0.7, -0.4), np.random.default_rng(1)
    x, y = rng.uniform(-2, 2, (2, 1, 50))
    moved, (dx, dy) = lens.moved(centre), lens.moved_source(centre)
    before = lens.mass.ray_trace(x, y, np.array([lens.as_tuple()]))
    after = moved.mass.ray_trace(x + centre[0], y + centre[1], np.array([moved.as_tuple()]))
    np.testing.assert_allclose(after[0] - dx, before[0], atol=1e-6)
    np.testing.assert_allclose(after[1] - dy, before[1], atol=1e-6)
    assert moved.x_lens == pytest.approx(lens.x_lens + 0.7) and type(moved) is type(lens)
    assert lens.moved((0.0, 0.0)) == lens and lens.moved_source((0.0, 0.0)) == (0.0, 0.0)


def test_the_shape_is_that_of_the_first_component_that_has_one():
    assert LensParameters.from_axis_ratio(1.0, 0.6, 0.4).shape == pytest.approx((0.6, 0.4))
    assert COMPOSITE.shape == pytest.approx(LensParameters(1.0, 0.1, 0.2).shape)
    assert LensParameters(1.0).shape == (1.0, 0.0)
