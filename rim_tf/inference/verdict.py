"""Whether a model that was found from an image alone is to be believed.

Each test has a name, a figure and a limit, that of `core` another where there is no lens galaxy. A figure beyond its
limit raises the flag of that name, with a sentence that says what it means. Residuals are judged against those of empty
sky in the same frame, since noise maps of drizzled images are wrong by up to two and their noise is correlated.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from rim_tf.inference import sky
from rim_tf.inference.lens_light import CENTRED, radius_about
from rim_tf.inference.optimise import placed
from rim_tf.results import correlation_of_neighbours

# The ring and its middle, in theta_E about the lens.
_RING, _CORE = (0.4, 1.7), 0.35

# Name -> limit. A flag is raised above it; of those in _BELOW below it.
LIMITS = {
    "chi2": 1.25,
    "whiteness": 0.15,
    "signal": 20.0,
    "flux_outside": 0.05,
    "starts": 0.03,
    "estimator": 5.0,
    "axis_ratio": 0.3,
    "shear": 0.25,
    "source_edge": 0.1,
    "core": 0.5,
    "source_size": 0.7,
    "magnification": 3.0,
    "off_centre": 0.1,
    "noise_map": 3.0,
    "together": 0.7,
}
# Limits where a lens galaxy was looked for and there is none, so that nothing is left of one: a large source shines
# through the core itself.
_WITHOUT_GALAXY = {"core": 1.0}
# Of these, which are high for a bad model, so many worst ones are looked at together.
_LOOKED_AT = ("chi2", "whiteness", "flux_outside", "starts", "estimator", "shear", "source_edge", "core", "source_size")
_WORST = 3
# What a good model's chi^2 is after what is taken off it; all else is about 0.
_USUAL_CHI2 = 0.9
# A residual of this share of the peak is the RIM's own error, with the true lens too.
_OWN_ERROR = 5e-4
_BELOW = ("axis_ratio", "signal", "magnification")
# Light is what stands out so many times above the scatter of a smoothed frame.
_STANDS_OUT = 8.0
# From so much of a source at the edge of its grid on, its flux and size are not to be believed though the lens may be:
# of ten such simulated systems without a flag fluxes were 30 % off in the median, and theta_E 2.6 % at the most.
_SOURCE_EDGE = 0.03
# Without these nothing is known.
_NEEDED = ("chi2", "whiteness")
# What no lens should be like, however well it explains the image.
_NONSENSE = (
    "flux_outside",
    "estimator",
    "axis_ratio",
    "shear",
    "source_edge",
    "core",
    "source_size",
    "magnification",
)
# What no other lens would change.
_OF_THE_DATA = ("signal", "noise_map", "off_centre")

_SENTENCES = {
    "chi2": "chi^2 in the ring is at least {figure:.3g} times that of noise, so the model does not explain the image",
    "whiteness": "residuals of neighbouring pixels in the ring are alike (by {figure:.2f} more than noise), so "
    "something is left that is no noise",
    "signal": "what was taken for arcs is {figure:.3g} times its noise, too faint to find a lens by",
    "flux_outside": "{figure:.0%} of the light comes from outside the source grid",
    "starts": "lenses that fit as well or better differ by {figure:.1%} in theta_E, so the best is not the only one",
    "estimator": "the lens is {figure:.1f} standard deviations from where the estimator saw it",
    "axis_ratio": "the axis ratio is {figure:.2f}, which hardly any lens has",
    "shear": "the shear is {figure:.2f}, which hardly any lens has",
    "source_edge": "{figure:.0%} of the source lies at the edge of its grid",
    "core": "the model's light at the lens's centre is {figure:.2f} of that in the ring, so what is left of the lens "
    "galaxy was probably taken for source",
    "source_size": "only a circle of {figure:.2f} theta_E holds half of the source's light, so what is left of the "
    "lens galaxy or of neighbours was probably taken for source",
    "magnification": "the source is magnified {figure:.1f} times only, so little of it lies behind the lens, and one "
    "of another size may fit as well",
    "off_centre": "{what} {figure:.0%} of the frame's width from its middle, at {place[0]:.2f}, {place[1]:.2f} arcsec, "
    "farther than the estimator was trained for; cut the frame about it with --centre {place[0]:.2f},{place[1]:.2f} "
    "(rim_tf.recentred)",
    "noise_map": "the noise map is wrong by a factor of {figure:.1f} where there is empty sky",
    "together": "three tests come near their limits at once (at {figure:.0%} of them in the mean), as they seldom do "
    "for a lens that is right",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What speaks against a model.

    Attributes:
      figures: name of each test -> its figure; NaN where it could not be made.
      sky_noise: rms of the residuals on empty sky in units of the noise map; 1 where there is too little sky.
      place: x, y of the lens [arcsec], or of the middle of the light where no lens explains it, in the frame as it was
        read, whatever part of it was looked at.
      free_of_galaxy: whether a lens galaxy was looked for and there is none.
      correlation_ratio: of the noise, as of `rim_tf.inference.sky.correlation_ratio`; 1 where there is too little sky.
    """

    figures: dict
    sky_noise: float
    place: tuple[float, float]
    free_of_galaxy: bool = False
    correlation_ratio: float = 1.0

    @property
    def flags(self):
        """Names of the tests that failed, in the order of LIMITS; of those that could not be made, _NEEDED fail."""
        return tuple(name for name in LIMITS if self._fails(name))

    def _fails(self, name):
        figure, limit = self.figures[name], _limits(self.free_of_galaxy)[name]
        if math.isnan(figure):
            return name in _NEEDED
        return figure < limit if name in _BELOW else figure > limit

    @property
    def explained(self):
        """Whether the residuals in the ring may be noise."""
        return not set(_NEEDED) & set(self.flags)

    @property
    def n_nonsense(self):
        """How many tests say that no lens should be like that; one that could not be made says so too."""
        return sum(self._fails(name) or math.isnan(self.figures[name]) for name in _NONSENSE)

    @property
    def settled(self):
        """Whether no other start is called for: nothing speaks against the model that another lens could change."""
        return set(self.flags) <= set(_OF_THE_DATA)

    @property
    def believed(self):
        return not self.flags

    @property
    def source_believed(self):
        """Whether, beside the lens, flux and size of the source are to be believed as far as their errors say."""
        return self.believed and not self.figures["source_edge"] > _SOURCE_EDGE

    @property
    def noise_factor(self):
        """By what the noise map is multiplied before errors are made of it.

        By what empty sky says of it, of many pixels together, where it is too small; and by as much as residuals in the
        ring are above noise: a model that does not explain the image knows its lens no better than that.
        """
        of_many = max(1.0, self.sky_noise * self.correlation_ratio)
        return of_many * math.sqrt(max(1.0, np.nan_to_num(self.figures["chi2"])))

    def sentences(self):
        """A sentence for each flag, or for a source that is not to be believed though its lens is."""
        found = [f"{self._sentence(name)} (flag {name})." for name in self.flags]
        if self.believed and not self.source_believed:
            found.append(
                f"{self._sentence('source_edge')}, as where light of the lens galaxy is taken for the source's or the "
                "reverse: no test speaks against the lens, but do not believe flux and size of the source."
            )
        return found

    def _sentence(self, name):
        if math.isnan(self.figures[name]):
            return "no pixel of the ring can be used, so nothing says whether the model explains it"
        what = "the lens lies" if self.explained else "no lens explains the image, and the middle of its light lies"
        return _SENTENCES[name].format(figure=self.figures[name], place=self.place, what=what)


def _limits(free_of_galaxy):
    return LIMITS | _WITHOUT_GALAXY if free_of_galaxy else LIMITS


def judge(frame, lens_fit, estimate, free_of_galaxy=False):
    """The `Verdict` on a fitted lens.

    Args:
      frame: the whole `Observation` without lens light, of which the lens was fitted to the middle.
      lens_fit: `rim_tf.inference.optimise.LensFit`.
      estimate: `rim_tf.inference.estimate.LensEstimate`, the last one before the fit.
      free_of_galaxy: whether a lens galaxy was looked for and there is none.
    """
    fit, lens = lens_fit.reconstruction, lens_fit.lens
    place = lens.x_lens, lens.y_lens
    seen = fit.observation
    radius = radius_about(lens, seen)
    ring = seen.mask & (radius > _RING[0] * lens.theta_E) & (radius < _RING[1] * lens.theta_E)
    sky_noise, sky_correlation, ratio = _sky(frame, fit.model_image, lens)
    residual = np.where(seen.mask, (seen.image - fit.model_image) / seen.noise, 0.0)
    peak = float(fit.model_image[ring].max()) if ring.any() else 0.0
    core = radius < _CORE * lens.theta_E
    # What two standard deviations of noise and the network's own error may make is taken off both.
    own = (_OWN_ERROR * peak / float(np.median(seen.noise[ring])) / sky_noise) ** 2 if ring.any() else 0.0
    slack = 2 / math.sqrt(max(ring.sum(), 1))
    figures = {
        "chi2": _mean_square(residual, ring) / sky_noise**2 - own - math.sqrt(2) * slack,
        "whiteness": _correlation(residual, ring) - sky_correlation - own - slack / math.sqrt(2),
        "signal": _signal(fit) / sky_noise,
        "flux_outside": fit.flux_outside,
        "starts": _disagreement(lens_fit, sky_noise),
        "estimator": float(np.abs(estimate.distance(lens, CENTRED)).max()),
        "axis_ratio": lens.shape[0],
        "shear": math.hypot(lens.named().get("gamma1", 0.0), lens.named().get("gamma2", 0.0)),
        "source_edge": edge_share(fit.source),
        "core": float(fit.model_image[core].max()) / peak if core.any() and peak > 0 else math.nan,
        "source_size": fit.half_light_radius / lens.theta_E,
        "magnification": fit.magnification,
        "off_centre": _off_centre(place, frame),
        "noise_map": max(sky_noise, 1 / sky_noise),
    }
    figures["together"] = _together(figures, _limits(free_of_galaxy))
    found = Verdict(figures, sky_noise, _in_whole(place, frame), free_of_galaxy, ratio)
    if found.explained:
        return found
    # A lens beyond where the estimator knows of any is not found, and so its light must tell where it is.
    place = _middle_of_light(frame)
    figures = figures | {"off_centre": _off_centre(place, frame)}
    return dataclasses.replace(found, figures=figures, place=_in_whole(place, frame))


def _together(figures, limits):
    """Mean of the worst figures, 0 where they are as of a good model and 1 at their limits."""
    usual = {"chi2": _USUAL_CHI2}
    shares = [(figures[name] - usual.get(name, 0)) / (limits[name] - usual.get(name, 0)) for name in _LOOKED_AT]
    return float(np.mean(sorted(min(max(share, 0), 1) for share in shares if not math.isnan(share))[-_WORST:]))


def _off_centre(place, frame):
    """How far a place is from the middle of a frame, over the frame's width."""
    return math.hypot(*place) / (min(frame.shape) * frame.pixel_scale)


def _in_whole(place, frame):
    return tuple(a + b for a, b in zip(place, frame.centre, strict=True))


def _middle_of_light(frame):
    """x, y [arcsec] of what stands out above the noise of a frame; its middle where nothing does."""
    smooth = ndimage.gaussian_filter(np.where(frame.mask, frame.image / frame.noise, 0.0), 1.5)
    light = np.where(smooth > np.median(smooth) + _STANDS_OUT * sky.scatter(smooth), smooth * frame.noise, 0.0)
    if light.sum() <= 0:
        return 0.0, 0.0
    rows, columns = ndimage.center_of_mass(light)
    return tuple(
        (at - (n - 1) / 2) * frame.pixel_scale for at, n in ((columns, frame.shape[1]), (rows, frame.shape[0]))
    )


def _sky(frame, arcs, lens):
    """Rms of the residual on empty sky, its correlation from pixel to pixel, and the correlation ratio of the noise.

    1, 0 and 1 where there is too little.
    """
    arcs = placed(arcs, frame.shape)
    rms, where = sky.noise(frame, lens, arcs)
    if where is None:
        return 1.0, 0.0, 1.0
    residual = np.where(frame.mask, (frame.image - arcs) / frame.noise, 0.0)
    residual = residual - np.median(residual[where])
    return rms, _correlation(residual, where), sky.correlation_ratio(residual, where)


def _mean_square(residual, where):
    return float((residual[where] ** 2).mean()) if where.any() else math.nan


def _correlation(residual, where):
    return float(correlation_of_neighbours(residual, where)[0])


def _signal(fit):
    """Signal to noise of the lensed light, by the best filter for it: the model itself."""
    used = fit.observation.mask
    return float(np.sqrt(((fit.model_image / fit.observation.noise)[used] ** 2).sum()))


def _disagreement(lens_fit, sky_noise):
    """Largest difference in theta_E between the end that counts and those that fit as well or better, as a share."""
    chi2, lenses = (np.array(lens_fit.ends[name]) for name in ("chi2_per_pixel", "lens"))
    as_good = (chi2 - chi2[0]) * lens_fit.ends["n_pixels"] / sky_noise**2 < 9
    theta_E = lenses[:, lens_fit.lens.mass.radius]
    return float(np.abs(theta_E[as_good] / theta_E[0] - 1).max())


def edge_share(source, edge=2):
    """Share of a source [rows, columns] that is in the outermost `edge` pixels of its grid; NaN where it is dark."""
    total = float(source.sum())
    return 1 - float(source[edge:-edge, edge:-edge].sum()) / total if total > 0 else math.nan
