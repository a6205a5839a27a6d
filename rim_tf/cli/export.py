"""`rim-tf export`: trained networks as a SavedModel for TensorFlow Serving."""

import click

from rim_tf.cli import options
from rim_tf.cli.results import refuse_address
from rim_tf.config import ModelConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly


@click.command(short_help="Write the networks as a SavedModel, for a model server.")
@click.option("--weights", default=ModelConfig.weights, show_default=True, help="Of the RIM: a name, or NAME.json.")
@click.option(
    "--estimator", default=ModelConfig.estimator, show_default=True, help="Weights of the estimator; likewise."
)
@click.option(
    "--joint",
    metavar="NAME",
    help=f"Of the network that finds both together, as {ModelConfig.joint}, for the signature `together`. A server "
    "then takes twice the memory, and twice the time to start.  [default: none]",
)
@click.option(
    "--component",
    "components",
    multiple=True,
    metavar="TYPE",
    help="Of the lenses that it will be asked about, in their order, as in lens.json; by default sie and shear.",
)
@options.out(required=True, help="A version of a model, as models/rim/1: its name is a whole number.")
def export(weights, estimator, joint, components, out):
    """Write the networks as version OUT of a model, which TensorFlow Serving or `rim-tf serve` take up.

    What it can do, with what inputs, is in OUT/assets.extra/MODEL_CARD.md. It takes up to a minute.
    """
    refuse_address(out)
    if not (out.name.isascii() and out.name.isdigit()):
        raise InputError(f"--out is {out}; its last part must be a version, a whole number as in models/rim/1.")
    if out.exists():
        raise InputError(f"{out} exists already; a version is never replaced, give the next number.")
    import_quietly()
    from rim_tf.export import export_saved_model
    from rim_tf.models.pretrained import load_pretrained, provenance_of
    from rim_tf.physics.mass.model import SIE_SHEAR, MassModel

    mass = MassModel(components) if components else SIE_SHEAR
    given = {"rim": weights, "estimator": estimator} | ({} if joint is None else {"joint": joint})
    networks = {kind: load_pretrained(name, kind) for kind, name in given.items()}
    known = {kind: provenance_of(name, kind) for kind, name in given.items()}
    export_saved_model(networks["rim"], out, mass, networks["estimator"], known, joint=networks.get("joint"))
    click.echo(f"Wrote {out}; start a server with: rim-tf serve {out.parent}")
