import json
import math
import os

import numpy as np
import pytest

from rim_tf import files
from rim_tf.errors import InputError


def test_numbers_that_are_not_finite_become_null_in_json(tmp_path):
    files.write_json(tmp_path / "s.json", {"a": math.nan, "b": [np.float32(np.inf), (1, 2)], "c": {"d": np.int64(3)}})
    values = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert values == {"a": None, "b": [None, [1, 2]], "c": {"d": 3}}


def test_a_file_is_old_or_new_and_never_half(tmp_path):
    path = tmp_path / "s.json"
    files.write_json(path, 1)
    with pytest.raises(KeyboardInterrupt), files.written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "1\n" and os.listdir(tmp_path) == ["s.json"]
    with pytest.raises(InputError, match=f"^{tmp_path}/no/s.json cannot be written: No such file"):
        files.write_json(tmp_path / "no" / "s.json", 2)


def test_what_a_killed_process_left_is_swept_when_it_is_old(tmp_path):
    (tmp_path / "deep").mkdir()
    old, new = (tmp_path / "deep" / f".s.{name}.incomplete.json" for name in ("old", "new"))
    for path in (old, new, tmp_path / "mine.json"):
        path.write_text("")
    os.utime(old, (0, 0))
    os.utime(tmp_path / "mine.json", (0, 0))
    files.sweep(tmp_path)
    assert not old.exists() and new.exists() and (tmp_path / "mine.json").exists()


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "s.json").write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(InputError, match="s.json is not JSON that can be read: 'b' stands twice"):
        files.read_json(tmp_path / "s.json")


def test_arrays_come_back_and_objects_are_refused(tmp_path):
    files.save_arrays(tmp_path / "a.npz", {"x": np.arange(3), "y": np.array(["a"])})
    stored = files.load_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(stored["x"], [0, 1, 2])
    with pytest.raises(TypeError, match="pickled"):
        files.save_arrays(tmp_path / "a.npz", {"x": np.array([None])})
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:50])
    with pytest.raises(files.DAMAGED):
        files.load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("no.json", "does not exist"),
        ("file/no.json", "does not exist"),
        ("pipe", "is a pipe or a device"),
        ("/dev/zero", "is a pipe or a device"),
        (".", "is a folder"),
        ("https://example.org/a.json", "is an address and no file"),
        ("gs://bucket/a.json", "is an address and no file"),
        ("a\0b", "cannot be read"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, monkeypatch, path, complaint):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=complaint):
        files.read_json(path)


def test_a_file_larger_than_the_memory_is_refused(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**40)  # of holes: it takes no room on the disk
    with pytest.raises(InputError, match="large.json takes about .* GB of memory, .* GB are free"):
        files.read_json(tmp_path / "large.json")
