"""Train a network from scratch, or go on where a killed run stopped: python -m training.train small --help.

Exit codes: 2 for what the user can mend, 75 where SIGTERM came and the run has been saved, 76 where another worker has
gone; after 75 and 76 the same command goes on with the run.
"""

import dataclasses
import pathlib
import shlex

import click
import keras

from rim_tf.data.sources.psfs import load_psfs
from rim_tf.errors import InputError
from training.experiments import EXPERIMENTS
from training.runs import LostError, StoppedError
from training.tasks import LOSSES

if keras.backend.backend() == "jax":
    from training.on_jax import STRATEGIES, train
else:
    from training.on_tensorflow import STRATEGIES, train

EXIT_STOPPED, EXIT_LOST = 75, 76


def _change(name, kind, help):
    """An option that stands in place of the experiment's own setting of that name."""
    option = "--steps" if name == "n_steps" else f"--{name.replace('_', '-')}"
    return click.option(option, name, type=kind, help=f"{help}, in place of the experiment's own.")


@click.command()
@click.argument("experiment", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--out", type=click.Path(), help="Run folder; a run found there goes on.  [default: runs/EXPERIMENT]")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default=STRATEGIES[0],
    show_default=True,
    help="One device, all of this machine, or all of the machines in TF_CONFIG, where each runs this command.",
)
@click.option(
    "--galaxies",
    help="Folder of real galaxies, FILE.npz of `rim-tf dataset pack`, or a prepared tfds set; else procedural ones.",
)
@click.option(
    "--lenses", type=click.Path(exists=True), help="Set made by `rim-tf dataset build`, to train on its lenses."
)
@_change("n_steps", int, "Training steps")
@_change("seed", int, "Seed of the weights and of every draw")
@_change("loss", click.Choice(LOSSES), "Loss")
@_change("initial", str, "Weights to start from, a shipped name, a run folder or NAME.json")
@click.option(
    "--only", multiple=True, metavar="PART", help="Train this part of the network alone; any number of times."
)
@_change("batch_size", int, "Lenses in a batch, on all devices together")
@_change("micro_batches", int, "Parts of a batch, a multiple of the devices; more parts take less memory")
@_change("schedule", click.Choice(["cosine", "exponential"]), "How the learning rate falls")
@_change("average_decay", float, "Share that a moving average of the weights keeps at each step")
@_change("precision", click.Choice(["float32", "mixed_bfloat16"]), "Precision of the network, physics excepted")
@click.option("--recompute", is_flag=True, default=None, help="Take a RIM's activations anew, for less memory.")
@click.option(
    "--grow",
    "growing_frames",
    multiple=True,
    metavar="PIXELS:STEPS",
    help="Begin with so many steps on frames of so many pixels; any number of times.",
)
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
def main(experiment, out, strategy, galaxies, lenses, growing_frames, only, psfs, seconds, quiet, **changes):
    """Train EXPERIMENT, one of those in training/experiments.py."""
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        if only:
            changes["only"] = only
        if growing_frames:
            changes["growing_frames"] = tuple(map(_frame, growing_frames))
        config = dataclasses.replace(EXPERIMENTS[experiment], **changes)
        limits = {} if seconds is None else {"seconds": seconds}
        if limits and keras.backend.backend() != "jax":
            raise InputError("--seconds is of training on JAX; set KERAS_BACKEND=jax, or stop the run at any time.")
        folder = out or pathlib.Path("runs") / experiment
        options = {"strategy": strategy, "command": _command(experiment, folder), **limits}
        if psfs is not None:
            psfs = load_psfs(psfs, config.mocks.psf_pixels)
        train(config, folder, galaxies, lenses, 2 if quiet else "auto", psfs, **options)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    except (StoppedError, LostError) as error:
        click.echo(str(error), err=True)
        raise SystemExit(EXIT_STOPPED if isinstance(error, StoppedError) else EXIT_LOST) from None


def _frame(text):
    pixels, _, steps = text.partition(":")
    try:
        return int(pixels), int(steps)
    except ValueError:
        raise InputError(f"--grow is {text!r}; it must be PIXELS:STEPS, as in 64:2000.") from None


def _command(experiment, folder):
    """The command line that goes on with this run: all options that were given, and the folder."""
    context, words = click.get_current_context(), [experiment, "--out", str(folder)]
    for option in context.command.params:
        value = context.params.get(option.name)
        if isinstance(option, click.Argument) or option.name == "out" or value in (None, False, (), option.default):
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [option.opts[0]] if option.is_flag else [option.opts[0], str(each)]
    return "python -m training.train " + shlex.join(words)


if __name__ == "__main__":
    main()
