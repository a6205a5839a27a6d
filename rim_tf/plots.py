"""Pictures of reconstructions: arrays and an Axes in, the Axes out; whole figures at the end.

Axes are in arcsec with (0, 0) at the field's centre and row 0 at the bottom, so that curves of
`rim_tf.physics.deflection` can be drawn over the pixels as they are. Figures are built without pyplot: no
global state, no window, nothing to close.
"""

import matplotlib
import numpy as np
from keras import ops
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rim_tf.physics.deflection import critical_curve, cut, ray_trace

BRIGHTNESS = matplotlib.colormaps["inferno"].with_extremes(bad="0.55")
SIGMAS = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.55")
# Residuals are shown from -5 to 5 sigma in every figure, so that figures can be compared.
RESIDUAL_RANGE = 5.0

# Width and height of a panel and of a row, what is left of the first panel, between two, after the last and above
# them, and where the colour bar is [inches]. Written down, as it takes matplotlib longer to find them than to draw.
_PANEL, _ROW, _LEFT, _BETWEEN, _RIGHT, _ABOVE, _BAR, _BAR_HEIGHT = 2.0, 3.1, 0.42, 0.3, 0.12, 0.5, 0.34, 0.08


def extent(shape, pixel_scale):
    """Left, right, bottom, top edge of the field [arcsec]: the outermost pixels' edges, not their centres."""
    rows, columns = shape
    return (
        -columns / 2 * pixel_scale,
        columns / 2 * pixel_scale,
        -rows / 2 * pixel_scale,
        rows / 2 * pixel_scale,
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


def draw_image(axes, image, pixel_scale, norm, mask=None):
    """Surface brightness [rows, columns], masked pixels (mask false) grey."""
    image = np.where(True if mask is None else mask, image, np.nan)
    axes.imshow(
        image,
        origin="lower",
        extent=extent(image.shape, pixel_scale),
        cmap=BRIGHTNESS,
        norm=norm,
        interpolation="none",
    )
    return axes


def draw_residual(axes, residual, pixel_scale):
    """Residual in units of the noise [rows, columns], NaN (grey) where masked."""
    axes.imshow(
        residual,
        origin="lower",
        extent=extent(residual.shape, pixel_scale),
        cmap=SIGMAS,
        vmin=-RESIDUAL_RANGE,
        vmax=RESIDUAL_RANGE,
        interpolation="none",
    )
    return axes


def draw_critical_curve(axes, lens, color="white"):
    """The tangential critical curve of `LensParameters`, on an image-plane panel."""
    theta_x, theta_y = critical_curve(_tensor(lens))
    return _draw_curve(axes, theta_x, theta_y, color, "-", "critical curve")


def draw_caustics(axes, lens):
    """The tangential caustic (solid) and the cut (dashed) of `LensParameters`, on a source-plane panel."""
    parameters = _tensor(lens)
    _draw_curve(axes, *ray_trace(*critical_curve(parameters), parameters), "white", "-", "caustic")
    return _draw_curve(axes, *cut(parameters), "white", "--", "cut")


def _tensor(lens):
    return ops.convert_to_tensor(np.asarray([lens.as_tuple()], np.float32))


def _draw_curve(axes, x, y, color, style, label):
    # The panel shows its pixels, whatever part of the curve lies beyond them.
    limits = axes.get_xlim(), axes.get_ylim()
    # A dark rim keeps the line visible on bright pixels; under dashes it would fill the gaps.
    rim = [Stroke(linewidth=1.6, foreground="black", alpha=0.5), Normal()] if style == "-" else None
    x, y = ops.convert_to_numpy(x)[0], ops.convert_to_numpy(y)[0]
    axes.plot(x, y, style, color=color, linewidth=0.8, path_effects=rim, label=label)
    axes.set(xlim=limits[0], ylim=limits[1])
    return axes


def plot_reconstruction(reconstruction, truth=None):
    """One reconstruction in the columns of the paper's Figure 3.

    Observed, model and residual with the critical curve; reconstruction, and `truth` where given, with the
    caustic and the cut. Observed and model share one stretch, reconstruction and truth another.

    Args:
      reconstruction: `rim_tf.results.SourceFit`.
      truth: the true source on the grid of the reconstruction, [n, m].

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    return plot_reconstructions([reconstruction], truths=None if truth is None else [truth])


def plot_reconstructions(reconstructions, truths=None, names=None):
    """Several reconstructions, one to a row, in the columns of `plot_reconstruction`.

    Args:
      reconstructions: list of `rim_tf.results.SourceFit`.
      truths: list of true sources, [n, m] each, or None.
      names: list of a name for each, or None.

    Returns:
      A matplotlib Figure; save it with `savefig`.
    """
    n_rows, n_columns = len(reconstructions), 4 if truths is None else 5
    width = _LEFT + n_columns * _PANEL + (n_columns - 1) * _BETWEEN + _RIGHT
    figure = Figure(figsize=(width, n_rows * _ROW), dpi=160)
    rows = figure.subfigures(n_rows, 1, squeeze=False)[:, 0]
    for i, (row, reconstruction) in enumerate(zip(rows, reconstructions, strict=True)):
        title = _title(reconstruction) if names is None else f"{names[i]}:  {_title(reconstruction)}"
        row.suptitle(title, fontsize=8.5)
        _draw_row(row, reconstruction, None if truths is None else truths[i])
    return figure


def _title(reconstruction):
    """One line of what characterises a reconstruction."""
    observation, lens = reconstruction.observation, reconstruction.lens
    text = (
        rf"$\chi^2$/pixel {reconstruction.chi2:.2f}     magnification {reconstruction.magnification:.1f}     "
        rf"$\theta_E$ {lens.theta_E:.3f}$''$     "
    )
    if isinstance(observation.psf, float):
        return text + rf"PSF $\sigma$ {observation.psf:.3f}$''$"
    return text + f"PSF {observation.psf.shape[0]} x {observation.psf.shape[1]} pixels"


def _draw_row(figure, reconstruction, truth):
    observation, lens, scale = (
        reconstruction.observation,
        reconstruction.lens,
        reconstruction.observation.pixel_scale,
    )
    observed = np.where(observation.mask, observation.image, np.nan)
    noise = float(np.median(observation.noise[observation.mask]))
    # The model has no noise, so its peak is the better end of the scale; a poor model must not hide the data.
    brightest = observed if np.nanmax(observed) > 2 * reconstruction.model_image.max() else reconstruction.model_image
    image_norm = brightness_norm(brightest, noise)
    source_norm = brightness_norm(reconstruction.source if truth is None else truth)
    panels = _panels(figure, 4 if truth is None else 5)
    draw_image(panels[0], observation.image, scale, image_norm, observation.mask).set_title("observed")
    draw_image(panels[1], reconstruction.model_image, scale, image_norm).set_title("model")
    draw_residual(panels[2], reconstruction.residual, scale).set_title("residual")
    for axes in panels[:3]:
        draw_critical_curve(axes, lens, "black" if axes is panels[2] else "white")
    sources = [reconstruction.source] if truth is None else [reconstruction.source, truth]
    for axes, source, title in zip(panels[3:], sources, ("reconstruction", "truth"), strict=False):
        draw_image(axes, source, reconstruction.source_pixel_scale, source_norm).set_title(title)
        draw_caustics(axes, lens)
    panels[3].legend(
        loc="lower left", fontsize=6, labelcolor="white", frameon=False, handlelength=1.6, labelspacing=0.2
    )
    for axes in panels:
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=6.5, length=2, pad=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panels[0].set_ylabel("arcsec", fontsize=7, labelpad=0)
    _colour_bar(figure, panels[:2], "surface brightness")
    bar = _colour_bar(figure, [panels[2]], r"(data $-$ model) / noise, fixed at $\pm$5", "both")
    bar.set_ticks([-5, 0, 5])
    _colour_bar(figure, panels[3:], "surface brightness")


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


# ------------------------------------------------------------------------------------- figures of many systems

METHOD_COLOURS = {"rim": "tab:blue", "inversion": "tab:red"}
METHOD_NAMES = {"rim": "RIM", "inversion": "linear inversion"}


def plot_flux(true_flux, flux_error):
    """Reconstructed against true flux, and its error below: the paper's Figure 4.

    Args:
      true_flux: [n], any unit, above 0.
      flux_error: {method: [m]}, relative, of the first m systems each; methods as in METHOD_NAMES.
    """
    figure = Figure(figsize=(5.0, 5.6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for method, error in flux_error.items():
        true = true_flux[: len(error)]
        style = dict(color=METHOD_COLOURS[method], markersize=3, alpha=0.5, markeredgewidth=0)
        style["zorder"] = 3 if method == "rim" else 2  # the narrower cloud, on top
        above.plot(true, true * (1 + error), "o", label=METHOD_NAMES[method], **style)
        below.plot(true, 100 * error, "o", **style)
    ends = np.array([true_flux.min(), true_flux.max()])
    above.plot(ends, ends, "k-", linewidth=1, label="one to one")
    below.axhline(0, color="k", linewidth=1)
    # Errors are shown whole up to the 98th percentile of the RIM, or of what there is.
    limit = 100 * np.quantile(np.abs(next(iter(flux_error.values()))), 0.98)
    below.set(xlabel="true flux [peak surface brightness x arcsec$^2$]", ylabel="error [%]")
    below.set_ylim(-1.2 * limit, 1.2 * limit)
    above.set(xscale="log", yscale="log", ylabel="reconstructed flux")
    for axis in (above.xaxis, above.yaxis, below.xaxis):
        _plain_log_ticks(axis)
    above.legend(fontsize=8)
    return figure


def plot_coherence(k, curves, cycles_per_arcsec):
    """Coherence against wavenumber: the paper's Figure 5.

    Args:
      k: cycles per field of the source, [n_k].
      curves: {method: (value, low, high)}, [n_k] each.
      cycles_per_arcsec: of one cycle per field, for the upper axis; NaN leaves it out.
    """
    figure = Figure(figsize=(5.6, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for method, (value, low, high) in curves.items():
        colour = METHOD_COLOURS[method]
        axes.fill_between(k, low, high, color=colour, alpha=0.3, linewidth=0)
        axes.plot(k, value, "o-", color=colour, markersize=3, linewidth=1, label=METHOD_NAMES[method])
    axes.set(xlabel="wavenumber [cycles per source field]", ylabel="coherence with the truth", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    if np.isfinite(cycles_per_arcsec):
        upper = axes.secondary_xaxis(
            "top", functions=(lambda x: x * cycles_per_arcsec, lambda x: x / cycles_per_arcsec)
        )
        upper.set_xlabel("cycles per arcsec", fontsize=8)
        upper.tick_params(labelsize=7)
    return figure


def _plain_log_ticks(axis):
    """1, 2, 5 times powers of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_rms(noise, rms):
    """RMS error against the noise of the image, both in units of the peak.

    Args:
      noise: [n]. rms: {method: [m]}, of the first m systems each.
    """
    figure = Figure(figsize=(5.6, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for method, values in rms.items():
        x, colour = noise[: len(values)], METHOD_COLOURS[method]
        axes.plot(100 * x, 100 * values, "o", color=colour, markersize=2.5, alpha=0.35, markeredgewidth=0)
        edges = np.quantile(x, np.linspace(0, 1, 1 + max(1, min(8, len(x) // 20))))
        bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        centres = [np.median(x[bins == i]) for i in np.unique(bins)]
        medians = [np.median(values[bins == i]) for i in np.unique(bins)]
        axes.plot(
            100 * np.array(centres),
            100 * np.array(medians),
            "s-",
            color=colour,
            label=f"{METHOD_NAMES[method]}, median",
        )
    axes.set(xscale="log", yscale="log", xlabel="noise rms [% of the image's peak]", ylabel="RMS error [% of the peak]")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log_ticks(axis)
    axes.legend(fontsize=8)
    return figure


def plot_comparison(image, truth, sources, pixel_scale, source_pixel_scale):
    """One system by both methods: the paper's Figure 6.

    Args:
      image: what was observed, [rows, columns]. truth: [n, n].
      sources: {method: [n, n]} of both methods of METHOD_NAMES; one row each.
    """
    methods = list(METHOD_NAMES)
    figure = Figure(figsize=(7.4, 4.8), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3)
    panels[0, 0].set_title("observed", fontsize=9)
    draw_image(panels[0, 0], image, pixel_scale, brightness_norm(image))
    norm = brightness_norm(truth)
    draw_image(panels[1, 0], truth, source_pixel_scale, norm).set_title("truth", fontsize=9)
    peak = truth.max()
    errors = {method: 100 * (sources[method] - truth) / peak for method in methods}
    limit = max(np.quantile(np.abs(error), 0.998) for error in errors.values())
    for row, method in zip(panels, methods, strict=True):
        draw_image(row[1], sources[method], source_pixel_scale, norm).set_title(METHOD_NAMES[method], fontsize=9)
        box = extent(truth.shape, source_pixel_scale)
        picture = row[2].imshow(
            errors[method], origin="lower", extent=box, cmap=SIGMAS, vmin=-limit, vmax=limit, interpolation="none"
        )
        row[2].set_title(f"{METHOD_NAMES[method]} - truth", fontsize=9)
        figure.colorbar(picture, ax=row[2], shrink=0.75).set_label("% of the peak", fontsize=7)
    for axes in panels.ravel():
        axes.tick_params(labelsize=6.5)
    return figure


def plot_unusual(names, images, truths, results):
    """Sources unlike any galaxy: the paper's Figure 10, one source to a row.

    Args:
      names: [n]. images: observed, [n, rows, columns]. truths: [n, m, m].
      results: {method: (model images [n, rows, columns], sources [n, m, m])}.
    """
    methods = [method for method in reversed(METHOD_NAMES) if method in results]
    columns = 2 + 2 * len(methods)
    figure = Figure(figsize=(1.75 * columns, 1.85 * len(names) + 0.2), dpi=110, layout="constrained")
    panels = figure.subplots(len(names), columns, squeeze=False)
    for i, row in enumerate(panels):
        image_norm, source_norm = brightness_norm(images[i]), Normalize(-0.05 * truths[i].max(), truths[i].max())
        shown = [("observed", images[i], image_norm)]
        shown += [(f"model, {METHOD_NAMES[m]}", results[m][0][i], image_norm) for m in methods]
        shown += [("truth", truths[i], source_norm)]
        shown += [(f"{METHOD_NAMES[m]}", results[m][1][i], source_norm) for m in methods]
        for axes, (title, picture, norm) in zip(row, shown, strict=True):
            draw_image(axes, picture, 1.0, norm).set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(title, fontsize=8)
        row[0].set_ylabel(names[i], fontsize=8)
    return figure
