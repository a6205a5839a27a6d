"""Measure a training run on fresh lenses with unseen galaxies, and ship its weights with what was measured.

python -m training.publish runs/small small --galaxies FOLDER
"""

import dataclasses
import json
import pathlib

import click
import numpy as np
import tensorflow as tf

from rim_tf.config import EstimatorConfig, JointConfig, MockConfig, RIMConfig, SourceErrorsConfig
from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import seed_pair
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.streaming import Simulator
from rim_tf.errors import InputError
from rim_tf.evaluation import measures
from rim_tf.files import finite, read_json
from rim_tf.models.pretrained import WEIGHTS, load_pretrained, save_trained
from rim_tf.physics.imaging import imaging_operator
from rim_tf.validation import from_json
from training import checkpoints, error_figures, joint_figures, lens_figures
from training.cards import LICENCE, write_card
from training.experiments import TrainingConfig
from training.runs import initial_model

# The stream that neither training nor its validation reads.
_STREAM = "test"
# Lenses of each set, of another stream, that the width of posteriors is found on, which takes no more.
_CALIBRATING = 1500
# Test sets by name: the noise of Section 2.3, no masks, no lens errors; frames of 5.12 arcsec and the paper's.
TEST_SETS = {
    "64 pixels of 0.08 arcsec": MockConfig(),
    "64 pixels of 0.03-0.1 arcsec": MockConfig(log_pixel_scale=(0.03, 0.1)),
    "96 pixels of 0.0533 arcsec": MockConfig(96, 96, log_pixel_scale=(5.12 / 96, 5.12 / 96)),
    "128 pixels of 0.04 arcsec": MockConfig(128, 128, log_pixel_scale=(0.04, 0.04)),
    "192 pixels of 0.04 arcsec": MockConfig(192, 192, log_pixel_scale=(0.04, 0.04)),
}


def measure(model, stamps, mocks, n, batch_size=10, stream=_STREAM):
    """Judge a network on test lenses, the first k of which are the k of a smaller n.

    Args:
      model: `RIM`.
      stamps: `GalaxyStamps` that it was not trained on.
      mocks: `MockConfig` of the test lenses.
      n: how many.
      batch_size: of one call of the network.
      stream: name of the stream that the lenses are drawn from.

    Returns:
      The columns of `rim_tf.evaluation.measures`, and noise, the noise's rms over the image's peak: {name: [n, ...]}.
    """
    parts = []
    simulate = Simulator(seed_pair(stream, 0), batch_size, stamps, mocks)
    predict = tf.function(model.call, autograph=False)
    for index in range(-(-n // batch_size)):
        inputs, source = simulate(index)
        estimate, operator = predict(inputs)[:, -1], imaging_operator(inputs, source.shape[1:])
        data, noise_rms, mask = (inputs[name].numpy() for name in ("image", "noise_rms", "mask"))
        parts.append(
            {
                **measures.of_sources(source.numpy(), estimate.numpy()),
                **measures.of_images(operator.forward(estimate).numpy(), data, noise_rms, mask),
                "noise": measures.noise_over_peak(noise_rms, operator.forward(source).numpy()),
            }
        )
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def report(measured):
    """`measures.summarise` of all lenses and of each decade of noise; `measured` as of `measure`."""
    return measures.by_noise(measured, measures.summarise)


def restored(run):
    """The network that a run ended with, or else that of its newest checkpoint.

    Args:
      run: the run's folder.

    Returns:
      The network, how many steps it had been trained for, and the configuration of the run as JSON has it.

    Raises:
      InputError: no run of training there, or none with a checkpoint.
    """
    path = pathlib.Path(run) / "config.json"
    training = read_json(path)
    # The checkpoint holds the weights, whatever they began from.
    config = dataclasses.replace(from_json(TrainingConfig, training, str(path)), initial=None)
    ended, found = pathlib.Path(run) / "weights.json", checkpoints.all_of(run)
    if ended.exists():
        return load_pretrained(ended, config.model.type), read_json(ended)["steps"], training
    if not found:
        raise InputError(f"{run} holds no checkpoint and no weights.json; train first.")
    model = initial_model(config)
    return model, checkpoints.give_weights(found[-1], model, bool(config.average_decay)), training


def publish(run, out, galaxies=None, n=500, made_by="", say=print, data="", limits=()):
    """Measure the network of a run, as `restored` finds it, and write its weights with the figures.

    Posteriors of the lens are stretched first, as `lens_figures.calibrated` finds on other lenses.

    Args:
      run: the run's folder.
      out: of the weights, a path without a suffix.
      galaxies: as for `training.train.train`.
      n: lenses in each test set.
      made_by: the command that trained the run, for the record.
      say: is called with the figures of each test set, as text.
      data: what it was trained on, in words, for its card.
      limits: where it is not to be used, in sentences, likewise.

    Raises:
      InputError: no run there, or no galaxies.
    """
    model, steps, training = restored(run)
    stamps = GalaxyStamps.of(find_galaxies(galaxies, "validation", _STREAM))
    # By what a network finds: how its posteriors are stretched, its test sets, how it is measured on one of them, and
    # what is reported of that.
    calibrate, sets, measure_one, report_one = {
        RIMConfig: (None, TEST_SETS, measure, report),
        EstimatorConfig: (lens_figures.calibrated, lens_figures.TEST_SETS, lens_figures.measure, lens_figures.report),
        SourceErrorsConfig: (None, error_figures.TEST_SETS, error_figures.measure, error_figures.report),
        JointConfig: (joint_figures.calibrated, joint_figures.TEST_SETS, joint_figures.measure, joint_figures.report),
    }[type(model.config)]
    if calibrate is not None:
        model = calibrate(model, stamps, min(n, _CALIBRATING))
        say(f"stretch of its posteriors: {model.config.stretch}")
    figures = {}
    for name, mocks in sets.items():
        figures[name] = finite(report_one(measure_one(model, stamps, mocks, n, stream=_STREAM)))
        say(f"{name}: {json.dumps(figures[name], indent=1)}")
    test = {"galaxies": len(stamps), "lenses": n, "stream": _STREAM, "figures": figures}
    record = {"command": made_by, "steps": steps, "data": data, "limits": list(limits), "licence": LICENCE}
    save_trained(model, out, record | {"training": training, "test": test})
    write_card(f"{out}.json")


@click.command()
@click.argument("run", type=click.Path(exists=True))
@click.argument("name")
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--n", type=click.IntRange(min=1), default=500, show_default=True, help="Lenses in each test set.")
@click.option("--out", type=click.Path(), help="Weights to write, without a suffix.  [default: NAME, in the package]")
@click.option("--command", "made_by", default="", help="The command that trained the run, for the record.")
@click.option("--data", default="", help="What it was trained on, in words, for its card.")
@click.option("--limit", "limits", multiple=True, help="Where not to use it, a sentence for its card; any number.")
def main(run, name, galaxies, n, out, made_by, data, limits):
    """Measure the network that RUN ended with, or its newest checkpoint, and write its weights as NAME."""
    try:
        publish(run, out or WEIGHTS / name, galaxies, n, made_by, click.echo, data, limits)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
