"""How good an estimator is on test lenses: errors, outliers and coverage of each parameter, by decade of noise."""

import dataclasses

import numpy as np
import tensorflow as tf

from rim_tf.data.seeds import seed_pair
from rim_tf.data.streaming import Simulator
from rim_tf.evaluation import measures
from rim_tf.evaluation.coverage import (
    LEVELS,
    coverage,
    credibility_of_density,
    credibility_of_samples,
    largest_deviation,
)
from rim_tf.models import mixture
from rim_tf.models.mixture import LensPosterior
from rim_tf.models.pretrained import build_model
from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.mass.model import SIE_SHEAR
from training.experiments import ESTIMATOR_MOCKS

# Of 64 pixels of 0.03-0.1", as in training.
TEST_SETS = {
    "lens light out": dataclasses.replace(ESTIMATOR_MOCKS, lens_galaxy_fraction=0.0, lens_light_fraction=0.0),
    "lens light taken off": dataclasses.replace(ESTIMATOR_MOCKS, lens_galaxy_fraction=0.0, lens_light_fraction=1.0),
    "lens light in": dataclasses.replace(ESTIMATOR_MOCKS, lens_galaxy_fraction=1.0),
}
_SAMPLES = 1000
# Factors that are tried on a posterior's width.
_STRETCHES = np.linspace(0.5, 1.5, 101).round(2)
# An error beyond so many robust standard deviations of all errors is an outlier.
_OUTLIER = 5.0


def calibrated(model, stamps, n, batch_size=20, stream="validation", sets=None, head_of=None):
    """The same network with the `stretch` that brings the coverage of each parameter nearest to what it should be, in
    that of the test sets where it is farthest from it.

    Args:
      model: one whose settings have a `stretch`; its own does not count.
      stamps: `GalaxyStamps` that it was not trained on.
      n: lenses of each test set.
      batch_size: of one call of the network.
      stream: name of the stream that the lenses are drawn from.
      sets: {name: `MockConfig`} of the test sets; None for TEST_SETS.
      head_of: such a network and inputs -> the head of its posterior; None for that of an `Estimator`.
    """
    plain = _stretched(model, ())
    head_of = head_of or (lambda model, inputs: model.posterior(inputs).head)

    @tf.function(autograph=False)
    def drawn(inputs):
        return mixture.draw(head_of(plain, inputs), _SAMPLES, 1), plain.mass.to_real(inputs["lens"])

    worst = 0.0
    for mocks in (TEST_SETS if sets is None else sets).values():
        simulate = Simulator(seed_pair(stream, 0), batch_size, stamps, mocks)
        parts = [[x.numpy() for x in drawn(simulate(index)[0])] for index in range(-(-n // batch_size))]
        worst = np.maximum(worst, _deviations(*(np.concatenate(each)[:n] for each in zip(*parts, strict=True))))
    return _stretched(model, tuple(_STRETCHES[np.argmin(worst, axis=0)].tolist()))


def _stretched(model, stretch):
    """The same network with another `stretch`."""
    other = build_model(dataclasses.replace(model.config, stretch=stretch))
    other.set_weights(model.get_weights())
    return other


def _deviations(samples, truth):
    """The largest deviation of any coverage for each of _STRETCHES, [..., parameters]; samples [n, k, parameters]."""
    mean = samples.mean(1)
    # A posterior that is wider by a factor holds a truth as this one does a truth that is nearer by it.
    return np.array(
        [largest_deviation(credibility_of_samples(mean + (truth - mean) / factor, samples)) for factor in _STRETCHES]
    )


def measure(model, stamps, mocks, n, batch_size=20, stream="test", find=None):
    """Lenses found in test images, beside the true ones; the arguments are those of `training.publish.measure`.

    Args:
      find: inputs and true sources -> `LensPosterior`, and further columns {name: [batch]}; None for an `Estimator`.

    Returns:
      {name: [n, ...]} of truth, mean and sigma [n, parameters]; credibility, of each parameter alone [n, parameters]
      and joint, of all together [n], as in `rim_tf.evaluation.coverage`; and noise, its rms over the image's peak [n].
    """
    parts = []
    simulate = Simulator(seed_pair(stream, 0), batch_size, stamps, mocks)

    @tf.function(autograph=False)
    def judged(inputs, source):
        posterior, more = (model.posterior(inputs), {}) if find is None else find(inputs, source)
        samples = posterior.sample(_SAMPLES, 1)
        # One posterior for each sample, since a density is asked for one lens of each system.
        repeated = LensPosterior(tf.repeat(posterior.head, _SAMPLES, axis=0), posterior.mass)
        log_prob = repeated.log_prob(tf.reshape(samples, [-1, samples.shape[-1]]))
        log_prob_of_truth = posterior.log_prob(inputs["lens"])
        return (*posterior.moments(), samples, log_prob_of_truth, tf.reshape(log_prob, [-1, _SAMPLES])), more

    for index in range(-(-n // batch_size)):
        inputs, source = simulate(index)
        found, more = judged(inputs, source)
        mean, covariance, samples, of_truth, of_samples = (x.numpy() for x in found)
        truth = inputs["lens"].numpy()
        image = imaging_operator(inputs, source.shape[1:]).forward(source).numpy()
        parts.append(
            {
                "truth": truth,
                "mean": mean,
                "sigma": np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)),
                "credibility": credibility_of_samples(truth, samples),
                "joint": credibility_of_density(of_truth, of_samples),
                "noise": measures.noise_over_peak(inputs["noise_rms"].numpy(), image),
                **{name: column.numpy() for name, column in more.items()},
            }
        )
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def report(measured):
    """Figures of all lenses and of each decade of noise, plain numbers; `measured` as of `measure`."""
    return measures.by_noise(measured, figures_of)


def figures_of(measured):
    """`report` of some lenses alone."""
    figures = {"n": len(measured["joint"]), "joint": _calibration(measured["joint"]), "parameters": {}}
    error = measured["mean"] - measured["truth"]
    for i, name in enumerate(SIE_SHEAR.names):
        robust = 1.4826 * np.median(np.abs(error[:, i] - np.median(error[:, i])))
        figures["parameters"][name] = {
            "rms": np.sqrt(np.mean(error[:, i] ** 2)),
            "median_absolute": np.median(np.abs(error[:, i])),
            "bias": np.mean(error[:, i]),
            "outliers": np.mean(np.abs(error[:, i]) > _OUTLIER * robust),
            "median_sigma": np.median(measured["sigma"][:, i]),
            **_calibration(measured["credibility"][:, i]),
        }
    relative = np.abs(error[:, 0] / measured["truth"][:, 0])
    figures["parameters"]["theta_E"]["median_relative_percent"] = 100 * np.median(relative)
    return figures


def _calibration(credibility):
    return {
        "coverage": dict(zip(map(str, LEVELS), coverage(credibility), strict=True)),
        "largest_deviation": largest_deviation(credibility),
    }
