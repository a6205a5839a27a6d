"""A study as a report: report.json with every number, report.md and report.html to read, and figures/.

What is said is put together here, in blocks; how it looks is in templates/.
"""

import base64
import math
import pathlib

import jinja2

from rim_tf.evaluation import figures, store
from rim_tf.evaluation.numbers import FIGURES_OF_MERIT, evaluate, reference
from rim_tf.files import write_json, write_text, written_whole
from rim_tf.inference.methods import find_method

# In the tables by noise, magnification and size.
_SHORT = ("rms", "flux_absolute", "flux_bias", "chi2_per_pixel")


def write_report(out):
    """Write the report of the study in a folder, from what is there of it.

    Args:
      out: the folder, in which report.json, report.md, report.html and figures/ are written.

    Returns:
      The numbers, as `rim_tf.evaluation.numbers.evaluate`.

    Raises:
      InputError: the folder holds no study, or one without a finished system.
    """
    out = pathlib.Path(out)
    settings, columns, kept, unusual = store.read_study(out)
    numbers = evaluate(settings, columns, unusual)
    drawn = figures.draw_figures(columns, kept, unusual, numbers)
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        with written_whole(out / "figures" / f"{name}.png") as unfinished:
            figure.savefig(unfinished, dpi=80)
    for path in (out / "figures").glob("*.png"):
        if path.stem not in drawn:
            path.unlink()  # of a report on another part of this study
    content = blocks(numbers, list(drawn))
    write_json(out / "report.json", numbers, indent=1)
    write_text(out / "report.md", markdown(content))
    write_text(out / "report.html", page(content, out / "figures"))
    return numbers


def markdown(content):
    """The text of report.md, which names the pictures by their files; `content` as of `blocks`."""
    return _render("report.md.j2", blocks=content)


def page(content, folder):
    """The text of report.html, with the pictures of a folder inside it, to be sent as one file."""
    names = [block["name"] for block in content if block["kind"] == "figure"]
    pictures = {name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in names}
    return _render("report.html.j2", blocks=content, pictures=pictures)


def _render(name, **context):
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rim_tf.evaluation"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(**context)


# ---------------------------------------------------------------------------------------------------- what is said


def blocks(numbers, drawn):
    """The report, block by block.

    Args:
      numbers: of `rim_tf.evaluation.numbers.evaluate`.
      drawn: names of the figures.

    Returns:
      List of dictionaries whose `kind` is title, heading or text (with `text`), table (`header` and `rows` of cells),
      or figure (`name` and `caption`).
    """
    content = [_text("title", "Reconstructions of simulated lenses"), _text("text", _what_was_done(numbers))]
    content += [_text("text", _about(name, numbers)) for name in numbers["n"]]
    if numbers["goals"]:
        rows = [[each["goal"], each["text"], "yes" if each["met"] else "no"] for each in numbers["goals"]]
        content += [_text("heading", "Goals"), _table(["goal", "reached", "met"], rows)]
    content += [_text("heading", "All systems"), _table_of_all(numbers)]
    content += [_text("text", _compared(name, numbers)) for name in numbers["comparison"]]
    for kind, groups in numbers["groups"].items():
        content += [_text("heading", f"By {kind}"), _table_of_groups(kind, groups, numbers)]
    content.append(_text("heading", "Figures"))
    first = numbers["labels"][next(iter(numbers["n"]))]
    content += [
        {"kind": "figure", "name": name, "caption": figures.CAPTIONS[name].format(first=first)} for name in drawn
    ]
    if numbers["unusual"]:
        content += [_text("heading", "Text and digits"), _table_of_unusual(numbers)]
    return content


def _text(kind, text):
    return {"kind": kind, "text": text}


def _table(header, rows):
    return {"kind": "table", "header": header, "rows": rows}


def _what_was_done(numbers):
    settings, mocks = numbers["settings"], numbers["settings"]["mocks"]
    counts = ", ".join(f"{numbers['labels'][name]} {count} systems" for name, count in numbers["n"].items())
    return (
        f"Done: {counts}. Images of {mocks['image_pixels']} x {mocks['image_pixels']} pixels, sources of "
        f"{mocks['source_pixels']} x {mocks['source_pixels']}; noise, PSF and lenses drawn as config.json says; "
        f"sources: {settings['sources'] or 'procedural galaxies'}, none of which training has seen; the true lens "
        "given to every method. Errors are of a bootstrap over the systems (of percentages of systems, Wilson's). The "
        "paper's values are from Section 3 of Morningstar et al. (2019), on another test set: 192 x 192 pixels of 0.04 "
        "arcsec."
    )


def _about(name, numbers):
    """A method and the settings it ran with."""
    method, settings = find_method(name), numbers["settings"]["methods"][name]["settings"]
    given = ", ".join(f"{each} {value}" for each, value in settings.items() if value is not None)
    return f"{method.label[:1].upper()}{method.label[1:]}: {'; '.join(filter(None, [method.about, given]))}."


def _compared(name, numbers):
    comparison, labels = numbers["comparison"][name], numbers["labels"]
    first, other, better = labels[reference()], labels[name], comparison["better_percent"]
    return (
        f"On the {better['n']} systems that both {first} and {other} have done, {first} has the smaller RMS error in "
        f"{_cell(better, 1)} %; the ratio of RMS errors, {other} over {first}, has the median "
        f"{_cell(comparison['rms_ratio'], 2)}."
    )


# ---------------------------------------------------------------------------------------------------- the tables


def _table_of_all(numbers):
    systems, labels = numbers["systems"], numbers["labels"]
    rows = [
        [figure.label, figure.paper or "-", *(_cell(systems[name].get(key), figure.digits) for name in labels)]
        for key, figure in FIGURES_OF_MERIT.items()
    ]
    counts = ["systems", "2000", *(str(systems[name]["chi2_per_pixel"]["n"]) for name in labels)]
    return _table(["", "paper", *labels.values()], [counts, *rows])


def _table_of_groups(kind, groups, numbers):
    methods, labels, compared = list(reversed(numbers["n"])), numbers["labels"], list(numbers["comparison"])
    header = [kind, *(f"n, {labels[name]}" for name in methods)]
    header += [f"{FIGURES_OF_MERIT[key].label}: {labels[name]}" for key in _SHORT for name in methods]
    header += [f"{labels[reference()]} better than {labels[name]} [% of systems]" for name in compared]
    rows = []
    for label, group in groups.items():
        row = [label, *(str(group[name]["rms"]["n"]) for name in methods)]
        row += [_cell(group[name][key], FIGURES_OF_MERIT[key].digits) for key in _SHORT for name in methods]
        rows.append(row + [_cell(group["comparison"][name]["better_percent"], 1) for name in compared])
    return _table(header, rows)


def _table_of_unusual(numbers):
    unusual, labels = numbers["unusual"], numbers["labels"]
    methods = list(reversed(unusual))
    header = ["source", *(f"RMS [% of peak]: {labels[name]}" for name in methods)]
    header += [f"chi^2 per pixel: {labels[name]}" for name in methods]
    rows = []
    for drawing in dict.fromkeys(drawing for name in methods for drawing in unusual[name]):
        found = [unusual[name].get(drawing) for name in methods]
        row = [f"{each['rms_percent_of_peak']:.2f}" if each else "-" for each in found]
        rows.append([drawing, *row, *(f"{each['chi2_per_pixel']:.3f}" if each else "-" for each in found)])
    return _table(header, rows)


def _cell(figure, digits):
    if figure is None or not figure["n"] or not math.isfinite(figure["value"]):
        return "-"
    return f"{figure['value']:.{digits}f} ± {figure['error']:.{digits}f}"
