"""`rim-tf`: arguments -> one call into the package.

TensorFlow takes seconds to import, so each command imports what it needs when it runs. Whatever is the
user's to mend ends in one sentence on stderr and exit code 2, and leaves the output folder as it was.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import warnings

import click

from rim_tf import __version__
from rim_tf.dataset_cli import dataset
from rim_tf.errors import InputError, InputWarning
from rim_tf.evaluate_cli import evaluate
from rim_tf.files import write_json

RESULTS = ("reconstruction.fits", "reconstruction.png", "fitted_lens.json", "summary.json")
SIMULATION = ("image.fits", "noise.fits", "mask.fits", "psf.fits", "lens.json", "truth.fits")

# A lens that fills its field as most do; the seed gives a galaxy with arms and clumps to look for.
_DEMO_LENS = {
    "theta_E": 1.25,
    "e1": 0.10,
    "e2": -0.12,
    "x_lens": 0.03,
    "y_lens": -0.04,
    "gamma1": 0.03,
    "gamma2": 0.02,
}
_DEMO_SEED = 28
# Half the width of the field that a lens is fitted to [theta_E].
_FIT_RADIUS = 2.3


class _Refusal(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns what the user can mend into one sentence."""

    def invoke(self, ctx):
        with _spoken_warnings():
            try:
                return super().invoke(ctx)
            except InputError as error:
                raise _Refusal(" ".join(str(error).split())) from None
            except OSError as error:
                if error.errno == errno.EPIPE:  # the reader of our output has left; click knows what to do
                    raise
                where = f"{error.filename}: " if error.filename else ""
                raise _Refusal(f"{where}{error.strerror or error}.") from None


@contextlib.contextmanager
def _spoken_warnings():
    """InputWarnings become lines on stderr, each said once."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        usual, said = warnings.showwarning, set()

        def show(message, category, *where, **more):
            if not issubclass(category, InputWarning):
                usual(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rim-tf")
def main():
    """Unlensed sources of strong gravitational lenses, by Recurrent Inference Machines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A keras.json of other projects may name a backend that is not installed here.
    os.environ["KERAS_BACKEND"] = "tensorflow"


main.add_command(dataset)
main.add_command(evaluate)
_positive = click.FloatRange(min=0, min_open=True)
_out = click.Path(path_type=pathlib.Path)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace results that are already in the folder.")


@main.command()
@click.argument("image")
@click.option("--noise", required=True, metavar="FITS|RMS", help="Noise map, or one rms in units of the image.")
@click.option(
    "--psf",
    required=True,
    metavar="FITS|SIGMA",
    help="PSF stamp with odd sides, or a Gaussian sigma [arcsec].",
)
@click.option("--lens", required=True, metavar="JSON", help="theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2.")
@click.option("--mask", metavar="FITS", help="Nonzero where a pixel is to be used.")
@click.option("--pixel-scale", type=_positive, help="[arcsec], where the WCS of IMAGE does not say or is wrong.")
@click.option("--weights", default="small", show_default=True, help="Name of shipped weights, or a path NAME.json.")
@click.option("--source-pixels", type=click.IntRange(min=4), help="Pixels on a side of the source.  [default: IMAGE's]")
@click.option("--source-pixel-scale", type=_positive, help="[arcsec]  [default: 0.39 of the image's]")
@click.option("--subtract-lens-light", is_flag=True, help="First fit the lens galaxy's light and subtract it.")
@click.option("--fit-lens", is_flag=True, help="First adjust the lens parameters to the data.")
@click.option("--method", type=click.Choice(["rim", "inversion"]), default="rim", show_default=True)
@click.option("--regularisation", help="Of the inversion: brightness, gradient or curvature.  [default: gradient]")
@click.option("--boundary", help="Of the inversion: zero, suyu or free.  [default: zero]")
@click.option("--strength", type=_positive, help="lambda of the inversion.  [default: of the highest evidence]")
@click.option("--non-negative", is_flag=True, help="Let the inversion give no negative pixel.")
@click.option("--solver", help="Of the inversion: exact, matrix-free or auto.  [default: auto]")
@click.option("--samples", type=click.IntRange(min=2), help="Draws that give matrix-free inversion its errors.")
@click.option("--truth", metavar="FITS", help="The true source on the same grid, to compare with.")
@click.option("--out", type=_out, default="reconstruction", show_default=True, help="Folder of the results.")
@_overwrite
def reconstruct(out, overwrite, **arguments):
    """Reconstruct the source behind the lens in IMAGE, a FITS file.

    A path may end in [HDU], as in lens.fits[NOISE]; without it the first image of the file is taken. Writes
    reconstruction.fits, reconstruction.png and summary.json into the folder --out.
    """
    _reconstruct_into(out, overwrite, **arguments)


@main.command()
@click.option("--lens", metavar="JSON", help="Lens parameters.  [default: drawn at random]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of all that is random.")
@click.option("--source", metavar="FITS", help="Source, centred on (0, 0).  [default: a random clumpy spiral]")
@click.option("--source-pixel-scale", type=_positive, help="[arcsec], where the WCS of --source does not say.")
@click.option("--pixels", type=click.IntRange(min=8), default=64, show_default=True, help="Pixels on a side.")
@click.option("--pixel-scale", type=_positive, default=0.08, show_default=True, help="[arcsec]")
@click.option("--noise", type=_positive, default=0.01, show_default=True, help="Noise rms over the image's peak.")
@click.option("--psf-sigma", type=click.FloatRange(min=0), help="Gaussian PSF [arcsec].  [default: 0.05]")
@click.option("--psf", metavar="FITS", help="PSF stamp with odd sides, in place of a Gaussian.")
@click.option("--out", type=_out, required=True, help="Folder of the files.")
@_overwrite
def simulate(out, overwrite, psf_sigma, psf, **arguments):
    """Simulate a lens and write it as FITS files that `rim-tf reconstruct` reads."""
    if psf is not None and psf_sigma is not None:
        raise click.UsageError("--psf and --psf-sigma exclude each other; give one of them.")
    psf = psf if psf is not None else 0.05 if psf_sigma is None else psf_sigma
    command = _simulate_into(out, overwrite, psf=psf, **arguments)
    click.echo(f"Wrote {out}. To reconstruct it:\n\n  {shlex.join(command)}\n")


@main.command()
@click.option("--out", type=_out, default="demo", show_default=True, help="Folder of the results.")
@_overwrite
def demo(out, overwrite):
    """Simulate a lens whose source the network never saw, reconstruct it, and compare with the truth."""
    from rim_tf.io import write_lens
    from rim_tf.lens import LensParameters

    _refuse_existing(out, RESULTS, overwrite)
    with tempfile.TemporaryDirectory() as folder:
        lens = pathlib.Path(folder) / "lens.json"
        write_lens(LensParameters(**_DEMO_LENS), lens)
        command = _simulate_into(out / "lens", overwrite, lens=lens, seed=_DEMO_SEED)
    click.echo("A simulated lens; its source, a procedural spiral, is none of those the network was trained on.\n")
    options = main.commands["reconstruct"].make_context("reconstruct", command[2:]).params
    _reconstruct_into(**options | {"out": out, "overwrite": overwrite})
    click.echo(f"\nThe same by hand:\n\n  {shlex.join(command)}\n")


# ---------------------------------------------------------------------------------------------- what they do


def _reconstruct_into(
    out,
    overwrite,
    image,
    noise,
    psf,
    lens,
    mask=None,
    pixel_scale=None,
    weights="small",
    source_pixels=None,
    source_pixel_scale=None,
    subtract_lens_light=False,
    fit_lens=False,
    method="rim",
    truth=None,
    **prior,
):
    """The command `reconstruct`; the arguments are its options, `prior` those of the inversion alone."""
    prior = {name: value for name, value in prior.items() if value}
    if prior and method != "inversion":
        names = ", ".join(f"--{name.replace('_', '-')}" for name in prior)
        raise InputError(f"{names} are settings of the linear inversion; give --method inversion with them.")
    with _results(out, RESULTS, overwrite) as folder:
        from rim_tf import io

        given = {"image": image, "noise": noise, "psf": psf, "mask": mask, "lens": lens}
        lens = io.read_lens(lens)
        observation = io.read_observation(image, _number_or_path(noise), _number_or_path(psf), mask, pixel_scale)
        truth = None if truth is None else io.read_image(truth)[0]
        _import_quietly()  # only now, so that a wrong file name is told at once
        from rim_tf.inference.rim import reconstruct
        from rim_tf.models.pretrained import load_pretrained

        model = load_pretrained(weights)
        extra, light = {}, None
        if subtract_lens_light:
            from rim_tf.inference import lens_light

            fit = lens_light.subtract_lens_light(observation, lens)
            observation, light, extra["lens_light"] = fit.observation, fit.model_image, fit.parameters
        if fit_lens:
            from rim_tf.inference.optimise import cropped, optimise_lens

            click.echo("Fitting the lens parameters, which takes a minute or more ...", err=True)
            # The arcs and nothing else: the fit unrolls the network hundreds of times.
            fit = optimise_lens(cropped(observation, _FIT_RADIUS * lens.theta_E), lens, model=model)
            extra["lens_fit"] = {"start": dataclasses.asdict(lens), "history": fit.history}
            lens = fit.lens
            io.write_lens(lens, folder / "fitted_lens.json")
        if method == "inversion":
            from rim_tf.inference.linear.inversion import invert

            result = invert(observation, lens, source_pixel_scale, source_pixels, **prior)
            weights = None
        else:
            result = reconstruct(observation, lens, model, source_pixel_scale, source_pixels)
        if truth is not None:
            extra["compared_with_truth"] = _compare(result, truth)
        provenance = {f"IN_{name.upper()[:5]}": value for name, value in given.items() if value is not None}
        provenance["METHOD"] = (method, "how the source was found")
        provenance["LENSFIT"] = (fit_lens, "whether the lens was fitted to the data")
        io.write_reconstruction(result, folder / "reconstruction.fits", weights, light, provenance)
        result.plot(truth).savefig(folder / "reconstruction.png")
        summary = result.summary() | {
            "pixel_scale": observation.pixel_scale,
            "lens": dataclasses.asdict(lens),
            **extra,
            "method": method,
            "weights": weights,
            "input": given,
            "versions": io.versions(),
        }
        write_json(folder / "summary.json", summary)
    _print_table(summary)
    click.echo(f"\nWrote {', '.join(str(out / name) for name in RESULTS if (out / name).exists())}")


def _compare(result, truth):
    """RMS and flux error in percent; InputError where the truth is not on the grid of the reconstruction."""
    from rim_tf.evaluation.metrics import flux_error, rms_error

    if truth.shape != result.source.shape:
        raise InputError(
            f"truth has shape {truth.shape} and the reconstruction {result.source.shape}; choose the "
            "same grid with --source-pixels and --source-pixel-scale."
        )
    return {
        "rms_percent_of_peak": 100 * float(rms_error(truth, result.source)),
        "flux_error_percent": 100 * float(flux_error(truth, result.source)),
    }


def _print_table(summary):
    rows = []
    if "compared_with_truth" in summary:
        rows += [
            ("RMS error", f"{summary['compared_with_truth']['rms_percent_of_peak']:.2f} % of the peak"),
            ("flux error", f"{summary['compared_with_truth']['flux_error_percent']:+.1f} %"),
        ]
    rows += [
        ("chi^2 per pixel", f"{summary['chi2_per_pixel']:.3f}"),
        ("magnification", f"{summary['magnification']:.2f}"),
        ("flux of the source", f"{summary['flux']:.4g} (unit of the image x arcsec^2)"),
        ("reconstruction took", f"{summary['seconds']:.2f} s"),
    ]
    if "lens_fit" in summary:
        rows.append(("lens, fitted", ", ".join(f"{name} {value:.4f}" for name, value in summary["lens"].items())))
    for name, value in rows:
        click.echo(f"  {name:<20} {value}")


def _simulate_into(
    out,
    overwrite,
    lens=None,
    seed=0,
    source=None,
    source_pixel_scale=None,
    pixels=64,
    pixel_scale=0.08,
    noise=0.01,
    psf=0.05,
):
    """The command `simulate`; `psf` is a sigma or a path.

    Returns:
      The command line that reconstructs what was written, as a list of words.
    """
    with _results(out, SIMULATION, overwrite) as folder:
        from rim_tf import io

        known_lens = None if lens is None else io.read_lens(lens)
        known_source = None if source is None else io.read_source(source, source_pixel_scale)
        psf = psf if isinstance(psf, float) else io.read_image(psf)[0]
        _import_quietly()
        from rim_tf.data.single import draw_system, observe_system

        lens, source, source_scale = draw_system(seed, pixels, pixel_scale, known_lens, known_source)
        observation, noiseless = observe_system(seed, lens, source, source_scale, pixels, pixel_scale, noise, psf)
        provenance = {"SEED": seed, "NOISEFRA": (noise, "noise rms over the peak of the image")}
        io.write_simulation(folder, observation, lens, source, source_scale, noiseless, provenance)
    command = ["rim-tf", "reconstruct", str(out / "image.fits"), "--noise", str(out / "noise.fits")]
    command += ["--psf", f"{psf!r}" if isinstance(psf, float) else str(out / "psf.fits")]
    command += ["--lens", str(out / "lens.json"), "--mask", str(out / "mask.fits")]
    if known_source is None:
        return [*command, "--truth", str(out / "truth.fits")]
    # A given source keeps its own pixels; only where the reconstruction can have the same, they are compared.
    rows, columns = source.shape
    if rows == columns and rows % 2 == 0:
        command += ["--source-pixels", str(rows), "--source-pixel-scale", f"{source_scale:.8g}"]
        command += ["--truth", str(out / "truth.fits")]
    return command


# ------------------------------------------------------------------------------------------ the surroundings


def _number_or_path(text):
    try:
        return float(text)
    except ValueError:
        return text


@contextlib.contextmanager
def _results(out, names, overwrite):
    """A passing folder, of which the files `names` appear in `out` where the block ends well, and only then.

    Other files in `out` are left alone. Where some of `names` are there already they are refused before any
    work is done, or with `overwrite` replaced together.
    """
    _refuse_existing(out, names, overwrite)
    # Inside `out` or, before there is one, beside it: on the same disk, so that files need only be renamed.
    home = out
    while not home.is_dir():
        if home.exists():
            raise InputError(f"{home} is a file; --out must be a folder.")
        home = home.parent
    folder = home / f".rim-tf-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from None
    try:
        yield folder
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)  # of an earlier run with other options
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_existing(out, names, overwrite):
    there = [name for name in names if (out / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{out} already holds {', '.join(there)}; add --overwrite to replace, or choose another --out."
        )


def _import_quietly():
    """Import TensorFlow without what it says of GPUs before it can be told not to; errors are passed on."""
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
