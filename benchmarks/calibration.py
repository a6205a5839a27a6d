"""Errors that have been counted: simulation-based calibration of the lens's posterior (Talts et al. 2018).

    python benchmarks/calibration.py fits --galaxies FOLDER --n 300 --set fit --out OUT
    python benchmarks/calibration.py fits --galaxies FOLDER --n 300 --set test --out OUT
    python benchmarks/calibration.py errors --out OUT
    python benchmarks/calibration.py posteriors --galaxies FOLDER --method importance --n 300 --out OUT
    python benchmarks/calibration.py report --out OUT
    python benchmarks/calibration.py speed --galaxies FOLDER --index 2 --out OUT

`fits` draws systems with galaxies that no network has seen, and fits each lens from starts near the truth: what is kept
is the best lens, the Gaussian about it, and the truth. Systems and galaxies of the set "fit" are others than those of
"test". `errors` fits the coefficients of `rim_tf.inference.calibration` to the set "fit". `posteriors` draws from the
posterior of each test system by one method, and `report` counts: where the truth lies in each posterior, by decade of
noise, as a table and figures. `speed` draws from the posterior of one test system by every sampler and both ways to its
source, one after the other, and tells the effective samples of each in a second. Each lens is one line of a file in OUT
as soon as it is done; a run that is killed goes on there.
"""

import itertools
import json
import pathlib
import time
import warnings

import click
import numpy as np
from from_image import mock

from rim_tf.config import (
    EnsembleSettings,
    HamiltonianSettings,
    ImportanceSettings,
    InversionSettings,
    MockConfig,
    ModelConfig,
)
from rim_tf.data.seeds import generator
from rim_tf.evaluation import coverage
from rim_tf.files import finite, write_json
from rim_tf.inference.calibration import CALIBRATION, fit_calibration
from rim_tf.inference.lens_samples import FLOORS, INVERSION, coarse_grid, settled
from rim_tf.inference.optimise import cropped, with_noise_floor
from rim_tf.inference.posterior import Gaussian, inversion_posterior, rim_posterior
from rim_tf.inference.samplers.chain import run
from rim_tf.inference.samplers.registry import find_sampler
from rim_tf.inference.verdict import LIMITS
from rim_tf.lens import lens_of
from rim_tf.models.pretrained import load_pretrained
from rim_tf.physics.mass.model import SIE_SHEAR

# Decades of noise over the peak that are counted apart.
DECADES = {"0.1-1 %": (1e-3, 1e-2), "1-10 %": (1e-2, 1e-1)}
# Of fewer systems nothing is counted.
LEAST = 10
ANALYTIC, SAMPLED = (
    ("differences", "linearised", "calibrated"),
    ("importance", "emcee", "estimator", "joint", "inversion"),
)
SETTINGS = {"importance": ImportanceSettings(draws=256), "emcee": EnsembleSettings(steps=600)}
# What `speed` runs: long enough for an effective number, some of them short of convergence.
_HAMILTONIAN = HamiltonianSettings(chains=4, warm_up=40, draws=60)
SPEED = {
    "rim": {
        "importance": SETTINGS["importance"],
        "emcee": EnsembleSettings(steps=200),
        "hmc": _HAMILTONIAN,
        "nuts": _HAMILTONIAN,
    },
    "inversion": {"importance": ImportanceSettings(**INVERSION), "emcee": EnsembleSettings(walkers=16, steps=80)},
}
STREAMS = {"fit": "calibration", "test": "calibration: test"}
# Errors of the starts in theta_E, e1, e2, x, y, gamma1, gamma2: a quarter of what an estimator makes, from where the
# search on coarse frames begins; whether it finds the basin is another question (`from_image.py`).
_START = 0.25 * np.array([0.04, 0.07, 0.07, 0.05, 0.05, 0.04, 0.04])
_STARTS = 3


def fitted(index, stamps, rim, name):
    """One row of `fits`: numbers alone."""
    seen, truth, _, noise, *_ = mock(index, stamps, MockConfig(), STREAMS[name])
    started = time.perf_counter()
    arcs = cropped(seen, ModelConfig.fit_radius * truth.theta_E)
    draws, mass = generator(STREAMS[name], 0, index), truth.mass
    starts = [lens_of(mass, truth.as_tuple() + _START * draws.normal(size=mass.size)) for _ in range(_STARTS)]
    # The source of the whole frame: behind a small ring, what was cut is too narrow for it.
    target, law, sought = settled(arcs, starts, rim, None, max(seen.shape), index)
    u_true = target.coordinates([truth.as_tuple()])[0]
    chi2 = (target.likelihood.residuals(target.lenses(np.stack([law.u, u_true]))) ** 2).sum(1)
    return {
        "index": index,
        "noise": noise,
        "noise_with_floor": float(np.median(target.likelihood.observation.noise) / noise_peak(seen, noise)),
        "pixels": arcs.shape[0],
        "psf": float(seen.psf) / seen.pixel_scale,
        "n_used": int(arcs.mask.sum()),
        "chi2": chi2[0],
        "chi2_true": chi2[1],
        # With what noise the image is expected to have, as the floor makes chi^2 small.
        "chi2_expected": float(((arcs.noise / target.likelihood.observation.noise) ** 2).sum()),
        "u_true": u_true,
        "u": law.u,
        "covariance": law.covariance,
        "u_sought": sought.u,
        "curvature_sought": sought.curvature(),
        "seconds": time.perf_counter() - started,
    }


def noise_peak(seen, noise):
    """The peak that the noise of a mock is a share of."""
    return float(np.median(seen.noise)) / noise


# ------------------------------------------------------------------------------------------- the coefficients


def trusted(row):
    """Whether a user would go on with such a fit, since it explains the image. It knows nothing of the truth."""
    return row["chi2"] / row["chi2_expected"] < LIMITS["chi2"]


def gaussian_of(row):
    """The `Gaussian` that `settled` found, without any calibration."""
    return Gaussian(np.array(row["u"]), np.array(row["covariance"]))


def differences_of(row):
    """The `Gaussian` of slopes by small differences where the search ended, for comparison."""
    return Gaussian(np.array(row["u_sought"]), np.linalg.inv(np.array(row["curvature_sought"])))


def stated(calibration, row):
    """The calibrated posterior of a row."""
    return calibration.distribution(gaussian_of(row), row["noise_with_floor"])


# --------------------------------------------------------------------------------------------------- posteriors

SAMPLES = 400


def analytic(name, row, seed):
    """Draws [n, columns] of the posteriors that cost nothing beyond the fit."""
    known = {"differences": differences_of, "linearised": gaussian_of}
    law = known[name](row) if name in known else stated(CALIBRATION, row)
    return law.draw(SAMPLES, np.random.default_rng([seed, row["index"]]))


def posterior_of(method, row, seen, truth, rim):
    """The `LogPosterior` of a row, its source found by a method, and the `Gaussian` to begin from."""
    arcs, pixels = cropped(seen, ModelConfig.fit_radius * truth.theta_E), max(seen.shape)
    law, noise = stated(CALIBRATION, row), row["noise_with_floor"]
    best = lens_of(SIE_SHEAR, np.asarray(SIE_SHEAR.from_real(law.u[None].astype(np.float32)))[0])
    if method == "inversion":
        target = inversion_posterior(arcs, best, InversionSettings(), None, *coarse_grid(arcs, pixels))
    else:
        floored, temperature = with_noise_floor(arcs, FLOORS[-1]), CALIBRATION.temperature(noise)
        target = rim_posterior(floored, best, rim, None, temperature, None, pixels)
    return target, Gaussian(law.u, law.covariance)


def sampled(name, row, seen, truth, rim, networks):
    """Draws [n, columns] by a method, and figures of the chain."""
    if name == "estimator":
        from rim_tf.inference.estimate import estimate_lens

        lenses = estimate_lens(seen, networks[0]).samples[:SAMPLES]
        return np.asarray(SIE_SHEAR.to_real(lenses.astype(np.float32))), {}
    if name == "joint":
        return by_network(seen, truth, row["index"], *networks), {}
    if name == "inversion":
        method, sampler = "inversion", find_sampler("importance").build(ImportanceSettings(**INVERSION))
    else:
        method, sampler = "rim", find_sampler(name).build(SETTINGS[name])
    target, law = posterior_of(method, row, seen, truth, rim)
    started = time.perf_counter()
    chain = run(sampler, target, law)
    seconds = time.perf_counter() - started
    weights = chain.weights.ravel()
    places = (np.arange(SAMPLES) + 0.5) / SAMPLES
    chosen = np.searchsorted(np.cumsum(weights), places).clip(max=len(weights) - 1)
    return chain.u.reshape(-1, chain.u.shape[-1])[chosen], chain.figures() | {"seconds": seconds}


def by_network(seen, truth, seed, estimator, joint):
    """Draws from the posterior of the network of lens and source, after as many steps as it was trained for."""
    import tensorflow as tf

    from rim_tf.models import mixture
    from rim_tf.models.joint import first_guess
    from rim_tf.systems import batch_of

    arcs = cropped(seen, ModelConfig.fit_radius * truth.theta_E)
    batch = batch_of([arcs], [truth], [joint.config.source_scale_ratio * arcs.pixel_scale])
    inputs = {name: tf.constant(value) for name, value in batch.items() if name != "lens"}
    return mixture.draw(joint.search(first_guess(estimator, inputs))["head"], SAMPLES, seed).numpy()[0]


# ------------------------------------------------------------------------------------------------------ counting


def counted(truth, samples):
    """{name: figures} of posteriors, truth [systems, columns] and samples [systems, n, columns]."""
    ranks = coverage.ranks(truth, samples)
    credibility = np.abs(2 * ranks - 1)
    levels, found = coverage.tarp(truth, samples)
    return {
        "n": len(truth),
        "coverage": coverage.coverage(credibility).tolist(),
        "largest_deviation": coverage.largest_deviation(credibility).tolist(),
        "tarp": float(np.abs(found - levels).max()),
        "of_chance": 1.36 / np.sqrt(len(truth)),
        "sigma": np.exp(np.log(samples.std(axis=1)).mean(axis=0)).tolist(),
        "ranks": ranks.tolist(),
    }


def lines_of(name, figures):
    """A method in one decade of noise, as text."""
    cover = 100 * np.array(figures["coverage"])
    deviation = 100 * np.array(figures["largest_deviation"])
    means = " ".join(f"{each:5.1f}" for each in cover.mean(1))
    return (
        f"  {name:<13} n {figures['n']:4d}  within 68.3/95.4/99.7 %: {means}   largest deviation: mean "
        f"{deviation.mean():4.1f}, worst {deviation.max():4.1f} ({SIE_SHEAR.names[int(deviation.argmax())]}); TARP "
        f"{100 * figures['tarp']:4.1f}; by chance up to {100 * figures['of_chance']:.1f}   sigma(theta_E) "
        f"{100 * figures['sigma'][0]:.3f} %"
    )


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
            f"{index}: noise {row['noise']:.4f} chi2 {row['chi2']:.1f} (true lens {row['chi2_true']:.1f}, expected "
            f"{row['chi2_expected']:.0f}) off by {off @ np.linalg.solve(row['covariance'], off):.1f} in chi^2 of 7  "
            f"{row['seconds']:.1f} s"
        )


@main.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path, exists=True), required=True)
def errors(out):
    """Fit the coefficients of the calibration to the set "fit"."""
    rows = [row for row in read_rows(out / "fits-fit.jsonl") if trusted(row)]
    click.echo(f"{len(rows)} systems of the set fit; those whose fit would not be trusted are left out")
    truth = np.array([row["u_true"] for row in rows])
    laws = [gaussian_of(row) for row in rows]
    noise = np.array([row["noise_with_floor"] for row in rows])
    for order, with_tails in itertools.product((0, 1, 2), (False, True)):
        found, loss = fit_calibration(laws, truth, noise, order, with_tails)
        click.echo(f"AIC {2 * (loss + order + 1 + with_tails):10.1f}  {found}")


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="As of `fits`.")
@click.option("--n", default=300, show_default=True, help="Of the systems of `fits`, the first n.")
@click.option("--method", type=click.Choice(SAMPLED), required=True)
@click.option("--weights", default=ModelConfig.weights, show_default=True)
@click.option("--estimator", default=ModelConfig.estimator, show_default=True)
@click.option("--joint", default=ModelConfig.joint, show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path, exists=True), required=True)
def posteriors(galaxies, n, method, weights, estimator, joint, out):
    """Draw from the posteriors of the test systems by one method."""
    stamps, rim = galaxies_of(galaxies, "test"), load_pretrained(weights)
    wanted = {"estimator": ((estimator, "estimator"),), "joint": ((estimator, "estimator"), (joint, "joint"))}
    networks = tuple(load_pretrained(*each) for each in wanted.get(method, ()))
    path = out / f"posteriors-{method}.jsonl"
    known = {row["index"] for row in read_rows(path)}
    for row in read_rows(out / "fits-test.jsonl")[:n]:
        if row["index"] in known or not trusted(row):
            continue
        seen, truth, *_ = mock(row["index"], stamps, MockConfig(), STREAMS["test"])
        u, figures = sampled(method, row, seen, truth, rim, networks)
        append(path, {"index": row["index"], "u": np.round(u, 7), **figures})
        ranks = coverage.ranks(np.array(row["u_true"]), u)
        click.echo(f"{row['index']}: noise {row['noise']:.4f} ranks {np.round(ranks, 2)} {figures}")


@main.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path, exists=True), required=True)
@click.option("--seed", default=0, help="Of the draws of what needs no sampler.")
def report(out, seed):
    """Count, and draw calibration.png."""
    fits = read_rows(out / "fits-test.jsonl")
    rows = {row["index"]: row for row in fits if trusted(row)}
    click.echo(f"{len(fits)} test systems, {len(rows)} with a fit that would be trusted")
    draws = {name: {i: analytic(name, row, seed) for i, row in rows.items()} for name in ANALYTIC}
    for name in SAMPLED:
        stored = read_rows(out / f"posteriors-{name}.jsonl")
        draws[name] = {row["index"]: np.array(row["u"]) for row in stored if row["index"] in rows}
    found = {}
    for decade, (low, high) in DECADES.items():
        click.echo(f"noise {decade} of the peak")
        for name, of_method in draws.items():
            indices = [i for i in of_method if low <= rows[i]["noise"] < high]
            if len(indices) < LEAST:
                continue
            truth = np.array([rows[i]["u_true"] for i in indices])
            figures = counted(truth, np.array([of_method[i] for i in indices]))
            found.setdefault(decade, {})[name] = figures
            click.echo(lines_of(name, figures))
    if not found:
        raise click.ClickException(f"No method has {LEAST} test systems in a decade of noise; run `fits` for more.")
    write_json(out / "calibration.json", found)
    draw(found).savefig(out / "calibration.png", dpi=80)
    click.echo(f"Wrote {out / 'calibration.json'}, {out / 'calibration.png'}")


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="As of `fits`.")
@click.option("--index", default=2, show_default=True, help="Of the test system.")
@click.option("--weights", default=ModelConfig.weights, show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path, exists=True), required=True)
def speed(galaxies, index, weights, out):
    """Effective samples in a second of every sampler, with the source by the RIM and by linear inversion."""
    stamps, rim = galaxies_of(galaxies, "test"), load_pretrained(weights)
    rows = {row["index"]: row for row in read_rows(out / "fits-test.jsonl")}
    if index not in rows:
        raise click.UsageError(f"--index is {index}; it must be one of the {len(rows)} of fits-test.jsonl in {out}.")
    row = rows[index]
    seen, truth, *_ = mock(index, stamps, MockConfig(), STREAMS["test"])
    path = out / "speed.jsonl"
    known = {(each["index"], each["method"], each["sampler"]) for each in read_rows(path)}
    for method, of_method in SPEED.items():
        for name, settings in of_method.items():
            if (index, method, name) in known:
                continue
            target, law = posterior_of(method, row, seen, truth, rim)
            started, cpu = time.perf_counter(), time.process_time()
            figures = run(find_sampler(name).build(settings), target, law).figures()
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            each = figures["effective_samples"] / cpu
            row_of = {"index": index, "method": method, "cpu_seconds": cpu, "seconds": seconds, "per_cpu_second": each}
            append(path, figures | row_of | {"sampler": name})
            click.echo(f"{method:<9} {name:<10} {each:.4f} effective samples a CPU second; {figures}, {cpu:.0f} CPU s")


def draw(found):
    """Rank histograms of all parameters with the band of a right posterior, a row for each decade of noise."""
    import matplotlib.pyplot as plt

    methods = list(dict.fromkeys(name for each in found.values() for name in each))
    shape = len(found), len(methods)
    figure, axes = plt.subplots(*shape, figsize=(3 * shape[1], 2.6 * shape[0]), squeeze=False, layout="constrained")
    for (decade, by_method), row in zip(found.items(), axes, strict=True):
        for name, axis in zip(methods, row, strict=True):
            if name not in by_method:
                axis.axis("off")
                continue
            ranks, edges = np.array(by_method[name]["ranks"]), np.linspace(0, 1, 11)
            for i, parameter in enumerate(SIE_SHEAR.names):
                axis.stairs(coverage.histogram(ranks[:, i], 10), edges, label=parameter)
            axis.axhspan(*coverage.band(len(ranks), 10, 0.95), color="0.9", zorder=0)
            axis.set_title(f"{name}, noise {decade}", fontsize=9)
            axis.set_xlabel("rank of the truth")
    axes[0, 0].legend(fontsize=6)
    return figure


if __name__ == "__main__":
    main()
