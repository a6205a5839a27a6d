"""Pictures of many systems, by what they draw."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.evaluation import figures
from rim_tf.evaluation.numbers import evaluate
from rim_tf.inference.methods import METHODS

BLUE, RED = to_rgba("tab:blue"), to_rgba("tab:red")


@pytest.fixture
def third(monkeypatch):
    """The name of a third method."""
    method = dataclasses.replace(METHODS["inversion"], name="third", label="a third", colour="tab:green")
    monkeypatch.setitem(METHODS, "third", method)
    return "third"


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def dots(axes):
    """Lines without a line."""
    return [line for line in axes.lines if line.get_linestyle() == "None"]


def test_flux_against_truth_and_its_error_below(rng):
    true = rng.uniform(0.1, 2.0, 50)
    errors = {"rim": rng.normal(0, 0.01, 50), "inversion": rng.normal(0.2, 0.1, 30)}
    above, below = figures.plot_flux(true, errors).axes
    for axes, values in ((above, lambda e: true[: len(e)] * (1 + e)), (below, lambda e: 100 * e)):
        for line, error, colour in zip(dots(axes), errors.values(), (BLUE, RED), strict=True):
            assert_array_equal(line.get_xdata(), true[: len(error)])
            assert_allclose(line.get_ydata(), values(error))
            assert to_rgba(line.get_color()) == colour
    assert legend(above) == ["RIM", "linear inversion", "one to one"]
    (one_to_one,) = set(above.lines) - set(dots(above))
    assert_array_equal(one_to_one.get_xdata(), [true.min(), true.max()])
    assert_array_equal(one_to_one.get_ydata(), one_to_one.get_xdata())
    # The first method is on top, and sets the scale: 98 of 100 of its errors are seen.
    assert dots(above)[0].get_zorder() > dots(above)[1].get_zorder()
    low, high = below.get_ylim()
    assert high == -low and np.mean(np.abs(100 * errors["rim"]) < high) >= 0.98
    assert high < 100 * np.abs(errors["inversion"]).max()
    assert (above.get_xscale(), above.get_yscale()) == ("log", "log")
    assert "error [%]" == below.get_ylabel() and "true flux" in below.get_xlabel()


def test_coherence_has_a_line_and_a_band_for_each_method():
    k = np.arange(1, 7)
    curves = {
        name: {"value": np.full(6, level), "low": np.full(6, level - 0.1), "high": np.full(6, level + 0.1)}
        for name, level in (("rim", 0.8), ("inversion", 0.5))
    }
    (axes,) = figures.plot_coherence(k, curves, 2.0).axes
    assert legend(axes) == ["RIM", "linear inversion"]
    for line, band, level, colour in zip(axes.lines, axes.collections, (0.8, 0.5), (BLUE, RED), strict=True):
        assert_array_equal(line.get_xdata(), k)
        assert_allclose(line.get_ydata(), level)
        corners = band.get_paths()[0].get_extents()
        assert_allclose([corners.x0, corners.x1, corners.y0, corners.y1], [1, 6, level - 0.1, level + 0.1])
        assert to_rgba(line.get_color()) == colour and tuple(band.get_facecolor()[0][:3]) == colour[:3]
    assert axes.get_ylim() == (0, 1.03)
    # One cycle per field is two per arcsec.
    (upper,) = axes.child_axes
    axes.figure.draw_without_rendering()
    assert_allclose(upper.get_xlim(), 2 * np.array(axes.get_xlim()))
    assert figures.plot_coherence(k, curves, np.nan).axes[0].child_axes == []


def test_rms_against_noise_with_medians(rng):
    noise = np.geomspace(1e-3, 1e-1, 60)[rng.permutation(60)]
    rms = {"rim": 0.1 * noise, "inversion": 0.3 * noise[:40]}
    (axes,) = figures.plot_rms(noise, rms).axes
    assert legend(axes) == ["RIM, median", "linear inversion, median"]
    medians = [line for line in axes.lines if line not in dots(axes)]
    for cloud, line, values, slope in zip(dots(axes), medians, rms.values(), (0.1, 0.3), strict=True):
        assert_allclose(cloud.get_xdata(), 100 * noise[: len(values)])
        assert_allclose(cloud.get_ydata(), 100 * values)
        # Groups of twenty or more, whose medians lie on the line that the systems lie on.
        assert len(line.get_xdata()) == len(values) // 20
        assert_allclose(line.get_ydata(), slope * line.get_xdata())
    low, high = np.sort(noise)[:20], np.sort(noise)[40:]
    assert_allclose(medians[0].get_xdata()[[0, 2]], [100 * np.median(low), 100 * np.median(high)], rtol=0.02)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def pictures(figure):
    """Title: picture, of all panels that show one."""
    panels = [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]
    return {axes.get_title(): axes.images[0] for axes in panels}


def test_a_comparison_has_a_row_for_each_method(rng, third):
    truth, image = rng.random((8, 8)), rng.random((10, 10))
    sources = {"rim": truth + 0.1, "inversion": truth - 0.2, third: 0 * truth}
    figure = figures.plot_comparison(image, truth, sources, 0.1, 0.05)
    shown = pictures(figure)
    labels = {"rim": "RIM", "inversion": "linear inversion", third: "a third"}
    assert set(shown) == {"observed", "truth", *labels.values(), *(f"{label} - truth" for label in labels.values())}
    assert_allclose(shown["observed"].get_array(), image)
    for name, label in labels.items():
        assert_allclose(shown[label].get_array(), sources[name])
        error = shown[f"{label} - truth"]
        assert_allclose(error.get_array(), 100 * (sources[name] - truth) / truth.max())
        # Sources on one scale, errors on another, symmetric one, so that they can be compared.
        assert shown[label].norm is shown["truth"].norm
        assert error.norm.vmin == -error.norm.vmax == shown["RIM - truth"].norm.vmin
    assert shown["observed"].get_extent() == [-0.5, 0.5, -0.5, 0.5]
    assert_allclose(shown["truth"].get_extent(), [-0.2, 0.2, -0.2, 0.2])


def test_unusual_sources_stand_between_model_and_truth(rng):
    images, truths = rng.random((2, 10, 10)), rng.random((2, 8, 8))
    results = {name: (rng.random((2, 10, 10)), rng.random((2, 8, 8))) for name in ("inversion", "rim")}
    figure = figures.plot_unusual(["text", "digit 4"], images, truths, results)
    rows = [figure.axes[:6], figure.axes[6:]]
    titles = ["observed", "model, linear inversion", "model, RIM", "truth", "linear inversion", "RIM"]
    assert [axes.get_title() for axes in rows[0]] == titles
    assert [row[0].get_ylabel() for row in rows] == ["text", "digit 4"]
    for i, row in enumerate(rows):
        expected = [images[i], *(results[m][0][i] for m in results), truths[i], *(results[m][1][i] for m in results)]
        for axes, array in zip(row, expected, strict=True):
            assert_allclose(axes.images[0].get_array(), array)
        assert row[0].images[0].norm is row[2].images[0].norm and row[3].images[0].norm is row[5].images[0].norm


# ---------------------------------------------------------------------------------- which of the kept are drawn


def test_the_first_method_is_shown_where_one_is(made_up_study):
    settings, columns, kept, unusual = made_up_study
    drawn = figures.draw_figures(columns, kept, unusual, evaluate(settings, columns, unusual))
    assert list(drawn) == list(figures.CAPTIONS)
    examples = drawn["examples"].subfigs[0]
    assert examples.get_suptitle().startswith("RMS 0.40 % of the peak")
    assert_allclose(examples.axes[4].images[0].get_array(), kept["rim"]["truth"][0])
    assert_array_equal(dots(drawn["flux"].axes[0])[1].get_xdata(), columns["rim"]["true_flux"][:30])
    curve = drawn["coherence_pooled"].axes[0].lines[1]
    assert_allclose(curve.get_ydata(), 0.92)


def test_without_another_method_nothing_is_compared(make_up_study):
    settings, columns, kept, _ = make_up_study(1, [27])
    columns, kept = {"rim": columns["rim"]}, {"rim": kept["rim"]}
    drawn = figures.draw_figures(columns, kept, {}, evaluate(settings, columns, {}))
    assert set(drawn) == {"examples", "worst", "flux", "coherence", "coherence_pooled", "rms"}


def test_the_compared_system_is_the_middle_one(made_up_study, rng):
    _, columns, kept, _ = made_up_study
    columns["inversion"]["rms"] = 0.004 * rng.permutation(np.arange(1, 31))
    shown = pictures(figures._draw_comparison(columns, kept))
    middle = np.argsort(columns["inversion"]["rms"][:3])[1]
    assert_allclose(shown["truth"].get_array(), kept["rim"]["truth"][middle])
    assert_allclose(shown["linear inversion"].get_array(), kept["inversion"]["source"][middle])


def test_examples_go_from_best_to_worst(make_up_study, rng):
    _, columns, kept, _ = make_up_study(20)
    columns["rim"]["rms"] = rng.random(60)
    positions = figures._spread(columns["rim"], kept["rim"])
    rms = columns["rim"]["rms"][kept["rim"]["index"][positions]]
    assert len(positions) == 6 and np.all(np.diff(rms) > 0)
    first = columns["rim"]["rms"][:20]
    assert (rms[0], rms[-1]) == (first.min(), first.max())
    worst = kept["rim"]["index"][figures._worst(columns["rim"], kept["rim"])]
    assert len({i // 20 for i in worst}) == len(worst) == 3 and np.all(np.diff(columns["rim"]["rms"][worst]) < 0)
