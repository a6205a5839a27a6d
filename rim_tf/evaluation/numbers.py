"""Every number of a report, from the columns of a study.

Every one has an error from a bootstrap over the systems, and the number of systems it is made of. Methods are compared
with the first of METHODS, the reference, on the systems that both have done.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from rim_tf.errors import InputError
from rim_tf.evaluation import metrics
from rim_tf.inference.methods import METHODS, find_method


@dataclasses.dataclass(frozen=True)
class FigureOfMerit:
    """A statistic of a column of the systems.

    Attributes:
      label: with its unit.
      column: which column.
      statistic: function (values [..., n], axis) -> [...]; None for the percentage beyond 3 from zero.
      factor: what the column is multiplied by.
      paper: what the paper reports, for its network.
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
    "rms": FigureOfMerit("RMS error, median [% of peak]", "rms", np.median, 100, "< 0.5", 3),
    "rms_90": FigureOfMerit("RMS error, 90th percentile [% of peak]", "rms", _p90, 100, digits=3),
    "flux_absolute": FigureOfMerit("flux error, median of its modulus [%]", "flux_error", _median_absolute, 100, "3"),
    "flux_bias": FigureOfMerit("flux bias, median [%]", "flux_error", np.median, 100, "0.07", 3),
    "flux_bias_mean": FigureOfMerit("flux bias, mean [%]", "flux_error", np.mean, 100, digits=3),
    "chi2_per_pixel": FigureOfMerit("chi^2 per pixel, median", "chi2_per_pixel", np.median, digits=4),
    "correlation": FigureOfMerit("correlation of neighbouring residuals, median", "correlation", np.median, digits=4),
    "whiteness": FigureOfMerit("residuals not white at 3 sigma [% of systems]", "whiteness", None, digits=1),
    "psnr": FigureOfMerit("PSNR, median [dB]", "psnr", np.median),
    "ssim": FigureOfMerit("SSIM, median", "ssim", np.median, digits=4),
    "negative": FigureOfMerit("light in negative pixels, median [%]", "negative_flux", np.median, 100),
    "prior": FigureOfMerit(
        "log-prior against the truth's, median [sigma]", "prior", np.median, paper="0.2 (linear inversion 13)"
    ),
    "prior_sigmas": FigureOfMerit("log-prior in sigmas of the prior itself, median", "prior_sigmas", np.median),
    "seconds": FigureOfMerit("time for a system, median [s]", "seconds", np.median, digits=3),
}
# The sample, beside those of the methods, that is the true images.
TRUTH = "truth"
_OF_TRUTH = ("chi2_per_pixel", "correlation", "whiteness")
# Two of the figures that the columns of some methods alone allow.
_OF_PRIOR = ("prior", "prior_sigmas")
_AVERAGES = {"mean": metrics.mean_coherence, "pooled": metrics.pooled_coherence}


def evaluate(settings, columns, unusual):
    """Every number of the report.

    Args:
      settings: as `rim_tf.evaluation.store.read_study` returns them.
      columns: likewise.
      unusual: likewise.

    Returns:
      Nested dictionaries and lists of numbers and arrays:
        settings: as given; n: how many systems each method has done;
        systems: the figures of merit of each sample, which are the methods, the truth itself, and of the reference
          the first systems alone where another method has done fewer; labels: of the samples, in the order of a table;
        comparison: of each other method with the reference;
        groups: the same for systems of like noise, magnification and size, {kind: {label: {sample: ...}}};
        coherence: curves of each method, and their difference from the reference;
        unusual: figures of text and digits; goals: what this package set itself.

    Raises:
      InputError: the methods did not see the same systems.
    """
    pairs, longest = _pairs(columns), max(columns.values(), key=_count)
    samples = {name: dict(values) for name, values in columns.items()}
    samples[TRUTH] = {name: longest[f"truth_{name}"] for name in _OF_TRUTH}
    _add_priors(samples, columns, settings)
    labels = {name: find_method(name).label for name in reversed(columns)}
    for n in sorted({_count(other) for _, other in pairs.values()}):
        if n < _count(columns[reference()]):
            name = f"{reference()}_first_{n}"
            samples[name] = {column: values[:n] for column, values in samples[reference()].items()}
            labels[name] = f"{labels[reference()]}, the first {n} systems"
    numbers = {
        "settings": settings,
        "n": {name: _count(sample) for name, sample in columns.items()},
        "labels": labels | {TRUTH: "the truth itself"},
        "systems": {name: _figures_of(sample) for name, sample in samples.items()},
        "comparison": _comparison(pairs),
        "groups": {
            kind: {label: _of_group(samples, pairs, chosen) for label, chosen in members.items()}
            for kind, members in _groups(longest, settings).items()
        },
        "coherence": _coherence(columns, pairs),
        "unusual": {name: _of_unusual(found) for name, found in unusual.items()},
    }
    return numbers | {"goals": _goals(numbers)}


def reference():
    """The name of the method that the others are compared with: the first of METHODS."""
    return next(iter(METHODS))


def _count(sample):
    return len(sample["rms"])


def _pairs(columns):
    """{other method: (columns of the reference, its own)} on the systems that both have."""
    if reference() not in columns:
        return {}
    pairs = {}
    for name in columns:
        if name != reference():
            both = columns[reference()], columns[name]
            n = min(map(_count, both))
            pairs[name] = tuple({column: values[:n] for column, values in sample.items()} for sample in both)
            if not np.allclose(*(sample["theta_E"] for sample in pairs[name]), atol=1e-5):
                raise InputError(
                    "The methods did not see the same systems, which machines of different kinds may draw differently; "
                    "make the study again in another --out, on one machine."
                )
    return pairs


def _add_priors(samples, columns, settings):
    """What a Gaussian prior says of all sources, as columns of each sample; NaN where it has no strength.

    Its strength is that which a method with a column `strength` found for each system, where its prior is the study's.
    `prior_sigmas`: the source's own log-prior, in standard deviations of those that sources drawn from the prior
    have, above 0 where it is rougher than they. `prior`: `metrics.prior_distance` to the truth.
    """
    holders = [name for name in columns if "strength" in columns[name] and _has_prior_of_study(settings, name)]
    if not holders:
        return
    strength = columns[holders[0]]["strength"]

    def scaled(sample, name):
        """lambda times a column, NaN beyond the systems that have one."""
        n, result = min(len(strength), len(sample[name])), np.full(len(sample[name]), np.nan)
        result[:n] = strength[:n] * sample[name][:n]
        return result

    for name, sample in columns.items():
        ours, true, rank = scaled(sample, "roughness"), scaled(sample, "truth_roughness"), sample["prior_rank"]
        samples[name]["prior"] = metrics.prior_distance(-true / 2, -ours / 2)
        samples[name]["prior_sigmas"] = (ours - rank) / np.sqrt(2 * rank)
        if name == holders[0]:
            samples[TRUTH]["prior_sigmas"] = (true - rank) / np.sqrt(2 * rank)


def _has_prior_of_study(settings, name):
    of_method = settings["methods"][name]["settings"]
    return all(of_method.get(each) == settings[each] for each in ("regularisation", "boundary"))


def _figures_of(sample):
    """Each figure of merit that the columns allow, with its error."""
    figures = {}
    for name, figure in FIGURES_OF_MERIT.items():
        if figure.column in sample:
            values = figure.factor * np.asarray(sample[figure.column], float)
            if figure.column in _OF_PRIOR:  # NaN where it has no strength; elsewhere NaN must show
                values = values[np.isfinite(values)]
            beyond = figure.statistic is None
            figures[name] = (
                metrics.percentage(np.abs(values) > 3) if beyond else metrics.bootstrap(values, figure.statistic)
            )
    return figures


def _comparison(pairs):
    """How often, and by how much, the reference has the smaller RMS error: {other method: ...}."""
    return {
        name: {
            "better_percent": metrics.percentage(first["rms"] < other["rms"]),
            "rms_ratio": metrics.bootstrap(other["rms"] / first["rms"], np.median),
        }
        for name, (first, other) in pairs.items()
    }


# ------------------------------------------------------------------------------------------ groups of systems


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


def _of_group(samples, pairs, chosen):
    figures = {name: _figures_of(_part(sample, chosen)) for name, sample in samples.items()}
    chosen_pairs = {name: tuple(_part(sample, chosen) for sample in pair) for name, pair in pairs.items()}
    return figures | {"comparison": _comparison(chosen_pairs)}


def _part(sample, chosen):
    """The chosen [n] systems of a sample; a column is shorter where a method lags behind."""
    return {name: values[: len(chosen)][chosen[: len(values)]] for name, values in sample.items()}


# -------------------------------------------------------------------------------------------------- coherence


def _coherence(columns, pairs):
    """Curves of each method, and of the reference's difference from each other one on the same systems."""
    first = next(iter(columns.values()))
    result = {"k_cycles_per_field": np.arange(1, first["p12"].shape[-1])}
    result["cycles_per_arcsec"] = _cycles_per_arcsec(first)
    result |= {name: _curves(sample) for name, sample in columns.items()}
    return result | {"difference": {name: _difference(*pair) for name, pair in pairs.items()}}


def _powers(sample):
    """Without k = 0, which is the flux; each system in units of its true peak, as sources are drawn."""
    return tuple(sample[name][:, 1:] for name in ("p12", "p11", "p22"))


def _curves(sample):
    weights, curves = metrics.bootstrap_weights(_count(sample)), {}
    for name, average in _AVERAGES.items():
        draws = average(_powers(sample), weights)
        low, high = np.percentile(draws, metrics.ONE_SIGMA, axis=0)
        value = average(_powers(sample), np.ones(weights.shape[1]))
        curves[name] = {"value": value, "error": np.std(draws, axis=0), "low": low, "high": high}
    return curves


def _difference(first, other):
    weights, differences = metrics.bootstrap_weights(_count(first)), {}
    for name, average in _AVERAGES.items():
        once = np.ones(weights.shape[1])
        value, draws = (average(_powers(first), each) - average(_powers(other), each) for each in (once, weights))
        differences[name] = {"value": value, "error": np.std(draws, axis=0)}
    return differences


def _cycles_per_arcsec(sample):
    """Of one cycle per field, where all systems have one pixel scale; NaN otherwise."""
    width = sample["field"]
    return float(1 / width[0]) if np.ptp(width) < 1e-4 * width[0] else math.nan


# ------------------------------------------------------------------------------------------- unusual and goals


def _of_unusual(found):
    return {
        str(name): {"rms_percent_of_peak": 100 * float(rms), "chi2_per_pixel": float(chi2)}
        for name, rms, chi2 in zip(found["names"], found["rms"], found["chi2_per_pixel"], strict=True)
    }


def _goals(numbers):
    """[{goal, value, error, met}] of what this package set itself, as far as the study has the numbers."""
    ours, goals = numbers["systems"].get(reference()), []
    if ours is None:
        return goals

    def add(goal, figure, met, digits=3):
        text = f"{figure['value']:.{digits}f} ± {figure['error']:.{digits}f}"
        goals.append({"goal": goal, "value": figure["value"], "error": figure["error"], "text": text, "met": bool(met)})

    add("median RMS at most 0.45 % of the peak", ours["rms"], ours["rms"]["value"] <= 0.45)
    add("median flux error at most 2 %", ours["flux_absolute"], ours["flux_absolute"]["value"] <= 2)
    add("flux bias (median) within 0.1 %", ours["flux_bias"], abs(ours["flux_bias"]["value"]) <= 0.1)
    add("flux bias (mean) within 0.1 %", ours["flux_bias_mean"], abs(ours["flux_bias_mean"]["value"]) <= 0.1)
    for label, group in numbers["groups"]["noise over the image's peak"].items():
        chi2 = group[reference()]["chi2_per_pixel"]
        if chi2["n"]:
            add(f"chi^2 per pixel (median) within 2 % of 1, noise {label}", chi2, abs(chi2["value"] - 1) <= 0.02, 4)
    for other, comparison in numbers["comparison"].items():
        label = numbers["labels"][other]
        for name, difference in numbers["coherence"]["difference"][other].items():
            worst = int(np.argmin(difference["value"]))
            k = numbers["coherence"]["k_cycles_per_field"][worst]
            figure = {key: float(values[worst]) for key, values in difference.items()}
            goal = f"coherence ({name}) above {label} at every wavenumber: least difference, at k = {k}"
            add(goal, figure, figure["value"] > 0, 4)
        better = comparison["better_percent"]
        add(f"RMS below {label} in at least 95 % of systems", better, better["value"] >= 95, 1)
    return goals
