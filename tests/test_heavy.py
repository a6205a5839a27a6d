import gc
import os
import subprocess
import sys

import pytest

from rim_tf import heavy

AS_A_PROCESS = """
import gc, sys
from rim_tf import heavy
with heavy.collection_later():
    assert not gc.isenabled()
    heavy.import_quietly()
    assert gc.isenabled() and gc.get_freeze_count() > 100_000
import keras, scipy, tensorflow
assert keras.config.image_data_format() == "channels_last"
print([name for name in ("jax", "pandas", "sklearn", "matplotlib.pyplot") if name in sys.modules])
"""


def test_tensorflow_comes_without_a_word_and_without_what_is_not_needed():
    done = subprocess.run([sys.executable, "-c", AS_A_PROCESS], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_what_is_hidden_is_found_again(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with heavy._hidden(["wave", "os"]):
        with pytest.raises(ImportError):
            import wave
        assert sys.modules["os"] is os
    import wave

    assert sys.modules["wave"] is wave


def test_what_is_said_is_heard_where_it_fails(capfd):
    with heavy._silence():
        os.write(2, b"a GPU is missing\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), heavy._silence():
        os.write(2, b"libcudart is missing\n")
        raise ImportError
    assert capfd.readouterr().err == "libcudart is missing\n"


def test_garbage_is_collected_again_whatever_happens():
    with pytest.raises(KeyError), heavy.collection_later():
        raise KeyError
    assert gc.isenabled()
