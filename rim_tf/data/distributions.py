"""What a `MockConfig` amounts to: the distribution of every parameter that is drawn, and of what follows from it."""

import numpy as np
import tensorflow as tf

from rim_tf.data import seeds
from rim_tf.data.draws import Draws
from rim_tf.data.mocks import check_tally, draw_systems, observing_draws
from rim_tf.data.observing import observe
from rim_tf.grids import PixelGrid
from rim_tf.lens import LENS_PARAMETERS
from rim_tf.physics.psf import blur_operator

_BATCH = 64
LABELS = {
    "theta_E": "theta_E [arcsec]",
    "e1": "e1",
    "e2": "e2",
    "x_lens": "x_lens [arcsec]",
    "y_lens": "y_lens [arcsec]",
    "gamma1": "gamma1",
    "gamma2": "gamma2",
    "ellipticity": "|e|",
    "shear": "|gamma|",
    "source_x": "source x - x_lens [arcsec]",
    "source_y": "source y - y_lens [arcsec]",
    "half_light_radius": "source half-light radius [arcsec]",
    "pixel_scale": "pixel [arcsec]",
    "magnification": "flux magnification",
    "snr": "peak brightness / noise rms",
}
_LOG = {"half_light_radius", "magnification", "snr"}


def draw_distributions(config, stamps, n, seed=0):
    """Every parameter of n drawn systems, before the conditions of Section 2.3 choose among them.

    Args:
      config: `MockConfig`.
      stamps: `GalaxyStamps`.
      n: systems drawn.
      seed: the user's, of the stream "priors".

    Returns:
      Dictionary of arrays [n], by the names of LABELS, and "accepted", [n] boolean: what a set would hold.

    Raises:
      InputError: none of them is accepted.
    """
    pair = tf.constant(seeds.seed_pair("priors", seed))

    @tf.function(autograph=False)
    def draw(index):
        systems, conditions = draw_systems(Draws(pair, index, 0), _BATCH, stamps, config)
        inputs = observe(observing_draws(pair, index), systems, config)
        grid = PixelGrid(config.image_pixels, config.image_pixels, systems["pixel_scale"])
        signal = tf.reduce_max(blur_operator(inputs["psf"], grid).forward(systems["lensed"]), (1, 2))
        noise = tf.reduce_min(inputs["noise_rms"], (1, 2))
        return {name: systems[name] for name in systems if name not in ("source", "lensed")} | {
            "snr": signal / noise,
            "conditions": conditions,
        }

    batches = [draw(tf.constant(i)) for i in range(-(-n // _BATCH))]
    drawn = {name: np.concatenate([batch[name] for batch in batches])[:n] for name in batches[0]}
    conditions = drawn.pop("conditions")
    accepted = conditions.all(axis=1)
    check_tally(1, np.r_[accepted.sum(), n, conditions.sum(axis=0)], config)
    lens = dict(zip(LENS_PARAMETERS, drawn.pop("lens").T, strict=True))
    x, y = drawn.pop("source_position").T
    return (
        lens
        | drawn
        | {
            "ellipticity": np.hypot(lens["e1"], lens["e2"]),
            "shear": np.hypot(lens["gamma1"], lens["gamma2"]),
            "source_x": x,
            "source_y": y,
            "accepted": accepted,
        }
    )


def plot_distributions(drawn):
    """A matplotlib Figure: for each parameter what was drawn (grey) and what was accepted (blue)."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    accepted = drawn["accepted"]
    figure = Figure(figsize=(13, 7), layout="constrained")
    for ax, (name, label) in zip(figure.subplots(3, 5).ravel(), LABELS.items(), strict=True):
        values = drawn[name]
        low, high = np.percentile(values[values > 0] if name in _LOG else values, [0.2, 99.8])
        if high - low < 1e-6 * abs(high):  # a parameter that is the same for all
            low, high = 0.5 * low, 1.5 * high
        edges = np.geomspace(low, high, 31) if name in _LOG else np.linspace(low, high, 31)
        for part, style in ((values, {"color": "0.8"}), (values[accepted], {"color": "tab:blue", "alpha": 0.7})):
            ax.hist(part, edges, weights=np.full(part.size, 1 / part.size), **style)
        ax.set(xlabel=label, yticks=[])
        if name in _LOG:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3) if high > 30 * low else (1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    figure.suptitle(
        f"{accepted.size} systems drawn (grey) and the {100 * accepted.mean():.0f} % of them that are accepted (blue); "
        "each histogram sums to 1"
    )
    return figure
