"""What each part of the network is worth: variants trained alike for the same modest budget, and measured alike.

python -m training.ablate --galaxies FOLDER --out runs/ablations

Every variant has one change against `small` ("raw gradient" has two against it, and one against "no gradient step":
what the gradient is multiplied by), the same seed, and so the same lenses in the same order. The budget is far below
what the shipped weights had, so the differences say what helps early; who learns faster may not end better.
"""

import dataclasses
import pathlib
import time

import click
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from rim_tf.config import SMALL, MockConfig
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import check_seed, seed_pair
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.streaming import stream
from rim_tf.errors import InputError
from rim_tf.evaluation.metrics import bootstrap
from rim_tf.files import read_json, write_json, write_text
from rim_tf.models.flops import count_flops
from rim_tf.models.pretrained import build_model
from training.experiments import EXPERIMENTS
from training.on_tensorflow import train
from training.publish import measure, report

# rms of the error of each lens parameter that the authors injected for robustness.
_JITTER = 0.01
_WITHOUT_GRADIENT = tuple(name for name in SMALL.inputs if name not in ("preconditioned", "significance"))
VARIANTS = {
    "small": {},
    "no gradient step": {"gradient_step": False},
    "raw gradient": {"gradient_step": False, "inputs": ("gradient", *_WITHOUT_GRADIENT)},
    "5 steps": {"n_steps": 5},
    "15 steps": {"n_steps": 15},
    "kernel 5": {"kernel": 5},
    "half the hidden features": {"hidden": (16, 8)},
    "twice the hidden features": {"hidden": (64, 32)},
    "lens jitter in training": {},
}
# The test sets: lenses known exactly, and known to the jitter.
EXACT, JITTERED = MockConfig(), MockConfig(lens_error=_JITTER)
_STREAM = "ablation"


def variant_config(name, n_steps, seed):
    """The `TrainingConfig` of a variant."""
    base = EXPERIMENTS["small"]
    mocks = dataclasses.replace(base.mocks, lens_error=_JITTER) if name == "lens jitter in training" else base.mocks
    model = dataclasses.replace(SMALL, **VARIANTS[name])
    return dataclasses.replace(base, model=model, mocks=mocks, n_steps=n_steps, steps_per_epoch=n_steps // 4, seed=seed)


def measured_variant(name, n_steps, seed, galaxies, folder, n):
    """Train one variant, or take up its run, and measure it: a dictionary of plain numbers."""
    result = folder / "figures.json"
    asked = {"steps": n_steps, "seed": seed, "galaxies": galaxies, "n": n}
    if result.exists():
        figures = read_json(result)
        if figures["asked"] != asked:
            raise InputError(f"{result} is of {figures['asked']}, not of {asked}; choose another --out.")
        return figures
    config = variant_config(name, n_steps, seed)
    model = train(config, folder, galaxies, verbose=0)
    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", _STREAM))
    exact, jittered = (measure(model, stamps, mocks, n, stream=_STREAM) for mocks in (EXACT, JITTERED))
    figures = {
        "asked": asked,
        "weights": model.count_params(),
        "exact": report(exact),
        "jittered": report(jittered),
        "rms_error_of_median": bootstrap(exact["rms"], np.median, n_draws=200)["error"],
    }
    write_json(result, figures)
    return figures


def seconds_per_lens(names, rounds=5):
    """Median seconds of a reconstruction, in batches of 8, the variants taking turns so that all meet the same load."""
    stamps = GalaxyStamps.of(find_galaxies(None, "validation", _STREAM, n_procedural=8))
    inputs, _ = next(iter(stream(seed_pair(_STREAM, 0), 8, stamps, EXACT)))
    models = {name: build_model(dataclasses.replace(SMALL, **VARIANTS[name])) for name in names}
    calls = {name: tf.function(model.call, autograph=False) for name, model in models.items()}
    times = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call(inputs)[0, -1, 0, 0].numpy()
            if turn:  # the first call is the tracing
                times[name].append((time.perf_counter() - started) / 8)
    return {name: float(np.median(values)) for name, values in times.items()}


def table(results, n_steps, n):
    """The Markdown of all results."""
    lines = [
        f"Each variant: {n_steps} training steps of 8 lenses, the same lenses for all; measured on {n} lenses of 64 "
        f"pixels. The error is that of the median RMS over the test lenses alone; another seed would add its own.",
        "",
        "| variant | weights | GFLOP | s per lens | RMS [% of peak] | flux error | chi^2 0.1-1 % / 1-10 % | RMS, lens "
        f"known to {_JITTER:g} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in results.items():
        whole, low, high = (figures["exact"][part] for part in ("all", "noise 0.1-1 %", "noise 1-10 %"))
        rms, wrong = whole["rms_percent_of_peak"]["median"], figures["jittered"]["all"]["rms_percent_of_peak"]["median"]
        lines.append(
            f"| {name} | {figures['weights']} | {figures['gflop']:.2f} | {figures['seconds']:.3f} | {rms:.2f} +- "
            f"{100 * figures['rms_error_of_median']:.2f} | {whole['flux_error_percent']['median_absolute']:.1f} % | "
            f"{low['chi2_per_pixel']['median']:.2f} / {high['chi2_per_pixel']['median']:.2f} | {wrong:.2f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results):
    """RMS of each variant, the best at the top, with its arithmetic beside it: a matplotlib Figure."""
    from matplotlib.figure import Figure

    ranked = sorted(results.items(), key=lambda item: -item[1]["exact"]["all"]["rms_percent_of_peak"]["median"])
    rms = [figures["exact"]["all"]["rms_percent_of_peak"]["median"] for _, figures in ranked]
    errors = [100 * figures["rms_error_of_median"] for _, figures in ranked]
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(ranked)), layout="constrained")
    ax = figure.subplots()
    colours = ["tab:blue" if name == "small" else "0.7" for name, _ in ranked]
    ax.barh([name for name, _ in ranked], rms, xerr=errors, color=colours, ecolor="0.3")
    for i, (_, figures) in enumerate(ranked):
        ax.text(0.01 * max(rms), i, f"{figures['gflop']:.1f} GFLOP", va="center", fontsize=8)
    ax.set_xlabel("median RMS [% of peak]")
    return figure


@click.command()
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="runs/ablations", show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(min=4),
    default=300,
    show_default=True,
    help="Training steps of each, a multiple of 4.",
)
@click.option("--n", default=200, show_default=True, help="Test lenses.")
@click.option("--seed", default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="Variants; any number, else all.")
def main(galaxies, out, steps, n, seed, only):
    """Train and measure the variants of `small`; a run that was stopped goes on when it is given again."""
    names = only or list(VARIANTS)
    results = {}
    try:
        check_seed(seed)
        for name in tqdm(names, unit=" variants"):
            results[name] = measured_variant(name, steps, seed, galaxies, out / name.replace(" ", "-"), n)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    for name, seconds in seconds_per_lens(names).items():
        gflop = count_flops(dataclasses.replace(SMALL, **VARIANTS[name]), EXACT.image_pixels) / 1e9
        results[name] |= {"seconds": seconds, "gflop": gflop}
    write_json(out / "ablations.json", {"steps": steps, "n": n, "seed": seed, "variants": results})
    write_text(out / "ablations.md", table(results, steps, n))
    plot(results).savefig(out / "ablations.png", dpi=120)
    click.echo(table(results, steps, n))


if __name__ == "__main__":
    main()
