"""The light of the lens galaxy, fitted around the arcs and taken off: what is left is the lensed source.

A multi-Gaussian expansion (Emsellem et al. 1994; Cappellari 2002): a sum of concentric elliptical Gaussians
with widths on a logarithmic grid follows any smooth galaxy, and its amplitudes, which must not be negative,
are a linear problem. Only the centre and three ellipticities are left for a non-linear fit.
"""

import dataclasses
import math

import numpy as np
from keras import ops
from scipy import linalg, ndimage, optimize, signal

from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.inference.linear.regularisation import Regularisation
from rim_tf.inference.linear.system import LinearSystem
from rim_tf.inference.misfit import matmul
from rim_tf.inference.optimise import Tangent, placed
from rim_tf.lens import Lens
from rim_tf.observation import Observation
from rim_tf.physics.light import gaussian
from rim_tf.physics.psf import blur_operator

# Each Gaussian is wider than the last by this factor; below 2 their sum has no visible ripples.
_WIDENING = 1.7
# Sets of ellipticities: three, as a bulge with a disc and a halo has. Of 62 real lenses without their galaxies the
# estimator misses theta_E by more than 6 % in 11 where there are two sets, and in 7 where there are three.
_GROUPS = 3
# No galaxy is smooth to better than this share of its light, whatever the noise map says about its centre.
_SMOOTHNESS = 0.02
# Inner and outer radius [theta_E] of the ring that the first fit leaves out.
_ANNULUS = (0.6, 1.5)
# Pixels, not arcsec: clumps are looked for at the scale of a PSF, and left out with their wings.
_SMOOTHING, _WINGS = 1.5, 4
# From the brightest down, each level so many times as high as the next.
_CLUMP, _LOWER = 2.5, 1.5
_N_ROUNDS, _FEW = 4, 5
# Pixels beyond the ring for each component, at the least.
_PIXELS_FOR_EACH = 2
# A component of which less than this share (of its square) falls on pixels that are fitted is none: it could be of any
# height, as in a masked core, or among the arcs where there is no galaxy.
_SEEN = 0.03
# Steps of a fit, at most.
_ROUGH, _FULL = 3, 15
_LARGEST_COMPONENT = 1.0
# Largest e1 and e2 of the light.
_FLATTEST = 0.6
# The centre of a lens [theta_E], as it is looked at beside the ring.
_MIDDLE = 0.3
# A galaxy is there where its light within so many theta_E of the lens outshines the noise so many times.
_CORE, SIGNIFICANT = 0.5, 8.0
CENTRED = 0.02
"""How far from the centre of its light the centre of a real lens is, standard deviation [theta_E]."""
# Brightness of a galaxy over that of the arcs at which nobody could take the one for the other.
_OUTSHINES = 4.0
# Pixels on a side of the changes of a source that follow the light, which is smooth; the strength of their prior, as a
# share of what the data say of a pixel in the mean; and how far a dark pixel may change, over a bright one.
_CHANGES, _CHANGES_PRIOR, _LEAST_CHANGE = 24, 0.1, 0.003
# Share of pixels below what of the arcs may be the galaxy; steps until that stands; and below how much, in units of the
# noise, distances from it count as equal.
_BELOW, _FLOOR_STEPS, _NEAREST = 0.1, 20, 0.05
# A component of which the pixels see a smaller share (of its square) is not seen.
_ROUNDING = 1e-8
# How far a lens may go at once, in careful steps.
_LONGEST_STEP = 5.0
# What stays outside so many theta_E above a level that its peak exceeds so many times is no part of the ring, down to
# where it is one with what is inside so many; each level is so many times as high as the next.
_NEIGHBOUR, _PROMINENT, _RING, _HIGHER = 1.7, 1.5, 1.3, 1.3


@dataclasses.dataclass(frozen=True)
class LensLightFit:
    """An observation before and after its lens galaxy was taken off.

    Attributes:
      observation: the `Observation` without lens light and sky; the rest is as it was.
      model_image: the light that was subtracted, blurred by the PSF, sky included, [rows, columns].
      parameters: what it is made of, ready for JSON: "sky" [units of the image], "centre", x and y [arcsec],
        "ellipticities", e1 and e2 of each group of components, and "components", a list of Gaussians
        amplitude exp(-(q x'^2 + y'^2 / q) / (2 sigma^2)), x' along the major axis, each a dictionary of amplitude
        (before blurring) [units of the image], sigma [arcsec], q (minor over major), phi (major axis, from +x,
        anticlockwise) [rad], and x, y (the centre, the same for all) [arcsec].
      shape: x and y of the centre [arcsec], then e1 and e2 of each group.
      amplitudes: of all components, those that are 0 too, and the sky [units of the image], [components + 1].
      arc_mask: true where a pixel was left out of the fit as an arc or a neighbour, boolean [rows, columns].
      standing_out: by what the image, smoothed, stood above the galaxy then, in units of its noise, [rows, columns].
      left_over: images of what may be left of the galaxy, in any amount: its components, the sky, and what a small
        error of its centre and ellipticities makes, [k, rows, columns].
    """

    observation: Observation
    model_image: np.ndarray
    parameters: dict
    shape: np.ndarray
    amplitudes: np.ndarray
    arc_mask: np.ndarray
    standing_out: np.ndarray
    left_over: np.ndarray

    def significance(self, lens):
        """Light of the galaxy's core, without sky, over the noise there."""
        core = radius_about(lens, self.observation) < max(_CORE * lens.theta_E, 1.5 * self.observation.pixel_scale)
        core &= self.observation.mask
        noise = math.sqrt(float((self.observation.noise[core].astype(np.float64) ** 2).sum()))
        light = float((self.model_image[core] - self.parameters["sky"]).sum())
        return light / noise if noise > 0 else 0.0

    def outshines(self, frame):
        """Whether the galaxy is so bright beside what is left that it can be nothing else."""
        left = float(ndimage.uniform_filter(np.where(frame.mask, frame.image, 0.0), 3).max())
        light = float(self.model_image[frame.mask].max()) - self.parameters["sky"]
        return left > 0 and light > _OUTSHINES * left

    def doubted(self, lens):
        """The observation without lens light, its noise raised by what no smooth model gets right of a steep core."""
        core = radius_about(lens, self.observation) < _CORE * lens.theta_E
        error = np.where(core, _SMOOTHNESS * np.maximum(self.model_image - self.parameters["sky"], 0), 0)
        noise = np.where(self.observation.mask, np.hypot(self.observation.noise, error), self.observation.noise)
        return dataclasses.replace(self.observation, noise=noise)

    def neighbours(self, lens, theta_E=None):
        """What stood out above the galaxy far from the ring: other galaxies, boolean [rows, columns].

        Faint light may link a neighbour to the arcs, so that it is looked at above one level after another.

        Args:
          lens: any; only theta_E and the centre are used.
          theta_E: of the largest ring that there may be [arcsec]; None takes that of the lens.
        """
        radius = radius_about(lens, self.observation) / (lens.theta_E if theta_E is None else theta_E)
        found, standing_out = np.zeros(radius.shape, bool), np.where(self.observation.mask, self.standing_out, 0.0)
        top = float(np.max(standing_out, where=radius > _NEIGHBOUR, initial=_CLUMP))
        for level in _levels(top, _HIGHER):
            labels, n = ndimage.label(_above(level, standing_out))
            each = np.arange(n + 1)
            nearest = ndimage.minimum(radius, labels, each)
            is_one = (nearest > _NEIGHBOUR) & (ndimage.maximum(standing_out, labels, each) > _PROMINENT * level)
            grows = (nearest > _RING) & (ndimage.maximum(found, labels, each) > 0)
            found |= (labels > 0) & (is_one | grows)[labels]
        return ndimage.binary_dilation(found, iterations=_WINGS)


def subtract_lens_light(observation: Observation, lens: Lens) -> LensLightFit:
    """Fit the lens galaxy and the sky with the arcs left out, and subtract them.

    The first fit leaves out a ring around theta_E. What then stands out above the model, wherever it is, are
    the arcs (and neighbours): the next fits leave out just that, the brightest of it first and in the end all, so
    that all other pixels, in the ring's inside too, hold the model. Were all left out at once, what the first model
    lacks of a bright galaxy would be, too. A faint complete ring, of the lens galaxy's own shape, would not stand
    out: look at the result.

    Args:
      observation: `Observation` with the lens galaxy in it.
      lens: any; only theta_E and the centre are used, and need be right to some 10 % of theta_E.

    Returns:
      `LensLightFit`.

    Raises:
      InputError: too few pixels are left for a fit, inside the ring or in all.
    """
    x, y = _coordinates(observation)
    radius = radius_about(lens, observation)
    galaxy = _Galaxy(observation, x, y)
    inside = radius < _ANNULUS[0] * lens.theta_E
    left_out = ~inside & (radius < _ANNULUS[1] * lens.theta_E)
    # The nucleus is never taken for an arc: there it is the PSF that a model misses first. About a masked core it is as
    # many pixels, the innermost that can be used.
    n_nucleus = int((radius < max(0.2 * lens.theta_E, 2 * observation.pixel_scale)).sum())
    nucleus = inside & (radius <= np.sort(radius[observation.mask])[: max(n_nucleus, 1)][-1])
    shape = np.concatenate([[lens.x_lens, lens.y_lens], *([0.05 * (i + 1), 0.0] for i in range(_GROUPS))])
    model = np.maximum(ndimage.gaussian_filter(observation.image.astype(np.float64), 1.0), 0)

    def fitted(most):
        """Shape, amplitudes and model of all but what is left out, and what then stands out."""
        used = observation.mask & ~left_out
        _check_enough(used & ~inside, galaxy.n_components, f"beyond {_ANNULUS[1]:g} theta_E")
        _check_core(used & inside)
        found = galaxy.fit(shape, used, model, most)
        return *found, _standing_out(observation, found[2])

    shape, amplitudes, model, standing_out = fitted(_ROUGH)
    near = observation.mask & ~nucleus & (radius < _NEIGHBOUR * lens.theta_E)
    top = float(np.max(standing_out, where=near, initial=_CLUMP))
    for level in _levels(top / _LOWER, _LOWER):
        left_out = _clumps(standing_out, level) & ~nucleus
        # While it is not settled what is left out, a rough fit will do.
        shape, amplitudes, model, standing_out = fitted(_ROUGH if level > _CLUMP else _FULL)
    # Arcs add light, so that a galaxy brighter than what is seen behind them is none.
    for _ in range(_N_ROUNDS):
        too_bright = left_out & observation.mask & (model > observation.image + 3 * observation.noise)
        if too_bright.sum() < _FEW:
            break
        left_out = left_out & ~too_bright
        shape, amplitudes, model = galaxy.fit(shape, observation.mask & ~left_out, model, _ROUGH)
    return _subtracted(observation, galaxy, shape, amplitudes, left_out & observation.mask, standing_out)


def subtract_beside_source(
    observation: Observation, previous: LensLightFit, arcs: np.ndarray, used: np.ndarray
) -> LensLightFit:
    """The lens galaxy fitted again beside a model of the arcs, which then need not be left out.

    Args:
      observation: `Observation` with the lens galaxy in it.
      previous: its `LensLightFit` so far.
      arcs: model image of the lensed source, 0 where there is none, [rows, columns].
      used: pixels to fit to, boolean [rows, columns].

    Returns:
      `LensLightFit`; its `arc_mask` and `standing_out` are those of `previous`.

    Raises:
      InputError: too few pixels are left for a fit.
    """
    x, y = _coordinates(observation)
    alone = dataclasses.replace(observation, image=observation.image - arcs)
    galaxy = _Galaxy(alone, x, y)
    used = used & observation.mask
    _check_enough(used, galaxy.n_components, "outside of masks")
    start = np.concatenate([previous.shape[:2], np.clip(previous.shape[2:], -0.9 * _FLATTEST, 0.9 * _FLATTEST)])
    shape, amplitudes, _ = galaxy.fit(start, used, previous.model_image)
    return _subtracted(observation, galaxy, shape, amplitudes, previous.arc_mask, previous.standing_out)


def galaxy_below(light: LensLightFit, arcs: np.ndarray, used: np.ndarray) -> np.ndarray:
    """What of the arcs may as well be the galaxy: as much of its light as lies below nearly all of their model image.

    What a smooth galaxy and a lensed source could both be is in the model image as a floor, all round the ring and
    between the arcs. It is found by quantile regression (Koenker & Bassett 1978) in the galaxy's components and a sky,
    none of them negative: about a tenth of the pixels is below it.

    Args:
      light: `LensLightFit`, whose centre and ellipticities are kept.
      arcs: model image of the lensed source, [rows, columns].
      used: pixels that it is known in, boolean [rows, columns].

    Returns:
      [rows, columns], between 0 and `arcs`, 0 where it is not known.
    """
    if not used.any():
        return np.zeros(arcs.shape)
    columns, seen = light.left_over[: len(light.amplitudes)], arcs[used].astype(np.float64)
    # What the used pixels see rounding of, as of the narrow components where the core is masked, tells nothing.
    shown = _is_seen(columns, used, _ROUNDING)
    in_pixels = columns[:, used][shown].T.astype(np.float64)
    scale = np.abs(in_pixels).max(0)
    in_pixels, amplitudes = in_pixels / scale, np.zeros(len(scale))
    nearest = _NEAREST * float(np.median(light.observation.noise[used]))
    for _ in range(_FLOOR_STEPS):
        above = seen - in_pixels @ amplitudes
        # Moduli as squares, each over the last modulus.
        weight = np.where(above > 0, _BELOW, 1 - _BELOW) / np.maximum(np.abs(above), nearest)
        products = _product(in_pixels * weight[:, None], np.concatenate([in_pixels, seen[:, None]], axis=1))
        curvature = products[:, :-1]
        ridge = 1e-8 * curvature.diagonal().max() * np.eye(len(scale))
        amplitudes = _not_negative(curvature + ridge, products[:, -1])
    below = np.tensordot(amplitudes / scale, columns[shown], 1)
    return np.where(used, np.clip(below, 0, np.maximum(arcs, 0)), 0.0)


def with_amplitudes(observation: Observation, previous: LensLightFit, amplitudes: np.ndarray) -> LensLightFit:
    """A `LensLightFit` of the same shape as a previous one.

    Args:
      observation: `Observation` with the lens galaxy in it.
      previous: its `LensLightFit` so far.
      amplitudes: [components + 1].
    """
    galaxy = _Galaxy(observation, *_coordinates(observation))
    return _subtracted(observation, galaxy, previous.shape, amplitudes, previous.arc_mask, previous.standing_out)


def step_with_source(
    frame: Observation,
    light: LensLightFit,
    arcs: Observation,
    seen: Observation,
    left_over: np.ndarray,
    tangent: Tangent,
    lens: Lens,
    slopes: np.ndarray,
    pull: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """What the amplitudes of a lens galaxy should be, and where the lens should go, were the source free to follow.

    What a galaxy and a lensed source could both be goes to whichever has it, and fits in turns leave it there: each
    finds little left to explain. So all are changed at once here: the galaxy in its amplitudes, the lens along its
    slopes, and the source, from what the network made of it, by a smooth share of its brightness, on a coarse grid, as
    a linear inversion that is cheap. Where the source has no light, it gets none and can lose none.

    Args:
      frame: `Observation` without the light.
      light: the `LensLightFit` that was subtracted.
      arcs: the middle of `frame`.
      seen: the same, maybe in wider pixels.
      left_over: what `light` has of that name as `seen` shows it, [k, rows, columns].
      tangent: `rim_tf.inference.optimise.Tangent` of `seen` and the lens.
      lens: that lens.
      slopes: those of the tangent along which the lens may go, [n, rows, columns].
      pull: how likely a source is falls as this power of its light in the arcs; what a galaxy and a source could both
        be goes to the galaxy then. Light that the lens brings or takes is not counted.

    Returns:
      Amplitudes, [components + 1], of which but for the sky none is negative; and how many steps the lens should go
      along each slope, [n].

    Raises:
      InputError: no pixel sees the source grid, or the network gave pixels that are no number.
    """
    if not (np.isfinite(tangent.image).all() and np.isfinite(tangent.source).all()):
        raise InputError("The source came out as no number.")
    n_light, n = len(light.amplitudes), len(light.amplitudes) + len(slopes)
    inside = [*left_over[:n_light], *slopes, seen.image.astype(np.float64) - tangent.image]
    # Around the arcs nothing of lens and source is seen.
    outside = [*light.left_over[:n_light], *np.zeros((len(slopes), *frame.shape)), frame.image]
    around = frame.mask & ~placed(np.ones(arcs.shape, bool), frame.shape)
    weight = np.where(seen.mask, 1 / seen.noise.astype(np.float64), 0.0)
    inside = np.array(inside, np.float64) * weight
    outside = np.array(outside, np.float64)[:, around] / frame.noise[around].astype(np.float64)
    # Each in units of its own, whatever those of the image are; but for what is left to explain.
    size = np.maximum(np.abs(inside).max((1, 2)), np.abs(outside).max(1, initial=0))
    unit = np.where(size[:-1] > 0, size[:-1], 1.0)
    inside[:-1], outside[:-1] = inside[:-1] / unit[:, None, None], outside[:-1] / unit[:, None]
    grid = _CHANGES, _CHANGES
    width = tangent.source_pixel_scale * len(tangent.source)
    system = LinearSystem.from_observation(seen, lens, grid, width / _CHANGES)
    each = np.eye(_CHANGES**2).reshape(-1, *grid) * _coarse_brightness(tangent.source)
    unweighted = system.forward(each)
    changes = unweighted * (weight / weight.max())
    curvature = _products(changes, changes)
    prior = Regularisation("curvature", "zero", grid).matrix
    posterior = linalg.cholesky(curvature + _CHANGES_PRIOR * curvature.trace() / prior.trace() * prior, lower=True)
    # Products of the columns, less the part of them that a change of the source could be.
    followed = _products(changes, inside)
    in_arcs = float(tangent.image[seen.mask].sum())
    if pull and in_arcs > 0:
        followed[:, -1] -= pull * unweighted[:, seen.mask].sum(1) / weight.max() / in_arcs
    followed = linalg.solve_triangular(posterior, followed, lower=True)
    products = _products(inside, inside) + matmul(outside, outside.T)
    moved = np.r_[_is_seen(light.left_over[:n_light], frame.mask), size[n_light:-1] > 0]
    scale = np.sqrt(np.maximum(products.diagonal()[:n], 1e-30))
    products = (products - followed.T @ followed)[:n]
    products[:, :n] = np.where(np.outer(moved, moved), products[:, :n] / np.outer(scale, scale), np.eye(n))
    root = linalg.cholesky(products[:, :n] + 1e-8 * np.eye(n))
    target = linalg.solve_triangular(root, np.where(moved, products[:, n] / scale, 0.0), trans="T")
    scale = scale * unit
    farthest = _LONGEST_STEP * scale[n_light:]
    lowest = np.concatenate([np.minimum(-light.amplitudes[:-1] * scale[: n_light - 1], -1e-12), [-np.inf], -farthest])
    found = optimize.lsq_linear(root, target, (lowest, np.append(np.full(n_light, np.inf), farthest))).x
    found = np.where(moved, found / scale, 0.0)
    amplitudes = light.amplitudes + found[:n_light]
    return np.append(np.maximum(amplitudes[:-1], 0), amplitudes[-1]), found[n_light:]


def _is_seen(columns, used, share=_SEEN):
    """Whether enough of each component's light (of its square) falls on pixels that are used, [n]."""
    return (columns[:, used] ** 2).sum(1) > share * (columns**2).sum((1, 2))


def _not_negative(curvature, gradient):
    """The amplitudes x, none of them negative, of the least x curvature x / 2 - gradient x, [n]."""
    root = linalg.cholesky(curvature)
    return optimize.nnls(root, linalg.solve_triangular(root, gradient, trans="T"))[0]


def _coarse_brightness(source):
    """A source on the grid of its changes, smoothed, over its peak."""
    place = [np.arange(n) * _CHANGES // n for n in source.shape]
    total = np.zeros((_CHANGES, _CHANGES))
    np.add.at(total, np.ix_(*place), np.maximum(source, 0))
    smooth = ndimage.gaussian_filter(total, 1.0)
    return smooth / max(smooth.max(), 1e-30) + _LEAST_CHANGE


def _subtracted(observation, galaxy, shape, amplitudes, arc_mask, standing_out):
    """`LensLightFit` of a `_Galaxy`."""
    model = galaxy.image(shape, amplitudes)
    return LensLightFit(
        observation=dataclasses.replace(observation, image=observation.image - model),
        model_image=model.astype(observation.image.dtype),
        parameters=galaxy.describe(shape, amplitudes),
        shape=shape,
        amplitudes=amplitudes,
        arc_mask=arc_mask,
        standing_out=standing_out,
        left_over=galaxy.left_over(shape, amplitudes),
    )


def core_over_ring(observation: Observation, lens: Lens) -> float:
    """How bright an image is at the centre of a lens, over how bright it is at most in the ring.

    Args:
      observation: `Observation`.
      lens: any; only theta_E and the centre are used.

    Returns:
      The ratio, of means over 3 x 3 pixels; 0 where the centre does not stand out above the noise.
    """
    used, radius = observation.mask, radius_about(lens, observation)
    smooth, noise2 = (
        ndimage.uniform_filter(np.where(used, each, 0.0).astype(np.float64), 3)
        for each in (observation.image, observation.noise**2)
    )
    core = radius < max(_MIDDLE * lens.theta_E, observation.pixel_scale)
    ring = used & (radius > _ANNULUS[0] * lens.theta_E) & (radius < _ANNULUS[1] * lens.theta_E)
    core_light = float(np.max(smooth, where=core & used, initial=0.0))
    if core_light < SIGNIFICANT * math.sqrt(float(np.median(noise2[core])) / 9):
        return 0.0
    ring_light = float(np.max(smooth, where=ring, initial=0.0))
    return core_light / ring_light if ring_light > 0 else math.inf


def radius_about(lens, observation):
    """How far each pixel is from the centre of a lens [arcsec], [rows, columns]."""
    x, y = _coordinates(observation)
    return np.hypot(x - lens.x_lens, y - lens.y_lens)


def _coordinates(observation):
    grid = PixelGrid(*observation.shape, pixel_scale=np.float64(observation.pixel_scale))
    return [ops.convert_to_numpy(each)[0] for each in grid.coordinates()]


def _check_enough(used, n_components, where):
    wanted = _PIXELS_FOR_EACH * n_components
    if used.sum() < wanted:
        raise InputError(
            f"Only {used.sum()} pixels {where} are left to fit the lens light, which needs at least {wanted}; give a "
            "larger image, a smaller mask, or check theta_E."
        )


def _check_core(used):
    if used.sum() < 9:
        raise InputError(
            f"Only {used.sum()} usable pixels lie inside {_ANNULUS[0]:g} theta_E, but the lens light needs at "
            "least 9 there; check theta_E, the lens's position and the mask."
        )


def _standing_out(observation, model):
    """As `LensLightFit` has it."""
    used = observation.mask.astype(np.float64)
    weight = ndimage.gaussian_filter(used, _SMOOTHING)
    residual = ndimage.gaussian_filter(used * (observation.image - model), _SMOOTHING)
    # A Gaussian's square is a narrower Gaussian of this sum: the variance of a weighted mean of white noise.
    narrowing = 1 / (4 * math.pi * _SMOOTHING**2)
    variance = narrowing * ndimage.gaussian_filter(used * observation.noise**2, _SMOOTHING / math.sqrt(2))
    weight = np.maximum(weight, 1e-3)
    noise = np.sqrt(variance / weight**2 + (_SMOOTHNESS * model) ** 2)
    return residual / weight / np.maximum(noise, 1e-30)


def _above(level, standing_out):
    # One pixel above a level happens anywhere; an arc has a size.
    return ndimage.binary_opening(standing_out > level, iterations=1)


def _levels(top, step):
    """From the top down to that of a clump, each `step` times as high as the next, or less."""
    top = max(top, _CLUMP)
    return np.geomspace(top, _CLUMP, math.ceil(math.log(top / _CLUMP) / math.log(step)) + 1)


def _clumps(standing_out, level):
    """Arcs and neighbours above a level, with their wings, boolean [rows, columns]."""
    return ndimage.binary_dilation(_above(level, standing_out), iterations=_WINGS)


class _Galaxy:
    """The model: its grid of widths, its images, and its fit to given pixels."""

    def __init__(self, observation, x, y):
        self.observation, self.x, self.y = observation, x, y
        scale = observation.pixel_scale
        self.psf_sigma = _psf_sigma(observation)
        widest = _LARGEST_COMPONENT * scale * max(observation.shape) / 2
        n = max(4, round(math.log(widest / (0.5 * scale)) / math.log(_WIDENING)) + 1)
        self.sigmas = np.geomspace(0.5 * scale, widest, n)
        self.n_components = n * _GROUPS
        # Wide Gaussians are blurred by adding the PSF's variance, which saves their Fourier transforms.
        self.n_narrow = int((self.sigmas < max(4 * self.psf_sigma, 2 * scale)).sum())
        # (group, width) of each column.
        self.components = sorted(np.ndindex(_GROUPS, n), key=lambda each: each[1] >= self.n_narrow)
        self.psf = np.asarray(observation.psf, np.float64)[None]
        self.blur = None
        if self.psf.ndim == 1:
            grid = PixelGrid(*observation.shape, pixel_scale=np.float64(scale))
            self.blur = blur_operator(ops.convert_to_tensor(self.psf), grid)

    def columns(self, shape):
        """Blurred unit Gaussians, the narrow ones of all groups first, then ones for the sky, [components + 1, rows,
        columns].
        """
        n = _GROUPS * self.n_narrow
        narrow, wide = (np.stack([self._gaussian(shape, *each) for each in part]) for part in self._narrow_first(n))
        return np.concatenate([self._blurred(narrow), wide, np.ones((1, *self.x.shape))])

    def image(self, shape, amplitudes):
        """The model image, [rows, columns]: sooner than from `columns`, since the narrow ones are blurred together."""
        narrow, wide = sum(self._group(shape, amplitudes, group) for group in range(_GROUPS))
        return self._blurred(narrow[None])[0] + wide + amplitudes[-1]

    def changes(self, shape, amplitudes, size=1.0):
        """By how much the model image changes with steps of `size` times `steps`, [parameters, rows, columns].

        All move the centre, and each ellipticity its own group alone.
        """
        here = [self._group(shape, amplitudes, group) for group in range(_GROUPS)]
        changes = []
        for i, step in enumerate(size * self.steps(shape)):
            moved = range(_GROUPS) if i < 2 else [(i - 2) // 2]
            changes.append(sum(self._group(shape + step, amplitudes, group) - here[group] for group in moved))
        narrow, wide = np.moveaxis(np.array(changes), 1, 0)
        return self._blurred(narrow) + wide

    def _group(self, shape, amplitudes, group):
        """The narrow Gaussians of a group, not blurred yet, and the wide ones, [2, rows, columns]."""
        total = np.zeros((2, *self.x.shape))
        for amplitude, (its_group, i) in zip(amplitudes[:-1], self.components, strict=True):
            if its_group == group and amplitude:
                total[int(i >= self.n_narrow)] += amplitude * self._gaussian(shape, group, i)
        return total

    def _narrow_first(self, n):
        return self.components[:n], self.components[n:]

    def _gaussian(self, shape, group, i):
        x, y = self.x - shape[0], self.y - shape[1]
        e1, e2 = shape[2 + 2 * group : 4 + 2 * group]
        return gaussian(x, y, self.sigmas[i], e1, e2, np.exp, 0.0 if i < self.n_narrow else self.psf_sigma)

    def _blurred(self, images):
        if self.blur is None:
            # A stamp's own operator is for graphs: outside of one its many small steps take several times as long.
            return signal.fftconvolve(images, self.psf, mode="same", axes=(1, 2))
        return ops.convert_to_numpy(self.blur.forward(ops.convert_to_tensor(images)))

    def solve(self, shape, used, sigma):
        """Amplitudes (not negative, but for the sky), the model image at the given shape, and the columns of the used
        pixels in units of sigma, [pixels, components + 1].
        """
        columns = self.columns(shape)
        in_noise = (columns[:, used] / sigma).T
        data = self.observation.image[used] / sigma
        # The normal equations keep the solve small: one row for each component, not for each pixel. The sky
        # may have either sign: it enters twice.
        design = np.concatenate([in_noise, -in_noise[:, -1:]], axis=1)
        products = _product(design, np.concatenate([design, data[:, None]], axis=1))
        curvature, gradient = products[:, :-1], products[:, -1]
        seen = _is_seen(columns, used)
        scale = np.where(np.append(seen, seen[-1]), np.sqrt(np.diag(curvature)), np.inf)
        curvature = curvature / np.outer(scale, scale) + 1e-10 * np.eye(len(scale))
        amplitudes = _not_negative(curvature, gradient / scale) / scale
        amplitudes = np.append(amplitudes[:-2], amplitudes[-2] - amplitudes[-1])
        return amplitudes, np.tensordot(amplitudes, columns, 1), in_noise

    def fit(self, shape, used, previous_model, most_steps=_FULL):
        """Best shape (x, y, then e1, e2 of each group), amplitudes and model image."""
        noise = np.hypot(self.observation.noise, _SMOOTHNESS * previous_model)[used]
        image = self.observation.image[used]
        solved = {}

        def residual(shape):
            solved["shape"], solved["as"] = shape.copy(), self.solve(shape, used, noise)
            return (solved["as"][1][used] - image) / noise

        def slope(shape):
            """Variable projection as Kaufman (1975) has it: amplitudes held, and what they would undo taken off."""
            if not np.array_equal(solved["shape"], shape):
                residual(shape)
            amplitudes, _, columns = solved["as"]
            moved = (self.changes(shape, amplitudes)[:, used] / noise).T / self.steps(shape).diagonal()
            free = columns[:, np.append(amplitudes[:-1] > 0, True)]
            free = free / np.linalg.norm(free, axis=0)
            curvature = _product(free, free) + 1e-10 * np.eye(free.shape[1])
            return moved - free @ linalg.solve(curvature, _product(free, moved), assume_a="pos")

        scale = self.observation.pixel_scale
        lowest = np.concatenate([shape[:2] - 5 * scale, np.full(len(shape) - 2, -_FLATTEST)])
        highest = np.concatenate([shape[:2] + 5 * scale, np.full(len(shape) - 2, _FLATTEST)])
        x_scale = np.concatenate([np.full(2, scale), np.full(len(shape) - 2, 0.1)])
        found = optimize.least_squares(
            residual, shape, jac=slope, bounds=(lowest, highest), x_scale=x_scale, ftol=1e-4, max_nfev=most_steps
        )
        amplitudes, model, _ = self.solve(found.x, used, noise)
        return found.x, amplitudes, model

    def left_over(self, shape, amplitudes):
        """As `LensLightFit` has it."""
        columns, errors = self.columns(shape), self.changes(shape, amplitudes, 10.0)
        return np.concatenate([columns, errors]).astype(np.float32)

    def steps(self, shape):
        """Small ones in each of the shape's parameters, [parameters, parameters]."""
        return np.diag([0.01 * self.observation.pixel_scale] * 2 + [1e-3] * (len(shape) - 2))

    def describe(self, shape, amplitudes):
        components = []
        for (group, i), amplitude in zip(self.components, amplitudes[:-1], strict=True):
            e1, e2 = shape[2 + 2 * group : 4 + 2 * group]
            modulus = math.hypot(e1, e2)
            if amplitude > 0:
                components.append(
                    {
                        "amplitude": float(amplitude),
                        "sigma": float(self.sigmas[i]),
                        "q": (1 - modulus) / (1 + modulus),
                        "phi": math.atan2(e2, e1) / 2 % math.pi,
                        "x": float(shape[0]),
                        "y": float(shape[1]),
                    }
                )
        return {
            "sky": float(amplitudes[-1]),
            "centre": shape[:2].tolist(),
            "ellipticities": shape[2:].reshape(-1, 2).tolist(),
            "components": components,
        }


def _products(images, others):
    """Of images [n, rows, columns] with others [m, rows, columns], summed over the pixels, [n, m]."""
    return matmul(images.reshape(len(images), -1), others.reshape(len(others), -1).T)


def _product(a, b):
    """a.T @ b of tall matrices, by products too small for the threads of BLAS: these wait for each other by spinning,
    which on cores that do other work takes a thousand times as long as the sum.
    """
    n_rows = max(1, 2**17 // (a.shape[1] * b.shape[1]))
    parts = (slice(i, i + n_rows) for i in range(0, len(a), n_rows))
    return sum(a[part].T @ b[part] for part in parts)


def _psf_sigma(observation):
    """Standard deviation of the PSF on one axis [arcsec]."""
    psf = observation.psf
    if isinstance(psf, float):
        return psf
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in psf.shape)
    variance = (psf * (rows[:, None] ** 2 + columns[None, :] ** 2)).sum() / psf.sum() / 2
    return observation.pixel_scale * math.sqrt(max(float(variance), 0.0))
