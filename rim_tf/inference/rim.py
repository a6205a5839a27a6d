"""From observations and their lenses to sources, by the RIM: the one call that most users make."""

import functools
import time
import warnings
from collections.abc import Sequence

from keras import ops

from rim_tf.config import RIMSettings
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.source_errors import source_errors
from rim_tf.lens import Lens
from rim_tf.models.pretrained import fingerprint, load_pretrained, rim_of_errors
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_problem
from rim_tf.results import Reconstruction
from rim_tf.systems import batch_of, batches, source_grid


def reconstruct(
    observation: Observation | Sequence[Observation],
    lens: Lens | Sequence[Lens],
    model: RIM | str = RIMSettings.weights,
    source_pixel_scale: float | None = None,
    source_pixels: int | None = None,
    n_steps: int | None = None,
) -> Reconstruction | list[Reconstruction]:
    """The unlensed source of an observation, or of a list of them in as few calls of the network as possible.

    Args:
      observation: `Observation`, or a list of them with any noise maps, PSFs, masks, shapes and pixel scales.
      lens: `LensParameters` or `CompositeLens`, or as long a list of them.
      model: a `RIM`, or the name of shipped weights.
      source_pixel_scale: [arcsec]; by default SOURCE_SCALE_RATIO times the image's, as in training.
      source_pixels: pixels on a side of the source grid; by default as many as the image's longer side. Rounded
        up to a multiple of the network's stride.
      n_steps: of the network; None takes as many as it was trained for. Half as many more lower chi^2 where the noise
        is below 1 % of the peak. Errors of the source (`source_errors`) were counted with the number of its training.

    Returns:
      `Reconstruction`, or a list of them in the order of the observations. What looks wrong with one is an
      InputWarning.

    Raises:
      InputError: what is no observation or lens, lists of different lengths, a source grid that is none, or n_steps
        that is no number of steps.
    """
    if isinstance(observation, Observation):
        return reconstruct([observation], [lens], model, source_pixel_scale, source_pixels, n_steps)[0]
    _check_types("observation", observation, Observation, "an Observation, as rim_tf.io.read_observation reads it")
    if not isinstance(lens, Lens):
        _check_types("lens", lens, Lens, "a LensParameters or CompositeLens, as rim_tf.io.read_lens reads it")
    if n_steps is not None and not (isinstance(n_steps, int) and n_steps >= 1):
        raise InputError(f"n_steps is {n_steps!r}; it must be a whole number of at least 1.")
    if isinstance(lens, Lens) or len(lens) != len(observation):
        n_lenses = 1 if isinstance(lens, Lens) else len(lens)
        raise InputError(f"There are {len(observation)} observations and {n_lenses} lenses; give one lens for each.")
    model = load_pretrained(model) if isinstance(model, str) else model
    grids = [source_grid(each, model.config.stride, source_pixel_scale, source_pixels) for each in observation]
    results = [None] * len(observation)
    for members in batches(observation, lens, grids):
        chosen = [[given[i] for i in members] for given in (observation, lens, grids)]
        for i, result in zip(members, _reconstruct_batch(*chosen, model, n_steps), strict=True):
            results[i] = result
    for result in results:
        for doubt in result.doubts():
            warnings.warn(doubt, InputWarning, stacklevel=2)
    return results


def _check_types(name, given, kind, wanted):
    odd = [each for each in given if not isinstance(each, kind)] if isinstance(given, list | tuple) else [given]
    if odd:
        raise InputError(f"{name} is of the type {type(odd[0]).__name__}; it must be {wanted}, or a list of them.")


def _reconstruct_batch(observations, lenses, grids, model, n_steps):
    started = time.perf_counter()
    pixels = grids[0][0]
    inputs = batch_of(observations, lenses, [scale for _, scale in grids])
    problem = imaging_problem(inputs, (pixels, pixels), lenses[0].mass)
    iterates = model.solve(problem, n_steps)
    model_images = problem.model_image(iterates[:, -1])
    figures = [problem.chi2_per_pixel(model_images), problem.flux_outside()]
    iterates, model_images, chi2, flux_outside = map(ops.convert_to_numpy, (iterates, model_images, *figures))
    seconds = (time.perf_counter() - started) / len(observations)
    return [
        Reconstruction(
            source=observations[i].in_data_units(iterates[i, -1]),
            source_pixel_scale=grids[i][1],
            model_image=observations[i].in_data_units(model_images[i]),
            iterates=observations[i].in_data_units(iterates[i]),
            observation=observations[i],
            lens=lenses[i],
            chi2_per_pixel=float(chi2[i]),
            flux_outside=float(flux_outside[i]),
            seconds=seconds,
        )
        for i in range(len(observations))
    ]


class RIMSolver:
    """The RIM as one of the `rim_tf.inference.methods`.

    Args:
      settings: `RIMSettings`.
      model: a `RIM` in place of the weights that the settings name.

    Attributes:
      settings: as given.
      model: the `RIM`.
      fingerprint: SHA-256 of the network's settings and weights, which a file's name may not tell apart, and how many
        steps it takes where that is another number than it was trained for.
    """

    def __init__(self, settings, model=None):
        self.settings = settings
        self.model = load_pretrained(settings.weights) if model is None else model

    @functools.cached_property
    def fingerprint(self):
        steps = None if self.settings is None else self.settings.steps
        return fingerprint(self.model) if steps is None else f"{fingerprint(self.model)}, {steps} steps"

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        grid = source_pixel_scale, source_pixels
        if self.settings.errors:
            return self.with_errors(observations, lenses, self.settings.samples, self.settings.seed, *grid)
        return reconstruct(observations, lenses, self.model, *grid, self.settings.steps)

    def with_errors(self, observations, lenses, samples, seed=0, source_pixel_scale=None, source_pixels=None):
        """As `rim_tf.inference.methods.Solver` says."""
        self.settings.check_steps()
        errors = load_pretrained(self.settings.errors_weights, "source-errors")
        rim_of_errors(errors.config, self.model)
        fits = reconstruct(observations, lenses, self.model, source_pixel_scale, source_pixels)
        return source_errors(fits, samples, seed, self.model, errors)
