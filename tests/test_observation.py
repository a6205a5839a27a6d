import warnings

import numpy as np
import pytest

from rim_tf.errors import InputError, InputWarning
from rim_tf.observation import Observation

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
    assert observation.mask.all() and observation.mask.dtype == bool


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_masked_with_a_warning(bad):
    with pytest.warns(InputWarning, match="1 pixels of image are NaN or infinite"):
        observation = observe(image=with_pixel(np.ones(SHAPE), bad))
    assert not observation.mask[2, 3] and observation.mask.sum() == np.prod(SHAPE) - 1
    assert np.isfinite(observation.image).all()


def test_pixels_that_are_masked_already_may_be_anything():
    mask = with_pixel(np.ones(SHAPE), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation = observe(
            image=with_pixel(np.ones(SHAPE), np.nan), noise=with_pixel(np.full(SHAPE, 0.1), -1.0), mask=mask
        )
    assert np.isfinite(observation.image).all() and (observation.noise > 0).all()


@pytest.mark.parametrize("huge", [1e8, np.inf])
def test_a_huge_noise_says_do_not_use(huge):
    assert not observe(noise=with_pixel(np.full(SHAPE, 0.1), huge)).mask[2, 3]


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
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change, complaint):
    with pytest.raises(InputError, match=complaint):
        observe(**change)
