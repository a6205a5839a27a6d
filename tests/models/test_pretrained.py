"""Weights come back as they were saved, and whatever is wrong with their files is said before they are read."""

import dataclasses
import http.server
import json
import shutil
import threading
import types

import h5py
import numpy as np
import pytest
from registry import SMALL_ERRORS

from rim_tf.config import PAPER, SMALL, JointConfig
from rim_tf.errors import InputError
from rim_tf.models import pretrained, remote
from rim_tf.models.pretrained import build_model, load_pretrained, save_trained

TINY = dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network and the folder that it was saved into."""
    model, folder = build_model(TINY), tmp_path_factory.mktemp("weights")
    save_trained(model, folder / "mine", {"seed": 5})
    return model, folder


@pytest.fixture
def saved(trained, tmp_path):
    """Paths of a description and its weights, to be damaged."""
    for path in trained[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "mine.json", tmp_path / "mine.weights.h5"


def test_the_shipped_weights_load():
    assert load_pretrained("small").config == SMALL


def test_what_was_saved_comes_back(trained):
    model, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == ["mine.json", "mine.weights.h5"]
    loaded = load_pretrained(str(folder / "mine.json"))
    assert loaded.config == model.config
    for weight, original in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, original)
    description = json.loads((folder / "mine.json").read_text())
    assert description["seed"] == 5 and description["model"]["type"] == "rim"


_JOINT = JointConfig(features=4, hidden=(4, 3), encoder=(4, 5), encoder_side=2, memory=6, components=3)
JOINT = [_JOINT, dataclasses.replace(_JOINT, encoder=(), curvature="fixed")]


@pytest.mark.parametrize(
    "config", [TINY, dataclasses.replace(PAPER, kernel=5, features=3, hidden=(5, 2)), SMALL_ERRORS, *JOINT]
)
def test_shapes_are_known_without_the_network(config, tmp_path):
    build_model(config).save_weights(tmp_path / "w.weights.h5")
    found = {}
    with h5py.File(tmp_path / "w.weights.h5") as file:
        file.visititems(lambda name, item: found.update({name: item.shape} if isinstance(item, h5py.Dataset) else {}))
    assert found == pretrained._NETWORKS[type(config)].shapes(config)


def test_the_checksum_is_of_settings_and_weights_and_of_nothing_else(trained, tmp_path):
    model, folder = trained
    checksum = pretrained.checksum_of(folder / "mine.json")
    description = json.loads((folder / "mine.json").read_text()) | {"seed": 6}
    (tmp_path / "yours.json").write_text(json.dumps(description))
    assert pretrained.checksum_of(tmp_path / "yours.json") == checksum
    weights, longer = model.get_weights(), build_model(dataclasses.replace(TINY, n_steps=3))
    longer.set_weights(weights)
    save_trained(longer, tmp_path / "longer", {})
    other = build_model(TINY)
    other.set_weights([weights[0] + 1, *weights[1:]])
    save_trained(other, tmp_path / "other", {})
    assert len({checksum, *(pretrained.checksum_of(tmp_path / f"{name}.json") for name in ("longer", "other"))}) == 3


def test_the_folder_of_a_run_loads_by_its_path(trained, tmp_path):
    model, _ = trained
    with pytest.raises(InputError, match="holds no weights.json, which a run of training leaves when it has ended"):
        load_pretrained(tmp_path)
    save_trained(model, tmp_path / "weights", {})
    np.testing.assert_array_equal(load_pretrained(tmp_path).get_weights()[0], model.get_weights()[0])


@pytest.fixture
def served(trained, tmp_path, monkeypatch):
    """The folder that a web server on this machine shows, in which there are the weights "mine"."""
    pytest.importorskip("pooch")
    served, kept = tmp_path / "served", tmp_path / "kept"
    shutil.copytree(trained[1], served)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(served))

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(remote, "URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(remote, "FILES", {path.name: pretrained.sha256(path) for path in served.iterdir()})
    monkeypatch.setenv("RIM_TF_WEIGHTS", str(kept))
    monkeypatch.setattr("pooch.core.time", types.SimpleNamespace(sleep=lambda seconds: None))  # before it tries again
    yield served
    server.shutdown()
    server.server_close()


def test_weights_that_do_not_ship_are_fetched_once(trained, served):
    for _ in range(2):
        np.testing.assert_array_equal(load_pretrained("mine").get_weights()[0], trained[0].get_weights()[0])
        for path in served.iterdir():
            path.unlink()
    with pytest.raises(InputError, match="no weights 'yours'; shipped are: .*mine.*small"):
        load_pretrained("yours")


def test_other_files_than_were_promised_are_not_taken(served, tmp_path):
    path = served / "mine.weights.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="mine.weights.h5 cannot be fetched .*hash"):
        load_pretrained("mine")
    path.unlink()
    with pytest.raises(InputError, match="mine.weights.h5 cannot be fetched .*404"):
        load_pretrained("mine")
    assert not list((tmp_path / "kept").glob("*"))


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(InputError, match="no weights 'large'; shipped are: .*small"):
        load_pretrained("large")


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_truncated_weights_are_noticed_before_they_are_read(saved, kept):
    description, weights = saved
    size = kept if isinstance(kept, int) else int(weights.stat().st_size * kept)
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(InputError, match="mine.weights.h5 is truncated"):
        load_pretrained(description)


def test_missing_weights_are_named(saved):
    description, weights = saved
    weights.unlink()
    with pytest.raises(InputError, match="mine.weights.h5 is missing"):
        load_pretrained(description)


def test_weights_of_something_else_are_refused_before_they_are_read(saved):
    description, weights = saved
    size = weights.stat().st_size
    weights.write_bytes(b"nothing!" * (size // 8 + 1))
    with pytest.raises(InputError, match="mine.weights.h5 is truncated or was changed: it cannot be read as HDF5"):
        load_pretrained(description)
    with open(weights, "wb") as file:
        file.truncate(256 * 10**9)  # takes no room on the disk
    with pytest.raises(InputError, match="it has 256.0 GB, and the network .* has 8.8 kB of weights"):
        load_pretrained(description)
    with h5py.File(weights, "w") as file:
        file.create_dataset("cell/embed/vars/0", (250_000, 250_000), "f4", chunks=(1000, 1000))
        file.create_dataset("filler", data=np.zeros(size // 4, np.float32))
    with pytest.raises(InputError, match=r"cell/coarse/\S* has the shape None, and wanted is \(3, 3,"):
        load_pretrained(description)


def test_weights_of_another_network_are_refused(saved, tmp_path):
    description, weights = saved
    save_trained(build_model(dataclasses.replace(TINY, hidden=(4, 5))), tmp_path / "other", {})
    weights.write_bytes((tmp_path / "other.weights.h5").read_bytes())
    with pytest.raises(InputError, match="does not belong to its description: cell/fine/candidate/vars/0 has"):
        load_pretrained(description)


def test_weights_that_were_changed_are_refused(saved):
    description, weights = saved
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="mine.weights.h5 .*was changed: its checksum"):
        load_pretrained(description)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"model": {"type": "rim"}, "sha256": ""}'])
def test_a_description_that_describes_nothing_is_named(saved, text):
    description, _ = saved
    description.write_text(text)
    with pytest.raises(InputError, match="mine.json does not describe weights"):
        load_pretrained(description)


@pytest.mark.parametrize(
    "name, value",
    [
        (name, value)
        for name, values in {
            "n_steps": (0, -1, 2.5, True, "2", None, 10**9, {"n": 2}),
            "kernel": (0, 2, -3, 3.5, 10**6),
            "stride": (0, 5, 1.5, None),
            "features": (0, "4", 10**9),
            "hidden": ([4], [4, 4, 4], [4, 0], 4, [[4], 4]),
            "link": ("tanh", 3),
            "inputs": ([], ["latent", "image"], "latent", [3]),
            "gradient_step": (1, "yes"),
            "start": ("middle", 0, -1),
            "flux_scale": ("peak", None),
            "type": ("cnn", None, 3),
            "depth": (3,),
        }.items()
        for value in values
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file(saved, name, value):
    description, _ = saved
    values = json.loads(description.read_text())
    values["model"][name] = value
    description.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"mine.json does not describe weights.*{name}"):
        load_pretrained(description)


@pytest.mark.parametrize("changes", [{"stride": 3}, {"stride": 1}, {"n_steps": 3}, {"link": "sigmoid"}, {"start": 0.1}])
def test_settings_that_change_no_shape_are_not_taken_in_silence(saved, changes):
    description, _ = saved
    values = json.loads(description.read_text())
    values["model"] |= changes
    description.write_text(json.dumps(values))
    with pytest.raises(InputError, match="mine.json was changed: its network is not the one that the weights were"):
        load_pretrained(description)
