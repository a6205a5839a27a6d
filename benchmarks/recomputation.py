"""Memory and time of a training step with the activations of a RIM's steps kept, and taken anew.

    python benchmarks/recomputation.py small 192            # each way in a process of its own
    python benchmarks/recomputation.py paper 64 --batch 1

The peak is that of the process (resident set) less what it was before the first step was traced.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time


def measured(name, pixels, batch, recompute, precision, n_steps):
    """Figures of one way, in this process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from training.experiments import EXPERIMENTS
    from training.on_tensorflow import Team, _Learner
    from training.strategies import strategy_of
    from training.streams import training_stream

    base = EXPERIMENTS[name]
    mocks = dataclasses.replace(base.mocks, image_pixels=pixels, source_pixels=pixels)
    changes = {"recompute": recompute, "precision": precision, "batch_size": batch, "n_procedural": 20}
    model = base.model if n_steps is None else dataclasses.replace(base.model, n_steps=n_steps)
    config = dataclasses.replace(base, model=model, mocks=mocks, larger_frames=(), **changes)
    lenses = next(iter(training_stream(config).take(1)))
    learner = _Learner(config, Team(strategy_of("one-device")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    learner.step([{0: lenses}], 0, stop=False)
    cpu = time.process_time()
    learner.step([{0: lenses}], 1, stop=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sums = learner.notes["sums"]
    return {"GB": (peak - before) / 1e6, "cpu_seconds": time.process_time() - cpu, **sums}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("pixels", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--unrolled", type=int, help="Steps of the RIM, in place of the experiment's own.")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--way", choices=["kept", "anew"])
    given = parser.parse_args()
    if given.way:
        one = measured(
            given.experiment, given.pixels, given.batch, given.way == "anew", given.precision, given.unrolled
        )
        print(json.dumps(one))
        return
    root = str(pathlib.Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    for way in ("kept", "anew"):
        words = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        print(way, " ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
