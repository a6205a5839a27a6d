"""`rim-tf evaluate`: the test of the paper's Section 3, and its report."""

import contextlib
import pathlib
import sys

import click

from rim_tf.cli import options
from rim_tf.cli.heavy import import_quietly
from rim_tf.cli.results import refuse_address
from rim_tf.config import SOLVERS, SOURCE_MULTIPLE, SOURCE_SCALE_RATIO, InversionSettings, MockConfig, RIMSettings
from rim_tf.errors import InputError
from rim_tf.inference.methods import METHODS


@click.command()
@click.option(
    "--weights", default=RIMSettings.weights, show_default=True, help="Name of shipped weights, or a path NAME.json."
)
@click.option("--n", "n", type=click.IntRange(min=1), default=2000, show_default=True, help="Systems to reconstruct.")
@click.option(
    "--n-inversion",
    type=click.IntRange(min=0),
    help="Of them, the first so many are inverted too; it takes up to seconds for each.  [default: all]",
)
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
@click.option(
    "--solver",
    type=click.Choice(SOLVERS),
    default="matrix-free",
    show_default=True,
    help="Of the linear inversion.",
)
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


def _run(out, weights, n, n_inversion, sources, mnist, method, solver, image_pixels, pixel_scale, seed):
    """What is missing of the study; the arguments are the command's options."""
    from rim_tf.data.sources.drawings import read_digits
    from rim_tf.evaluation.store import StudyConfig
    from rim_tf.evaluation.study import Study

    # What is wrong with the weights or the digits is said now, not after the first thousand systems.
    settings = {"rim": RIMSettings(weights), "inversion": InversionSettings(solver=solver)}
    chosen = list(METHODS) if method == "all" else [method]
    solvers = {name: METHODS[name].build(settings.get(name)) for name in chosen}
    if mnist is not None:
        read_digits(mnist)
    source_pixels = -(-image_pixels // SOURCE_MULTIPLE) * SOURCE_MULTIPLE
    mocks = MockConfig(image_pixels, source_pixels, log_pixel_scale=(pixel_scale, pixel_scale))
    study = Study(out, StudyConfig(mocks, seed, sources))
    numbers = {"rim": n, "inversion": n if n_inversion is None else min(n, n_inversion)}
    for i, name in enumerate(name for name in chosen if numbers.get(name, n)):
        if i:
            _report(out)  # there to be read while this method goes on
        number = numbers.get(name, n)
        with _progress(METHODS[name].label, number) as progress:
            study.run(name, solvers[name], number, progress)
        study.run_unusual(name, solvers[name], mnist)


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
