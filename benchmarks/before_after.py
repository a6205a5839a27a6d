"""Seconds that a user waits, before and after a change of the package, in turns in one run.

    python benchmarks/before_after.py --before CHECKOUT --out OUT

CHECKOUT is an earlier version of this repository; the later one is the one that this file stands in, or `--after`. Both
run on this interpreter, each in processes of its own:

- `rim_tf.reconstruct` of 1 and 16 systems of 64 and of 192 pixels, traced before;
- one call of the exported SavedModel with 1 and 16 systems of 64 pixels;
- a lens and its galaxy found in an image of 64 pixels: `workflow.model`, or, in a version without it,
  `subtract_lens_light` and `optimise_lens` from a start with an estimator's errors;
- whole processes from their start: `import rim_tf`, `rim-tf --help`, and `rim-tf reconstruct` of 64 pixels.

Both must give the same numbers (of a lens, theta_E to some tenths of a per cent): the table has the largest difference
over the largest value. Run it on a machine that
does nothing else; CPU seconds suffer less where that cannot be had. Writes before_after.md and before_after.json.
"""

import configparser
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import click
import numpy as np
from results import circumstances, write_results
from timing import THREADS, Worker, described, limit_threads, machine, markdown_table, say, spread, time_in_turns

CASES = [
    *({"task": "reconstruct", "pixels": n, "batch": b} for n in (64, 192) for b in (1, 16)),
    *({"task": "exported", "pixels": 64, "batch": b} for b in (1, 16)),
    *({"task": "lens", "pixels": 64, "system": i} for i in range(3)),
]
TASKS = tuple(dict.fromkeys(case["task"] for case in CASES))
# Systems in the largest batch, of which so many are drawn and then repeated; pixels and their scale [arcsec].
_SYSTEMS, _DRAWN, _SCALES = 16, 4, {64: 0.08, 192: 0.04}
_PSF, _NOISE = 0.06, 0.02  # sigma [arcsec]; rms over the image's peak
_GALAXY = 0.5  # brightness of the lens galaxy at its half-light radius, over that of the arcs
# Errors of an estimator: theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2.
_OFF = (0.04, 0.07, -0.07, 0.05, -0.05, 0.04, -0.04)


def write_observations(path, folder):
    """What both versions are given: an .npz for the workers, and image.fits and lens.json for the command line."""
    from astropy.io import fits

    from rim_tf.data.single import draw_system, observe_system
    from rim_tf.files import save_arrays, write_json

    arrays = {}
    for n, scale in _SCALES.items():
        say(f"Drawing {_DRAWN} systems of {n} x {n} pixels ...")
        lenses, observations, with_galaxy = [], [], []
        for seed in range(_DRAWN):
            lens, source, source_scale = draw_system(seed, n, scale)
            given = seed, lens, source, source_scale, n, scale, _NOISE, _PSF
            observations.append(observe_system(*given)[0])
            with_galaxy.append(observe_system(*given, lens_galaxy=_GALAXY)[0])
            lenses.append(lens)
        of_systems = {
            "image": [each.image for each in observations],
            "noise": [each.noise.mean() for each in observations],
            "psf": [_PSF] * _DRAWN,
            "scale": [scale] * _DRAWN,
            "lens": [lens.as_tuple() for lens in lenses],
            "with_galaxy": [each.image for each in with_galaxy],
            "start": [np.add(lens.as_tuple(), _OFF) for lens in lenses],
        }
        for name, values in of_systems.items():
            arrays[f"{name}_{n}"] = np.concatenate([np.asarray(values)] * (_SYSTEMS // _DRAWN))
    save_arrays(path, arrays)
    image = fits.PrimaryHDU(arrays["image_64"][0].astype(np.float32))
    image.header["PIXSCALE"] = (_SCALES[64], "[arcsec]")
    image.writeto(folder / "image.fits")
    names = ("theta_E", "e1", "e2", "x_lens", "y_lens", "gamma1", "gamma2")
    write_json(folder / "lens.json", dict(zip(names, arrays["lens_64"][0].tolist(), strict=True)))
    return float(arrays["noise_64"][0])


def commands(tree, noise):
    """{what: command} of the whole processes of one version."""
    setup = configparser.ConfigParser()
    setup.read(tree / "setup.cfg")
    module, function = setup["options.entry_points"]["console_scripts"].split("=")[1].strip().split(":")
    rim_tf = [sys.executable, "-c", f"from {module} import {function}; {function}()"]
    inputs = ["image.fits", "--noise", str(noise), "--psf", str(_PSF), "--lens", "lens.json"]
    return {
        "import rim_tf": [sys.executable, "-c", "import rim_tf"],
        "rim-tf --help": [*rim_tf, "--help"],
        "rim-tf reconstruct": [*rim_tf, "reconstruct", *inputs, "--out", "result", "--overwrite"],
    }


def time_processes(trees, noise, rounds, folder, threads):
    """Rows as those of `timing.time_in_turns`, of processes from their start to their end."""
    limit_threads(threads)  # this process's, which those that it starts inherit
    todo = {name: commands(tree, noise) for name, tree in trees.items()}
    rows = []
    for what in next(iter(todo.values())):
        say(f"Whole processes: {what}")
        found = {name: [] for name in trees}
        for turn in range(rounds + 1):
            say(f"  turn {turn} of {rounds}:" if turn else "  once, so that files are in memory:", end="")
            for name, tree in trees.items():
                found[name].append(_time_process(todo[name][what], tree, folder))
                say(f"  {name} {found[name][-1].get('wall_s', float('nan')):.3g} s", end="")
            say("")
        for name, timings in found.items():
            rows.append({"name": name, "case": {"process": what}} | _summary(timings[1:]))
    return rows


def _time_process(command, tree, folder):
    environment = os.environ | {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return {"wall_s": wall, "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime}


def _summary(timings):
    failed = [each["failed"] for each in timings if "failed" in each]
    if failed:
        return {"status": failed[0]}
    wall = [each["wall_s"] for each in timings]
    cpu = float(np.median([each["cpu_s"] for each in timings]))
    return {
        "status": "ok",
        "wall_s": float(np.median(wall)),
        "wall_min_s": min(wall),
        "wall_max_s": max(wall),
        "cpu_s": cpu,
    }


def differences(workers, cases, folder):
    """{case as text: largest difference of the second worker's arrays from the first's, over their largest value}."""
    found = {}
    for i, case in enumerate(cases):
        say(f"Compiling and comparing, {i + 1} of {len(cases)}: {described(case)}")
        before, after = (worker.arrays(case, folder / "output.npz") for worker in workers)
        failed = [each for each in (before, after) if isinstance(each, str)]
        if failed:
            found[json.dumps(case)] = failed[0]
        else:
            (name,) = after
            worst = np.abs(after[name] - before[name]).max() / np.abs(before[name]).max()
            found[json.dumps(case)] = f"{worst:.0e}"
        say(f"  largest difference {found[json.dumps(case)]}")
    return found


def table(rows, found):
    lines = []
    for i in range(0, len(rows), 2):
        before, after = rows[i : i + 2]
        both = before["status"] == after["status"] == "ok"
        lines.append(
            [
                described(before["case"]).removeprefix("process "),
                spread(before, 1, "{:.3g}"),
                spread(after, 1, "{:.3g}"),
                f"{after['wall_s'] / before['wall_s']:.2f}" if both else "",
                f"{before['cpu_s']:.3g}, {after['cpu_s']:.3g}" if both else "",
                found.get(json.dumps(before["case"]), ""),
            ]
        )
    return markdown_table(["", "before [s]", "after [s]", "ratio", "CPU s", "largest difference"], lines)


@click.command()
@click.option(
    "--before", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=pathlib.Path), required=True
)
@click.option(
    "--after",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=pathlib.Path),
    default=pathlib.Path(__file__).resolve().parents[1],
    help="Checkout of the later version.  [default: this one]",
)
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="before_after", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Turns of both versions in every case.")
@click.option("--threads", default=THREADS, show_default=True, help="Cores that each version may use.")
@click.option("--only", multiple=True, type=click.Choice([*TASKS, "processes"]), help="May be repeated.")
def main(before, after, out, rounds, threads, only):
    """Time two versions of the package in turns; see the top of this file."""
    at_start = machine()
    cases = [case for case in CASES if not only or case["task"] in only]
    trees = {"before": before, "after": after}
    sys.path.insert(0, str(after))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        noise = write_observations(folder / "observations.npz", folder)
        workers = [
            Worker(
                name,
                sys.executable,
                "before_after_worker.py",
                folder / "observations.npz",
                threads=threads,
                environment={"PYTHONPATH": str(tree)},
            )
            for name, tree in trees.items()
        ]
        try:
            found = differences(workers, cases, folder)
            rows = time_in_turns(workers, cases, rounds)
        finally:
            for worker in workers:
                worker.close()
        if not only or "processes" in only:
            rows += time_processes(trees, noise, rounds, folder, threads)
    text = f"Before and after, on {threads} cores: median (least - most) of {rounds} turns.\n\n{table(rows, found)}"
    write_results(
        out, "before_after", circumstances(at_start, threads, workers) | {"differences": found, "timings": rows}, text
    )


if __name__ == "__main__":
    main()
