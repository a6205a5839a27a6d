"""What stands of a lens that is looked for in an image: the lens, the galaxy that was taken off, and the frame it left.

And the steps of a search (`rim_tf.inference.search`) that change them: lenses chosen among many starts, and fitted,
with the galaxy's light in turns and at once; and how two such states are compared.
"""

import dataclasses
import functools

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference import lens_light, sky
from rim_tf.inference.estimate import estimate_lens
from rim_tf.inference.misfit import LensPrior, View
from rim_tf.inference.optimise import (
    LensFit,
    Tangent,
    choose,
    coarsened,
    cropped,
    explore,
    middle,
    model_image,
    placed,
    refine,
    seen_coarsely,
    source_pixels_of,
)
from rim_tf.inference.rim import reconstruct
from rim_tf.inference.together import find_together
from rim_tf.inference.verdict import judge

# Pixels on a side of a frame in which a ring of the smallest size that the estimator knows has a shape.
SMALLEST_FRAME = 24
# Pixels on a side that the lens is searched on at most; and steps there, and on the pixels as they are.
_SEARCHED, _STEPS, _LAST_STEPS = 72, 10, 3
# Starts of the network that finds lens and source together, and how many of its answers go on.
_TOGETHER, _CHOSEN = 8, 2
# An estimate this many times as uncertain as another may still be the better one.
_AS_SURE = 1.5
# Steps of lens and galaxy with a source that follows, after each fit of the galaxy; and how much of one is tried.
_STEPS_WITH_SOURCE, _SHARES = 2, (1.0, 0.3)
# Another round of lens light and lens that lowers chi^2 by a smaller share is the last.
ROUND_GAIN = 0.003
# Lenses of other sizes than the estimator's are so many standard deviations smaller and larger; where it is asked what
# is far from any ring, they are at most so many times as large.
OTHER_SIZES, _LARGEST = 2.0, 1.3
# The field that is fitted to stays as it is while theta_E changes by a smaller share.
SAME_FIELD = 0.05


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a fit ended, on pixels as they are.

    Attributes:
      sought: `rim_tf.inference.optimise.Sought`, maybe on wider pixels.
      ends: as of `LensFit`.
      observation: the arcs.
      field_of: the lens whose field that is.
      rim: `RIM`.
      source_pixels: on a side.
      n_rim_steps: of the RIM; None for as many as it was trained for.
      source_width: of the source grid, as of `ModelConfig`.
    """

    sought: object
    ends: dict
    observation: object
    field_of: object
    rim: object
    source_pixels: int
    n_rim_steps: int | None
    source_width: float

    @property
    def lens(self):
        return self.sought.lens

    @functools.cached_property
    def _view(self):
        return View(self.observation, self.rim, self.lens.mass, self.n_rim_steps, self.source_pixels)

    @functools.cached_property
    def _image_and_source(self):
        return [each[0] for each in self._view.images_and_sources([self.lens.as_tuple()])]

    @property
    def model_image(self):
        return self.observation.in_data_units(self._image_and_source[0])

    @functools.cached_property
    def reconstruction(self):
        """The `SourceFit` that `fit` has, without its iterates: by the graph that is there already."""
        return self._view.source_fit(self.lens, *self._image_and_source)

    def fit(self):
        """`LensFit`."""
        sought, grid = self.sought, {"source_pixels": self.source_pixels}
        fit = reconstruct(self.observation, self.lens, self.rim, **grid, n_steps=self.n_rim_steps)
        return LensFit(self.lens, sought.history, fit, sought.covariance(), self.ends)


class Standing:
    """What `model` has found so far of one observation.

    Args:
      observation: `Observation`.
      seen: `LensEstimate` from it.
      rim: `RIM`.
      estimator: `Estimator`.
      joint: `JointRIM`, or None where it is not to search.
      config: `ModelConfig`.
      progress: a `Progress`.

    Attributes: those of `ModelResult`, and
      starts: lenses that the next fit starts from.
      explored: whether these are the best of many already.
      by_network: whether the joint network searches, and not descent.
      looks: each `LensEstimate` that starts are of.
      noise: what fits are compared by, [rows, columns].
      doubts: sentences about what could not be done.
      n_rim_steps: as of `Found`, of the next fit.
      free_of_galaxy: whether a lens galaxy was looked for and there is none.
      pull, was_pulled: as of `rim_tf.inference.lens_light.step_with_source`; and whether there was one.
      began: `light`, `frame`, `starts` and `path` of the first fit.
    """

    def __init__(self, observation, seen, rim, estimator, joint, config, progress):
        self.observation, self.seen, self.rim, self.estimator = observation, seen, rim, estimator
        self.joint, self.config, self.progress = joint, config, progress
        self.light, self.frame, self.estimate = None, observation, seen
        self.starts, self.explored, self.found, self.path = seen.starts(config.starts), False, None, []
        self.noise, self.doubts, self.n_rim_steps, self.valley = None, [], None, None
        self.free_of_galaxy, self.pull, self.was_pulled, self.began = False, 0.0, False, None
        self.by_network, self.looks = config.by_network and self._joint_fits, (seen,)

    @property
    def _joint_fits(self):
        """Whether there is a network that finds lens and source together, of the estimator's mass model."""
        return self.joint is not None and self.joint.mass == self.estimator.mass

    @functools.cached_property
    def sky_level(self):
        """How bright the image is where it is empty; the fit of a lens galaxy finds that too, where there is one."""
        return sky.level(self.observation, self.seen.lens)

    @functools.cached_property
    def clear(self):
        """The observation without that."""
        if self.sky_level == 0:
            return self.observation
        image = self.observation.image
        return dataclasses.replace(self.observation, image=image - image.dtype.type(self.sky_level))

    @property
    def source_width(self):
        """Of the source grid, as of `ModelConfig`: that of what was found."""
        return self.config.source_width if self.found is None else self.found.source_width

    @property
    def _rounds(self):
        return min(1, self.config.rounds) if self.config.fast else self.config.rounds

    def _state(self):
        return self.found, self.light, self.frame, self.estimate, list(self.path)

    def _return_to(self, state):
        self.found, self.light, self.frame, self.estimate, path = state
        self.path = list(path)  # to which is added in place

    def judged(self, state=None):
        """`Verdict` on a state, or on what stands now."""
        found, light, frame, estimate, _ = self._state() if state is None else state
        return judge(frame, found, estimate, self.free_of_galaxy and light is None)

    def _told(self, done, most):
        self.progress("lens", done, most)

    def _take_no_galaxy_off(self):
        self.frame, self.light = self.clear, None
        if self.sky_level != 0:
            over_noise = self.sky_level / float(np.median(self.clear.noise[self.clear.mask]))
            self.doubts.append(
                f"Where the image is empty it is {self.sky_level:.3g}, {over_noise:.2g} times its noise, and not 0; "
                "this sky was taken off."
            )
            self.seen = self._estimate(self.clear, self.config.seed)
            self.starts, self.looks = self.seen.starts(self.config.starts), (self.seen,)
        self.estimate = self.seen

    def _estimate(self, frame, seed):
        return estimate_lens(frame, self.estimator, seed)

    def _explore(self, frame, starts, light=None, estimate=None):
        arcs = self._arcs(frame, starts[0])
        factor = self._factor(arcs)
        seen = coarsened(arcs, factor)
        estimate = estimate or self.estimate
        expected = estimate.lens.theta_E, estimate.uncertainty
        given = left_over_of(light, arcs, factor), expected, self._source_pixels(seen), prior_of(light)
        if not self.by_network:
            return explore(seen, starts, self.rim, *given)
        samples = np.concatenate([each.samples for each in {id(e): e for e in (estimate, *self.looks)}.values()])
        return self._explored_by_network(seen, starts, samples, given)

    def _explored_by_network(self, seen, starts, samples, given):
        """As `_explore`, by the network that finds lens and source together."""
        # From all over the list, as its lenses come from the image with the galaxy and from that without.
        places = np.unique(np.linspace(0, len(starts) - 1, min(_TOGETHER, len(starts))).round().astype(int))
        found = find_together(seen, [starts[i] for i in places], samples, self.joint)
        if not found.lenses and self.found is None:
            self.doubts.append("The search by the network found no lens; that of the estimator is taken.")
        candidates = [*found.lenses, starts[0]]
        lenses, history = choose(seen, candidates, self.rim, _CHOSEN, *given)
        apart = [np.abs(np.subtract(each.as_tuple(), lenses[0].as_tuple())).max() for each in candidates]
        best = int(np.argmin(apart))
        if best < len(found.lenses):
            steps = zip(found.chi2_per_pixel[best], found.path[best], strict=True)
            history = [
                {"stage": "network", "chi2_per_pixel": float(chi2), "lens": tuple(map(float, lens))}
                for chi2, lens in steps
            ]
        return lenses, history

    def _fit(self, starts, near=None, before=None, whole=False, roughly=False, source_width=None):
        """`Found` from starts of which the best few are known, or from near a `Found`; slopes of the fit `before` may
        still hold. The source grid is as wide as that of what stands, unless another width is given.
        """
        source_width = source_width or self.source_width
        field_of = starts[0]
        if near is not None and not is_of_other_size(near.field_of, field_of):
            # Chi^2 of another frame has other ripples.
            field_of = near.field_of
        arcs = self._arcs(self.frame, field_of)
        factor = 1 if whole else self._factor(arcs)
        seen = coarsened(arcs, factor)
        sought = refine(
            seen,
            starts,
            self.rim,
            left_over_of(self.light, arcs, factor),
            n_steps=0 if self.config.fast else _LAST_STEPS if whole and not roughly else _STEPS,
            progress=self._told,
            before=None if before is None else before.sought,
            source_pixels=self._source_pixels(seen, source_width),
            prior=prior_of(self.light),
            roughly=roughly,
            n_rim_steps=self.n_rim_steps,
        )
        self.path += sought.history
        grid = self._source_pixels(arcs, source_width), self.n_rim_steps, source_width
        return Found(sought, sought.ends, arcs, field_of, self.rim, *grid)

    def _refit(self, starts, before=None, whole=False, roughly=False, source_width=None):
        """Another `_fit` from near the best; whether starts agree is known of those from afar alone."""
        found = self._fit(starts, self.found, before, whole, roughly, source_width)
        self.found = dataclasses.replace(found, ends=self.found.ends)

    def _light_and_lens(self):
        self._beside(self.found.model_image, self.found.lens)
        self._refit([self._step_with_source(self.found.lens)], self.found)

    def _beside(self, model_image, lens):
        """The lens galaxy fitted again beside the arcs of a model image."""
        self.progress("lens light", 0, None)
        arcs = placed(model_image, self.observation.shape)
        neighbours = self._neighbours(self.light, lens)
        try:
            self.light = lens_light.subtract_beside_source(self.observation, self.light, arcs, ~neighbours)
        except InputError:  # too few pixels for all its components: what was fitted around the arcs stays
            return
        self.frame = self._without_neighbours(self.light, lens, neighbours)

    def _step_with_source(self, lens):
        """Lens and lens galaxy at once, the source following: fits in turns leave to each what it has of the others.

        Returns the lens, which a search that fits none leaves where it is; the galaxy is another one then.
        """
        arcs = self._arcs(self.frame, self.found.field_of)
        noise, used, first, neighbours = arcs.noise, arcs.mask, lens, self._neighbours(self.light, lens)
        image = self._model_image(arcs, lens)
        for _ in range(_STEPS_WITH_SOURCE):
            before = self.light
            chi2, light_before = mean_square(arcs.image - image, noise, used), float(image[used].sum())
            factor = self._factor(arcs)
            seen = coarsened(arcs, factor)
            tangent = Tangent(seen, lens, self.rim, self._source_pixels(seen))
            slopes = tangent.slopes[: 0 if self.config.fast else None]
            left_over = left_over_of(before, arcs, factor)
            try:
                given = self.frame, before, arcs, seen, left_over, tangent, lens, slopes, self.pull
                found = lens_light.step_with_source(*given)
            except InputError:  # no pixel sees the source grid
                return lens
            for share in _SHARES:
                there = lens if self.config.fast else tangent.lens(share * found[1])
                amplitudes = before.amplitudes + share * (found[0] - before.amplitudes)
                light = lens_light.with_amplitudes(self.observation, before, amplitudes)
                frame = self._without_neighbours(light, first, neighbours)
                arcs = self._arcs(frame, self.found.field_of)
                image = self._model_image(arcs, there)
                saved = self._saved(float(image[used].sum()), light_before) / used.sum()
                if mean_square(arcs.image - image, noise, used) - saved < chi2:
                    self.light, self.frame, lens = light, frame, there
                    break
            else:
                return lens
        return lens

    def _repeat(self, step, most):
        """A step, `most` times at the most, while it is worth another one; what makes chi^2 worse is taken back."""
        for _ in range(most):
            before = self._state()
            step()
            if not self._gained(before):
                break

    def _gained(self, before):
        """Whether a step since the state `before` was worth another one; what made chi^2 worse is taken back."""
        return self._keep_better(before) >= ROUND_GAIN

    def _keep_better(self, state, by=0.0, priced=False):
        """What stands now, where it explains the image better than `state` did, by such a share, and less by what its
        arcs save where light is `priced`; returns by what share it is better, 0 where `state` came back.
        """
        (is_, was), noise, used = self._compared(self._state(), state)
        are, were = (mean_square(data - image, noise, used) for data, image in (is_, was))
        if priced and self.pull:
            light = (float(image[used].sum()) for _, image in (is_, was))
            by -= self._saved(*light) / (were * used.sum())
        if not are < (1 - by) * were:  # nor where it is no number
            self._return_to(state)
            return 0.0
        return 1 - are / were

    def _saved(self, is_, was):
        """What light is worth, in chi^2, that was and is no longer: its logarithm, up to a factor of e."""
        return 2 * self.pull * float(np.clip(np.log(was / is_), -1, 1)) if min(is_, was) > 0 else 0.0

    def _misfits(self, *states):
        """Chi^2 per pixel of states, by the noise that the frame had first, however it was raised since; and over how
        many pixels.
        """
        compared, noise, used = self._compared(*states)
        return *(mean_square(data - image, noise, used) for data, image in compared), int(used.sum())

    def _compared(self, *states):
        """Data and model image of each state, the noise that the frame had first, and the pixels to compare them over.

        Within the field of the largest lens, over the pixels that any of them uses: beside a lens that is too small the
        arcs are neighbours, which it leaves out.
        """
        largest = max((found.field_of for found, *_ in states), key=lambda lens: lens.theta_E)
        arcs = [self._arcs(frame, largest) for _, _, frame, *_ in states]
        used = np.any([each.mask for each in arcs], axis=0)
        compared = []
        for seen, (found, light, *_) in zip(arcs, states, strict=True):
            is_its_own = seen.shape == found.observation.shape
            image = (
                found.model_image
                if is_its_own
                else self._model_image(seen, found.lens, found.n_rim_steps, found.source_width)
            )
            # A frame shows nothing where it is masked itself.
            data = self.clear.image if light is None else self.observation.image - light.model_image
            compared.append((middle(data, used.shape), image))
        return compared, middle(self.noise, used.shape), used

    def _arcs(self, frame, lens):
        # Never less than some pixels.
        half_width = max(self.config.fit_radius * lens.theta_E, SMALLEST_FRAME / 2 * frame.pixel_scale)
        return cropped(frame, half_width)

    def _model_image(self, arcs, lens, n_rim_steps=None, source_width=None):
        return model_image(arcs, lens, self.rim, self._source_pixels(arcs, source_width), n_rim_steps)

    def _source_pixels(self, arcs, source_width=None):
        return source_pixels_of(arcs, source_width or self.source_width)

    @staticmethod
    def _factor(arcs):
        """How many pixels are seen as one while the lens is searched: time grows with their number."""
        return -(-max(arcs.shape) // _SEARCHED)

    def _neighbours(self, light, lens):
        """Those of a `LensLightFit`: far from the ring of a lens, and from what the estimator sees, or larger ones."""
        larger = (min(1 + OTHER_SIZES * each.uncertainty, _LARGEST) * each.lens.theta_E for each in self.looks)
        return light.neighbours(lens, max([lens.theta_E, *larger]))

    def _without_neighbours(self, light, lens, neighbours=None):
        """The frame without lens light and neighbours, where these are known already or not."""
        frame = light.doubted(lens)
        neighbours = self._neighbours(light, lens) if neighbours is None else neighbours
        return dataclasses.replace(frame, mask=frame.mask & ~neighbours)


def starts_of(estimates, numbers):
    """So many starts of each of some `LensEstimate`s.

    The first says which field is searched: where either may be right, the one that holds both.
    """
    most = _AS_SURE * min(each.uncertainty for each in estimates)
    widest = max((each.lens for each in estimates if each.uncertainty < most), key=lambda lens: lens.theta_E)
    starts = [lens for each, n in zip(estimates, numbers, strict=True) for lens in each.starts(n)]
    return [widest, *(lens for lens in starts if lens is not widest)]


def is_of_other_size(lens, other):
    """Whether two lenses differ in theta_E by more than a field that stays as it is allows."""
    return abs(lens.theta_E / other.theta_E - 1) > SAME_FIELD


def mean_square(residual, noise, used):
    """Of a residual over a noise, over the pixels that are used."""
    return float(((residual[used] / noise[used]) ** 2).mean())


def left_over_of(light, arcs, factor):
    """Of a `LensLightFit` or None, in the frame of the arcs and in pixels `factor` times as wide."""
    return None if light is None else seen_coarsely(middle(light.left_over, arcs.shape), arcs, factor)


def prior_of(light):
    """`LensPrior` of a lens beside a `LensLightFit`, or None where there is no light.

    Of real lenses, what is left of the galaxy draws the centre away from it, and theta_E with it.
    """
    return None if light is None else LensPrior(offset=lens_light.CENTRED, centre=tuple(light.parameters["centre"]))
