"""The lens from its own data: its parameters optimised with the source reconstructed by the RIM at every
step.

Section 3 of the paper (Figure 8, Algorithm 1): a traditional fit of the lens, but for the linear inversion of
the source, which the RIM replaces. The RIM is differentiable, so the gradient of chi^2 in the lens goes
through it.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.config import RIMSettings
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import Lens, lens_of
from rim_tf.models.pretrained import load_pretrained
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_problem
from rim_tf.results import Reconstruction
from rim_tf.systems import batch_of, source_grid

# Of the starts at several position angles.
_LEAST_ELLIPTICITY = 0.05
# The starts are told apart by a RIM cut short to this many of its steps, with this many steps of the lens.
_TRIAL_RIM_STEPS, _TRIAL_STEPS, _SURVIVORS = 4, 10, 2
# Steps that have not improved the log-posterior by _GAIN, far below one standard deviation, before all steps
# are halved; after so many halvings it stops.
_PATIENCE, _GAIN, _HALVINGS = 5, 0.2, 5


@dataclasses.dataclass(frozen=True)
class LensPrior:
    """Widths of a mild Gaussian prior, added to chi^2, without which a few poor arcs may be "explained" by
    any lens.

    Galaxies that lens have |e| around 0.1 and |gamma| around 0.05 (Bolton et al. 2008), so these let the data
    speak.
    """

    ellipticity: float = 0.2
    """Standard deviation of e1 and of e2."""
    shear: float = 0.07
    """Of gamma1 and of gamma2."""
    offset: float = 0.1
    """Of x_lens and y_lens about the start [theta_E]."""
    slope: float = 0.2
    """Of the slope of a power law about 2, as galaxies that lens have it (Auger et al. 2010)."""


@dataclasses.dataclass(frozen=True)
class LensFit:
    """The best lens that an optimisation met, and how it got there.

    Attributes:
      lens: of the same mass model as the start.
      history: a dictionary for each step: "stage" ("starts" or "refine"), "chi2_per_pixel" of the best member of the
        batch, and "lens", its parameters as a tuple.
      reconstruction: `Reconstruction` with `lens`.
    """

    lens: Lens
    history: list
    reconstruction: Reconstruction


def cropped(observation: Observation, half_width: float) -> Observation:
    """The middle of an `Observation`, at most 2 half_width [arcsec] on a side, with the same coordinates.

    It is cut about the field's centre, which is the origin, so lens parameters stay as they are.
    """
    rows, columns = observation.shape
    cut = [max(0, math.floor(n / 2 - half_width / observation.pixel_scale)) for n in (rows, columns)]
    inside = slice(cut[0], rows - cut[0]), slice(cut[1], columns - cut[1])
    if min(rows - 2 * cut[0], columns - 2 * cut[1]) < 4:
        raise InputError(f"half_width is {half_width:g} arcsec, which leaves no image; try 2.3 theta_E.")
    return dataclasses.replace(
        observation,
        image=observation.image[inside],
        noise=observation.noise[inside],
        mask=observation.mask[inside],
    )


def optimise_lens(
    observation: Observation,
    lens: Lens,
    model: RIM | str = RIMSettings.weights,
    n_steps: int = 100,
    n_angles: int = 8,
    target_chi2: float | None = None,
    prior: LensPrior | None = None,
    source_pixels: int | None = None,
    fixed: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> LensFit:
    """The lens that minimises chi^2(lens; source = RIM(data, lens)) plus a mild prior, from `lens` on.

    With n_angles above 1 the start's ellipticity is turned to that many position angles, without shear, each
    is followed for a few steps with a RIM cut short, and the two best go on. Never worse than `lens` itself.

    Args:
      observation: `Observation` without lens light. Time grows with its area: cut it to some 2.3 theta_E on
        each side of the centre first (`cropped`).
      lens: `LensParameters` or `CompositeLens`, a start: theta_E good to some 10 %, the centre to some hundredths of an
        arcsec.
      model: a `RIM`, or the name of shipped weights.
      n_steps: most steps of the refinement; it stops before when nothing improves.
      n_angles: position angles to start from; 1 keeps that of `lens`, and its shear.
      target_chi2: stop when chi^2 per unmasked pixel is down to this. It is 1 where the noise map is honest,
        but a drizzled image's map is not, and a good lens may yet get better: by default only lack of
        progress stops.
      prior: `LensPrior`; None takes its defaults.
      source_pixels: as in `rim_tf.reconstruct`.
      fixed: names of parameters, of `lens.mass.names`, that keep their values.
      progress: is called with the number of steps done and the most there can be.

    Returns:
      `LensFit`.

    Raises:
      InputError: n_steps or n_angles below 1, or `fixed` names what is no parameter of the lens, or all of them.
    """
    if n_steps < 1 or n_angles < 1:
        raise InputError(f"n_steps is {n_steps} and n_angles {n_angles}; each must be at least 1.")
    names = lens.mass.names
    unknown = [name for name in fixed if name not in names]
    if unknown or set(fixed) == set(names):
        fault = f"{unknown[0]!r} is no parameter of it" if unknown else "nothing is left to fit"
        raise InputError(
            f"The lens cannot be fitted with {', '.join(fixed)} fixed: {fault}; it has {', '.join(names)}."
        )
    n_trial = _TRIAL_STEPS if n_angles > 1 else 0

    def told(done):
        if progress is not None:
            progress(done, n_trial + n_steps)

    model = load_pretrained(model) if isinstance(model, str) else model
    objective = _Objective(observation, lens, prior or LensPrior(), source_pixels)
    history = []
    starts = np.asarray([lens.as_tuple()], np.float32)
    if n_angles > 1:
        starts = _turned(lens, n_angles, fixed)
        trial = _Descent(objective, _shortened(model, _TRIAL_RIM_STEPS), starts, fixed)
        trial.run(history, "starts", _TRIAL_STEPS, told=told)
        starts = trial.best_lens[np.argsort(trial.best)[:_SURVIVORS]]
    descent = _Descent(objective, model, starts, fixed)
    descent.run(history, "refine", n_steps, target_chi2, told)
    found = descent.best_lens[np.argmin(descent.best)]
    # What is fixed went to the real line and back in float32.
    kept = [old if name in fixed else new for name, old, new in zip(names, lens.as_tuple(), found, strict=True)]
    found = lens_of(lens.mass, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # of a lens that was only tried
        results = [reconstruct(observation, each, model, source_pixels=source_pixels) for each in (lens, found)]
    best = min(results, key=objective.of_reconstruction)
    return LensFit(lens=best.lens, history=history, reconstruction=best)


def _turned(lens, n_angles, fixed=()):
    """The lens at n_angles position angles, the first its own, without shear, [n_angles, columns].

    All components turn together, but for what is fixed. A round one is made elliptical, or they would all be the same
    start.
    """
    starts = np.tile(np.asarray(lens.as_tuple(), np.float32), (n_angles, 1))
    turns = 2 * np.pi * np.arange(n_angles) / n_angles
    for column, indices in lens.mass.columns:
        if any(lens.mass.names[i] in fixed for i in indices):
            continue
        if column.names == ("e1", "e2"):
            e1, e2 = (starts[0, i] for i in indices)
            modulus, two_phi = max(math.hypot(e1, e2), _LEAST_ELLIPTICITY), math.atan2(e2, e1) + turns
            starts[:, indices[0]], starts[:, indices[1]] = modulus * np.cos(two_phi), modulus * np.sin(two_phi)
        elif column.names == ("gamma1", "gamma2"):
            starts[:, indices] = 0.0
    return starts


def _shortened(model, n_steps):
    """The same network, unrolled for at most n_steps steps."""
    short = RIM(dataclasses.replace(model.config, n_steps=min(n_steps, model.config.n_steps)))
    short.set_weights(model.get_weights())
    return short


class _Objective:
    """Minus the log-posterior of the lens, up to a constant, for a batch of lenses of one observation."""

    def __init__(self, observation, start, prior, source_pixels):
        self.observation, self.start, self.prior = observation, start, prior
        self.source_pixels = source_pixels
        self.n_used = int(observation.mask.sum())

    def inputs(self, model, batch):
        """What `RIM.call` takes, for `batch` lenses, without the lens; and the shape of the source grid."""
        pixels, scale = source_grid(self.observation, model.config.stride, None, self.source_pixels)
        inputs = batch_of([self.observation] * batch, [self.start] * batch, [scale] * batch)
        inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items() if name != "lens"}
        return inputs, (pixels, pixels)

    def penalty(self, lens):
        """Minus the log of the prior, [batch], as a density in the lens and not in its unbounded coordinates."""
        prior, start = self.prior, self.start.as_tuple()
        offset = prior.offset * self.start.theta_E
        # Name of a column -> width of its prior, and whether it is about the start.
        widths = {"e1": prior.ellipticity, "e2": prior.ellipticity, "gamma1": prior.shear, "gamma2": prior.shear}
        about_start = {"x_lens": offset, "y_lens": offset}
        total = 0.0
        for column, indices in self.start.mass.columns:
            for name, i in zip(column.names, indices, strict=True):
                if name in widths:
                    total = total + (lens[:, i] / widths[name]) ** 2
                elif name in about_start:
                    total = total + ((lens[:, i] - start[i]) / about_start[name]) ** 2
                elif name == "slope":
                    total = total + ((lens[:, i] - 2) / prior.slope) ** 2
        return 0.5 * total

    def of_reconstruction(self, reconstruction):
        """The same for a `Reconstruction`, with its misfit."""
        lens = np.asarray([reconstruction.lens.as_tuple()])
        return 0.5 * reconstruction.chi2_per_pixel * self.n_used + float(self.penalty(lens)[0])


class _Descent:
    """Adam on a batch of lenses at once, each on its own objective; steps that overshoot are halved."""

    def __init__(self, objective, model, starts, fixed=()):
        self.objective = objective
        batch = len(starts)
        inputs, source_shape = objective.inputs(model, batch)
        mass, theta_E = objective.start.mass, objective.start.theta_E
        origin = mass.to_real(ops.convert_to_tensor(starts))
        # A first step is what a human would try; Adam's are of this size whatever the size of the gradient.
        steps = [c.step * (theta_E if c.of_theta_E else 1) for c, indices in mass.columns for _ in indices]
        is_fixed = tf.constant([[name in fixed for name in mass.names]])
        held = tf.constant(starts)
        unit = tf.constant(steps, tf.float32)
        position = keras.Variable(np.zeros_like(starts), name="position")  # in steps from the origin
        optimiser = keras.optimizers.Adam(1.0, beta_1=0.8, beta_2=0.95)  # tens of steps, not thousands
        optimiser.build([position])

        @tf.function
        def step(inputs):
            with tf.GradientTape() as tape:
                # Held by its value and not in its unbounded coordinate, which two parameters may share.
                lens = tf.where(is_fixed, held, mass.from_real(origin + unit * position))
                problem = imaging_problem(inputs | {"lens": lens}, source_shape, mass)
                misfit = problem.chi2(problem.model_image(model.solve(problem)[:, -1]))
                value = 0.5 * misfit + objective.penalty(lens)
            gradient = tape.gradient(value, position.value)
            optimiser.apply([gradient], [position])
            return lens, misfit, value

        self.step = lambda: [each.numpy() for each in step(inputs)]
        self.position, self.optimiser = position, optimiser
        self.best, self.best_lens = np.full(batch, np.inf), np.asarray(starts)
        self.best_position = np.zeros_like(starts)

    def run(self, history, stage, n_steps, target_chi2=None, told=None):
        """At most n_steps steps; each adds its dictionary to `history`, and `told` is called with its length."""
        goal, since, halvings = np.inf, 0, 0
        for _ in range(n_steps):
            if told is not None:
                told(len(history))
            position = self.position.numpy()
            lens, misfit, value = self.step()
            value = np.where(np.isfinite(value), value, np.inf)
            better = value < self.best
            self.best = np.where(better, value, self.best)
            self.best_lens = np.where(better[:, None], lens, self.best_lens)
            self.best_position = np.where(better[:, None], position, self.best_position)
            k = int(np.argmin(value))
            per_pixel = float(misfit[k]) / self.objective.n_used
            history.append({"stage": stage, "chi2_per_pixel": per_pixel, "lens": tuple(map(float, lens[k]))})
            if target_chi2 is not None and per_pixel <= target_chi2:
                break
            if self.best.min() < goal - _GAIN:
                goal, since = self.best.min(), 0
                continue
            since += 1
            if since == _PATIENCE:
                # The better the data, the narrower the valley: go back to the best and take half the step.
                if halvings == _HALVINGS:
                    break
                halvings, since = halvings + 1, 0
                self.optimiser.learning_rate = 0.5**halvings
                self.position.assign(self.best_position)
