"""`rim-tf remote`: the commands that a model server answers, with the files of the local ones."""

import click

from rim_tf.cli import options
from rim_tf.cli.reconstruct import print_table, written
from rim_tf.cli.results import results
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly

_RESULTS = ("reconstruction.fits", "reconstruction.png", "lens.json", "summary.json")


@click.group(short_help="Let a model server do it.")
def remote():
    """Let a model server, TensorFlow Serving or `rim-tf serve`, find the source, or lens and source."""


def _asked(command):
    """The options of every remote command."""
    for option in reversed(
        [
            click.argument("image"),
            options.observed(),
            click.option(
                "--server",
                required=True,
                metavar="URL",
                help="HOST:PORT of gRPC, or http://HOST:PORT; several with commas.",
            ),
            click.option("--model", "model_name", default="rim", show_default=True, help="Its name on the server."),
            click.option("--version", type=click.IntRange(min=0), help="Of the model; by default the newest."),
            click.option("--timeout", default=60.0, show_default=True, type=options.POSITIVE, help="Seconds in all."),
            options.out(default="reconstruction"),
            options.overwrite,
        ]
    ):
        command = option(command)
    return command


@remote.command(short_help="Find the source behind a known lens.")
@click.option("--lens", required=True, metavar="JSON", help="Parameters of the lens, as rim-tf export was told.")
@_asked
def reconstruct(lens, **arguments):
    """Find the source behind the lens in IMAGE, a FITS file, as `rim-tf reconstruct` does.

    Writes reconstruction.fits, reconstruction.png and summary.json into the folder --out.
    """
    _run(lens, **arguments)


@remote.command(short_help="Find lens and source from an image alone.")
@_asked
def model(**arguments):
    """Find lens and source in IMAGE, a FITS file without the light of a lens galaxy, by the two networks.

    Nothing is fitted, other than by `rim-tf model`: this takes a second, and is less accurate. Writes
    reconstruction.fits, reconstruction.png, lens.json and summary.json into the folder --out.
    """
    _run(None, **arguments)


def _run(lens_path, image, noise, psf, mask, pixel_scale, centre_psf, server, out, overwrite, **asked):
    from rim_tf import io

    given = {"image": image, "noise": noise, "psf": psf, "mask": mask, "lens": lens_path, "server": server}
    with results(out, _RESULTS, overwrite) as folder:
        numbers = [io.number_or_path(each) for each in (noise, psf)]
        observation = io.read_observation(image, *numbers, mask, pixel_scale, centre_psf)
        import_quietly()
        lens = None if lens_path is None else io.read_lens(lens_path)
        fit, more = _answer(observation, lens, server, **asked)
        summary = _write(folder, fit, more, {name: value for name, value in given.items() if value is not None})
    if lens is None:
        for name, value in fit.lens.named().items():
            click.echo(f"  {name:<20} {value:.4f} +- {summary['lens_error'][name]:.4f}")
        click.echo("  not fitted           as the networks see it, with their errors; rim-tf model fits and judges it")
    print_table(summary)
    for doubt in fit.doubts():
        click.echo(f"Warning: {doubt}", err=True)
    click.echo(f"\nWrote {written(out, _RESULTS)}")


def _answer(observation, lens, server, model_name, version, timeout):
    """`SourceFit`, and what else is to be told of it."""
    from rim_tf.lens import lens_of
    from rim_tf.physics.mass.model import MassModel
    from rim_tf_client import Client, ServerError, lenses

    try:
        client = Client(server, model_name, version, timeout)
    except ValueError as error:
        raise InputError(f"--server: {error}") from None
    try:
        with client:
            taken, found = lenses.mass_models(client)
            if lens is not None:
                _check_components(lens.mass.types, taken, server)
                return lenses.reconstruct(client, observation, lens), {}
            mass = MassModel(found or taken)
            found = lenses.model(client, observation, lambda *values: lens_of(mass, values))
    except ServerError as error:
        raise InputError(f"The server {server} gave no result: {error}.") from None
    error = dict(zip(found.source_fit.lens.mass.names, found.covariance.diagonal() ** 0.5, strict=True))
    return found.source_fit, {"lens_error": error, "field": found.field}


def _check_components(types, taken, server):
    if types != taken:
        options = " ".join(f"--component {each}" for each in types)
        raise InputError(
            f"--lens has the components {', '.join(types)}; the model on {server} was exported for {', '.join(taken)}. "
            f"Serve one that was written with: rim-tf export {options}"
        )


def _write(folder, fit, more, given):
    from rim_tf import io
    from rim_tf.files import write_json

    provenance = {f"IN_{name.upper()[:5]}": value for name, value in given.items()}
    io.write_reconstruction(fit, folder / "reconstruction.fits", None, None, provenance)
    fit.plot().savefig(folder / "reconstruction.png")
    if more:
        io.write_lens(fit.lens, folder / "lens.json")
    summary = fit.summary() | {
        "pixel_scale": fit.observation.pixel_scale,
        "lens": fit.lens.to_dict(),
        **more,
        "input": given,
        "versions": io.versions(),
    }
    write_json(folder / "summary.json", summary)
    return summary
