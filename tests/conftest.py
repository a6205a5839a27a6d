"""Fixtures for all tests, and what has to be set before a backend is imported."""

import gc
import importlib.util
import mmap
import os
import pathlib
import tempfile

import numpy as np
import pytest


def known_to_xla(flag):
    """Whether the XLA of JAX has this flag; one that it has not would end the process."""
    found = importlib.util.find_spec("jaxlib")
    for path in pathlib.Path(found.origin).parent.glob("*.so") if found else ():
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(flag.encode()) >= 0:
                return True
    return False


os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX has float64 only for those who ask before it starts
# What runs once or twice is not worth the time of making it fast. JAX compiles every operation that is not part of a
# larger function, and without these emitters does so in half the time. Two devices are for the runs that share them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"]
if known_to_xla("xla_cpu_use_fusion_emitters"):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags)
# And what one worker of pytest-xdist has compiled, the others take from this folder: their environment is a copy.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled-by-tests-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    os.environ |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_collectstart(collector):
    """TensorFlow, before any test module, comes without what else of the test extra it would import: half the time."""
    if isinstance(collector, pytest.Session) and os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        from rim_tf import heavy

        heavy.import_quietly()
        import as_traced  # noqa: F401


def pytest_collection_modifyitems(items):
    """The export's tests come after those of serving, in the same half: else one process waits for the other's."""
    moved = [item for item in items if item.path == ROOT / "tests" / "test_export.py"]
    places = [i for i, item in enumerate(items) if item.path.parent.name == "serving"]
    if moved and places:
        first, last = items[: places[-1] + 1], items[places[-1] + 1 :]
        items[:] = [*(i for i in first if i not in moved), *moved, *(i for i in last if i not in moved)]


def pytest_collection_finish(session):
    """What is imported stays: garbage is not looked for in it, and in the rest less often than Python would."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def rng():
    return np.random.default_rng(20190106)


@pytest.fixture(scope="session")
def shared():
    """The folder of references and real data, which is no part of the repository."""
    path = pathlib.Path(os.environ.get("RIM_TF_SHARED", ROOT.parent / "shared"))
    if not (path / "refs").is_dir():
        pytest.skip(f"no references at {path}; RIM_TF_SHARED names the folder that holds refs/")
    return path
