"""Errors of sources, counted: how often the true source lies where they say, given the lens.

    PYTHONPATH=. python benchmarks/source_calibration.py measure --galaxies FOLDER --n 400 --set fit --out OUT
    PYTHONPATH=. python benchmarks/source_calibration.py figures --out OUT
    PYTHONPATH=. python benchmarks/source_calibration.py measure --galaxies FOLDER --n 400 --out OUT
    PYTHONPATH=. python benchmarks/source_calibration.py report --out OUT

`measure` draws systems with galaxies that no network was trained on, and asks three ways to a source for its errors:
the network that ships beside the RIM (`rim_tf.inference.source_errors`), the RIM on the data with noise added once
more, and the exact posterior of linear inversion. Each system is one line of a file in OUT as soon as it is done, and
a run that is killed goes on there. `figures` fits the coefficients of `rim_tf.inference.figure_calibration` to the set
"fit", whose draws are left as they are, and which has other systems and galaxies than "test". `report` counts the set
"test", by decade of noise: of pixels, and of flux, magnification, peak and half-light radius, how often the truth lies
within the central interval of each level, and where among the draws.
"""

import dataclasses
import json
import pathlib
import warnings

import click
import numpy as np
import tensorflow as tf
from calibration import STREAMS, galaxies_of
from results import write_results
from source_counts import FIGURES, figure_of, judged, table

from rim_tf.config import ERROR_SAMPLES, InversionSettings
from rim_tf.data.seeds import generator, seed_pair
from rim_tf.data.streaming import Simulator
from rim_tf.evaluation import measures
from rim_tf.files import finite
from rim_tf.inference.figure_calibration import fit_figure
from rim_tf.inference.linear.inversion import InversionSolver
from rim_tf.inference.rim import reconstruct
from rim_tf.inference.source_errors import source_errors
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.results import SourceErrors, source_figures
from training.experiments import SMALL_MOCKS

_BATCH = 8

# ------------------------------------------------------------------------------------------------------ the systems


class Systems:
    """Systems of a set, by number.

    Args:
      galaxies: as for `find_galaxies`.
      name: "fit" or "test", of the set.
      mocks: `MockConfig`.
    """

    def __init__(self, galaxies, name, mocks=SMALL_MOCKS):
        stamps = galaxies_of(galaxies, name)
        self.n_galaxies = len(stamps)
        self.draw = Simulator(seed_pair(STREAMS[name], 0), _BATCH, stamps, mocks)

    def batch(self, index):
        """(observation, lens, true source, its figures, noise over the peak) of each system of a batch."""
        inputs, sources = self.draw(index)
        operator = imaging_operator(inputs, sources.shape[1:])
        images = operator.forward(sources).numpy()
        seen = operator.adjoint(tf.ones_like(inputs["image"])).numpy()
        noise = measures.noise_over_peak(inputs["noise_rms"].numpy(), images)
        given = {name: value.numpy() for name, value in inputs.items()}
        for i, source in enumerate(sources.numpy()):
            psf, scale = given["psf"][i], float(given["pixel_scale"][i])
            psf = float(psf) if psf.ndim == 0 else psf
            observation = Observation(given["image"][i], given["noise_rms"][i], psf, given["mask"][i], scale)
            lens = LensParameters(*map(float, given["lens"][i]))
            figures = source_figures(source[None], float(given["source_pixel_scale"][i]), seen[i] * scale**2)
            yield observation, lens, source, {name: float(v[0]) for name, v in figures.items()}, float(noise[i])


# ----------------------------------------------------------------------------------------------------- the methods


def by_network(systems, fits, networks, samples, index):
    """Errors of the network that ships: [(values, SourceErrors)]."""
    rim, errors = networks
    return [(fit, fit.errors) for fit in source_errors(fits, samples, index, rim, errors)]


def by_draws(systems, fits, networks, samples, index):
    """The same, the figures as the draws have them."""
    rim, errors = networks
    return [(fit, fit.errors) for fit in source_errors(fits, samples, index, rim, errors, counted=False)]


def by_noise(systems, fits, networks, samples, index):
    """The RIM on the data with noise added once more; noise that was in them comes on top, as in all bootstraps."""
    found = []
    for number, ((observation, lens, *_), fit) in enumerate(zip(systems, fits, strict=True)):
        rng = generator("test", 0, index, number)
        noisy = [
            dataclasses.replace(
                observation, image=observation.image + observation.noise * rng.normal(size=fit.model_image.shape)
            )
            for _ in range(samples)
        ]
        again = reconstruct(noisy, [lens] * samples, networks[0])
        drawn = np.stack([each.source for each in again])
        found.append((fit, SourceErrors(samples=drawn, figures=_figures_of(again))))
    return found


def _figures_of(fits):
    return {name: np.array([figure_of(name, fit) for fit in fits]) for name in FIGURES}


def by_inversion(systems, fits, networks, samples, index):
    """Linear inversion at its best evidence, with its exact covariance."""
    solver = InversionSolver(InversionSettings(solver="exact"))
    observations, lenses = [each[0] for each in systems], [each[1] for each in systems]
    return [(fit, fit.errors) for fit in solver.with_errors(observations, lenses, samples, index)]


METHODS = {"network": by_network, "draws": by_draws, "noise again": by_noise, "inversion": by_inversion}


# ------------------------------------------------------------------------------------------------------ the report

DECADES = {"0.1-1 %": (0.0, 0.01), "1-10 %": (0.01, np.inf)}


def report(rows):
    """Tables of what was counted, as text, and the same as plain numbers."""
    lines, numbers = [], {}
    for method in METHODS:
        for decade, (low, high) in DECADES.items():
            chosen = [row[method] for row in rows if method in row and low <= row["noise"] < high]
            if not chosen:
                continue
            told, numbers.setdefault(method, {})[decade] = table(chosen)
            lines += [f"\n{method}, noise {decade} of the peak, {len(chosen)} systems:", *told]
            lines.append(f"RMS {np.median([row['rms_percent_of_peak'] for row in chosen]):.2f} % of the peak (median)")
    return "\n".join(lines), numbers


# ---------------------------------------------------------------------------------------------------- the commands


def _newest(path):
    """The rows of a file, of each system the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list({row["index"]: row for row in map(json.loads, lines)}.values())


@click.group()
def main():
    """Errors of sources, counted; see the top of this file."""


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--n", default=400, show_default=True, help="Systems.")
@click.option("--set", "name", type=click.Choice(list(STREAMS)), default="test", show_default=True)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(list(METHODS)),
    help="Any number.  [default: network; of the set fit, draws]",
)
@click.option("--samples", default=ERROR_SAMPLES, show_default=True, help="Draws of each source.")
@click.option("--weights", default="small", show_default=True)
@click.option("--errors", default="source-errors-small", show_default=True, help="Weights of the errors.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def measure(galaxies, n, name, methods, samples, weights, errors, out):
    """Reconstruct systems with their errors; any --method that a system lacks is added."""
    warnings.simplefilter("ignore")
    networks = load_pretrained(weights), load_pretrained(errors, "source-errors")
    systems, methods = Systems(galaxies, name), methods or ("draws" if name == "fit" else "network",)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"rows-{name}.jsonl"
    rows = {row["index"]: row for row in _newest(path)}
    for index in range(-(-n // _BATCH)):
        numbers = range(index * _BATCH, (index + 1) * _BATCH)
        wanted = [method for method in methods if any(method not in rows.get(i, {}) for i in numbers)]
        if not wanted:
            continue
        batch = list(systems.batch(index))
        fits = reconstruct([each[0] for each in batch], [each[1] for each in batch], networks[0])
        for method in wanted:
            found = METHODS[method](batch, fits, networks, samples, index)
            for i, system, fit, each in zip(numbers, batch, fits, found, strict=True):
                *_, truth, figures, noise = system
                row = rows.setdefault(i, {"index": i, "noise": noise})
                row[method] = judged(truth, figures, fit, each, np.random.default_rng(i))
        with open(path, "a") as file:  # a later line of a system stands for an earlier one
            file.writelines(json.dumps(finite(rows[i])) + "\n" for i in numbers)
        click.echo(f"{numbers[-1] + 1} systems of {systems.n_galaxies} galaxies")


@main.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path, exists=True), required=True)
def figures(out):
    """Fit the coefficients of each figure to the set "fit"."""
    rows = [row["draws"]["figures"] for row in _newest(out / "rows-fit.jsonl")]
    if not rows:
        raise click.ClickException(f"{out} holds no systems of the set fit; run `measure --set fit` first.")
    click.echo(f"{len(rows)} systems of the set fit")
    for name in FIGURES:
        columns = ("truth", "centre", "median", "p16", "p84")
        truth, centre, median, low, high = np.array([[row[name][column] for column in columns] for row in rows]).T
        found, distance = fit_figure(truth, centre, median, np.log(high / low) / 2)
        click.echo(f"{name}: {found}, ranks off by {distance:.2f}")


@main.command(name="report")
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def report_(out):
    """Count what `measure` has found, and write source_calibration.json and .md into OUT."""
    rows = _newest(out / "rows-test.jsonl")
    text, numbers = report(rows)
    write_results(out, "source_calibration", numbers, text)


if __name__ == "__main__":
    main()
