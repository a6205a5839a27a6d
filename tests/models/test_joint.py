"""Lens and source in one loop: nothing has a scale, an untrained network leaves the start, the RIM's cell fits in."""

import dataclasses

import numpy as np
import pytest
from gradients import array, traced, whole
from keras import ops
from numpy.testing import assert_allclose
from registry import LENSES, SMALL_JOINT, observation, started, stirred

from rim_tf.config import SMALL
from rim_tf.errors import InputError
from rim_tf.models import mixture
from rim_tf.models.joint import JointRIM
from rim_tf.models.losses import JointLoss, last_theta_E_error_percent
from rim_tf.models.rim import INPUTS, RIM, Step
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR

TINY = dataclasses.replace(SMALL_JOINT, n_steps=2)


@pytest.fixture(scope="module")
def model():
    return stirred(JointRIM(TINY))


@pytest.fixture(scope="module")
def run(model):
    """The model as a function of its inputs, which JAX compiles once."""
    return whole(lambda inputs: model(inputs))


def test_every_iterate_is_finite_and_of_its_shape(run):
    inputs = started(observation())
    found = {name: array(each) for name, each in run(inputs).items()}
    n, *shape = inputs["image"].shape
    shape = [k + k % 2 for k in shape]
    assert found["u"].shape == found["log_sigma"].shape == (n, 2, 7)
    assert found["source"].shape == (n, 2, *shape) and found["log_error"].shape == (n, *shape)
    assert found["head"].shape == (n, 2, mixture.n_columns(7))
    assert all(np.isfinite(each).all() for each in found.values())
    assert (found["source"] > 0).all()
    assert_allclose(np.exp(found["head"][..., 0]).sum(1), 1, rtol=1e-5)


def test_it_knows_no_unit_of_brightness(run):
    inputs = started(observation())
    factor = 1e3
    brighter = inputs | {name: factor * inputs[name] for name in ("image", "noise_rms")}
    one, other = run(inputs), run(brighter)
    for name in ("u", "log_sigma", "head"):
        assert_allclose(array(other[name]), array(one[name]), rtol=1e-3, atol=1e-3)
    assert_allclose(array(other["source"]), factor * array(one["source"]), rtol=2e-3, atol=1e-3 * factor)
    assert_allclose(array(other["log_error"]), np.log(factor) + array(one["log_error"]), rtol=1e-3, atol=1e-3)


@pytest.mark.once
def test_the_compiled_search_ends_where_every_iterate_does(model):
    seen = observation("stamp")
    inputs = {name: ops.convert_to_tensor(each) for name, each in started(seen).items()}
    iterates = model(inputs)
    u, sources = iterates["u"], iterates["source"]
    found = traced(lambda inputs: model.search(inputs, 2))(inputs)
    lenses, chi2 = found["path"], found["chi2_per_pixel"]
    for name, each in {"source": sources[:, -1], "head": iterates["head"], "log_error": iterates["log_error"]}.items():
        assert_allclose(array(found[name]), array(each), rtol=2e-3, atol=2e-3)
    assert_allclose(array(lenses)[:, 0], seen["lens"], atol=1e-5)
    for i in range(2):
        assert_allclose(array(lenses)[:, i + 1], array(model.mass.from_real(u[:, i])), rtol=1e-3, atol=1e-4)
    for i in range(2):
        problem = imaging_problem(inputs | {"lens": model.mass.from_real(u[:, i])}, sources.shape[2:])
        expected = problem.chi2_per_pixel(problem.model_image(sources[:, i]))
        assert_allclose(array(chi2)[:, i + 1], array(expected), rtol=1e-2)


@pytest.mark.once
def test_a_system_does_not_see_its_neighbours(model):
    inputs = started(observation())
    alone = model({name: each[1:] for name, each in inputs.items()})
    both = model(inputs)
    for name, each in alone.items():
        assert_allclose(array(each), array(both[name])[1:], rtol=2e-3, atol=2e-3)


def test_its_posterior_is_stretched_about_its_mean_as_the_settings_say(model, run):
    factors, inputs = (0.5, 0.6, 0.7, 0.8, 1.2, 1.4, 1.6), started(observation())
    wider = JointRIM(dataclasses.replace(TINY, stretch=factors))
    wider.set_weights(model.get_weights())
    one, other = run(inputs), whole(lambda inputs: wider(inputs))(inputs)
    (mean, sigma), (mean_2, sigma_2) = (map(array, mixture.moments(found["head"])) for found in (one, other))
    assert_allclose(mean_2, mean, rtol=1e-4, atol=1e-5)
    assert_allclose(sigma_2, np.asarray(sigma) * factors, rtol=1e-4)
    assert_allclose(array(other["u"]), array(one["u"]), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="stretch has 2 numbers; it needs one for each of theta_E, e1"):
        JointRIM(dataclasses.replace(TINY, stretch=(1.0, 1.0)))


def test_the_cell_of_a_rim_does_in_it_what_it_did_before():
    rim = stirred(RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 3))))
    joint = JointRIM(TINY)
    joint.begin_from(rim)

    @whole
    def outputs(inputs):
        problem = imaging_problem(inputs, rim.source_shape(inputs["image"].shape[1:]))
        problem = problem.in_units_of(problem.peak())
        latent = rim.link.latent(ops.maximum(problem.backprojection(), 1e-3))
        step = Step(problem, rim.link, latent, problem.score(rim.link.source(latent)))
        seen = ops.stack([INPUTS[name](step) for name in SMALL.inputs], axis=-1)
        more = ops.concatenate([seen, ops.ones_like(seen[..., :3])], axis=-1)
        state = rim.cell.initial_state(*problem.lensing.shape)
        return rim.cell(seen, state)[0], joint.cell(more, state)[0]

    before, after = outputs({name: ops.convert_to_tensor(each) for name, each in observation().items()})
    assert_allclose(array(after)[..., :2], array(before), rtol=1e-5, atol=1e-6)
    assert_allclose(array(after)[..., 2], 0, atol=1e-7)
    for change in ({"hidden": (4, 4)}, {"link": "sigmoid"}, {"inputs": SMALL.inputs[::-1]}, {"gradient_step": False}):
        other = RIM(dataclasses.replace(rim.config, **change))
        with pytest.raises(InputError, match="of other features, hidden, kernel, stride, link or inputs"):
            joint.begin_from(other)


@pytest.mark.once
def test_what_it_does_not_look_at_has_no_weights():
    sizes = [
        JointRIM(dataclasses.replace(TINY, **change)).count_params()
        for change in ({}, {"curvature": "fixed"}, {"curvature": "none"}, {"encoder": (), "curvature": "fixed"})
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    with pytest.raises(InputError, match="must begin with a type that has a theta_E"):
        JointRIM(dataclasses.replace(TINY, mass=("shear", "sie")))
    with pytest.raises(InputError, match="blindly"):
        dataclasses.replace(TINY, encoder=(), curvature="none")


@pytest.mark.once
@pytest.mark.parametrize(
    "change", [{"curvature": "none"}, {"encoder": (), "curvature": "fixed"}, {"through_rays": True}]
)
def test_every_variant_runs(change):
    found = JointRIM(dataclasses.replace(TINY, n_steps=1, **change))(started(observation()))
    assert all(np.isfinite(array(each)).all() for each in found.values())


def test_the_loss_is_least_at_the_truth_and_with_the_right_errors(rng):
    n = 400
    lens = np.repeat(np.asarray(LENSES[1:], np.float32), n, axis=0)
    source = np.ones((n, 2, 2), np.float32)
    u = array(SIE_SHEAR.to_real(ops.convert_to_tensor(lens)))
    head = np.zeros((n, 1, mixture.n_columns(7)), np.float32)
    head[:, 0, 1:8] = u
    truth = {"lens": ops.convert_to_tensor(lens), "source": ops.convert_to_tensor(source)}

    judged = whole(lambda truth, found: (JointLoss().call(truth, found), last_theta_E_error_percent(truth, found)))

    def losses(offset, sigma):
        """Of systems that are off by so much, and the mean error of theta_E."""
        found = {
            "u": (u + offset)[:, None],
            "log_sigma": np.full((n, 1, 7), np.log(sigma)),
            "source": source[:, None],
            "head": head,
            "log_error": np.zeros_like(source),
        }
        found = {name: ops.convert_to_tensor(each.astype(np.float32)) for name, each in found.items()}
        loss, error = judged(truth, found)
        return array(loss), float(error)

    exact, error = losses(0.0, 0.1)
    assert error == pytest.approx(0, abs=1e-3)
    assert (losses(0.1, 0.1)[0] > exact).all()
    # Errors of Student's t with four degrees of freedom and a scale of 0.1 are best said to be just that.
    drawn = 0.1 * rng.standard_t(4, size=u.shape)
    means = [losses(drawn, sigma)[0].mean() for sigma in (0.05, 0.1, 0.2)]
    assert means[1] < min(means[0], means[2])
