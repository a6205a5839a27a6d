"""The search for a lens in an image (Algorithm 1): where it begins, what is tried where a flag speaks, how it ends."""

import dataclasses

import numpy as np

from rim_tf.errors import InputError
from rim_tf.inference import lens_light, sky
from rim_tf.inference.halo import beside, widening
from rim_tf.inference.optimise import noise_floor, placed
from rim_tf.inference.standing import (
    OTHER_SIZES,
    ROUND_GAIN,
    SAME_FIELD,
    Standing,
    is_of_other_size,
    left_over_of,
    mean_square,
    prior_of,
    starts_of,
)
from rim_tf.inference.valley import UNLIKELY, walk
from rim_tf.inference.verdict import edge_share
from rim_tf.lens import lens_of

# Peak over noise from which chi^2 has ripples that a fit may stop in; and the RIM's own error counts there, which is
# mostly less after so many times the steps of its training.
_RIPPLED, _LONGER = 50.0, 1.5
# Fits along the valley where that is so; one that lowers chi^2 by less than ROUND_GAIN is the last.
_FOLLOWED = 4
# Then walks along it, and from how many of its lowest places the lens is fitted after each.
_WALKS, _PLACES_TRIED = 5, 2
# Only where the noise map is wrong by less than this factor: of drizzled images, whose noise is correlated, chi^2 says
# less than it seems to, and would lead away from a lens that is right. There valleys count as errors alone.
_HONEST = 1.2
# How likely a source is falls as this power of its light, where a flag spoke against what was found; but not as more
# than such a share of its signal to noise squared, which is what the data say of it.
_PULL, _OF_SIGNAL = 200.0, 0.03
# More of the arcs' light than this share, where it may as well be the galaxy's, is given back to it, all or half of it;
# and more of the source's, where a narrower grid has no place for it.
_HALO, _SHARES_GIVEN_BACK = 0.05, (1.0, 0.5)
# A source with less light explains the ring as well where the verdict's chi^2, that of noise being 1, rises by less.
_AS_GOOD = 0.05
# Beside a lens galaxy the source grid is so much narrower, the first that explains the ring as well.
_NARROWER = 0.55, 0.75
# And leaves no clump in the residual that stands out by so much more than any did before: there the source was, beyond
# a narrow grid and the ring. Of 28 simulated arcs about real galaxies, whose fluxes narrow grids mend, none rises by
# more than 5.0 on either grid; of four systems whose sources were cut off (three mocks, J0330-0020) each does on one,
# by 10 to 47.
_NEW_CLUMP = 6.0
# Chi^2 per pixel by which taking off a galaxy must be better than leaving the image as it is.
_GALAXY_GAIN = 0.02
# A lens of another size than the estimator's must explain the image by such a share better than what was found by a
# search, which looked at all.
_OTHER_GAIN = 0.03
# What a flag that says that no lens is like that weighs, as a share of chi^2.
_NONSENSE_WEIGHT = 0.03
# Brightness at the centre of a lens over that in the ring above which there is a galaxy: of 480 simulated images
# without lens light 0.8 % are.
_BRIGHT_CORE = 1.0
# A source grid at whose edge is more than this share of the source cuts it off; so much wider it is then, so often.
_CUT_OFF, _WIDER, _WIDENED = 0.01, 1.5, 2


class Search(Standing):
    """`begin`, `fit`, `doubt` and `finish`, one after another: what stands then is what was found."""

    def begin(self):
        """Is there a lens galaxy in the image? What explains the image better, with one taken off or without."""
        if self.config.no_lens_light:
            self._take_no_galaxy_off()
            ratio = lens_light.core_over_ring(self.clear, self.seen.lens)
            if ratio > _BRIGHT_CORE:
                self.doubts.append(
                    f"At the lens's centre the image is {ratio:.2g} times as bright as in the ring, as with a lens "
                    "galaxy in it; leave --no-lens-light (no_lens_light) away, or mask what is left of the galaxy."
                )
            return
        self.progress("lens light", 0, None)
        try:
            light = lens_light.subtract_lens_light(self.observation, self.seen.lens)
        except InputError as error:
            self.doubts.append(f"The lens galaxy was not looked for: {error}")
            self._take_no_galaxy_off()
            return
        self.free_of_galaxy = True  # unless one is taken off below
        if light.significance(self.seen.lens) < lens_light.SIGNIFICANT:
            self._take_no_galaxy_off()
            return
        estimate = self._estimate(self._without_neighbours(light, self.seen.lens), self.config.seed)
        # The estimator sees the galaxy's own light and shape in the one image, the arcs more clearly in the other.
        n_seen = self.config.starts // 3
        self.looks = estimate, self.seen
        # What is far from the ring is another question now.
        frame = self._without_neighbours(light, self.seen.lens)
        starts = starts_of(self.looks, (self.config.starts - n_seen, n_seen))
        self.estimate = min(self.seen, estimate, key=lambda each: each.uncertainty)
        with_light, path = self._explore(frame, starts, light)
        self.light, self.frame = light, frame
        self._beside(self._model_image(self._arcs(frame, with_light[0]), with_light[0]), with_light[0])
        self.explored = True
        without = None if self.light.outshines(self.frame) else self._without(with_light[0])
        if without is None:
            self.starts, self.path = with_light, path
        else:
            self._take_no_galaxy_off()
            self.starts, self.path = without

    def _without(self, lens):
        """The best lenses without a galaxy and how they were found; None if one taken off and `lens` explain more."""
        # Both with the same noise and mask, that the figures can be compared.
        raised = np.hypot(self.clear.noise, noise_floor(self.frame))
        mask = self.frame.mask
        without = dataclasses.replace(self.clear, mask=mask, noise=np.where(mask, raised, self.clear.noise))
        others, path = self._explore(without, self.starts, estimate=self.seen)
        taken_off = dataclasses.replace(without, image=self.frame.image)
        largest = max(lens, others[0], key=lambda each: each.theta_E)  # whose field both are judged on
        chi2 = []
        for frame, each in ((taken_off, lens), (without, others[0])):
            arcs = self._arcs(frame, largest)
            chi2.append(mean_square(arcs.image - self._model_image(arcs, each), arcs.noise, arcs.mask))
        return None if chi2[0] < chi2[1] - _GALAXY_GAIN else (others, path)

    def fit(self):
        """The lens from `starts`; then, where there is a lens galaxy, its light and both again, in rounds."""
        if not self.explored:
            self.starts, path = self._explore(self.frame, self.starts, self.light)
            self.path += path
        if self.began is None:
            self.began = self.light, self.frame, self.starts, list(self.path)
        if self.noise is None:  # that of masked pixels is none
            self.noise = np.where(self.frame.mask, self.frame.noise, self.observation.noise)
        self.found = self._fit(self.starts)
        self._widen()
        if self.light is not None:
            self._repeat(self._light_and_lens, self._rounds)

    def give_back(self):
        """What of the arcs may as well be the galaxy's goes to the galaxy, where there is one, while each time the
        image is explained about as well and no other flag is raised.

        Fits leave it to the source, which can be anything, and explains with it what no smooth galaxy does.
        """
        if self.light is None:
            return
        self._narrow()
        for _ in range(self._rounds):
            before, shape = self._state(), self.observation.shape
            arcs, seen = placed(self.found.model_image, shape), placed(self.found.observation.mask, shape)
            if not np.isfinite(arcs).all():  # which the verdict speaks of
                return
            below = lens_light.galaxy_below(self.light, arcs, seen)
            if not below.sum() > _HALO * np.maximum(arcs, 0)[seen].sum():
                return
            for share in _SHARES_GIVEN_BACK:
                self._beside(arcs - share * below, self.found.lens)
                if self.light is before[1]:  # too few pixels for a fit
                    return
                self._refit([self.found.lens], self.found)
                if self._keep_as_good(before):
                    break
            else:
                return

    def _narrow(self):
        """The lens on a narrower source grid, where that explains the image about as well.

        What is left of a galaxy fills any grid, its outer parts most of all. Hardly anything is magnified there, so
        that little light in the image is much of the source's. Not before the lens is known: of two real ones that
        were fitted on a narrow grid from the beginning theta_E was 3.5 % off, and 0.5 % so.
        """
        before, source = self._state(), self.found.reconstruction.source
        for narrower in _NARROWER if self._rounds else ():
            width = narrower * self.config.source_width
            edge = round((1 - width / self.source_width) * len(source) / 2)
            if edge <= 0 or not edge_share(source, edge) > _HALO:
                return
            self._refit([self.found.lens], source_width=width)
            self._repeat(self._light_and_lens, self._rounds)
            if self._keep_as_good(before, _NEW_CLUMP):
                return

    @staticmethod
    def _clump(found, judged):
        """How far the brightest clump of what a `Found` leaves of the arcs stands out, in noise as that of the sky.

        Args:
          found: `Found`.
          judged: `Verdict` on it.
        """
        seen = found.observation
        residual = (seen.image - found.model_image) / (seen.noise * judged.sky_noise)
        return sky.largest_clump(residual, seen.mask) / judged.correlation_ratio

    def _keep_as_good(self, before, clump=np.inf):
        """What stands now, where it explains the ring about as well as the state `before`, no flag speaks against it
        that did not then, and none of its clumps stands out by `clump` more; returns whether it was kept.
        """
        judged, was = self.judged(), self.judged(before)
        # In units of one sky: a frame that is worse everywhere is not better in the ring.
        chi2 = judged.figures["chi2"] * (judged.sky_noise / was.sky_noise) ** 2
        is_as_good = chi2 < was.figures["chi2"] + _AS_GOOD and judged.n_nonsense <= was.n_nonsense
        if is_as_good and np.isfinite(clump):
            is_as_good = self._clump(self.found, judged) <= self._clump(before[0], was) + clump
        if not (is_as_good and set(judged.flags) <= set(was.flags)):
            self._return_to(before)
            return False
        return True

    def _widen(self):
        """The lens on a wider source grid, where this one cuts the source off: what it lacks leads the lens away.

        Not beside a lens galaxy, what is left of which would fill any grid.
        """
        for _ in range(_WIDENED):
            cut_off = edge_share(self.found.reconstruction.source) > _CUT_OFF
            wider = min(_WIDER * self.source_width, _WIDER**_WIDENED * self.config.source_width)
            if self.light is not None or not cut_off or wider <= self.source_width:
                break
            before = self._state()
            self.found = self._fit([self.found.lens, *self.starts], self.found, source_width=wider)
            if not self._keep_better(before):
                break

    def doubt(self):
        """`again`, where a flag speaks against what was found: as often as the settings say, and as often once more
        where that found a lens of another size which does not explain the image yet.

        What is compared are fits from which no light was given back yet: the one that counts gives it back at last.
        """
        attempt, most = 0, 0 if self.config.fast else self.config.attempts
        before = self._state()
        self.give_back()
        given = self._state()
        while attempt < most and not self.judged().settled:
            if attempt == 0:
                self._return_to(before)
            was, attempt = self.found.lens, attempt + 1
            self.progress("again", attempt, most)
            self.again(self.config.seed + attempt)
            # There is the other search, and beside a lens of another size the estimator sees something else.
            if not self.judged().explained and is_of_other_size(self.found.lens, was):
                most = min(most + 1, 2 * self.config.attempts)
        if attempt > 0 and self.found.sought is before[0].sought:  # nothing better was found
            ends = self.found.ends
            self._return_to(given)
            self.found = dataclasses.replace(self.found, ends=ends)
        elif attempt > 0:
            self.give_back()

    def again(self, seed):
        """Other fits, by the other search from what the estimator sees now, and from lenses of other sizes; the best
        counts.

        Beside a galaxy light costs there: its halo, taken for source, leads to another lens that explains the image as
        well. So all begins anew from where the first fit began, each step of lens, galaxy and source at that price;
        rounds are judged by chi^2 alone, as ever.
        """
        before, anew = self._state(), self.light is not None and not self.was_pulled
        signal = np.nan_to_num(self.judged().figures["signal"])
        self.pull = 0.0 if self.light is None else min(_PULL, _OF_SIGNAL * signal**2)
        if anew:
            self.light, self.frame, self.starts, path = self.began
            self.path, self.explored, self.was_pulled = list(path), True, True
            self.fit()
            if self.judged().settled:
                self._keep_one(before, 0.0)
                anew = False
        if not self.judged().settled:
            self._search_again(seed)
        if anew:
            self._keep_one(before, 0.0, all_ends=True)
        self.pull = 0.0

    def _search_again(self, seed):
        before = self._state()
        self.by_network = not self.by_network and self._joint_fits
        self.looks = self._estimate(self.frame, seed), self.estimate
        self.estimate = self.looks[0]
        if self.by_network:
            # Not from the lens that was fitted, than which nothing is lower yet that a network finds.
            half = -(-self.config.starts // 2)
            starts = starts_of(self.looks, (half, half))
        else:
            starts = [self.found.lens, *self.estimate.starts(self.config.starts)]
        self.starts, self.explored = starts, False
        self.fit()
        self._keep_one(before, 0.0)
        for lens in self._of_other_sizes():
            if self.judged().settled:
                return
            before = self._state()
            # Its own fit to the end: the galaxy's light is another one beside a lens of another size.
            self.starts, self.explored = [lens], True
            self.fit()
            self._keep_one(before, _OTHER_GAIN)

    def _keep_one(self, before, by, all_ends=False):
        """As `_keep_sensible`; the other one is remembered, and where asked for what that remembers."""
        other = self._state()
        self._keep_sensible(before, by)
        self._remember(before if self.found is other[0] else other, all_ends)

    def _keep_sensible(self, before, by):
        """As `_keep_better`, for a lens that may be of another size: the share is larger by a flag more that says that
        no lens is like that, and smaller by one less.
        """
        more = max(self.judged().n_nonsense - self.judged(before).n_nonsense, -2)
        self._keep_better(before, _NONSENSE_WEIGHT * more + by, priced=True)

    def _remember(self, other, all_ends=False):
        """Where another state ended is one of the ends, which the verdict asks whether they agree; or all its ends."""
        is_, was, n_pixels = self._misfits(self._state(), other)
        ends, others = self.found.ends, other[0].ends
        first = ends["chi2_per_pixel"][0] + (was - is_) * n_pixels / ends["n_pixels"]
        last = None if all_ends else 1
        # Over as many pixels as what stands has.
        above = [each - others["chi2_per_pixel"][0] for each in others["chi2_per_pixel"][:last]]
        chi2 = [first + each * others["n_pixels"] / ends["n_pixels"] for each in above]
        ends = ends | {
            "chi2_per_pixel": [*ends["chi2_per_pixel"], *chi2],
            "lens": [*ends["lens"], other[0].lens.as_tuple(), *others["lens"][1:last]],
        }
        self.found = dataclasses.replace(self.found, ends=ends)

    def _of_other_sizes(self):
        """The estimator's lens, as it is, smaller and larger, each where nothing such was found or tried; where no lens
        explains the image yet, those of its other looks too.
        """
        tried = [self.found.lens]
        looks = [self.estimate, *(each for each in self.looks if each is not self.estimate)]
        for i, look in enumerate(looks):
            if i > 0 and self.judged().explained:
                return
            mean, off = look.lens, OTHER_SIZES * max(look.uncertainty, SAME_FIELD)
            for theta_E in (mean.theta_E, mean.theta_E * max(1 - off, 0.3), mean.theta_E * (1 + off)):
                values = list(mean.as_tuple())
                values[mean.mass.radius] = theta_E
                lens = lens_of(mean.mass, values)
                if all(is_of_other_size(lens, each) for each in (*tried, self.found.lens)):
                    tried.append(lens)
                    yield lens

    def finish(self):
        """The last digits, on pixels as they are."""
        seen = self.found.observation
        rippled = self.found.model_image.max() > _RIPPLED * np.median(seen.noise[seen.mask])
        if rippled:
            self.n_rim_steps = self._steps_that_explain_most()
        if rippled or self._factor(seen) > 1:
            self._refit([self.found.lens], whole=True, roughly=rippled)
        if rippled:
            # On along the valley, where the last fit stopped in one of its ripples; then from all over it.
            self._repeat(lambda: self._refit([self.found.lens], whole=True, roughly=True), _FOLLOWED)
            honest = self.judged().figures["noise_map"] < _HONEST
            about = [(None, None)]
            self._repeat(lambda: about.append(self._walk()), _WALKS if honest else 0)
            # The last walk was about where the fit has ended, unless it led elsewhere.
            found, self.valley = about[-1]
            if found is not self.found:
                self.valley = self._valley(for_errors=True)

    def _steps_that_explain_most(self):
        """As `n_rim_steps`: more than in training where the RIM then explains the image as well or better."""
        found, more = self.found, round(_LONGER * self.rim.config.n_steps)
        seen = found.observation
        usual, longer = (
            mean_square(seen.image - image, seen.noise, seen.mask)
            for image in (found.model_image, self._model_image(seen, found.lens, more))
        )
        # The lens was fitted with as many as in training, into whose ripples it fell.
        return more if longer < (1 + ROUND_GAIN) * usual else None

    def _walk(self):
        """The lens from the lowest places of the valley about it; returns what that was about, and the `Valley`."""
        found, valley = self.found, self._valley()
        lowest = valley.lowest(_PLACES_TRIED)
        if lowest:
            self._refit(lowest, whole=True, roughly=True)
        return found, valley

    def _valley(self, for_errors=False):
        """`Valley` about the lens, no farther than a lens may lie where it is for errors alone."""
        found, highest = self.found, None
        left_over = left_over_of(self.light, found.observation, 1)
        if for_errors:
            factor = self.judged().noise_factor * widening(beside(self.light, found.reconstruction))
            highest = UNLIKELY * factor**2
        given = left_over, found.source_pixels, prior_of(self.light), self.n_rim_steps, self._told, highest
        return walk(found.observation, found.lens, self.rim, *given)
