"""Pictures of many systems and of several methods: arrays in, a matplotlib Figure out.

Methods are given by their names in METHODS, which has the label and the colour of each. Pictures of one system are in
`rim_tf.plots`.
"""

import json

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rim_tf.evaluation import store
from rim_tf.inference.methods import find_method
from rim_tf.lens import lens_from_dict
from rim_tf.observation import Observation
from rim_tf.plots import SIGMAS, brightness_norm, draw_image, extent, plot_reconstructions
from rim_tf.results import SourceFit

CAPTIONS = {
    "examples": "Examples, as the paper's Figure 3: of the first systems, those whose RMS error is at equal steps from "
    "best to worst.",
    "worst": "The systems on which {first} is worst, at most one of every twenty.",
    "flux": "Reconstructed against true flux, as the paper's Figure 4. Beyond the lower panel are at most 2 % of the "
    "systems of {first}.",
    "coherence": "Coherence spectrum (Eq. 8), as the paper's Figure 5: the mean over systems, with bootstrap errors as "
    "bands.",
    "coherence_pooled": "The same with powers averaged over all systems, so that each counts by its power.",
    "comparison": "The methods on one system, as the paper's Figure 6: that whose ratio of RMS errors is the median.",
    "unusual": "Text and handwritten digits as sources, as the paper's Figure 10.",
    "rms": "RMS error of each system against its noise; lines are medians.",
}


def draw_figures(columns, kept, unusual, numbers):
    """All pictures that the study has the data for.

    Args:
      columns: as `store.read_study` returns them.
      kept: likewise.
      unusual: likewise.
      numbers: of `rim_tf.evaluation.numbers.evaluate`.

    Returns:
      {name, a key of CAPTIONS: matplotlib Figure}. Where one method alone is shown it is the first of the study.
    """
    shown = next(iter(columns))
    figures = {"examples": _draw_systems(columns[shown], kept[shown], _spread(columns[shown], kept[shown]))}
    if np.any(kept[shown]["index"] >= store.CHUNK):
        figures["worst"] = _draw_systems(columns[shown], kept[shown], _worst(columns[shown], kept[shown]))
    longest = max(columns.values(), key=lambda sample: len(sample["rms"]))
    figures["flux"] = plot_flux(longest["true_flux"], {name: each["flux_error"] for name, each in columns.items()})
    k, scale = (numbers["coherence"][name] for name in ("k_cycles_per_field", "cycles_per_arcsec"))
    for figure, average in {"coherence": "mean", "coherence_pooled": "pooled"}.items():
        curves = {name: numbers["coherence"][name][average] for name in columns}
        figures[figure] = plot_coherence(k, curves, scale)
    figures["rms"] = plot_rms(longest["noise"], {name: each["rms"] for name, each in columns.items()})
    if len(kept) > 1:
        figures["comparison"] = _draw_comparison(columns, kept)
    if unusual:
        figures["unusual"] = _draw_unusual(unusual)
    return {name: figures[name] for name in CAPTIONS if name in figures}


# ------------------------------------------------------------------------------------------ all systems at once


def plot_flux(true_flux, flux_error):
    """Reconstructed against true flux, and its error below: the paper's Figure 4.

    Args:
      true_flux: [n], any unit, above 0.
      flux_error: {method: [m]}, relative, of the first m systems each; the first method is drawn on top, and its
        98th percentile sets the scale of the errors.
    """
    figure = Figure(figsize=(5.0, 5.6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for i, (name, error) in enumerate(flux_error.items()):
        true, method = true_flux[: len(error)], find_method(name)
        style = dict(color=method.colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=2 if i else 3)
        above.plot(true, true * (1 + error), "o", label=method.label, **style)
        below.plot(true, 100 * error, "o", **style)
    ends = np.array([true_flux.min(), true_flux.max()])
    above.plot(ends, ends, "k-", linewidth=1, label="one to one")
    below.axhline(0, color="k", linewidth=1)
    limit = 100 * np.quantile(np.abs(next(iter(flux_error.values()))), 0.98)
    below.set(xlabel="true flux [peak surface brightness x arcsec$^2$]", ylabel="error [%]")
    below.set_ylim(-1.2 * limit, 1.2 * limit)
    above.set(xscale="log", yscale="log", ylabel="reconstructed flux")
    for axis in (above.xaxis, above.yaxis, below.xaxis):
        _plain_log_ticks(axis)
    above.legend(fontsize=8)
    return figure


def plot_coherence(k, curves, cycles_per_arcsec):
    """Coherence against wavenumber: the paper's Figure 5.

    Args:
      k: cycles per field of the source, [n_k].
      curves: {method: {"value", "low", "high": [n_k] each}}.
      cycles_per_arcsec: of one cycle per field, for the upper axis; NaN leaves it out.
    """
    figure = Figure(figsize=(5.6, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        method = find_method(name)
        axes.fill_between(k, curve["low"], curve["high"], color=method.colour, alpha=0.3, linewidth=0)
        axes.plot(k, curve["value"], "o-", color=method.colour, markersize=3, linewidth=1, label=method.label)
    axes.set(xlabel="wavenumber [cycles per source field]", ylabel="coherence with the truth", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    if np.isfinite(cycles_per_arcsec):
        upper = axes.secondary_xaxis(
            "top", functions=(lambda x: x * cycles_per_arcsec, lambda x: x / cycles_per_arcsec)
        )
        upper.set_xlabel("cycles per arcsec", fontsize=8)
        upper.tick_params(labelsize=7)
    return figure


def _plain_log_ticks(axis):
    """1, 2, 5 times powers of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_rms(noise, rms):
    """RMS error against the noise of the image, both in units of the peak, with medians of up to 8 groups.

    Args:
      noise: [n].
      rms: {method: [m]}, of the first m systems each.
    """
    figure = Figure(figsize=(5.6, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, values in rms.items():
        x, method = noise[: len(values)], find_method(name)
        axes.plot(100 * x, 100 * values, "o", color=method.colour, markersize=2.5, alpha=0.35, markeredgewidth=0)
        edges = np.quantile(x, np.linspace(0, 1, 1 + max(1, min(8, len(x) // 20))))
        bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        centres = [100 * np.median(x[bins == i]) for i in np.unique(bins)]
        medians = [100 * np.median(values[bins == i]) for i in np.unique(bins)]
        axes.plot(centres, medians, "s-", color=method.colour, label=f"{method.label}, median")
    axes.set(xscale="log", yscale="log", xlabel="noise rms [% of the image's peak]", ylabel="RMS error [% of the peak]")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log_ticks(axis)
    axes.legend(fontsize=8)
    return figure


# ------------------------------------------------------------------------------------------------ single systems


def plot_comparison(image, truth, sources, pixel_scale, source_pixel_scale):
    """One system by several methods: the paper's Figure 6.

    Args:
      image: what was observed, [rows, columns].
      truth: the source, [n, n].
      sources: {method: [n, n]}, two or more; one row each.
      pixel_scale: of the image [arcsec].
      source_pixel_scale: [arcsec].
    """
    figure = Figure(figsize=(7.4, 2.4 * len(sources)), dpi=110, layout="constrained")
    panels = figure.subplots(len(sources), 3)
    draw_image(panels[0, 0], image, pixel_scale, brightness_norm(image)).set_title("observed", fontsize=9)
    norm = brightness_norm(truth)
    draw_image(panels[1, 0], truth, source_pixel_scale, norm).set_title("truth", fontsize=9)
    for axes in panels[2:, 0]:
        axes.set_axis_off()
    errors = {name: 100 * (source - truth) / truth.max() for name, source in sources.items()}
    limit = max(np.quantile(np.abs(error), 0.998) for error in errors.values())
    box = extent(truth.shape, source_pixel_scale)
    for row, name in zip(panels, sources, strict=True):
        label = find_method(name).label
        draw_image(row[1], sources[name], source_pixel_scale, norm).set_title(label, fontsize=9)
        picture = row[2].imshow(
            errors[name], origin="lower", extent=box, cmap=SIGMAS, vmin=-limit, vmax=limit, interpolation="none"
        )
        row[2].set_title(f"{label} - truth", fontsize=9)
        figure.colorbar(picture, ax=row[2], shrink=0.75).set_label("% of the peak", fontsize=7)
    for axes in panels.ravel():
        axes.tick_params(labelsize=6.5)
    return figure


def plot_unusual(names, images, truths, results):
    """Sources unlike any galaxy: the paper's Figure 10, one source to a row.

    Args:
      names: [n].
      images: observed, [n, rows, columns].
      truths: [n, m, m].
      results: {method: (model images [n, rows, columns], sources [n, m, m])}, from left to right.
    """
    columns = 2 + 2 * len(results)
    figure = Figure(figsize=(1.75 * columns, 1.85 * len(names) + 0.2), dpi=110, layout="constrained")
    panels = figure.subplots(len(names), columns, squeeze=False)
    labels = {name: find_method(name).label for name in results}
    for i, row in enumerate(panels):
        image_norm, source_norm = brightness_norm(images[i]), Normalize(-0.05 * truths[i].max(), truths[i].max())
        shown = [("observed", images[i], image_norm)]
        shown += [(f"model, {label}", results[name][0][i], image_norm) for name, label in labels.items()]
        shown += [("truth", truths[i], source_norm)]
        shown += [(label, results[name][1][i], source_norm) for name, label in labels.items()]
        for axes, (title, picture, norm) in zip(row, shown, strict=True):
            draw_image(axes, picture, 1.0, norm).set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(title, fontsize=8)
        row[0].set_ylabel(names[i], fontsize=8)
    return figure


# ---------------------------------------------------------------------------------- which of the kept are drawn


def _spread(sample, kept):
    """Positions in `kept` of six systems of the first chunk, from the best to the worst."""
    first = np.flatnonzero(kept["index"] < store.CHUNK)
    order = first[np.argsort(sample["rms"][kept["index"][first]])]
    return order[np.unique(np.linspace(0, len(order) - 1, min(6, len(order))).round().astype(int))]


def _worst(sample, kept, n=4):
    """Positions in `kept` of the worst of each chunk, the n worst of them, the worst first."""
    rms, chunk = sample["rms"][kept["index"]], kept["index"] // store.CHUNK
    worst = [max(np.flatnonzero(chunk == c), key=lambda i: rms[i]) for c in np.unique(chunk)]
    return sorted(worst, key=lambda i: -rms[i])[:n]


def _draw_systems(sample, kept, positions):
    results = [_result(sample, kept, position) for position in positions]
    names = [f"RMS {100 * sample['rms'][kept['index'][position]]:.2f} % of the peak" for position in positions]
    return plot_reconstructions(results, [kept["truth"][position] for position in positions], names)


def _result(sample, kept, position):
    """A kept system as the `SourceFit` it was."""
    i = kept["index"][position]
    psf = float(np.nan_to_num(sample["psf_sigma"][i]))
    image, noise, mask, source = (kept[name][position] for name in ("image", "noise", "mask", "source"))
    return SourceFit(
        source=source,
        source_pixel_scale=sample["field"][i] / source.shape[0],
        model_image=kept["model"][position],
        observation=Observation(image, noise, psf, mask, float(sample["pixel_scale"][i])),
        lens=lens_from_dict(json.loads(str(sample["lens"][i]))),
        seconds=float(sample["seconds"][i]),
        chi2_per_pixel=float(sample["chi2_per_pixel"][i]),
        flux_outside=0.0,
    )


def _draw_comparison(columns, kept):
    """Of the systems that all methods kept, that whose ratio of errors of the first two is the median."""
    n = min(np.sum(pictures["index"] < store.CHUNK) for pictures in kept.values())
    first, second = list(columns.values())[:2]
    i = int(np.argsort(second["rms"][:n] / first["rms"][:n])[n // 2])
    pictures = next(iter(kept.values()))
    image, truth = pictures["image"][i], pictures["truth"][i]
    sources = {name: each["source"][i] for name, each in kept.items()}
    scale = float(first["pixel_scale"][i])
    return plot_comparison(image, truth, sources, scale, first["field"][i] / truth.shape[0])


def _draw_unusual(unusual, n_most=5):
    """The first of the drawings, the first method of METHODS at the right, beside the truth's own column."""
    first = next(iter(unusual.values()))
    n = min([n_most, *(len(found["names"]) for found in unusual.values())])
    results = {name: (unusual[name]["kept_model"], unusual[name]["kept_source"]) for name in reversed(unusual)}
    return plot_unusual(list(map(str, first["names"][:n])), first["kept_image"], first["kept_truth"], results)
