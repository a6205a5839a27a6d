"""What simulation.py and physics.py share: the systems that every package is given, who takes part, and the check."""

import pathlib
import sys
import tempfile

import click
import numpy as np
from results import circumstances
from timing import THREADS, Worker, described, machine, say, time_in_turns

from rim_tf.data.sources.procedural import clumpy_spiral

N_PIXELS, IMAGE_SCALE, SOURCE_SCALE, SIGMA = 192, 0.04, 3 / 192, 0.1
_PSF_HALF = 13  # five standard deviations
# Images that differ by more are not of the same lens; herculens in float32 differs by 1e-3.
_SAME = 1e-2
# Beyond the frame caustics renders light that it blurs in, and the others do not.
_INSIDE = np.s_[:, _PSF_HALF + 1 : -_PSF_HALF - 1, _PSF_HALF + 1 : -_PSF_HALF - 1]


def lensing_options(command):
    """The options of a command that times packages side by side."""
    options = [
        click.option(
            "--peers-python", default=sys.executable, help="Interpreter that has the peers.  [default: this one]"
        ),
        click.option("--rounds", default=7, show_default=True, help="Turns of every package in every case."),
        click.option("--threads", default=THREADS, show_default=True, help="Cores that each package may use."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def compare(names, cases, rounds, peers_python, threads, unchecked=()):
    """Every package does every case, is compared with the first, and is then timed in turns.

    Args:
      names: in `peers_lensing.CONTENDERS`.
      cases: as peers_lensing.py describes them.
      rounds: turns of every package in every case.
      peers_python: interpreter of those that are not ours.
      threads: cores that each may use.
      unchecked: of the names, those that do something else.

    Returns:
      The rows of `timing.time_in_turns`, those of `check`, and the `circumstances`.
    """
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        say("Drawing lenses and sources ...")
        write_inputs(folder / "inputs.npz", max(case["batch"] for case in cases))
        workers = lensing_workers(names, folder / "inputs.npz", peers_python, threads)
        try:
            checks = check([worker for worker in workers if worker.name not in unchecked], cases, folder)
            rows = time_in_turns(workers, cases, rounds)
        finally:
            for worker in workers:
                worker.close()
    return rows, checks, circumstances(before, threads, workers)


def write_inputs(path, n, seed=1):
    """`n` lenses and 192 x 192 sources, as peers_lensing.py reads them; each source ends before its grid does."""
    rng = np.random.default_rng(seed)
    phi, phi_shear = rng.uniform(0, 2 * np.pi, (2, n))
    e, gamma = rng.uniform(0.02, 0.3, n), rng.uniform(0, 0.1, n)
    lens = [
        rng.uniform(0.8, 1.6, n),
        e * np.cos(phi),
        e * np.sin(phi),
        *rng.normal(scale=0.1, size=(2, n)),
        gamma * np.cos(phi_shear),
        gamma * np.sin(phi_shear),
    ]
    i = (np.arange(2 * _PSF_HALF + 1) - _PSF_HALF) * IMAGE_SCALE
    psf = np.exp(-(i[:, None] ** 2 + i**2) / (2 * SIGMA**2))
    np.savez(
        path,
        lens=np.stack(lens, axis=1),
        source=np.stack([clumpy_spiral(rng, N_PIXELS) for _ in range(n)]),
        psf=psf / psf.sum(),
        sigma=SIGMA,
        image_scale=IMAGE_SCALE,
        source_scale=SOURCE_SCALE,
    )


def lensing_workers(names, path, peers_python, threads):
    """A `Worker` for each name in `peers_lensing.CONTENDERS`."""
    workers = []
    for name in names:
        package = name.split()[0]
        ours = package == "rim_tf"
        workers.append(
            Worker(
                name,
                sys.executable if ours else peers_python,
                "peers_lensing.py",
                name,
                path,
                packages=[package, *({"caustics": ["torch"], "herculens": ["jax"]}.get(package, []))],
                threads=threads,
                environment={"KERAS_BACKEND": "jax" if name == "rim_tf JAX" else "tensorflow"} if ours else None,
            )
        )
    return workers


def check(workers, cases, folder):
    """Largest difference of every array from the first worker's, over that one's largest value; a list of rows.

    A worker that differs by more than _SAME has another status than "ok", and is not compared in the table. Images are
    compared inside a margin of half the PSF, gradients in the source away from the outermost row.
    """
    rows = []
    for i, case in enumerate(cases):
        say(f"Compiling and comparing, {i + 1} of {len(cases)}: {described(case)}")
        reference = None
        for worker in workers:
            arrays = worker.arrays(case, folder / "output.npz")
            if isinstance(arrays, str):
                rows.append({"name": worker.name, "case": case, "status": arrays})
                say(f"  {worker.name}: {arrays}")
                continue
            reference = reference or arrays
            difference = {key: _difference(arrays[key], reference[key]) for key in arrays}
            worst = max(difference.values())
            status = "ok" if worst <= _SAME else f"differs by {worst:.0e}"
            rows.append({"name": worker.name, "case": case, "status": status, "difference": difference})
            say(f"  {worker.name}: largest difference {worst:.0e}")
    return rows


def _difference(ours, theirs):
    if ours.ndim == 3:
        ours, theirs = ours[_INSIDE], theirs[_INSIDE]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def worst_difference(checks, name):
    """A word for the table: the largest difference of this worker in all cases that it could do."""
    found = [max(row["difference"].values()) for row in checks if row["name"] == name and row["status"] == "ok"]
    return f"{max(found):.0e}" if found else "-"
