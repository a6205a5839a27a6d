"""Contact sheets of prepared sets, of lenses or of galaxies."""

import math

import numpy as np
import tensorflow_datasets as tfds

from rim_tf.data.sets.opening import check_shards, damage_is_named, open_set
from rim_tf.errors import InputError


def show(where, n=24, split=None):
    """A contact sheet of a prepared set: a matplotlib Figure.

    Args:
      where: folder of the set.
      n: how many examples.
      split: the first one by default.

    Raises:
      InputError: no such set or split, or a file of it is damaged.
    """
    from matplotlib.figure import Figure

    builder = open_set(where)
    split = split or next(iter(builder.info.splits), None)
    if split not in builder.info.splits:
        raise InputError(f"{where} has no split {split!r}; it has {', '.join(builder.info.splits) or 'none'}.")
    if "image" not in builder.info.features:
        raise InputError(f"{where} has no images; a set of galaxies or of lenses has.")
    check_shards(builder, split)
    with damage_is_named(builder, split):
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False).take(n)))
    is_lenses = "source" in builder.info.features
    panels = [panel for example in examples for panel in _panels(example, builder, is_lenses)]
    columns = min(6, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, (image, title, colours) in zip(axes, panels, strict=False):
        ax.imshow(image, origin="lower", cmap=colours, interpolation="nearest")
        ax.set_title(title, fontsize=7)
    total = builder.info.splits[split].num_examples
    figure.suptitle(f"{where}, {split}: {len(examples)} of {total}", fontsize=9)
    return figure


def _panels(example, builder, is_lenses):
    """(image, title, colours) of each picture that an example has."""
    if not is_lenses:
        quality = builder.info.features["quality"].int2str(example["quality"])
        name = example["id"].decode().split(":")[-1]
        flaw = "" if quality == "clean" else f" ({quality})"
        # The outskirts, where the preparation works, are too faint for a linear scale.
        return [(np.arcsinh(30 * example["image"]), f"{name[-24:]}{flaw}", "magma")]
    theta_E = float(example["lens"][0])
    image = np.where(example["mask"], example["image"], np.nan) if "mask" in example else example["image"]
    return [(image, f'image, theta_E {theta_E:.2f}"', "magma"), (example["source"], "source", "viridis")]
