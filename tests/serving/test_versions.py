"""Versions that come and go; batches; a client that waits for a server."""

import concurrent.futures
import shutil
import threading
import time

import numpy as np
import pytest

from rim_tf.errors import InputError
from rim_tf.serving import versions
from rim_tf.serving.batching import Batcher
from rim_tf.serving.refusals import Refusal
from rim_tf.serving.service import Service
from rim_tf.serving.versions import Model
from rim_tf_client import Client, ServerError
from rim_tf_client.messages import GetModelStatusRequest


class Loaded:
    """In the place of a SavedModel."""

    def __init__(self, path):
        if (path / "saved_model.pb").read_text() == "damaged":
            raise ValueError("not a SavedModel")
        self.number = int(path.name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "Version", Loaded)
    return tmp_path / "rim"


def add(folder, number, content="whole"):
    path = folder / str(number)
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_text(content)
    return path


def test_the_newest_version_is_served_and_an_older_one_when_it_goes(folder):
    add(folder, 1)
    (folder / ".export-x").mkdir()
    (folder / "3").mkdir()  # not complete
    model = Model(folder)
    assert model.name == "rim" and model.find().number == 1
    newer = add(folder, 12)
    model.look()
    assert model.find().number == 12 and model.states == {1: 50, 12: 30}
    with pytest.raises(Refusal, match="rim:1"):
        model.find(1)
    newer.rename(folder / "gone")
    model.look()
    assert model.find().number == 1 and model.states == {1: 30, 12: 50}


def test_a_damaged_version_replaces_nothing(folder):
    add(folder, 1)
    said = []
    model = Model(folder, tell=said.append)
    path = add(folder, 2, "damaged")
    model.look()
    model.look()
    assert model.find().number == 1 and sum("cannot be loaded" in line for line in said) == 1
    (path / "saved_model.pb").write_text("mended")
    model.look()
    assert model.find().number == 2


def test_versions_that_roll_under_load_lose_no_request(folder):
    class Counting(Loaded):
        signatures = ("number",)

        def check(self, name, arrays):
            pass

        def run(self, name, arrays):
            return {"y": np.full(len(arrays["x"]), self.number)}

    versions.Version = Counting  # undone with the fixture's own
    add(folder, 1)
    service = Service(Model(folder), workers=1)
    request = GetModelStatusRequest(model_spec={"name": "rim"})
    answers, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            version = service.version_of(request.model_spec)
            answers.append(int(service.predict(version, "number", {"x": np.zeros(1)}, 10)["y"][0]))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        for _ in range(3):
            path = add(folder, 2)
            service.model.look()
            seen = len(answers)
            while len(answers) < seen + 20:
                time.sleep(0.001)
            path.rename(folder / "gone")
            service.model.look()
            shutil.rmtree(folder / "gone")
        ended.set()
        for each in asking:
            each.result(10)  # raises what was raised there
    service.close()
    assert set(answers) == {1, 2} and service.counts == {("number", "OK"): len(answers)}


def test_several_versions_side_by_side(folder):
    for number in (1, 2, 3):
        add(folder, number)
    model = Model(folder, keep=2)
    assert model.find().number == 3 and model.find(2).number == 2
    with pytest.raises(Refusal):
        model.find(1)


def test_a_folder_without_a_model_is_refused(folder):
    with pytest.raises(InputError, match="holds no version"):
        Model(folder)
    add(folder, 1, "damaged")
    with pytest.raises(InputError, match="not a SavedModel"):
        Model(folder)


def test_what_gathers_while_a_batch_is_run_is_run_together():
    begun, go, sizes = threading.Event(), threading.Event(), []

    def run(key, arrays):
        sizes.append(len(arrays["x"]))
        begun.set()
        go.wait(10)
        return {"y": 2 * arrays["x"]}

    batcher = Batcher(run, largest_batch=4)
    first = batcher.submit("a", {"x": np.array([0.0])})
    assert begun.wait(10)
    others = [batcher.submit("a", {"x": np.array([i, i + 0.5])}) for i in range(1, 4)]
    other_shape = batcher.submit("a", {"x": np.ones((1, 2))})
    cancelled = batcher.submit("b", {"x": np.array([9.0])})
    assert cancelled.cancel()
    go.set()
    assert first.result(10)["y"].tolist() == [0.0]
    assert [each.result(10)["y"].tolist() for each in others] == [[2, 3], [4, 5], [6, 7]]
    assert other_shape.result(10)["y"].shape == (1, 2)
    batcher.close()
    assert sizes == [1, 4, 1, 2] and 9.0 not in sizes
    with pytest.raises(Refusal, match="closing"):
        batcher.submit("a", {"x": np.array([0.0])})


def test_of_a_batch_that_fails_each_request_has_its_own_answer():
    def run(key, arrays):
        if (arrays["x"] < 0).any():
            raise Refusal("INVALID_ARGUMENT", "below 0")
        return {"y": arrays["x"]}

    batcher = Batcher(run, workers=0)
    futures = [batcher.submit("a", {"x": np.array([float(x)])}) for x in (1, -1, 2)]
    batcher._answer(*batcher._take())
    assert [futures[i].result(1)["y"][0] for i in (0, 2)] == [1, 2]
    with pytest.raises(Refusal, match="below 0"):
        futures[1].result(1)


def test_no_more_wait_than_may():
    batcher = Batcher(None, workers=0, longest_queue=2)
    for _ in range(2):
        batcher.submit("a", {"x": np.zeros(1)})
    with pytest.raises(Refusal, match="try again later") as refused:
        batcher.submit("a", {"x": np.zeros(1)})
    assert refused.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_server_that_is_not_there_is_asked_until_the_time_is_over(address):
    started = time.monotonic()
    with Client(address, timeout=1.0) as client, pytest.raises(ServerError) as failed:
        client.status()
    assert (
        failed.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and 0.25 < time.monotonic() - started < 3
    )  # pauses of 0.1 and 0.2 s at the least


class Replica:
    """In the place of the way to a server."""

    def __init__(self):
        self.asked, self.there = 0, True

    def status(self, seconds):
        self.asked += 1
        if not self.there:
            raise ServerError("UNAVAILABLE", "gone")
        return {1: "AVAILABLE"}


def test_requests_go_to_the_servers_in_turn_and_past_one_that_is_gone():
    client = Client("127.0.0.1:9,http://127.0.0.1:9")
    client._ways = replicas = [Replica(), Replica()]
    for _ in range(4):
        client.status()
    assert [each.asked for each in replicas] == [2, 2]
    replicas[0].there = False
    started = time.monotonic()
    for _ in range(6):
        assert client.status() == {1: "AVAILABLE"}
    assert replicas[1].asked == 2 + 6 and time.monotonic() - started < 0.1  # without a pause
    replicas[1].there = False
    with pytest.raises(ServerError, match="gone"):
        client.status(timeout=0.5)


@pytest.mark.parametrize("address", ["", "ftp://there:1", "http://there/path", "http://", "there:1,"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="no address"):
        Client(address)
