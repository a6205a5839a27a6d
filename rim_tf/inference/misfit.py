"""What is squared and summed when a lens is fitted or sampled: residuals of the data, and distances from a prior.

One observation is seen through many lenses at once, each with the source that the RIM finds for it: the residuals are a
function of the lens alone. Optimisers and posteriors share them, in the coordinates without bounds of the mass model.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.lens import LensParameters
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.tangents import Tangents
from rim_tf.results import SourceFit
from rim_tf.systems import GAUSSIAN_PSF, IMAGING, batch_of, source_grid

# Pixels of the lenses in one call, which bounds the memory.
_PIXELS_AT_ONCE = 64 * 64**2
# Steps of SIRT by which tangents lose what a change of the source could do as well. With more they lose what the RIM
# would not do.
_PROJECTIONS = 4


@dataclasses.dataclass(frozen=True)
class LensPrior:
    """Widths of a mild Gaussian prior, added to chi^2, without which a few poor arcs may be "explained" by any lens.

    Galaxies that lens have |e| around 0.1 and |gamma| around 0.05 (Bolton et al. 2008), so these let the data speak.
    """

    ellipticity: float = 0.2
    """Standard deviation of e1 and of e2."""
    shear: float = 0.07
    """Of gamma1 and of gamma2."""
    offset: float = 0.1
    """Of x_lens and y_lens about `centre` [theta_E]."""
    slope: float = 0.2
    """Of the slope of a power law about 2, as galaxies that lens have it (Auger et al. 2010)."""
    centre: tuple[float, float] | None = None
    """x and y that the lens's centre is near [arcsec], as that of its light; None for those of the start."""

    def columns(self, lens):
        """Mean and standard deviation of each parameter of a mass model, infinite where nothing is known.

        Args:
          lens: the start.
        """
        offset = self.offset * lens.theta_E
        centre = None if self.centre is None else dict(zip(("x_lens", "y_lens"), self.centre, strict=True))
        known = {"e1": (0.0, self.ellipticity), "e2": (0.0, self.ellipticity), "slope": (2.0, self.slope)}
        known |= {"gamma1": (0.0, self.shear), "gamma2": (0.0, self.shear)}
        found = []
        for column, indices in lens.mass.columns:
            for name, i in zip(column.names, indices, strict=True):
                if name in ("x_lens", "y_lens"):
                    found.append((lens.as_tuple()[i] if centre is None else centre[name], offset))
                else:
                    found.append(known.get(name, (0.0, np.inf)))
        return np.array(found).T


@functools.lru_cache(maxsize=8)
def _model_images(model, mass, stamps):
    """A function that is traced once for all frames and steps: (inputs of one system, source pixels, steps of the RIM,
    lenses [k, columns]) -> model images [k, rows, columns], sources [k, n, n].
    """
    number = tf.TensorSpec([], tf.int32)

    @tf.function(
        input_signature=[specification(stamps), number, number, tf.TensorSpec([None, mass.size])],
        autograph=False,
    )
    def model_images(inputs, source_pixels, n_rim_steps, lens):
        inputs = _repeated(inputs, lens)
        problem = imaging_problem(inputs | {"lens": lens}, (source_pixels, source_pixels), mass)
        source = model.solve_last(problem, n_rim_steps)
        return problem.model_image(source), source

    return model_images


@functools.lru_cache(maxsize=4)
def _tangents(mass, stamps):
    """A function that is traced once for all frames: (inputs of one system, sources [k, n, n], lenses [k, columns]) ->
    slopes of the model images in coordinates without bounds, less what a change of the source could do as well, [k,
    columns, rows, columns].
    """

    @tf.function(
        input_signature=[specification(stamps), tf.TensorSpec([None] * 3), tf.TensorSpec([None, mass.size])],
        autograph=False,
    )
    def tangents(inputs, source, lens):
        inputs, source_shape = _repeated(inputs, lens), ops.shape(source)[1:]
        problem = imaging_problem(inputs | {"lens": lens}, source_shape, mass)
        found = Tangents(inputs, source_shape, mass)
        slopes = found(source, mass.to_real(lens), problem.lensing)
        return found.projected(slopes, problem.lensing, problem.weight, problem.curvature_bound, _PROJECTIONS)

    return tangents


def specification(stamps, names=tuple(name for name in IMAGING if name != "lens")):
    """What a traced function is told of the inputs of a batch: {name: tf.TensorSpec}, of any shape.

    Args:
      stamps: whether the PSFs are stamps, and not widths of Gaussians.
      names: of these inputs; by default all but the lenses.
    """
    known = IMAGING if stamps else IMAGING | {"psf": GAUSSIAN_PSF}
    return {name: tf.TensorSpec([None] * len(known[name].axes), known[name].dtype) for name in names}


def _repeated(inputs, lens):
    return {name: tf.repeat(value, tf.shape(lens)[0], axis=0) for name, value in inputs.items()}


class View:
    """One observation as many lenses would show it, each with the source that the RIM finds for it.

    Args:
      observation: `Observation`.
      model: `RIM`.
      mass: `MassModel`.
      n_rim_steps: of the RIM; None takes as many as it was trained for.
      source_pixels: as in `source_grid`.
    """

    def __init__(self, observation, model, mass, n_rim_steps, source_pixels):
        pixels, scale = source_grid(observation, model.config.stride, None, source_pixels)
        # A batch has a lens, which is not looked at.
        inputs = batch_of([observation], [LensParameters(1.0)], [scale])
        self._inputs = {name: tf.constant(value) for name, value in inputs.items() if name != "lens"}
        n_rim_steps = model.config.n_steps if n_rim_steps is None else n_rim_steps
        self._numbers = tf.constant(pixels), tf.constant(n_rim_steps)
        stamps = not isinstance(observation.psf, float)
        self._function, self._slopes = _model_images(model, mass, stamps), _tangents(mass, stamps)
        self._at_once = max(1, _PIXELS_AT_ONCE // max(pixels**2, observation.image.size))
        self.observation, self.mass, self.source_pixel_scale = observation, mass, scale

    def tensor(self, lenses):
        """As `__call__`, for a tensor of float32, and in one call."""
        return self._function(self._inputs, *self._numbers, lenses)[0]

    def __call__(self, lenses):
        """Lenses [n, columns] -> model images [n, rows, columns] in the observation's `unit`."""
        return self.images_and_sources(lenses)[0]

    def images_and_sources(self, lenses):
        """As `__call__`, and their sources [n, source pixels, source pixels]."""
        found = [self._function(self._inputs, *self._numbers, part) for part in self._parts(lenses, self._at_once)]
        return tuple(np.concatenate(each) for each in zip(*found, strict=True))

    def source_fit(self, lens, image, source):
        """`SourceFit` of a lens by what `images_and_sources` has found; its `seconds` are unknown.

        Args:
          lens: `Lens`.
          image: its model image, [rows, columns] in `unit`.
          source: likewise, [source pixels, source pixels].
        """
        inputs = self._inputs | {"lens": tf.constant([lens.as_tuple()], tf.float32)}
        problem = imaging_problem(inputs, source.shape, self.mass)
        return SourceFit(
            source=self.observation.in_data_units(source),
            source_pixel_scale=self.source_pixel_scale,
            model_image=self.observation.in_data_units(image),
            observation=self.observation,
            lens=lens,
            chi2_per_pixel=float(problem.chi2_per_pixel(tf.constant(image[None]))[0]),
            flux_outside=float(problem.flux_outside()[0]),
            seconds=float("nan"),
        )

    def tangents(self, lenses, sources=None):
        """How the images of lenses [n, columns] change with the coordinates without bounds, about: the source held, and
        then what a change of it could do as well taken off. [n, columns, rows, columns] in `unit`.

        Args:
          lenses: [n, columns].
          sources: theirs, as of `images_and_sources`, where they are known; None finds them.
        """
        at_once = max(1, self._at_once // self.mass.size)
        found = []
        for i, part in enumerate(self._parts(lenses, at_once)):
            if sources is None:
                _, behind = self._function(self._inputs, *self._numbers, part)
            else:
                behind = sources[i * at_once : (i + 1) * at_once]
            found.append(self._slopes(self._inputs, behind, part).numpy())
        return np.concatenate(found)

    @staticmethod
    def _parts(lenses, at_once):
        lenses = np.asarray(lenses, np.float32)
        return [tf.constant(lenses[i : i + at_once]) for i in range(0, len(lenses), at_once)]


class Misfit:
    """What is squared and summed, for many lenses of one observation: residuals, then distances from the prior.

    Args:
      view: `View`.
      held: the values that what is fixed keeps, [columns].
      is_fixed: [columns].
      prior: mean and standard deviation of each parameter, [2, columns].
      left_over: [k, rows, columns] or None, as of `optimise_lens`.
    """

    def __init__(self, view, held, is_fixed, prior, left_over):
        observation = view.observation
        self.view, self.mass, self.fixed, self.held, self.prior = view, view.mass, is_fixed, held, prior
        self.n_used = int(observation.mask.sum())
        self._data = np.where(observation.mask, observation.image / observation.unit, 0.0).astype(np.float32).ravel()
        used_noise = np.where(observation.mask, observation.noise, np.inf)
        self._per_noise = (observation.unit / used_noise).astype(np.float32).ravel()
        self._left_over = None
        if left_over is not None:
            in_noise = (left_over / used_noise).reshape(len(left_over), -1)
            # Columns that are nearly sums of others are no directions of their own.
            self._left_over = _directions(in_noise).astype(np.float32)

    def lenses(self, u):
        """[n, columns]; what is fixed by its value, and not by a coordinate, which two parameters may share."""
        values = np.asarray(ops.convert_to_numpy(self.mass.from_real(ops.convert_to_tensor(u.astype(np.float32)))))
        return np.where(self.fixed, self.held, values)

    def __call__(self, u):
        """[n, data + columns] for coordinates without bounds [n, columns]."""
        return self.of_lenses(self.lenses(u))

    def of_lenses(self, lenses):
        """The same for lenses [n, columns]."""
        images = self.view(lenses).reshape(len(lenses), -1)
        mean, width = self.prior
        distances = ((lenses - mean) / width).astype(np.float32)
        return np.concatenate([self._without_left_over((self._data - images) * self._per_noise), distances], axis=1)

    def coordinates(self, lenses):
        """The inverse of `lenses`, [n, columns] in float64."""
        lenses = ops.convert_to_tensor(np.asarray(lenses, np.float32))
        return np.array(ops.convert_to_numpy(self.mass.to_real(lenses)), np.float64)

    def slopes(self, u, residual, difference, unit):
        """Of the residuals in u in units of `unit`, by differences, [n, columns, data + columns].

        Args:
          u: [n, columns].
          residual: there, [n, data + columns].
          difference: how far and to which side each coordinate is moved, in units, [n, columns].
          unit: [columns].
        """
        n, columns = u.shape
        moved = u[:, None] + (difference * unit)[:, :, None] * np.eye(columns)
        there = finite_residual(self(moved.reshape(-1, columns))).reshape(n, columns, -1)
        return (there - residual[:, None]) / difference[:, :, None]

    def tangent_slopes(self, u, unit):
        """As `slopes`, at the price of one image of each lens; where nothing is fixed.

        They are those of a source that follows the lens as far as a few steps of SIRT take it, and not of the RIM's.

        Args:
          u: [n, columns].
          unit: [columns].
        """
        lenses = self.lenses(u)
        images = self.view.tangents(lenses).reshape(*u.shape, -1)
        data = self._without_left_over(-(images * unit[:, None]).astype(np.float32) * self._per_noise)
        data = np.where(np.isfinite(data), data, 0.0)  # in a direction of which nothing is known there is no step
        of_lens = np.stack([self.bijection_slopes(each) for each in u]) * unit[:, None]
        return np.concatenate([data, (of_lens / self.prior[1]).astype(np.float32)], axis=-1)

    def bijection_slopes(self, u):
        """d lens / d u at u [columns], [coordinate, parameter]; 0 for what is fixed."""
        moved = u + 1e-3 * np.eye(len(u))
        return (self.lenses(moved) - self.lenses(u[None])) / 1e-3

    def data_residuals(self, lenses):
        """Those of the data alone as a function of tensors of float32, all lenses in one call, [n, data]."""
        images = ops.reshape(self.view.tensor(lenses), (-1, self._data.size))
        return self._without_left_over((self._data - images) * self._per_noise)

    def carried(self, slopes, other):
        """Slopes [..., data + columns] of another `Misfit` of the same sky, about as they are of this one."""
        known = other._per_noise > 0
        ratio = np.where(known, self._per_noise / np.where(known, other._per_noise, 1), 0)
        n = self.mass.size
        return np.concatenate([self._without_left_over(slopes[..., :-n] * ratio), slopes[..., -n:]], axis=-1)

    def _without_left_over(self, residuals):
        if self._left_over is None:
            return residuals
        multiply = tf.matmul if tf.is_tensor(residuals) else matmul
        return residuals - multiply(multiply(residuals, self._left_over), self._left_over.T)

    def chi2_per_pixel(self, residuals):
        """Without the prior, [n]."""
        return (residuals[:, : -self.mass.size] ** 2).sum(1) / max(self.n_used, 1)


def _directions(columns):
    """Orthonormal directions that span columns [k, data], [data, at most k]."""
    length = np.sqrt((columns.astype(np.float64) ** 2).sum(1, keepdims=True))
    unit = (columns / np.maximum(length, 1e-30)).T
    # From the small matrix of their products: decomposing the columns themselves takes far longer.
    square, right = np.linalg.eigh(matmul(unit.T, unit))
    kept = square > 1e-8 * square.max(initial=1e-60)
    return matmul(unit, right[:, kept] / np.sqrt(square[kept]))


def matmul(a, b):
    """By TensorFlow: NumPy's threads wait for each other by spinning, which takes long on cores that do other work."""
    return tf.matmul(a, b).numpy()


def finite_residual(residual):
    """A lens whose residuals are no numbers is a very bad one."""
    return np.where(np.isfinite(residual), residual, 1e6).astype(np.float32)


def unit_steps(mass, theta_E):
    """What a careful first step in each coordinate of a `MassModel` is, [columns]; theta_E is the unit of lengths."""
    return np.array([c.step * (theta_E if c.of_theta_E else 1) for c, indices in mass.columns for _ in indices])
