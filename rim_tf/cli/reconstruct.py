"""`rim-tf reconstruct`, `rim-tf invert` and so on: a command for each registered method, from image to source."""

import dataclasses
import time

import click

from rim_tf.cli import options
from rim_tf.cli.results import results
from rim_tf.config import WorkflowConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly

RESULTS = ("reconstruction.fits", "reconstruction.png", "fitted_lens.json", "summary.json")
DEFAULT_OUT = "reconstruction"
# A truth has the pixels of the reconstruction within this fraction.
_SAME_SCALE = 0.01
# What a step of the workflow is called where it takes long.
_SLOW = {"lens": "Fitting the lens parameters, which takes a minute or more ..."}
# Fewer steps are not told one by one.
_MANY = 20


def command_of(method):
    """The command of a `rim_tf.inference.methods.Method`."""

    def callback(image, noise, psf, centre_psf, lens, mask, pixel_scale, truth, out, overwrite, **arguments):
        settings = options.settings_from(method.settings, arguments)
        config = options.settings_from(WorkflowConfig, arguments)
        given = {"image": image, "noise": noise, "psf": psf, "mask": mask, "lens": lens}
        with results(out, RESULTS, overwrite) as folder:
            observation, known_lens, true_source = _read(given, pixel_scale, centre_psf, truth)
            from rim_tf.inference import workflow

            result = workflow.run(observation, known_lens, method.name, settings, config, teller(_SLOW))
            summary = write_results(folder, result, true_source, given)
        print_table(summary)
        click.echo(f"\nWrote {written(out)}")

    label = f"the {method.label}" if method.label.isupper() else method.label
    callback.__doc__ = f"""Find the source behind the lens in IMAGE, a FITS file, by {label}.

    A path may end in [HDU], as in lens.fits[NOISE]; without it the first image of the file is taken. Writes
    reconstruction.fits, reconstruction.png and summary.json into the folder --out.
    """
    for decorate in reversed(_input_options() + _more_options(method)):
        callback = decorate(callback)
    return click.command(method.command, short_help=f"Find the source behind a lens by {label}.")(callback)


def _input_options():
    return [
        click.argument("image"),
        options.observed(),
        click.option(
            "--lens",
            required=True,
            metavar="JSON",
            help="The seven parameters of an SIE with shear, or a list of components.",
        ),
    ]


def _more_options(method):
    return [
        options.options_of(method.settings),
        options.options_of(WorkflowConfig),
        click.option("--truth", metavar="FITS", help="The true source on the same grid, to compare with."),
        options.out(default=DEFAULT_OUT),
        options.overwrite,
    ]


def _read(given, pixel_scale, centre_psf, truth):
    """The `Observation`, its lens and the true source or None, from the paths that were given."""
    import numpy as np

    from rim_tf import io
    from rim_tf.files import read_json

    psf, noise = io.number_or_path(given["psf"]), io.number_or_path(given["noise"])
    observation = io.read_observation(given["image"], noise, psf, given["mask"], pixel_scale, centre_psf)
    true_source = None if truth is None else io.read_image(truth)
    if truth is not None and not np.isfinite(true_source[0]).all():
        raise InputError(f"{truth} has pixels that are NaN or infinite; a true source must be finite light.")
    read_json(given["lens"])
    import_quietly()  # only now, so that a wrong file name is told at once
    return observation, io.read_lens(given["lens"]), true_source


def write_results(folder, result, truth, given):
    """The files of a reconstruction.

    Args:
      folder: where to write.
      result: `rim_tf.inference.workflow.WorkflowResult`.
      truth: the true source and its pixel scale or None, as of `rim_tf.io.read_image`; or None.
      given: name of an input -> what was given, a path, a number or None.

    Returns:
      What summary.json holds.

    Raises:
      InputError: a truth that is not on the grid of the reconstruction.
    """
    from rim_tf import io
    from rim_tf.files import write_json

    fit, extra, light = result.source_fit, {}, None
    if result.lens_light is not None:
        light, extra["lens_light"] = result.lens_light.model_image, result.lens_light.parameters
    if result.lens_fit is not None:
        extra["lens_fit"] = {"start": result.start.to_dict(), "history": result.lens_fit.history}
        io.write_lens(fit.lens, folder / "fitted_lens.json")
    if truth is not None:
        extra["compared_with_truth"] = _compare(fit, *truth)
    weights = getattr(result.settings, "weights", None)
    provenance = {f"IN_{name.upper()[:5]}": value for name, value in given.items() if value is not None}
    provenance["METHOD"] = (result.method.name, "how the source was found")
    provenance["LENSFIT"] = (result.lens_fit is not None, "whether the lens was fitted to the data")
    io.write_reconstruction(fit, folder / "reconstruction.fits", weights, light, provenance)
    fit.plot(None if truth is None else truth[0]).savefig(folder / "reconstruction.png")
    summary = fit.summary() | {
        "pixel_scale": fit.observation.pixel_scale,
        "lens": fit.lens.to_dict(),
        **extra,
        "method": result.method.name,
        "settings": dataclasses.asdict(result.settings),
        "weights": weights,
        "input": given,
        "versions": io.versions(),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _compare(fit, truth, pixel_scale):
    """RMS and flux error in percent."""
    from rim_tf.evaluation.metrics import flux_error, rms_error

    grid = f"{fit.source.shape} pixels of {fit.source_pixel_scale:.6g} arcsec"
    choose = "choose the same grid with --source-pixels and --source-pixel-scale."
    if truth.shape != fit.source.shape:
        raise InputError(f"truth has shape {truth.shape} and the reconstruction {grid}; {choose}")
    if pixel_scale is not None and abs(pixel_scale / fit.source_pixel_scale - 1) > _SAME_SCALE:
        raise InputError(f"truth has pixels of {pixel_scale:.6g} arcsec and the reconstruction {grid}; {choose}")
    return {
        "rms_percent_of_peak": 100 * float(rms_error(truth, fit.source)),
        "flux_error_percent": 100 * float(flux_error(truth, fit.source)),
    }


def print_table(summary):
    """The figures that most users look for first."""
    rows = []
    if "compared_with_truth" in summary:
        rows += [
            ("RMS error", f"{summary['compared_with_truth']['rms_percent_of_peak']:.2f} % of the peak"),
            ("flux error", f"{summary['compared_with_truth']['flux_error_percent']:+.1f} %"),
        ]
    rows += [
        ("chi^2 per pixel", f"{summary['chi2_per_pixel']:.3f}"),
        figure_row(summary, "magnification"),
        figure_row(summary, "flux"),
        *(figure_row(summary, name) for name in ("source_peak", "half_light_radius") if "source_errors" in summary),
        ("reconstruction took", f"{summary['seconds']:.2f} s"),
    ]
    if "lens_fit" in summary:
        rows.append(("lens, fitted", _in_words(summary["lens"])))
    for name, value in rows:
        click.echo(f"  {name:<20} {value}")


# What a source comes to: its label, form and unit.
FIGURES = {
    "magnification": ("magnification", ".2f", ""),
    "flux": ("flux of the source", ".4g", " (unit of the image x arcsec^2)"),
    "source_peak": ("peak of the source", ".4g", " (unit of the image)"),
    "half_light_radius": ("half-light radius", ".4g", " arcsec"),
}


def figure_row(summary, name):
    """Label and text of one of FIGURES, with its error where there is one."""
    (label, form, unit), errors = FIGURES[name], summary.get("source_errors")
    error = "" if errors is None else f" +- {errors[name]['error']:.2g}"
    return label, f"{summary[name]:{form}}{error}{unit}"


def _in_words(lens):
    """The numbers of a lens, of one with components one after another."""
    parts = lens.get("components", [lens])
    texts = [
        ", ".join(f"{name} {value:.4f}" if isinstance(value, float) else str(value) for name, value in part.items())
        for part in parts
    ]
    return "; ".join(texts)


def written(out, names=RESULTS):
    """Those of the results `names` that are in a folder, as they are told."""
    return ", ".join(str(out / name) for name in names if (out / name).exists())


def teller(sentences):
    """A `Progress` that tells on stderr of what takes long, each time that it begins, and each tenth of many steps.

    Args:
      sentences: what to say, by the name of the step; steps without a sentence are not told.
    """
    last, started = None, time.monotonic()

    def tell(step, done, total):
        nonlocal last
        if step != last and step in sentences:
            seconds = time.monotonic() - started
            click.echo(f"{sentences[step]}{f'  {seconds:.0f} s' if seconds >= 1 else ''}", err=True)
        elif step in sentences and done and total and total >= _MANY and 10 * done // total > 10 * (done - 1) // total:
            click.echo(f"  {done} of at most {total} steps", err=True)
        last = step

    return tell
