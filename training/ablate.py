"""What each part of a network is worth: variants trained alike for the same modest budget, and measured alike.

python -m training.ablate --galaxies FOLDER --out runs/ablations
python -m training.ablate joint --galaxies FOLDER --out runs/ablations-joint

Every variant has one change against the network that it is named after (of `small`, "raw gradient" has two against it,
and one against "no gradient step": what the gradient is multiplied by), the same seed, and so the same lenses in the
same order. The budget is far below what the shipped weights had, so the differences say what helps early; who learns
faster may not end better.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable

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
from rim_tf.models.joint import first_guess
from rim_tf.models.pretrained import build_model, load_pretrained
from training import joint_figures
from training.experiments import EXPERIMENTS, TrainingConfig
from training.on_tensorflow import train
from training.publish import measure, report

_STREAM = "ablation"


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One network and its variants.

    Attributes:
      base: the `TrainingConfig` that variants are changes of.
      variants: by name, the first of them as it is, what each changes in the settings of the network, and in those of
        the lenses it is trained on.
      test: `MockConfig` of lenses that seconds are measured on.
      measured: network, `GalaxyStamps`, number of lenses -> figures, a dictionary of plain numbers.
      called: network -> function of a batch's inputs that does all its work.
      counted: settings of the network -> figures that no run is needed for.
      columns: by title, figures of a variant -> what the table says of it.
      score: figures -> what variants are ranked by, the less the better, and its error.
      scored: what that is.
    """

    base: TrainingConfig
    variants: dict[str, tuple[dict, dict]]
    test: MockConfig
    measured: Callable
    called: Callable
    counted: Callable
    columns: dict[str, Callable]
    score: Callable
    scored: str


# rms of the error of each lens parameter that the authors injected for robustness.
_JITTER = 0.01
_WITHOUT_GRADIENT = tuple(name for name in SMALL.inputs if name not in ("preconditioned", "significance"))
# The test sets: lenses known exactly, and known to the jitter.
EXACT, JITTERED = MockConfig(), MockConfig(lens_error=_JITTER)


def _measured_rim(model, stamps, n):
    exact, jittered = (measure(model, stamps, mocks, n, stream=_STREAM) for mocks in (EXACT, JITTERED))
    return {
        "exact": report(exact),
        "jittered": report(jittered),
        "rms_error_of_median": bootstrap(exact["rms"], np.median, n_draws=200)["error"],
    }


def _rms(figures, test="exact"):
    return figures[test]["all"]["rms_percent_of_peak"]["median"]


def _chi2(figures):
    decades = (figures["exact"][f"noise {decade} %"]["chi2_per_pixel"]["median"] for decade in ("0.1-1", "1-10"))
    return " / ".join(f"{chi2:.2f}" for chi2 in decades)


_SECONDS = {"s per lens": lambda figures: f"{figures['seconds']:.3f}"}

_SMALL = Ablation(
    base=EXPERIMENTS["small"],
    variants={
        "small": ({}, {}),
        "no gradient step": ({"gradient_step": False}, {}),
        "raw gradient": ({"gradient_step": False, "inputs": ("gradient", *_WITHOUT_GRADIENT)}, {}),
        "5 steps": ({"n_steps": 5}, {}),
        "15 steps": ({"n_steps": 15}, {}),
        "kernel 5": ({"kernel": 5}, {}),
        "half the hidden features": ({"hidden": (16, 8)}, {}),
        "twice the hidden features": ({"hidden": (64, 32)}, {}),
        "lens jitter in training": ({}, {"lens_error": _JITTER}),
    },
    test=EXACT,
    measured=_measured_rim,
    called=lambda model: model.call,
    counted=lambda config: {"gflop": count_flops(config, EXACT.image_pixels) / 1e9},
    columns={
        "GFLOP": lambda figures: f"{figures['gflop']:.2f}",
        **_SECONDS,
        "RMS [% of peak]": lambda figures: f"{_rms(figures):.2f} +- {100 * figures['rms_error_of_median']:.2f}",
        "flux error": lambda figures: f"{figures['exact']['all']['flux_error_percent']['median_absolute']:.1f} %",
        "chi^2 0.1-1 % / 1-10 %": _chi2,
        f"RMS, lens known to {_JITTER:g}": lambda figures: f"{_rms(figures, 'jittered'):.2f}",
    },
    score=lambda figures: (_rms(figures), 100 * figures["rms_error_of_median"]),
    scored="median RMS [% of peak]",
)

# Smaller frames than the weights that ship were trained on, that variants take minutes.
_FRAME = {"image_pixels": 48, "source_pixels": 48}
_JOINT_BASE = dataclasses.replace(
    EXPERIMENTS["joint"], mocks=dataclasses.replace(EXPERIMENTS["joint"].mocks, **_FRAME), batch_size=8
)
_JOINT_TEST = dataclasses.replace(joint_figures.TEST_SETS["as in training"], **_FRAME)


def _measured_joint(model, stamps, n):
    found = joint_figures.measure(model, stamps, _JOINT_TEST, n, stream=_STREAM)
    off = 100 * np.abs(found["mean"][:, 0] / found["truth"][:, 0] - 1)
    return {
        "theta_E_percent": float(np.median(off)),
        "theta_E_error_of_median": bootstrap(off, np.median, n_draws=200)["error"],
        **joint_figures.figures_of(found)["source"],
    }


def _joint_call(model):
    estimator = load_pretrained(model.config.estimator, "estimator")
    return lambda inputs: model(first_guess(estimator, inputs))["source"]


_JOINT = Ablation(
    base=_JOINT_BASE,
    variants={
        "joint": ({}, {}),
        "curvature with the source fixed": ({"curvature": "fixed"}, {}),
        "no curvature": ({"curvature": "none"}, {}),
        "no image plane": ({"encoder": ()}, {}),
        "5 steps": ({"n_steps": 5}, {}),
        "20 steps": ({"n_steps": 20}, {}),
        "gradient through the rays": ({"through_rays": True}, {}),
        "starts at the estimator's answer alone": ({}, {"lens_error": 0.0}),
    },
    test=_JOINT_TEST,
    measured=_measured_joint,
    called=_joint_call,
    counted=lambda config: {},
    columns={
        **_SECONDS,
        "theta_E off [%]": lambda each: f"{each['theta_E_percent']:.2f} +- {each['theta_E_error_of_median']:.2f}",
        "chi^2 within 0.01 / 0.05 of the true lens's": lambda each: (
            f"{100 * each['chi2_within_0.01']:.0f} / {100 * each['chi2_within_0.05']:.0f} %"
        ),
        "RMS [% of peak]": lambda each: f"{each['median_rms_percent']:.2f}",
    },
    score=lambda each: (each["theta_E_percent"], each["theta_E_error_of_median"]),
    scored="median error of theta_E [%]",
)
ABLATIONS = {"small": _SMALL, "joint": _JOINT}


def variant_config(ablation, name, n_steps, seed):
    """The `TrainingConfig` of a variant of an `Ablation`."""
    base = ablation.base
    model, mocks = (
        dataclasses.replace(was, **changes)
        for was, changes in zip((base.model, base.mocks), ablation.variants[name], strict=True)
    )
    return dataclasses.replace(base, model=model, mocks=mocks, n_steps=n_steps, steps_per_epoch=n_steps // 4, seed=seed)


def measured_variant(network, name, n_steps, seed, galaxies, folder, n):
    """Train one variant, or take up its run, and measure it: a dictionary of plain numbers."""
    result, ablation = folder / "figures.json", ABLATIONS[network]
    asked = {"network": network, "steps": n_steps, "seed": seed, "galaxies": galaxies, "n": n}
    if result.exists():
        figures = read_json(result)
        if {"network": "small"} | figures["asked"] != asked:  # of older runs, which had no other
            raise InputError(f"{result} is of {figures['asked']}, not of {asked}; choose another --out.")
        return figures
    model = train(variant_config(ablation, name, n_steps, seed), folder, galaxies, verbose=0)
    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", _STREAM))
    figures = {"asked": asked, "weights": model.count_params(), **ablation.measured(model, stamps, n)}
    write_json(result, figures)
    return figures


def seconds_per_lens(ablation, names, rounds=5):
    """Median seconds of a lens, in batches of 8, the variants taking turns so that all meet the same load.

    Where a network begins from an estimator's answer, that is included.
    """
    stamps = GalaxyStamps.of(find_galaxies(None, "validation", _STREAM, n_procedural=8))
    inputs, _ = next(iter(stream(seed_pair(_STREAM, 0), 8, stamps, ablation.test)))
    models = {name: build_model(variant_config(ablation, name, 4, 0).model) for name in names}
    calls = {name: tf.function(ablation.called(model), autograph=False) for name, model in models.items()}
    times = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call(inputs)[0, -1, 0, 0].numpy()
            if turn:  # the first call is the tracing
                times[name].append((time.perf_counter() - started) / 8)
    return {name: float(np.median(values)) for name, values in times.items()}


def table(ablation, results, n_steps, n):
    """The Markdown of all results."""
    titles = ["variant", "weights", *ablation.columns]
    lines = [
        f"Each variant: {n_steps} training steps of {ablation.base.batch_size} lenses, the same lenses for all; "
        f"measured on {n} lenses of {ablation.test.image_pixels} pixels. Errors are those of a median over the test "
        "lenses alone; another seed would add its own.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name, figures in results.items():
        cells = [name, str(figures["weights"])]
        cells += [column(figures) for column in ablation.columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(ablation, results):
    """The score of each variant, the best at the top, with its arithmetic or time beside it: a matplotlib Figure."""
    from matplotlib.figure import Figure

    ranked = sorted(results.items(), key=lambda item: -ablation.score(item[1])[0])
    scores, errors = zip(*(ablation.score(figures) for _, figures in ranked), strict=True)
    figure = Figure(figsize=(7, 0.6 + 0.35 * len(ranked)), layout="constrained")
    ax = figure.subplots()
    itself = next(iter(ablation.variants))
    colours = ["tab:blue" if name == itself else "0.7" for name, _ in ranked]
    ax.barh([name for name, _ in ranked], scores, xerr=errors, color=colours, ecolor="0.3")
    for i, (_, figures) in enumerate(ranked):
        cost = f"{figures['gflop']:.1f} GFLOP" if "gflop" in figures else f"{1000 * figures['seconds']:.0f} ms"
        ax.text(0.01 * max(scores), i, cost, va="center", fontsize=8)
    ax.set_xlabel(ablation.scored)
    return figure


@click.command()
@click.argument("network", type=click.Choice(list(ABLATIONS)), default="small")
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
@click.option(
    "--only",
    multiple=True,
    help="Variants, any number, else all: "
    + "; ".join(f"of {name} {', '.join(each.variants)}" for name, each in ABLATIONS.items()),
)
def main(network, galaxies, out, steps, n, seed, only):
    """Train and measure the variants of a network; a run that was stopped goes on when it is given again."""
    ablation = ABLATIONS[network]
    names = only or list(ablation.variants)
    results = {}
    try:
        for name in names:
            if name not in ablation.variants:
                raise InputError(f"--only is {name!r}; variants of {network} are {list(ablation.variants)}.")
        check_seed(seed)
        for name in tqdm(names, unit=" variants"):
            results[name] = measured_variant(network, name, steps, seed, galaxies, out / name.replace(" ", "-"), n)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    for name, seconds in seconds_per_lens(ablation, names).items():
        results[name] |= {"seconds": seconds, **ablation.counted(variant_config(ablation, name, steps, seed).model)}
    write_json(out / "ablations.json", {"steps": steps, "n": n, "seed": seed, "variants": results})
    write_text(out / "ablations.md", table(ablation, results, steps, n))
    plot(ablation, results).savefig(out / "ablations.png", dpi=120)
    click.echo(table(ablation, results, steps, n))


if __name__ == "__main__":
    main()
