"""Pictures of one lens, or of several side by side: arrays and an Axes in, the Axes out; whole figures at the end.

Those of many systems are in `rim_tf.evaluation.figures`.

Axes are in arcsec with (0, 0) at the centre of the field, or of the frame that it was cut from, and row 0 at the
bottom, so that curves of `rim_tf.critical` can be drawn over the pixels as they are. Figures are built without pyplot:
no global state, no window, nothing to close.
"""

import dataclasses
import textwrap

import matplotlib
import numpy as np
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullFormatter

from rim_tf.critical import caustics, critical_curves, cuts

BRIGHTNESS = matplotlib.colormaps["inferno"].with_extremes(bad="0.55")
SIGMAS = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.55")
# Residuals are shown from -5 to 5 sigma in every figure, so that figures can be compared.
RESIDUAL_RANGE = 5.0

# Width and height of a panel and of a row, what is left of the first panel, between two, after the last and above
# them, and where the colour bar is [inches]. Written down, as it takes matplotlib longer to find them than to draw.
_PANEL, _ROW, _LEFT, _BETWEEN, _RIGHT, _ABOVE, _BAR, _BAR_HEIGHT = 2.0, 3.1, 0.42, 0.3, 0.12, 0.5, 0.34, 0.08


def extent(shape, pixel_scale, centre=(0.0, 0.0)):
    """Left, right, bottom, top edge of the field about `centre` [arcsec]: the outermost pixels' edges, not centres."""
    (rows, columns), (x, y) = shape, centre
    return (
        x - columns / 2 * pixel_scale,
        x + columns / 2 * pixel_scale,
        y - rows / 2 * pixel_scale,
        y + rows / 2 * pixel_scale,
    )


def brightness_norm(image, noise_rms=0.0):
    """A stretch from just below zero to the peak, for all images that are to be compared with `image`.

    Linear where the noise would show in a linear picture anyway; asinh, linear below a tenth of the peak,
    where the data are good enough to show what is fainter.

    Args:
      image: [rows, columns], NaN where masked.
      noise_rms: a typical noise in it.
    """
    # One hot pixel in a thousand sets no scale.
    peak = float(np.nanquantile(image, 0.999)) if np.isfinite(image).any() else 1.0
    peak = peak if peak > 0 else 1.0
    if noise_rms > 0.03 * peak:
        return Normalize(-2 * noise_rms, peak)
    return AsinhNorm(linear_width=0.1 * peak, vmin=-min(2 * noise_rms, 0.02 * peak), vmax=peak)


def draw_image(axes, image, pixel_scale, norm, mask=None, centre=(0.0, 0.0)):
    """Surface brightness [rows, columns] about `centre` [arcsec], masked pixels (mask false) grey."""
    image = np.where(True if mask is None else mask, image, np.nan)
    axes.imshow(
        image,
        origin="lower",
        extent=extent(image.shape, pixel_scale, centre),
        cmap=BRIGHTNESS,
        norm=norm,
        interpolation="none",
    )
    return axes


def draw_residual(axes, residual, pixel_scale, centre=(0.0, 0.0)):
    """Residual in units of the noise [rows, columns] about `centre` [arcsec], NaN (grey) where masked."""
    axes.imshow(
        residual,
        origin="lower",
        extent=extent(residual.shape, pixel_scale, centre),
        cmap=SIGMAS,
        vmin=-RESIDUAL_RANGE,
        vmax=RESIDUAL_RANGE,
        interpolation="none",
    )
    return axes


def draw_critical_curves(axes, lens, color="white"):
    """The critical curves of a lens, on an image-plane panel."""
    return _draw_curves(axes, critical_curves(lens), color, "-", "critical curve")


def draw_caustics(axes, lens):
    """The caustics (solid) and the cuts (dashed) of a lens, on a source-plane panel."""
    _draw_curves(axes, caustics(lens), "white", "-", "caustic")
    return _draw_curves(axes, cuts(lens), "white", "--", "cut")


def _draw_curves(axes, curves, color, style, label):
    # The panel shows its pixels, whatever part of the curve lies beyond them.
    limits = axes.get_xlim(), axes.get_ylim()
    # A dark rim keeps the line visible on bright pixels; under dashes it would fill the gaps.
    rim = [Stroke(linewidth=1.6, foreground="black", alpha=0.5), Normal()] if style == "-" else None
    for i, (x, y) in enumerate(curves):
        name = label if i == 0 else None  # one line of the legend is enough
        axes.plot(x, y, style, color=color, linewidth=0.8, path_effects=rim, label=name)
    axes.set(xlim=limits[0], ylim=limits[1])
    return axes


def plot_reconstruction(reconstruction, truth=None):
    """One reconstruction in the columns of the paper's Figure 3.

    Observed, model and residual with the critical curve; reconstruction, and `truth` where given, with the
    caustic and the cut. Observed and model share one stretch, reconstruction and truth another. Where errors of the
    source were asked for, its standard deviation comes last.

    Args:
      reconstruction: `rim_tf.results.SourceFit`.
      truth: the true source on the grid of the reconstruction, [n, m].

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    return plot_reconstructions([reconstruction], truths=None if truth is None else [truth])


def plot_reconstructions(reconstructions, truths=None, names=None, beside=None):
    """Several reconstructions, one to a row, in the columns of `plot_reconstruction`.

    Args:
      reconstructions: list of `rim_tf.results.SourceFit`.
      truths: list of true sources, [n, m] each, or None.
      names: list of a name for each, or None.
      beside: (name, lens) whose critical curves and caustics are drawn in each row beside its own, or None; in the
        coordinates of the whole frame.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    with_errors = any(each.errors is not None for each in reconstructions)
    n_rows, n_columns = len(reconstructions), 4 + (truths is not None) + with_errors
    width = _LEFT + n_columns * _PANEL + (n_columns - 1) * _BETWEEN + _RIGHT
    figure = Figure(figsize=(width, n_rows * _ROW), dpi=160)
    rows = figure.subfigures(n_rows, 1, squeeze=False)[:, 0]
    for i, (row, reconstruction) in enumerate(zip(rows, reconstructions, strict=True)):
        title = _title(reconstruction) if names is None else f"{names[i]}:  {_title(reconstruction)}"
        row.suptitle(title, fontsize=8.5)
        panels = _panels(row, n_columns)
        _draw_columns(row, panels, reconstruction, None if truths is None else truths[i])
        if beside is not None:
            _draw_beside(panels[: 4 + (truths is not None)], reconstruction, *beside)
        panels[0].set_ylabel("arcsec", fontsize=7, labelpad=0)
    return figure


def plot_stages(fits, truth=None):
    """What a lens comes to at each stage of its search: with the estimator's answer, and fitted; and the true lens.

    As the paper's Figures 7 and 8: a wrong lens shows in the residual, and in curves that are not where they should be.

    Args:
      fits: {name of the stage: `rim_tf.results.SourceFit`}, of one frame; "fitted" is one of them.
      truth: the true lens in the coordinates of the whole frame, or None.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    fitted = fits["fitted"]
    beside = ("fitted", fitted.lens.moved(fitted.observation.centre)) if truth is None else ("true", truth)
    return plot_reconstructions(list(fits.values()), names=[f"{name} lens" for name in fits], beside=beside)


def plot_model(reconstruction, given, lens_light=None):
    """A lens that was found from its image alone: what was given, then the columns of `plot_reconstruction`.

    Args:
      reconstruction: `rim_tf.results.SourceFit` of the middle of the image, without lens light.
      given: the whole `Observation` with the lens galaxy in it.
      lens_light: the light that was taken off, [rows, columns] of `given`, or None where there was none.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    before = [("as given", np.where(given.mask, given.image, np.nan))]
    if lens_light is not None:
        before.append(("lens light", lens_light))
    norm = brightness_norm(before[0][1], float(np.median(given.noise[given.mask])))
    n_columns = len(before) + 4 + (reconstruction.errors is not None)
    figure = Figure(figsize=(_LEFT + n_columns * _PANEL + (n_columns - 1) * _BETWEEN + _RIGHT, _ROW), dpi=160)
    figure.suptitle(_title(reconstruction), fontsize=8.5)
    panels = _panels(figure, n_columns)
    for axes, (title, image) in zip(panels, before, strict=False):
        draw_image(axes, image, given.pixel_scale, norm, centre=given.centre).set_title(title)
    _finish(panels[: len(before)])
    _colour_bar(figure, panels[: len(before)], "surface brightness")
    _draw_columns(figure, panels[len(before) :], reconstruction, None)
    panels[0].set_ylabel("arcsec", fontsize=7, labelpad=0)
    if lens_light is not None:
        panels[len(before)].set_title("without lens light", fontsize=9)
    return figure


# Of the parameters that most lenses have; the others are called what they are.
_LABELS = {
    "theta_E": r"$\theta_E$ [arcsec]",
    "e1": "$e_1$",
    "e2": "$e_2$",
    "x_lens": "$x$ of the lens [arcsec]",
    "y_lens": "$y$ of the lens [arcsec]",
    "gamma1": r"$\gamma_1$",
    "gamma2": r"$\gamma_2$",
}
_COLUMNS = 4


def plot_path(path, found, found_error, estimate, estimate_error, truth=None):
    """How a lens was found: each parameter and chi^2 at every step of the optimiser.

    Args:
      path: a dictionary for each step, as `rim_tf.inference.optimise.LensFit.history` has them.
      found: the lens at the end.
      found_error: {name: standard deviation} of its parameters.
      estimate: the lens that the estimator saw, of the same mass model.
      estimate_error: likewise.
      truth: the true lens, of any mass model, or None.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    names = found.mass.names
    n_rows = -(-(len(names) + 1) // _COLUMNS)
    figure = Figure(figsize=(3 * _COLUMNS, 2.4 * n_rows), dpi=130)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.16 / n_rows, top=1 - 0.14 / n_rows, wspace=0.25, hspace=0.35)
    panels = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels[len(names) + 1 :]:
        axes.remove()
    last = len(path)
    for i, (name, axes) in enumerate(zip(names, panels, strict=False)):
        middle, width = estimate.named()[name], estimate_error[name]
        axes.axhspan(middle - width, middle + width, color="tab:orange", alpha=0.2, linewidth=0)
        axes.axhline(middle, color="tab:orange", linewidth=1, label=r"estimator, 1 $\sigma$")
        if truth is not None and name in truth.named():
            axes.axhline(truth.named()[name], color="black", linestyle="--", linewidth=1, label="truth")
        axes.plot(range(last), [step["lens"][i] for step in path], ".-", color="tab:blue", linewidth=1, label="path")
        axes.errorbar(last, found.named()[name], found_error[name], fmt="o", color="tab:blue", ms=4, label="found")
        axes.set_title(_LABELS.get(name, name))
    panels[0].legend(fontsize=6.5, frameon=False)
    _draw_chi2(panels[len(names)], path)
    for axes in panels[: len(names) + 1]:
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=6.5, length=2, pad=1.5)
        axes.set_xlim(-0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in panels[max(0, len(names) + 1 - _COLUMNS) : len(names) + 1]:
        axes.set_xlabel("step", fontsize=7, labelpad=1)
    return figure


def _draw_chi2(axes, path):
    """Chi^2 per pixel, a line for each frame that the lens was fitted on, since their pixels are not the same."""
    first = 0
    for i in range(1, len(path) + 1):
        if i == len(path) or path[i]["stage"] != path[first]["stage"]:
            chi2 = [step["chi2_per_pixel"] for step in path[first:i]]
            (line,) = axes.plot(range(first, i), chi2, ".-", linewidth=1)
            place = {"xytext": (2, 3), "textcoords": "offset points", "fontsize": 6.5}
            axes.annotate(path[first]["stage"], (first, chi2[0]), color=line.get_color(), **place)
            first = i
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(r"$\chi^2$ per pixel")


@dataclasses.dataclass(frozen=True)
class SmallPictures:
    """What a contact sheet shows of one lens.

    Attributes:
      image: without lens light, NaN where masked, [rows, columns].
      noise_rms: a typical noise in it.
      residual: in units of the noise, likewise.
      pixel_scale: of both [arcsec].
      source: [n, m].
      source_pixel_scale: [arcsec].
      lens: as it was found, in coordinates of which (0, 0) is the middle of the image.
    """

    image: np.ndarray
    noise_rms: float
    residual: np.ndarray
    pixel_scale: float
    source: np.ndarray
    source_pixel_scale: float
    lens: object


# Lenses in a line, width of a picture, between the lenses, and above the pictures [inches]; letters of a title.
_LENSES, _SMALL, _GAP, _TITLE, _LETTERS = 4, 1.15, 0.12, 0.24, 78


def plot_contact_sheet(entries):
    """Many lenses at a glance: for each the image without lens light, the residual and the source.

    Args:
      entries: for each lens its title, whether it is to be believed (others are in red), and its `SmallPictures`, or
        a sentence that says why there are none.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    n_lines, n_columns = -(-len(entries) // _LENSES), min(_LENSES, len(entries))
    width, height = n_columns * (3 * _SMALL + _GAP) + _GAP, n_lines * (_SMALL + _TITLE) + _GAP
    figure = Figure(figsize=(width, height), dpi=110)
    for i, (title, believed, shown) in enumerate(entries):
        line, column = divmod(i, _LENSES)
        left = _GAP + column * (3 * _SMALL + _GAP)
        bottom = height - (line + 1) * (_SMALL + _TITLE)
        title = title if len(title) <= _LETTERS else f"{title[: _LETTERS - 3]}..."
        colour, top = "black" if believed else "firebrick", (bottom + _SMALL + 0.05) / height
        figure.text(left / width, top, title, fontsize=6.5, color=colour, parse_math=False)
        panels = [
            figure.add_axes(((left + k * _SMALL) / width, bottom / height, _SMALL / width, _SMALL / height))
            for k in range(1 if isinstance(shown, str) else 3)
        ]
        for axes in panels:
            axes.set_axis_off()
        if isinstance(shown, str):
            panels[0].text(0, 0.5, textwrap.fill(shown, 60), fontsize=6, va="center", parse_math=False)
        else:
            _draw_small(panels, shown)
    return figure


def _draw_small(panels, shown):
    draw_image(panels[0], shown.image, shown.pixel_scale, brightness_norm(shown.image, shown.noise_rms))
    draw_critical_curves(panels[0], shown.lens)
    draw_residual(panels[1], shown.residual, shown.pixel_scale)
    draw_image(panels[2], shown.source, shown.source_pixel_scale, brightness_norm(shown.source))
    draw_caustics(panels[2], shown.lens)


def _title(reconstruction):
    """One line of what characterises a reconstruction."""
    observation, lens = reconstruction.observation, reconstruction.lens
    magnification = f"{reconstruction.magnification:.1f}"
    if reconstruction.errors is not None:
        magnification += rf" $\pm$ {reconstruction.errors.summary()['magnification']['error']:.2g}"
    text = (
        rf"$\chi^2$/pixel {reconstruction.chi2_per_pixel:.2f}     magnification {magnification}     "
        rf"$\theta_E$ {lens.theta_E:.3f}$''$     "
    )
    if isinstance(observation.psf, float):
        return text + rf"PSF $\sigma$ {observation.psf:.3f}$''$"
    return text + f"PSF {observation.psf.shape[0]} x {observation.psf.shape[1]} pixels"


def _draw_columns(figure, panels, reconstruction, truth):
    observation, scale = reconstruction.observation, reconstruction.observation.pixel_scale
    centre, lens = observation.centre, reconstruction.lens.moved(observation.centre)
    centre_of_source = reconstruction.lens.moved_source(centre)
    observed = np.where(observation.mask, observation.image, np.nan)
    noise = float(np.median(observation.noise[observation.mask]))
    # The model has no noise, so its peak is the better end of the scale; a poor model must not hide the data.
    brightest = observed if np.nanmax(observed) > 2 * reconstruction.model_image.max() else reconstruction.model_image
    image_norm = brightness_norm(brightest, noise)
    source_norm = brightness_norm(reconstruction.source if truth is None else truth)
    draw_image(panels[0], observation.image, scale, image_norm, observation.mask, centre).set_title("observed")
    draw_image(panels[1], reconstruction.model_image, scale, image_norm, centre=centre).set_title("model")
    draw_residual(panels[2], reconstruction.residual, scale, centre).set_title("residual")
    for axes in panels[:3]:
        draw_critical_curves(axes, lens, "black" if axes is panels[2] else "white")
    sources = [reconstruction.source] if truth is None else [reconstruction.source, truth]
    for axes, source, title in zip(panels[3:], sources, ("reconstruction", "truth"), strict=False):
        draw_image(axes, source, reconstruction.source_pixel_scale, source_norm, centre=centre_of_source)
        axes.set_title(title)
        draw_caustics(axes, lens)
    panels[3].legend(
        loc="lower left", fontsize=6, labelcolor="white", frameon=False, handlelength=1.6, labelspacing=0.2
    )
    _finish(panels)
    _colour_bar(figure, panels[:2], "surface brightness")
    bar = _colour_bar(figure, [panels[2]], r"(data $-$ model) / noise, fixed at $\pm$5", "both")
    bar.set_ticks([-5, 0, 5])
    _colour_bar(figure, panels[3 : 3 + len(sources)], "surface brightness")
    if reconstruction.errors is not None:
        _draw_deviation(figure, panels[3 + len(sources)], reconstruction, centre_of_source)


def _draw_beside(panels, reconstruction, name, lens):
    """Curves of another lens, thin and dashed, over panels that have their own."""
    for axes in panels[:3]:
        _draw_curves(axes, critical_curves(lens), "tab:cyan", "--", f"{name} lens")
    # The source plane lies where the panel's own lens puts it, and not where another one's shear would.
    centre = reconstruction.observation.centre
    x, y = reconstruction.lens.moved_source(centre)
    own = caustics(lens.moved([-each for each in centre]))
    for axes in panels[3:]:
        _draw_curves(axes, [(u + x, v + y) for u, v in own], "tab:cyan", "--", f"{name} lens")
    panels[0].legend(loc="lower left", fontsize=6, labelcolor="white", frameon=False, handlelength=1.6)


def _draw_deviation(figure, axes, reconstruction, centre):
    """The standard deviation of the source, in a stretch of its own."""
    deviation = reconstruction.standard_deviation
    norm = Normalize(0, float(np.quantile(deviation, 0.999)) or 1.0)
    draw_image(axes, deviation, reconstruction.source_pixel_scale, norm, centre=centre).set_title("standard deviation")
    _finish([axes])
    _colour_bar(figure, [axes], "of surface brightness")


def _finish(panels):
    """Sizes of letters and ticks, for panels that have their titles."""
    for axes in panels:
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=6.5, length=2, pad=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _panels(figure, n):
    width, height = figure.bbox.size / figure.figure.dpi
    bottom = (_ROW - _ABOVE - _PANEL) / height
    lefts = [(_LEFT + i * (_PANEL + _BETWEEN)) / width for i in range(n)]
    return [figure.add_axes((left, bottom, _PANEL / width, _PANEL / height)) for left in lefts]


def _colour_bar(figure, panels, label, extend="neither"):
    """A bar below neighbouring panels, as wide as all of them."""
    mappable, (_, height) = panels[0].images[0], figure.bbox.size / figure.figure.dpi
    left, right = panels[0].get_position().x0, panels[-1].get_position().x1
    axes = figure.add_axes((left, _BAR / height, right - left, _BAR_HEIGHT / height), label="<colorbar>")
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend=extend)
    bar.set_label(label, fontsize=7, labelpad=1)
    bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    if isinstance(mappable.norm, AsinhNorm):
        ticks = _round_ticks(mappable.norm.vmax)
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
    return bar


def _round_ticks(top):
    """0, and 1, 2 and 5 times powers of ten up to `top`, which asinh spreads evenly."""
    power = 10.0 ** np.arange(np.floor(np.log10(top)) - 2, np.floor(np.log10(top)) + 1)
    ticks = np.outer(power, [1, 2, 5]).ravel()
    return [0.0, *ticks[(ticks > 0.03 * top) & (ticks <= 1.0001 * top)]]


def plot_posterior(posteriors, truth=None):
    """All pairs of parameters of a lens, as in the paper's Figure 9.

    Args:
      posteriors: {label: (samples [n, columns], colour)}, all of one mass model.
      truth: a lens, whose values are marked, or None; also says nothing of what is drawn.

    Returns:
      A matplotlib Figure.
    """
    import corner

    figure, names = None, None
    for label, (samples, colour, names) in posteriors.items():
        figure = corner.corner(
            np.asarray(samples),
            labels=list(names),
            color=colour,
            fig=figure,
            levels=(0.393, 0.865),
            plot_datapoints=False,
            plot_density=False,
            smooth=1.0,
            hist_kwargs={"density": True, "label": label},
            truths=None if truth is None else truth.as_tuple(),
            truth_color="black",
        )
    figure.axes[0].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.05, 1))
    return figure
