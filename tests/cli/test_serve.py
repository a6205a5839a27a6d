import os
import sys

import pytest
from commands import run

# The module, whose name the command of the group has too.
serve = sys.modules["rim_tf.cli.serve"]


@pytest.fixture
def started(monkeypatch):
    """What was started: ["own", ...] or ["stock", ...]."""
    calls = []

    def execv(path, arguments):
        calls.append(["stock", *arguments])
        raise SystemExit(0)  # as the process that it replaces is gone

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(serve, "_serve", lambda *arguments: calls.append(["own", *arguments]))
    return calls


@pytest.mark.parametrize(
    ("on_path", "options", "which"),
    [
        (True, (), "own"),  # the stock server listens on all addresses, which was not asked for
        (True, ("--host", "0.0.0.0"), "stock"),
        (True, ("--host", "0.0.0.0", "--server", "own"), "own"),
        (False, ("--host", "0.0.0.0"), "own"),
    ],
)
def test_which_server_is_started(on_path, options, which, started, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if on_path else None)
    result = run("serve", tmp_path, *options, "--largest-request", 8)
    assert result.exit_code == 0, result.output
    ((server, *arguments),) = started
    assert server == which
    if which == "stock":
        assert f"--model_base_path={tmp_path}" in arguments and f"--model_name={tmp_path.name}" in arguments
        assert f"--grpc_channel_arguments=grpc.max_receive_message_length={8 * 2**20}" in arguments
    elif not options:
        assert arguments[1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("on_path", "options", "why"),
    [
        (False, ("--server", "stock"), "not on the PATH"),
        (True, ("--server", "stock"), "listens on all addresses"),
        (True, ("--host", "0.0.0.0"), "is no folder"),
    ],
)
def test_what_cannot_be_started_is_said(on_path, options, why, started, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if on_path else None)
    result = run("serve", tmp_path / "none", *options)
    assert result.exit_code == 2 and why in result.output and not started


def test_a_folder_without_a_model_is_refused(tmp_path):
    result = run("serve", tmp_path, "--port", 0, "--rest-port", 0)
    assert result.exit_code == 2 and "holds no version" in result.output and "Traceback" not in result.output
