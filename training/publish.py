"""Measure a training run on fresh lenses with unseen galaxies, and ship its weights with what was measured.

python -m training.publish runs/small small --galaxies FOLDER
"""

import dataclasses
import json
import pathlib

import click
import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.config import MockConfig
from rim_tf.data.mocks import GalaxyStamps, stream
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources.find import find_galaxies
from rim_tf.errors import InputError
from rim_tf.evaluation.metrics import chi2_per_pixel, flux_error, rms_error, summarise
from rim_tf.models.pretrained import WEIGHTS, save_trained
from rim_tf.models.rim import RIM
from rim_tf.physics.imaging import imaging_operator
from training.experiments import EXPERIMENTS
from training.train import compiled_model

# Test sets by name: the noise of Section 2.3, no masks, no lens errors; frames of 5.12 arcsec and the paper's.
TEST_SETS = {
    "64 pixels of 0.08 arcsec": MockConfig(),
    "64 pixels of 0.03-0.1 arcsec": MockConfig(log_pixel_scale=(0.03, 0.1)),
    "96 pixels of 0.0533 arcsec": MockConfig(96, 96, log_pixel_scale=(5.12 / 96, 5.12 / 96)),
    "128 pixels of 0.04 arcsec": MockConfig(128, 128, log_pixel_scale=(0.04, 0.04)),
    "192 pixels of 0.04 arcsec": MockConfig(192, 192, log_pixel_scale=(0.04, 0.04)),
}


def measure(model, stamps, mocks, n, batch_size=10, stream_name="test"):
    """RMS, flux error, chi^2 per pixel and noise over the image's peak of n lenses of a stream, each [n]."""
    columns = {"rms": [], "flux": [], "chi2": [], "noise": []}
    predict = tf.function(model.call)
    for inputs, source in stream(seed_pair(stream_name, 0), batch_size, stamps, mocks).take(-(-n // batch_size)):
        shape = source.shape[1:]
        estimate = predict(inputs)[:, -1]
        operator = imaging_operator(inputs, shape)
        peak = ops.max(operator.forward(source), axis=(1, 2))
        columns["rms"].append(rms_error(source.numpy(), estimate.numpy()))
        columns["flux"].append(flux_error(source.numpy(), estimate.numpy()))
        observed = [inputs["image"], operator.forward(estimate), inputs["noise_rms"], inputs["mask"]]
        columns["chi2"].append(chi2_per_pixel(*(each.numpy() for each in observed)))
        columns["noise"].append((ops.mean(inputs["noise_rms"], axis=(1, 2)) / peak).numpy())
    return {name: np.concatenate(values)[:n] for name, values in columns.items()}


def report(measured):
    """`summarise` of all lenses and of each decade of noise."""
    low_noise = measured["noise"] < 0.01
    parts = {"all": np.ones_like(low_noise), "noise 0.1-1 %": low_noise, "noise 1-10 %": ~low_noise}
    return {
        name: summarise(measured["rms"][part], measured["flux"][part], measured["chi2"][part])
        for name, part in parts.items()
    }


def restored(experiment, run):
    """The model of a run folder at its newest checkpoint, and how many steps that had been trained for."""
    # The checkpoint holds the weights, whatever they began from.
    model = compiled_model(dataclasses.replace(EXPERIMENTS[experiment], initial=None))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    newest = tf.train.latest_checkpoint(str(pathlib.Path(run) / "checkpoints"))
    if newest is None:
        raise click.UsageError(f"{run} holds no checkpoint; train first.")
    checkpoint.restore(newest).expect_partial()
    steps = int(model.optimizer.iterations)
    bare = RIM(model.config)
    bare.set_weights(model.get_weights())
    return bare, steps


@click.command()
@click.argument("run", type=click.Path(exists=True))
@click.argument("experiment", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--galaxies", type=click.Path(exists=True), required=True, help="Folder of real galaxies.")
@click.option("--n", default=500, show_default=True, help="Lenses in each test set.")
@click.option("--out", type=click.Path(), help="Weights to write, without a suffix.  [default: into the package]")
@click.option("--command", "made_by", default="", help="The command that trained the run, for the record.")
def main(run, experiment, galaxies, n, out, made_by):
    """Measure the newest checkpoint of RUN, a run of EXPERIMENT, and write its weights."""
    model, steps = restored(experiment, run)
    try:
        stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", "test"))
    except InputError as error:
        raise click.UsageError(str(error)) from None
    figures = {}
    for name, mocks in TEST_SETS.items():
        figures[name] = report(measure(model, stamps, mocks, n))
        click.echo(f"{name}: {json.dumps(figures[name], indent=1)}")
    provenance = {
        "command": made_by,
        "steps": steps,
        "training": json.loads((pathlib.Path(run) / "config.json").read_text()),
        "test": {
            "galaxies": int(stamps.images.shape[0]),
            "lenses": n,
            "stream": "test",
            "figures": figures,
        },
    }
    save_trained(model, out or WEIGHTS / experiment, provenance)


if __name__ == "__main__":
    main()
