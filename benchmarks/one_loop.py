"""Lens and source by one network in batches: how good it is after each step, and how long a lens takes.

    python benchmarks/one_loop.py --galaxies FOLDER --n 200 --out OUT

Systems are those of the network's two tests (`training.joint_figures`): unseen galaxies, the lens galaxy taken off. It
starts where the estimator stands, and takes more steps than it was trained for. Of each step: the error of theta_E, and
by how much chi^2 per pixel is above what the RIM `small` has with the true lens; by decade of noise, so that it is seen
where it stops. Then seconds of a lens in batches, estimator included, beside the same lenses found one by one by the
estimator and `optimise_lens` from eight starts, in turns in one run; on a machine that does nothing else. Writes
one_loop.md, one_loop.json and one_loop.png.
"""

import dataclasses
import pathlib
import time
import warnings

import click
import numpy as np
from results import circumstances, write_results
from timing import limit_threads, machine, markdown_table, say

# Steps taken, and those that the table shows.
_STEPS, _SHOWN = 20, (0, 1, 2, 3, 5, 10, 15, 20)
_DECADES = {"noise below 1 %": (0.0, 0.01), "noise above 1 %": (0.01, np.inf)}
_MARGINS = (0.01, 0.05)
# Lenses in one call of the network, and starts of the descent beside it.
_BATCHES, _STARTS = (1, 8, 32), 8
_STREAM = "test"


def searching(model, estimator):
    """A function of a batch's inputs and a number of steps -> what `JointRIM.search` finds; traced for each shape."""
    import tensorflow as tf

    from rim_tf.models.joint import first_guess

    @tf.function(autograph=False)
    def search(inputs, n_steps):
        return model.search(first_guess(estimator, inputs), n_steps)

    return search


def by_step(search, rim, stamps, mocks, n, batch_size=20):
    """Columns theta_E [%] and chi2 above the true lens's, each [n, steps + 1], and noise over the peak [n]."""
    import tensorflow as tf

    from rim_tf.data.seeds import seed_pair
    from rim_tf.data.streaming import Simulator
    from rim_tf.evaluation import measures
    from rim_tf.physics.imaging import imaging_operator, imaging_problem

    simulate, parts = Simulator(seed_pair(_STREAM, 0), batch_size, stamps, mocks), []
    true_lens = tf.function(rim.call, autograph=False)
    for index in range(-(-n // batch_size)):
        inputs, source = simulate(index)
        found, with_truth = search(inputs, tf.constant(_STEPS)), true_lens(inputs)[:, -1]
        problem = imaging_problem(inputs, with_truth.shape[1:])
        true_chi2 = problem.chi2_per_pixel(problem.model_image(with_truth)).numpy()
        image = imaging_operator(inputs, source.shape[1:]).forward(source).numpy()
        parts.append(
            {
                "theta_E": 100 * np.abs(found["path"].numpy()[:, :, 0] / inputs["lens"].numpy()[:, :1] - 1),
                "chi2": found["chi2_per_pixel"].numpy() - true_chi2[:, None],
                "noise": measures.noise_over_peak(inputs["noise_rms"].numpy(), image),
            }
        )
        say(f"{min((index + 1) * batch_size, n)} of {n} lenses")
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def figures_of(columns):
    """{decade: {"n", and of each step "theta_E_percent" and "chi2_within_MARGIN" in per cent}}"""
    figures = {}
    for decade, (low, high) in _DECADES.items():
        chosen = (columns["noise"] >= low) & (columns["noise"] < high)
        within = {f"chi2_within_{m}": (100 * (columns["chi2"][chosen] <= m).mean(0)).tolist() for m in _MARGINS}
        off = np.median(columns["theta_E"][chosen], axis=0)
        figures[decade] = {"n": int(chosen.sum()), "theta_E_percent": off.tolist(), **within}
    return figures


def systems(stamps, mocks, n):
    """As many `Observation`s, and the batch of all of them."""
    from rim_tf.data.seeds import seed_pair
    from rim_tf.data.streaming import Simulator
    from rim_tf.observation import Observation

    inputs, _ = Simulator(seed_pair(_STREAM, 1), n, stamps, mocks)(0)
    given = {name: value.numpy() for name, value in inputs.items()}
    parts = zip(*(given[name] for name in ("image", "noise_rms", "psf", "mask", "pixel_scale")), strict=True)
    return [Observation(*arrays, float(scale)) for *arrays, scale in parts], inputs


def seconds_each(search, model, rim, estimator, stamps, mocks, n_descents):
    """Seconds of a lens: {"batch of k": by the network in its steps; "optimise_lens": median of lenses one by one}."""
    import tensorflow as tf

    from rim_tf.config import ModelConfig
    from rim_tf.inference.estimate import estimate_lens
    from rim_tf.inference.optimise import cropped, optimise_lens

    observations, inputs = systems(stamps, mocks, max(_BATCHES))
    batches = {k: {name: value[:k] for name, value in inputs.items()} for k in _BATCHES}
    steps, taken = tf.constant(model.config.n_steps), {f"batch of {k}": [] for k in _BATCHES} | {"optimise_lens": []}
    for i, observation in enumerate(observations[: n_descents + 1]):
        for k, batch in batches.items():
            started = time.perf_counter()
            search(batch, steps)["source"].numpy()
            taken[f"batch of {k}"].append((time.perf_counter() - started) / k)
        started = time.perf_counter()
        estimate = estimate_lens(observation, estimator)
        arcs = cropped(observation, ModelConfig.fit_radius * estimate.lens.theta_E)
        optimise_lens(arcs, estimate.starts(_STARTS), rim)
        taken["optimise_lens"].append(time.perf_counter() - started)
        say(f"{i} of {n_descents} lenses by descent: {taken['optimise_lens'][-1]:.1f} s")
    # The first of each has its tracing.
    return {name: float(np.median(values[1:])) for name, values in taken.items()}


def tables(of_tests, seconds):
    """The Markdown of all figures."""
    lines = []
    for test, figures in of_tests.items():
        for decade, each in figures.items():
            rows = [
                [str(step), f"{each['theta_E_percent'][step]:.2f}"]
                + [f"{each[f'chi2_within_{margin}'][step]:.0f}" for margin in _MARGINS]
                for step in _SHOWN
            ]
            head = ["steps", "theta_E off [%]", *(f"chi^2 within {m} [% of systems]" for m in _MARGINS)]
            lines += [f"{test}, {decade} ({each['n']} systems):", "", markdown_table(head, rows), ""]
    slow = seconds["optimise_lens"]
    rows = [[name, f"{each:.3f}", f"{slow / each:.1f}"] for name, each in seconds.items()]
    return "\n".join([*lines, markdown_table(["way", "seconds of a lens", "times as fast as optimise_lens"], rows)])


def plot(of_tests, trained):
    """Both figures by step, a column for each test: a matplotlib Figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained", dpi=120)
    panels = figure.subplots(2, len(of_tests), sharex=True, sharey="row", squeeze=False)
    for (test, figures), (above, below) in zip(of_tests.items(), panels.T, strict=True):
        for decade, each in figures.items():
            above.plot(each["theta_E_percent"], ".-", label=f"{decade}, {each['n']} systems")
            below.plot(each[f"chi2_within_{_MARGINS[-1]}"], ".-")
        for axes in (above, below):
            axes.axvline(trained, color="0.7", linewidth=1, zorder=0)
        above.set(title=test, yscale="log")
        below.set(xlabel="steps (trained for those up to the line)", ylim=(0, 100))
        above.legend(fontsize=8, frameon=False)
    panels[0, 0].set_ylabel("median error of theta_E [%]")
    panels[1, 0].set_ylabel(f"chi^2 within {_MARGINS[-1]} of the true lens's [%]")
    return figure


@click.command()
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--joint", default="joint-small", show_default=True, help="Weights of the network.")
@click.option("--n", default=200, show_default=True, help="Systems of each test.")
@click.option(
    "--descents",
    type=click.IntRange(1, max(_BATCHES) - 1),
    default=8,
    show_default=True,
    help="Lenses that are timed one by one.",
)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def main(galaxies, joint, n, descents, threads, out):
    """What the network that finds lens and source together comes to, step by step, and in how long."""
    limit_threads(threads)
    before = machine()
    from rim_tf.data.mocks import GalaxyStamps
    from rim_tf.data.sources.find import find_galaxies
    from rim_tf.models.pretrained import load_pretrained
    from training.joint_figures import TEST_SETS

    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", "test"))
    model, rim = load_pretrained(joint, "joint"), load_pretrained()
    estimator = load_pretrained(model.config.estimator, "estimator")
    search = searching(model, estimator)
    clean = dataclasses.replace(TEST_SETS["clean"], log_pixel_scale=(0.08, 0.08), mask_fraction=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = seconds_each(search, model, rim, estimator, stamps, clean, descents)
        of_tests = {name: figures_of(by_step(search, rim, stamps, mocks, n)) for name, mocks in TEST_SETS.items()}
    text = tables(of_tests, seconds)
    figures = {"by_step": of_tests, "seconds": seconds, "circumstances": circumstances(before, threads, [])}
    write_results(out, "one_loop", figures, text)
    plot(of_tests, model.config.n_steps).savefig(out / "one_loop.png")


if __name__ == "__main__":
    main()
