"""Samplers by name: the command line, the calibration and the workflow find them here, and nowhere else.

A sampler is a class in a file of its own and a line below, or a call of `register` from outside the package.
"""

import dataclasses
import importlib
from typing import Protocol

from rim_tf.config import EnsembleSettings, HamiltonianSettings, ImportanceSettings
from rim_tf.errors import InputError


class SamplerClass(Protocol):
    """What a sampler's class must be; `rim_tf.inference.samplers.chain.run` calls it.

    Attributes:
      name: of the sampler.
      fingerprint: text that tells apart whatever gives other draws, but not how many of them.
      n_steps: how many draws each chain is to have.
      block: after how many the chain is stored.
    """

    name: str
    fingerprint: str
    n_steps: int
    block: int

    def __init__(self, settings):
        """From an instance of the sampler's dataclass of settings."""

    def check(self, n):
        """InputError where the settings make no chain of n parameters."""

    def begin(self, target, start):
        """The first state, a dictionary of arrays, for a `LogPosterior` and a `Gaussian` about its best lens."""

    def advancing(self, target, start):
        """A function (state, draws done, draws wanted) -> (state, draws), which depends on nothing else.

        Draws are a dictionary of arrays [chains, draws, ...], among them u and log_prob.
        """

    def chain(self, draws, state):
        """The `Chain` of all draws and the last state."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A way to draw from a posterior.

    Attributes:
      name: by which everything finds it.
      settings: frozen dataclass; its fields are options of the command line.
      builder: "module:name" of its class.
      needs_gradient: whether it takes the posterior's `tensor`.
      about: what it is and where it is described.
    """

    name: str
    settings: type
    builder: str
    needs_gradient: bool
    about: str

    def build(self, settings=None):
        """The sampler for given settings, or for the defaults."""
        module, name = self.builder.split(":")
        return getattr(importlib.import_module(module), name)(self.settings() if settings is None else settings)


SAMPLERS = {}


def register(sampler):
    """Make a `Sampler` known by its name; one of the same name is replaced."""
    SAMPLERS[sampler.name] = sampler
    return sampler


def find_sampler(name):
    """The `Sampler` of that name; InputError where there is none."""
    if name not in SAMPLERS:
        raise InputError(f"There is no sampler {name!r}; known are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


register(
    Sampler(
        "importance",
        ImportanceSettings,
        "rim_tf.inference.samplers.importance:ImportanceSampler",
        False,
        "weighted draws from Student's t about the best lens: one batch",
    )
)
register(
    Sampler(
        "emcee",
        EnsembleSettings,
        "rim_tf.inference.samplers.ensemble:EnsembleSampler",
        False,
        "an ensemble of walkers (Foreman-Mackey et al. 2013), as in the paper",
    )
)
register(
    Sampler(
        "hmc",
        HamiltonianSettings,
        "rim_tf.inference.samplers.hamiltonian:HamiltonianSampler",
        True,
        "Hamiltonian Monte Carlo, by TensorFlow Probability",
    )
)
register(
    Sampler(
        "nuts",
        HamiltonianSettings,
        "rim_tf.inference.samplers.hamiltonian:NoUTurnSampler",
        True,
        "No-U-turn sampler (Hoffman & Gelman 2014), by TensorFlow Probability",
    )
)
