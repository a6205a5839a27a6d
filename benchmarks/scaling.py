"""Several processes on this machine train one run: how fast, what goes over the wire, and what happens to killed ones.

    python benchmarks/scaling.py speed     # two workers of one core each against one, on the same global batch
    python benchmarks/scaling.py kills     # workers killed, or asked to stop; all started again; against no signal
    python benchmarks/scaling.py table     # the paper's training on 1 to 64 GPUs, computed from what one took

Each process has one core, as TensorFlow uses more however few threads it is given. Bytes are those of the loopback
device, which carries all that two workers tell each other.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Who sends itself what within the eighth step.
KILLED = {
    "nobody": {},
    "the worker": {1: signal.SIGKILL},
    "the chief": {0: signal.SIGKILL},
    "both": {0: signal.SIGKILL, 1: signal.SIGKILL},
    "the worker, by SIGTERM": {1: signal.SIGTERM},
    "both, by SIGTERM": {0: signal.SIGTERM, 1: signal.SIGTERM},
}


def config_of(task):
    """Small enough for a CPU: for speed the network that ships, in four steps; for kills one of no size."""
    from rim_tf.config import SMALL, MockConfig
    from training.experiments import EXPERIMENTS

    small = dataclasses.replace(EXPERIMENTS["small"], micro_batches=2, n_procedural=20, schedule="exponential")
    if task == "speed":
        return dataclasses.replace(small, model=dataclasses.replace(SMALL, n_steps=4), n_steps=16, steps_per_epoch=16)
    tiny = dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4))
    mocks = MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.2)
    return dataclasses.replace(small, model=tiny, mocks=mocks, batch_size=4, n_steps=12, steps_per_epoch=3)


def worker(task, out, strategy, dies):
    """One process of a run; `dies` is the signal that it sends itself within its eighth step, or 0."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    import rim_tf.data.sources.find
    from training import on_tensorflow, runs

    rim_tf.data.sources.find.N_PROCEDURAL = {"train": 5, "validation": 5}
    runs.VALIDATION_BATCHES, runs.VALIDATION_BATCH_SIZE = 1, 2
    take, steps = on_tensorflow._Learner.step, []

    def step(learner, rounds, number, stop):
        if dies and number == 7:
            os.kill(os.getpid(), dies)
        began = counters()
        result = take(learner, rounds, number, stop)
        steps.append([now - then for now, then in zip(counters(), began, strict=True)])
        return result

    on_tensorflow._Learner.step = step
    try:
        model = on_tensorflow.train(config_of(task), out, verbose=0, strategy=strategy)
    except (runs.LostError, runs.StoppedError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(76 if isinstance(error, runs.LostError) else 75) from None  # as training.train has it
    weights = [float(abs(w).sum()) for w in model.get_weights()]
    print(json.dumps({"steps": steps[len(steps) // 2 :], "weights": weights, "n": model.count_params()}))


def counters():
    """Seconds; CPU seconds of this process and of the whole machine; bytes that the loopback device has carried."""
    lines = pathlib.Path("/proc/net/dev").read_text().splitlines()
    sent = next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))
    user, nice, system = map(int, pathlib.Path("/proc/stat").read_text().split()[1:4])
    return time.monotonic(), time.process_time(), (user + nice + system) / os.sysconf("SC_CLK_TCK"), sent


def run(task, out, n, dying=None):
    """Exit codes and what is printed of `n` processes that train one run in `out`; `dying` is of KILLED, or None."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(n):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        one = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | one | {"TF_CONFIG": json.dumps(cluster)}
        environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        strategy = "multiworker" if n > 1 else "one-device"
        words = [sys.executable, __file__, task, "--worker", str(out), strategy, str(int((dying or {}).get(index, 0)))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        processes.append(subprocess.Popen(words, env=environment, **pipes))
        os.sched_setaffinity(processes[-1].pid, {index % os.cpu_count()})
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def speed(folder):
    figures = {}
    for n in (1, 2):
        codes, said = run("speed", folder / str(n), n)
        assert not any(codes), codes
        figures[n] = json.loads(said[0].splitlines()[-1])
        steps = sorted(figures[n]["steps"])
        figures[n]["median"] = seconds, cpu, machine, sent = steps[len(steps) // 2]
        print(
            f"{n} processes: a step of {seconds:.3f} s ({steps[0][0]:.3f} - {steps[-1][0]:.3f}), {cpu:.3f} CPU s each, "
            f"{seconds - cpu:.3f} s waiting, {sent / 1e6:.3f} MB on the wire; others had {machine - n * cpu:.3f} CPU s",
            flush=True,
        )
    one, two = figures[1], figures[2]
    ratio, of_cpu = (a / b / 2 for a, b in zip(one["median"][:2], two["median"][:2], strict=True))
    print(f"efficiency {ratio:.2f}, {of_cpu:.2f} by CPU time; gradient {4 * one['n'] / 1e6:.3f} MB")
    print("largest difference of a weight's sum, relative:", difference(one["weights"], two["weights"]))


def kills(folder):
    whole = None
    for name, dying in KILLED.items():
        out, codes = folder / name.replace(" ", "-"), []
        began = time.monotonic()
        found, said = run("kills", out, 2, dying)
        codes.append(found)
        ended = time.monotonic() - began
        if dying:
            found, said = run("kills", out, 2)
            codes.append(found)
        weights = json.loads(said[0].splitlines()[-1])["weights"]
        steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        whole = whole or weights
        print(
            f"killed: {name}; exit codes {codes}, first ended after {ended:.0f} s; epochs on record {steps}; "
            f"largest relative difference {difference(whole, weights):.1e}",
            flush=True,
        )


# Seconds of a step of the paper's batch on one H200, as `accelerator.py` measured them in single and in half precision.
# Gradients are summed in a ring, within a node of eight at the first rate and beyond it at the second [bytes/s], after
# all is computed. A reduction takes so long for each further GPU beside that [s]. Price of a GPU for an hour [USD].
STEP, IN_NODE, BETWEEN, LATENCY, PRICE = {"float32": 0.665, "bfloat16": 0.367}, 200e9, 20e9, 2e-5, 3.5


def table(folder=None):
    """Time and cost of the paper's training on many GPUs, each with the paper's batch, as Markdown."""
    from rim_tf.models.pretrained import build_model
    from training.experiments import EXPERIMENTS

    config = EXPERIMENTS["paper"]
    n_bytes = 4 * build_model(config.model).count_params()
    lenses = config.n_steps * config.batch_size
    print(f"gradient {n_bytes / 1e6:.1f} MB; {lenses / 1e6:.0f} M lenses")
    print(
        "| GPUs | batch | MB sent a GPU and step |",
        " | ".join(f"{p}: s a step | efficiency | days | USD" for p in STEP),
        "|",
    )
    print("|---" * (3 + 4 * len(STEP)) + "|")
    for n in (1, 2, 4, 8, 16, 32, 64):
        sent = 2 * (n - 1) / n * n_bytes
        row = [n, n * config.batch_size, f"{sent / 1e6:.0f}"]
        for compute in STEP.values():
            step = compute + sent / (IN_NODE if n <= 8 else BETWEEN) + LATENCY * (n - 1)
            days = step * lenses / (n * config.batch_size) / 86400
            row += [f"{step:.3f}", f"{compute / step:.3f}", f"{days:.2f}", f"{24 * days * n * PRICE:.0f}"]
        print("|", " | ".join(map(str, row)), "|")


def difference(one, other):
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["speed", "kills", "table"])
    parser.add_argument("--worker", nargs=3, metavar=("OUT", "STRATEGY", "DIES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        out, strategy, dies = given.worker
        worker(given.task, out, strategy, int(dies))
        return
    with tempfile.TemporaryDirectory() as folder:
        {"speed": speed, "kills": kills, "table": table}[given.task](pathlib.Path(folder))


if __name__ == "__main__":
    main()
