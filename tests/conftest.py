"""Fixtures for all tests, and what has to be set before a backend is imported."""

import os
import pathlib

os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX has float64 only for those who ask before it starts
# What runs once or twice is not worth the time of making it fast.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


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
