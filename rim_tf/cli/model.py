"""`rim-tf model`: from an image alone to lens, source and a verdict; for one lens, or for each of a catalogue."""

import math
import os
import re

import click

from rim_tf.cli import options
from rim_tf.cli.reconstruct import figure_row, teller, written
from rim_tf.cli.results import refuse_address, results
from rim_tf.config import ModelConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly

# What each step of the workflow is called.
STEPS = {
    "estimate": "Looking for the lens ...",
    "lens light": "Fitting the light of the lens galaxy ...",
    "lens": "Fitting the lens ...",
    "again": "Something speaks against this model, so it is sought anew ...",
    "rim": "Drawing lenses ...",
    "sources": "Drawing sources ...",
}
_WORKERS = max(1, (os.cpu_count() or 1) // 2)
# So many flagged lenses of a catalogue are named.
_NAMED = 20


@click.command(short_help="Find lens and source from an image alone, for one lens or a catalogue.")
@click.argument("image", metavar="IMAGE|CATALOGUE")
@options.observed(required=False)
@options.options_of(ModelConfig)
@click.option(
    "--centre",
    metavar="X,Y",
    help="Cut the frame about this point [arcsec from its middle], for a lens that is off the centre; results are in "
    "coordinates of the whole frame all the same.",
)
@click.option("--truth-lens", metavar="JSON", help="The true lens, to be shown beside the one that is found.")
@click.option("--no-figures", is_flag=True, help="Draw no pictures of single lenses.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help=f"Processes for a catalogue.  [default: half of the cores, here {_WORKERS}]",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Of a catalogue, do row k alone where k modulo N is I, from 0 on; for N machines.",
)
@options.out(default="model")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace results that are already in the folder; of a catalogue, those of other settings, rows or files.",
)
def model(image, noise, psf, mask, truth_lens, no_figures, workers, shard, out, **arguments):
    """Find the lens, its galaxy's light and the source from IMAGE alone, a FITS file, and say whether to believe it.

    A path may end in [HDU], as in lens.fits[NOISE]; without it the first image of the file is taken. Writes model.fits,
    model.png, path.png, stages.png, lens.json and summary.json into the folder --out, and with --posterior
    posterior.png, posterior.fits and posterior.ecsv; model.fits, model.png and summary.json have errors of the source
    then.

    A CATALOGUE (.csv, .ecsv, or FITS with tables alone) has a lens in each row, in the columns name, image, noise,
    psf and, where wanted, mask, pixel_scale, no_lens_light, centre_psf, centre_x and centre_y; paths begin at the
    catalogue's folder, and pixel scales may differ from row to row. Each lens gets a folder OUT/NAME, and all of them
    table.ecsv, table.fits and contact_sheet.png. A run that was stopped goes on when it is given again.
    """
    overwrite = arguments.pop("overwrite")
    given = {"image": image, "noise": noise, "psf": psf, "mask": mask}
    given |= {name: arguments.pop(name) for name in ("pixel_scale", "centre_psf", "centre")}
    config = options.settings_from(ModelConfig, arguments)
    refuse_address(out)
    from rim_tf import survey

    if survey.is_catalogue(image):
        of_one = given | {"centre_psf": given["centre_psf"] or None, "truth_lens": truth_lens, "image": None}
        _refuse(of_one, f"{image} is a catalogue, which says that in its columns or not at all")
        _model_catalogue(image, config, out, not no_figures, workers or _WORKERS, _parsed(shard), overwrite)
    else:
        _refuse({"workers": workers, "shard": shard}, f"{image} is one image, and that is for catalogues")
        for name in ("noise", "psf"):
            if given[name] is None:
                raise InputError(
                    f"{options.flag(name)} is missing; an image needs it, a catalogue has a column for it."
                )
        _model_image(given, config, truth_lens, out, not no_figures, overwrite)


def _refuse(given, why):
    """InputError where one of the options in `given` was given."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{options.flag(name)} cannot be given here: {why}.")


def _parsed(shard):
    if shard is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    if found is None:
        raise InputError(f"--shard is {shard!r}; it must be I/N, two whole numbers as in 0/4.")
    return int(found[1]), int(found[2])


def _place(text):
    from rim_tf.observation import check_place

    if text is None:
        return None
    try:
        return check_place(text.split(","))
    except InputError:
        raise InputError(f"--centre is {text!r}; it must be X,Y, two numbers [arcsec] as in 0.8,-1.2.") from None


# --------------------------------------------------------------------------------------------------- one image


def _model_image(given, config, truth_lens, out, pictures, overwrite):
    from rim_tf import io, survey

    given = given | {"centre": _place(given["centre"])}
    names = (*survey.FILES, *survey.POSTERIOR)
    with results(out, names, overwrite) as folder, survey.heard() as said:
        numbers = {name: io.number_or_path(given[name]) for name in ("noise", "psf")}
        observation = io.read_observation(**given | numbers)
        if truth_lens is not None:
            from rim_tf.files import read_json

            read_json(truth_lens)
        import_quietly()  # only now, so that a wrong file name is told at once
        truth = None if truth_lens is None else io.read_lens(truth_lens)
        from rim_tf.inference import workflow

        result = workflow.model(observation, config, teller(STEPS))
        summary = survey.write_model(folder, result, config, given, pictures, truth, {"warnings": said})
    print_table(summary, result.lens, truth)
    click.echo(f"\nWrote {written(out, names)}")


def print_table(summary, lens, truth):
    """The figures that most users look for first; what speaks against the model was said as warnings."""
    q, phi = lens.shape
    gamma1, gamma2 = (lens.named().get(name, 0.0) for name in ("gamma1", "gamma2"))
    shear, angle = math.hypot(gamma1, gamma2), math.degrees(math.atan2(gamma2, gamma1)) / 2 % 180
    compared = summary.get("compared_with_truth")
    true = "" if truth is None else f" (true {truth.theta_E:.4f})"
    flags = ", ".join(summary["flags"])
    believed = "no test speaks against this model"
    if not summary["source_believed"]:
        believed = "no test speaks against the lens; flux and size of the source: see the warnings"
    rows = [
        ("Einstein radius", f"{lens.theta_E:.4f} +- {summary['lens_error']['theta_E']:.4f} arcsec{true}"),
        ("axis ratio, angle", f"{q:.3f}, {math.degrees(phi):.1f} degrees from +x"),
        ("shear, angle", f"{shear:.3f}, {angle:.1f} degrees from +x"),
        ("lens galaxy", "found and taken off" if summary["lens_light"] else "none taken off"),
        ("chi^2 per pixel", f"{summary['chi2_per_pixel']:.3f}"),
        *(figure_row(summary, name) for name in ("magnification", "flux", "half_light_radius")),
        *([] if compared is None else [("source's RMS error", _rms(compared))]),
        ("it took", f"{summary['seconds']:.1f} s"),
        ("verdict", believed if summary["believed"] else f"not to be believed, see the warnings: {flags}"),
    ]
    for name, value in rows:
        click.echo(f"  {name:<20} {value}")


def _rms(compared):
    names = ("rms_percent_of_peak", "aligned_rms_percent_of_peak", "flux_error_percent")
    rms, aligned, flux = (compared[name] for name in names)
    return f"{rms:.2f} % of the peak, {aligned:.2f} % but for a shift, stretch and turn; flux {flux:+.1f} %"


# ------------------------------------------------------------------------------------------------- a catalogue


def _model_catalogue(path, config, out, pictures, workers, shard, overwrite):
    from rim_tf import survey

    rows = survey.read_catalogue(path)
    import_quietly()
    outcome = survey.run(rows, out, config, pictures, workers, shard, overwrite, work=_quietly)
    flagged = [row for row in outcome.rows if not (row["dead"] or row["believed"])]
    click.echo(f"Lenses: {len(outcome.rows)}, finished before: {outcome.n_before}, not to be believed: {len(flagged)}.")
    for row in flagged[:_NAMED]:
        click.echo(f"  {row['name']:<20} {', '.join(survey.flags_of(row))}")
    if len(flagged) > _NAMED:
        click.echo(f"  and {len(flagged) - _NAMED} more; the columns flag_* of the table have them all.")
    if outcome.dead:
        click.echo(f"Could not be modelled: {len(outcome.dead)}; the column error of the table says why.")
    click.echo(f"Wrote {', '.join(map(str, outcome.files))}")


def _quietly(job):
    """`survey.model_row` in a process of its own, which has not imported TensorFlow yet."""
    import_quietly()
    from rim_tf.survey import model_row

    return model_row(job)
