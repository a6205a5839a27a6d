"""A simulated lens, weights, and the options of a command that works."""

import dataclasses

import pytest
from commands import SIMULATED, run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of a network as shipped but small and untrained: what is tested is the way to it and back."""
    from rim_tf.config import SMALL
    from rim_tf.models.pretrained import save_trained
    from rim_tf.models.rim import RIM

    path = tmp_path_factory.mktemp("weights") / "tiny"
    save_trained(RIM(dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4))), path, {})
    return path.with_suffix(".json")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """The folder of a simulated lens, noisy enough that even an untrained network explains it within the noise."""
    out = tmp_path_factory.mktemp("simulated") / "lens"
    result = run("simulate", *SIMULATED, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def options(simulated, weights, tmp_path):
    """Options of a `reconstruct` that works; "image" is its argument."""
    return {
        "image": simulated / "image.fits",
        "--noise": simulated / "noise.fits",
        "--psf": "0.05",
        "--lens": simulated / "lens.json",
        "--weights": weights,
        "--out": tmp_path / "out",
    }
