"""How good a network that finds lens and source together is: the lens as an estimator's, and the source."""

import dataclasses

import numpy as np
from keras import ops

from rim_tf.evaluation import measures
from rim_tf.models.joint import first_guess
from rim_tf.models.losses import rms_over_peak
from rim_tf.models.mixture import LensPosterior
from rim_tf.models.pretrained import load_pretrained
from rim_tf.physics.imaging import imaging_problem
from training import error_figures, lens_figures
from training.experiments import EXPERIMENTS

# As in training, but without measured PSFs; and with Gaussian ones, white noise and nothing left of the lens galaxy.
_AS_TRAINED = dataclasses.replace(EXPERIMENTS["joint"].mocks, lens_error=0.0)
_CLEAN = dataclasses.replace(
    _AS_TRAINED,
    psf_pixels=0,
    lens_light_fraction=0.0,
    correlated_noise_fraction=0.0,
    noise_map_fraction=0.0,
    mask_fraction=0.0,
)
TEST_SETS = {"as in training": _AS_TRAINED, "clean": _CLEAN}
# A source that fits no worse than with the true lens.
_CHI2 = (0.01, 0.05)
# Pixels of the source by how bright they are found to be [their own error].
PIXELS = {"above their errors": (1.0, np.inf), "below their errors": (-np.inf, 1.0)}
_BINS = 200


def calibrated(model, stamps, n):
    """As `lens_figures.calibrated`, of a `JointRIM`, on TEST_SETS."""
    estimator = load_pretrained(model.config.estimator, "estimator")

    def head_of(model, inputs):
        return model(first_guess(estimator, inputs))["head"]

    return lens_figures.calibrated(model, stamps, n, sets=TEST_SETS, head_of=head_of)


def measure(model, stamps, mocks, n, batch_size=20, stream="test"):
    """As `lens_figures.measure`, with more columns: rms [% of the peak] and chi2 per pixel of the source, true_rms and
    true_chi2 of what the RIM `small` finds with the true lens, each [n]; and of the source's pixels of each kind a
    histogram of their credibilities, [n, bins].
    """
    estimator, rim = load_pretrained(model.config.estimator, "estimator"), load_pretrained()

    def find(inputs, source):
        found = model(first_guess(estimator, inputs))
        lens, columns = model.mass.from_real(found["u"][:, -1]), {}
        ways = {"": (lens, found["source"][:, -1]), "true_": (inputs["lens"], rim(inputs)[:, -1])}
        for name, (lens, each) in ways.items():
            problem = imaging_problem(inputs | {"lens": lens}, each.shape[1:])
            columns[f"{name}chi2"] = problem.chi2_per_pixel(problem.model_image(each))
            columns[f"{name}rms"] = 100 * rms_over_peak(source, each)
        last, error = found["source"][:, -1], ops.exp(found["log_error"])
        credible = ops.reshape(ops.erf(ops.abs(source - last) / error / np.sqrt(2)), (batch_size, -1))
        bins = ops.minimum(ops.cast(credible * _BINS, "int32"), _BINS - 1)
        for name, (low, high) in PIXELS.items():
            chosen = ops.reshape((last >= low * error) & (last < high * error), (batch_size, -1))
            columns[name] = ops.bincount(bins, ops.cast(chosen, "float32"), minlength=_BINS)
        return LensPosterior(found["head"], model.mass), columns

    return lens_figures.measure(model, stamps, mocks, n, batch_size, stream, find)


def report(measured):
    """As `lens_figures.report`, each with the figures of the sources."""
    return measures.by_noise(measured, figures_of)


def figures_of(measured):
    """`report` of some lenses alone."""
    chi2, true_chi2, rms, true_rms = (measured[column] for column in ("chi2", "true_chi2", "rms", "true_rms"))
    of_source = {
        "median_rms_percent": np.median(rms),
        "median_rms_percent_with_the_true_lens": np.median(true_rms),
        **{f"chi2_within_{most}": np.mean(chi2 <= true_chi2 + most) for most in _CHI2},
        **{f"pixels {kind}": error_figures.of_histogram(measured[kind].sum(axis=0)) for kind in PIXELS},
    }
    return lens_figures.figures_of(measured) | {"source": of_source}
