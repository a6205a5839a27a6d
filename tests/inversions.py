"""Small linear inversions, for the tests of `rim_tf.inference.linear`; each is made once."""

import dataclasses
import functools

import numpy as np
import scipy.sparse as sp

from rim_tf.inference.linear.system import LinearSystem
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation

# What refs/inversion_24.npz calls our boundaries.
THEIRS = {"zero": "dirichlet", "suyu": "suyu", "free": "neumann"}
LENS = LensParameters(1.1, 0.12, -0.07, 0.03, -0.05, 0.04, -0.03)


def clumps(pixels, seed=3):
    """A source of a dozen Gaussian clumps, peak 1, [pixels, pixels], and the generator for its noise."""
    rng = np.random.default_rng(seed)
    x = (np.arange(pixels) - (pixels - 1) / 2) / pixels
    source = np.zeros((pixels, pixels))
    for _ in range(12):
        (x0, y0), width = 0.1 * rng.normal(size=2), rng.uniform(0.015, 0.1)
        source += rng.uniform(0.2, 1) * np.exp(-((x - x0) ** 2 + (x[:, None] - y0) ** 2) / (2 * width**2))
    return source / source.max(), rng


@functools.cache
def observe(pixels, image_pixels, noise=0.02, psf=0.08, width=2.0):
    """5.12 arcsec of the sky, whose source is `clumps(pixels)` on a grid of `width` arcsec.

    Returns:
      The `Observation`, its `LinearSystem`, and the source.
    """
    source, rng = clumps(pixels)
    empty = Observation(np.zeros((image_pixels,) * 2), noise, psf, None, 5.12 / image_pixels)
    system = LinearSystem.from_observation(empty, LENS, source.shape, width / pixels)
    image = system.forward(source) + noise * rng.normal(size=empty.shape)
    observation = dataclasses.replace(empty, image=image)
    return observation, with_data(system, observation), source


def with_data(system, observation):
    """The same lens and PSF with the data, noise and mask of an `Observation`."""
    weight = np.where(observation.mask, observation.noise.astype(np.float64) ** -2, 0.0)
    return LinearSystem(system.lensing, system.blur, observation.image, weight, system.source_shape)


def tiny():
    """The system of 10 x 10 image pixels and 8 x 8 source pixels: small enough for any matrix."""
    return observe(8, 10, noise=0.05, psf=0.3)[1]


def dense(system):
    """A as a matrix, [image pixels, source pixels], by its action on unit vectors."""
    pixels = int(np.prod(system.source_shape))
    return system.forward(np.eye(pixels).reshape(pixels, *system.source_shape)).reshape(pixels, -1).T


def sparse(reference, name):
    """A sparse matrix of refs/inversion_24.npz as a dense one."""
    parts = [reference[f"{name}_{part}"] for part in ("data", "indices", "indptr")]
    return sp.csr_matrix(tuple(parts), shape=tuple(reference[f"{name}_shape"])).toarray()
