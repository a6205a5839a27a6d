import math
import warnings

import numpy as np
import pytest
from scipy import ndimage

from rim_tf.errors import InputError, InputWarning
from rim_tf.observation import Observation, centred_psf, recentred

SHAPE = (9, 12)


def observe(**changes):
    arguments = {"image": np.ones(SHAPE), "noise": 0.1, "psf": 0.05, "mask": None, "pixel_scale": 0.08}
    return Observation(**arguments | changes)


def stamp(shape=(5, 5), total=1.0):
    return np.full(shape, total / np.prod(shape))


def with_pixel(array, value, where=(2, 3)):
    array = np.array(array, float)
    array[where] = value
    return array


def test_what_is_good_passes_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation = observe(noise=np.full(SHAPE, 0.1), psf=stamp(), mask=np.ones(SHAPE, bool))
    assert observation.shape == SHAPE
    assert observation.image.dtype == observation.noise.dtype == observation.psf.dtype == np.float32
    assert observation.mask.all() and observation.mask.dtype == bool and observation.unit == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_masked_with_a_warning(bad):
    with pytest.warns(InputWarning, match="1 pixels of image are NaN or infinite"):
        observation = observe(image=with_pixel(np.ones(SHAPE), bad))
    assert not observation.mask[2, 3] and observation.mask.sum() == np.prod(SHAPE) - 1
    assert np.isfinite(observation.image).all()


def test_where_a_core_was_cut_out_is_said():
    image = np.ones(SHAPE)
    image[3:6, 4:7] = image[0, 0] = np.nan
    with pytest.warns(InputWarning, match="10 pixels .* masked, 9 of them side by side about row 4, column 5."):
        assert observe(image=image).mask.sum() == image.size - 10


def test_pixels_that_are_masked_already_may_be_anything():
    mask = with_pixel(np.ones(SHAPE), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation = observe(
            image=with_pixel(np.ones(SHAPE), np.nan), noise=with_pixel(np.full(SHAPE, 0.1), -1.0), mask=mask
        )
    assert np.isfinite(observation.image).all() and (observation.noise > 0).all()


@pytest.mark.parametrize("huge", [1e8, np.inf])
def test_a_huge_noise_says_do_not_use_and_is_told(huge):
    noise = with_pixel(np.full(SHAPE, 0.1), huge)
    with pytest.warns(InputWarning, match="1 pixels have a noise that is infinite or 1e\\+06 times the usual; masked"):
        assert not observe(noise=noise).mask[2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observe(noise=noise, mask=with_pixel(np.ones(SHAPE), 0))  # the user knows


def test_a_pixel_of_absurdly_small_noise_does_not_outweigh_all_others():
    with pytest.warns(InputWarning, match=r"noise is 1e-12 at row 2, column 3 and 0.1 in most pixels; the 1 pixels"):
        observation = observe(noise=with_pixel(np.full(SHAPE, 0.1), 1e-12))
    assert not observation.mask[2, 3] and observation.mask.sum() == np.prod(SHAPE) - 1


@pytest.mark.parametrize("bad", [1e30, -1e30, 1e7])
def test_a_pixel_beyond_belief_is_masked_and_sets_no_unit(bad):
    with pytest.warns(InputWarning, match=r"at row 2, column 3 and at most about 1 elsewhere; 1 pixels"):
        observation = observe(image=with_pixel(np.ones(SHAPE), bad))
    assert not observation.mask[2, 3] and observation.mask.sum() == np.prod(SHAPE) - 1 and observation.unit == 1


def test_numpy_masks_are_kept():
    image, noise = np.ma.array(np.full(SHAPE, 1.0)), np.ma.array(np.full(SHAPE, 0.1))
    psf, mask = np.ma.array(stamp()), np.ma.array(np.ones(SHAPE, bool))
    image[0, 0], noise[0, 1], mask[0, 2], psf[0, 0] = (np.ma.masked,) * 4
    image.data[0, 0] = -999.0  # where a fill value of the pipeline may be
    noise.data[0, 1] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the psf's sum
        observation = observe(image=image, noise=noise, mask=mask, psf=psf)
    assert not observation.mask[0, :3].any() and observation.mask.sum() == np.prod(SHAPE) - 3
    assert observation.image.max() == 1 and observation.image.min() == 0
    assert observation.psf[0, 0] == 0 and observation.psf[0, 1] == pytest.approx(1 / 24)
    with pytest.raises(InputError, match="no finite pixel"):
        observe(image=np.ma.masked_all(SHAPE))


@pytest.mark.parametrize("factor", [1e-200, 1e-40, 1e-18, 1e-13, 1e13, 1e20, 1e40, 1e200])
def test_brightness_in_any_unit_is_kept(rng, factor):
    image, noise = rng.normal(size=SHAPE) + 3, np.full(SHAPE, 0.1)
    observation, usual = observe(image=factor * image, noise=factor * noise), observe(image=image, noise=noise)
    np.testing.assert_allclose(observation.image, factor * image, rtol=1e-6)
    np.testing.assert_allclose(observation.noise, factor * noise, rtol=1e-6)
    # In its unit it is near one, and the unit a power of two, so that nothing is rounded.
    assert 0.1 < np.abs(observation.image).max() / observation.unit < 20 and math.frexp(observation.unit)[0] == 0.5
    scaled = observation.in_data_units(usual.image)
    np.testing.assert_allclose(scaled, observation.unit * usual.image.astype(float))
    assert usual.unit == 1 and usual.in_data_units(usual.image) is usual.image


def test_one_bright_block_sets_no_unit_that_loses_the_rest():
    image = np.ones((20, 20))
    image[3:9, 3:9] = 1e30
    with pytest.raises(InputError, match=r"image is as bright as 1e\+30 and noise is 0.1, which no telescope reaches"):
        observe(image=image)


# --------------------------------------------------------------------------------------- what looks like a mistake


def gaussian(n, sigma, shift=(0.0, 0.0), level=0.0):
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    psf = np.exp(-((y - shift[0]) ** 2 + (x - shift[1]) ** 2) / 2 / sigma**2) + level
    return psf / psf.sum()


@pytest.fixture(scope="module")
def ring():
    """A ring of light, faint noise, [40, 40]."""
    y, x = np.mgrid[:40, :40] - 19.5
    ring = np.exp(-((np.hypot(x, y) - 10) ** 2) / 2 / 2**2)
    return ring + 0.05 * np.random.default_rng(1).normal(size=ring.shape)


def said(ring, **changes):
    """The warnings about an observation of the ring with changes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        observe(**{"image": ring, "noise": 0.05, "psf": gaussian(9, 1.5)} | changes)
    assert all(issubclass(each.category, InputWarning) for each in caught)
    return [str(each.message) for each in caught]


def test_ordinary_data_are_not_doubted(ring, rng):
    outside = np.hypot(*(np.mgrid[:40, :40] - 19.5)) > 16
    noises = 0.05 * np.exp(0.5 * rng.normal(size=ring.shape))
    correlated = (ring + np.roll(ring, 1, 0) + np.roll(ring, 1, 1)) / 3
    for changes in (
        {},
        {"psf": 0.1},
        {"mask": ~outside},
        {"noise": 0.03},
        {"noise": 0.1},
        {"noise": noises},
        {"image": correlated},
        {"image": 1e-20 * ring, "noise": 5e-22},
        {"image": 1e3 * ring, "noise": 50.0},
        {"psf": gaussian(9, 1.5, shift=(0.2, -0.2))},
        {"psf": gaussian(31, 1.5)},
        {"image": ring - 0.5},
        {"image": ring + 100.0},
    ):
        assert said(ring, **changes) == [], changes


def test_an_image_without_light_is_doubted(ring):
    assert said(np.zeros((40, 40))) == ["image is 0 in all pixels; check that the right file and HDU were given."]
    assert said(-np.abs(ring)) == ["image has no pixel above 0; check its sign and its sky subtraction."]


def test_a_mask_of_the_other_polarity_is_doubted(ring):
    sky = np.abs(np.hypot(*(np.mgrid[:40, :40] - 19.5)) - 10) > 6
    (text,) = said(ring, mask=sky)
    assert "mask leaves out" in text and "probably the other way round" in text
    assert said(ring, mask=~sky) == []
    (text,) = said(0.3 * ring, mask=sky, noise=0.015 * np.where(sky, 1, 1e8))  # as pipelines mark it besides
    assert "mask leaves out" in text
    # A mask of a star that is brighter than the arcs is an ordinary one.
    star = ring + 1e3 * np.exp(-((np.mgrid[:40, :40] - 5) ** 2).sum(0) / 2 / 2**2)
    assert said(star, mask=star < 5) == []


@pytest.mark.parametrize("sigma", [0.002, 0.05, 10.0, 300.0])
@pytest.mark.parametrize(("power", "name"), [(2, "a variance"), (-2, "an inverse variance")])
def test_a_noise_of_another_kind_is_doubted(ring, sigma, power, name):
    (text,) = said(ring * sigma / 0.05, noise=sigma**power)
    assert f"it looks like {name}" in text


def test_a_psf_off_its_centre_is_doubted(ring):
    for shift in ((0.5, 0.0), (0.0, -0.5), (1.0, 1.0), (0.0, 3.0)):
        (text,) = said(ring, psf=gaussian(21, 1.5, shift))
        assert f"psf has its centre {shift[0]:+.2f} rows and {shift[1]:+.2f} columns" in text.replace("-0.00", "+0.00")


def test_a_psf_with_negative_light_is_doubted(ring):
    hollow = gaussian(9, 1.5) - 0.5 * gaussian(9, 2.5)
    (text,) = said(ring, psf=hollow / hollow.sum())
    assert "psf has pixels as low as" in text
    assert said(ring, psf=gaussian(9, 1.5, level=-0.002)) == []


def test_a_psf_as_wide_as_the_field_is_doubted(ring):
    (text,) = said(ring, psf=1.5)
    assert "psf is 44.2 pixels wide at half its maximum, and the image 40 in all; sigma must be in arcsec" in text
    (text,) = said(ring, psf=gaussian(61, 15.0))
    assert "check that the right file" in text


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (14, 17)])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.5), (-0.3, 1.2)])
def test_a_psf_is_brought_to_odd_sides_and_its_centre_to_the_middle(shape, shift):
    def gaussian(shape, shift):
        y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
        return np.exp(-((y[:, None] - shift[0]) ** 2 + (x - shift[1]) ** 2) / 2 / 1.5**2)

    odd = tuple(n // 2 * 2 + 1 for n in shape)
    np.testing.assert_allclose(centred_psf(gaussian(shape, shift)), gaussian(odd, (0, 0)), atol=0.006)


def test_what_has_no_centre_is_not_centred():
    for psf in (np.zeros((4, 4)), np.ones(4), 0.1, np.full((4, 4), np.nan)):
        with pytest.raises(InputError, match="can be centred"):
            centred_psf(psf)


def test_a_pixel_scale_is_asked_for():
    with pytest.raises(InputError, match="pixel_scale is missing"):
        Observation(np.ones(SHAPE), 0.1, 0.05)


def test_a_psf_is_normalised_with_a_warning():
    with pytest.warns(InputWarning, match="psf sums to 0.95"):
        observation = observe(psf=stamp(total=0.95))
    assert observation.psf.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("psf", [0.0, stamp((1, 1)), stamp((3, 7)), stamp((31, 31))])
def test_psfs_of_any_odd_size_are_taken(psf):
    assert np.shape(observe(psf=psf).psf) == np.shape(psf)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image": np.ones((3, 9, 12))}, "two-dimensional"),
        ({"image": np.ones((3, 12))}, "at least 4 pixels"),
        ({"image": "lens.fits"}, "image is not an array of numbers"),
        ({"image": np.full(SHAPE, np.nan)}, "no finite pixel"),
        ({"noise": np.ones((9, 11))}, "noise has shape"),
        ({"noise": 0.0}, "noise is 0"),
        ({"noise": -1.0}, "noise is -1"),
        ({"noise": np.nan}, "noise is nan"),
        ({"noise": np.zeros(SHAPE)}, "noise is 0"),
        ({"noise": with_pixel(np.full(SHAPE, 0.1), 0.0)}, "noise is 0 at row 2, column 3"),
        ({"noise": with_pixel(np.full(SHAPE, 0.1), -0.1)}, "noise is -0.1"),
        ({"noise": with_pixel(np.full(SHAPE, 0.1), np.nan)}, "noise is nan"),
        ({"psf": stamp((4, 4))}, "must be odd"),
        ({"psf": stamp((5, 6))}, "must be odd"),
        ({"psf": np.zeros((5, 5))}, "psf sums to 0"),
        ({"psf": stamp(total=-1.0)}, "psf sums to -1"),
        ({"psf": with_pixel(stamp(), np.nan)}, "psf has 1 NaN"),
        ({"psf": np.ones(5)}, "psf has shape"),
        ({"psf": -0.1}, "psf is -0.1"),
        ({"psf": np.nan}, "psf is nan"),
        ({"mask": np.ones((12, 9))}, "mask has shape"),
        ({"mask": np.full(SHAPE, 2)}, "mask holds other values"),
        ({"mask": np.zeros(SHAPE)}, "masked"),
        ({"pixel_scale": 0.0}, "pixel_scale is 0"),
        ({"pixel_scale": np.nan}, "pixel_scale is nan"),
        ({"pixel_scale": "wide"}, "pixel_scale is 'wide'"),
        ({"pixel_scale": 1e300}, "pixel_scale is 1e\\+300"),
        ({"image": np.full(SHAPE, 1j)}, "image is not an array of numbers"),
        ({"image": [[10**400] * 4] * 4}, "image is not an array of numbers"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change, complaint):
    with pytest.raises(InputError, match=complaint):
        observe(**change)


# ------------------------------------------------------------------------------------------- stars in the frame

SCALE, SIDE = 0.1, 41


def sky_with(light, noise=0.05, psf=0.12, **changes):
    """Such light [SIDE, SIDE] with white noise."""
    image = light + noise * np.random.default_rng(5).normal(size=(SIDE, SIDE))
    return {"image": image, "noise": noise, "psf": psf, "pixel_scale": SCALE} | changes


def star(height, sigma=0.12, row=20.3, column=19.8):
    rows, columns = np.indices((SIDE, SIDE))
    return height * np.exp(-(((rows - row) ** 2 + (columns - column) ** 2) * (SCALE / sigma) ** 2) / 2)


def galaxy(height, half_light=0.6):
    """An elliptical galaxy seen by this PSF (de Vaucouleurs), in the middle."""
    fine = (np.arange(5 * SIDE) - (5 * SIDE - 1) / 2) * SCALE / 5
    radius = np.hypot(fine[:, None], fine)
    light = np.exp(-7.67 * (np.maximum(radius, 0.01) / half_light) ** 0.25).reshape(SIDE, 5, SIDE, 5).mean((1, 3))
    light = ndimage.gaussian_filter(light, 0.12 / SCALE)
    return height * light / light.max()


def test_a_saturated_star_is_masked_with_what_is_beside_it():
    given = sky_with(star(1000.0))
    given["image"] = np.minimum(given["image"], 400.0)
    n = int((given["image"] == 400.0).sum())
    assert n >= 5
    with pytest.warns(InputWarning, match=rf"{n} pixels about row 20, column 20 \(-0.01, 0.01 arcsec .* value, 400,"):
        observation = Observation(**given)
    rows, columns = np.nonzero(given["image"] == 400.0)
    for i, j in ((-1, -1), (0, 0), (1, 0), (1, 1)):
        assert not observation.mask[rows + i, columns + j].any()
    assert n < (~observation.mask).sum() < 4 * n
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a user who has masked it knows
        assert Observation(**given | {"mask": observation.mask}).mask.sum() == observation.mask.sum()


@pytest.mark.parametrize("top", [0.2, 10.0])
def test_no_plateau_is_seen_in_noise_or_in_light_that_is_flat(top):
    """A disc as bright everywhere, behind noise, was measured; and so was an image without any noise."""
    rows, columns = np.indices((SIDE, SIDE)) - 20
    disc = top * (np.hypot(rows, columns) < 8)
    for image in (sky_with(disc)["image"], star(10.0, sigma=0.5), np.ones((SIDE, SIDE))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert observe(image=image, noise=0.05, psf=0.12).mask.all()


def test_a_point_source_that_outshines_all_is_doubted_and_a_galaxy_is_not():
    ring = galaxy(0.0) + 0.5 * np.exp(-((np.hypot(*(np.indices((SIDE, SIDE)) - 20)) - 11) ** 2) / 4)
    for light in (star(200.0), star(200.0, row=8.0, column=30.4), star(200.0) + galaxy(2.0)):
        with pytest.warns(InputWarning, match="is a point source .* times brighter than all that is more than"):
            assert Observation(**sky_with(light + ring)).mask.all()
    stamp_of = star(1.0, row=20, column=20)[13:28, 13:28]
    with pytest.warns(InputWarning, match="is a point source"):
        Observation(**sky_with(star(200.0) + ring, psf=stamp_of / stamp_of.sum()))
    with pytest.warns(InputWarning, match="0.00, 0.00 arcsec from the middle, is a point source .* a hot pixel"):
        observe(image=with_pixel(sky_with(ring)["image"], 100.0, (20, 20)), noise=0.05, psf=0.0)
    # A galaxy, however bright; stars that have their like, as the images of a quasar; and a faint one.
    for light in (galaxy(200.0) + ring, star(200.0) + star(90.0, row=8), star(5.0) + ring):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Observation(**sky_with(light))


# ---------------------------------------------------------------------------------------------- another centre


@pytest.mark.parametrize(("x", "y", "shape"), [(0.5, -0.3, (35, 31)), (-0.5, 0.05, (40, 31)), (0.0, 0.0, (41, 41))])
def test_a_frame_is_cut_about_a_point_and_knows_where(x, y, shape):
    image = np.arange(SIDE * SIDE, dtype=float).reshape(SIDE, SIDE) / SIDE**2
    observation = recentred(observe(image=image, pixel_scale=SCALE), (x, y))
    assert observation.shape == shape and observation.centre == pytest.approx((x, y))
    # Where a pixel of it lies in the whole frame, by either's coordinates.
    for row, column in ((0, 0), (5, 17)):
        there = np.argwhere(np.isclose(image, observation.image[row, column], rtol=1e-6, atol=0))[0]
        in_whole = (there - (SIDE - 1) / 2) * SCALE
        in_part = (np.array([row, column]) - (np.array(shape) - 1) / 2) * SCALE
        np.testing.assert_allclose(in_part + (y, x), in_whole, atol=1e-12)
    assert recentred(observation, (0.2, 0.1)).centre == pytest.approx((x + 0.2, y + 0.1))


@pytest.mark.parametrize("bad", [(2.1, 0.0), (0.0, -2.0), (99, 99)])
def test_a_point_beyond_the_frame_is_refused(bad):
    with pytest.raises(InputError, match=r"centre is \(.*which reaches from -2.05 to 2.05 in x and -2.05 to 2.05 in y"):
        recentred(observe(image=np.ones((SIDE, SIDE)), pixel_scale=SCALE), bad)


@pytest.mark.parametrize("bad", [(1,), (1, 2, 3), ("a", 1), (np.nan, 0), 3, None, (np.inf, 1)])
def test_a_centre_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match="it must be two numbers, x and y from the middle of the frame"):
        recentred(observe(), bad)
