"""`rim-tf demo`: a lens is simulated with its galaxy, found from the image alone, and compared with the truth."""

import shlex

import click

from rim_tf.cli import model, options
from rim_tf.cli import simulate as simulation
from rim_tf.cli.reconstruct import teller, written
from rim_tf.cli.results import results
from rim_tf.config import ModelConfig, SimulationSettings
from rim_tf.heavy import import_quietly

# A lens that fills its field as most do; the seed gives a galaxy with arms and clumps to look for.
_LENS = {"theta_E": 1.25, "e1": 0.10, "e2": -0.12, "x_lens": 0.03, "y_lens": -0.04, "gamma1": 0.03, "gamma2": 0.02}
_SEED, _LENS_GALAXY = 28, 0.5


@click.command()
@options.out(default="demo")
@options.overwrite
def demo(out, overwrite):
    """Simulate a lens with its galaxy, find lens and source from the image alone, and compare with the truth."""
    from rim_tf import survey

    with results(out, survey.FILES, overwrite) as folder, survey.heard() as said:
        import_quietly()
        from rim_tf.evaluation.metrics import aligned_rms, flux_error, rms_error
        from rim_tf.inference import workflow
        from rim_tf.inference.rim import reconstruct
        from rim_tf.lens import LensParameters

        settings = SimulationSettings(seed=_SEED, lens_galaxy=_LENS_GALAXY)
        lens_folder = out / "lens"
        with results(lens_folder, simulation.SIMULATION, overwrite) as files:
            made = simulation.simulated(settings, LensParameters(**_LENS))
            simulation.write(files, made, settings)
        click.echo(
            "A simulated lens with its galaxy, known by its image alone; its source, a procedural spiral, is none of\n"
            "those that the networks were trained on.\n"
        )
        result = workflow.model(made.observation, ModelConfig(), teller(model.STEPS))
        given = {name: str(lens_folder / f"{name}.fits") for name in ("image", "noise", "mask")}
        given["psf"] = made.observation.psf
        # On the grid of the true source, which is that of the whole frame.
        source = reconstruct(result.frame, result.lens).source
        compared = {
            "rms_percent_of_peak": 100 * float(rms_error(made.source, source)),
            "aligned_rms_percent_of_peak": 100 * aligned_rms(made.source, source),
            "flux_error_percent": 100 * float(flux_error(made.source, source)),
        }
        more = {"warnings": said, "compared_with_truth": compared}
        summary = survey.write_model(folder, result, ModelConfig(), given, truth=made.lens, more=more)
    model.print_table(summary, result.lens, made.lens)
    click.echo(f"\nWrote {written(out, survey.FILES)}")
    command = simulation.command_line(lens_folder, made, from_image=True)
    click.echo(f"\nThe same by hand:\n\n  {shlex.join(command)}\n")
