"""Training steps of a RIM on an accelerator, through JAX: seconds, memory, operations.

    export PYTHONPATH=. KERAS_BACKEND=jax
    python benchmarks/accelerator.py                                   # paper and small-192, at 192 pixels
    python benchmarks/accelerator.py --case small:32:8 --steps 2

A case is EXPERIMENT:PIXELS:BATCH, and after it, in any order, :bfloat16 (convolutions in half precision) and :recompute
(activations taken anew). Each has a process of its own. All compile and take the first steps beside each other, then
one after the other trains on lenses that it draws itself, in all as `training.train` does. Operations are those of the
convolutions, three times the forward pass, four times with :recompute; beside them the rate of a product of square
matrices. What all take of the device's memory must fit at once.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import click

CASES = (
    "paper:192:5",
    "paper:192:5:recompute",
    "paper:192:5:bfloat16",
    "paper:192:5:bfloat16:recompute",
    "small-192:192:24",
    "small-192:192:24:bfloat16",
)
# What the process of a case says when it has compiled; it then waits for a line.
_READY = "ready"


def config_of(case, steps):
    """The `TrainingConfig` of a case, an epoch of so many steps long."""
    from rim_tf.config import RIMConfig
    from training.experiments import EXPERIMENTS

    if not re.fullmatch(r"[a-z0-9-]+:[0-9]+:[0-9]+(:[a-z0-9]+)*", case):
        raise click.UsageError(f"--case is {case!r}; it must be EXPERIMENT:PIXELS:BATCH, as 'small-192:192:24'.")
    name, pixels, batch, *words = case.split(":")
    if name not in EXPERIMENTS or not isinstance(EXPERIMENTS[name].model, RIMConfig):
        names = sorted(name for name, each in EXPERIMENTS.items() if isinstance(each.model, RIMConfig))
        raise click.UsageError(f"--case has the experiment {name!r}; it must be one of {', '.join(names)}.")
    if unknown := set(words) - {"bfloat16", "recompute"}:
        raise click.UsageError(f"--case {case} ends with {unknown.pop()!r}; it must be bfloat16 or recompute.")
    base = EXPERIMENTS[name]
    return dataclasses.replace(
        base,
        mocks=dataclasses.replace(base.mocks, image_pixels=int(pixels), source_pixels=int(pixels)),
        batch_size=int(batch),
        larger_frames=(),
        n_steps=steps,
        steps_per_epoch=steps,
        n_procedural=200,
        precision="mixed_bfloat16" if "bfloat16" in words else "float32",
        recompute="recompute" in words,
    )


def bytes_in_use():
    """The most that arrays have taken of the device's memory, or None where it does not count (CPUs)."""
    import jax

    stats = jax.devices()[0].memory_stats()
    return stats and stats.get("peak_bytes_in_use")


def measure(case, steps):
    """Compile, say so, wait for a line, then measure: the process of a case."""
    import jax

    from rim_tf.models.flops import count_flops
    from training.on_jax import _Run

    config = config_of(case, steps)
    run = _Run(config, None, None)
    state = run.first_state()
    seconds = []
    for i in range(3):
        begun = time.perf_counter()
        state, log, _ = jax.block_until_ready(run.epoch(state, i * steps))
        seconds.append(time.perf_counter() - begun)
        if not i:
            print(_READY, flush=True)
            sys.stdin.readline()
    flops = config.batch_size * count_flops(config.model, config.mocks.source_pixels) * (4 if config.recompute else 3)
    step, peak = min(seconds[1:]) / steps, bytes_in_use()
    figures = {
        "case": case,
        "seconds_a_step": step,
        "lenses_per_second": config.batch_size / step,
        "GB": None if peak is None else peak / 1e9,
        "TFLOP_a_step": flops / 1e12,
        "TFLOP/s": flops / 1e12 / step,
        "seconds_until_the_first": seconds[0],
        "loss": float(log["loss"]),
    }
    print(json.dumps(figures), flush=True)


def fastest(side):
    """TFLOP/s of a product of square matrices, by what is multiplied."""
    import jax
    from jax import numpy as jnp

    kinds = {
        "bfloat16": ("bfloat16", "default"),
        "float32, by default": ("float32", "default"),
        "float32, exact": ("float32", "highest"),
    }
    found = {}
    for name, (kind, precision) in kinds.items():
        a, b = (jax.random.normal(jax.random.key(i), (side, side)).astype(kind) for i in range(2))
        product = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        seconds = []
        for _ in range(6):
            begun = time.perf_counter()
            jax.block_until_ready(product(a, b))
            seconds.append(time.perf_counter() - begun)
        found[name] = 2 * side**3 / min(seconds[1:]) / 1e12
    return found


@click.command()
@click.option("--case", "cases", multiple=True, help="As above; any number.  [default: those at 192 pixels]")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="That are timed together; the better of two times counts.",
)
@click.option("--side", default=8192, show_default=True, help="Of the matrices for the peak.")
@click.option("--worker", is_flag=True, hidden=True)
def main(cases, steps, side, worker):
    """Measure each case; figures are lines of JSON."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        raise click.UsageError("This is of JAX: set KERAS_BACKEND=jax.")
    cases = dict.fromkeys(cases or CASES)  # each once
    for case in cases:
        config_of(case, steps)
    if worker:
        measure(*cases, steps)
        return
    # Nothing is taken before it is needed, as the processes share the device.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    words = [sys.executable, __file__, "--worker", "--steps", str(steps), "--case"]
    workers = {case: subprocess.Popen([*words, case], **pipes) for case in cases}
    waiting = {case: any(line.strip() == _READY for line in each.stdout) for case, each in workers.items()}
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax

    print(json.dumps({"device": jax.devices()[0].device_kind, "TFLOP/s of products": fastest(side)}), flush=True)
    for case, each in workers.items():
        said, _ = each.communicate("go\n") if waiting[case] else ("", "")
        print(said.strip() or json.dumps({"case": case, "failed": each.wait()}), flush=True)


if __name__ == "__main__":
    main()
