"""Settings as frozen dataclasses. Each default of the package is written here once, or beside its only user.

What a value may be stands in its annotation (`rim_tf.validation`).
"""

import dataclasses
from typing import Annotated, Literal

from rim_tf.errors import InputError
from rim_tf.validation import (
    LARGEST_SEED,
    Limits,
    Modulus,
    NotNegative,
    Positive,
    PositiveRange,
    Share,
    Wanted,
    check,
    from_json,
    shown,
)

# The paper's source pixel over its image pixel: (3 / 192) / 0.04 (Section 2.3).
SOURCE_SCALE_RATIO = 3.0 / 192 / 0.04
# Sides of a source grid are multiples of this unless a network asks for another: the stride of the presets.
SOURCE_MULTIPLE = 2
# Groups of channels that the residual network of the estimator normalises together.
NORMALISED_GROUPS = 8


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


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """A network that finds the lens in an image. The defaults are the paper's (Hezaveh et al. 2017).

    As in Perreault Levasseur et al. 2017 it has a variance for each parameter, and keeps its dropout when it predicts.
    """

    mass: tuple[str, ...] = ("sie", "shear")
    """The types of the mass model whose parameters it finds."""
    pixels: Annotated[int, Limits(least=8, most=1024)] = 192
    """Side of the grid on which it sees any image."""
    network: Literal["alexnet", "residual"] = "alexnet"
    features: tuple[Annotated[int, Limits(least=1, most=4096)], ...] = (64, 192, 384, 384, 256)
    """Channels of the five convolutions, or of each stage of a residual network, which halves the sides."""
    blocks: Annotated[int, Limits(least=1, most=100)] = 2
    """Residual blocks in each stage."""
    hidden: tuple[Annotated[int, Limits(least=1, most=16384)], ...] = (4096, 4096)
    """Units of the dense layers before the output."""
    inputs: tuple[
        Literal[
            "signal",
            "compressed",
            "significance",
            "mask",
            "log_noise",
            "x",
            "y",
            "radius",
            "psf_width",
            "log_step",
        ],
        ...,
    ] = ("signal",)
    """What it sees, in this order; the names are those of `rim_tf.models.estimator.INPUTS`."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    components: Annotated[int, Limits(least=1, most=64)] = 1
    """Gaussians in the mixture that its posterior is."""
    dropout: Annotated[float, Limits(least=0, below=1)] = 0.1
    """Share of the units before each dense layer that are left out; those authors tune it for the right coverage."""
    passes: Annotated[int, Limits(least=1, most=10_000)] = 50
    """Passes at prediction, each with a dropout of its own; without dropout, there is one."""
    mirrored: bool = False
    """Whether it sees an image and its three mirror images at prediction, and pools what it finds in them."""
    stretch: tuple[Annotated[float, Limits(least=0.1, most=10)], ...] = ()
    """By what the posterior of each parameter is stretched about its mean; empty for nothing. `training.publish` finds
    it on mocks: the pool of mirror images is too wide without it, and a network that the clock stopped too sure."""
    type: Literal["estimator"] = "estimator"
    """Its name in MODELS."""

    def __post_init__(self):
        check(self)
        for name in ("mass", "features", "inputs"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; it needs at least one.")
        if self.network == "alexnet" and len(self.features) != 5:
            raise InputError(f"features has {len(self.features)} numbers; an alexnet has five convolutions.")
        if self.network == "residual" and any(n % NORMALISED_GROUPS for n in self.features):
            raise InputError(
                f"features is {self.features}; each must be a multiple of {NORMALISED_GROUPS}, the groups in which a "
                "residual network normalises its channels."
            )


@dataclasses.dataclass(frozen=True)
class SourceErrorsConfig:
    """A network that knows the errors of the sources that a RIM finds (`rim_tf.models.source_errors`)."""

    rim: str = "small"
    """Weights of that RIM, and no other: a shipped name, or the path of its description."""
    rim_sha256: str = ""
    """Their `rim_tf.models.pretrained.fingerprint`."""
    features: Annotated[int, Limits(least=1, most=4096)] = 32
    """Channels of each convolution."""
    levels: Annotated[int, Limits(least=1, most=8)] = 5
    """Sizes of structure in the source that have errors of their own, each twice the one before."""
    widths: tuple[Positive, ...] = ()
    """Factors on the errors, found on mocks: one for each of `source_errors.BRIGHTNESSES` at the first of
    `source_errors.NOISES`, then as many at the second; empty for none."""
    type: Literal["source-errors"] = "source-errors"
    """Its name in MODELS."""

    def __post_init__(self):
        check(self)
        if len(self.widths) not in (0, 12):
            raise InputError(f"widths has {len(self.widths)} numbers; it must have 12, or none.")


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """A RIM that improves lens and source together (`rim_tf.models.joint`)."""

    mass: tuple[str, ...] = ("sie", "shear")
    """The types of the mass model whose parameters it finds."""
    estimator: str = "estimator-small"
    """Weights of the estimator at whose answers it was trained to start: a shipped name, or a path NAME.json."""
    n_steps: Annotated[int, Limits(least=1, most=1000)] = 10
    kernel: Annotated[int, Limits(least=1, most=99, odd=True)] = 3
    stride: Annotated[int, Limits(least=1, most=16)] = SOURCE_MULTIPLE
    features: Annotated[int, Limits(least=1, most=4096)] = 32
    hidden: tuple[Annotated[int, Limits(least=1, most=4096)], Annotated[int, Limits(least=1, most=4096)]] = (32, 16)
    """These four as of `RIMConfig`."""
    encoder: tuple[Annotated[int, Limits(least=1, most=4096)], ...] = (24, 48, 64)
    """Channels of the convolutions that encode the image plane, each of which halves the sides; none for no encoder."""
    encoder_side: Annotated[int, Limits(least=1, most=64)] = 8
    """Side of the maps that come of them, whatever the image's."""
    memory: Annotated[int, Limits(least=1, most=4096)] = 128
    """Units of the recurrent layer that updates the lens."""
    components: Annotated[int, Limits(least=1, most=64)] = 2
    """Gaussians in the mixture that the lens's posterior is."""
    curvature: Literal["none", "fixed", "projected"] = "projected"
    """What it sees of Gauss and Newton's steps in the lens: nothing; "fixed", the one with the source held fixed; or
    "projected", beside that the one of variable projection, with a source that follows."""
    projection_steps: Annotated[int, Limits(least=1, most=100)] = 2
    """How many steps of SIRT a source that follows takes."""
    source_scale_ratio: Annotated[float, Limits(least=1e-3, most=10)] = 0.5
    """Source pixel over image pixel that it was trained with."""
    through_rays: bool = False
    """Let the gradient of the loss pass through the rays that are traced, and not through the lens's moves alone."""
    stretch: tuple[Annotated[float, Limits(least=0.1, most=10)], ...] = ()
    """As of `EstimatorConfig`."""
    type: Literal["joint"] = "joint"
    """Its name in MODELS."""

    def __post_init__(self):
        check(self)
        if self.stride > self.kernel:
            raise InputError(f"stride is {self.stride}; it must be at most the kernel, which is {self.kernel}.")
        if not self.mass:
            raise InputError("mass is empty; it needs at least one.")
        if not self.encoder and self.curvature == "none":
            raise InputError("encoder is empty and curvature is 'none'; the lens would be moved blindly.")


# What networks there are: a file of settings names one of them as its "type".
MODELS = {"rim": RIMConfig, "estimator": EstimatorConfig, "source-errors": SourceErrorsConfig, "joint": JointConfig}


class _AnyModel:
    """The rule of a field that holds the settings of any network in MODELS."""

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(model_from_json)


def model_from_json(values, where="The network"):
    """The settings of a network, whose kind `values["type"]` says; the rest is as in `from_json`."""
    if dataclasses.is_dataclass(values):
        values = dataclasses.asdict(values)
    if not isinstance(values, dict):
        raise InputError(f"{where}: all of it is {shown(values)}; it must be a JSON object.")
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in MODELS:
        raise InputError(f"{where}: type is {shown(kind)}; it must be one of {', '.join(map(repr, MODELS))}.")
    return from_json(MODELS[kind], values, where)


Model = Annotated[RIMConfig | EstimatorConfig | SourceErrorsConfig | JointConfig, _AnyModel()]


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

ESTIMATOR_PAPER = _preset(EstimatorConfig)
ESTIMATOR_SMALL = _preset(
    EstimatorConfig,
    pixels=64,
    network="residual",
    features=(48, 64, 112, 128),
    hidden=(256,),
    # Not "log_step": the noise of any frame that is seen on this grid looks like that of some frame of its size.
    inputs=("compressed", "significance", "mask", "log_noise", "x", "y", "radius", "psf_width"),
    covariance="full",
    components=4,
    dropout=0.0,
    passes=1,
    mirrored=True,
)
ESTIMATOR_PRESETS = {"paper": ESTIMATOR_PAPER, "small": ESTIMATOR_SMALL}

# Of the RIM "small".
SOURCE_ERRORS_SMALL = _preset(
    SourceErrorsConfig,
    rim_sha256="85fe87a7a062141cc85fb0ae6800b6c8e8e2503528606e6d1c9f9c21a8096f4d",
)

JOINT_SMALL = _preset(JointConfig)


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
    """Standard deviation of an error added to each lens parameter that the network is given, lengths in theta_E."""
    lens_error_decades: NotNegative = 0.0
    """How much smaller it is for some: in each system it is `lens_error` times 10^-u, with u uniform up to this."""
    psf_pixels: Annotated[
        Literal[0] | Annotated[int, Limits(least=1, most=999, odd=True)], Wanted("odd, or 0 for Gaussian PSFs")
    ] = 0
    """Side of pixelated PSFs, odd: elliptical Moffat profiles of the width that `psf_sigma` gives. 0 for Gaussians."""
    given_psf_fraction: Share = 1.0
    """Share of systems with a stamp of a list, where one is given, instead of what is said here."""
    psf_beta: Annotated[tuple[float, float], Limits(above=1)] = (2.5, 5.0)
    """Moffat exponent: how strong the wings of pixelated PSFs are."""
    psf_ellipticity: Modulus = (0.0, 0.1)
    """Of pixelated PSFs, with the angle uniform."""
    correlated_noise_fraction: Share = 0.0
    """Share of systems whose noise has been blurred, at the same rms, which the network is not told."""
    noise_correlation: Annotated[tuple[float, float], Limits(least=0)] = (0.3, 0.8)
    """Sigma of the Gaussian that blurs it [pixels]; drizzling makes about half a pixel."""
    log_noise_overestimate: PositiveRange = (1.0, 1.0)
    """In the systems whose noise is correlated, the noise that is told over the true one, log-uniform: maps of drizzled
    images do not know how much of the noise lies between neighbours."""
    lens_galaxy_fraction: Share = 0.0
    """Share of systems with the lens galaxy in the image."""
    lens_light_fraction: Share = 0.0
    """Of the others, the share with what an imperfect subtraction of the lens galaxy leaves."""
    neighbour_fraction: Share = 0.0
    """Share of systems with up to three other galaxies beside the ring, which nobody has masked."""
    lens_light_error: NotNegative = 0.01
    """Relative error of that subtraction in each parameter, and five times that along radius and angle; in the centre,
    tenths of a pixel for each 0.01."""
    lens_light_error_decades: NotNegative = 0.0
    """How much smaller it is for some, as `lens_error_decades` says for the lens."""

    def __post_init__(self):
        check(self)


# Section 2.3: images of 192 x 192 pixels of 0.04", sources of as many pixels.
PAPER_MOCKS = _preset(MockConfig, image_pixels=192, source_pixels=192, log_pixel_scale=(0.04, 0.04))


# ------------------------------------------------------------------------------------------------- the methods


def setting(default, help, **limits):
    """A field that a command line can offer: its help, and what it may be, as in `Limits`."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


# Draws that the errors of a source are made of, where no other number is given.
ERROR_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class RIMSettings:
    """How a source is reconstructed by the RIM."""

    weights: str = setting("small", "Name of shipped weights, or a path NAME.json.")
    steps: int | None = setting(
        None,
        "Steps of the network; by default as many as it was trained for. At a noise below 1 % of the peak half as many "
        "more explain the image better.",
        least=1,
        most=50,
    )
    errors: bool = setting(False, "Draw sources from what is left uncertain: errors of pixels, flux and more.")
    errors_weights: str = setting("source-errors-small", "Weights of the errors, which belong to those of the RIM.")
    samples: int = setting(ERROR_SAMPLES, "Draws that the errors are made of.", least=2, most=100_000)
    seed: int = setting(0, "Of the draws.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check(self)
        if self.errors:
            self.check_steps()

    def check_steps(self):
        """Errors are of what the network has after the steps of its training; InputError where it takes others."""
        if self.steps is not None:
            raise InputError(
                f"steps is {self.steps}, but errors were counted with as many steps as the network was trained for; "
                "leave steps or errors away."
            )


REGULARISATIONS = ("brightness", "gradient", "curvature")
BOUNDARIES = ("zero", "suyu", "free")
SOLVERS = ("auto", "exact", "matrix-free")


@dataclasses.dataclass(frozen=True)
class InversionSettings:
    """How a source is reconstructed by linear inversion; `rim_tf.inference.linear.inversion.invert` says more."""

    regularisation: str = setting("gradient", "The prior.", choices=REGULARISATIONS)
    boundary: str = setting("zero", "What the prior finds beyond the grid.", choices=BOUNDARIES)
    strength: float | None = setting(None, "lambda of the prior; by default that of the highest evidence.", above=0)
    non_negative: bool = setting(False, "Let no pixel be negative.")
    solver: str = setting("auto", "How the linear system is solved.", choices=SOLVERS)
    errors: bool = setting(
        False, f"Give flux and more an error too, from --samples draws, or {ERROR_SAMPLES} if that is 0."
    )
    samples: int = setting(0, "Draws from the posterior; two or more give a matrix-free solution its errors.", least=0)
    seed: int = setting(0, "Of the samples, and of the matrix-free solver's probes.", least=0, most=LARGEST_SEED)

    def __post_init__(self):
        check(self)


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
    fixed: tuple[str, ...] = setting((), "A parameter that --fit-lens holds fixed; any number.", metavar="NAME")
    fit_weights: str | None = setting(
        None, "Weights of the RIM that the lens is fitted with; by default those of the method, where it has some."
    )
    fit_radius: float = 2.3
    """Half the width of the field that a lens is fitted to [theta_E]: the arcs and nothing else, since the fit unrolls
    the network hundreds of times."""

    def __post_init__(self):
        check(self)
        for name in ("fixed", "fit_weights"):
            if getattr(self, name) and not self.fit_lens:
                raise InputError(f"{name} is of the lens fit, which was not asked for; set fit_lens too.")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """How a lens is found from its image alone."""

    weights: str = setting("small", "Weights of the RIM: a shipped name, or a path NAME.json.")
    estimator: str = setting("estimator-small", "Weights of the estimator; likewise.")
    joint: str = setting("joint-small", "Weights of the network that finds lens and source together; likewise.")
    no_lens_light: bool = setting(False, "There is no lens galaxy in the image; do not look for one.")
    search: str = setting(
        "network",
        "What makes of the estimator's answers lenses to fit: the network that finds lens and source together, or "
        "descent on coarse pixels. Where a flag speaks, the other one searches, too.",
        choices=("network", "descent"),
    )
    fast: bool = setting(
        False,
        "Search by the network, and take the lens that it finds: no fit of the lens, hence no rounds and no attempts.",
    )
    starts: int = setting(
        16, "Lenses drawn from the estimator's posterior that the fit starts from.", least=1, most=999
    )
    rounds: int = setting(
        4,
        "How often at most lens and light are fitted again beside the source, and at last light that the source has "
        "and the lens galaxy may as well have is given back to it.",
        least=0,
        most=20,
    )
    attempts: int = setting(
        1,
        "How often a fit that a flag speaks against begins anew: beside a galaxy with a price on light in the source, "
        "then by the other search and from lenses of other sizes. Twice as often where no lens explains the image.",
        least=0,
        most=20,
    )
    seed: int = setting(0, "Of these draws.", least=0, most=2**30)
    posterior: bool = setting(
        False,
        "Draw lenses and sources from their posterior, whose errors were counted on mocks; takes some twenty seconds "
        "more.",
    )
    fit_radius: float = WorkflowConfig.fit_radius
    """As of `WorkflowConfig`."""
    source_width: float = setting(
        1.5,
        "How many times its usual width the source grid has while the lens is looked for. It becomes wider where it "
        "cuts the source off, and narrower beside a lens galaxy where that explains the ring as well.",
        least=0.5,
        most=4,
    )

    @property
    def networks(self):
        """Weights of the RIM, of the estimator, and of the network that finds both; None where it is not needed."""
        return self.weights, self.estimator, self.joint if self.by_network or self.attempts else None

    @property
    def by_network(self):
        """Whether the network that finds lens and source together searches first."""
        return self.fast or self.search == "network"

    def __post_init__(self):
        check(self)
        if self.fast and self.posterior:
            raise InputError("posterior is of a fitted lens; leave fast (--fast) away, or posterior (--posterior).")


@dataclasses.dataclass(frozen=True)
class SimulationSettings:
    """One simulated lens."""

    seed: int = setting(0, "Of all that is random.", least=0)
    pixels: int = setting(MockConfig.image_pixels, "Pixels on a side.", least=8)
    pixel_scale: float = setting(MockConfig.log_pixel_scale[0], "[arcsec]", above=0)
    noise: float = setting(0.01, "Noise rms over the image's peak.", above=0)
    psf_sigma: float = setting(0.05, "Gaussian PSF [arcsec].", least=0)
    lens_galaxy: float = setting(
        0.0, "Light of a lens galaxy, at its half-light radius over the arcs' peak; 0 for none.", least=0, most=1e6
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class ServingSettings:
    """How a model is served."""

    workers: int = setting(2, "Batches that are run at a time, each on one core.", least=1, most=1024)
    largest_batch: int = setting(16, "Lenses in one batch.", least=1, most=1024)
    largest_request: int = setting(64, "Largest request [MiB].", least=1, most=2047)
    keep: int = setting(1, "How many of the newest versions are served.", least=1, most=100)

    def __post_init__(self):
        check(self)


# ------------------------------------------------------------------------------------------------ the posterior


@dataclasses.dataclass(frozen=True)
class ImportanceSettings:
    """Weighted draws from a distribution about the best lens."""

    draws: int = setting(512, "Lenses that are drawn.", least=1)
    stretch: float = setting(1.1, "How much wider the draws are than the curvature says.", above=0)
    dof: float = setting(5.0, "Degrees of freedom of their distribution, Student's t.", above=0)
    rounds: int = setting(
        0,
        "How often it is first moved to where half as many draws weigh most; for starts that are off.",
        least=0,
        most=99,
    )
    seed: int = setting(0, "Of the draws.", least=0, most=2**30)

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """emcee."""

    walkers: int = setting(32, "Walkers, an even number of at least twice the parameters.", least=1)
    steps: int = setting(1000, "Steps of each walker.", least=1)
    burn_in: float = setting(0.3, "Share of the steps that are left out at the beginning.", least=0, most=0.9)
    seed: int = setting(0, "Of all that is random.", least=0, most=2**30)

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class HamiltonianSettings:
    """HMC and NUTS."""

    chains: int = setting(8, "Chains.", least=1)
    warm_up: int = setting(100, "Steps in which the step's size is adapted.", least=1)
    draws: int = setting(200, "Draws of each chain after that.", least=1)
    leapfrog_steps: int = setting(4, "Of a trajectory of HMC; NUTS chooses by itself.", least=1, most=1000)
    seed: int = setting(0, "Of all that is random.", least=0, most=2**30)

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class PosteriorConfig:
    """How the errors of a lens are found."""

    method: str = setting(
        "rim",
        "How the source of each lens is found; both share a plot.",
        choices=("rim", "inversion", "both"),
    )
    sampler: str = setting(
        "calibrated",
        "What draws: the distribution about the best lens whose errors were counted on mocks, or a sampler; with "
        "calibrated, linear inversion takes importance.",
        choices=("calibrated", "importance", "emcee", "hmc", "nuts"),
    )
    samples: int = setting(1000, "Draws that are written.", least=2, most=10**6)
    sources: int = setting(
        ERROR_SAMPLES,
        "Draws of the source, a few with each of some lenses; 0 draws none.",
        least=0,
        most=10**4,
    )
    steps: int | None = setting(None, "Steps or draws of the sampler; by default its own.", least=1)
    walkers: int | None = setting(None, "Walkers or chains of the sampler; likewise.", least=1)
    weights: str = setting("small", "Weights of the RIM: a shipped name, or a path NAME.json.")
    seed: int = setting(0, "Of all that is random.", least=0, most=2**30)
    fit_radius: float = WorkflowConfig.fit_radius
    """As of `WorkflowConfig`."""
    source_width: float = ModelConfig.source_width
    """How many times its usual width the source grid has; behind a lens that `model` found it is as wide as there."""

    def __post_init__(self):
        check(self)
        if self.sources == 1:
            raise InputError("sources is 1; errors are made of 2 draws at least, or of none (0).")
