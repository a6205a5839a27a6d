"""A run on JAX learns, goes on where it stopped as if nothing had happened, and survives numbers that are none."""

import dataclasses
import signal

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

if keras.backend.backend() != "jax":
    pytest.skip("training on JAX needs Keras on JAX", allow_module_level=True)

import jax
from jax import numpy as jnp
from registry import SMALL_ESTIMATOR, SMALL_SMALL, observation, stirred

from rim_tf.config import MockConfig
from rim_tf.data.draws import Draws
from rim_tf.data.seeds import seed_pair
from rim_tf.errors import InputError
from rim_tf.files import load_arrays
from rim_tf.models.pretrained import load_pretrained
from rim_tf.models.rim import RIM
from training import checkpoints, on_jax, runs
from training.experiments import EXPERIMENTS
from training.monitor import read_metrics
from training.recomputation import recomputed

TINY = dataclasses.replace(
    EXPERIMENTS["estimator-small"],
    model=dataclasses.replace(SMALL_ESTIMATOR, features=(8,), hidden=(8,)),
    mocks=MockConfig(image_pixels=16, source_pixels=16, minimum_magnification=1.0, edge_flux=0.2),
    batch_size=4,
    micro_batches=2,
    average_decay=0.5,
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
        patch.setattr(run, "_drawn", jax.jit(run._drawn, static_argnums=0))
        first = run.first_state()
        patch.setattr(run, "first_state", lambda: {n: [jnp.array(v) for v in some] for n, some in first.items()})
        patch.setattr(on_jax, "_Run", lambda *given: run)
        yield run


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(patched, tmp_path):
    whole = on_jax.train(TINY, tmp_path / "whole", verbose=0)
    on_jax.train(dataclasses.replace(TINY, n_steps=2), tmp_path / "parts", verbose=0)
    on_jax.train(TINY, tmp_path / "parts", verbose=0)
    one, other = (load_pretrained(tmp_path / name / "weights.json", "estimator") for name in ("whole", "parts"))
    untrained = runs.initial_model(TINY).get_weights()
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        assert_allclose(b, a, rtol=1e-5, atol=1e-7)
    moved = [np.abs(a - c).max() > 0 for a, c in zip(one.get_weights(), untrained, strict=True)]
    assert all(moved), [w.path for w, m in zip(one.weights, moved, strict=True) if not m]
    assert whole.count_params() == one.count_params()
    # Which takes a good part of a short run, so that twice would be too much.
    assert patched._epoch._cache_size() == patched._validate._cache_size() == 1
    logged, parts = (read_metrics(tmp_path / name) for name in ("whole", "parts"))
    assert [line["step"] for line in logged] == [2, 4, 6] == [line["step"] for line in parts]
    rates = [line["learning_rate"] for line in logged]
    assert_allclose(rates, [float(runs.learning_rate(TINY)(step)) for step in (1, 3, 5)], rtol=1e-4)
    assert_allclose([line["val_loss"] for line in parts], [line["val_loss"] for line in logged], rtol=1e-5)


def test_frames_that_grow_do_so_at_their_step_and_across_a_stop(patched, tmp_path, monkeypatch):
    growing = dataclasses.replace(TINY, growing_frames=((8, 4),))
    run, first, taken = type(patched)(growing, None, None), patched.first_state(), []

    def epoch(state, where, stamps, rate, parts):
        """In the place of what takes a quarter of a minute to compile for each size: which lenses it would take."""
        step, turn = map(int, where)
        (part,) = parts
        inputs, _, _ = jax.eval_shape(lambda stamps: run._drawn(part, turn, stamps), stamps)
        taken.append((step, turn, part, inputs["image"].shape))
        state["weights"][0] = state["weights"][0] * 0.5 + turn + part
        return state, {name: 0.0 for name in ("loss", run.metric.__name__, "gradient_norm")}, {}

    monkeypatch.setattr(run, "_epoch", epoch)
    monkeypatch.setattr(run, "_validate", patched._validate)  # on frames that do not grow
    monkeypatch.setattr(run, "first_state", lambda: {n: [jnp.array(v) for v in some] for n, some in first.items()})
    monkeypatch.setattr(on_jax, "_Run", lambda *given: run)
    whole = np.array(on_jax.train(growing, tmp_path / "whole", verbose=0).get_weights()[0])
    # As many pixels in a batch of either size, and each size begins with its own first lens.
    n = TINY.micro_batches
    small, large = (0, (16 // n, 8, 8)), (1, (4 // n, 16, 16))
    assert taken == [(0, 0, *small), (2, 2, *small), (4, 0, *large)]
    # Stopped among small frames, and where the large ones begin.
    for n_steps in (2, 4, 6):
        model = on_jax.train(dataclasses.replace(growing, n_steps=n_steps), tmp_path / "parts", verbose=0)
    assert taken[3:] == taken[:3]
    assert_allclose(model.get_weights()[0], whole)


def test_two_devices_learn_what_one_does(patched, tmp_path, monkeypatch):
    short = dataclasses.replace(TINY, n_steps=2)
    one = [np.array(w) for w in on_jax.train(short, tmp_path / "one", verbose=0).get_weights()]
    run = type(patched)(TINY, None, None, "mirrored")
    assert len(run.devices) == 2 and len(run.model.trainable_variables[0].value.sharding.device_set) == 2
    monkeypatch.setattr(on_jax, "_Run", lambda *given: run)
    two = on_jax.train(short, tmp_path / "two", verbose=0, strategy="mirrored").get_weights()
    for a, b in zip(two, one, strict=True):
        # Adam makes steps of the learning rate, 1e-3, of gradients that are nothing but rounding.
        assert_allclose(a, b, rtol=1e-3, atol=2e-4)
    ((ours,), (theirs,)) = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "gradient_norm", "val_loss"):
        assert_allclose(theirs[name], ours[name], rtol=1e-4)


def test_a_step_that_is_done_anew_keeps_to_itself_and_changes_no_gradient():
    # What the first step had computed, and the second one took up again, once left the function that was done anew.
    model, inputs, found = stirred(RIM(SMALL_SMALL)), observation(), []
    weights = [w.value for w in model.trainable_variables]
    for model.remat in (None, recomputed):
        slopes = jax.grad(lambda weights, inputs: jnp.sum(jnp.square(model.stateless_call(weights, [], inputs)[0])))
        with jax.checking_leaks():
            jax.eval_shape(slopes, weights, inputs)
        found.append(jax.jit(slopes)(weights, inputs))
    for kept, anew in zip(*found, strict=True):
        assert_allclose(anew, kept, rtol=1e-4, atol=1e-6 * np.abs(kept).max())
        assert np.any(kept != 0)


def test_a_run_ends_when_its_time_is_over(patched, tmp_path, capsys):
    on_jax.train(TINY, tmp_path, verbose=2, seconds=1e-3)
    assert "step 2/6" in capsys.readouterr().out
    assert len(read_metrics(tmp_path)) == 1 and (tmp_path / "weights.json").exists()


def test_a_run_is_saved_when_it_is_asked_to_stop(patched, tmp_path, monkeypatch):
    monkeypatch.setattr(on_jax.Monitor, "stepped", lambda *given: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(runs.StoppedError, match="Stopped after step 2 of 6"):
        on_jax.train(TINY, tmp_path, verbose=0)
    assert checkpoints.all_of(tmp_path) == [checkpoints.path_of(tmp_path, 2)]


def test_what_is_wrong_with_a_run_is_said(patched, tmp_path):
    with pytest.raises(InputError, match="schedule is 'exponential'; --seconds needs 'cosine'"):
        on_jax.train(dataclasses.replace(TINY, schedule="exponential"), tmp_path, seconds=1.0)
    psfs = np.ones((1, 3, 3), np.float32) / 9
    runs.opened(tmp_path / "with", TINY, psfs)
    with pytest.raises(InputError, match="began with other PSFs than now; give --psfs as it was then"):
        on_jax.train(TINY, tmp_path / "with")
    with pytest.raises(InputError, match="'multiworker'; on JAX it must be one of one-device, mirrored"):
        on_jax.train(TINY, tmp_path / "other", strategy="multiworker")
    with pytest.raises(InputError, match="Prepared sets are read by TensorFlow"):
        on_jax.train(TINY, tmp_path, lenses="set")
    with pytest.raises(InputError, match="--only cell is of training on TensorFlow; set KERAS_BACKEND=tensorflow"):
        on_jax.train(dataclasses.replace(TINY, only=("cell",)), tmp_path)
    on_jax.train(dataclasses.replace(TINY, n_steps=2), tmp_path, verbose=0)
    path, state = checkpoints.path_of(tmp_path, 2), patched.first_state()
    path.write_bytes(b"PK half of it")
    with pytest.raises(InputError, match="step-000000002.npz is damaged .*remove it to go on from the one before"):
        on_jax.train(TINY, tmp_path, verbose=0)
    # As TensorFlow leaves it.
    checkpoints.save(tmp_path, 2, {"weights": state["weights"], "optimizer": state["optimizer"]}, {"step": 2})
    with pytest.raises(InputError, match="is of another network or optimiser"):
        on_jax.train(TINY, tmp_path, verbose=0)


def test_steps_that_are_no_number_change_nothing_and_at_last_end_a_run(patched, tmp_path, monkeypatch):
    state = patched.first_state()
    state["weights"][0] = jnp.full_like(state["weights"][0], np.nan)
    before, after = np.array(state["weights"][1]), {}
    epoch = patched.epoch

    def kept_epoch(*given):
        after["state"], *rest = epoch(*given)
        return after["state"], *rest

    monkeypatch.setattr(patched, "epoch", kept_epoch)
    monkeypatch.setattr(patched, "first_state", lambda: state)
    monkeypatch.setattr(on_jax, "_Run", lambda config, *given: patched)
    with pytest.raises(InputError, match="no finite number for 2 steps; the last batch is kept as .*not-finite-step-2"):
        on_jax.train(dataclasses.replace(TINY, most_skipped=2), tmp_path, verbose=0)
    kept = load_arrays(tmp_path / "not-finite-step-2.npz")
    for i in range(TINY.micro_batches):
        inputs, target, _ = patched._drawn(0, TINY.micro_batches + i, patched.stamps)
        assert_allclose(kept[f"{i}_target"], target)
        assert_allclose(kept[f"{i}_image"], inputs["image"])
    np.testing.assert_array_equal(after["state"]["weights"][1], before)


def test_numbers_are_those_of_their_seed_and_spread_as_they_should():
    draws = [Draws(seed_pair("test", 0), *numbers) for numbers in ((0, 1), (1, 0), (0, 1))]
    first, other, again = (np.array(each.normal([20_000], 2.0)) for each in draws)
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    assert abs(first.mean()) < 0.06 and abs(first.std() / 2 - 1) < 0.03
    uniform, whole = np.array(draws[0].uniform([20_000], -1.0, 3.0)), np.array(draws[0].integer([20_000], 5))
    assert uniform.min() >= -1 and uniform.max() < 3 and abs(uniform.mean() - 1) < 0.04
    assert_allclose(np.bincount(whole) / whole.size, 0.2, atol=0.015)
