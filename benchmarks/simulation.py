"""Simulated lenses per second beside caustics, herculens and lenstronomy, and how long training waits for them.

    python benchmarks/simulation.py --peers-python PEERS/bin/python --out OUT

First part: the noiseless lensed image, without PSF, of a 192 x 192 source on 192 x 192 pixels, the same for each
package and compared before it is timed. Its last row is what training draws: `streaming.simulate_batch`, with galaxies
rotated and placed, about half of the systems refused as in the paper, Gaussian PSF and noise.

Second part: a training loop that asks the tf.data pipeline for one batch at each step. Utilisation is the share of
the time that is not spent waiting in `next`. On a machine without an accelerator the pipeline and the step share
the cores, so the CPU seconds of both are given (those of the step are the loop's without the pipeline's).
PEERS has the extra `peers`; run this on a machine that does nothing else.
"""

import dataclasses
import pathlib
import sys
import time

from timing import THREADS, limit_threads

if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # training/ is not installed
    limit_threads(THREADS)  # before TensorFlow, whose pools are as large as the machine when it is imported

import click
from results import write_results
from side_by_side import compare, lensing_options, worst_difference
from timing import markdown_table, say

from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.streaming import stream
from training.experiments import EXPERIMENTS
from training.on_tensorflow import Team, _Learner
from training.strategies import strategy_of

NAMES = (
    "rim_tf graph",
    "rim_tf XLA",
    "rim_tf JAX",
    "caustics compiled",
    "caustics eager",
    "herculens jit",
    "lenstronomy",
    "rim_tf simulate_batch",
)


def cases(batches):
    return [{"task": "forward", "blur": False, "batch": batch} for batch in batches]


def rate(row):
    """Lenses per second, median (least - most)."""
    if row["status"] != "ok":
        return row["status"]
    median, slow, fast = (row["case"]["batch"] / row[key] for key in ("wall_s", "wall_max_s", "wall_min_s"))
    return f"{median:.0f} ({slow:.0f} - {fast:.0f})"


def rate_table(rows, checks):
    batches = list(dict.fromkeys(row["case"]["batch"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = {row["case"]["batch"]: row for row in rows if row["name"] == name}
        lines.append([name, *(rate(mine[batch]) for batch in batches), worst_difference(checks, name)])
    return markdown_table(["lenses per second", *(f"batch {b}" for b in batches), "largest difference"], lines)


@dataclasses.dataclass
class Clock:
    """Wall and CPU seconds of all threads of this process, since it was made."""

    wall: float = dataclasses.field(default_factory=time.perf_counter)
    cpu: float = dataclasses.field(default_factory=time.process_time)

    def read(self):
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


def utilisation(experiment, n_steps, n_unrolled=None):
    """How a training loop spends its time; a dictionary of seconds per step.

    Args:
      experiment: name in training/experiments.py.
      n_steps: steps that are timed, after one that compiles.
      n_unrolled: steps of the RIM, in place of the experiment's own. Fewer make a step cheaper and leave the cost of
        the pipeline as it is, so that the utilisation found is a lower bound.
    """
    say(f"Training `{experiment}`: compiling a step ...")
    config = EXPERIMENTS[experiment]
    if n_unrolled is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, n_steps=n_unrolled))
    learner = _Learner(config, Team(strategy_of("one-device")))
    galaxies = GalaxyStamps.of(find_galaxies(None, "train", "training", config.seed, n_procedural=100))
    batches = iter(stream(seed_pair("training", config.seed), config.batch_size, galaxies, config.mocks))
    batch = next(batches)
    learner.step([{0: batch}], 0, stop=False)
    time.sleep(2)  # the pipeline fills its buffer, as it has in a run of hours

    say(f"  {n_steps} steps ...")
    waits, clock = [], Clock()
    for _ in range(n_steps):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        learner.step([{0: batch}], 0, stop=False)
    wall, loop_cpu = clock.read()
    say(f"  {wall / n_steps:.3g} s a step, {1e3 * sum(waits) / n_steps:.2g} ms of it waiting; the pipeline alone ...")
    del batches  # or it would go on filling its buffer below

    n_drawn = max(4, n_steps // 4)
    alone = iter(
        stream(seed_pair("training", config.seed + 1), config.batch_size, galaxies, config.mocks).take(n_drawn + 1)
    )
    next(alone)
    clock = Clock()
    for _ in alone:
        pass
    pipeline_wall, pipeline_cpu = (seconds / n_drawn for seconds in clock.read())
    step_cpu = loop_cpu / n_steps - pipeline_cpu  # the loop's CPU seconds are the pipeline's and the step's
    return {
        "experiment": experiment,
        "batch": config.batch_size,
        "n_unrolled": config.model.n_steps,
        "n_steps": n_steps,
        "step_wall_s": wall / n_steps,
        "wait_s": sum(waits) / n_steps,
        "longest_wait_s": max(waits),
        "utilisation": 1 - sum(waits) / wall,
        "step_cpu_s": step_cpu,
        "pipeline_cpu_s": pipeline_cpu,
        "pipeline_wall_s": pipeline_wall,
        "pipeline_share": pipeline_cpu / step_cpu,
    }


def utilisation_table(rows):
    header = (
        "training step",
        "s per step",
        "ms waiting (longest)",
        "utilisation",
        "CPU s of a step",
        "CPU s of its batch",
        "ratio",
    )
    lines = [
        [
            f"{row['experiment']}, batch {row['batch']}, {row['n_unrolled']} RIM steps",
            f"{row['step_wall_s']:.2f}",
            f"{1e3 * row['wait_s']:.1f} ({1e3 * row['longest_wait_s']:.1f})",
            f"{100 * row['utilisation']:.2f} %",
            f"{row['step_cpu_s']:.2f}",
            f"{row['pipeline_cpu_s']:.3f}",
            f"{100 * row['pipeline_share']:.2f} %",
        ]
        for row in rows
    ]
    return markdown_table(header, lines)


@click.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="simulation", show_default=True)
@lensing_options
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 16, 64), show_default=True)
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="May be repeated.  [default: all]")
@click.option("--small-steps", default=40, show_default=True, help="Training steps of `small` that are timed.")
@click.option("--paper-steps", default=2, show_default=True, help="Those of `paper`; 0 leaves it out.")
@click.option("--paper-unrolled", default=1, show_default=True, help="RIM steps in each; the paper has 10.")
def main(out, peers_python, rounds, threads, batches, only, small_steps, paper_steps, paper_unrolled):
    """Time simulators side by side, then training's wait for its data; see the top of this file."""
    others = ("rim_tf simulate_batch",)
    rows, checks, facts = compare(only or NAMES, cases(batches), rounds, peers_python, threads, unchecked=others)
    waiting = [utilisation("small", small_steps)] if small_steps else []
    if paper_steps:
        waiting.append(utilisation("paper", paper_steps, paper_unrolled))
    text = (
        f"Noiseless lensed images of 192 x 192 pixels: median (least - most) of {rounds} turns. The last row is the\n"
        "whole of training's simulation, refused systems, PSF and noise included.\n\n"
        f"{rate_table(rows, checks)}\n\n"
        f"Waiting for data in training, on {THREADS} cores.\n\n{utilisation_table(waiting)}"
    )
    write_results(out, "simulation", facts | {"checks": checks, "timings": rows, "utilisation": waiting}, text)


if __name__ == "__main__":
    main()
