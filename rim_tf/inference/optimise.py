"""The lens from its own data: its parameters fitted with the source reconstructed by the RIM at every step.

Section 3 of the paper (Figure 8, Algorithm 1): a traditional fit of the lens, but for the linear inversion of the
source, which the RIM replaces. The residuals of a lens with its best source are a function of the lens alone (variable
projection, Golub & Pereyra 1973), and a sum of their squares is minimised (`rim_tf.inference.descent`). Their slopes,
by differences, are one batch of the RIM, and cost more than all else. Many starts are followed at once: first on a
coarse frame with the noise raised to a share of the peak, where the valleys are wide and a step costs little, the best
ones then on finer frames with the noise as it is. Before the last of these, and where that is asked for, slopes are
those of a source that is held, less what a change of it could do as well, at the price of one image, unless a parameter
is fixed.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops
from scipy import ndimage

from rim_tf.config import RIMSettings
from rim_tf.errors import InputError, InputWarning
from rim_tf.inference.descent import Descent
from rim_tf.inference.misfit import LensPrior, Misfit, View, unit_steps
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import Lens, lens_of
from rim_tf.models.pretrained import load_pretrained
from rim_tf.models.rim import RIM
from rim_tf.observation import Observation
from rim_tf.physics.resampling import resample
from rim_tf.results import Reconstruction

# Of the starts at several position angles.
_LEAST_ELLIPTICITY = 0.05
# Pixels on a side of the coarse frame, and of the finer one that the best starts see before the whole.
_COARSE, _MIDDLE = 36, 72
# On the coarse frame: noise over the image's peak at the least, and steps of the RIM.
_NOISE_FLOOR, _COARSE_RIM_STEPS = 0.02, 4
# Steps of all starts on the coarse frame, then of the best ones; and how many go on after each.
_COARSE_STEPS, _KEPT = (1, 3, 6), (8, 4, 2)
# A start has arrived when a step lowers its chi^2 by less than this, on coarse frames and at last.
_COARSE_GAIN, _GAIN = 2.0, 0.5
# Lenses of another size than an estimator says: from how many standard deviations on they are doubted, which are this
# share of theta_E at the least, and how much.
_EXPECTED, _LEAST_UNCERTAINTY, _DOUBT = 3.0, 0.05, 0.05


@dataclasses.dataclass(frozen=True)
class LensFit:
    """The best lens that an optimisation met, and how it got there.

    Attributes:
      lens: of the same mass model as the start.
      history: a dictionary for where each stage begins and for each of its steps: "stage" ("coarse", "middle" or
        "fine"), "chi2_per_pixel" of the best start, on the frame of that stage, and "lens", its parameters as a tuple.
      reconstruction: `Reconstruction` with `lens`.
      covariance: of the parameters, as the curvature at the best has it, [columns, columns]; 0 for what was fixed. At
        high signal to noise it is too small, by a factor of 1.6 in the errors in one trial.
      ends: {"chi2_per_pixel": [...], "lens": [...], "n_pixels": n} of each start that was followed to the end, the best
        first, over n pixels: whether they agree tells whether the best is the only one.
    """

    lens: Lens
    history: list
    reconstruction: Reconstruction
    covariance: np.ndarray
    ends: dict


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


def source_pixels_of(arcs: Observation, width: float) -> int:
    """On a side, of a source grid `width` times as wide as by default.

    Behind what was `cropped` to arcs the default ends at 0.9 theta_E, and cuts off what lies beyond.
    """
    return math.ceil(width * max(arcs.shape))


def middle(images, shape):
    """What `cropped` leaves of images [..., rows, columns] of the whole frame: their middle of that shape."""
    cut = [(n - k) // 2 for n, k in zip(images.shape[-2:], shape, strict=True)]
    return images[(..., *(slice(c, c + k) for c, k in zip(cut, shape, strict=True)))]


def placed(image, shape):
    """The middle of a frame, as `cropped` cuts it, in the whole frame [rows, columns], 0 around it."""
    return np.pad(image, [((n - k) // 2, (n - k) // 2) for n, k in zip(shape, image.shape, strict=True)])


def coarsened(observation: Observation, factor: int) -> Observation:
    """An `Observation` on a square of pixels `factor` times as wide, about the same centre.

    A new pixel is the weighted mean of the old ones that are used, and masked where less than half of it is; its noise
    is that of independent pixels.

    Args:
      observation: `Observation`.
      factor: a whole number; 1 leaves everything as it is.
    """
    if factor == 1:
        return observation
    image, weight, share = (
        each[0] for each in _binned(observation.image[None] / observation.unit, observation, factor)
    )
    mask = share >= 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # what looks odd was said of the observation itself
        return dataclasses.replace(
            observation,
            image=observation.unit * image,
            noise=observation.unit / np.sqrt(np.where(mask, weight, 1.0)),
            mask=mask,
            psf=_coarsened_psf(observation, factor),
            pixel_scale=factor * observation.pixel_scale,
            sky=None,
        )


def seen_coarsely(images, observation, factor):
    """Images [k, rows, columns] as `coarsened` shows that of an observation."""
    if factor == 1:
        return images
    return _binned(images, observation, factor)[0].astype(np.float32)


def _binned(images, observation, factor):
    """Images [k, rows, columns] on the coarse grid, with the weight in units and the share of each pixel."""
    noise = observation.noise.astype(np.float64) / observation.unit
    weight = np.where(observation.mask, 1 / noise**2, 0.0)
    given = images.astype(np.float64), np.repeat(weight[None], len(images), 0)
    side, step = max(observation.shape) // factor, np.full(len(images), float(factor))
    return [ops.convert_to_numpy(each) for each in resample(*given, side, step)]


def _coarsened_psf(observation, factor):
    """The PSF and the mean over a wide pixel, in wide pixels."""
    if isinstance(observation.psf, float):
        return math.sqrt(observation.psf**2 + (factor**2 - 1) / 12 * observation.pixel_scale**2)
    # An even number of old pixels has its middle between two, so that the outermost of one more count by half.
    box = np.ones(factor) if factor % 2 else np.r_[0.5, np.ones(factor - 1), 0.5]
    psf = np.pad(observation.psf.astype(np.float64), factor)
    for axis in (0, 1):
        psf = ndimage.convolve1d(psf, box / factor, axis=axis, mode="constant")
    psf = psf[tuple(slice(n // 2 % factor, None, factor) for n in psf.shape)]
    return psf / psf.sum()


def optimise_lens(
    observation: Observation,
    lens: Lens | Sequence[Lens],
    model: RIM | str = RIMSettings.weights,
    n_steps: int = 10,
    n_angles: int = 8,
    target_chi2: float | None = None,
    prior: LensPrior | None = None,
    source_pixels: int | None = None,
    fixed: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    left_over: np.ndarray | None = None,
    n_rim_steps: int | None = None,
) -> LensFit:
    """The lens that minimises chi^2(lens; source = RIM(data, lens)) plus a mild prior, from `lens` on.

    With n_angles above 1 the start's ellipticity is turned to that many position angles, without shear. Several starts
    are followed on a coarse frame, and the two best go on. Never worse than `lens` itself.

    Args:
      observation: `Observation` without lens light. Time grows with its area: cut it to some 2.3 theta_E on
        each side of the centre first (`cropped`).
      lens: `LensParameters` or `CompositeLens`, a start: theta_E good to some 10 %, the centre to some hundredths of an
        arcsec. Or a list of starts of one mass model, the most probable first, which are all taken as they are.
      model: a `RIM`, or the name of shipped weights.
      n_steps: most steps on the finest frame; it stops before when nothing improves.
      n_angles: position angles to start from; 1 keeps that of `lens`, and its shear.
      target_chi2: stop when chi^2 per unmasked pixel is down to this. It is 1 where the noise map is honest,
        but a drizzled image's map is not, and a good lens may yet get better: by default only lack of
        progress stops.
      prior: `LensPrior`; None takes its defaults.
      source_pixels: as in `rim_tf.reconstruct`.
      fixed: names of parameters, of the mass model's names, that keep their values.
      progress: is called with the number of steps done and the most there can be.
      left_over: images of what may be left in the data besides the source, such as the lens galaxy's light, in any
        amount, [k, rows, columns]: a lens is judged by the residuals without them.
      n_rim_steps: of the RIM; None takes as many as it was trained for.

    Returns:
      `LensFit`.

    Raises:
      InputError: n_steps or n_angles below 1, no start or starts of several mass models, or `fixed` names what is no
        parameter of the lens, or all of them.
    """
    if n_steps < 1 or n_angles < 1:
        raise InputError(f"n_steps is {n_steps} and n_angles {n_angles}; each must be at least 1.")
    first, starts = _starts(lens, n_angles, fixed)
    model = load_pretrained(model) if isinstance(model, str) else model
    given = prior or LensPrior(), source_pixels, left_over, n_rim_steps
    problem = _Fit(observation, model, first, fixed, *given)
    told = _Told(progress, (sum(_COARSE_STEPS) if len(starts) > 1 else 0) + n_steps * len(problem.frames()))
    history = []
    if len(starts) > 1:
        starts = problem.explored(starts, history, told)
    descent = problem.refined(starts, n_steps, target_chi2, history, told)
    descent.add(first)
    return problem.sought(descent, history).fit()


def explore(
    observation: Observation,
    starts: Sequence[Lens],
    model: RIM,
    left_over: np.ndarray | None = None,
    expected: tuple[float, float] | None = None,
    source_pixels: int | None = None,
    prior: LensPrior | None = None,
) -> tuple[list[Lens], list]:
    """The first part of `optimise_lens`: all starts on a coarse frame, on which the noise is raised.

    Args:
      observation: as there.
      starts: list of lenses of one mass model, the most probable first.
      model: `RIM`.
      left_over: as there.
      expected: theta_E [arcsec] and its relative uncertainty, as an estimator has them. What is left of the lens galaxy
        is fitted well by a small ring of its own; so lenses of quite another size must fit better by far.
      source_pixels: as there. A frame that was `cropped` has a smaller source grid, which may cut the source.
      prior: as there.

    Returns:
      The best lenses, the best first, no two the same; and the history, as of `LensFit`.
    """
    problem, starts = _fit_of(observation, starts, model, left_over, source_pixels, prior)
    history = []
    found = problem.explored(starts, history, _Told(None, 0), expected)
    return [lens_of(problem.first.mass, each) for each in found], history


def choose(
    observation: Observation,
    lenses: Sequence[Lens],
    model: RIM,
    n: int,
    left_over: np.ndarray | None = None,
    expected: tuple[float, float] | None = None,
    source_pixels: int | None = None,
    prior: LensPrior | None = None,
) -> tuple[list[Lens], list]:
    """The n best of some lenses, by their chi^2 on the frame as it is, without a step; no two are the same.

    Args:
      observation: as of `explore`, and so what is not named here.
      lenses: of one mass model.
      model: as there.
      n: how many at the most.
      left_over: as there.
      expected: as there.
      source_pixels: as there.
      prior: as there.

    Returns:
      As of `explore`.
    """
    problem, starts = _fit_of(observation, lenses, model, left_over, source_pixels, prior)
    descent, history = problem.descent(observation, problem.n_rim_steps, starts, 1, _GAIN), []
    descent.run(0, "network", history, _Told(None, 0))
    descent.keep(n, problem.doubt(descent, expected))
    return [lens_of(problem.first.mass, each) for each in descent.lenses()], history


def refine(
    observation: Observation,
    starts: Sequence[Lens],
    model: RIM,
    left_over: np.ndarray | None,
    n_steps: int,
    progress: Callable[[int, int], None] | None = None,
    before: "Sought | None" = None,
    source_pixels: int | None = None,
    prior: LensPrior | None = None,
    roughly: bool = False,
    n_rim_steps: int | None = None,
) -> "Sought":
    """The last part of `optimise_lens`: few starts on the frame as it is.

    Args:
      observation: as there.
      starts: list of lenses of one mass model, the most probable first.
      model: `RIM`.
      left_over: as there.
      n_steps: as there.
      progress: as there.
      before: what was sought on a frame of the same shape, from near whose end it starts: its slopes still hold.
      source_pixels: as of `explore`.
      prior: as there.
      roughly: by slopes as on coarse frames, which cost little and do not see the ripples that chi^2 has at low noise.
      n_rim_steps: of the RIM; None takes as many as it was trained for.

    Returns:
      `Sought`; its covariance is by differences in any case.
    """
    problem, starts = _fit_of(observation, starts, model, left_over, source_pixels, prior, n_rim_steps)
    history = []
    descent = problem.descent(observation, problem.n_rim_steps, starts, 1, _GAIN, roughly)
    if before is not None:
        descent.take_over(before.descent)
    descent.run(n_steps, "fine", history, _Told(progress, n_steps))
    descent.be_exact()
    return problem.sought(descent, history)


def _fit_of(observation, starts, model, left_over, source_pixels, prior, n_rim_steps=None):
    first, starts = _starts(starts, 1, ())
    return _Fit(observation, model, first, (), prior or LensPrior(), source_pixels, left_over, n_rim_steps), starts


@dataclasses.dataclass(frozen=True)
class Sought:
    """Where a search has ended; what only the last one needs is not worked out yet.

    Attributes:
      lens: the best.
      history: as of `LensFit`.
      ends: as of `LensFit`.
      problem: the `_Fit`.
      descent: the `Descent`.
      best: which of its starts is the best.
    """

    lens: Lens
    history: list
    ends: dict
    problem: "_Fit"
    descent: "Descent"
    best: int

    @property
    def u(self):
        """Where the best is, in the coordinates without bounds, [columns]."""
        return self.descent.u[self.best]

    def curvature(self):
        """Of half the sum of squares there, by Gauss and Newton, in these coordinates, [columns, columns]."""
        return _curvature(self.descent, self.best)

    def covariance(self):
        """As of `LensFit`."""
        return _covariance(self.descent, self.best, self.problem.is_fixed)

    def fit(self):
        """`LensFit`."""
        problem = self.problem
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # whoever asked for the fit judges it
            found = reconstruct(
                problem.observation,
                self.lens,
                problem.model,
                source_pixels=problem.source_pixels,
                n_steps=problem.n_rim_steps,
            )
        return LensFit(self.lens, self.history, found, self.covariance(), self.ends)


def noise_floor(observation, share=_NOISE_FLOOR):
    """A share of the peak, in units of the image; by default the noise that `explore` assumes at the least."""
    return share * max(0.0, float(ndimage.uniform_filter(observation.image * observation.mask, 3).max()))


def with_noise_floor(observation, share=_NOISE_FLOOR):
    """The observation with that noise added in quadrature where pixels are used; its image stays."""
    raised = np.hypot(observation.noise, noise_floor(observation, share))
    return dataclasses.replace(observation, noise=np.where(observation.mask, raised, observation.noise))


class _Fit:
    """One lens to be fitted to one observation.

    Args:
      observation: `Observation`.
      model: `RIM`.
      first: the lens that the prior is about, and that holds the values of what is fixed.
      fixed: names of parameters.
      prior: `LensPrior`.
      source_pixels: as in `source_grid`.
      left_over: as of `optimise_lens`.
      n_rim_steps: as of `refine`.
    """

    def __init__(self, observation, model, first, fixed, prior, source_pixels, left_over, n_rim_steps=None):
        self.observation, self.model, self.first, self.left_over = observation, model, first, left_over
        self.is_fixed = np.array([name in fixed for name in first.mass.names])
        self.prior, self.source_pixels = prior.columns(first), source_pixels
        self.n_rim_steps = model.config.n_steps if n_rim_steps is None else n_rim_steps

    def frames(self):
        """(stage, factor, gain) of each frame that the best starts see, coarser ones first."""
        side = max(self.observation.shape)
        middle = [("middle", math.ceil(side / _MIDDLE), _COARSE_GAIN)] if side > _MIDDLE else []
        return [*middle, ("fine", 1, _GAIN)]

    def explored(self, starts, history, told, expected=None):
        """The best of all starts on a coarse frame, the best first, [n, columns]; `expected` as of `explore`."""
        observation = self.observation
        factor = max(1, round(max(observation.shape) / _COARSE))
        seen = coarsened(with_noise_floor(observation), factor)
        n_rim_steps = min(_COARSE_RIM_STEPS, self.n_rim_steps)
        descent = self.descent(seen, n_rim_steps, starts, factor, _COARSE_GAIN, roughly=True)
        for n, kept in zip(_COARSE_STEPS, _KEPT, strict=True):
            descent.run(n, "coarse", history, told)
            descent.keep(kept, self.doubt(descent, expected))
        return descent.lenses()

    def refined(self, starts, n_steps, target_chi2, history, told):
        """The `Descent` from `starts` on the whole frame, where it has ended."""
        for stage, factor, gain in self.frames():
            seen = coarsened(self.observation, factor)
            descent = self.descent(seen, self.n_rim_steps, starts, factor, gain, roughly=stage != "fine")
            descent.run(n_steps, stage, history, told, target_chi2 if stage == "fine" else None)
            if stage == "middle":
                descent.keep(1)
            starts = descent.lenses()
        return descent

    def descent(self, seen, n_rim_steps, starts, factor, gain, roughly=False):
        """A `Descent` on a frame whose pixels are `factor` times as wide."""
        pixels = None if self.source_pixels is None else max(4, self.source_pixels // factor)
        held = np.asarray(self.first.as_tuple())
        left_over = None if self.left_over is None else seen_coarsely(self.left_over, self.observation, factor)
        view = View(seen, self.model, self.first.mass, n_rim_steps, pixels)
        misfit = Misfit(view, held, self.is_fixed, self.prior, left_over)
        return Descent(misfit, self.first.theta_E, starts, gain, roughly)

    def doubt(self, descent, expected):
        """As `_doubt`, of the lenses of a `Descent`; 1 where nothing is expected."""
        return 1.0 if expected is None else _doubt(descent.lenses()[:, self.first.mass.radius], *expected)

    def sought(self, descent, history):
        first = self.first
        order = np.argsort(descent.value, kind="stable")
        best, found = int(order[0]), descent.lenses()
        ends = order[descent.followed[order]]
        return Sought(
            # A lens that was given and is not bettered goes through no float32.
            lens=lens_of(first.mass, found[best]) if descent.followed[best] else first,
            history=history,
            ends={
                "chi2_per_pixel": descent.misfit.chi2_per_pixel(descent.residual[ends]).tolist(),
                "lens": [tuple(map(float, each)) for each in found[ends]],
                "n_pixels": descent.misfit.n_used,
            },
            problem=self,
            descent=descent,
            best=best,
        )


def _starts(lens, n_angles, fixed):
    """The lens that others are compared with, and all starts [n, columns]."""
    if isinstance(lens, Lens):
        first = lens
        _check_fixed(first, fixed)
        return first, _turned(first, n_angles, fixed) if n_angles > 1 else np.asarray([first.as_tuple()], np.float32)
    lenses = list(lens)
    if not lenses or any(each.mass != lenses[0].mass for each in lenses):
        raise InputError(f"There are {len(lenses)} starts; there must be at least one, and all of one mass model.")
    _check_fixed(lenses[0], fixed)
    return lenses[0], np.asarray([each.as_tuple() for each in lenses], np.float32)


def _check_fixed(lens, fixed):
    names = lens.mass.names
    unknown = [name for name in fixed if name not in names]
    if unknown or set(fixed) == set(names):
        fault = f"{unknown[0]!r} is no parameter of it" if unknown else "nothing is left to fit"
        raise InputError(
            f"The lens cannot be fitted with {', '.join(fixed)} fixed: {fault}; it has {', '.join(names)}."
        )


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


class _Told:
    """Counts the steps for `progress`."""

    def __init__(self, progress, most):
        self.progress, self.most, self.done = progress, most, 0

    def step(self):
        if self.progress is not None:
            self.progress(self.done, self.most)
        self.done += 1


def model_image(
    observation: Observation,
    lens: Lens,
    model: RIM,
    source_pixels: int | None = None,
    n_rim_steps: int | None = None,
) -> np.ndarray:
    """What `reconstruct` gives as `model_image`, [rows, columns], sooner than it would."""
    view = View(observation, model, lens.mass, n_rim_steps, source_pixels)
    return observation.in_data_units(view([lens.as_tuple()])[0])


class Tangent:
    """How the model image of a lens changes about it, the source following as far as a few steps of SIRT take it.

    Args:
      observation: `Observation`.
      lens: any.
      model: `RIM`.
      source_pixels: as in `source_grid`.

    Attributes:
      image: the model image, [rows, columns], in units of the image.
      source: [n, n], likewise.
      source_pixel_scale: [arcsec].
      slopes: by careful steps in each coordinate without bounds, [columns, rows, columns], likewise; 0 in a direction
        of which nothing is known.
    """

    def __init__(self, observation, lens, model, source_pixels):
        view = View(observation, model, lens.mass, model.config.n_steps, source_pixels)
        self._mass, self._unit = lens.mass, unit_steps(lens.mass, lens.theta_E)
        values = np.array([lens.as_tuple()], np.float32)
        self._u = ops.convert_to_numpy(lens.mass.to_real(ops.convert_to_tensor(values)))[0]
        images, sources = view.images_and_sources(values)
        self.image, self.source = (observation.in_data_units(each[0]) for each in (images, sources))
        self.source_pixel_scale = view.source_pixel_scale
        slopes = view.tangents(values, sources)[0] * self._unit[:, None, None]
        self.slopes = observation.in_data_units(np.where(np.isfinite(slopes), slopes, 0.0))

    def lens(self, steps):
        """The lens so many steps away, [columns]."""
        u = (self._u + steps * self._unit).astype(np.float32)[None]
        return lens_of(self._mass, ops.convert_to_numpy(self._mass.from_real(ops.convert_to_tensor(u)))[0])


def _doubt(theta_E, expected, uncertainty):
    """By what chi^2 of lenses is multiplied for their size: 1 within some standard deviations of what is expected."""
    off = np.abs(np.log(theta_E / expected)) / max(uncertainty, _LEAST_UNCERTAINTY)
    return 1 + _DOUBT * np.maximum(off - _EXPECTED, 0) ** 2


def _curvature(descent, i):
    if not descent.near_place([i])[0]:
        descent.work_out(np.array([i]))
    slope = (descent.worked_out[i] / descent.unit[:, None]).astype(np.float64)
    return slope @ slope.T


def _covariance(descent, i, is_fixed):
    """Of the lens's parameters, from the curvature in the coordinates without bounds."""
    columns = descent.misfit.bijection_slopes(descent.u[i])
    covariance = columns.T @ np.linalg.pinv(_curvature(descent, i), hermitian=True) @ columns
    free = ~is_fixed
    return covariance * free[:, None] * free
