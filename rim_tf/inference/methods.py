"""The ways to a source, by name: command line, study, report and workflow find them here, and nowhere else.

A method is a class and a line in `METHODS`, or a call of `register` from outside the package. The class is built from
its settings, once; then it is called with any number of observations and lenses.
"""

import dataclasses
import importlib
from typing import Protocol

from rim_tf.config import InversionSettings, RIMSettings
from rim_tf.errors import InputError


class Solver(Protocol):
    """What a method's class must be.

    Attributes:
      settings: what it was built from.
      fingerprint: text that tells apart whatever gives other numbers: settings, a checksum of the weights.
    """

    settings: object
    fingerprint: str

    def __init__(self, settings):
        """From an instance of the method's dataclass of settings."""

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        """Reconstruct the sources of a list of `Observation`s.

        Args:
          observations: list of `Observation`.
          lenses: as long a list of lenses.
          source_pixel_scale: [arcsec]; by default `systems.source_grid` chooses.
          source_pixels: pixels on a side of the source grid; likewise.

        Returns:
          List of `rim_tf.results.SourceFit`, in the same order; with errors where the settings ask for them.
        """

    def with_errors(self, observations, lenses, samples, seed=0, source_pixel_scale=None, source_pixels=None):
        """The same with errors, whatever the settings say.

        Args:
          observations: as above.
          lenses: likewise.
          samples: draws for each source.
          seed: of the draws, which are others for each system.
          source_pixel_scale: as above.
          source_pixels: likewise.

        Returns:
          List of `rim_tf.results.SourceFit` with `errors`, in the same order.
        """


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to reconstruct sources.

    Attributes:
      name: by which everything finds it.
      command: the command of `rim-tf` that runs it.
      label: in figures and tables.
      colour: in figures.
      settings: frozen dataclass; its fields are the options of the command.
      solver: a `Solver` class, or "module:name" of one, so that the command line need not import it to offer it.
      figures: names of further numbers that its results have, kept as columns of a study.
      systems_at_once: after how many systems a study writes down what it has; few for a slow method.
      bytes_per_pixel: memory that it takes for each pixel of the source or of the image, whichever has more.
      about: what it is and where it is described, for the text of a report.
    """

    name: str
    command: str
    label: str
    colour: str
    settings: type
    solver: type | str
    figures: tuple[str, ...] = ()
    systems_at_once: int = 20
    bytes_per_pixel: float = 0.0
    about: str = ""

    def build(self, settings=None):
        """The `Solver` for given settings, or for the defaults."""
        solver = self.solver
        if isinstance(solver, str):
            module, name = solver.split(":")
            solver = getattr(importlib.import_module(module), name)
        return solver(self.settings() if settings is None else settings)


METHODS = {}


def register(method):
    """Make a `Method` known by its name; one of the same name is replaced."""
    METHODS[method.name] = method
    return method


def find_method(name):
    """The `Method` of that name; InputError where there is none."""
    if name not in METHODS:
        raise InputError(f"There is no method {name!r}; known are {', '.join(METHODS)}.")
    return METHODS[name]


# The bytes were measured with the shipped weights and with the matrix-free solver.
register(
    Method(
        "rim",
        "reconstruct",
        "RIM",
        "tab:blue",
        RIMSettings,
        "rim_tf.inference.rim:RIMSolver",
        bytes_per_pixel=1800,
        about="Recurrent Inference Machine (Morningstar et al. 2019)",
    )
)
register(
    Method(
        "inversion",
        "invert",
        "linear inversion",
        "tab:red",
        InversionSettings,
        "rim_tf.inference.linear.inversion:InversionSolver",
        figures=("strength", "log_evidence", "log_evidence_error"),
        systems_at_once=4,
        bytes_per_pixel=4000,
        about="the most probable pixelated source under a Gaussian prior, of the strength with the largest evidence "
        "unless one is given (Suyu et al. 2006)",
    )
)
