"""`rim-tf dataset`: fixed sets of simulated lenses, and contact sheets."""

import pathlib

import click

from rim_tf.cli import options
from rim_tf.config import PAPER_MOCKS, MockConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly
from rim_tf.validation import from_json


@click.group()
def dataset():
    """Build sets of simulated lenses on disk, and look at them."""


@dataset.command()
@click.argument("galaxies", metavar="FOLDER|NAME")
@click.argument("out", type=click.Path(path_type=pathlib.Path))
def pack(galaxies, out):
    """Write the galaxies of a folder or a prepared set to one file OUT.npz.

    Training takes it as --galaxies, on machines that have neither tfds nor astropy too. Training and validation draw
    the same galaxies from it as from their source.
    """
    if out.suffix != ".npz":
        raise InputError(f"OUT is {out}; its name must end in .npz.")
    import_quietly()
    from rim_tf.data.sources.find import find_galaxies
    from rim_tf.data.sources.galaxies import save_galaxies

    found = {split: find_galaxies(galaxies, split, "training") for split in ("train", "validation")}
    save_galaxies(out, found)
    click.echo(f"{out}: {sum(map(len, found.values()))} galaxies")


@dataset.command()
@click.option("--n", "n", type=click.IntRange(min=1), required=True, help="Lenses to train on.")
@click.option("--validation", type=click.IntRange(min=0), default=0, help="Lenses to validate on, with other galaxies.")
@click.option("--seed", type=options.SEED, default=1, show_default=True, help="Of all that is random.")
@click.option("--out", type=click.Path(path_type=str), required=True, help="Folder of the set; one begun goes on.")
@click.option(
    "--galaxies",
    metavar="FOLDER|NAME",
    help="Folder of galaxies, or tfds name of a prepared set of them.  [default: procedural galaxies]",
)
@click.option(
    "--pixels",
    type=click.IntRange(min=8),
    help=f"Pixels on a side of the images.  [default: {PAPER_MOCKS.image_pixels}]",
)
@click.option(
    "--source-pixels",
    type=click.IntRange(min=8),
    help=f"Of the sources.  [default: {PAPER_MOCKS.source_pixels}, or --pixels]",
)
@click.option("--pixel-scale", type=options.POSITIVE, help=f"[arcsec]  [default: {PAPER_MOCKS.log_pixel_scale[0]}]")
@click.option("--config", metavar="JSON", help="File with any of the settings of MockConfig, in place of the paper's.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of this machine.")
@click.option("--runner", help="Of Apache Beam, in place of processes of this machine.")
@click.option("--beam-option", multiple=True, metavar="--NAME=VALUE", help="Passed on to Apache Beam; any number.")
def build(n, validation, seed, out, galaxies, pixels, source_pixels, pixel_scale, config, workers, runner, beam_option):
    """Write a set of simulated lenses that tfds reads.

    The same options give the same bytes, whatever the number of workers. A run that was stopped goes on when it is
    given again.
    """
    mocks = _settings(
        config,
        image_pixels=pixels,
        source_pixels=source_pixels or pixels,
        log_pixel_scale=pixel_scale and (pixel_scale, pixel_scale),
    )
    _imported("building").build(
        mocks, n, seed, out, galaxies, validation, workers, runner, beam_option, say=lambda line: click.echo(line)
    )


@dataset.command()
@click.argument("folder")
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="sheet.png", show_default=True)
@click.option("--n", "n", type=click.IntRange(1, 500), default=24, show_default=True, help="Examples shown.")
@click.option("--split", help="[default: the first]")
def show(folder, out, n, split):
    """Draw a contact sheet of the set in FOLDER, of lenses or of galaxies."""
    _save(_imported("showing").show(folder, n, split), out)


@dataset.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="priors.png", show_default=True)
@click.option("--n", "n", type=click.IntRange(min=100), default=4000, show_default=True, help="Systems drawn.")
@click.option("--galaxies", metavar="FOLDER|NAME", help="As for `build`.  [default: procedural galaxies]")
@click.option("--config", metavar="JSON", help="As for `build`.  [default: the paper's]")
@click.option("--seed", type=options.SEED, default=0, show_default=True)
def priors(out, n, galaxies, config, seed):
    """Draw the distribution of every parameter, of the magnification and of the signal to noise."""
    settings = _settings(config)
    import_quietly()
    from rim_tf.data.distributions import draw_distributions, plot_distributions
    from rim_tf.data.mocks import GalaxyStamps
    from rim_tf.data.sources.find import find_galaxies

    found = find_galaxies(galaxies, "train", "priors", seed)
    drawn = draw_distributions(settings, GalaxyStamps.of(found), n, seed)
    _save(plot_distributions(drawn), out)


def _save(figure, out):
    try:
        figure.savefig(out)
    except (ValueError, OSError) as error:
        raise InputError(f"{out} cannot be drawn ({error}).") from error
    click.echo(f"Wrote {out}")


def _settings(path, **changes):
    """The paper's `MockConfig`, with what a JSON file says and then what the options say in its place."""
    from rim_tf.files import read_json

    base = PAPER_MOCKS if path is None else from_json(MockConfig, read_json(path), path, base=PAPER_MOCKS)
    changes = {name: value for name, value in changes.items() if value is not None}
    return from_json(MockConfig, changes, "What the options ask for", base=base)


def _imported(name):
    """A module of `rim_tf.data.sets`, which needs tfds."""
    from rim_tf.data.extras import imported

    import_quietly()
    return imported(f"rim_tf.data.sets.{name}", "datasets", "This command")
