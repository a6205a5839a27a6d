"""`rim-tf evaluate`: the test of the paper's Section 3, and its report."""

import contextlib
import pathlib
import sys

import click

from rim_tf.cli import options
from rim_tf.cli.results import refuse_address
from rim_tf.config import SOURCE_MULTIPLE, SOURCE_SCALE_RATIO, MockConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly
from rim_tf.inference.methods import METHODS

# What a study takes where a method would decide for each system, and what it does not ask, as it has a --seed.
_OF_STUDY = {"solver": {"default": "matrix-free"}}
_NOT_ASKED = ("seed",)


def _options_of_methods(command):
    """How many systems each method is given, and its settings; a setting of one name is that of all who have it."""
    asked = []
    for method in METHODS.values():
        command = options.options_of(method.settings, (*_NOT_ASKED, *asked), **_OF_STUDY)(command)
        asked += [field.name for field in options.fields_of(method.settings)]
        command = click.option(
            f"--n-{method.name}",
            type=click.IntRange(min=0),
            help=f"Of them, the first so many are given to the {method.label}.  [default: all]",
        )(command)
    return command


@click.command()
@click.option("--n", "n", type=click.IntRange(min=1), default=2000, show_default=True, help="Systems to reconstruct.")
@click.option(
    "--sources",
    metavar="FOLDER|NAME",
    help="Galaxies, of which those are taken that training leaves aside: a folder, or the tfds name of a prepared set."
    "  [default: procedural galaxies]",
)
@click.option("--mnist", metavar="NPZ", help="File of digits, arrays images and labels, to be lensed like the text.")
@click.option(
    "--method",
    type=click.Choice(["all", *METHODS]),
    default="all",
    show_default=True,
    help="What is run now; the report has all that was run so far.",
)
@_options_of_methods
@click.option(
    "--image-pixels",
    type=click.IntRange(min=16),
    default=MockConfig.image_pixels,
    show_default=True,
    help="Pixels on a side.",
)
@click.option(
    "--pixel-scale",
    type=options.POSITIVE,
    default=MockConfig.log_pixel_scale[0],
    show_default=True,
    help=f"Of the image [arcsec]; the source's is {SOURCE_SCALE_RATIO:.2f} of it.",
)
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of all that is random.")
@click.option("--report-only", is_flag=True, help="Run nothing; report what is in --out.")
@click.option(
    "--out", type=click.Path(path_type=pathlib.Path), required=True, help="Folder of the study; one begun goes on."
)
def evaluate(out, report_only, **arguments):
    """Reconstruct simulated lenses that no training has seen, by the RIM and by linear inversion, and report.

    Writes report.html, report.md, report.json and figures/ into --out. It can be stopped at any time: what is finished
    is kept, and the same command goes on from there, as does one with a larger --n.
    """
    refuse_address(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    import_quietly()
    if not report_only:
        _run(out, **arguments)
    _report(out)
    click.echo(f"Wrote {out / 'report.html'}, report.md, report.json and figures/.")


def _run(out, n, sources, mnist, method, image_pixels, pixel_scale, seed, **of_methods):
    """What is missing of the study; the arguments are the command's options."""
    from rim_tf.data.sources.drawings import read_digits
    from rim_tf.evaluation.store import StudyConfig
    from rim_tf.evaluation.study import Study

    # What is wrong with the weights or the digits is said now, not after the first thousand systems.
    chosen = list(METHODS) if method == "all" else [method]
    solvers = {name: METHODS[name].build(_settings(METHODS[name].settings, of_methods)) for name in chosen}
    if mnist is not None:
        read_digits(mnist)
    source_pixels = -(-image_pixels // SOURCE_MULTIPLE) * SOURCE_MULTIPLE
    mocks = MockConfig(image_pixels, source_pixels, log_pixel_scale=(pixel_scale, pixel_scale))
    study = Study(out, StudyConfig(mocks, seed, sources))
    most = {name: of_methods[f"n_{name}"] for name in chosen}
    numbers = {name: n if limit is None else min(n, limit) for name, limit in most.items()}
    for i, name in enumerate(name for name in chosen if numbers[name]):
        if i:
            _report(out)  # there to be read while this method goes on
        with _progress(METHODS[name].label, numbers[name]) as progress:
            study.run(name, solvers[name], numbers[name], progress)
        study.run_unusual(name, solvers[name], mnist)


def _settings(kind, given):
    names = [field.name for field in options.fields_of(kind) if field.name not in _NOT_ASKED]
    return kind(**{name: given[name] for name in names})


def _report(out):
    from rim_tf.evaluation.report import write_report

    write_report(out)


@contextlib.contextmanager
def _progress(label, total):
    """A bar with the time left on a terminal, a line at each tenth in a log; both on stderr."""
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, show_pos=True, file=sys.stderr) as bar:
            yield bar.update
        return
    done = 0

    def update(n):
        nonlocal done
        before, done = done, done + n
        if 10 * done // total > 10 * before // total:
            click.echo(f"{label}: {done} of {total} systems", err=True)

    yield update
