"""Settings go through JSON and back, and what they cannot be is refused by name, however they are made."""

import dataclasses
import json
import math
import subprocess
import sys
from typing import Annotated, Literal

import numpy as np
import pytest

from rim_tf import config
from rim_tf.config import (
    PAPER,
    PAPER_MOCKS,
    SMALL,
    InversionSettings,
    MockConfig,
    RIMConfig,
    RIMSettings,
    model_from_json,
)
from rim_tf.errors import InputError
from rim_tf.validation import Limits, Wanted, check, from_json, to_json

# ------------------------------------------------------------------------------------------------- settings


@dataclasses.dataclass(frozen=True)
class Inner:
    count: Annotated[int, Limits(least=1)] = 3
    width: Annotated[tuple[float, float], Limits(above=0, below=5)] = (1.0, 2.0)

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["round", "square"]
    odd: Annotated[int, Limits(odd=True, most=99)] = 7
    start: Annotated[float | Literal["zero"], Wanted("a number, or 'zero'")] = 0.5
    names: tuple[str, ...] = ()
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    strength: float | None = config.setting(None, "Of it.", above=0)
    fast: bool = False

    def __post_init__(self):
        check(self)
        if self.fast and self.odd == 9:
            raise InputError("odd is 9; that cannot be fast.")


GOOD = {"inner": {"count": 2}, "kind": "round"}


def test_lists_become_tuples_and_numbers_of_numpy_pythons():
    read = from_json(Outer, GOOD | {"names": ["a", "b"], "strength": 3}, "x.json")
    assert read == Outer(Inner(2), "round", names=("a", "b"), strength=3.0)
    assert isinstance(read.inner, Inner) and isinstance(read.strength, float)
    made = Outer(Inner(np.int64(2), np.array([1, 2])), "round", np.int32(5), np.float32(0.25), ["a"], {"b": np.int8(1)})
    assert made == Outer(Inner(2, (1.0, 2.0)), "round", 5, 0.25, ("a",), {"b": 1})
    assert type(made.start) is float and type(made.odd) is int and type(made.names) is tuple


@pytest.mark.parametrize("settings", [*config.PRESETS.values(), PAPER_MOCKS, MockConfig(), RIMSettings(), Inner()])
def test_json_gives_the_same_settings_back(settings):
    assert from_json(type(settings), json.loads(to_json(settings)), "x.json") == settings
    check(settings)  # presets are made without


@pytest.mark.parametrize(
    "values, message",
    [
        ([], "x.json: all of it is []; it must be a JSON object."),
        (None, "x.json: all of it is None; it must be a JSON object."),
        ({"kind": "round"}, "x.json lacks inner."),
        (GOOD | {"inner": 3}, "x.json: inner is 3; it must be a JSON object."),
        (GOOD | {"kind": "rund"}, "x.json: kind is 'rund'; it must be one of 'round' or 'square'."),
        (GOOD | {"odd": 2.5}, "x.json: odd is 2.5; it must be an odd whole number at most 99."),
        (GOOD | {"odd": 7.0}, "x.json: odd is 7.0; it must be an odd whole number at most 99."),
        (GOOD | {"odd": 8}, "x.json: odd is 8; it must be an odd whole number at most 99."),
        (GOOD | {"odd": True}, "x.json: odd is True; it must be an odd whole number at most 99."),
        (GOOD | {"odd": 10**30}, f"x.json: odd is {10**30}; it must be an odd whole number at most 99."),
        (GOOD | {"fast": 1}, "x.json: fast is 1; it must be true or false."),
        (GOOD | {"strength": 0}, "x.json: strength is 0; it must be a number above 0."),
        (GOOD | {"strength": math.nan}, "x.json: strength is nan; it must be a number above 0."),
        (GOOD | {"strength": math.inf}, "x.json: strength is inf; it must be a number above 0."),
        (GOOD | {"strength": "3"}, "x.json: strength is '3'; it must be a number above 0."),
        (GOOD | {"start": "one"}, "x.json: start is 'one'; it must be a number, or 'zero'."),
        (GOOD | {"names": "ab"}, "x.json: names is 'ab'; it must be a list."),
        (GOOD | {"names": ["a", 3]}, "x.json: names[1] is 3; it must be text."),
        (GOOD | {"sizes": {"a": "b"}}, "x.json: sizes.a is 'b'; it must be a whole number."),
        (GOOD | {"inner": {"count": 0}}, "x.json: inner.count is 0; it must be a whole number of at least 1."),
        (
            GOOD | {"inner": {"width": [3, 2]}},
            "x.json: inner.width is [3, 2]; it must be two numbers, the smaller first, each above 0 and below 5.",
        ),
        (
            GOOD | {"inner": {"width": [1, 2, 3]}},
            "x.json: inner.width is [1, 2, 3]; it must be two numbers, the smaller first, each above 0 and below 5.",
        ),
        (
            GOOD | {"inner": {"widht": [1, 2]}},
            "x.json has unknown 'inner.widht', did you mean 'width'? It may have count, width.",
        ),
        ({"inner": {}, "knd": "round"}, "x.json has unknown 'knd', did you mean 'kind'? It may have inner, kind, odd,"),
        (GOOD | {"zzzz": 1}, "x.json has unknown 'zzzz'; it may have inner, kind, odd,"),
        (GOOD | {"fast": True, "odd": 9}, "x.json: odd is 9; that cannot be fast."),
        (GOOD | {"kind": "x" * 1000}, "it must be one of 'round' or 'square'."),
    ],
)
def test_what_a_file_cannot_hold_gets_one_sentence(values, message):
    with pytest.raises(InputError) as caught:
        from_json(Outer, values, "x.json")
    said = str(caught.value)
    assert said.startswith(message) or said.endswith(message)
    assert "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MockConfig(theta_E=(-1, 2)), "MockConfig: theta_E is [-1, 2]; it must be two numbers"),
        (lambda: MockConfig(ellipticity=(0, 2)), "MockConfig: ellipticity is [0, 2]"),
        (
            lambda: MockConfig(minimum_magnification=-1),
            "MockConfig: minimum_magnification is -1; it must be",
        ),
        (lambda: MockConfig(psf_pixels=20), "MockConfig: psf_pixels is 20; it must be odd, or 0 for Gaussian PSFs."),
        (lambda: MockConfig(log_pixel_scale=(math.nan, 1)), "MockConfig: log_pixel_scale is [nan, 1]"),
        (lambda: dataclasses.replace(SMALL, n_steps=0), "RIMConfig: n_steps is 0; it must be a whole number from 1"),
        (lambda: RIMConfig(kernel=4), "RIMConfig: kernel is 4; it must be an odd whole number from 1 to 99."),
        (lambda: RIMConfig(kernel=3, stride=4), "stride is 4; it must be at most the kernel, which is 3."),
        (lambda: RIMConfig(link="tanh"), "RIMConfig: link is 'tanh'; it must be one of 'sigmoid' or 'softplus'."),
        (lambda: RIMConfig(inputs=("latent", "image")), "RIMConfig: inputs[1] is 'image'; it must be one of"),
        (lambda: RIMConfig(inputs=()), "inputs is empty"),
        (lambda: RIMConfig(hidden=(3,)), "RIMConfig lacks hidden[1]."),
        (lambda: RIMConfig(n_steps=object()), "RIMConfig: n_steps is '<object object"),
        (lambda: InversionSettings(solver="fast"), "InversionSettings: solver is 'fast'; it must be one of 'auto',"),
        (lambda: InversionSettings(seed=-1), "InversionSettings: seed is -1; it must be a whole number from 0"),
        (lambda: RIMSettings(steps=0), "RIMSettings: steps is 0; it must be"),
        (lambda: RIMSettings(steps=15, errors=True), "steps is 15, but errors were counted with as many"),
        (lambda: RIMSettings(weights=3), "RIMSettings: weights is 3; it must be text."),
    ],
)
def test_what_python_gives_is_checked_too(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_base_stands_where_a_file_says_nothing():
    read = from_json(MockConfig, {"theta_E": [0.2, 0.3]}, "x.json", base=PAPER_MOCKS)
    assert read == dataclasses.replace(PAPER_MOCKS, theta_E=(0.2, 0.3))
    with pytest.raises(InputError, match="x.json: all of it is 3"):
        from_json(MockConfig, 3, "x.json", base=PAPER_MOCKS)


def test_a_network_is_told_by_its_type():
    assert model_from_json(json.loads(to_json(SMALL)), "x.json") == SMALL
    assert RIMConfig.from_dict(dataclasses.asdict(SMALL)) == SMALL
    with pytest.raises(InputError, match="x.json: all of it is 3; it must be a JSON object"):
        model_from_json(3, "x.json")
    for values in ({}, {"type": "cnn"}, {"type": ["rim"]}):
        with pytest.raises(InputError, match="x.json: type is .*; it must be one of 'rim'"):
            model_from_json(values, "x.json")
    with pytest.raises(InputError, match="x.json: kernel is 4"):
        model_from_json({"type": "rim", "kernel": 4}, "x.json")


def test_names_that_stand_for_code_are_those_of_the_code():
    from rim_tf.models.layers import LINKS
    from rim_tf.models.rim import INPUTS

    for name in LINKS:
        RIMConfig(link=name)
    assert RIMConfig(inputs=tuple(INPUTS)).inputs == tuple(INPUTS)
    assert len(INPUTS) == 7 and len(LINKS) == 2
    assert {kind: settings().type for kind, settings in config.MODELS.items()} == {kind: kind for kind in config.MODELS}


def test_pydantic_is_imported_where_a_value_is_checked_and_not_before():
    script = (
        "import sys; import rim_tf.config as c; assert 'pydantic' not in sys.modules; "
        "c.SMALL, c.PAPER_MOCKS; assert 'pydantic' not in sys.modules and 'numpy' not in sys.modules; "
        "c.MockConfig(); assert 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("preset", [PAPER, SMALL])
def test_presets_are_as_checked_settings_are(preset):
    assert preset == RIMConfig(**{f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)})
    assert hash(preset) == hash(dataclasses.replace(preset))
