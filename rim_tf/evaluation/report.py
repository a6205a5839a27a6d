"""A study's figures and pictures: report.json with every number, report.md and report.html to read.

Every number has an error from a bootstrap over the systems, and the number of systems it is made of. Where the two
methods are compared it is on the systems that both have done.
"""

import base64
import contextlib
import dataclasses
import html
import json
import math
import os
import pathlib
import uuid
from collections.abc import Callable

import numpy as np

from rim_tf import plots
from rim_tf.errors import InputError
from rim_tf.evaluation import metrics, study
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.results import Reconstruction

FIGURES = {
    "examples": "Examples, as the paper's Figure 3: of the first systems, those whose RMS error is at equal steps from "
    "best to worst.",
    "worst": "The systems on which the RIM is worst, at most one of every twenty.",
    "flux": "Reconstructed against true flux, as the paper's Figure 4. Beyond the lower panel are at most 2 % of the "
    "systems of the RIM.",
    "coherence": "Coherence spectrum (Eq. 8), as the paper's Figure 5: the mean over systems, with bootstrap errors as "
    "bands.",
    "coherence_pooled": "The same with powers averaged over all systems, so that each counts by its power.",
    "comparison": "Both methods on one system, as the paper's Figure 6: that whose ratio of RMS errors is the median.",
    "unusual": "Text and handwritten digits as sources, as the paper's Figure 10.",
    "rms": "RMS error of each system against its noise; lines are medians.",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of merit: a statistic of a column of the systems.

    Attributes:
      label: with its unit. paper: what the paper reports, for its network.
      column: which column. factor: what it is multiplied by.
      statistic: function (values [..., n], axis) -> [...]; None for the percentage beyond 3 from zero.
      digits: after the decimal point.
    """

    label: str
    column: str
    statistic: Callable | None
    factor: float = 1.0
    paper: str = ""
    digits: int = 2


def _median_absolute(values, axis):
    return np.median(np.abs(values), axis=axis)


def _p90(values, axis):
    return np.percentile(values, 90, axis=axis)


FIGURES_OF_MERIT = {
    "rms": Figure("RMS error, median [% of peak]", "rms", np.median, 100, "< 0.5", 3),
    "rms_90": Figure("RMS error, 90th percentile [% of peak]", "rms", _p90, 100, digits=3),
    "flux_absolute": Figure("flux error, median of its modulus [%]", "flux_error", _median_absolute, 100, "3"),
    "flux_bias": Figure("flux bias, median [%]", "flux_error", np.median, 100, "0.07", 3),
    "flux_bias_mean": Figure("flux bias, mean [%]", "flux_error", np.mean, 100, digits=3),
    "chi2": Figure("chi^2 per pixel, median", "chi2", np.median, digits=4),
    "correlation": Figure("correlation of neighbouring residuals, median", "correlation", np.median, digits=4),
    "whiteness": Figure("residuals not white at 3 sigma [% of systems]", "whiteness", None, digits=1),
    "psnr": Figure("PSNR, median [dB]", "psnr", np.median),
    "ssim": Figure("SSIM, median", "ssim", np.median, digits=4),
    "negative": Figure("light in negative pixels, median [%]", "negative_flux", np.median, 100),
    "prior": Figure("log-prior against the truth's, median [sigma]", "prior", np.median, 1, "0.2 (inversion 13)"),
    "prior_sigmas": Figure("log-prior in sigmas of the prior itself, median", "prior_sigmas", np.median),
    "seconds": Figure("time for a system, median [s]", "seconds", np.median, digits=3),
}
# In the tables by noise, magnification and size.
_SHORT = ("rms", "flux_absolute", "flux_bias", "chi2")


def write_report(out):
    """Write report.json, report.md, report.html and figures/ of the study in `out`, from what is there of it.

    Returns:
      The numbers, as they are in report.json.

    Raises:
      InputError: the folder holds no study, or one without a finished system.
    """
    out = pathlib.Path(out)
    settings, columns, kept, unusual = study.read_study(out)
    numbers = evaluate(settings, columns, unusual)
    figures = draw_figures(columns, kept, unusual, numbers)
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        path = out / "figures" / f"{name}.png"
        _replace(path, lambda partial, figure=figure: figure.savefig(partial, dpi=80, format="png"))
    for path in (out / "figures").glob("*.png"):
        if path.stem not in figures:
            path.unlink()  # of a report on another part of this study
    blocks = _blocks(numbers, list(figures))
    content = {
        "report.json": json.dumps(_plain(numbers), indent=1, allow_nan=False) + "\n",
        "report.md": markdown(blocks),
        "report.html": page(blocks, out),
    }
    for name, text in content.items():
        _replace(out / name, lambda partial, text=text: partial.write_text(text))
    return numbers


# ------------------------------------------------------------------------------------------------- the numbers


def evaluate(settings, columns, unusual):
    """Every number of the report, from what `study.read_study` returns, as nested dictionaries and lists."""
    samples = {method: dict(values) for method, values in columns.items()}
    if "rim" in samples:
        rim = samples["rim"]
        samples["truth"] = {name: rim[f"truth_{name}"] for name in ("chi2", "correlation", "whiteness")}
    _share_priors(samples)
    groups = _groups(_longest(columns), settings)
    n = {method: len(sample["rms"]) for method, sample in columns.items()}
    numbers = {"settings": settings, "n": n, "systems": {}, "groups": {}}
    if len(n) == 2 and n["rim"] > n["inversion"]:
        samples["rim_on_inverted"] = {name: values[: n["inversion"]] for name, values in samples["rim"].items()}
    numbers["systems"] = {name: _figures_of(sample) for name, sample in samples.items()}
    for kind, members in groups.items():
        numbers["groups"][kind] = {
            label: {name: _figures_of(_part(sample, chosen)) for name, sample in samples.items()}
            | _comparison(_part_of_all(columns, chosen))
            for label, chosen in members.items()
        }
    numbers["comparison"] = _comparison(columns)
    numbers["coherence"] = _coherence(columns)
    numbers["unusual"] = {
        method: {
            str(name): {"rms_percent_of_peak": 100 * float(rms), "chi2_per_pixel": float(chi2)}
            for name, rms, chi2 in zip(found["names"], found["rms"], found["chi2"], strict=True)
        }
        for method, found in unusual.items()
    }
    numbers["goals"] = _goals(numbers)
    return numbers


def _longest(columns):
    """The columns of the method that has done the most systems."""
    return max(columns.values(), key=lambda sample: len(sample["rms"]))


def _share_priors(samples):
    """What the linear prior, at the strength of each inversion, says of truth, inversion and RIM, as columns of each.

    `prior_sigmas`: the source's own log-prior, in standard deviations of those that sources drawn from the prior
    have, above 0 where it is rougher than they. `prior`: `metrics.prior_distance` to the truth. NaN where there is no
    inversion.
    """
    inversion = samples.get("inversion")
    if inversion is None:
        return
    strength, rank = inversion["strength"], inversion["prior_rank"]
    for method in ("rim", "inversion"):
        if method in samples:
            n = min(len(strength), len(samples[method]["rms"]))
            ours, true = (strength[:n] * samples[method][name][:n] for name in ("roughness", "truth_roughness"))
            samples[method]["prior"] = np.full(len(samples[method]["rms"]), np.nan)
            samples[method]["prior"][:n] = metrics.prior_distance(-true / 2, -ours / 2)
            samples[method]["prior_sigmas"] = np.full(len(samples[method]["rms"]), np.nan)
            samples[method]["prior_sigmas"][:n] = (ours - rank[:n]) / np.sqrt(2 * rank[:n])
    if "truth" in samples:
        samples["truth"]["prior_sigmas"] = (strength * inversion["truth_roughness"] - rank) / np.sqrt(2 * rank)


def _figures_of(sample):
    """Each figure of merit that the columns allow, with its error."""
    figures = {}
    for name, figure in FIGURES_OF_MERIT.items():
        if figure.column in sample:
            values = figure.factor * np.asarray(sample[figure.column], float)
            if figure.column in ("prior", "prior_sigmas"):  # NaN where there is no inversion; elsewhere NaN must show
                values = values[np.isfinite(values)]
            beyond = figure.statistic is None
            figures[name] = (
                metrics.percentage(np.abs(values) > 3) if beyond else metrics.bootstrap(values, figure.statistic)
            )
    return figures


def _groups(sample, settings):
    """{what it is broken down by: {label: boolean [n]}}."""
    return {
        "noise over the image's peak": _noise_decades(sample["noise"], settings["mocks"]["log_noise"]),
        "magnification": _bins(sample["magnification"], [4.5, 7.0], "{}"),
        "half-light radius of the source": _bins(
            sample["half_light_radius"], _round_edges(sample["half_light_radius"]), '{}"'
        ),
    }


def _noise_decades(noise, limits):
    lowest = math.floor(math.log10(limits[0]) + 1e-6)
    highest = max(lowest + 1, math.ceil(math.log10(limits[1]) - 1e-6))
    # Single precision may put a system a hair beyond the limits.
    decade = np.clip(np.floor(np.log10(noise)), lowest, highest - 1)
    return {f"{10 ** (d + 2):g}-{10 ** (d + 3):g} %": decade == d for d in range(lowest, highest)}


def _round_edges(values):
    """Terciles of a sample, to two digits, so that they can be read."""
    edges = [float(f"{edge:.2g}") for edge in np.quantile(values, [1 / 3, 2 / 3])]
    return sorted(set(edges))


def _bins(values, edges, form):
    names = [form.format(f"{edge:g}") for edge in edges]
    labels = [f"< {names[0]}", *(f"{a} to {b}" for a, b in zip(names, names[1:], strict=False)), f"> {names[-1]}"]
    index = np.searchsorted(edges, values)
    return {label: index == i for i, label in enumerate(labels)}


def _part(sample, chosen):
    """The chosen [n] systems of a sample; a column is shorter where a method lags behind."""
    return {name: values[: len(chosen)][chosen[: len(values)]] for name, values in sample.items()}


def _part_of_all(columns, chosen):
    return {method: _part(sample, chosen) for method, sample in _common(columns).items()}


def _common(columns):
    """The columns of both methods on the systems that both have; empty where one has none."""
    if len(columns) < 2:
        return {}
    n = min(len(sample["rms"]) for sample in columns.values())
    common = {method: {name: v[:n] for name, v in sample.items()} for method, sample in columns.items()}
    if not np.allclose(common["rim"]["lens"], common["inversion"]["lens"], atol=1e-5):
        raise InputError(
            "The methods did not see the same systems, which machines of different kinds may draw differently; make "
            "the study again in another --out, on one machine."
        )
    return common


def _comparison(columns):
    """How often, and by how much, the RIM has the smaller RMS error."""
    common = _common(columns)
    if not common:
        return {}
    rim, inversion = common["rim"]["rms"], common["inversion"]["rms"]
    return {
        "rim_better_percent": metrics.percentage(rim < inversion),
        "rms_ratio": metrics.bootstrap(inversion / rim, np.median),
    }


def _coherence(columns):
    """Curves of both methods, and of their difference where both have done the same systems."""
    first = next(iter(columns.values()))
    result = {"k_cycles_per_field": np.arange(1, first["p12"].shape[-1])}
    result["cycles_per_arcsec"] = _cycles_per_arcsec(first)
    for method, sample in columns.items():
        result[method] = _curves(sample)
    common = _common(columns)
    if common:
        result["difference"] = {}
        weights = metrics.bootstrap_weights(len(common["rim"]["rms"]))
        for name, average in _AVERAGES.items():
            curves = [
                [average(_powers(common[method]), w) for method in ("rim", "inversion")]
                for w in (np.ones(weights.shape[1]), weights)
            ]
            value, draws = (rim - inversion for rim, inversion in curves)
            result["difference"][name] = {"value": value, "error": np.std(draws, axis=0)}
    return result


_AVERAGES = {"mean": metrics.mean_coherence, "pooled": metrics.pooled_coherence}


def _powers(sample):
    """Without k = 0, which is the flux; each system in units of its true peak, as sources are drawn."""
    return tuple(sample[name][:, 1:] for name in ("p12", "p11", "p22"))


def _curves(sample):
    weights, curves = metrics.bootstrap_weights(len(sample["rms"])), {}
    for name, average in _AVERAGES.items():
        draws = average(_powers(sample), weights)
        low, high = np.percentile(draws, metrics.ONE_SIGMA, axis=0)
        value = average(_powers(sample), np.ones(weights.shape[1]))
        curves[name] = {"value": value, "error": np.std(draws, axis=0), "low": low, "high": high}
    return curves


def _cycles_per_arcsec(sample):
    """Of one cycle per field, where all systems have one pixel scale; NaN otherwise."""
    width = sample["field"]
    return float(1 / width[0]) if np.ptp(width) < 1e-4 * width[0] else math.nan


def _goals(numbers):
    """[{goal, value, error, met}] of what this package set itself, as far as the study has the numbers."""
    rim, goals = numbers["systems"].get("rim"), []
    if rim is None:
        return goals

    def add(goal, figure, met, digits=3):
        text = f"{figure['value']:.{digits}f} ± {figure['error']:.{digits}f}"
        goals.append({"goal": goal, "value": figure["value"], "error": figure["error"], "text": text, "met": bool(met)})

    add("median RMS at most 0.45 % of the peak", rim["rms"], rim["rms"]["value"] <= 0.45)
    add("median flux error at most 2 %", rim["flux_absolute"], rim["flux_absolute"]["value"] <= 2)
    add("flux bias (median) within 0.1 %", rim["flux_bias"], abs(rim["flux_bias"]["value"]) <= 0.1)
    add("flux bias (mean) within 0.1 %", rim["flux_bias_mean"], abs(rim["flux_bias_mean"]["value"]) <= 0.1)
    for label, group in numbers["groups"]["noise over the image's peak"].items():
        chi2 = group["rim"]["chi2"]
        if chi2["n"]:
            add(f"chi^2 per pixel (median) within 2 % of 1, noise {label}", chi2, abs(chi2["value"] - 1) <= 0.02, 4)
    for name, difference in numbers["coherence"].get("difference", {}).items():
        worst = int(np.argmin(difference["value"]))
        k = numbers["coherence"]["k_cycles_per_field"][worst]
        figure = {"value": float(difference["value"][worst]), "error": float(difference["error"][worst])}
        goal = f"coherence ({name}) above linear inversion at every wavenumber: least difference, at k = {k}"
        add(goal, figure, figure["value"] > 0, 4)
    if numbers["comparison"]:
        better = numbers["comparison"]["rim_better_percent"]
        add("RMS below linear inversion in at least 95 % of systems", better, better["value"] >= 95, 1)
    return goals


# ------------------------------------------------------------------------------------------------ the pictures


def draw_figures(columns, kept, unusual, numbers):
    """{name, a key of FIGURES: matplotlib Figure} of all that the study has the data for."""
    figures, first = {}, _longest(columns)
    shown = "rim" if "rim" in columns else "inversion"
    figures["examples"] = _draw_systems(columns[shown], kept[shown], _spread(columns[shown], kept[shown]))
    if shown == "rim" and np.any(kept["rim"]["index"] >= study.CHUNK):
        figures["worst"] = _draw_systems(columns["rim"], kept["rim"], _worst(columns["rim"], kept["rim"]))
    order = [method for method in ("rim", "inversion") if method in columns]
    figures["flux"] = plots.plot_flux(first["true_flux"], {m: columns[m]["flux_error"] for m in order})
    for name in ("mean", "pooled"):
        curves = {m: [numbers["coherence"][m][name][key] for key in ("value", "low", "high")] for m in order}
        k, scale = numbers["coherence"]["k_cycles_per_field"], numbers["coherence"]["cycles_per_arcsec"]
        figures["coherence" if name == "mean" else "coherence_pooled"] = plots.plot_coherence(k, curves, scale)
    figures["rms"] = plots.plot_rms(first["noise"], {m: columns[m]["rms"] for m in order})
    if len(kept) == 2:
        figures["comparison"] = _draw_comparison(columns, kept)
    if unusual:
        figures["unusual"] = _draw_unusual(unusual)
    return {name: figures[name] for name in FIGURES if name in figures}


def _spread(sample, kept):
    """Positions in `kept` of six systems of the first chunk, from the best to the worst."""
    first = np.flatnonzero(kept["index"] < study.CHUNK)
    order = first[np.argsort(sample["rms"][kept["index"][first]])]
    return order[np.unique(np.linspace(0, len(order) - 1, min(6, len(order))).round().astype(int))]


def _worst(sample, kept, n=4):
    """Positions in `kept` of the worst of each chunk, the n worst of them, the worst first."""
    rms, chunk = sample["rms"][kept["index"]], kept["index"] // study.CHUNK
    worst = [max(np.flatnonzero(chunk == c), key=lambda i: rms[i]) for c in np.unique(chunk)]
    return sorted(worst, key=lambda i: -rms[i])[:n]


def _draw_systems(sample, kept, positions):
    results = [_reconstruction(sample, kept, position) for position in positions]
    names = [f"RMS {100 * sample['rms'][kept['index'][position]]:.2f} % of the peak" for position in positions]
    return plots.plot_reconstructions(results, [kept["truth"][position] for position in positions], names)


def _reconstruction(sample, kept, position):
    """A kept system as the `Reconstruction` it was."""
    i = kept["index"][position]
    arrays = [kept[name][position] for name in ("image", "noise")]
    psf = float(np.nan_to_num(sample["psf_sigma"][i]))
    source = kept["source"][position]
    return Reconstruction(
        source=source,
        source_pixel_scale=sample["field"][i] / source.shape[0],
        model_image=kept["model"][position],
        iterates=source[None],
        observation=Observation(*arrays, psf, kept["mask"][position], float(sample["pixel_scale"][i])),
        lens=LensParameters(*map(float, sample["lens"][i])),
        seconds=float(sample["seconds"][i]),
        flux_outside=0.0,
    )


def _draw_comparison(columns, kept):
    """Of the systems that both methods kept, that whose ratio of errors is the median."""
    n = min(np.sum(kept[method]["index"] < study.CHUNK) for method in kept)
    ratio = columns["inversion"]["rms"][:n] / columns["rim"]["rms"][:n]
    i = int(np.argsort(ratio)[n // 2])
    sources = {method: kept[method]["source"][i] for method in kept}
    sample, truth = columns["rim"], kept["rim"]["truth"][i]
    source_scale = sample["field"][i] / truth.shape[0]
    return plots.plot_comparison(kept["rim"]["image"][i], truth, sources, float(sample["pixel_scale"][i]), source_scale)


def _draw_unusual(unusual, n_most=5):
    first = next(iter(unusual.values()))
    n = min([n_most, *(len(found["names"]) for found in unusual.values())])
    results = {method: (found["kept_model"][:n], found["kept_source"][:n]) for method, found in unusual.items()}
    return plots.plot_unusual(
        [str(name) for name in first["names"][:n]], first["kept_image"], first["kept_truth"], results
    )


# -------------------------------------------------------------------------------------------------- the text


def _blocks(numbers, figures):
    """The report as ("heading", text), ("text", text), ("table", header, rows) and ("figure", name, caption)."""
    settings, n = numbers["settings"], numbers["n"]
    counts = ", ".join(f"{plots.METHOD_NAMES[method]} {count} systems" for method, count in n.items())
    mocks = settings["mocks"]
    blocks = [
        ("title", f"Reconstructions of simulated lenses by '{settings['weights']}'"),
        (
            "text",
            f"Done: {counts}. Images of {mocks['image_pixels']} x {mocks['image_pixels']} pixels, sources of "
            f"{mocks['source_pixels']} x {mocks['source_pixels']}; noise, PSF and lenses drawn as config.json says; "
            f"sources: {settings['sources'] or 'procedural galaxies'}, none of which training has seen; the true lens "
            "given to both methods. Linear inversion: pixelated source, "
            f"{settings['regularisation']} prior, its strength where the evidence is largest (Suyu et al. 2006), "
            f"solver {settings['solver']}. "
            "Errors are of a bootstrap over the systems (of percentages of systems, Wilson's). The paper's values "
            "are from Section 3 of Morningstar et al. (2019), on another test set: 192 x 192 pixels of 0.04 arcsec.",
        ),
    ]
    if numbers["goals"]:
        rows = [[g["goal"], g["text"], "yes" if g["met"] else "no"] for g in numbers["goals"]]
        blocks += [("heading", "Goals"), ("table", ["goal", "reached", "met"], rows)]
    blocks += [("heading", "All systems"), _table_of_all(numbers)]
    if numbers["comparison"]:
        better, ratio = numbers["comparison"]["rim_better_percent"], numbers["comparison"]["rms_ratio"]
        blocks.append(
            (
                "text",
                f"On the {better['n']} systems that both have done, the RIM has the smaller RMS error in "
                f"{_cell(better, 1)} %; the ratio of RMS errors, linear inversion over RIM, has the median "
                f"{_cell(ratio, 2)}.",
            )
        )
    for kind, groups in numbers["groups"].items():
        blocks += [("heading", f"By {kind}"), _table_of_groups(kind, groups, numbers)]
    blocks.append(("heading", "Figures"))
    blocks += [("figure", name, FIGURES[name]) for name in figures]
    if numbers["unusual"]:
        blocks += [("heading", "Text and digits"), _table_of_unusual(numbers["unusual"])]
    return blocks


_COLUMNS = {
    "inversion": "linear inversion",
    "rim": "RIM",
    "rim_on_inverted": "RIM, the systems inverted too",
    "truth": "the truth itself",
}


def _table_of_all(numbers):
    names = [name for name in _COLUMNS if name in numbers["systems"]]
    rows = [
        [
            figure.label,
            figure.paper or "-",
            *(_cell(numbers["systems"][name].get(key), figure.digits) for name in names),
        ]
        for key, figure in FIGURES_OF_MERIT.items()
    ]
    counts = ["systems", "2000", *(str(numbers["systems"][name]["chi2"]["n"]) for name in names)]
    return "table", ["", "paper", *(_COLUMNS[name] for name in names)], [counts, *rows]


def _table_of_groups(kind, groups, numbers):
    methods = [method for method in ("inversion", "rim") if method in numbers["n"]]
    header = [kind, *(f"n, {plots.METHOD_NAMES[method]}" for method in methods)]
    for key in _SHORT:
        label = FIGURES_OF_MERIT[key].label
        header += [f"{label}: {plots.METHOD_NAMES[method]}" for method in methods]
    if numbers["comparison"]:
        header.append("RIM better [% of systems]")
    rows = []
    for label, group in groups.items():
        row = [label, *(str(group[method]["rms"]["n"]) for method in methods)]
        row += [_cell(group[method][key], FIGURES_OF_MERIT[key].digits) for key in _SHORT for method in methods]
        rows.append(row + ([_cell(group["rim_better_percent"], 1)] if numbers["comparison"] else []))
    return "table", header, rows


def _table_of_unusual(unusual):
    methods = [method for method in ("inversion", "rim") if method in unusual]
    header = ["source", *(f"RMS [% of peak]: {plots.METHOD_NAMES[method]}" for method in methods)]
    header += [f"chi^2 per pixel: {plots.METHOD_NAMES[method]}" for method in methods]
    names = list(dict.fromkeys(name for method in methods for name in unusual[method]))
    rows = []
    for name in names:
        found = [unusual[method].get(name) for method in methods]
        row = [f"{each['rms_percent_of_peak']:.2f}" if each else "-" for each in found]
        rows.append([name, *row, *(f"{each['chi2_per_pixel']:.3f}" if each else "-" for each in found)])
    return "table", header, rows


def _cell(figure, digits):
    if figure is None or not figure["n"] or not math.isfinite(figure["value"]):
        return "-"
    return f"{figure['value']:.{digits}f} ± {figure['error']:.{digits}f}"


def markdown(blocks):
    """The blocks as Markdown that names the pictures by their files."""
    lines = []
    for kind, *content in blocks:
        if kind in ("title", "heading"):
            lines.append(f"{'#' if kind == 'title' else '##'} {content[0]}")
        elif kind == "text":
            lines.append(content[0])
        elif kind == "figure":
            lines.append(f"![{content[0]}](figures/{content[0]}.png)\n\n{content[1]}")
        else:
            header, rows = content
            table = [header, ["---"] * len(header), *rows]
            lines.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table))
    return "\n\n".join(lines) + "\n"


_STYLE = """body { font: 15px/1.45 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 14px } th { text-align: left; vertical-align: bottom }
td, th { border-bottom: 1px solid #ccc; padding: .25em .8em .25em 0 } td + td { white-space: nowrap }
figure { margin: 1.5em 0 } figcaption { color: #555 } img { max-width: 100% }"""


def page(blocks, folder):
    """The blocks as one HTML page with the pictures of `folder` inside it, to be sent as one file."""
    body = []
    for kind, *content in blocks:
        if kind in ("title", "heading"):
            tag = "h1" if kind == "title" else "h2"
            body.append(f"<{tag}>{html.escape(content[0])}</{tag}>")
        elif kind == "text":
            body.append(f"<p>{html.escape(content[0])}</p>")
        elif kind == "figure":
            name, caption = content
            picture = base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()
            body.append(
                f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        else:
            body.append(_html_table(*content))
    title = html.escape(blocks[0][1])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _html_table(header, rows):
    lines = ["<table>", "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _plain(value):
    """Arrays as lists, and null for what is no finite number, so that any JSON reader takes it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _replace(path, write):
    """`write` is called with another path, which takes this one's name when it is done."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.incomplete")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
