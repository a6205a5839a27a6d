"""The lens: its parameters, and what they may be."""

import dataclasses
import math

from rim_tf.errors import InputError

LENS_PARAMETERS = ("theta_E", "e1", "e2", "x_lens", "y_lens", "gamma1", "gamma2")


@dataclasses.dataclass(frozen=True)
class LensParameters:
    """Singular isothermal ellipsoid with external shear; conventions in `rim_tf.physics.deflection`.

    theta_E, x_lens, y_lens in arcsec. Raises InputError where a value is not a finite number or out of range.
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
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"Lens parameter {name} is {value!r}; it must be a finite number.")
            object.__setattr__(self, name, float(value))
        if self.theta_E <= 0:
            raise InputError(f"Lens parameter theta_E is {self.theta_E:g}; it must be above 0 [arcsec].")
        ellipticity = math.hypot(self.e1, self.e2)
        if ellipticity > 0.95:
            raise InputError(
                f"The lens ellipticity |e| = hypot(e1, e2) is {ellipticity:g}; it must be at most 0.95, since "
                "|e| = (1 - q) / (1 + q) with the axis ratio q in (0, 1]."
            )
        shear = math.hypot(self.gamma1, self.gamma2)
        if shear >= 1:
            raise InputError(f"The shear hypot(gamma1, gamma2) is {shear:g}; it must be below 1.")

    @classmethod
    def from_axis_ratio(cls, theta_E, q, phi, **others):
        """From axis ratio q in (0, 1] and position angle phi [rad] of the major axis, anticlockwise from +x."""
        if not 0 < q <= 1:
            raise InputError(f"The axis ratio q is {q!r}; it must be above 0 and at most 1 (minor over major).")
        modulus = (1 - q) / (1 + q)
        return cls(theta_E, modulus * math.cos(2 * phi), modulus * math.sin(2 * phi), **others)

    @classmethod
    def from_dict(cls, values, where="The lens"):
        """From a mapping with all seven names and no other; `where` begins the error's sentence."""
        if not isinstance(values, dict):
            raise InputError(f"{where} is not a JSON object; it must hold {', '.join(LENS_PARAMETERS)}.")
        missing = [name for name in LENS_PARAMETERS if name not in values]
        unknown = [name for name in values if name not in LENS_PARAMETERS]
        if missing or unknown:
            faults = [f"lacks {', '.join(missing)}"] if missing else []
            faults += [f"has unknown {', '.join(map(repr, unknown))}"] if unknown else []
            raise InputError(f"{where} {' and '.join(faults)}; it must hold {', '.join(LENS_PARAMETERS)}.")
        return cls(**values)

    def to_dict(self):
        """The inverse of `from_dict`."""
        return dataclasses.asdict(self)

    def as_tuple(self):
        """The seven values in the order of LENS_PARAMETERS, the columns of `lens` in `rim_tf.physics`."""
        return dataclasses.astuple(self)
