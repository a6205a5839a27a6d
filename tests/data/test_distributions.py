"""What is drawn is distributed as the settings say, and the figure shows it."""

import numpy as np
import pytest

from rim_tf.config import MockConfig
from rim_tf.data.distributions import LABELS, draw_distributions, plot_distributions

CONFIG = MockConfig(image_pixels=32, source_pixels=32, log_pixel_scale=(0.05, 0.1))


@pytest.fixture(scope="module")
def drawn(stamps):
    return draw_distributions(CONFIG, stamps, 640, seed=2)


def uniform(values, low, high):
    """Largest distance of the sample's distribution from the uniform one, times sqrt(n) (Kolmogorov-Smirnov)."""
    quantile = np.sort((values - low) / (high - low))
    return np.max(np.abs(quantile - (np.arange(quantile.size) + 0.5) / quantile.size)) * np.sqrt(quantile.size)


def test_draws_follow_the_priors(drawn):
    field = drawn["pixel_scale"] * 32
    # 1.95 is passed by chance once in a thousand samples.
    assert uniform(drawn["theta_E"] / field, *CONFIG.theta_E) < 1.95
    assert uniform(drawn["ellipticity"], *CONFIG.ellipticity) < 1.95
    assert uniform(drawn["shear"], *CONFIG.shear) < 1.95
    assert uniform(np.log(drawn["half_light_radius"] / field), *np.log(CONFIG.log_half_light_radius)) < 1.95
    assert uniform(np.log(drawn["snr"]), *-np.log(CONFIG.log_noise)[::-1]) < 1.95
    for name in ("source_x", "source_y"):
        assert abs(np.std(drawn[name] / field) / CONFIG.source_offset - 1) < 0.1


def test_what_is_accepted_is_magnified(drawn):
    accepted = drawn["accepted"]
    assert drawn["magnification"][accepted].min() >= CONFIG.minimum_magnification > drawn["magnification"].min()


def test_figure_has_a_panel_for_every_parameter(drawn):
    fixed = drawn | {"pixel_scale": np.full(640, 0.04)}
    figure = plot_distributions(fixed)
    assert [ax.get_xlabel() for ax in figure.axes] == list(LABELS.values())
    assert all(sum(patch.get_height() for patch in ax.patches) > 1.9 for ax in figure.axes)  # two that sum to 1
