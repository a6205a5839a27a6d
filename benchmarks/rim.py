"""Seconds per reconstruction of the RIM, its rate of arithmetic beside the machine's own, and torch-rim.

    python benchmarks/rim.py --peers-python PEERS/bin/python --out OUT
    python benchmarks/rim.py --config paper --pixels 64 --batch 1 --out OUT

The operations are counted by `rim_tf.models.flops`; they are all in convolutions. Divided by the time of the whole
reconstruction, physics, activations and link included, they give a rate, which stands beside that of the same
convolutions alone (each by itself, in TensorFlow, same shapes, same turn) and of a matrix product. As the operations
are the same, the ratio of the first two is also the share of the time that a reconstruction spends in convolutions.

torch-rim's network has another architecture (an hourglass with one recurrent block); it is made as wide as gives as
many parameters, and takes as many steps. PEERS has the extra `peers`; run this on a machine that does nothing else.
"""

import dataclasses
import pathlib
import sys
import tempfile

import click
import numpy as np
from matplotlib.figure import Figure
from results import circumstances, write_results
from timing import THREADS, Worker, described, machine, markdown_table, say, time_in_turns

from rim_tf.config import PRESETS
from rim_tf.models.flops import count_flops

NAMES = (
    "rim_tf graph",
    "rim_tf XLA",
    "rim_tf JAX",
    "convolutions alone",
    "matrix product",
    "torch-rim eager",
    "torch-rim compiled",
)
_MATRIX_PRODUCT_FLOPS = 2 * 2048**3


def cases(config, pixels, batches, n_steps, parameters, most_gflops):
    """Every size in every batch that asks for no more than `most_gflops` operations, and those left out."""
    every = [
        {"config": config, "pixels": n, "batch": b, "n_steps": n_steps, "parameters": parameters}
        for n in pixels
        for b in batches
    ]
    flops = [case_flops(case) / 1e9 for case in every]
    kept = [case for case, size in zip(every, flops, strict=True) if size <= most_gflops]
    return kept, [case for case in every if case not in kept]


def case_flops(case):
    config = dataclasses.replace(PRESETS[case["config"]], n_steps=case["n_steps"])
    return case["batch"] * count_flops(config, case["pixels"])


def count_parameters(config):
    from rim_tf.models.rim import RIM

    return RIM(PRESETS[config]).count_params()


def rim_workers(names, peers_python, threads):
    workers = []
    for name in names:
        peer = name.startswith("torch-rim")
        workers.append(
            Worker(
                name,
                peers_python if peer else sys.executable,
                "peers_rim.py",
                name,
                packages=["torch", "rim"] if peer else ["rim_tf"],
                threads=threads,
                environment={"KERAS_BACKEND": "jax" if name == "rim_tf JAX" else "tensorflow"},
            )
        )
    return workers


def rates(rows):
    """Adds gflops_per_s to every row that has a time, and to the RIM's rows its share of the convolutions' rate."""
    for row in rows:
        if row["status"] != "ok" or row["name"].startswith("torch-rim"):
            continue
        flops = case_flops(row["case"])
        if row["name"] == "matrix product":
            flops = _MATRIX_PRODUCT_FLOPS
        elif row["name"] == "convolutions alone":
            flops /= row["case"]["n_steps"]
        row["gflops_per_s"] = flops / row["wall_s"] / 1e9
    for row in rows:
        alone = _find(rows, "convolutions alone", row["case"])
        if row["name"].startswith("rim_tf") and row["status"] == alone["status"] == "ok":
            row["share_of_convolution_rate"] = row["gflops_per_s"] / alone["gflops_per_s"]
    return rows


def _find(rows, name, case):
    """The row of this contender in this case; one that says so where it did not take part."""
    return next((row for row in rows if row["name"] == name and row["case"] == case), {"status": "left out"})


def table(rows):
    lines = []
    for case in _cases_of(rows):
        best_peer = min((r["wall_s"] for r in rows if _is_peer(r, case)), default=None)
        for name in dict.fromkeys(row["name"] for row in rows):
            lines.append(_line(_find(rows, name, case), case, best_peer))
    header = (
        "pixels",
        "batch",
        "",
        "s per reconstruction",
        "CPU s",
        "GFLOP/s",
        "of the convolutions' rate",
        "torch-rim's time over it",
    )
    return markdown_table(header, lines)


def _is_peer(row, case):
    return row["name"].startswith("torch-rim") and row["case"] == case and row["status"] == "ok"


def _cases_of(rows):
    return [row["case"] for i, row in enumerate(rows) if row["case"] not in [r["case"] for r in rows[:i]]]


def _line(row, case, best_peer):
    start = [case["pixels"], case["batch"], row["name"]]
    if row["status"] != "ok":
        return [*start, row["status"], "", "", "", ""]
    whole = row["name"].startswith(("rim_tf", "torch-rim"))
    spread = [row[key] / case["batch"] for key in ("wall_s", "wall_min_s", "wall_max_s")]
    ratio = f"{best_peer / row['wall_s']:.1f}" if best_peer and row["name"].startswith("rim_tf") else ""
    share = f"{100 * row['share_of_convolution_rate']:.0f} %" if "share_of_convolution_rate" in row else ""
    return [
        *start,
        "{:.4f} ({:.4f} - {:.4f})".format(*spread) if whole else "",
        f"{row['cpu_s'] / case['batch']:.4f}" if whole else "",
        f"{row['gflops_per_s']:.0f}" if "gflops_per_s" in row else "",
        share,
        ratio,
    ]


def exponents(rows):
    """Slope of log time in the log of the number of pixels, for each contender and batch with three sizes."""
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        for batch in dict.fromkeys(row["case"]["batch"] for row in rows):
            mine = [r for r in rows if r["name"] == name and r["case"]["batch"] == batch and r["status"] == "ok"]
            if len(mine) < 3 or name == "matrix product":
                continue
            n_pixels = [row["case"]["pixels"] ** 2 for row in mine]
            slope = np.polyfit(np.log(n_pixels), np.log([row["wall_s"] for row in mine]), 1)[0]
            found.append({"name": name, "batch": batch, "exponent": float(slope)})
    return found


def exponent_table(found):
    batches = list(dict.fromkeys(row["batch"] for row in found))
    lines = []
    for name in dict.fromkeys(row["name"] for row in found):
        of = {row["batch"]: f"{row['exponent']:.2f}" for row in found if row["name"] == name}
        lines.append([name, *(of.get(batch, "") for batch in batches)])
    return markdown_table(["time ~ pixels to the power of", *(f"batch {batch}" for batch in batches)], lines)


def figure(rows):
    """Time per reconstruction against the number of pixels, and the rate; a panel for each batch."""
    batches = list(dict.fromkeys(row["case"]["batch"] for row in rows))
    result = Figure(figsize=(4 * len(batches), 6.5), layout="constrained")
    axes = result.subplots(2, len(batches), squeeze=False, sharex=True, sharey="row")
    for column, batch in enumerate(batches):
        for i, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
            mine = [r for r in rows if r["name"] == name and r["case"]["batch"] == batch and r["status"] == "ok"]
            style = {"color": f"C{i}", "marker": "o", "markersize": 4, "label": name}
            n_pixels = [row["case"]["pixels"] ** 2 for row in mine]
            if name.startswith(("rim_tf", "torch-rim")):
                axes[0, column].plot(n_pixels, [row["wall_s"] / batch for row in mine], **style)
            if mine and "gflops_per_s" in mine[0]:
                axes[1, column].plot(n_pixels, [row["gflops_per_s"] for row in mine], **style)
        axes[0, column].set(xscale="log", yscale="log", title=f"batch {batch}")
        sides = sorted({row["case"]["pixels"] for row in rows})
        axes[1, column].set(xlabel="pixels of the source", ylim=(0, None))
        axes[1, column].set_xticks([side**2 for side in sides], [f"${side}^2$" for side in sides])
        axes[1, column].minorticks_off()
    axes[0, 0].set_ylabel("seconds per reconstruction")
    axes[1, 0].set_ylabel("GFLOP/s")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    return result


@click.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="rim", show_default=True)
@click.option("--peers-python", default=sys.executable, help="Interpreter that has the peers.  [default: this one]")
@click.option("--config", type=click.Choice(sorted(PRESETS)), default="small", show_default=True)
@click.option("--pixels", multiple=True, type=int, default=(64, 96, 128, 192), show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 8, 32), show_default=True)
@click.option("--steps", type=int, help="Steps of every RIM, in place of the preset's.")
@click.option("--rounds", default=5, show_default=True, help="Turns of every contender in every case.")
@click.option("--threads", default=THREADS, show_default=True, help="Cores that each contender may use.")
@click.option("--most-gflops", default=3000.0, show_default=True, help="Cases with more operations are left out.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="May be repeated.  [default: all]")
def main(out, peers_python, config, pixels, batches, steps, rounds, threads, most_gflops, only):
    """Time reconstructions side by side; see the top of this file."""
    before, parameters = machine(), count_parameters(config)
    steps = steps or PRESETS[config].n_steps
    kept, left_out = cases(config, pixels, batches, steps, parameters, most_gflops)
    workers = rim_workers(only or NAMES, peers_python, threads)
    sizes = {"rim_tf": parameters}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for worker in workers:
                say(f"Compiling {described(kept[0])}: {worker.name} ...")
                arrays = worker.arrays(kept[0], pathlib.Path(folder) / "output.npz")
                if "parameters" in arrays:
                    sizes[worker.name] = int(arrays["parameters"])
        rows = rates(time_in_turns(workers, kept, rounds))
    finally:
        for worker in workers:
            worker.close()
    found = exponents(rows)
    text = (
        f"Reconstruction with `{config}` ({parameters} parameters; torch-rim: {sizes.get('torch-rim eager', '-')}), "
        f"{steps} steps, {threads} cores: median (least - most) of {rounds} turns.\n\n{table(rows)}\n\n"
        f"{exponent_table(found)}"
    )
    if left_out:
        sizes_left = ", ".join(f"{case['pixels']} pixels in batches of {case['batch']}" for case in left_out)
        text += f"\n\nLeft out, as above {most_gflops:g} GFLOP: {sizes_left}."
    results = circumstances(before, threads, workers) | {
        "config": config,
        "parameters": sizes,
        "flops": [{"case": case, "flops": case_flops(case)} for case in kept],
        "timings": rows,
        "exponents": found,
        "left_out": left_out,
    }
    write_results(out, f"rim_{config}", results, text)
    figure(rows).savefig(out / f"rim_{config}.png", dpi=90)


if __name__ == "__main__":
    main()
