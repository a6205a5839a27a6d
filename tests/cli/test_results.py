import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from astropy.io import fits
from commands import names_in, reconstruct

from rim_tf.cli import interrupt
from rim_tf.cli.results import results
from rim_tf.errors import InputError


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """As at a terminal; whoever starts the tests in the background may have had them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_finished_work_is_safe(options):
    out = options["--out"]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert reconstruct(options).exit_code == 0
    before = {name: (out / name).read_bytes() for name in names_in(out)}
    refused = reconstruct(options)
    assert refused.exit_code == 2
    assert "already holds reconstruction.fits" in refused.stderr and "--overwrite" in refused.stderr
    # A run that fails replaces nothing, with --overwrite too.
    assert reconstruct(options | {"--psf": "-1"}, "--overwrite").exit_code == 2
    assert {name: (out / name).read_bytes() for name in names_in(out)} == before
    assert reconstruct(options | {"--psf": "0.06"}, "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "summary.json").read_bytes() != before["summary.json"]


def test_a_file_in_place_of_the_folder_is_refused(options, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        result = reconstruct(options | {"--out": out})
        assert result.exit_code == 2
        assert result.stderr == f"Error: {tmp_path / 'file'} is a file; --out must be a folder.\n"


def test_a_folder_that_cannot_be_written_is_refused(options, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # Root may write anywhere, but not there.
    out = (locked if os.geteuid() != 0 else pathlib.Path("/proc")) / "out"
    result = reconstruct(options | {"--out": out})
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {out} cannot be written: ")


def test_a_full_disk_leaves_nothing_behind(options, tmp_path, monkeypatch):
    def disk_full(self, file, **_):
        file.write_bytes(b"SIMPLE")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", disk_full)
    result = reconstruct(options)
    assert result.exit_code == 2 and "No space left on device" in result.stderr
    assert names_in(tmp_path) == []


# ----------------------------------------------------------------------------------- killed and interrupted runs

NAMES = ("a.fits", "b.fits", "summary.json")
OLD = {"a.fits": "old", "b.fits": "old", "summary.json": "old", "notes.txt": "mine"}
NEW = {"a.fits": "new", "summary.json": "new", "notes.txt": "mine"}


def contents(folder):
    """What is in a folder, but for the hidden."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def out(tmp_path):
    """A folder with the results of an earlier run."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name, text in OLD.items():
        (folder / name).write_text(text)
    return folder


def replace(out):
    with results(out, NAMES, overwrite=True) as work:
        for name in ("a.fits", "summary.json"):
            (work / name).write_text("new")


# Replaces the results of a folder, and dies at the n-th change that it makes there.
KILLED = """
import os, pathlib, sys
from rim_tf.cli import results
out, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def dying(call):
    def counted(*arguments, **more):
        global left
        if armed and (left := left - 1) < 0:
            os._exit(9)
        return call(*arguments, **more)
    return counted

armed = False
os.rename, os.replace = dying(os.rename), dying(os.replace)
os.unlink, pathlib.Path.unlink, os.rmdir = dying(os.unlink), dying(pathlib.Path.unlink), dying(os.rmdir)
with results.results(out, ("a.fits", "b.fits", "summary.json"), True) as work:
    (work / "a.fits").write_text("new")
    (work / "summary.json").write_text("new")
    armed = True
armed = False
"""


def test_killed_at_any_moment_old_and_new_are_never_side_by_side(out, tmp_path):
    for moment in range(20):
        folder = tmp_path / f"moment{moment}"
        shutil.copytree(out, folder)
        code = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(moment)]).returncode
        there = contents(folder)
        assert there.pop("notes.txt") == "mine"
        assert len(set(there.values())) <= 1, there
        # The next run completes what was finished, or finds the old results.
        with pytest.raises(InputError, match="already holds"), results(folder, NAMES, overwrite=False):
            pass
        assert contents(folder) in (OLD, NEW)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        if code == 0:
            break
    assert code == 0 and moment > 6 and contents(folder) == NEW


def test_what_other_processes_left_neither_blocks_nor_stays(out):
    (out / ".rim-tf-work-abc").mkdir()
    (out / ".rim-tf-work-abc" / "a.fits").write_text("half")
    replace(out)
    assert contents(out) == NEW and not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_folder_named_like_a_result_is_refused_before_the_work(out):
    (out / "b.fits").unlink()
    (out / "b.fits").mkdir()
    with pytest.raises(InputError, match="b.fits is a folder, where a file"), results(out, NAMES, overwrite=True):
        pytest.fail("the work began")
    assert (out / "a.fits").read_text() == "old"


def test_of_two_runs_into_one_folder_the_second_is_refused_at_once(tmp_path):
    new = tmp_path / "new" / "folder"
    with results(new, NAMES, overwrite=False) as work:
        (work / "a.fits").write_text("first")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="Another run is writing into"), results(new, NAMES, overwrite):
                pytest.fail("the work began")
    assert contents(new) == {"a.fits": "first"}
    replace(new)
    assert contents(new) == {"a.fits": "new", "summary.json": "new"}


def test_where_the_disk_knows_no_locks_the_slower_run_is_refused(tmp_path, monkeypatch):
    def no_locks(handle, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match="already holds a.fits"), results(tmp_path, NAMES, False) as slower:
        with results(tmp_path, NAMES, False) as faster:
            (faster / "a.fits").write_text("first")
        (slower / "a.fits").write_text("second")
    assert contents(tmp_path) == {"a.fits": "first"}


def test_an_address_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("http://example.org/out", "gs://bucket/out"):
        with pytest.raises(InputError, match="is an address"), results(pathlib.Path(address), NAMES, False):
            pytest.fail("the work began")
    assert names_in(tmp_path) == []


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(KeyError), results(tmp_path / "x" / "y", NAMES, overwrite=False) as work:
        (work / "a.fits").write_text("half")
        raise KeyError
    assert names_in(tmp_path) == []


def test_an_interrupt_that_a_library_lost_is_not_lost(out):
    with pytest.raises(KeyboardInterrupt), interrupt.watched(), results(out, NAMES, overwrite=True) as work:
        (work / "a.fits").write_text("new")
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert contents(out) == OLD
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The next command hears nothing of it, also where it leaves signals to others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt.watched():
        interrupt.check()


def test_an_interrupt_while_results_are_placed_comes_after_the_last(out, monkeypatch):
    replace_one = os.replace

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return replace_one(*arguments)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), interrupt.watched():
        replace(out)
    assert contents(out) == NEW and not [path for path in out.iterdir() if path.name.startswith(".")]


def test_an_interrupt_that_became_another_error_is_still_one(tmp_path, monkeypatch):
    from rim_tf import io

    def lose(*_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import", name="numpy") from None

    monkeypatch.setattr(io, "read_observation", lose)
    given = {"image": "a.fits", "--noise": 1, "--psf": 0.1, "--lens": "lens.json", "--out": tmp_path / "out"}
    result = reconstruct(given)
    assert result.exit_code == 1 and result.stderr.strip() == "Aborted!"
    assert names_in(tmp_path) == []
