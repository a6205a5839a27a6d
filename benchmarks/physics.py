"""Ray tracing, interpolation and blurring, with gradients, beside caustics and herculens: milliseconds per lens.

    python benchmarks/physics.py --peers-python PEERS/bin/python --out OUT

One isothermal ellipsoid with shear, a source of 192 x 192 pixels bilinearly interpolated onto an image of 192 x 192,
without and with blurring by a PSF stamp of 27 x 27, batches of 8; then the gradient of half the sum of the squared
image, in the source, and in lens and source. Every package is given the same arrays, and must return the same ones
before it is timed. Run it on a machine that does nothing else. PEERS has the extra `peers`.
"""

import pathlib

import click
from results import write_results
from side_by_side import compare, lensing_options, worst_difference
from timing import markdown_table, spread

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
@click.option("--batch", default=8, show_default=True)
@lensing_options
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="May be repeated.  [default: all]")
def main(out, peers_python, batch, rounds, threads, only):
    """Time the physics of every package side by side; see the top of this file."""
    rows, checks, facts = compare(only or NAMES, cases(batch), rounds, peers_python, threads)
    text = "\n\n".join(
        f"{title}, batch {batch}: median (least - most) of {rounds} turns.\n\n{table(rows, checks, batch, blur)}"
        for blur, title in [(False, "Lensed image, no PSF"), (True, "Lensed image blurred by a PSF of 27 x 27")]
    )
    write_results(out, "physics", facts | {"checks": checks, "timings": rows}, text)


if __name__ == "__main__":
    main()
