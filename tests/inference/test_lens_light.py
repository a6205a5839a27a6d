import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.inference import lens_light
from rim_tf.inference.lens_light import (
    SIGNIFICANT,
    core_over_ring,
    galaxy_below,
    step_with_source,
    subtract_beside_source,
    subtract_lens_light,
    with_amplitudes,
)
from rim_tf.inference.optimise import Tangent
from rim_tf.inference.rim import reconstruct
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.psf import blur_operator
from rim_tf.systems import batch_of

N, SCALE, NOISE, SKY = 100, 0.05, 0.01, 0.02
LENS = LensParameters(1.1, 0.1, 0.05)
CENTRE, Q, PHI = (0.02, -0.03), 0.75, 0.6


def stamp():
    """A PSF with a core and wings, a little elongated, as telescopes have."""
    y, x = np.indices((15, 15)) - 7.0
    psf = np.exp(-(x**2 + y**2 + 0.1 * x * y) / 2) + 0.02 / (1 + (x**2 + y**2) / 4) ** 1.5
    return psf / psf.sum()


def blurred(image, psf):
    grid = PixelGrid(N, N, np.float64(SCALE))
    blur = blur_operator(ops.convert_to_tensor(np.asarray(psf)[None]), grid)
    return ops.convert_to_numpy(blur.forward(image[None]))[0]


def sersic(index, half_light=0.9, level=0.5, fine=9):
    """The galaxy: `level` at the half-light radius, each pixel the mean of fine x fine samples."""
    position = (np.arange(N * fine) - (N * fine - 1) / 2) * SCALE / fine
    x, y = position[None, :] - CENTRE[0], position[:, None] - CENTRE[1]
    along, across = x * math.cos(PHI) + y * math.sin(PHI), y * math.cos(PHI) - x * math.sin(PHI)
    radius = np.sqrt(Q * along**2 + across**2 / Q) / half_light
    b = 2 * index - 1 / 3
    return (level * np.exp(-b * (radius ** (1 / index) - 1))).reshape(N, fine, N, fine).mean((1, 3))


@functools.cache
def system(index, with_arcs=True, psf_is_a_stamp=True):
    """The observation, its arcs alone without noise, and its lens galaxy alone with the sky."""
    psf = stamp() if psf_is_a_stamp else 0.06
    empty = Observation(np.zeros((N, N)), NOISE, psf, pixel_scale=SCALE)
    inputs = batch_of([empty], [LENS], [SOURCE_SCALE_RATIO * SCALE])
    grid = PixelGrid(N, N, np.float32(SOURCE_SCALE_RATIO * SCALE))
    x, y = (ops.convert_to_numpy(each) for each in grid.coordinates())
    source = 0.5 * np.exp(-((x - 0.08) ** 2 + (y + 0.05) ** 2) / (2 * 0.08**2)) * with_arcs
    arcs = ops.convert_to_numpy(imaging_operator(inputs, (N, N)).forward(ops.convert_to_tensor(source)))[0]
    light = blurred(sersic(index), psf) + SKY
    noise = np.sqrt(NOISE**2 + 0.01**2 * light)  # photons: the bright centre has its own noise
    image = arcs + light + noise * np.random.default_rng(1).normal(size=(N, N))
    return dataclasses.replace(empty, image=image, noise=noise), arcs, light


@functools.cache
def fit_of(index):
    return subtract_lens_light(system(index)[0], LENS)


@pytest.mark.parametrize(("index", "psf_is_a_stamp"), [(1.0, True), (4.0, True), (4.0, False)])
def test_what_is_left_is_the_arcs_and_noise(index, psf_is_a_stamp):
    observation, arcs, light = system(index, psf_is_a_stamp=psf_is_a_stamp)
    fit = subtract_lens_light(observation, dataclasses.replace(LENS, theta_E=1.0, e1=0.0))
    left = fit.observation.image
    dark = arcs < 0.2 * NOISE
    assert 0.9 < np.mean((left / observation.noise)[dark] ** 2) < 1.1
    bright = arcs > 3 * NOISE
    assert left[bright].sum() == pytest.approx(arcs[bright].sum(), rel=0.03)
    # It was left out of the fit, which is why it is still there.
    assert fit.arc_mask[arcs > 5 * NOISE].all() and fit.arc_mask.mean() < 0.5


def test_nothing_but_the_image_changes():
    observation, fit = system(4.0)[0], fit_of(4.0)
    np.testing.assert_allclose(fit.observation.image + fit.model_image, observation.image, atol=1e-5)
    for name in ("noise", "psf", "mask"):
        assert (getattr(fit.observation, name) == getattr(observation, name)).all()


def test_the_parameters_describe_the_galaxy():
    parameters = fit_of(4.0).parameters
    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["sky"] == pytest.approx(SKY, abs=NOISE)
    flux = np.array([2 * math.pi * c["amplitude"] * c["sigma"] ** 2 for c in parameters["components"]])
    e = [(1 - c["q"]) / (1 + c["q"]) * np.exp(2j * c["phi"]) for c in parameters["components"]]
    mean = (flux * e).sum() / flux.sum()
    # More sets of ellipticities fit some noise: a few hundredths of the light.
    assert abs(mean - (1 - Q) / (1 + Q) * np.exp(2j * PHI)) < 0.02
    assert parameters["components"][0]["x"] == pytest.approx(CENTRE[0], abs=0.1 * SCALE)
    assert parameters["components"][0]["y"] == pytest.approx(CENTRE[1], abs=0.1 * SCALE)


def test_the_parameters_give_the_model_image():
    # Rendered again from the dictionary alone; widths far above a pixel, so that samples are enough.
    observation, fit = system(4.0)[0], fit_of(4.0)
    position = (np.arange(N) - (N - 1) / 2) * SCALE
    image = np.zeros((N, N))
    for c in fit.parameters["components"]:
        x, y = position[None, :] - c["x"], position[:, None] - c["y"]
        along = x * math.cos(c["phi"]) + y * math.sin(c["phi"])
        across = y * math.cos(c["phi"]) - x * math.sin(c["phi"])
        radius2 = c["q"] * along**2 + across**2 / c["q"]
        image += c["amplitude"] * np.exp(-radius2 / (2 * c["sigma"] ** 2))
    again = blurred(image, observation.psf.astype(float)) + fit.parameters["sky"]
    # The model knows of light that is blurred into the frame from beyond its edge; `blurred` does not.
    inner = np.s_[20:-20, 20:-20]
    np.testing.assert_allclose(fit.model_image[inner], again[inner], atol=0.3 * NOISE)


def test_beside_the_arcs_the_galaxy_is_fitted_to_all_pixels():
    observation, arcs, light = system(1.0)
    rough = fit_of(1.0)
    fit = subtract_beside_source(observation, rough, arcs, observation.mask)
    residual = (fit.observation.image - arcs) / observation.noise
    assert 0.9 < np.mean(residual**2) < 1.1
    # Under the arcs too, where the first fit saw nothing.
    under = arcs > 3 * NOISE
    errors = [np.abs((each.model_image - light)[under]).mean() for each in (rough, fit)]
    assert errors[1] < errors[0]
    with pytest.raises(InputError, match="Only 30 pixels outside of masks"):
        subtract_beside_source(observation, rough, arcs, np.arange(N * N).reshape(N, N) < 30)


def stepped(fit, lens, frame=None, n_slopes=0, pull=0.0):
    frame = fit.observation if frame is None else frame
    tangent = Tangent(frame, lens, load_pretrained("small"), N)
    return step_with_source(frame, fit, frame, frame, fit.left_over, tangent, lens, tangent.slopes[:n_slopes], pull)


@pytest.mark.parametrize("share", [0.8, 1.2])
def test_light_is_shared_out_between_galaxy_and_source(share):
    """Where the one began with what is the other's, fits in turns find little left to explain."""
    observation, arcs, light = system(4.0)
    under = arcs > 3 * NOISE

    def taken(fit):
        return abs((fit.model_image - light)[under].sum() / arcs[under].sum())

    began = subtract_beside_source(observation, fit_of(4.0), share * arcs, observation.mask)
    source_fit = reconstruct(began.observation, LENS)
    in_turns = subtract_beside_source(observation, began, source_fit.model_image, observation.mask)
    found, steps = stepped(began, LENS)
    assert steps.shape == (0,)
    assert found[:-1].min() >= 0 and found.shape == began.amplitudes.shape
    together = with_amplitudes(observation, began, found)
    assert taken(began) > 0.1 and taken(in_turns) > 0.08
    assert taken(together) < 0.02
    # And nothing else is another one than before.
    np.testing.assert_array_equal(together.shape, began.shape)
    np.testing.assert_array_equal(with_amplitudes(observation, began, began.amplitudes).left_over, began.left_over)


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_where_light_in_the_source_costs_the_galaxy_has_more_of_it(unit):
    observation, arcs, _ = system(4.0)
    observation = dataclasses.replace(observation, image=unit * observation.image, noise=unit * observation.noise)
    began = subtract_beside_source(observation, fit_of(4.0), unit * arcs, observation.mask)
    lights = []
    for pull in (0.0, 50.0, 200.0):
        light = with_amplitudes(observation, began, stepped(began, LENS, pull=pull)[0])
        lights.append((light.model_image - began.model_image).sum() / (unit * arcs).sum())
    assert lights[0] + 0.01 < lights[1] < lights[2] - 0.03
    # However bright the unit; and the arcs, which the data know, stay the source's.
    assert lights[2] - lights[0] == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize("unit", [1.0, 1e-30])
@pytest.mark.parametrize("halo", [0.0, 0.03])
def test_what_of_the_arcs_may_be_the_galaxy(halo, unit):
    """A faint galaxy below them is found, and where there is none nearly nothing is."""
    _, arcs, _ = system(4.0)
    fit = fit_of(4.0)
    seen = fit.observation
    seen = dataclasses.replace(seen, image=unit * seen.image.astype(float), noise=unit * seen.noise)
    fit = dataclasses.replace(fit, observation=seen)
    used, arcs = np.hypot(*(np.indices((N, N)) - (N - 1) / 2)) < 45, np.maximum(arcs, 0)
    extra = halo * sersic(1.0, level=1.0)
    below = galaxy_below(fit, unit * (arcs + extra), used) / unit
    assert not below[~used].any() and (below >= 0).all() and (below <= 1.0001 * (arcs + extra)).all()
    if halo:
        off = (below - extra)[used]
        assert abs(off.sum()) < 0.1 * extra[used].sum()
        assert np.abs(off).mean() < 0.2 * extra[used].mean()
    else:
        assert below.sum() < 0.02 * arcs.sum()
    assert not galaxy_below(fit, unit * arcs, np.zeros((N, N), bool)).any()


def test_what_may_be_the_galaxy_is_found_about_a_masked_core_too():
    """Of a PSF with negative wings, which is all that pixels there see of the narrowest components."""
    observation, arcs, _ = system(4.0)
    psf, away = stamp(), np.hypot(*(np.indices((15, 15)) - 7.0))
    psf = np.where(away > 5, -2e-4 * psf.max(), psf)
    fit = fit_of(4.0)
    observation = dataclasses.replace(observation, psf=psf / psf.sum())
    columns = with_amplitudes(observation, fit, fit.amplitudes).left_over
    fit = dataclasses.replace(fit, left_over=columns)
    away = np.hypot(*(np.indices((N, N)) - (N - 1) / 2))
    used, extra = (away < 45) & (away > 12), 0.03 * sersic(1.0, level=1.0)
    below = galaxy_below(fit, np.maximum(arcs, 0) + extra, used)
    assert below.sum() == pytest.approx(extra[used].sum(), rel=0.15)


def test_lens_and_galaxy_go_together_in_whatever_unit():
    observation, arcs, light = system(4.0)
    off = dataclasses.replace(LENS, theta_E=1.11, x_lens=0.01)
    made = reconstruct(fit_of(4.0).observation, off).model_image
    began = subtract_beside_source(observation, fit_of(4.0), made, observation.mask)
    amplitudes, steps = stepped(began, off, n_slopes=7)
    there = Tangent(began.observation, off, load_pretrained("small"), N).lens(steps)
    assert abs(there.theta_E - LENS.theta_E) < 0.4 * 0.01 and abs(there.x_lens) < 0.4 * 0.01
    # A peak of 1e-30 [Jy] is as good as another.
    unit = 1e-30
    dim = dataclasses.replace(observation, image=unit * observation.image.astype(float), noise=unit * observation.noise)
    light = subtract_beside_source(dim, with_amplitudes(dim, began, unit * began.amplitudes), unit * made, dim.mask)
    again = stepped(light, off, n_slopes=7)
    np.testing.assert_allclose(again[1], steps, atol=0.1)
    scale = np.abs(amplitudes).max()
    np.testing.assert_allclose(again[0] / unit, amplitudes, atol=0.05 * scale)


def test_a_component_that_is_nowhere_seen_stays_away():
    observation, _, _ = system(4.0)
    holed = dataclasses.replace(observation, mask=np.hypot(*(np.indices((N, N)) - (N - 1) / 2)) > 4.5)
    fit = subtract_lens_light(holed, LENS)
    found, _ = stepped(fit, LENS)
    assert fit.amplitudes[0] == found[0] == 0  # the narrowest
    assert with_amplitudes(holed, fit, found).model_image.max() < 2 * system(4.0)[2].max()


def test_what_is_left_over_holds_small_errors_of_the_galaxy():
    fit = fit_of(1.0)
    moved = fit.model_image - np.roll(fit.model_image, 1, axis=1)
    inner = np.s_[10:-10, 10:-10]
    columns = fit.left_over[(slice(None), *inner)].reshape(len(fit.left_over), -1).T.astype(np.float64)
    unit = columns / np.sqrt((columns**2).sum(0))
    found = unit @ np.linalg.lstsq(unit, moved[inner].ravel(), rcond=1e-6)[0]
    assert np.abs(found - moved[inner].ravel()).max() < 0.1 * np.abs(moved[inner]).max()


def test_a_galaxy_is_significant_and_its_core_is_doubted():
    observation, arcs, _ = system(4.0)
    fit = fit_of(4.0)
    assert fit.significance(LENS) > 10 * SIGNIFICANT
    doubted, distance = fit.doubted(LENS), np.hypot(*(np.indices((N, N)) - (N - 1) / 2)) * SCALE
    np.testing.assert_array_equal(doubted.image, fit.observation.image)
    far, near = distance > 0.7 * LENS.theta_E, distance < 0.1 * LENS.theta_E
    np.testing.assert_array_equal(doubted.noise[far], observation.noise[far])
    assert (doubted.noise[near] > 1.2 * observation.noise[near]).all()


@pytest.mark.parametrize("linked", [False, True])
def test_neighbours_are_told_from_arcs(linked):
    """Though faint light may link both."""
    observation, arcs, _ = system(4.0)
    y, x = np.indices((N, N))
    spot = np.exp(-((x - 85) ** 2 + (y - 80) ** 2) / (2 * 1.5**2))
    link = 3 * NOISE * linked * (np.abs((x - 62) / 23 - (y - 62) / 18) < 0.3) * (x > 62) * (x < 85)
    fit = subtract_lens_light(dataclasses.replace(observation, image=observation.image + spot + link), LENS)
    labels, _ = ndimage.label(fit.arc_mask)
    assert (labels[80, 85] == labels[np.unravel_index(arcs.argmax(), arcs.shape)]) == linked
    neighbours = fit.neighbours(LENS)
    assert neighbours[spot > 0.3].all() and not neighbours[arcs > 3 * NOISE].any()
    # Not where the ring may be so large that the spot is part of it.
    assert not fit.neighbours(LENS, 1.6 * LENS.theta_E)[spot > 0.3].any()


def test_what_no_ellipse_has_is_not_left_out_with_the_arcs(monkeypatch):
    """Arcs are left out from the brightest down: what else there is, the model learns before it counts as one."""
    observation, arcs, _ = system(4.0)
    y, x = (np.indices((N, N)) - (N - 1) / 2) * SCALE
    halo = 6 * NOISE * np.exp(-((x - 0.25) ** 2 + (y + 0.2) ** 2) / (2 * 0.7**2))
    lopsided = dataclasses.replace(observation, image=observation.image + halo)
    ring = (arcs > NOISE) & (arcs < 20 * NOISE)

    def left():
        return abs((subtract_lens_light(lopsided, LENS).observation.image - arcs)[ring].sum())

    from_the_brightest = left()
    monkeypatch.setattr(lens_light, "_LOWER", math.inf)  # all at once
    assert from_the_brightest < 0.8 * left()


def test_a_star_far_from_the_ring_costs_no_fit(monkeypatch):
    observation, arcs, _ = system(4.0)
    y, x = np.indices((N, N))
    star = 1000 * NOISE * np.exp(-((x - 95) ** 2 + (y - 90) ** 2) / (2 * 1.5**2))
    fits, fit = [], lens_light._Galaxy.fit
    monkeypatch.setattr(lens_light._Galaxy, "fit", lambda *given: fits.append(1) or fit(*given))
    counts, left = [], []
    for light in (0.0, star):
        found = subtract_lens_light(dataclasses.replace(observation, image=observation.image + light), LENS)
        counts.append(len(fits))
        left.append((found.observation.image - light)[arcs > 3 * NOISE].sum())
        fits.clear()
    assert counts[1] <= counts[0] + 1
    assert left[1] == pytest.approx(left[0], rel=0.02)


def test_a_galaxy_whose_ellipses_turn_is_taken_off():
    """A bulge, a disc and a halo, each with an ellipticity of its own, as real galaxies have."""
    observation, _, _ = system(4.0, with_arcs=False)
    y, x = (np.indices((N, N)) - (N - 1) / 2) * SCALE
    light = np.full((N, N), SKY)
    for sigma, q, phi, level in ((0.15, 0.8, 0.3, 3.0), (0.5, 0.5, 1.3, 1.0), (1.2, 0.7, 2.6, 0.3)):
        along, across = x * math.cos(phi) + y * math.sin(phi), y * math.cos(phi) - x * math.sin(phi)
        light += level * np.exp(-(q * along**2 + across**2 / q) / (2 * sigma**2))
    noise, inner = 10 * NOISE, np.s_[10:-10, 10:-10]
    image = blurred(light, stamp()) + noise * np.random.default_rng(2).normal(size=(N, N))
    left = subtract_lens_light(dataclasses.replace(observation, image=image, noise=noise), LENS).observation.image
    assert np.mean((left[inner] / noise) ** 2) < 1.1


def test_a_galaxy_without_arcs_leaves_noise():
    observation, _, _ = system(4.0, with_arcs=False)
    left = subtract_lens_light(observation, LENS).observation.image / observation.noise
    assert 0.9 < np.mean(left**2) < 1.1
    assert abs(left.mean()) < 0.05


def test_masked_pixels_do_not_matter():
    observation, arcs, _ = system(4.0)
    mask = np.ones((N, N), bool)
    mask[10:30, 60:90] = False
    spoilt = np.where(mask, observation.image, 1e3)
    spoilt = dataclasses.replace(observation, image=spoilt, mask=mask)
    left = subtract_lens_light(spoilt, LENS).observation.image
    assert (left[~mask] == 0).all()
    assert np.mean((left / observation.noise)[mask & (arcs < 0.2 * NOISE)] ** 2) < 1.1


@pytest.mark.parametrize(
    ("theta_E", "keep", "message"),
    [
        (1.1, lambda radius: radius < 0.9, "Only 0 pixels beyond 1.5 theta_E"),
        (0.03, lambda radius: radius < 9.0, "usable pixels lie inside"),
        (1.1, lambda radius: radius > 0.9, "usable pixels lie inside"),
    ],
)
def test_too_few_pixels_are_refused(theta_E, keep, message):
    observation, _, _ = system(4.0)
    position = (np.arange(N) - (N - 1) / 2) * SCALE
    mask = keep(np.hypot(position[None, :], position[:, None]))
    with pytest.raises(InputError, match=message):
        subtract_lens_light(dataclasses.replace(observation, mask=mask), LensParameters(theta_E))


@pytest.mark.parametrize("radius", [2.5, 4.5])
def test_a_masked_core_hides_no_galaxy_and_makes_up_no_light(radius):
    """As of a saturated nucleus: the fit to the rest is as good, and in the hole no brighter than a galaxy."""
    observation, arcs, light = system(4.0)
    distance = np.hypot(*(np.indices((N, N)) - (N - 1) / 2))
    holed = dataclasses.replace(observation, mask=distance > radius)
    fit = subtract_lens_light(holed, LENS)
    left = (fit.observation.image / observation.noise)[(distance > radius + 1) & (arcs < 0.2 * NOISE)]
    assert np.mean(left**2) < 1.2
    assert fit.model_image.max() < 2 * light.max() and fit.significance(LENS) > SIGNIFICANT


def test_where_there_is_no_galaxy_none_is_made_up():
    """A component that lies among the arcs, which are left out, could be of any height."""
    observation, arcs, light = system(1.0)
    alone = dataclasses.replace(observation, image=observation.image - light)
    rng = np.random.default_rng(4)
    for x, y in rng.uniform(-0.2, 0.2, (3, 2)):
        lens = dataclasses.replace(LENS, x_lens=x, y_lens=y)
        assert np.abs(subtract_lens_light(alone, lens).model_image).max() < 0.2 * arcs.max()


def test_the_centre_tells_whether_a_galaxy_is_in_the_image():
    observation, _, light = system(1.0)
    assert core_over_ring(observation, LENS) > 2
    assert core_over_ring(dataclasses.replace(observation, image=observation.image - light), LENS) < 0.2
    noise = np.random.default_rng(2).normal(size=(N, N)) * observation.noise
    assert core_over_ring(dataclasses.replace(observation, image=noise), LENS) == 0


@pytest.mark.parametrize("psf", [0.06, stamp(), stamp()[:, 2:-2]])
def test_changes_of_the_galaxy_are_differences_of_its_image(psf):
    """Whatever is moved; and a stamp is blurred by outside of graphs as its operator does."""
    rng = np.random.default_rng(5)
    observation = Observation(rng.random((30, 34)), 0.1, psf, pixel_scale=SCALE)
    galaxy = lens_light._Galaxy(observation, *lens_light._coordinates(observation))
    shape = np.array([0.02, -0.03, 0.1, 0.05, -0.1, 0.02, 0.0, 0.2])
    amplitudes = rng.random(galaxy.n_components + 1) * (rng.random(galaxy.n_components + 1) > 0.3)
    here = galaxy.image(shape, amplitudes)
    for size in (1.0, 10.0):
        there = [galaxy.image(shape + size * step, amplitudes) for step in galaxy.steps(shape)]
        np.testing.assert_allclose(galaxy.changes(shape, amplitudes, size), there - here, atol=1e-9)
    np.testing.assert_allclose(np.tensordot(amplitudes, galaxy.columns(shape), 1), here, atol=1e-9)
    grid = PixelGrid(30, 34, np.float64(SCALE))
    blur = blur_operator(ops.convert_to_tensor(np.asarray(observation.psf, np.float64)[None]), grid)
    images = rng.random((2, 30, 34))
    np.testing.assert_allclose(galaxy._blurred(images), ops.convert_to_numpy(blur.forward(images)), atol=1e-9)
