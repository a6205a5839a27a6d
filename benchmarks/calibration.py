"""Errors that have been counted: simulation-based calibration of the lens's posterior (Talts et al. 2018).

    python benchmarks/calibration.py fits --galaxies FOLDER --n 300 --set fit --out OUT
    python benchmarks/calibration.py fits --galaxies FOLDER --n 300 --set test --out OUT

`fits` draws systems with galaxies that no network has seen, and fits each lens from starts near the truth: what is kept
is the best lens, the curvature there, and the truth. Systems and galaxies of the set "fit" are others than those of
"test". Each lens is one line of OUT/fits-SET.jsonl as soon as it is done, and a run that is killed goes on there.
"""

import json
import pathlib
import time
import warnings

import click
import numpy as np
from from_image import mock

from rim_tf.config import MockConfig, ModelConfig
from rim_tf.data.seeds import generator
from rim_tf.files import finite
from rim_tf.inference.optimise import cropped, refine
from rim_tf.lens import lens_of
from rim_tf.models.pretrained import load_pretrained

STREAMS = {"fit": "calibration", "test": "calibration: test"}
# Errors of the starts in theta_E, e1, e2, x, y, gamma1, gamma2: a quarter of what an estimator makes, from where the
# search on coarse frames begins; whether it finds the basin is another question (`from_image.py`).
_START = 0.25 * np.array([0.04, 0.07, 0.07, 0.05, 0.05, 0.04, 0.04])
_STARTS, _STEPS = 3, 10
# Two ends with chi^2 per pixel as near as this agree; if none do, starts are drawn around the best, so many sigma off.
_AGREE, _SCATTERED, _SCATTER, _ROUNDS = 0.01, 4, 10.0, 2


def found(arcs, truth, rim, draws, source_pixels):
    """`Sought` from near the truth, and whether two ends agree."""
    mass = truth.mass
    starts = [lens_of(mass, truth.as_tuple() + _START * draws.normal(size=mass.size)) for _ in range(_STARTS)]
    sought = refine(arcs, starts, rim, None, _STEPS, source_pixels=source_pixels)
    for _ in range(_ROUNDS):
        if _agree(sought):
            break
        around = draws.multivariate_normal(sought.lens.as_tuple(), _SCATTER**2 * sought.covariance(), _SCATTERED)
        starts = [sought.lens, *(lens_of(mass, each) for each in around)]
        sought = refine(arcs, starts, rim, None, _STEPS, before=sought, source_pixels=source_pixels)
    return sought, _agree(sought)


def _agree(sought):
    chi2 = np.sort(sought.ends["chi2_per_pixel"])
    return bool(chi2[1] < chi2[0] * (1 + _AGREE))


def fitted(index, stamps, rim, name):
    """One row of `fits`: numbers alone."""
    seen, truth, _, noise, _ = mock(index, stamps, MockConfig(), STREAMS[name])
    started = time.perf_counter()
    arcs = cropped(seen, ModelConfig.fit_radius * truth.theta_E)
    draws = generator(STREAMS[name], 0, index)
    # The source of the whole frame: behind a small ring, what was cut is too narrow for it.
    sought, agree = found(arcs, truth, rim, draws, max(seen.shape))
    misfit = sought.descent.misfit
    u_true = misfit.coordinates([truth.as_tuple()])[0]
    of_truth = misfit(u_true[None])[0]
    best = sought.descent.residual[sought.best]
    n = misfit.mass.size
    return {
        "index": index,
        "noise": noise,
        "n_used": misfit.n_used,
        "pixels": arcs.shape[0],
        "psf": float(seen.psf) / seen.pixel_scale,
        "agree": agree,
        "chi2": float((best[:-n] ** 2).sum()),
        "chi2_true": float((of_truth[:-n] ** 2).sum()),
        "prior": float((best[-n:] ** 2).sum()),
        "prior_true": float((of_truth[-n:] ** 2).sum()),
        "ends": sought.ends["chi2_per_pixel"],
        "u": sought.u,
        "u_true": u_true,
        "curvature": sought.curvature(),
        "prior_centre": misfit.prior[0],
        "seconds": time.perf_counter() - started,
    }


# ---------------------------------------------------------------------------------------------------- the commands


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path, row):
    with open(path, "a") as file:
        file.write(json.dumps(finite(row)) + "\n")


def galaxies_of(folder, name):
    """Unseen galaxies, every other one: those of the two sets are not the same."""
    from rim_tf.data.mocks import GalaxyStamps
    from rim_tf.data.sources.find import find_galaxies

    galaxies = find_galaxies(folder, "validation", "test")
    half = slice(list(STREAMS).index(name), None, 2)
    return GalaxyStamps(galaxies.images[half], galaxies.half_light_radius[half])


@click.group()
def main():
    """Calibration of the lens's posterior; see the top of this file."""
    warnings.simplefilter("ignore")


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--n", default=300, show_default=True)
@click.option("--set", "name", type=click.Choice(list(STREAMS)), default="fit", show_default=True)
@click.option("--weights", default=ModelConfig.weights, show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def fits(galaxies, n, name, weights, out):
    """The best lens and the curvature of many systems."""
    stamps, rim = galaxies_of(galaxies, name), load_pretrained(weights)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"fits-{name}.jsonl"
    for index in range(len(read_rows(path)), n):
        row = fitted(index, stamps, rim, name)
        append(path, row)
        off = np.array(row["u_true"]) - row["u"]
        click.echo(
            f"{index}: noise {row['noise']:.4f} chi2 {row['chi2'] / row['n_used']:.3f} "
            f"(true lens {row['chi2_true'] / row['n_used']:.3f}) {'' if row['agree'] else 'ends differ '}"
            f"off by {off @ row['curvature'] @ off:.1f} in chi^2 of 7  {row['seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
