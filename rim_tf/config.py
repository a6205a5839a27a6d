"""Settings as frozen dataclasses, and their JSON. Each default of the package is written here once."""

import dataclasses
import json

# The paper's source pixel over its image pixel: (3 / 192) / 0.04 (Section 2.3).
SOURCE_SCALE_RATIO = 3.0 / 192 / 0.04
# Sides of a source grid are multiples of this unless a network asks for another: the stride of the presets.
SOURCE_MULTIPLE = 2


@dataclasses.dataclass(frozen=True)
class RIMConfig:
    """The network, and nothing about how it is trained. The defaults are the paper's network.

    What Section 2.1 leaves open (features, hidden size, steps, start) is as in its authors' earlier code.
    """

    n_steps: int = 10
    kernel: int = 11
    stride: int = SOURCE_MULTIPLE
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


def setting(default, help, **limits):
    """A field that a command line can offer: its help, and what it may be (`choices`, `least`, `above`)."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class RIMSettings:
    """How a source is reconstructed by the RIM."""

    weights: str = setting("small", "Name of shipped weights, or a path NAME.json.")


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
    seed: int = setting(0, "Of the samples, and of the matrix-free solver's probes.", least=0)


@dataclasses.dataclass(frozen=True)
class WorkflowConfig:
    """Which steps are done, and on which grid."""

    source_pixels: int | None = setting(
        None, "Pixels on a side of the source; by default as many as the image has.", least=4
    )
    source_pixel_scale: float | None = setting(
        None, f"Pixel of the source [arcsec]; by default {SOURCE_SCALE_RATIO:.2f} of the image's.", above=0
    )
    subtract_lens_light: bool = setting(False, "First fit the lens galaxy's light and subtract it.")
    fit_lens: bool = setting(False, "First adjust the lens parameters to the data.")
    fit_weights: str | None = setting(
        None, "Weights of the RIM that the lens is fitted with; by default those of the method, where it has some."
    )
    fit_radius: float = 2.3
    """Half the width of the field that a lens is fitted to [theta_E]: the arcs and nothing else, since the fit unrolls
    the network hundreds of times."""


@dataclasses.dataclass(frozen=True)
class SimulationSettings:
    """One simulated lens."""

    seed: int = setting(0, "Of all that is random.", least=0)
    pixels: int = setting(64, "Pixels on a side.", least=8)
    pixel_scale: float = setting(0.08, "[arcsec]", above=0)
    noise: float = setting(0.01, "Noise rms over the image's peak.", above=0)
    psf_sigma: float = setting(0.05, "Gaussian PSF [arcsec].", least=0)


def to_json(config):
    """The JSON text of any of the dataclasses here."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
