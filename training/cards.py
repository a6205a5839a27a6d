"""The card of trained weights, NAME.md beside NAME.json: what they are, how good, where not to use them.

python -m training.cards     # writes those of the weights that ship anew
"""

import pathlib

import click
import humanize

from rim_tf.config import EstimatorConfig, JointConfig, RIMConfig, SourceErrorsConfig, model_from_json
from rim_tf.files import read_json, write_text
from rim_tf.models.flops import count_flops
from rim_tf.models.pretrained import WEIGHTS, build_model

LICENCE = "MIT"
_KINDS = {
    RIMConfig: "finds the source of a lensed image, given the lens",
    EstimatorConfig: "finds the lens in an image, as a posterior",
    SourceErrorsConfig: "gives the errors of the sources that a RIM finds",
    JointConfig: "improves lens and source of an image together, from an estimator's answer on",
}
_UNSAID = "nobody has said; take it for no images but those that it was trained on"


def card(path):
    """The Markdown of the weights that a description NAME.json describes."""
    path = pathlib.Path(path)
    values = read_json(path)
    config = model_from_json(values["model"], str(path))
    weights, test = path.with_suffix(".weights.h5"), values.get("test", {})
    n_weights = build_model(config).count_params()
    size = f"{n_weights:,} weights, {humanize.naturalsize(weights.stat().st_size)}"
    if isinstance(config, RIMConfig):
        work = ", ".join(f"{count_flops(config, n) / 1e9:.3g} for {n} x {n}" for n in (64, 192))
        size += f"; GFLOP for a source of so many pixels: {work}"
    limits = values.get("limits") or [_UNSAID]
    lines = [
        f"# {path.stem}",
        "",
        f"A network of the type `{config.type}`: {_KINDS[type(config)]}.",
        "",
        f'    rim_tf.load_pretrained("{path.stem}", kind="{config.type}")',
        "",
        "| | |",
        "|---|---|",
        f"| made by | {values.get('command') or 'not on record'} |",
        f"| steps | {values.get('steps', 'not on record')} |",
        f"| data | {values.get('data') or 'as in `training` of the description'} |",
        f"| size | {size} |",
        f"| measured on | {_measured_on(test, isinstance(config, SourceErrorsConfig))} |",
        f"| licence | {values.get('licence', LICENCE)} |",
        f"| SHA-256 of `{weights.name}` | `{values['sha256']}` |",
        "",
        *_figures(config, test.get("figures", {})),
        "## Where not to use them",
        "",
        *(f"- {limit}" for limit in limits),
        "",
        f"`{path.name}` holds every setting and figure; loading compares the checksum.",
    ]
    return "\n".join(lines) + "\n"


def _measured_on(test, in_parts):
    if not test:
        return "nothing yet"
    lenses = f"{test['lenses']} simulated lenses {'in all' if in_parts else 'in each row'}"
    return f"{lenses}, of {test['galaxies']} galaxies that no network was trained on"


def _figures(config, figures):
    """The table of what was measured, by test set."""
    if not figures:
        return []
    if isinstance(config, RIMConfig):
        head = ("median RMS [% of peak]", "median flux error [%]", "chi^2 per pixel")
        leaves = (
            ("all", "rms_percent_of_peak", "median"),
            ("all", "flux_error_percent", "median_absolute"),
            ("all", "chi2_per_pixel", "median"),
        )
    elif isinstance(config, EstimatorConfig | JointConfig):
        head = ("median error of theta_E [%]", "within 68 % jointly", "largest deviation of coverage")
        leaves = (
            ("all", "parameters", "theta_E", "median_relative_percent"),
            ("all", "joint", "coverage", "0.6827"),
            ("all", "joint", "largest_deviation"),
        )
    else:
        head = ("deviation of coverage above the noise", "below it", "of the flux")
        leaves = tuple((part, "largest_deviation") for part in ("above the noise", "below the noise", "flux"))
    rows = [
        "| " + " | ".join((name, *(f"{_leaf(values, path):.3g}" for path in leaves))) + " |"
        for name, values in figures.items()
    ]
    return ["| test set | " + " | ".join(head) + " |", "|---" * (1 + len(head)) + "|", *rows, ""]


def _leaf(values, path):
    """The number at the end of a path of names; `training.error_figures` puts some of them a little deeper."""
    if path[0] not in values:
        values = values["all"]
        path = (path[0] if path[0] in values else f"pixels {path[0]}", *path[1:])
    for name in path:
        values = values[name]
    return float(values)


def write_card(path):
    """The card of the weights that NAME.json describes, as NAME.md beside it."""
    write_text(pathlib.Path(path).with_suffix(".md"), card(path))


@click.command()
def main():
    """Write the cards of all weights that ship."""
    for path in sorted(WEIGHTS.glob("*.json")):
        write_card(path)
        click.echo(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
