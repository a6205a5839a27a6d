"""A run on JAX learns, goes on where it stopped as if nothing had happened, and survives numbers that are none."""

import dataclasses

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

if keras.backend.backend() != "jax":
    pytest.skip("training on JAX needs Keras on JAX", allow_module_level=True)

from jax import numpy as jnp
from registry import SMALL_ESTIMATOR

from rim_tf.config import MockConfig
from rim_tf.data.draws import Draws
from rim_tf.data.seeds import seed_pair
from rim_tf.errors import InputError
from rim_tf.models.pretrained import load_pretrained
from training import on_jax, runs
from training.experiments import EXPERIMENTS

TINY = dataclasses.replace(
    EXPERIMENTS["estimator-small"],
    model=SMALL_ESTIMATOR,
    mocks=MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2),
    batch_size=4,
    n_steps=6,
    steps_per_epoch=2,
    n_procedural=3,
)


@pytest.fixture(scope="module")
def patched():
    """Runs that share what is compiled, and are validated on few lenses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "VALIDATION_BATCHES", 1)
        patch.setattr("rim_tf.data.sources.find.N_PROCEDURAL", {"train": 3, "validation": 3})
        run = on_jax._Run(TINY, None, None)
        first = run.first_state()
        patch.setattr(run, "first_state", lambda: [[jnp.array(value) for value in some] for some in first])
        patch.setattr(on_jax, "_Run", lambda *given: run)
        yield run


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(patched, tmp_path):
    whole = on_jax.train(TINY, tmp_path / "whole", verbose=0)
    on_jax.train(dataclasses.replace(TINY, n_steps=2), tmp_path / "parts", verbose=0)
    on_jax.train(TINY, tmp_path / "parts", verbose=0)
    one, other = (load_pretrained(tmp_path / name / "weights.json", "estimator") for name in ("whole", "parts"))
    untrained = runs.compiled_model(TINY).get_weights()
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        assert_allclose(b, a, rtol=1e-5, atol=1e-7)
    moved = [np.abs(a - c).max() > 0 for a, c in zip(one.get_weights(), untrained, strict=True)]
    assert all(moved), [w.path for w, m in zip(one.weights, moved, strict=True) if not m]
    assert whole.count_params() == one.count_params()
    logged = (tmp_path / "whole" / "log.csv").read_text().splitlines()
    assert len(logged) == 4 and logged[0].startswith("step,")
    rates = [float(line.split(",")[logged[0].split(",").index("learning_rate")]) for line in logged[1:]]
    assert_allclose(rates, [float(runs.learning_rate(TINY)(step)) for step in (1, 3, 5)], rtol=1e-4)


def test_a_run_ends_when_its_time_is_over(patched, tmp_path, capsys):
    on_jax.train(TINY, tmp_path, seconds=1e-3)
    assert "step 2/6" in capsys.readouterr().out
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2 and (tmp_path / "weights.json").exists()


def test_what_is_wrong_with_a_run_is_said(patched, tmp_path):
    with pytest.raises(InputError, match="schedule is 'exponential'; --seconds needs 'cosine'"):
        on_jax.train(dataclasses.replace(TINY, schedule="exponential"), tmp_path, seconds=1.0)
    psfs = np.ones((1, 3, 3), np.float32) / 9
    runs.opened(tmp_path / "with", TINY, psfs)
    with pytest.raises(InputError, match="began with other PSFs than now; give --psfs as it was then"):
        on_jax.train(TINY, tmp_path / "with")
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a run of TensorFlow"):
        on_jax.train(TINY, tmp_path / "other")
    with pytest.raises(InputError, match="Prepared sets are read by TensorFlow"):
        on_jax.train(TINY, tmp_path, lenses="set")
    on_jax.train(dataclasses.replace(TINY, n_steps=2), tmp_path, verbose=0)
    (tmp_path / "checkpoint.npz").write_bytes(b"PK half of it")
    with pytest.raises(InputError, match="checkpoint.npz cannot be read .*remove it to begin anew"):
        on_jax.train(TINY, tmp_path, verbose=0)
    np.savez(tmp_path / "checkpoint.npz", step=2, **{f"array_{i}": np.zeros(1) for i in range(500)})
    with pytest.raises(InputError, match="is of another network"):
        on_jax.train(TINY, tmp_path, verbose=0)


def test_steps_that_are_no_number_change_nothing(patched):
    state = patched.first_state()
    state[0][0] = jnp.full_like(state[0][0], np.nan)
    before = np.array(state[0][1])
    state, log, _ = patched.epoch(state, 0)
    assert log["skipped"] == 2
    np.testing.assert_array_equal(state[0][1], before)


def test_numbers_are_those_of_their_seed_and_spread_as_they_should():
    draws = [Draws(seed_pair("test", 0), *numbers) for numbers in ((0, 1), (1, 0), (0, 1))]
    first, other, again = (np.array(each.normal([20_000], 2.0)) for each in draws)
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    assert abs(first.mean()) < 0.06 and abs(first.std() / 2 - 1) < 0.03
    uniform, whole = np.array(draws[0].uniform([20_000], -1.0, 3.0)), np.array(draws[0].integer([20_000], 5))
    assert uniform.min() >= -1 and uniform.max() < 3 and abs(uniform.mean() - 1) < 0.04
    assert_allclose(np.bincount(whole) / whole.size, 0.2, atol=0.015)
