import dataclasses
import json
import math

import pytest

from rim_tf.config import PAPER, SMALL, RIMConfig, to_json
from rim_tf.errors import InputError
from rim_tf.lens import LENS_PARAMETERS, LensParameters

LENS = {"theta_E": 1.2, "e1": 0.1, "e2": -0.05, "x_lens": 0.0, "y_lens": 0.1, "gamma1": 0.02, "gamma2": 0.0}


def test_parameters_come_in_the_order_of_their_names():
    assert tuple(field.name for field in dataclasses.fields(LensParameters)) == LENS_PARAMETERS
    assert LensParameters.from_dict(LENS).as_tuple() == tuple(LENS[name] for name in LENS_PARAMETERS)


def test_axis_ratio_and_angle_give_the_ellipticity():
    lens = LensParameters.from_axis_ratio(1.0, q=0.5, phi=math.radians(30), x_lens=0.1)
    assert math.hypot(lens.e1, lens.e2) == pytest.approx(1 / 3)
    assert math.atan2(lens.e2, lens.e1) / 2 == pytest.approx(math.radians(30))
    assert lens.x_lens == 0.1
    round_lens = LensParameters.from_axis_ratio(1.0, q=1.0, phi=0.7)
    assert round_lens.e1 == round_lens.e2 == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"theta_E": 0.0}, "theta_E"),
        ({"theta_E": -1.0}, "theta_E"),
        ({"theta_E": math.nan}, "theta_E"),
        ({"x_lens": math.inf}, "x_lens"),
        ({"gamma1": "0.1"}, "gamma1"),
        ({"gamma1": True}, "gamma1"),
        ({"y_lens": None}, "y_lens"),
        ({"e1": 0.8, "e2": 0.6}, "ellipticity"),
        ({"gamma1": 0.8, "gamma2": 0.6}, "shear"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, complaint):
    with pytest.raises(InputError, match=complaint):
        LensParameters.from_dict(LENS | change)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.1, math.nan])
def test_an_axis_ratio_that_is_none_is_refused(q):
    with pytest.raises(InputError, match="axis ratio"):
        LensParameters.from_axis_ratio(1.0, q=q, phi=0.0)


def test_names_must_be_all_there_and_no_others():
    with pytest.raises(InputError, match="lacks e2, gamma2"):
        LensParameters.from_dict({name: value for name, value in LENS.items() if name not in ("e2", "gamma2")})
    with pytest.raises(InputError, match="unknown 'shear'"):
        LensParameters.from_dict(LENS | {"shear": 0.1})
    with pytest.raises(InputError, match="not a JSON object"):
        LensParameters.from_dict([1.0] * 7)


@pytest.mark.parametrize("config", [PAPER, SMALL])
def test_json_gives_the_same_network_back(config):
    assert RIMConfig.from_dict(json.loads(to_json(config))) == config
