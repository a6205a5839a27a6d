"""Text and digits: upright, legible, and wrong files refused."""

import numpy as np
import pytest

from rim_tf.data.sources.drawings import draw_digit, draw_text, read_digits
from rim_tf.errors import InputError


def test_text_is_upright_and_legible():
    image = draw_text("L", 32)
    assert image.shape == (32, 32) and image.min() >= 0 and image.max() <= 1
    rows, columns = np.nonzero(image > 0.5)
    # The foot of an L is at the bottom, row 0 being the smallest y, and its stem at the left.
    assert np.sum(rows < rows.mean()) > np.sum(rows > rows.mean())
    assert np.mean(columns[rows > np.median(rows) + 3]) < columns.mean()
    assert np.all(image[[0, -1]] == 0) and np.all(image[:, [0, -1]] == 0)


def test_a_digit_is_upright_and_in_the_middle():
    seven = np.zeros((28, 28))
    seven[4, 4:24] = seven[4:24, 14] = 1.0  # its bar is at the top, row 0
    image = draw_digit(seven, 40)
    assert image.shape == (40, 40) and image.max() == 1
    rows, columns = np.nonzero(image)
    assert image[rows.max() - 1].sum() > 3 * image[rows.min() + 2].sum()
    assert abs(rows.mean() - 20) < 6 and abs(columns.mean() - 20) < 3


def test_the_first_of_each_digit_is_read(tmp_path, rng):
    images, labels = rng.random((5, 28, 28)), np.array([3, 3, 8, 3, 8])
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    digits = read_digits(tmp_path / "digits.npz")
    assert list(digits) == ["digit 3", "digit 8"]
    np.testing.assert_array_equal(list(digits.values()), images[[0, 2]])


DIGITS = {"images": np.ones((1, 28, 28)), "labels": np.ones(1)}


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"images": np.ones((2, 28, 28))},
        {"images": np.ones(3), "labels": np.ones(3)},
        {"images": np.ones((0, 28, 28)), "labels": np.ones(0)},
        DIGITS | {"images": np.zeros((1, 28, 28))},
        DIGITS | {"images": np.full((1, 28, 28), np.nan)},
        DIGITS | {"images": np.full((1, 28, 28), "ink")},
    ],
)
def test_files_without_digits_are_refused(tmp_path, arrays):
    path = tmp_path / "digits.npz"
    with pytest.raises(InputError, match="digits.npz cannot be read"):
        read_digits(path)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="digits.npz has"):
        read_digits(path)


def test_other_kinds_of_files_are_refused(tmp_path):
    for name, content in {"text.npz": b"digits", "cut.npz": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_digits(tmp_path / name)
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(InputError, match="array.npy cannot be read"):
        read_digits(tmp_path / "array.npy")
