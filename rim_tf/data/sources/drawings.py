"""Text and handwritten digits as sources: structure like nothing that a network was trained on (Figure 10)."""

import numpy as np

from rim_tf.errors import InputError
from rim_tf.files import DAMAGED, load_arrays


def draw_text(text, n):
    """Text as a source: upright, centred, filling most of the grid.

    Args:
      text: one or more lines.
      n: pixels on a side.

    Returns:
      Surface brightness from 0 to 1, [n, n] float32, row 0 the smallest y.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy import ndimage

    fine = 8 * n
    figure = Figure(figsize=(1, 1), dpi=fine, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    longest = max(map(len, text.split("\n")))
    figure.text(
        0.5, 0.5, text, color="white", weight="bold", size=72 * 1.1 / longest, ha="center", va="center", linespacing=1.1
    )
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[::-1, :, 0] / 255.0  # row 0 of the canvas is its top
    image = image.reshape(n, 8, n, 8).mean(axis=(1, 3))
    return (ndimage.gaussian_filter(image, 0.5) / image.max()).astype(np.float32)


def draw_digit(image, n):
    """A digit as a source: upright, on the middle 60 % of the grid.

    Args:
      image: [k, k], row 0 its top.
      n: pixels on a side of the grid.

    Returns:
      Surface brightness from 0 to 1, [n, n] float32, row 0 the smallest y.
    """
    from scipy import ndimage

    size = int(round(0.6 * n))
    resized = np.clip(ndimage.zoom(np.asarray(image, float)[::-1], size / image.shape[0], order=1), 0, None)
    before = (n - resized.shape[0]) // 2
    padded = np.pad(resized, [(before, n - before - resized.shape[0])] * 2)
    return (padded / padded.max()).astype(np.float32)


def read_digits(path):
    """The first of each digit in a file.

    Args:
      path: of an .npz file with `images` [N, k, k], row 0 their top, and `labels` [N].

    Returns:
      {"digit 0": [k, k], ...}, at most ten.

    Raises:
      InputError: no such file, another kind of file, or images that cannot be sources.
    """
    try:
        arrays = load_arrays(path)
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read as a NumPy .npz archive ({error}).") from None
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise InputError(f"{path} has not the array {missing[0]}; wanted images [N, k, k] and labels [N].")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim != 3 or images.shape[1] != images.shape[2] or labels.shape != images.shape[:1] or not len(labels):
        raise InputError(
            f"{path} has images of shape {images.shape} and labels of shape {labels.shape}; wanted [N, k, k] and [N]."
        )
    firsts = {f"digit {label}": images[np.flatnonzero(labels == label)[0]] for label in np.unique(labels)[:10]}
    for name, image in firsts.items():
        if image.dtype.kind not in "fiub" or not np.all(np.isfinite(image)) or not np.any(image > 0):
            raise InputError(f"{path} has an image of {name} without light, or with values that are no finite numbers.")
    return firsts
