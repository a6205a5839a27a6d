"""What the values of a dataclass of settings may be, and its way to JSON and back.

What a value may be stands in its annotation, and is checked however the dataclass is made: `from_json` reads what a
user's file holds, and `check`, which `__post_init__` calls, sees what Python code gave. Both go through pydantic, which
is imported when a value is checked: importing it takes longer than `rim-tf --help` may.
"""

import dataclasses
import difflib
import functools
import json
import typing
from typing import Annotated

from rim_tf.errors import InputError

LARGEST_SEED = 2**31 - 1

# ------------------------------------------------------------------------------------------ what a value may be


class _Rule:
    """A second word in an annotation, `Annotated[type, rule]`: what the value must be, and how to say so.

    Pydantic finds `__get_pydantic_core_schema__`, and calls it for each field that has the rule.
    """

    def words(self, source):
        """What is wanted of a value of the type `source`, to follow "it must be"."""
        raise NotImplementedError

    def holds(self, value):
        """Whether a value of the right type is allowed."""
        return True

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import PydanticCustomError, ValidationError, core_schema

        def checked(value, inner):
            try:
                # JSON's lists have become Python's on the way here, and are no tuples any more.
                value = inner(tuple(value) if isinstance(value, list) else value)
                allowed = self.holds(value)
            except ValidationError:
                allowed = False
            if not allowed:
                raise PydanticCustomError("wanted", "{words}", {"words": self.words(source)})
            return value

        return core_schema.no_info_wrap_validator_function(checked, handler(source))


@dataclasses.dataclass(frozen=True)
class Wanted(_Rule):
    """Words of one's own, for a type that is not a number or a range of numbers."""

    text: str

    def words(self, source):
        return self.text


@dataclasses.dataclass(frozen=True)
class Limits(_Rule):
    """What a number may be; of a pair of numbers, which is a range, what each may be. Also what a text may be.

    Attributes:
      least: the smallest number allowed.
      above: a number that is just too small.
      most: the largest number allowed.
      below: a number that is just too large.
      odd: whether it must be odd.
      choices: all that it may be.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    odd: bool = False
    choices: tuple = ()

    def words(self, source):
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        is_range = typing.get_origin(source) is tuple
        noun = f"{'odd ' * self.odd}{'whole ' * (source is int)}number"
        noun = f"two {noun}s, the smaller first, each" if is_range else f"{'an' if self.odd else 'a'} {noun}"
        if self.least is not None and self.most is not None:
            return f"{noun} from {self.least} to {self.most}"
        names = {"least": "of at least", "above": "above", "most": "at most", "below": "below"}
        limits = [f"{word} {value}" for name, word in names.items() if (value := getattr(self, name)) is not None]
        return f"{noun} {' and '.join(limits)}".rstrip()

    def holds(self, value):
        if isinstance(value, tuple):
            return value[0] <= value[1] and all(map(self.holds, value))
        return value is None or (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
            and (not self.odd or value % 2 == 1)
            and (not self.choices or value in self.choices)
        )


Count = Annotated[int, Limits(least=1)]
Seed = Annotated[int, Limits(least=0, most=LARGEST_SEED)]
Positive = Annotated[float, Limits(above=0)]
NotNegative = Annotated[float, Limits(least=0)]
Share = Annotated[float, Limits(least=0, most=1)]
Modulus = Annotated[tuple[float, float], Limits(least=0, most=0.95)]
PositiveRange = Annotated[tuple[float, float], Limits(above=0)]


# ------------------------------------------------------------------------------------------------- in and out


def to_json(config):
    """The JSON text of a dataclass of settings."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(cls, values, where, base=None):
    """Settings from what a JSON file holds.

    Args:
      cls: the dataclass.
      values: what `rim_tf.files.read_json` returns.
      where: the file, or what else the error's sentence is to begin with.
      base: an instance, whose values stand where `values` says nothing; by default the dataclass's own defaults.

    Raises:
      InputError: an unknown or missing name, or a value that the annotations refuse.
    """
    if base is not None and isinstance(values, dict):
        values = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)} | values
    checked = _validated(cls, values, where)
    try:
        return cls(**checked)
    except InputError as error:  # values that are allowed, but not together
        raise InputError(f"{where}: {error}") from None


def check(config):
    """Make sure that the values of a dataclass of settings are what its annotations say; for its `__post_init__`.

    Lists become tuples, and NumPy's numbers Python's.

    Raises:
      InputError: they are not.
    """
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, value in _validated(type(config), given, type(config).__name__).items():
        object.__setattr__(config, name, value)


def _validated(cls, values, where):
    """The checked values by name."""
    from pydantic import ValidationError

    try:
        # As JSON, in which a list is a tuple and a dictionary a dataclass, and true is no number.
        checked = _adapter(cls).validate_json(json.dumps(values, default=_plain))
    except ValidationError as error:
        # A misspelt name is missing too, and only as an unknown one it tells what was meant.
        errors = sorted(error.errors(), key=lambda each: each["type"] != "unexpected_keyword_argument")
        raise InputError(_sentence(cls, errors[0], where)) from None
    return {field.name: getattr(checked, field.name) for field in dataclasses.fields(cls)}


def _plain(value):
    """What JSON knows, of a value that it does not: a nested dataclass, NumPy's numbers and arrays."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.tolist() if hasattr(value, "tolist") else repr(value)


@functools.cache
def _adapter(cls):
    """What checks the fields of a dataclass: pydantic's adapter of one like it that has no `__post_init__`."""
    from pydantic import TypeAdapter

    hints, fields = typing.get_type_hints(cls, include_extras=True), []
    for field in dataclasses.fields(cls):
        limits = {name: value for name, value in field.metadata.items() if name not in ("help", "metavar")}
        hint = Annotated[hints[field.name], Limits(**limits)] if limits else hints[field.name]
        default = dataclasses.field(default=field.default, default_factory=field.default_factory)
        fields.append((field.name, hint, default))
    strict = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
    return TypeAdapter(dataclasses.make_dataclass(cls.__name__, fields, namespace={"__pydantic_config__": strict}))


_WANTED = {
    "bool_type": "true or false",
    "dataclass_type": "a JSON object",
    "dict_type": "a JSON object",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
}


def _sentence(cls, error, where):
    """One sentence for the first thing that pydantic found wrong with the values of a dataclass."""
    kind, context = error["type"], error.get("ctx", {})
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]).lstrip(".")
    if kind == "unexpected_keyword_argument":
        return f"{where} has unknown {path!r}{_meant(cls, error['loc'])}."
    if kind == "missing":
        return f"{where} lacks {path}."
    if kind == "value_error":  # one of our own, from the `__post_init__` of a dataclass within this one
        return f"{where}: {str(context['error']).rstrip('.')}."
    wanted = _WANTED.get(kind) or context.get("words") or f"one of {context.get('expected')}"
    if kind in ("too_long", "too_short"):
        wanted = f"a list of {context.get('max_length', context.get('min_length'))}"
    return f"{where}: {path or 'all of it'} is {shown(error['input'])}; it must be {wanted}."


def _meant(cls, location):
    """What to say of the known names, where the last step of `location` is an unknown one."""
    for step in location[:-1]:
        hint = typing.get_type_hints(cls)[step]
        cls = hint if dataclasses.is_dataclass(hint) else cls
    names = [field.name for field in dataclasses.fields(cls)]
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return (f", did you mean {close[0]!r}? It" if close else "; it") + f" may have {', '.join(names)}"


def shown(value):
    """A value as the sentence of an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
