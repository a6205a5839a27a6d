"""The lens: a mass model with numbers.

`LensParameters` is the paper's lens, seven numbers. `CompositeLens` is a sum of any components: a power law with shear,
a second deflector. Both have the same attributes, and whatever takes the one takes the other.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable

from rim_tf.errors import InputError
from rim_tf.physics.mass.columns import check_number
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel, find_profile
from rim_tf.physics.mass.profile import PROFILES

LENS_PARAMETERS = SIE_SHEAR.names


class Lens:
    """What every lens has.

    Attributes:
      mass: `MassModel`.
      theta_E: of the first component that has one [arcsec].
      x_lens: centre of the first component that has one [arcsec].
      y_lens: likewise.
    """

    def as_tuple(self) -> tuple[float, ...]:
        """The parameters in the order of `mass.names`, a row of the tensor `lens` in `rim_tf.physics`."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """What lens.json holds of it; `lens_from_dict` is the inverse."""
        raise NotImplementedError

    def named(self) -> dict[str, float]:
        """{name: value} of all parameters, by the names of the columns."""
        return dict(zip(self.mass.names, self.as_tuple(), strict=True))

    @property
    def shape(self) -> tuple[float, float]:
        """Axis ratio and position angle of the major axis, from +x [rad], of the first component that has them."""
        first = {}
        for name, value in zip(self._plain_names, self.as_tuple(), strict=True):
            first.setdefault(name, value)
        e1, e2 = first.get("e1", 0.0), first.get("e2", 0.0)
        modulus = math.hypot(e1, e2)
        return (1 - modulus) / (1 + modulus), math.atan2(e2, e1) / 2 % math.pi

    def moved(self, centre: tuple[float, float]) -> "Lens":
        """The same lens about another origin: what has a centre has it `centre` = x, y [arcsec] further."""
        shift = dict(zip(("x_lens", "y_lens"), centre, strict=True))
        named = zip(self._plain_names, self.as_tuple(), strict=True)
        return lens_of(self.mass, [value + shift.get(name, 0.0) for name, value in named])

    @property
    def _plain_names(self):
        """Those of `mass.names`, of many components alike."""
        return [name for profile in self.mass.profiles for name in profile.names]

    def moved_source(self, centre: tuple[float, float]) -> tuple[float, float]:
        """Where the middle of the source plane, x, y [arcsec], comes to lie when the lens is `moved`.

        It goes with the lens, but for what the shear, which stays about the origin, deflects there.
        """
        (x, y), first = centre, 0
        for profile in self.mass.profiles:
            if "x_lens" not in profile.names:
                parameters = self.as_tuple()[first : first + len(profile.names)]
                alpha = profile.deflection(*centre, *parameters)
                x, y = x - float(alpha[0]), y - float(alpha[1])
            first += len(profile.names)
        return x, y


@dataclasses.dataclass(frozen=True)
class LensParameters(Lens):
    """Singular isothermal ellipsoid with external shear; conventions in `rim_tf.physics.mass`.

    Attributes:
      theta_E: Einstein radius on the intermediate axis [arcsec], above 0.
      e1: ellipticity, with e2 (1 - q) / (1 + q) * (cos 2 phi, sin 2 phi); |e| at most 0.95.
      e2: see e1.
      x_lens: centre [arcsec].
      y_lens: centre [arcsec].
      gamma1: external shear about the origin; |gamma| below 1.
      gamma2: see gamma1.

    Raises:
      InputError: a value that is not a finite number, or out of range.
    """

    theta_E: float
    e1: float = 0.0
    e2: float = 0.0
    x_lens: float = 0.0
    y_lens: float = 0.0
    gamma1: float = 0.0
    gamma2: float = 0.0

    def __post_init__(self):
        for name in LENS_PARAMETERS:
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        self.mass.check(self.as_tuple())

    @property
    def mass(self):
        return SIE_SHEAR

    @classmethod
    def from_axis_ratio(cls, theta_E: float, q: float, phi: float, **others: float) -> "LensParameters":
        """From axis ratio and position angle.

        Args:
          theta_E: as of the class.
          q: axis ratio, minor over major, in (0, 1].
          phi: position angle of the major axis, anticlockwise from +x [rad].
          **others: further parameters of the class.
        """
        if not 0 < q <= 1:
            raise InputError(f"The axis ratio q is {q!r}; it must be above 0 and at most 1 (minor over major).")
        modulus = (1 - q) / (1 + q)
        return cls(theta_E, modulus * math.cos(2 * phi), modulus * math.sin(2 * phi), **others)

    def as_tuple(self) -> tuple[float, ...]:
        return dataclasses.astuple(self)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, init=False)
class Component:
    """One mass profile with numbers: `Component("power_law", theta_E=1.2, slope=2.1)`.

    Args:
      type: name of a profile, one of `rim_tf.physics.mass.profile.PROFILES`.
      **parameters: those of the profile; what has a default there may be left out.

    Attributes:
      type: as given.
      values: the parameters, in the order of the profile's columns.

    Raises:
      InputError: an unknown type or parameter, one that is missing, or a value out of range.
    """

    type: str
    values: tuple[float, ...]

    def __init__(self, type: str, **parameters: float):
        profile = _known_profile(type)
        known = {name: column.default for column in profile.columns for name in column.names}
        given = {name: value for name, value in known.items() if value is not None} | parameters
        _check_names(given, profile.names, f"The component {type!r}")
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "values", tuple(check_number(name, given[name]) for name in profile.names))
        MassModel((type,)).check(self.values)

    def __getattr__(self, name):
        if name in ("type", "values"):  # not set yet
            raise AttributeError(name)
        try:
            return self.values[PROFILES[self.type].names.index(name)]
        except ValueError:
            raise AttributeError(f"A component {self.type!r} has no {name!r}.") from None

    def to_dict(self) -> dict:
        """{"type": ..., parameter: value, ...}."""
        return {"type": self.type} | dict(zip(PROFILES[self.type].names, self.values, strict=True))


@dataclasses.dataclass(frozen=True, init=False)
class CompositeLens(Lens):
    """A sum of mass components: `CompositeLens(Component("power_law", ...), Component("shear", ...))`.

    Args:
      *components: `Component`s, the main deflector first.

    Attributes:
      components: as given.

    Raises:
      InputError: no component, or none that has theta_E.
    """

    components: tuple[Component, ...]

    def __init__(self, *components: Component):
        object.__setattr__(self, "components", tuple(components))
        if not any("theta_E" in PROFILES[each.type].names for each in self.components):
            raise InputError("A lens has no component with theta_E; it needs one that is the deflector.")

    @property
    def mass(self):
        return MassModel(tuple(each.type for each in self.components))

    @property
    def theta_E(self):
        return self._primary.theta_E

    @property
    def x_lens(self):
        return self._primary.x_lens

    @property
    def y_lens(self):
        return self._primary.y_lens

    @property
    def _primary(self):
        return next(each for each in self.components if "theta_E" in PROFILES[each.type].names)

    def as_tuple(self) -> tuple[float, ...]:
        return tuple(value for each in self.components for value in each.values)

    def to_dict(self) -> dict:
        return {"components": [each.to_dict() for each in self.components]}


def lens_of(mass: MassModel, values: Iterable[float]) -> Lens:
    """The lens of a `MassModel` with its parameters in the order of its columns."""
    values = [float(value) for value in values]
    if mass == SIE_SHEAR:
        return LensParameters(*values)
    components, first = [], 0
    for profile in mass.profiles:
        n = len(profile.names)
        numbers = dict(zip(profile.names, values[first : first + n], strict=True))
        components.append(Component(profile.name, **numbers))
        first += n
    return CompositeLens(*components)


def lens_from_dict(values: dict, where: str = "The lens") -> Lens:
    """A lens from what lens.json holds: the seven names of `LENS_PARAMETERS`, or {"components": [...]}.

    Args:
      values: mapping with all seven names and no other; or with "components" alone, a list of mappings, each with
        "type" and all parameters of that profile.
      where: begins the sentence of an error.

    Returns:
      `LensParameters` or `CompositeLens`.

    Raises:
      InputError: what is missing, unknown, misspelt or out of range.
    """
    if not isinstance(values, dict):
        raise InputError(
            f'{where} is not a JSON object; it must hold {", ".join(LENS_PARAMETERS)}, or a list "components".'
        )
    if "components" not in values:
        _check_names(values, LENS_PARAMETERS, where)
        return _with_place(where, LensParameters, values)
    _check_names(values, ("components",), where)
    listed = values["components"]
    if not isinstance(listed, list) or not listed:
        raise InputError(f'{where} has {listed!r} for "components"; it must be a list of at least one component.')
    components = []
    for i, each in enumerate(listed, 1):
        place = f"{where}, component {i}"
        if not isinstance(each, dict) or "type" not in each:
            raise InputError(f'{place} has no "type"; it must be one of {", ".join(sorted(PROFILES))}.')
        parameters = {name: value for name, value in each.items() if name != "type"}
        profile = _with_place(place, _known_profile, {"name": each["type"]})
        _check_names(parameters, profile.names, f"{place} ({profile.name})")
        components.append(_with_place(place, lambda **p: Component(profile.name, **p), parameters))  # noqa: B023
    return _with_place(where, lambda: CompositeLens(*components), {})


def _with_place(where, build, values):
    try:
        return build(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _known_profile(name):
    if not isinstance(name, str) or name not in PROFILES:
        meant = difflib.get_close_matches(str(name), PROFILES, n=1)
        raise InputError(
            f"There is no mass profile {name!r}{f', did you mean {meant[0]!r}?' if meant else '.'} "
            f"Known are {', '.join(sorted(PROFILES))}."
        )
    return find_profile(name)


def _check_names(values, wanted, where):
    missing = [name for name in wanted if name not in values]
    unknown = [name for name in values if name not in wanted]
    for name in unknown:
        lower = {each.lower(): each for each in missing}
        meant = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
        if meant:
            raise InputError(
                f"{where} has unknown {name!r}, did you mean {lower[meant[0]]!r}? It must hold {', '.join(wanted)}."
            )
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] if missing else []
        faults += [f"has unknown {', '.join(map(repr, unknown))}"] if unknown else []
        raise InputError(f"{where} {' and '.join(faults)}; it must hold {', '.join(wanted)}.")
