"""How right the errors of sources are on test lenses: density of the truth, coverage of pixels and of the flux."""

import numpy as np
import tensorflow as tf

from rim_tf.data.seeds import generator, seed_pair
from rim_tf.data.streaming import Simulator
from rim_tf.evaluation import coverage, measures
from rim_tf.models.source_errors import NOTHING, SourceDistribution
from rim_tf.physics.imaging import imaging_operator
from training.experiments import SMALL_MOCKS
from training.tasks import TASKS

TEST_SETS = {"64 pixels of 0.03-0.1 arcsec": SMALL_MOCKS}
# Pixels by how bright the middle of their distribution is [noise].
PIXELS = {"above the noise": (1.0, np.inf), "below the noise": (NOTHING, 1.0)}
_SAMPLES, _BINS = 200, 200


def measure(model, stamps, mocks, n, batch_size=10, stream="test"):
    """Errors in test images, beside the true ones; the arguments are those of `training.publish.measure`.

    Returns:
      {name: [n, ...]} of log_prob, for each pixel; the rank of the true flux; of the pixels of each kind their number
      and a histogram of their credibilities, [n, bins]; and noise, its rms over the image's peak.
    """
    seed, parts, rng = seed_pair(stream, 0), [], generator(stream, 0, 1)
    prepare = TASKS[type(model.config)].prepare(model.config, mocks)
    simulate = Simulator(seed, batch_size, stamps, mocks)

    @tf.function(autograph=False)
    def find(inputs, source):
        head = model(prepare(inputs, source))
        law = SourceDistribution(head, model.config.levels)
        return law.log_prob(source), law.sample(_SAMPLES, 1), law.unit

    for index in range(-(-n // batch_size)):
        inputs, source = simulate(index)
        log_prob, samples, unit = (x.numpy() for x in find(inputs, source))
        truth, flat = source.numpy().reshape(batch_size, -1), samples.reshape(batch_size, _SAMPLES, -1)
        rows = {"log_prob": log_prob / truth.shape[1], "noise": _noise(inputs, source)}
        rows["flux"] = coverage.ranks(truth.sum(axis=1)[:, None], flat.sum(axis=2)[..., None], rng)[:, 0]
        middle = np.median(flat, axis=1) / unit[:, None]
        rank = np.stack([coverage.ranks(*each, rng, NOTHING * u) for *each, u in zip(truth, flat, unit, strict=True)])
        for name, (low, high) in PIXELS.items():
            chosen = (middle >= low) & (middle < high)
            credible = coverage.credibility_of_ranks(rank)
            counts = [coverage.histogram(c[k], _BINS) for c, k in zip(credible, chosen, strict=True)]
            rows[name] = np.stack(counts)
        parts.append(rows)
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def _noise(inputs, source):
    image = imaging_operator(inputs, source.shape[1:]).forward(source).numpy()
    return measures.noise_over_peak(inputs["noise_rms"].numpy(), image)


def report(measured):
    """Figures of all lenses and of each decade of noise, plain numbers; `measured` as of `measure`."""
    return measures.by_noise(measured, figures_of)


def figures_of(measured):
    """`report` of some lenses alone."""
    figures = {"n": len(measured["flux"]), "log_density_per_pixel": np.mean(measured["log_prob"])}
    for name in PIXELS:
        figures[f"pixels {name}"] = of_histogram(measured[name].sum(axis=0))
    credible = coverage.credibility_of_ranks(measured["flux"])
    figures["flux"] = {
        "coverage": dict(zip(map(str, coverage.LEVELS), coverage.coverage(credible), strict=True)),
        "largest_deviation": coverage.largest_deviation(credible),
    }
    return figures


def of_histogram(counts):
    """Coverage of pixels of whose credibilities a histogram [bins] was kept."""
    return {
        "n": int(counts.sum()),
        "coverage": dict(zip(map(str, coverage.LEVELS), coverage.coverage_of_histogram(counts), strict=True)),
        "largest_deviation": coverage.largest_deviation_of_histogram(counts),
    }
