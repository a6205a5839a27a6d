"""Errors of sources: draws from what the true source may be, given the data, with one lens or with many.

Each draw is a whole source, so that whatever is asked of a source has an error: the figure of each draw, and how far
these are apart. Of the RIM the draws are those of the network `rim_tf.models.source_errors`, trained beside it; of
linear inversion they are of its exact posterior. `docs/ERRORS.md` says how often the truth was where they say.
"""

import dataclasses

import numpy as np
from keras import ops

from rim_tf.config import RIMSettings
from rim_tf.errors import InputError
from rim_tf.inference.figure_calibration import COUNTED, FIGURES
from rim_tf.models.pretrained import fingerprint, load_pretrained, rim_of_errors
from rim_tf.models.source_errors import SourceDistribution, views
from rim_tf.physics.imaging import imaging_problem
from rim_tf.results import SourceErrors, source_figures
from rim_tf.systems import batch_of, batches


def source_errors(
    fits,
    samples=RIMSettings.samples,
    seed=RIMSettings.seed,
    rim=RIMSettings.weights,
    errors=RIMSettings.errors_weights,
    counted=True,
):
    """Reconstructions with the errors of their sources.

    Args:
      fits: `rim_tf.results.Reconstruction`, or a list of them.
      samples: draws for each, at least 2 for a standard deviation.
      seed: of the draws; others for each of the list.
      rim: the RIM that they are by, a `RIM` or the name of its weights.
      errors: the network that knows its errors, a `SourceErrors` of `rim_tf.models.source_errors`, or its name.
      counted: spread the figures as mocks show that they must be (`rim_tf.inference.figure_calibration`), where the
        network is the one whose draws these mocks had; False leaves them as the draws have them.

    Returns:
      The same `Reconstruction`s with `errors` and `standard_deviation`, a list where `fits` is one.

    Raises:
      InputError: errors that are of another RIM or another number of its steps, or a source with fewer pixels on a side
        than the network can see.
    """
    if not isinstance(fits, (list, tuple)):
        return source_errors([fits], samples, seed, rim, errors, counted)[0]
    if samples < 1:
        raise InputError(f"samples is {samples}; errors are made of at least 1, and of some 100 to be of use.")
    network = load_pretrained(errors, "source-errors") if isinstance(errors, str) else errors
    rim = load_pretrained(rim) if isinstance(rim, str) else rim
    rim_of_errors(network.config, rim)
    others = {len(fit.iterates) for fit in fits} - {rim.config.n_steps}
    if others:
        raise InputError(
            f"The network took {others.pop()} steps, and its errors were counted with {rim.config.n_steps}, as it was "
            "trained for; reconstruct the source of this lens anew without naming steps."
        )
    counted = counted and fingerprint(network) == COUNTED
    results = [None] * len(fits)
    observations, lenses = [fit.observation for fit in fits], [fit.lens for fit in fits]
    grids = [(fit.source.shape[0], fit.source_pixel_scale) for fit in fits]
    for members in batches(observations, lenses, grids):
        for i, found in zip(
            members, _of_batch([fits[i] for i in members], samples, seed, members, network, counted), strict=True
        ):
            deviation = None if samples < 2 else found.samples.std(axis=0)
            results[i] = dataclasses.replace(fits[i], errors=found, standard_deviation=deviation)
    return results


def draw_sources(observation, lenses, solver, n=1, seed=0, source_pixel_scale=None, source_pixels=None):
    """Sources of one observation over many lenses, as draws from the posterior of its lens are.

    Args:
      observation: `Observation`.
      lenses: list of lenses.
      solver: one of the built `rim_tf.inference.methods`, `Method.build(settings)`.
      n: draws for each lens.
      seed: of the draws; other ones for each lens.
      source_pixel_scale: as of the solver.
      source_pixels: likewise.

    Returns:
      `rim_tf.results.SourceErrors` of all draws, those of one lens after another; by the RIM, with figures that are
      counted as in `source_errors`.
    """
    fits = solver.with_errors([observation] * len(lenses), lenses, n, seed, source_pixel_scale, source_pixels)
    return SourceErrors.together([fit.errors for fit in fits])


def _of_batch(fits, samples, seed, numbers, network, counted):
    """`SourceErrors` of each of some fits that can share a call."""
    observations, lenses = [fit.observation for fit in fits], [fit.lens for fit in fits]
    units = [each.unit for each in observations]
    inputs = batch_of(observations, lenses, [fit.source_pixel_scale for fit in fits])
    n = fits[0].source.shape[0]
    problem = imaging_problem(inputs, (n, n), lenses[0].mass)
    iterates = np.stack([fit.iterates[-2:] / unit for fit, unit in zip(fits, units, strict=True)]).astype("float32")
    head = network(_padded(views(problem, ops.convert_to_tensor(iterates)), 2**network.config.levels))
    seen = ops.convert_to_numpy(problem.operator.adjoint(ops.ones_like(problem.data)))
    found = []
    for i, (fit, number) in enumerate(zip(fits, numbers, strict=True)):
        distribution = SourceDistribution(head[i : i + 1], network.config.levels)
        drawn = ops.convert_to_numpy(distribution.sample(samples, _seed_of(seed, number)))[0, :, :n, :n]
        drawn = fit.observation.in_data_units(drawn)
        area = seen[i].astype(float) * fit.observation.pixel_scale**2
        figures = source_figures(drawn, fit.source_pixel_scale, area)
        if counted:
            own = source_figures(fit.source[None], fit.source_pixel_scale, area)
            rng = np.random.default_rng([seed, number])
            figures = {name: FIGURES[name].applied(each, own[name][0], rng) for name, each in figures.items()}
        found.append(SourceErrors(samples=drawn, figures=figures))
    return found


def _seed_of(seed, number):
    """Below 2^30, another one for each system of a list."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 2)


def _padded(seen, multiple):
    """The views of a batch with sides that are multiples of `multiple`, by its mirror image beyond the edge."""
    n = seen["estimate"].shape[1]
    if n < multiple:
        raise InputError(
            f"The source has {n} pixels on a side; its errors are known from {multiple} on. Give more source_pixels."
        )
    beyond = [[0, 0], [0, -n % multiple], [0, -n % multiple]]
    return seen | {
        "seen": ops.pad(seen["seen"], [*beyond, [0, 0]], mode="symmetric"),
        "estimate": ops.pad(seen["estimate"], beyond, mode="symmetric"),
    }
