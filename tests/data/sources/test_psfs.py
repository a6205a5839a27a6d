"""Measured PSFs: light is kept, wider pixels see a narrower star, and what is no stamp gets a sentence."""

import numpy as np
import pytest

from rim_tf.data.sources.psfs import load_psfs
from rim_tf.errors import InputError


def stamps(sigma, n=41):
    row = np.arange(n) - n // 2
    psf = np.exp(-(row[:, None] ** 2 + row**2) / (2 * sigma**2))
    return (psf / psf.sum())[None].astype(np.float32)


def test_stamps_are_centred_of_sum_one_and_as_wide_as_the_pixels_make_them(tmp_path):
    np.savez(tmp_path / "psf.npz", psf=stamps(3.0))
    found = load_psfs(tmp_path / "psf.npz", 21)
    assert found.shape == (4, 21, 21) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(found, found[:, ::-1, ::-1], atol=1e-6)
    row = np.arange(21) - 10
    variance = (found * row**2).sum((1, 2))
    # In pixels of width w, sigma is 3 / w; linear interpolation and the mean over a pixel add a little.
    for width, each in zip((1.0, 1.2, 1.4, 1.7), variance, strict=True):
        assert each == pytest.approx((3.0 / width) ** 2 + 1 / 12 + 1 / (6 * width**2), rel=0.03)


def test_what_is_no_stamp_gets_a_sentence(tmp_path):
    np.savez(tmp_path / "even.npz", psf=np.ones((2, 4, 4), np.float32))
    np.savez(tmp_path / "other.npz", image=np.ones((2, 5, 5), np.float32))
    np.savez(tmp_path / "dark.npz", psf=np.zeros((2, 5, 5), np.float32))
    for name, match in (("even", "odd k"), ("dark", "with light"), ("other", "no .npz file with an array 'psf'")):
        with pytest.raises(InputError, match=match):
            load_psfs(tmp_path / f"{name}.npz", 5)
    with pytest.raises(InputError, match="have Gaussian PSFs"):
        load_psfs(tmp_path / "even.npz", 0)
