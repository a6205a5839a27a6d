import dataclasses

import numpy as np
import pytest
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure

from rim_tf import plots
from rim_tf.critical import caustics, critical_curves
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.results import Reconstruction, SourceErrors

# Round and without shear: the critical curve is a circle of radius 0.8 about the lens.
LENS = LensParameters(0.8, x_lens=0.4, y_lens=-0.2)


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.fixture
def reconstruction(rng):
    mask = np.ones((20, 30), bool)
    mask[:4, :5] = False
    image = rng.random((20, 30))
    return Reconstruction(
        source=rng.random((16, 16)).astype(np.float32),
        source_pixel_scale=0.05,
        model_image=image.astype(np.float32),
        iterates=np.zeros((1, 16, 16), np.float32),
        observation=Observation(image, 0.1, 0.05, mask, 0.1),
        lens=LENS,
        seconds=0.1,
        chi2_per_pixel=1.0,
        flux_outside=0.0,
    )


def panels(figure, row=0):
    """The axes that hold pictures, without the colour bars."""
    return [axes for axes in figure.subfigs[row].axes if axes.get_label() != "<colorbar>"]


def test_pixels_lie_where_the_grid_has_them(axes):
    from rim_tf.grids import PixelGrid

    plots.draw_image(axes, np.zeros((3, 4)), 0.5, Normalize())
    left, right, bottom, top = axes.images[0].get_extent()
    x, y = (np.asarray(values)[0] for values in PixelGrid(3, 4, np.float32(0.5)).coordinates())
    assert (left, right) == (x[0, 0] - 0.25, x[0, -1] + 0.25)
    assert (bottom, top) == (y[0, 0] - 0.25, y[-1, 0] + 0.25)
    assert axes.images[0].origin == "lower"


def test_the_critical_curve_lies_on_the_ring_of_a_round_lens(axes):
    plots.draw_image(axes, np.zeros((30, 30)), 0.1, Normalize())
    limits = axes.get_xlim(), axes.get_ylim()
    plots.draw_critical_curves(axes, LENS)
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(np.hypot(x - 0.4, y + 0.2), 0.8, rtol=1e-5)
    assert (axes.get_xlim(), axes.get_ylim()) == limits


def test_the_caustic_of_a_round_lens_is_a_point_and_its_cut_a_circle(axes):
    plots.draw_image(axes, np.zeros((10, 10)), 0.05, Normalize())  # narrower than the cut
    limits = axes.get_xlim(), axes.get_ylim()
    plots.draw_caustics(axes, LENS)
    caustic, cut = (np.array(line.get_data()) for line in axes.lines)
    np.testing.assert_allclose(caustic - [[0.4], [-0.2]], 0, atol=1e-5)
    np.testing.assert_allclose(np.hypot(cut[0] - 0.4, cut[1] + 0.2), 0.8, rtol=1e-5)
    assert (axes.get_xlim(), axes.get_ylim()) == limits


def test_masked_pixels_are_grey(axes):
    mask = np.array([[True, False], [True, True]])
    plots.draw_image(axes, np.ones((2, 2)), 0.1, Normalize(0, 1), mask)
    colours = axes.images[0].to_rgba(axes.images[0].get_array())
    assert colours[0, 1, 0] == colours[0, 1, 1] == colours[0, 1, 2] == pytest.approx(0.55, abs=0.01)
    assert colours[0, 0, 0] != colours[0, 0, 2]


@pytest.mark.parametrize(("noise", "kind"), [(0.1, Normalize), (0.001, AsinhNorm)])
def test_the_stretch_goes_with_the_noise_and_reaches_below_zero(rng, noise, kind):
    image = rng.random((20, 20))
    norm = plots.brightness_norm(image, noise)
    assert type(norm) is kind
    assert norm.vmin < 0 < norm.vmax <= image.max()


@pytest.mark.parametrize("image", [np.zeros((4, 4)), -np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_an_image_without_light_has_a_stretch_too(image):
    norm = plots.brightness_norm(image)
    assert norm.vmin < norm.vmax


@pytest.mark.parametrize("with_truth", [False, True])
def test_a_figure_has_the_columns_of_the_paper(tmp_path, reconstruction, with_truth):
    truth = reconstruction.source if with_truth else None
    figure = plots.plot_reconstruction(reconstruction, truth)
    assert isinstance(figure, Figure)
    columns = panels(figure)
    titles = ["observed", "model", "residual", "reconstruction", "truth"]
    assert [axes.get_title() for axes in columns] == titles[: len(columns)]
    assert len(columns) == 4 + with_truth
    observed, model, residual, *sources = (axes.images[0] for axes in columns)
    assert observed.norm is model.norm and len({id(source.norm) for source in sources}) == 1
    assert (residual.norm.vmin, residual.norm.vmax) == (-5, 5)
    assert np.ma.getmaskarray(observed.get_array())[0, 0] and not np.ma.getmaskarray(model.get_array()).any()
    assert observed.get_extent() == [-1.5, 1.5, -1.0, 1.0]
    assert [len(axes.lines) for axes in columns] == [1, 1, 1] + [2] * (1 + with_truth)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_sheet_has_a_row_for_each_and_a_dark_source_is_drawn(tmp_path, reconstruction):
    dark = dataclasses.replace(
        reconstruction, source=np.zeros((16, 16)), model_image=np.zeros((20, 30)), lens=LensParameters(0.5)
    )
    figure = plots.plot_reconstructions([reconstruction, dark], names=["first", "second"])
    assert [row.get_suptitle().split(":")[0] for row in figure.subfigs] == ["first", "second"]
    figure.savefig(tmp_path / "sheet.png")


def test_what_was_given_and_what_was_taken_off_come_first(reconstruction):
    given = dataclasses.replace(reconstruction.observation, image=reconstruction.observation.image + 1)
    for light, before in ((None, ["as given"]), (np.ones((20, 30)), ["as given", "lens light"])):
        columns = panels_of(plots.plot_model(reconstruction, given, light))
        others = ["without lens light" if light is not None else "observed", "model", "residual", "reconstruction"]
        assert [axes.get_title() for axes in columns] == before + others
        assert len({id(axes.images[0].norm) for axes in columns[: len(before)]}) == 1
        np.testing.assert_array_equal(columns[0].images[0].get_array()[5], given.image[5])


def test_the_errors_of_a_source_come_last_and_are_told(reconstruction):
    shape, rng = reconstruction.source.shape, np.random.default_rng(0)
    figures = {name: np.ones(50) for name in ("flux", "source_peak", "half_light_radius")}
    errors = SourceErrors(samples=rng.random((50, *shape)), figures=figures | {"magnification": np.arange(50.0)})
    fit = dataclasses.replace(reconstruction, errors=errors, standard_deviation=errors.samples.std(axis=0))
    for figure in (plots.plot_model(fit, fit.observation), plots.plot_reconstruction(fit)):
        last = panels_of(figure)[-1]
        assert last.get_title() == "standard deviation"
        np.testing.assert_allclose(last.images[0].get_array(), fit.standard_deviation)
    assert (
        rf"$\pm$ {errors.summary()['magnification']['error']:.2g}"
        in plots.plot_model(fit, fit.observation).get_suptitle()
    )


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_the_path_shows_every_parameter_beside_the_estimate_and_the_truth(tmp_path):
    path = [
        {"stage": stage, "chi2_per_pixel": chi2, "lens": (theta_E, *(0.0,) * 6)}
        for stage, chi2, theta_E in (("coarse", 9.0, 0.7), ("coarse", 3.0, 0.75), ("fine", 2.0, 0.79))
    ]
    errors = dict.fromkeys(LENS.named(), 0.1)
    truth = LensParameters(0.85)
    figure = plots.plot_path(path, LENS, errors, LensParameters(0.9), errors, truth)
    first, *others, chi2 = figure.axes
    lines = {line.get_label(): line for line in first.lines}
    assert list(lines["path"].get_ydata()) == [0.7, 0.75, 0.79]
    assert lines["truth"].get_ydata()[0] == 0.85 and lines["estimator, 1 $\\sigma$"].get_ydata()[0] == 0.9
    assert len(others) == 6 and first.containers[0].lines[0].get_ydata()[0] == LENS.theta_E
    # Chi^2 of a coarse frame and of a fine one are no one line.
    assert [list(line.get_ydata()) for line in chi2.lines] == [[9.0, 3.0], [2.0], [1, 1]]
    figure.savefig(tmp_path / "path.png")


def test_stages_show_where_the_true_lens_has_its_curves_or_else_the_fitted_one(reconstruction):
    truth, fits = LensParameters(0.85), {"estimator's": reconstruction, "fitted": reconstruction}
    for lens, name in ((truth, "true lens"), (None, "fitted lens")):
        figure = plots.plot_stages(fits, lens)
        panels = panels_of(figure)
        assert len(panels) == 8
        for axes in panels:
            (beside,) = [line for line in axes.lines if line.get_label() == name]
            curve = (caustics if axes in (panels[3], panels[7]) else critical_curves)(lens or reconstruction.lens)
            np.testing.assert_allclose(beside.get_xdata(), curve[0][0])
        assert [each.get_text() for each in panels[0].get_legend().get_texts()] == ["critical curve", name]


def test_another_lens_lies_in_the_source_plane_where_that_of_the_panel_is(reconstruction):
    """In a frame that was cut about another point, a shear alone moves the source plane: the curves do not."""
    centre, truth = (3.0, -2.0), dataclasses.replace(LENS, gamma1=LENS.gamma1 + 0.05)
    moved = dataclasses.replace(reconstruction.observation, centre=centre)
    fits = {"fitted": reconstruction, "recentred": dataclasses.replace(reconstruction, observation=moved)}
    panels = panels_of(plots.plot_reconstructions(list(fits.values()), beside=("true", truth.moved(centre))))
    at_origin = panels_of(plots.plot_reconstructions([reconstruction], beside=("true", truth)))[3]
    curves = []
    for axes, own in ((at_origin, 0), (panels[7], reconstruction.lens.moved_source(centre)[0])):
        (line,) = [line for line in axes.lines if line.get_label() == "true lens"]
        curves.append(np.asarray(line.get_xdata()) - own)
    np.testing.assert_allclose(*curves, atol=1e-6)


def test_a_contact_sheet_has_three_pictures_for_each_lens_or_a_reason(reconstruction, tmp_path):
    shown = plots.SmallPictures(
        reconstruction.observation.image, 0.1, reconstruction.residual, 0.1, reconstruction.source, 0.05, LENS
    )
    entries = [("good", True, shown), ("bad: chi2", False, shown), *[("gone", False, "no.fits does not exist.")] * 3]
    figure = plots.plot_contact_sheet(entries)
    assert [text.get_text() for text in figure.texts] == [title for title, _, _ in entries]
    assert figure.texts[0].get_color() != figure.texts[1].get_color() == figure.texts[2].get_color()
    assert len(figure.axes) == 3 + 3 + 3 * 1
    assert figure.axes[-1].texts[0].get_text() == "no.fits does not exist."
    figure.savefig(tmp_path / "sheet.png")
