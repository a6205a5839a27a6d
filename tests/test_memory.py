import pytest

from rim_tf import memory
from rim_tf.errors import InputError


def test_what_does_not_fit_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    memory.check_memory(1.9e9, "This", "do less")
    with pytest.raises(InputError, match=r"^This takes about 2.1 GB of memory, 2 GB are free; do less\.$"):
        memory.check_memory(2.1e9, "This", "do less")


def test_where_nobody_says_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory(1e30, "This", "do less")


def test_there_is_some_memory_and_a_limit_of_the_container_counts(monkeypatch):
    free = memory.available_memory()
    assert 1e7 < free < 1e14
    monkeypatch.setattr(memory, "_limit_of_container", lambda: 1000)
    assert memory.available_memory() == 1000
