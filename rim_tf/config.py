"""Settings as frozen dataclasses, and their JSON. Each default of the package is written here once."""

import dataclasses
import json
import math

from rim_tf.errors import InputError

LENS_PARAMETERS = ("theta_E", "e1", "e2", "x_lens", "y_lens", "gamma1", "gamma2")

# The paper's source pixel over its image pixel: (3 / 192) / 0.04 (Section 2.3).
SOURCE_SCALE_RATIO = 3.0 / 192 / 0.04


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

    def as_tuple(self):
        """The seven values in the order of LENS_PARAMETERS, the columns of `lens` in `rim_tf.physics`."""
        return dataclasses.astuple(self)


@dataclasses.dataclass(frozen=True)
class RIMConfig:
    """The network, and nothing about how it is trained. The defaults are the paper's network.

    What Section 2.1 leaves open (features, hidden size, steps, start) is as in its authors' earlier code.
    """

    n_steps: int = 10
    kernel: int = 11
    stride: int = 2
    features: int = 32
    """Channels of the embedding and of the upsampling layer."""
    hidden: tuple[int, int] = (128, 128)
    """Channels of the hidden states of the two recurrent layers."""
    link: str = "sigmoid"
    """Latent image -> source: "sigmoid" (the paper's) or "softplus", which has no upper bound."""
    inputs: tuple[str, ...] = ("latent", "gradient")
    """What the cell sees, in this order; the names are those of `rim_tf.models.rim.INPUTS`."""
    gradient_step: bool = False
    """Add the preconditioned gradient to the update, times a gain for each pixel that the cell puts out."""
    start: float | str = 1e-4
    """First estimate of the source: a constant, in units of `flux_scale`, or "backprojection"."""
    flux_scale: str = "unit"
    """The unit of brightness inside: "unit" takes data as they come, "image" divides them by their peak."""

    @classmethod
    def from_dict(cls, values):
        """The inverse of `dataclasses.asdict`, also after JSON, which turns tuples into lists."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


PAPER = RIMConfig()
SMALL = RIMConfig(
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


def to_json(config):
    """The JSON text of any of the dataclasses here."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
