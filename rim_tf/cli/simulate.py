"""`rim-tf simulate`: a lens as FITS files that the other commands read."""

import dataclasses
import shlex

import click
from click.core import ParameterSource

from rim_tf.cli import options
from rim_tf.cli.results import results
from rim_tf.config import SimulationSettings
from rim_tf.heavy import import_quietly

SIMULATION = ("image.fits", "noise.fits", "mask.fits", "psf.fits", "lens.json", "truth.fits")
# Images, their noise and rays in float64, and what TensorFlow keeps of them.
_BYTES_PER_PIXEL = 500


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A simulated lens in memory.

    Attributes:
      observation: `Observation`.
      lens: its lens.
      source: the true source, [n, m].
      source_pixel_scale: [arcsec].
      noiseless: the image without noise, [rows, columns].
    """

    observation: object
    lens: object
    source: object
    source_pixel_scale: float
    noiseless: object


@click.command()
@click.option("--lens", metavar="JSON", help="Lens parameters.  [default: drawn at random]")
@click.option("--source", metavar="FITS", help="Source, centred on (0, 0).  [default: a random clumpy spiral]")
@click.option("--source-pixel-scale", type=options.POSITIVE, help="[arcsec], where the WCS of --source does not say.")
@options.options_of(SimulationSettings)
@click.option("--psf", metavar="FITS", help="PSF stamp with odd sides, in place of a Gaussian.")
@options.out(required=True, help="Folder of the files.")
@options.overwrite
@click.pass_context
def simulate(ctx, out, overwrite, lens, source, source_pixel_scale, psf, **arguments):
    """Simulate a lens and write it as FITS files that the other commands read."""
    if psf is not None and ctx.get_parameter_source("psf_sigma") is not ParameterSource.DEFAULT:
        raise click.UsageError("--psf and --psf-sigma exclude each other; give one of them.")
    settings = options.settings_from(SimulationSettings, arguments)
    with results(out, SIMULATION, overwrite) as folder:
        from rim_tf import io
        from rim_tf.files import read_json

        known_source = None if source is None else io.read_source(source, source_pixel_scale)
        psf = settings.psf_sigma if psf is None else io.read_image(psf)[0]
        if lens is not None:
            read_json(lens)
            import_quietly()  # what a lens is made of takes Keras, and a wrong file is told before that
        known_lens = None if lens is None else io.read_lens(lens)
        simulation = simulated(settings, known_lens, known_source, psf)
        write(folder, simulation, settings)
    command = command_line(out, simulation, settings.lens_galaxy > 0, known_source is None)
    click.echo(f"Wrote {out}. To reconstruct it:\n\n  {shlex.join(command)}\n")


def simulated(settings, lens=None, source=None, psf=None):
    """A `Simulation`; what is not given is drawn.

    Args:
      settings: `SimulationSettings`.
      lens: its lens, or None.
      source: surface brightness [n, m] and pixel scale [arcsec], or None.
      psf: a stamp or a sigma [arcsec]; None takes that of the settings.
    """
    from rim_tf.memory import check_memory
    from rim_tf.observation import check_pixel_scale

    check_pixel_scale(settings.pixel_scale)
    size = f"{settings.pixels} x {settings.pixels}"
    check_memory(_BYTES_PER_PIXEL * settings.pixels**2, f"An image of {size} pixels", "ask for fewer --pixels")
    import_quietly()
    from rim_tf.data.single import draw_system, observe_system

    pixels, pixel_scale = settings.pixels, settings.pixel_scale
    lens, source, scale = draw_system(settings.seed, pixels, pixel_scale, lens, source)
    psf = settings.psf_sigma if psf is None else psf
    seen = {"noise": settings.noise, "psf": psf, "lens_galaxy": settings.lens_galaxy}
    observed = observe_system(settings.seed, lens, source, scale, pixels, pixel_scale, **seen)
    return Simulation(observed[0], lens, source, scale, observed[1])


def write(folder, simulation, settings):
    """The files of a `Simulation`, as `rim_tf.io.write_simulation`."""
    from rim_tf import io

    provenance = {
        "SEED": settings.seed,
        "NOISEFRA": (settings.noise, "noise rms over the peak of the image"),
        "GALAXY": (settings.lens_galaxy, "lens galaxy at its half-light radius over that peak"),
    }
    io.write_simulation(
        folder,
        simulation.observation,
        simulation.lens,
        simulation.source,
        simulation.source_pixel_scale,
        simulation.noiseless,
        provenance,
    )


def command_line(out, simulation, from_image, own_source=True):
    """The words of the command that reconstructs what was written into `out`.

    Args:
      out: the folder.
      simulation: the `Simulation`.
      from_image: by `rim-tf model`, from the image alone, and not with the true lens.
      own_source: whether the source was drawn, on the grid that a reconstruction has by default.
    """
    psf = simulation.observation.psf
    command = ["rim-tf", "model" if from_image else "reconstruct", str(out / "image.fits")]
    command += ["--noise", str(out / "noise.fits")]
    command += ["--psf", f"{psf!r}" if isinstance(psf, float) else str(out / "psf.fits")]
    command += ["--mask", str(out / "mask.fits"), "--truth-lens" if from_image else "--lens", str(out / "lens.json")]
    if from_image:
        return command
    if own_source:
        return [*command, "--truth", str(out / "truth.fits")]
    # A given source keeps its own pixels; only where the reconstruction can have the same, they are compared.
    rows, columns = simulation.source.shape
    if rows == columns and rows % 2 == 0:
        command += ["--source-pixels", str(rows), "--source-pixel-scale", f"{simulation.source_pixel_scale:.8g}"]
        command += ["--truth", str(out / "truth.fits")]
    return command
