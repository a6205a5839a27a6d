"""Several machines learn what one does, and no run is lost: workers killed, a full disk, SIGTERM, endless losses."""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import one_thread  # noqa: F401
import pytest
import tensorflow as tf
import tiny_runs
from click.testing import CliRunner
from numpy.testing import assert_allclose
from tiny_runs import SHORT

from rim_tf.errors import InputError
from rim_tf.files import load_arrays, read_json
from training import checkpoints, on_tensorflow, runs, streams
from training import train as command
from training.monitor import read_metrics
from training.on_tensorflow import train
from training.strategies import strategy_of

HERE = pathlib.Path(__file__).resolve().parent

# One of two workers; the second one kills itself where the first one has saved twice.
WORKER = """
import os, signal, sys
from rim_tf import heavy
heavy.import_quietly()
import as_traced
import numpy as np
import rim_tf.data.sources.find
from tiny_runs import SHORT, plain_stream
from training import checkpoints, on_tensorflow, runs, streams

streams.stream = plain_stream
rim_tf.data.sources.find.N_PROCEDURAL = {"train": 5, "validation": 5}
runs.VALIDATION_BATCHES, runs.VALIDATION_BATCH_SIZE = 8, 2
out, index = sys.argv[1], int(sys.argv[2])
step = on_tensorflow._Learner.step

def step_and_die(learner, rounds, number, stop):
    np.savez(f"{out}-worker-{index}-step-{number}.npz", *learner.model.get_weights())
    if index == 1 and number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(learner, rounds, number, stop)

on_tensorflow._Learner.step = step_and_die
try:
    on_tensorflow.train(SHORT, out, verbose=0, strategy="multiworker")
except runs.LostError as error:
    print(error)
    sys.exit(76)
"""


def free_ports(n):
    """Ports of this machine that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module", autouse=True)
def few_held_out():
    with tiny_runs.few_held_out(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "stream", tiny_runs.plain_stream)
        yield


@pytest.fixture(scope="module", autouse=True)
def traced_once(few_held_out):
    with tiny_runs.traced_once(SHORT) as make:
        yield make


@pytest.fixture(scope="module")
def whole(traced_once, tmp_path_factory):
    """The weights and the folder of a run that nothing interrupted, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    return train(SHORT, folder, verbose=0).get_weights(), folder


def assert_goes_on_to(whole, out):
    """The run in `out`, taken up by this process, is in the end the one that nothing interrupted."""
    model = train(SHORT, out, verbose=0)
    for a, b in zip(model.get_weights(), whole[0], strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    ours, theirs = (read_metrics(folder) for folder in (out, whole[1]))
    assert [line["step"] for line in ours] == [2, 4, 6]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("loss", "gradient_norm", "val_loss", "skipped"):
            assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)


def test_two_workers_learn_what_one_does_and_lose_no_step_when_one_is_killed(whole, tmp_path):
    out = tmp_path / "run"
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    path = os.pathsep.join(map(str, [HERE.parents[1], HERE.parent, HERE]))
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(cluster), "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        arguments = [sys.executable, "-c", WORKER, str(out), str(index)]
        processes.append(subprocess.Popen(arguments, env=environment, **pipe))
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert processes[1].returncode == -signal.SIGKILL, said[1]
    assert processes[0].returncode not in (0, 2), said[0]  # 76, or TensorFlow ended it
    # After each step both have the very same weights.
    steps = [sorted(tmp_path.glob(f"run-worker-{index}-*")) for index in range(2)]
    assert len(steps[0]) >= 5 and len(steps[1]) == 6
    for one, other in zip(*steps, strict=False):
        for a, b in zip(load_arrays(one).values(), load_arrays(other).values(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert [path.stem[-1] for path in checkpoints.all_of(out)] == ["2", "4"]
    assert_goes_on_to(whole, out)


def test_a_run_is_saved_when_it_is_asked_to_stop(whole, tmp_path, monkeypatch):
    stepped = on_tensorflow.Monitor.stepped
    taken = []

    def terminated(monitor, n=1):
        stepped(monitor, n)
        taken.append(n)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGTERM)  # in the second epoch's first step it is heard, and saved after it

    with monkeypatch.context() as patch:
        patch.setattr(on_tensorflow.Monitor, "stepped", terminated)
        with pytest.raises(runs.StoppedError, match="Stopped after step 3 of 6; the same command goes on"):
            train(SHORT, tmp_path, verbose=0)
    assert checkpoints.all_of(tmp_path)[-1] == checkpoints.path_of(tmp_path, 3)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize("error, code", [(runs.StoppedError, 75), (runs.LostError, 76), (InputError, 2)])
def test_the_command_ends_with_a_code_of_its_own(monkeypatch, error, code):
    def raises(*given, **options):
        raise error("What happened.")

    monkeypatch.setattr(command, "train", raises)
    done = CliRunner().invoke(command.main, ["small"])
    assert done.exit_code == code and "What happened." in done.stderr


def test_a_full_disk_loses_nothing_that_was_written(whole, tmp_path, monkeypatch):
    save, limits = checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(out, step, *given):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        save(out, step, *given)

    monkeypatch.setattr(checkpoints, "save", save_on_a_full_disk)
    try:
        with pytest.raises(InputError, match="step-000000004.npz cannot be written: File too large"):
            train(SHORT, tmp_path, verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000002.npz"]
    monkeypatch.undo()
    # `few_held_out` is of the module, and undone with it.
    assert_goes_on_to(whole, tmp_path)


def test_steps_without_a_finite_loss_change_nothing_and_at_last_end_a_run(tmp_path, monkeypatch):
    stream = streams.training_stream

    def bad_from_step_3(*given):
        whole, n = stream(*given), 2 * SHORT.micro_batches
        bad = whole.skip(n + 1).map(lambda inputs, target: (inputs, target * np.nan))
        return whole.take(n + 1).concatenate(bad)  # in step 3, the second micro-batch alone

    monkeypatch.setattr(streams, "training_stream", bad_from_step_3)
    with pytest.raises(InputError, match="no finite number for 3 steps; the last batch is kept as .*not-finite-step-5"):
        train(dataclasses.replace(SHORT, most_skipped=3), tmp_path, verbose=0)
    kept = load_arrays(tmp_path / "not-finite-step-5-replica-0.npz")
    assert np.isnan(kept["1_target"]).all() and kept["0_image"].shape == (2, 24, 24)
    assert [line["skipped"] for line in read_metrics(tmp_path)] == [0, 2]
    before, after = (load_arrays(path) for path in checkpoints.all_of(tmp_path))
    for name in before:
        if name not in ("notes", "val_loss"):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_parts_of_a_batch_give_the_step_of_the_whole_batch_and_weights_are_averaged(traced_once, tmp_path):
    # The norm is such that clipping before the sum would be another step.
    # Two steps of the network, as what is taken anew is a sum over steps.
    model = dataclasses.replace(SHORT.model, n_steps=2)
    config = dataclasses.replace(SHORT, model=model, clip_norm=1e-3, average_decay=0.3)
    parts = [next(iter(streams.training_stream(config, first_step=step).take(1))) for step in (0, 1)]
    joined = tf.nest.map_structure(lambda *each: tf.concat(each, 0), *parts)
    team = on_tensorflow.Team(strategy_of("one-device"))
    # One of them takes the activations anew, which changes no number.
    ways = {"micro_batches": 2}, {"micro_batches": 1, "recompute": True}
    learners = [traced_once(dataclasses.replace(config, **changes), team) for changes in ways]
    averages = [runs.initial_model(config).get_weights()]
    for step in range(2):
        for learner, rounds in zip(learners, ([{0: part} for part in parts], [{0: joined}]), strict=True):
            assert not learner.step(rounds, step, stop=False)
        decay = min(0.3, (2 + step) / (11 + step))
        now = learners[0].model.get_weights()
        averages.append([decay * old + (1 - decay) * new for old, new in zip(averages[-1], now, strict=True)])
    for a, b in zip(*(learner.model.get_weights() for learner in learners), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    one, other = (learner.notes["sums"] for learner in learners)
    assert one["gradient_norm"] > 4e-3
    for name, value in one.items():
        assert_allclose(value, other[name], rtol=1e-4)
    for a, b in zip(learners[0].judged.get_weights(), averages[-1], strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    # What is saved is the average, and a checkpoint has both.
    learners[0].save(tmp_path, 2)
    model = runs.initial_model(config)
    for averaged, expected in ((True, averages[-1]), (False, now)):
        assert checkpoints.give_weights(checkpoints.path_of(tmp_path, 2), model, averaged) == 2
        assert_allclose(model.get_weights()[0], expected[0], rtol=1e-5, atol=1e-7)


def test_half_precision_is_of_the_network_alone():
    model = runs.initial_model(dataclasses.replace(SHORT, precision="mixed_bfloat16"))
    assert {layer.compute_dtype for layer in model.cell._flatten_layers()} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    (batch,) = streams.training_stream(SHORT).take(1)
    found, single = model(batch[0]), runs.initial_model(SHORT)(batch[0])
    assert found.dtype == tf.float32
    assert_allclose(found, single, atol=0.05 * np.abs(single).max())
    assert np.any(found != single)


def test_what_is_on_record_can_be_seen(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = whole
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    lines = read_metrics(folder)
    assert [event.step for event in events.Scalars("val_loss")] == [2, 4, 6]
    for name in ("loss", "val_loss", "gradient_norm", "lenses_per_second", "waiting_share", "learning_rate"):
        assert_allclose([event.value for event in events.Scalars(name)], [line[name] for line in lines], rtol=1e-6)
    assert all(0 <= line["waiting_share"] <= 1 and line["lenses_per_second"] > 0 for line in lines)
    image = events.Images("reconstructions")[-1]
    assert (image.width, image.height) == (4 * 24, 2 * 24)  # two systems, of each four panels
    assert (folder / "figures" / "reconstructions.png").read_bytes() == image.encoded_image_string
    record = read_json(folder / "run.json")
    assert record["versions"]["tensorflow"] == tf.__version__ and record["replicas"] == 1
    assert record["command"] in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "is no cluster of workers"),
        ("[]", "is no cluster of workers"),
        ('{"cluster": {"worker": ["a:1"]}}', "is no cluster of workers .KeyError"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "the task 'worker' 1 of 1 workers",
        ),
        ('{"cluster": {"worker": ["a:1"], "ps": []}, "task": {"type": "worker", "index": 0}}', "all must be workers"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(monkeypatch, text, complaint):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=complaint):
        strategy_of("multiworker")


@pytest.mark.parametrize(
    "options, complaint",
    [
        ("--batch-size 6 --micro-batches 4", "micro_batches is 4; it must divide batch_size, which is 6"),
        ("--grow 32", "--grow is '32'; it must be PIXELS:STEPS"),
        ("--grow 32:50", "growing_frames has 50 steps of 32 pixels; they must be a multiple of the 100 steps"),
        ("--average-decay 1", "average_decay is 1.0; it must be a number of at least 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, complaint):
    done = CliRunner().invoke(command.main, ["small", "--out", str(tmp_path / "run"), *options.split()])
    assert done.exit_code == 2 and complaint in done.stderr and not (tmp_path / "run").exists()


def test_the_command_that_goes_on_is_the_one_that_was_given(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(command, "train", lambda *arguments, **options: given.append((arguments, options)))
    words = f"paper --out {tmp_path} --strategy mirrored --steps 400 --grow 64:100 --grow 96:200 --recompute --quiet"
    for _ in range(2):
        done = CliRunner().invoke(command.main, words.split())
        assert done.exit_code == 0, done.output
        words = given[-1][1]["command"].removeprefix("python -m training.train ")
    (first, _), (again, _) = given
    assert first == again and first[0].growing_frames == ((64, 100), (96, 200)) and first[0].recompute
    # Section 2.4 of the paper.
    paper = first[0]
    assert (paper.learning_rate, paper.schedule, paper.loss) == (2e-5, "exponential", "rms")
    assert_allclose([runs.learning_rate(paper)(step) for step in (4999, 5000)], [2e-5, 2e-5 * 0.96], rtol=1e-6)
