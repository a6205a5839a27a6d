"""What the parameters of a mass profile are: their names and units, what they may be, and their way to the real line.

A profile lists its columns in order. Each kind here covers one parameter, or two that belong together, and maps them
one to one to real numbers without bounds, which an optimiser or a sampler can move freely. `log_slope` is what a
density gains on the way: log |d value / d u|, with u the unbounded coordinates. `mirrored` says which sign each
gets, value and u alike, where the x or the y axis is turned round.
"""

import dataclasses
import math

from keras import ops

from rim_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Real:
    """One parameter that may be any number.

    Attributes:
      name: of the parameter.
      unit: "arcsec", or "" where it has none.
      step: what a careful first step of an optimiser is, in u; in units of theta_E where `of_theta_E`.
      of_theta_E: whether `step` is a fraction of theta_E.
      default: its value where none is given in Python; None where one must be.
      along: "x" or "y" where it is that component of a vector, or "".
    """

    name: str
    unit: str = ""
    step: float = 0.01
    of_theta_E: bool = False
    default: float | None = 0.0
    along: str = ""

    @property
    def names(self):
        return (self.name,)

    def mirrored(self, axis):
        """Its sign where that axis, "x" or "y", is turned round."""
        return (-1 if axis == self.along else 1,)

    def check(self, value):
        """Raises InputError where the value, a finite float, is out of range."""

    def allows(self, value):
        """Whether `check` would pass it: a boolean tensor, shaped like the value."""
        return ops.isfinite(value)

    def to_real(self, value):
        """Value -> u, tensors of one shape."""
        return (value,)

    def from_real(self, u):
        """u -> value, the inverse of `to_real`."""
        return (u,)

    def log_slope(self, u):
        return ops.zeros_like(u)


@dataclasses.dataclass(frozen=True)
class Positive(Real):
    """One parameter above 0; u is its logarithm."""

    default: float | None = None

    def check(self, value):
        if value <= 0:
            unit = f" [{self.unit}]" if self.unit else ""
            raise InputError(f"Lens parameter {self.name} is {value:g}; it must be above 0{unit}.")

    def allows(self, value):
        return ops.isfinite(value) & (value > 0)

    def to_real(self, value):
        return (ops.log(value),)

    def from_real(self, u):
        return (ops.exp(u),)

    def log_slope(self, u):
        return u


@dataclasses.dataclass(frozen=True)
class Interval(Real):
    """One parameter between two bounds; u is the logit of how far it is from the one to the other.

    Attributes, beside those of `Real`:
      low: lower bound.
      high: upper bound.
    """

    low: float = 0.0
    high: float = 1.0

    def check(self, value):
        if not self.low < value < self.high:
            raise InputError(
                f"Lens parameter {self.name} is {value:g}; it must be above {self.low:g} and below {self.high:g}."
            )

    def allows(self, value):
        return (self.low < value) & (value < self.high)

    def to_real(self, value):
        share = ops.clip((value - self.low) / (self.high - self.low), 1e-6, 1 - 1e-6)
        return (ops.log(share) - ops.log(1 - share),)

    def from_real(self, u):
        return (self.low + (self.high - self.low) * ops.sigmoid(u),)

    def log_slope(self, u):
        return math.log(self.high - self.low) + ops.log_sigmoid(u) + ops.log_sigmoid(-u)


@dataclasses.dataclass(frozen=True)
class Disc:
    """Two parameters, (cos, sin) of twice an angle times a length below a bound, as ellipticity and shear are.

    (a, b) = r u / sqrt(1 + |u|^2) takes the plane to the disc of radius r: a small u is r u, and zero is a point like
    any other.

    Attributes:
      names: of the two.
      largest: the greatest length a user may give.
      radius: r, a hair below `largest`, which float32 must not overstep.
      refusal: what is said of a longer one; {value} is its length.
      step: as of `Real`, of either.
    """

    names: tuple[str, str]
    largest: float
    radius: float
    refusal: str
    step: float = 0.01
    unit: str = ""
    of_theta_E: bool = False
    default: float = 0.0

    def mirrored(self, axis):
        """Their signs where either axis is turned round: the angle's sign is."""
        return (1, -1)

    def check(self, a, b):
        """Raises InputError where the vector is too long."""
        length = math.hypot(a, b)
        if length > self.largest:
            raise InputError(self.refusal.format(value=f"{length:g}"))

    def allows(self, a, b):
        """Whether `check` would pass them, but for the rounding of float32."""
        return a**2 + b**2 <= (1 + 1e-6) * self.largest**2

    def to_real(self, a, b):
        """The two values -> two coordinates u, tensors of one shape."""
        scale = 1 / ops.sqrt(ops.maximum(self.radius**2 - a**2 - b**2, 1e-6))
        return a * scale, b * scale

    def from_real(self, u, v):
        """The inverse of `to_real`."""
        scale = self.radius / ops.sqrt(1 + u**2 + v**2)
        return u * scale, v * scale

    def log_slope(self, u, v):
        return 2 * math.log(self.radius) - 2 * ops.log(1 + u**2 + v**2)


def check_number(name, value):
    """`value` as a float; InputError where it is no finite number. NumPy's numbers are numbers too."""
    is_number = isinstance(value, (int, float)) or (hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0)
    try:
        number = math.nan if isinstance(value, bool) or not is_number else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or getattr(getattr(value, "dtype", None), "kind", "f") not in "iuf":
        raise InputError(f"Lens parameter {name} is {value!r}; it must be a finite number.")
    return number


# Columns that several profiles have.
THETA_E = Positive("theta_E", "arcsec")
ELLIPTICITY = Disc(
    ("e1", "e2"),
    largest=0.95,
    radius=0.949,
    refusal="The lens ellipticity |e| = hypot(e1, e2) is {value}; it must be at most 0.95, since "
    "|e| = (1 - q) / (1 + q) with the axis ratio q in (0, 1].",
    step=0.02,
)
CENTRE = (
    Real("x_lens", "arcsec", of_theta_E=True, along="x"),
    Real("y_lens", "arcsec", of_theta_E=True, along="y"),
)
