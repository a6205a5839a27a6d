"""One server for all tests of this folder, of the small networks of `exported`."""

import exported
import pytest


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    return exported.saved_model(tmp_path_factory)


@pytest.fixture(scope="session")
def server(version, tmp_path_factory):
    """A running `Server` whose model has this one version, in a folder of its own."""
    from rim_tf.config import ServingSettings
    from rim_tf.serving.server import Server

    folder = tmp_path_factory.mktemp("served") / "rim"
    folder.mkdir()
    (folder / "1").symlink_to(version)
    running = Server(folder, "127.0.0.1", 0, 0, ServingSettings(workers=1, largest_request=4))
    yield running
    running.close(grace=1)
