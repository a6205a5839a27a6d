"""`rim-tf dataset`: fixed sets of simulated lenses, and contact sheets."""

import dataclasses
import json
import pathlib

import click

from rim_tf.errors import InputError

_positive = click.FloatRange(min=0, min_open=True)


@click.group()
def dataset():
    """Build sets of simulated lenses on disk, and look at them."""


@dataset.command()
@click.option("--n", "n", type=click.IntRange(min=1), required=True, help="Lenses to train on.")
@click.option("--validation", type=click.IntRange(min=0), default=0, help="Lenses to validate on, with other galaxies.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Of all that is random.")
@click.option("--out", type=click.Path(path_type=str), required=True, help="Folder of the set; one begun goes on.")
@click.option(
    "--galaxies",
    metavar="FOLDER|NAME",
    help="Folder of galaxies, or tfds name of a prepared set of them.  [default: procedural galaxies]",
)
@click.option("--pixels", type=click.IntRange(min=8), help="Pixels on a side of the images.  [default: 192]")
@click.option("--source-pixels", type=click.IntRange(min=8), help="Of the sources.  [default: 192, or --pixels]")
@click.option("--pixel-scale", type=_positive, help="[arcsec]  [default: 0.04]")
@click.option("--config", metavar="JSON", help="File with any of the settings of MockConfig, in place of the paper's.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of DirectRunner.")
@click.option("--runner", default="DirectRunner", show_default=True, help="Of Apache Beam.")
@click.option("--beam-option", multiple=True, metavar="--NAME=VALUE", help="Passed on to Apache Beam; any number.")
def build(n, validation, seed, out, galaxies, pixels, source_pixels, pixel_scale, config, workers, runner, beam_option):
    """Write a set of simulated lenses that tfds reads.

    The same options give the same bytes, whatever the number of workers. A run that was stopped goes on when it is
    given again.
    """
    fixed_sets = _import()
    from rim_tf.data.mocks import PAPER_MOCKS

    changes = _read_config(config) if config else {}
    if pixels:
        changes |= {"image_pixels": pixels, "source_pixels": pixels}
    if source_pixels:
        changes["source_pixels"] = source_pixels
    if pixel_scale:
        changes["log_pixel_scale"] = (pixel_scale, pixel_scale)
    mocks = dataclasses.replace(PAPER_MOCKS, **changes)
    fixed_sets.build(
        mocks, n, seed, out, galaxies, validation, workers, runner, beam_option, say=lambda line: click.echo(line)
    )


@dataset.command()
@click.argument("folder")
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="sheet.png", show_default=True)
@click.option("--n", "n", type=click.IntRange(1, 500), default=24, show_default=True, help="Examples shown.")
@click.option("--split", help="[default: the first]")
def show(folder, out, n, split):
    """Draw a contact sheet of the set in FOLDER, of lenses or of galaxies."""
    _save(_import().show(folder, n, split), out)


@dataset.command()
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="priors.png", show_default=True)
@click.option("--n", "n", type=click.IntRange(min=100), default=4000, show_default=True, help="Systems drawn.")
@click.option("--galaxies", metavar="FOLDER|NAME", help="As for `build`.  [default: procedural galaxies]")
@click.option("--config", metavar="JSON", help="As for `build`.  [default: the paper's]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def priors(out, n, galaxies, config, seed):
    """Draw the distribution of every parameter, of the magnification and of the signal to noise."""
    find_galaxies = _import().find_galaxies
    from rim_tf.data.distributions import draw_distributions, plot_distributions
    from rim_tf.data.mocks import PAPER_MOCKS, GalaxyStamps

    found = find_galaxies(galaxies, "train")
    settings = dataclasses.replace(PAPER_MOCKS, **(_read_config(config) if config else {}))
    drawn = draw_distributions(settings, GalaxyStamps(found.images, found.half_light_radius), n, seed)
    _save(plot_distributions(drawn), out)


def _save(figure, out):
    try:
        figure.savefig(out)
    except (ValueError, OSError) as error:
        raise InputError(f"{out} cannot be drawn ({error}).") from error
    click.echo(f"Wrote {out}")


def _import():
    try:
        from rim_tf.data.sets import fixed as fixed_sets
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("rim_tf"):
            raise
        raise InputError(
            f"This needs {error.name}, which is not installed; do: pip install 'rim_tf[datasets,beam]'."
        ) from error
    return fixed_sets


def _read_config(path):
    """Settings of MockConfig from a JSON file."""
    from rim_tf.data.mocks import MockConfig

    try:
        values = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    known = [field.name for field in dataclasses.fields(MockConfig)]
    unknown = [name for name in values if name not in known] if isinstance(values, dict) else ["no object"]
    if unknown:
        raise InputError(f"{path} has {', '.join(map(str, unknown))}; it may have {', '.join(known)}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
