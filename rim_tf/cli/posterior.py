"""`rim-tf posterior`: a lens with its errors, drawn, tabled and written."""

import dataclasses

import click

from rim_tf.cli import options
from rim_tf.cli.model import STEPS
from rim_tf.cli.reconstruct import FIGURES, teller, written
from rim_tf.cli.results import results
from rim_tf.config import ModelConfig, PosteriorConfig
from rim_tf.errors import InputError
from rim_tf.heavy import import_quietly

# Beside `rim_tf.survey.POSTERIOR`.
_OF_METHOD = ("posterior-{}.nc", "sources-{}.fits")
_MORE = ("posterior.json", *(name.format(method) for method in ("rim", "inversion") for name in _OF_METHOD))
_SLOW = STEPS | {
    "inversion": "Drawing lenses by linear inversion, which takes minutes ...",
}


@click.command(short_help="Find a lens and its source with their errors.")
@click.argument("image")
@options.observed()
@click.option(
    "--lens",
    metavar="JSON",
    help="A lens near the best one, in an image without lens galaxy; without it, both are looked for. Of a galaxy that "
    "was taken off elsewhere the errors of the source's flux know nothing.",
)
@options.options_of(PosteriorConfig)
@click.option("--estimator", default=ModelConfig.estimator, show_default=True, help="Weights that look for the lens.")
@click.option("--no-lens-light", is_flag=True, help="There is no lens galaxy in the image; do not look for one.")
@click.option(
    "--prior",
    metavar="JSON",
    help='What is known besides of parameters of the lens: {"theta_E": [mean, standard deviation]}, normal. It moves '
    "the draws, not the best lens.",
)
@click.option("--truth-lens", metavar="JSON", help="The true lens, to be marked in the plot.")
@options.out(default="posterior")
@options.overwrite
def posterior(image, noise, psf, centre_psf, mask, pixel_scale, lens, prior, truth_lens, out, overwrite, **arguments):
    """Draw lenses and sources from their posterior, given IMAGE, a FITS file.

    Without --lens the lens and its galaxy's light are looked for as by `rim-tf model`; with it, the image must be free
    of lens light. Writes into the folder --out posterior.png (all pairs of parameters), posterior.fits and
    posterior.ecsv (the lenses), sources-METHOD.fits (mean, standard deviation and draws of the source, its flux,
    magnification and the like in each), posterior.json (means, errors, correlations, the prior) and, where there is a
    chain, posterior-METHOD.nc for ArviZ. Chains are kept there as well, and a run that was stopped goes on when it is
    given again.
    """
    config = options.settings_from(PosteriorConfig, arguments)
    given = {"image": image, "noise": noise, "psf": psf, "mask": mask, "lens": lens, "prior": prior}
    from rim_tf import survey

    names = (*survey.POSTERIOR, *_MORE)
    with results(out, names, overwrite) as folder:
        from rim_tf import io
        from rim_tf.files import read_json

        numbers = io.number_or_path(noise), io.number_or_path(psf)
        observation = io.read_observation(image, *numbers, mask, pixel_scale, centre_psf)
        for path in (lens, truth_lens):
            if path is not None:
                read_json(path)
        prior = None if prior is None else io.read_prior(prior)
        import_quietly()  # only now, so that a wrong file name is told at once
        truth = None if truth_lens is None else io.read_lens(truth_lens)
        known = None if lens is None else io.read_lens(lens)
        tell = teller(_SLOW)
        found, verdict, failed = _found(observation, known, prior, config, arguments, out, tell)
        summary = _write(folder, found, truth, config, given, verdict, failed)
    _print(summary, truth)
    if failed is not None:
        raise InputError(f"{failed} What the other method found is written to {out}; --overwrite replaces it.")
    click.echo(f"\nWrote {written(out, names)}")


def _found(observation, lens, prior, config, arguments, out, tell):
    """`LensSamples` of each method; what speaks against the model, where it was looked for; and a NotConverged of the
    second method, or None.
    """
    from rim_tf.inference import workflow
    from rim_tf.inference.lens_samples import sample_lens
    from rim_tf.inference.samplers.chain import NotConverged
    from rim_tf.models.pretrained import load_pretrained

    rim, verdict = load_pretrained(config.weights), None
    try:
        if lens is not None:
            return sample_lens(observation, lens, rim, config, folder=out, progress=tell, prior=prior), None, None
        result = workflow.model(observation, _search_of(config, arguments), tell, rim=rim)
        verdict = result.verdict
        return workflow.sample(result, rim, config, out, tell, prior), verdict, None
    except NotConverged as error:
        if not error.found:
            raise
        return error.found, verdict, error


def _search_of(config, arguments):
    """The `ModelConfig` by which the lens is looked for."""
    return ModelConfig(
        weights=config.weights,
        estimator=arguments["estimator"],
        no_lens_light=arguments["no_lens_light"],
        seed=config.seed,
    )


def _write(folder, found, truth, config, given, verdict, failed):
    from rim_tf import io, survey
    from rim_tf.files import finite, write_json

    names = found[0].lens.mass.names
    if truth is not None and truth.mass.names != names:
        raise InputError(
            f"The true lens has {', '.join(truth.mass.names)}, and the one that is fitted {', '.join(names)}."
        )
    summary = {"methods": {each.method: each.summary() for each in found}}
    for each in found:
        chain, sources = (folder / name.format(each.method) for name in _OF_METHOD)
        if each.chain is not None:
            each.chain.write(chain, names, each.chain_lenses())
        if each.sources is not None:
            io.write_sources(sources, each.sources, each.source_pixel_scale, provenance={"METHOD": each.method})
    summary |= {
        "believed": None if verdict is None else verdict.believed,
        "flags": [] if verdict is None else list(verdict.flags),
        "failed": None if failed is None else str(failed),
        "truth": None if truth is None else truth.to_dict(),
        "settings": dataclasses.asdict(config),
        "input": given,
        "versions": io.versions(),
    }
    survey.write_posterior(folder, found, truth)
    write_json(folder / "posterior.json", summary)
    return finite(summary)


def _print(summary, truth):
    for method, figures in summary["methods"].items():
        click.echo(f"{method}, {figures['sampler']}:")
        for name, each in figures["parameters"].items():
            true = "" if truth is None else f" (true {truth.named()[name]:.4f})"
            click.echo(f"  {name:<20} {each['mean']:.4f} +- {each['std']:.4f}{true}")
        for name, each in (figures["source"] or {}).items():
            # None is what JSON has for a number that is none.
            told = "unknown" if each["median"] is None else f"{each['median']:.4g} +- {each['error']:.2g}"
            click.echo(
                f"  {FIGURES[name][0]:<20} {told}{'' if method == 'rim' else ' (does not hold: docs/ERRORS.md)'}"
            )
        for line in figures["prior"]:
            click.echo(f"  prior of {line}")
        if figures["noise_factor"] > 1:
            click.echo(f"  noise map            multiplied by {figures['noise_factor']:.2f}, as sky and residuals ask")
        if figures["galaxy_factor"] > 1:
            click.echo(f"  errors of the lens   multiplied by {figures['galaxy_factor']:.2f}, as beside a galaxy")
    if summary["believed"] is False:
        click.echo(f"  verdict              not to be believed, nor its errors: {', '.join(summary['flags'])}")
