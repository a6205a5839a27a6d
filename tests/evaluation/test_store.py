"""The folder of a study: other settings and other files refused, damaged files named."""

import dataclasses
import json

import numpy as np
import pytest

from rim_tf.config import InversionSettings, MockConfig
from rim_tf.data.sources.galaxies import GalaxySet
from rim_tf.errors import InputError, InputWarning
from rim_tf.evaluation.store import Store, StudyConfig, read_study
from rim_tf.inference.linear.inversion import InversionSolver

CONFIG = StudyConfig(MockConfig(image_pixels=16, source_pixels=16), seed=3)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path):
    """Of a study that was begun."""
    store = Store(tmp_path / "out")
    assert not store.begun(CONFIG)
    store.begin(CONFIG, None)
    return store


@pytest.fixture
def key(store):
    return store.use("inversion", InversionSolver(InversionSettings()))


@pytest.fixture
def part(made_up_study):
    """Columns and pictures of three systems."""
    _, columns, kept, _ = made_up_study
    return {n: v[:3] for n, v in columns["inversion"].items()}, {n: v[:2] for n, v in kept["inversion"].items()}


def test_settings_come_back(store):
    settings = store.settings()
    assert settings["seed"] == 3 and settings["sources"] is None and settings["methods"] == {}
    assert settings["mocks"] == json.loads(json.dumps(dataclasses.asdict(CONFIG.mocks)))
    assert store.begun(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"sources": "elsewhere"},
        {"regularisation": "curvature"},
        {"boundary": "free"},
        {"mocks": MockConfig(image_pixels=20)},
    ],
)
def test_other_settings_are_refused(store, changes):
    before = files_in(store.out)
    with pytest.raises(InputError, match=f"another {next(iter(changes))}"):
        store.begun(dataclasses.replace(CONFIG, **changes))
    assert files_in(store.out) == before


def test_folders_of_something_else_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        Store(tmp_path).begun(CONFIG)
    assert files_in(tmp_path) == ["thesis.tex"]
    with pytest.raises(InputError, match="holds no study"):
        read_study(tmp_path)


def test_a_study_that_was_stopped_as_it_began_is_taken_up(tmp_path):
    (tmp_path / "chunks").mkdir()
    assert not Store(tmp_path).begun(CONFIG)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "3",
        "null",
        "{}",
        '{"rim_tf": "0", "mocks": {}, "seed": 3}',
        '{"rim_tf": "0", "mocks": [], "seed": 3, "sources": null, "regularisation": "", "boundary": "", "methods": {}}',
        '{"rim_tf": "0", "mocks": {"radius": 1}, "seed": 3, "sources": null, "regularisation": "", "boundary": "", '
        '"methods": {}}',
        '{"rim_tf": "0", "mocks": {}, "seed": 3, "sources": null, "regularisation": "", "boundary": "", "methods": []}',
        '{"rim_tf": "0", "mocks": {}, "seed": 3, "sources": null, "regularisation": "", "boundary": "", '
        '"methods": {"rim": {}}}',
    ],
)
def test_a_config_that_is_not_a_study_s_is_refused_by_name(store, content):
    (store.out / "config.json").write_text(content)
    for read in (store.settings, lambda: store.begun(CONFIG), lambda: read_study(store.out)):
        with pytest.raises(InputError, match="config.json( is not|: | has unknown )") as refused:
            read()
        assert "\n" not in str(refused.value)


def test_a_study_without_a_system_has_no_numbers(store, key):
    with pytest.raises(InputError, match="no finished systems"):
        read_study(store.out)


def test_results_come_back_in_order(store, key, part):
    columns, pictures = part
    store.write(key, 0, columns, pictures)
    store.write(key, 3, columns, pictures | {"index": pictures["index"] + 3})
    store.write(key, 9, columns, pictures)  # after a gap
    assert (store.count(key, 0), store.count(key, 6)) == (3, 0)
    read, kept = store.results(key)
    for name, values in columns.items():
        np.testing.assert_array_equal(read[name], np.concatenate([values, values]))
    np.testing.assert_array_equal(kept["index"], [0, 1, 3, 4])
    np.testing.assert_array_equal(kept["source"][2:], pictures["source"])
    settings, of_study, *_ = read_study(store.out)
    assert list(of_study) == ["inversion"] and settings["methods"]["inversion"]["key"] == key


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def change(**arrays):
    def damage(path):
        with np.load(path) as stored:
            stored = dict(stored)
        np.savez(path, **{name: values for name, values in (stored | arrays).items() if values is not None})

    return damage


DAMAGE = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("rms 0.01"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "one array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "pickled": change(rms=np.array([None, 1, 2])),
    "without a column": change(rms=None),
    "without pictures": change(kept_index=None),
    "columns of two lengths": change(rms=np.ones(2)),
    "pictures of two lengths": change(kept_index=np.arange(3)),
    "a column that is a number": change(rms=np.float64(1)),
    "of another study": change(p12=np.ones((3, 20))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_made_again(store, key, part, damage):
    columns, pictures = part
    for first in (0, 3):
        store.write(key, first, columns, pictures)
    store.write_unusual(key, ["a", "b", "c"], columns, pictures)
    path = store.out / "chunks" / f"{key}-000003.npz"
    DAMAGE[damage](path)
    with pytest.warns(InputWarning, match=rf"{key}-000003\.npz is damaged .*again.*The report ends before it") as said:
        read, _ = store.results(key)
    assert len(read["rms"]) == 3
    assert all("\n" not in str(each.message) for each in said if each.category is InputWarning)
    if damage not in ("of another study", "a folder"):  # which shows beside other files alone; cannot be replaced
        assert store.count(key, 3) == 0
        store.write(key, 3, columns, pictures)
        assert store.count(key, 3) == 3


def test_unusual_results_come_back_and_damaged_ones_are_made_again(store, key, part):
    columns, pictures = part
    assert store.unusual(key) == [] and store.unusual_results(key) == {}
    store.write_unusual(key, ["text", "digit 1", "digit 2"], columns, pictures)
    assert store.unusual(key) == ["text", "digit 1", "digit 2"]
    np.testing.assert_array_equal(store.unusual_results(key)["kept_source"], pictures["source"])
    cut(store.out / f"unusual-{key}.npz")
    assert store.unusual(key) == [] and store.unusual_results(key) == {}


def test_galaxies_are_kept_and_named_where_damaged(tmp_path, rng):
    store = Store(tmp_path)
    assert store.galaxies() is None
    galaxies = GalaxySet(rng.random((2, 128, 128)).astype(np.float32), ("a:1", "a:2"), np.array([5.0, 6.0]))
    store.begin(CONFIG, galaxies)
    kept = store.galaxies()
    assert kept.ids == galaxies.ids
    np.testing.assert_array_equal(kept.images, galaxies.images)
    for damage in (cut, change(ids=None)):
        damage(tmp_path / "galaxies.npz")
        with pytest.raises(InputError, match=r"galaxies\.npz is damaged .*; delete it"):
            store.galaxies()
        store.begin(CONFIG, galaxies)
