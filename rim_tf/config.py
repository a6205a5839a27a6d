"""Settings as frozen dataclasses, and their JSON. Each default of the package is written here once.

What a value may be stands in its annotation, and is checked however the dataclass is made: `from_json` reads what a
user's file holds, and `check`, which `__post_init__` calls, sees what Python code gave. Both go through pydantic, which
is imported when a value is checked: importing it takes longer than `rim-tf --help` may.
"""

import dataclasses
import difflib
import functools
import json
import typing
from typing import Annotated, Literal

from rim_tf.errors import InputError

# The paper's source pixel over its image pixel: (3 / 192) / 0.04 (Section 2.3).
SOURCE_SCALE_RATIO = 3.0 / 192 / 0.04
# Sides of a source grid are multiples of this unless a network asks for another: the stride of the presets.
SOURCE_MULTIPLE = 2
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


class _AnyModel:
    """The rule of a field that holds the settings of any network in MODELS."""

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(model_from_json)


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


def model_from_json(values, where="The network"):
    """The settings of a network, whose kind `values["type"]` says; the rest is as in `from_json`."""
    if dataclasses.is_dataclass(values):
        values = dataclasses.asdict(values)
    if not isinstance(values, dict):
        raise InputError(f"{where}: all of it is {_shown(values)}; it must be a JSON object.")
    kind = values.get("type")
    if kind not in list(MODELS):
        raise InputError(f"{where}: type is {_shown(kind)}; it must be one of {', '.join(map(repr, MODELS))}.")
    return from_json(MODELS[kind], values, where)


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
        limits = {name: value for name, value in field.metadata.items() if name != "help"}
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
    return f"{where}: {path or 'all of it'} is {_shown(error['input'])}; it must be {wanted}."


def _meant(cls, location):
    """What to say of the known names, where the last step of `location` is an unknown one."""
    for step in location[:-1]:
        hint = typing.get_type_hints(cls)[step]
        cls = hint if dataclasses.is_dataclass(hint) else cls
    names = [field.name for field in dataclasses.fields(cls)]
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return (f", did you mean {close[0]!r}? It" if close else "; it") + f" may have {', '.join(names)}"


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ----------------------------------------------------------------------------------------------- the networks


@dataclasses.dataclass(frozen=True)
class RIMConfig:
    """The network, and nothing about how it is trained. The defaults are the paper's network.

    What Section 2.1 leaves open (features, hidden size, steps, start) is as in its authors' earlier code.
    """

    n_steps: Annotated[int, Limits(least=1, most=1000)] = 10
    kernel: Annotated[int, Limits(least=1, most=99, odd=True)] = 11
    stride: Annotated[int, Limits(least=1, most=16)] = SOURCE_MULTIPLE
    """Of the embedding; not above the kernel, which would miss pixels."""
    features: Annotated[int, Limits(least=1, most=4096)] = 32
    """Channels of the embedding and of the upsampling layer."""
    hidden: tuple[Annotated[int, Limits(least=1, most=4096)], Annotated[int, Limits(least=1, most=4096)]] = (128, 128)
    """Channels of the hidden states of the two recurrent layers."""
    link: Literal["sigmoid", "softplus"] = "sigmoid"
    """Latent image -> source: "sigmoid" (the paper's) or "softplus", which has no upper bound."""
    inputs: tuple[
        Literal["latent", "source", "gradient", "preconditioned", "significance", "log_noise", "log_coverage"], ...
    ] = ("latent", "gradient")
    """What the cell sees, in this order; the names are those of `rim_tf.models.rim.INPUTS`."""
    gradient_step: bool = False
    """Add the preconditioned gradient to the update, times a gain for each pixel that the cell puts out."""
    start: Annotated[Positive | Literal["backprojection"], Wanted("a number above 0, or 'backprojection'")] = 1e-4
    """First estimate of the source: a constant, in units of `flux_scale`, or "backprojection"."""
    flux_scale: Literal["unit", "image"] = "unit"
    """The unit of brightness inside: "unit" takes data as they come, "image" divides them by their peak."""
    type: Literal["rim"] = "rim"
    """Its name in MODELS, by which a file of settings says what network it describes."""

    def __post_init__(self):
        check(self)
        if self.stride > self.kernel:
            raise InputError(f"stride is {self.stride}; it must be at most the kernel, which is {self.kernel}.")
        if not self.inputs:
            raise InputError("inputs is empty; the network must see something.")

    @classmethod
    def from_dict(cls, values):
        """The inverse of `dataclasses.asdict`, also after JSON, which turns tuples into lists."""
        return from_json(cls, values, "The network")


# What networks there are: a file of settings names one of them as its "type".
MODELS = {"rim": RIMConfig}
Model = Annotated[RIMConfig, _AnyModel()]


def _preset(cls, **changes):
    """Settings that are not checked here, for pydantic takes long to import; a test checks all presets."""
    preset = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(preset, field.name, changes.get(field.name, field.default))
    return preset


PAPER = _preset(RIMConfig)
SMALL = _preset(
    RIMConfig,
    n_steps=10,
    kernel=3,
    features=32,
    hidden=(32, 16),
    link="softplus",
    inputs=("latent", "source", "preconditioned", "significance", "log_noise", "log_coverage"),
    gradient_step=True,
    start="backprojection",
    flux_scale="image",
)
PRESETS = {"paper": PAPER, "small": SMALL}


# -------------------------------------------------------------------------------------------- simulated lenses


@dataclasses.dataclass(frozen=True)
class MockConfig:
    """What is drawn. A pair is the range of a uniform draw, unless its name begins with `log_`.

    Lengths are fractions of the field's width, as a lens has no scale of its own; only the PSF is in arcsec.
    """

    image_pixels: Annotated[int, Limits(least=8, most=4096)] = 64
    source_pixels: Annotated[int, Limits(least=8, most=4096)] = 64
    source_scale_ratio: Annotated[float, Limits(least=1e-3, most=10)] = SOURCE_SCALE_RATIO
    log_pixel_scale: Annotated[tuple[float, float], Limits(least=1e-6, most=10**6)] = (0.08, 0.08)
    """Pixel of the image [arcsec], log-uniform."""
    theta_E: Annotated[tuple[float, float], Limits(above=0, most=1)] = (0.10, 0.28)
    ellipticity: Modulus = (0.0, 0.3)
    """|e|, with the angle uniform; likewise the shear."""
    shear: Modulus = (0.0, 0.1)
    lens_offset: NotNegative = 0.02
    """Standard deviation of x_lens and y_lens."""
    log_half_light_radius: PositiveRange = (0.02, 0.09)
    """Of the source, log-uniform."""
    source_offset: NotNegative = 0.07
    """Standard deviation of the source's position on each axis, relative to the lens."""
    axis_stretch: PositiveRange = (0.8, 1.0)
    """One axis of the galaxy's image is multiplied by this: one galaxy stands for many inclinations."""
    minimum_magnification: NotNegative = 3.0
    edge_flux: Share = 0.01
    """Largest share of the lensed flux in the outermost pixels, and of the source outside its grid."""
    psf_sigma: Annotated[tuple[float, float], Limits(least=0)] = (0.0, 0.1)
    """[arcsec]"""
    log_noise: PositiveRange = (1e-3, 1e-1)
    """Noise rms over the peak of the noiseless, blurred image, log-uniform."""
    noise_map_fraction: Share = 0.0
    """Share of systems whose noise grows with the image, as counting photons makes it."""
    mask_fraction: Share = 0.0
    """Share of systems with round holes in their mask."""
    lens_error: NotNegative = 0.0
    """Standard deviation of an error added to each lens parameter that the network is given."""
    psf_pixels: Annotated[
        Literal[0] | Annotated[int, Limits(least=1, most=999, odd=True)], Wanted("odd, or 0 for Gaussian PSFs")
    ] = 0
    """Side of pixelated PSFs, odd: elliptical Moffat profiles of the width that `psf_sigma` gives. 0 for Gaussians."""
    psf_beta: Annotated[tuple[float, float], Limits(above=1)] = (2.5, 5.0)
    """Moffat exponent: how strong the wings of pixelated PSFs are."""
    psf_ellipticity: Modulus = (0.0, 0.1)
    """Of pixelated PSFs, with the angle uniform."""
    correlated_noise_fraction: Share = 0.0
    """Share of systems whose noise has been blurred, at the same rms, which the network is not told."""
    noise_correlation: Annotated[tuple[float, float], Limits(least=0)] = (0.3, 0.8)
    """Sigma of the Gaussian that blurs it [pixels]; drizzling makes about half a pixel."""
    lens_light_fraction: Share = 0.0
    """Share of systems with what an imperfect subtraction of the lens galaxy leaves."""
    lens_light_error: NotNegative = 0.01
    """Relative error of that subtraction in each parameter; in the centre, tenths of a pixel for each 0.01."""

    def __post_init__(self):
        check(self)


# Section 2.3: images of 192 x 192 pixels of 0.04", sources of as many pixels.
PAPER_MOCKS = _preset(MockConfig, image_pixels=192, source_pixels=192, log_pixel_scale=(0.04, 0.04))


# ------------------------------------------------------------------------------------------------- the methods


def setting(default, help, **limits):
    """A field that a command line can offer: its help, and what it may be, as in `Limits`."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class RIMSettings:
    """How a source is reconstructed by the RIM."""

    weights: str = setting("small", "Name of shipped weights, or a path NAME.json.")

    def __post_init__(self):
        check(self)


REGULARISATIONS = ("brightness", "gradient", "curvature")
BOUNDARIES = ("zero", "suyu", "free")


@dataclasses.dataclass(frozen=True)
class InversionSettings:
    """How a source is reconstructed by linear inversion; `rim_tf.inference.linear.inversion.invert` says more."""

    regularisation: str = setting("gradient", "The prior.", choices=REGULARISATIONS)
    boundary: str = setting("zero", "What the prior finds beyond the grid.", choices=BOUNDARIES)
    strength: float | None = setting(None, "lambda of the prior; by default that of the highest evidence.", above=0)
    non_negative: bool = setting(False, "Let no pixel be negative.")
    solver: str = setting("auto", "How the linear system is solved.", choices=("auto", "exact", "matrix-free"))
    samples: int = setting(0, "Draws from the posterior; two or more give a matrix-free solution its errors.", least=0)
    seed: int = setting(0, "Of the samples, and of the matrix-free solver's probes.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check(self)
