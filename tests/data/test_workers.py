"""Work is shared out, comes back in order, and ends with whoever started it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rim_tf.data.workers import shared_out
from rim_tf.errors import InputError


def double(number):
    return 2 * number, os.getpid()


def fail(number):
    raise InputError(f"{number} is no good.")


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_tasks():
    tasks = [(f"task {i}", double, i) for i in range(20)]
    shared, alone = list(shared_out(tasks, 2)), list(shared_out(tasks, 0))
    assert [(key, value) for key, (value, _) in shared] == [(f"task {i}", 2 * i) for i in range(20)]
    assert [(key, value) for key, (value, _) in alone] == [(f"task {i}", 2 * i) for i in range(20)]
    assert {process for _, (_, process) in alone} == {os.getpid()}
    assert os.getpid() not in {process for _, (_, process) in shared}


def test_errors_pass_through_and_a_process_that_is_ended_gets_a_sentence():
    with pytest.raises(InputError, match="^7 is no good.$"):
        list(shared_out([("key", fail, 7)], 1))
    with pytest.raises(InputError, match="worker processes was ended from outside"):
        list(shared_out([("key", die, 7)], 1))


def wait(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(tmp_path, how):
    if not os.path.isdir("/proc/self"):
        pytest.skip("processes are looked up in /proc")
    note = tmp_path / "process"
    starter = subprocess.Popen([sys.executable, __file__, note], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        worker = int(note.read_text())
        assert alive(worker)
        # Ctrl-C reaches all processes of a terminal, a kill only one.
        os.killpg(starter.pid, how) if how == signal.SIGINT else starter.send_signal(how)
        starter.wait(timeout=30)
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(worker)
    finally:
        if starter.poll() is None:
            os.killpg(starter.pid, signal.SIGKILL)


if __name__ == "__main__":  # the process that is ended
    list(shared_out([("key", wait, sys.argv[1])], 1))
