"""Train a network from scratch, or go on where a killed run stopped: python -m training.train small --help."""

import dataclasses
import pathlib

import click
import keras

from rim_tf.data.sources.psfs import load_psfs
from rim_tf.errors import InputError
from training.experiments import EXPERIMENTS
from training.tasks import LOSSES

if keras.backend.backend() == "jax":
    from training.on_jax import train
else:
    from training.on_tensorflow import train


@click.command()
@click.argument("experiment", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--out", type=click.Path(), help="Run folder; a run found there goes on.  [default: runs/EXPERIMENT]")
@click.option(
    "--galaxies",
    help="Folder of real galaxies, FILE.npz of `rim-tf dataset pack`, or a prepared tfds set; else procedural ones.",
)
@click.option(
    "--lenses", type=click.Path(exists=True), help="Set made by `rim-tf dataset build`, to train on its lenses."
)
@click.option("--steps", type=int, help="Training steps, in place of the experiment's own.")
@click.option("--seed", type=int, help="Seed of the weights and of every draw, in place of the experiment's own.")
@click.option("--loss", type=click.Choice(LOSSES), help="In place of the experiment's own.")
@click.option("--initial", help="Weights to start from, a shipped name or NAME.json, in place of the experiment's own.")
@click.option(
    "--psfs",
    type=click.Path(exists=True),
    help="File .npz whose array psf holds stamps [n, k, k]: PSFs of the mocks' given_psf_fraction.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="On JAX: end after so long; the same command goes on.",
)
@click.option("--quiet", is_flag=True, help="One line for each epoch instead of a progress bar, for logs.")
def main(experiment, out, galaxies, lenses, steps, seed, loss, initial, psfs, seconds, quiet):
    """Train EXPERIMENT, one of those in training/experiments.py."""
    changes = {"n_steps": steps, "seed": seed, "loss": loss, "initial": initial}
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        config = dataclasses.replace(EXPERIMENTS[experiment], **changes)
        if psfs is not None:
            psfs = load_psfs(psfs, config.mocks.psf_pixels)
        limits = {} if seconds is None else {"seconds": seconds}
        if limits and keras.backend.backend() != "jax":
            raise InputError("--seconds is of training on JAX; set KERAS_BACKEND=jax, or stop the run at any time.")
        folder = out or pathlib.Path("runs") / experiment
        train(config, folder, galaxies, lenses, 2 if quiet else "auto", psfs, **limits)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
