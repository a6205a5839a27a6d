"""`rim-tf demo`: a lens is simulated, reconstructed, and compared with the truth."""

import shlex

import click

from rim_tf.cli import options, reconstruct
from rim_tf.cli import simulate as simulation
from rim_tf.cli.heavy import import_quietly
from rim_tf.cli.results import results
from rim_tf.config import SimulationSettings

# A lens that fills its field as most do; the seed gives a galaxy with arms and clumps to look for.
_LENS = {"theta_E": 1.25, "e1": 0.10, "e2": -0.12, "x_lens": 0.03, "y_lens": -0.04, "gamma1": 0.03, "gamma2": 0.02}
_SEED = 28


@click.command()
@options.out(default="demo")
@options.overwrite
def demo(out, overwrite):
    """Simulate a lens whose source the network never saw, reconstruct it, and compare with the truth."""
    with results(out, reconstruct.RESULTS, overwrite) as folder:
        import_quietly()
        from rim_tf.lens import LensParameters

        settings = SimulationSettings(seed=_SEED)

        lens_folder = out / "lens"
        with results(lens_folder, simulation.SIMULATION, overwrite) as files:
            made = simulation.simulated(settings, LensParameters(**_LENS))
            simulation.write(files, made, settings)
        click.echo("A simulated lens; its source, a procedural spiral, is none of those the network was trained on.\n")
        from rim_tf.inference import workflow

        result = workflow.run(made.observation, made.lens)
        given = {name: str(lens_folder / f"{name}.fits") for name in ("image", "noise", "mask")}
        given |= {"psf": made.observation.psf, "lens": str(lens_folder / "lens.json")}
        summary = reconstruct.write_results(folder, result, (made.source, made.source_pixel_scale), given)
    reconstruct.print_table(summary)
    click.echo(f"\nWrote {reconstruct.written(out)}")
    click.echo(f"\nThe same by hand:\n\n  {shlex.join(simulation.command_line(lens_folder, made))}\n")
