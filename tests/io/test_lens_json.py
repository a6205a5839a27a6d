import json
import math

import pytest

from rim_tf import io
from rim_tf.errors import InputError
from rim_tf.lens import LENS_PARAMETERS, LensParameters

LENS = LensParameters(1.2, 0.1, -0.05, 0.02, -0.03, 0.04, 0.01)


def lens_file(tmp_path, **changes):
    values = dict(zip(LENS_PARAMETERS, LENS.as_tuple(), strict=True)) | changes
    path = tmp_path / "lens.json"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return path


def test_a_lens_comes_back(tmp_path):
    assert io.read_lens(lens_file(tmp_path)) == LENS
    io.write_lens(LENS, tmp_path / "again.json")
    assert io.read_lens(tmp_path / "again.json") == LENS


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"theta_E": None}, "lacks theta_E"),
        ({"theta_E": None, "theta_e": 1.2}, "unknown 'theta_e', did you mean 'theta_E'"),
        ({"gamma1": None, "gama1": 0.1}, "unknown 'gama1', did you mean 'gamma1'"),
        ({"x_lens": None, "xlens": 0.1}, "unknown 'xlens', did you mean 'x_lens'"),
        ({"redshift": 0.5}, "unknown 'redshift'"),
        ({"theta_E": -1}, "theta_E is -1"),
        ({"theta_E": 10**400}, "theta_E is inf"),
        ({"e1": math.nan}, "e1 is nan"),
        ({"e1": 0.99}, "ellipticity"),
        ({"gamma1": "0.1"}, "gamma1 is '0.1'"),
        ({"gamma2": [0.1]}, "gamma2"),
    ],
)
def test_a_bad_lens_is_named_with_its_file(tmp_path, changes, complaint):
    with pytest.raises(InputError, match=f"^{tmp_path}/lens.json.*{complaint}"):
        io.read_lens(lens_file(tmp_path, **changes))


def test_a_name_given_twice_is_told(tmp_path):
    text = lens_file(tmp_path).read_text()
    (tmp_path / "lens.json").write_text(text.replace("{", '{"theta_E": 1.4, ', 1))
    with pytest.raises(InputError, match=r"lens.json is not JSON that can be read: 'theta_E' stands twice"):
        io.read_lens(tmp_path / "lens.json")


@pytest.mark.parametrize("content", [b"", b"{", b"theta_E = 1", b"\xff\xfe", b"[1, 2]", b"3"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    (tmp_path / "lens.json").write_bytes(content)
    with pytest.raises(InputError, match="lens.json is not"):
        io.read_lens(tmp_path / "lens.json")


def test_a_lens_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="lens.json does not exist"):
        io.read_lens(tmp_path / "lens.json")
    with pytest.raises(InputError, match="cannot be read"):
        io.read_lens(tmp_path)
