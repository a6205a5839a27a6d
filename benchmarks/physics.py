"""Ray tracing, interpolation and blurring, with gradients, beside caustics and herculens: milliseconds per lens.

    python benchmarks/physics.py --peers-python PEERS/bin/python --out /tmp/physics

One isothermal ellipsoid with shear, a source of 192 x 192 pixels bilinearly interpolated onto an image of 192 x 192,
without and with blurring by a PSF stamp of 27 x 27, batches of 8; then the gradient of half the sum of the squared
image, in the source, and in lens and source. Every package is given the same arrays, and must return the same ones
before it is timed. Turns go round, so run it on a machine that does nothing else. PEERS has the extra `peers`.
"""

import pathlib
import sys
import tempfile

import click
from side_by_side import check, lensing_workers, worst_difference, write_inputs
from timing import THREADS, machine, markdown_table, spread, time_in_turns, versions, write_results

NAMES = (
    "rim_tf graph",
    "rim_tf XLA",
    "rim_tf JAX",
    "rim_tf graph, Gaussian PSF",
    "rim_tf XLA, Gaussian PSF",
    "caustics compiled",
    "caustics compiled, PSF by conv2d",
    "caustics eager",
    "herculens jit",
    "lenstronomy",
)
TASKS = {"forward": "forward", "source": "and gradient in the source", "lens and source": "and in lens and source"}


def cases(batch):
    return [{"task": task, "blur": blur, "batch": batch} for blur in (False, True) for task in TASKS]


def table(rows, checks, batch, blur):
    """One row for each package; those that differ only in the PSF appear where there is one."""
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        if "PSF" in name and not blur:
            continue
        mine = {row["case"]["task"]: row for row in rows if row["name"] == name and row["case"]["blur"] == blur}
        checked = [row for row in checks if row["case"]["blur"] == blur]
        lines.append([name, *(spread(mine[task], 1e3 / batch) for task in TASKS), worst_difference(checked, name)])
    return markdown_table(["ms per lens", *TASKS.values(), "largest difference"], lines)


@click.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="physics", show_default=True)
@click.option("--peers-python", default=sys.executable, help="Interpreter that has the peers.  [default: this one]")
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=7, show_default=True, help="Turns of every package in every case.")
@click.option("--threads", default=THREADS, show_default=True, help="Cores that each package may use.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="May be repeated.  [default: all]")
def main(out, peers_python, batch, rounds, threads, only):
    """Time the physics of every package side by side; see the top of this file."""
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_inputs(folder / "inputs.npz", batch)
        workers = lensing_workers(only or NAMES, folder / "inputs.npz", peers_python, threads)
        try:
            checks = check(workers, cases(batch), folder)
            rows = time_in_turns(workers, cases(batch), rounds)
        finally:
            for worker in workers:
                worker.close()
    text = "\n\n".join(
        f"{title}, batch {batch}: median (least - most) of {rounds} turns.\n\n{table(rows, checks, batch, blur)}"
        for blur, title in [(False, "Lensed image, no PSF"), (True, "Lensed image blurred by a PSF of 27 x 27")]
    )
    results = {
        "machine_before": before,
        "machine_after": machine(),
        "threads": threads,
        "versions": {"benchmark": versions()} | {worker.name: worker.versions for worker in workers},
        "first_call_s": {worker.name: worker.first_call_s for worker in workers},
        "checks": checks,
        "timings": rows,
    }
    write_results(out, "physics", results, text)


if __name__ == "__main__":
    main()
