"""What the benchmarks share: contenders in processes of their own, timed in turns.

A contender is a worker process: it has its own interpreter (the peers' packages need not be installed beside
TensorFlow), the same cores as every other, and answers one request at a time. Requests are lines of JSON on its
standard input; arrays travel in .npz files. `serve` is the worker's side, `Worker` that of the benchmark. While one
contender works the others wait, and they take turns, so that a slow minute of the machine is shared by all of them.
Progress goes to standard error, each figure as soon as there is one.

Standard library and NumPy only: the peers' interpreter imports this file too.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

THREADS = 2
"""Cores that each contender may use, unless it is told otherwise."""
# One turn lasts at least this long [s], so that calls of a millisecond are timed over many of them.
_TURN = 0.3
_PACKAGES = (
    "rim_tf tensorflow keras jax jaxlib numpy scipy torch caustics caskade herculens utax lenstronomy torch-rim numba"
).split()


def limit_threads(n):
    """Confine this process to n cores; before NumPy's users are imported, for they count the cores at import."""
    cores = sorted(os.sched_getaffinity(0))[:n]
    os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC"):
        os.environ[name] = str(n)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(n)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def say(text, end="\n"):
    """Progress, at once and beside the results: on standard error."""
    print(text, end=end, file=sys.stderr, flush=True)


def versions(names=_PACKAGES):
    """Of the packages that this interpreter has, and of Python itself."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _calls_per_turn(call):
    """Seconds of the first call, which compiles, and so many calls that they last about `_TURN`."""
    seconds = []
    # The second call may compile too. One that lasts longer than a turn need not be known better.
    while len(seconds) < 3 and (len(seconds) < 2 or seconds[-1] < _TURN):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds[0], max(1, round(_TURN / max(seconds[-1], 1e-6)))


def serve(prepare):
    """Answer requests until standard input ends; the main loop of a worker.

    Args:
      prepare: function of a case (a dictionary) that returns `call`, which does the work once and waits until it is
        done, and `arrays`, which returns what it computes as a dictionary of NumPy arrays.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print must not get between the replies
    prepared = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps(request["case"], sort_keys=True)
        try:
            reply = _answer(request, key, prepared, prepare)
        except Exception as error:  # the benchmark names what failed, and goes on with the others
            reply = {"failed": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _answer(request, key, prepared, prepare):
    if key not in prepared:
        call, arrays = prepare(request["case"])
        prepared[key] = (call, arrays, *_calls_per_turn(call))
    call, arrays, first, calls = prepared[key]
    if request["do"] == "save":
        np.savez(request["path"], **arrays())
        return {"first_call_s": first, "versions": versions()}
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall / calls, "cpu_s": cpu / calls, "calls": calls}


class Worker:
    """A contender's process.

    Args:
      name: as it stands in the tables.
      python: its interpreter.
      script: what it runs, beside this file, which calls `serve`.
      *arguments: of the script, after the number of threads.
      packages: modules without which it is "not installed".
      threads: cores it may use.
      environment: variables that it gets beside ours.
    """

    def __init__(self, name, python, script, *arguments, packages=(), threads=THREADS, environment=None):
        self.name, self.versions, self.status, self.first_call_s = name, {}, None, {}
        lookup = f"import importlib.util as u; print(*(n for n in {list(packages)!r} if u.find_spec(n) is None))"
        missing = subprocess.run([python, "-c", lookup], capture_output=True, text=True)
        if missing.returncode or missing.stdout.split():
            self.status = "not installed"
            return
        command = [python, str(pathlib.Path(__file__).with_name(script)), str(threads), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | (environment or {}),
        )

    def request(self, do, case, **more):
        """The reply, or None: `status` then says why, and the contender is asked no more."""
        if self.status is not None:
            return None
        try:
            self.process.stdin.write(json.dumps({"do": do, "case": case} | more) + "\n")
            self.process.stdin.flush()
            reply = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            self.status = f"stopped with exit code {self.process.wait()}"
            return None
        return reply

    def arrays(self, case, path):
        """What the contender computes in this case, or the reason why there is nothing, as text."""
        reply = self.request("save", case, path=str(path))
        if reply is None or "failed" in reply:
            return self.status if reply is None else reply["failed"]
        self.versions = reply["versions"]
        self.first_call_s[json.dumps(case, sort_keys=True)] = reply["first_call_s"]
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def close(self):
        if hasattr(self, "process"):
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


def time_in_turns(workers, cases, rounds):
    """Rows of a table: for every case and worker the median, least and most of `rounds` timings; each is said too.

    Returns:
      A list of dictionaries: name, case, status ("ok", or why there is no timing), wall_s, wall_min_s, wall_max_s,
      cpu_s (the median; on a shared machine the steadier figure), calls (in each timing).
    """
    rows = []
    for i, case in enumerate(cases):
        say(f"Case {i + 1} of {len(cases)}: {described(case)}")
        replies = {worker.name: [] for worker in workers}
        for turn in range(rounds):
            say(f"  turn {turn + 1} of {rounds}:", end="")
            for worker in workers:
                reply = worker.request("time", case)
                replies[worker.name].append({"failed": worker.status} if reply is None else reply)
                if "wall_s" in replies[worker.name][-1]:
                    say(f"  {worker.name} {1e3 * reply['wall_s']:.3g} ms", end="")
            say("")
        found = [_summary(worker.name, case, replies[worker.name]) for worker in workers]
        for row in found:
            say(f"  {row['name']}: {spread(row, 1e3, '{:.3g}')}{' ms' if row['status'] == 'ok' else ''}")
        rows += found
    return rows


def described(case):
    """A case in words: its values, with their names where they need one."""
    return ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in case.items())


def _summary(name, case, replies):
    failed = [reply["failed"] for reply in replies if "failed" in reply]
    if failed:
        return {"name": name, "case": case, "status": failed[0]}
    wall = [reply["wall_s"] for reply in replies]
    return {
        "name": name,
        "case": case,
        "status": "ok",
        "wall_s": float(np.median(wall)),
        "wall_min_s": min(wall),
        "wall_max_s": max(wall),
        "cpu_s": float(np.median([reply["cpu_s"] for reply in replies])),
        "calls": replies[0]["calls"],
    }


def machine():
    """What the figures depend on, without a name or an address."""
    model = next((line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "avx512": any("avx512f" in line for line in _cpu_info()),
        "load_average": os.getloadavg()[0],
    }


def _cpu_info():
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def markdown_table(header, rows):
    """A Markdown table, its columns as wide as their longest entry."""
    rows = [[str(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def spread(row, scale, form="{:.2f}"):
    """Median (least - most) of a row's wall time times `scale`, or why there is none."""
    if row["status"] != "ok":
        return row["status"]
    return f"{form} ({form} - {form})".format(*(scale * row[key] for key in ("wall_s", "wall_min_s", "wall_max_s")))
