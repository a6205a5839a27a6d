"""`rim-tf evaluate`: the test of the paper's Section 3, and its report."""

import contextlib
import pathlib
import sys

import click

from rim_tf.cli.heavy import import_quietly
from rim_tf.errors import InputError


@click.command()
@click.option("--weights", default="small", show_default=True, help="Name of shipped weights, or a path NAME.json.")
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
    type=click.Choice(["both", "rim", "inversion"]),
    default="both",
    show_default=True,
    help="What is run now; the report has all that was run so far.",
)
@click.option(
    "--solver",
    type=click.Choice(["matrix-free", "exact", "auto"]),
    default="matrix-free",
    show_default=True,
    help="Of the linear inversion.",
)
@click.option("--image-pixels", type=click.IntRange(min=16), default=64, show_default=True, help="Pixels on a side.")
@click.option(
    "--pixel-scale",
    type=click.FloatRange(min=0, min_open=True),
    default=0.08,
    show_default=True,
    help="Of the image [arcsec]; the source's is 0.39 of it.",
)
@click.option("--seed", type=click.IntRange(0, 1_000_000), default=0, show_default=True, help="Of all that is random.")
@click.option("--report-only", is_flag=True, help="Run nothing; report what is in --out.")
@click.option(
    "--out", type=click.Path(path_type=pathlib.Path), required=True, help="Folder of the study; one begun goes on."
)
def evaluate(out, report_only, **options):
    """Reconstruct simulated lenses that no training has seen, by the RIM and by linear inversion, and report.

    Writes report.html, report.md, report.json and figures/ into --out. It can be stopped at any time: what is finished
    is kept, and the same command goes on from there, as does one with a larger --n.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    import_quietly()
    if not report_only:
        _run(out, **options)
    _report(out)
    click.echo(f"Wrote {out / 'report.html'}, report.md, report.json and figures/.")


def _run(out, weights, n, n_inversion, sources, mnist, method, solver, image_pixels, pixel_scale, seed):
    """What is missing of the study; the arguments are the command's options."""
    from rim_tf.data.mocks import MockConfig
    from rim_tf.evaluation.study import Study, StudyConfig, read_digits
    from rim_tf.models.pretrained import load_pretrained

    model = load_pretrained(weights)
    if mnist is not None:
        read_digits(mnist)  # a wrong file is told now, not after the first thousand systems
    source_pixels = -(-image_pixels // model.config.stride) * model.config.stride
    mocks = MockConfig(image_pixels, source_pixels, log_pixel_scale=(pixel_scale, pixel_scale))
    study = Study(out, StudyConfig(mocks, seed, sources, solver=solver), model, weights)
    n_inversion = n if n_inversion is None else min(n, n_inversion)
    if method != "inversion":
        with _progress("RIM", n) as progress:
            study.run_rim(n, progress)
        study.run_unusual("rim", mnist)
        _report(out)  # there to be read while the inversion goes on
    if method != "rim" and n_inversion:
        with _progress("linear inversion", n_inversion) as progress:
            study.run_inversion(n_inversion, progress)
        study.run_unusual("inversion", mnist)


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
