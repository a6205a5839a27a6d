"""Training learns, and a killed run goes on where it stopped as if nothing had happened."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from rim_tf.config import SMALL, MockConfig
from rim_tf.data.sources.galaxies import GalaxySet, half_light_radius
from rim_tf.data.sources.procedural import procedural_galaxies
from rim_tf.errors import InputError
from rim_tf.models.pretrained import load_pretrained, save_trained
from training.experiments import EXPERIMENTS
from training.train import train, training_stream

TINY = dataclasses.replace(
    EXPERIMENTS["small"],
    rim=dataclasses.replace(SMALL, n_steps=2, features=4, hidden=(4, 4)),
    mocks=MockConfig(image_pixels=24, source_pixels=24, minimum_magnification=1.0, edge_flux=0.1),
    batch_size=2,
    n_steps=6,
    steps_per_epoch=2,
    n_procedural=5,
)

KILLED = """
import os, signal
import training.train as module
from test_train import TINY

class SaveAndDie(module.SaveCheckpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 0:
            os.kill(os.getpid(), signal.SIGKILL)

module.SaveCheckpoint = SaveAndDie
module.train(TINY, {out!r}, verbose=0)
"""


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, request):
    root, here = request.config.rootpath, request.path.parent
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(out=str(tmp_path / "killed"))],
        env={"PYTHONPATH": f"{root}:{here}", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "weights.weights.h5").exists()
    resumed = train(TINY, tmp_path / "killed", verbose=0)
    whole = train(TINY, tmp_path / "whole", verbose=0)
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == TINY.n_steps
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # Three epochs are on record, none of them twice.
    rows = (tmp_path / "killed" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "0", "1", "2"]


def test_other_configuration_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="another configuration"):
        train(TINY, tmp_path, verbose=0)


def test_training_lowers_the_error(tmp_path):
    # Weak galaxies of a fixed law and a network that starts at the back-projection: 40 steps must help on fresh lenses.
    config = dataclasses.replace(TINY, n_steps=40, steps_per_epoch=20, batch_size=4)
    train(config, tmp_path, verbose=0)
    rows = [row.split(",") for row in (tmp_path / "log.csv").read_text().splitlines()]
    column = rows[0].index("val_loss")
    assert float(rows[2][column]) < float(rows[1][column])


def test_saved_weights_load_to_the_same_network(tmp_path):
    model = train(dataclasses.replace(TINY, n_steps=2), tmp_path, verbose=0)
    save_trained(model, tmp_path / "tiny", {"command": "none"})
    loaded = load_pretrained(tmp_path / "tiny.json")
    assert loaded.config == TINY.rim
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fixed_set_and_a_prepared_set_of_galaxies_train_and_resume(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("apache_beam")
    from rim_tf.data.sets import fixed as fixed_sets

    fixed_sets.build(TINY.mocks, 8, 3, tmp_path / "lenses", _few_galaxies(), 2, batch_size=4, say=lambda line: None)
    config = dataclasses.replace(TINY, schedule="exponential")  # which does not depend on the length of the run
    given = {"lenses": tmp_path / "lenses", "verbose": 0}
    whole = train(config, tmp_path / "whole", **given)
    train(dataclasses.replace(config, n_steps=2), tmp_path / "parts", **given)
    parts = train(config, tmp_path / "parts", **given)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    other_lenses = train(config, tmp_path / "drawn", verbose=0)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(whole.get_weights(), other_lenses.get_weights(), strict=True))
    with pytest.raises(InputError, match="is no set of galaxies"):
        training_stream(TINY, galaxies=tmp_path / "lenses")


def _few_galaxies():
    images = procedural_galaxies(4, seed=5)
    radii = np.array([half_light_radius(image) for image in images])
    return {
        split: GalaxySet(images, tuple(f"{split}{i}" for i in range(4)), radii) for split in ("train", "validation")
    }


def test_frames_of_several_sizes_take_turns_and_resume_in_the_same_turn():
    config = dataclasses.replace(TINY, larger_frames=(36, 48), batch_size=8)
    whole = [tf.nest.map_structure(np.array, batch) for batch in training_stream(config).take(5)]
    assert [source.shape for _, source in whole] == [(8, 24, 24), (3, 36, 36), (2, 48, 48), (8, 24, 24), (3, 36, 36)]
    for step in (1, 3):
        rest = [tf.nest.map_structure(np.array, batch) for batch in training_stream(config, first_batch=step).take(2)]
        for one, other in zip(whole[step:], rest, strict=False):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_training_goes_on_from_weights_that_ship(tmp_path):
    config = dataclasses.replace(EXPERIMENTS["small-frames"], mocks=TINY.mocks, larger_frames=(32,), batch_size=2)
    config = dataclasses.replace(config, n_steps=2, steps_per_epoch=2, n_procedural=5, learning_rate=1e-9)
    config = dataclasses.replace(config, initial="small")
    trained, shipped = train(config, tmp_path, verbose=0), load_pretrained("small")
    for a, b in zip(trained.get_weights(), shipped.get_weights(), strict=True):
        assert_allclose(a, b, atol=1e-7)
    with pytest.raises(InputError, match="another network"):
        train(dataclasses.replace(TINY, initial="small"), tmp_path / "other", verbose=0)


@pytest.mark.parametrize(
    "changes, given, message",
    [
        ({"n_steps": 5}, {}, "n_steps is 5; it must be a multiple of the 2 steps of an epoch"),
        ({"larger_frames": (32,)}, {"lenses": "."}, "frames of one size"),
    ],
)
def test_runs_that_would_not_be_what_they_say_are_refused(tmp_path, changes, given, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(TINY, **changes), tmp_path, verbose=0, **given)


def test_frames_of_several_sizes_are_not_shared_out():
    with pytest.raises(InputError, match="cannot be shared out"):
        training_stream(dataclasses.replace(TINY, larger_frames=(32,)), n_shards=2)
