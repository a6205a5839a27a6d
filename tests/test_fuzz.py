"""Every settings file, and every option of every command, with what users have given by mistake.

Whatever is done to it, a file is read or refused in one sentence that names it, and a command ends with exit code 2 and
one sentence; nothing ends in a traceback.
"""

import copy
import dataclasses
import json
import re

import click
import pytest
from click.testing import CliRunner
from commands import LENS, names_in

from rim_tf.cli.main import main
from rim_tf.config import PAPER_MOCKS, SMALL, MockConfig
from rim_tf.errors import InputError
from rim_tf.files import read_json
from rim_tf.validation import from_json, to_json

# What a value is replaced with. NaN and Infinity are what Python writes for them, though JSON has neither.
MUTANTS = (
    *(None, True, False, "", "text", "nan", -1, 0, 2.5, 1e-30, 1e30, 10**400, float("nan"), float("inf")),
    *([], [[]], [1, 2, 3], {}, {"a": 1}, {"type": "rim"}),
)


def mutations(values, path=()):
    """(what was done, the values after it) for every value within, each removed, renamed and replaced."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        for mutant in MUTANTS:
            changed = copy.deepcopy(values)
            changed[key] = mutant
            yield (*path, key, mutant), changed
        without = copy.deepcopy(values)
        del without[key]
        yield (*path, key, "removed"), without
        if isinstance(values, dict):
            yield (*path, key, "misspelt"), {**without, f"{key}x": value}
        for done, inner in mutations(value, (*path, key)):
            outer = copy.deepcopy(values)
            outer[key] = inner
            yield done, outer
    if not path:
        for whole in (*MUTANTS, {**values, "unknown": 1}):
            yield ("all", whole), whole


def lens_file(path):
    from rim_tf.io import read_lens

    read_lens(path)


def weights_file(path):
    from rim_tf.models.pretrained import load_pretrained

    load_pretrained(str(path))


def mocks_file(path):
    from_json(MockConfig, read_json(path), str(path), base=PAPER_MOCKS)


def training_file(path):
    from training.experiments import TrainingConfig

    from_json(TrainingConfig, read_json(path), str(path))


def study_file(path):
    from rim_tf.evaluation.store import Store

    Store(path.parent).settings()


def a_training():
    from training.experiments import EXPERIMENTS

    return json.loads(to_json(EXPERIMENTS["small"]))


def a_study():
    from rim_tf.evaluation.store import StudyConfig

    return json.loads(to_json(StudyConfig())) | {
        "rim_tf": "0.2.0",
        "methods": {"rim": {"settings": {"weights": "small"}, "key": "rim-0123456789ab"}},
    }


COMPONENTS = {
    "components": [
        {"type": "power_law", "theta_E": 1.0, "slope": 2.1, "e1": 0.1, "e2": 0.0, "x_lens": 0.0, "y_lens": 0.0},
        {"type": "shear", "gamma1": 0.01, "gamma2": 0.0},
    ]
}
# name -> what reads the file, and what a good one holds.
FILES = {
    "lens.json": (lens_file, lambda: LENS),
    "lens.json of components": (lens_file, lambda: COMPONENTS),
    "weights": (
        weights_file,
        lambda: {"model": dataclasses.asdict(SMALL), "sha256": "0" * 64, "model_sha256": "0" * 64},
    ),
    "dataset --config": (mocks_file, lambda: dataclasses.asdict(MockConfig())),
    "config.json of a training": (training_file, a_training),
    "config.json of a study": (study_file, a_study),
}


@pytest.mark.parametrize("name", FILES)
def test_a_settings_file_is_read_or_refused_by_name(name, tmp_path):
    read, good = FILES[name]
    path = tmp_path / "config.json"
    values = json.loads(json.dumps(good()))
    if name != "weights":  # whose arrays are not there
        path.write_text(json.dumps(values))
        read(path)
    tried = refused = 0
    for done, changed in mutations(values):
        path.write_text(json.dumps(changed))
        tried += 1
        try:
            read(path)
        except InputError as error:
            refused += 1
            sentence = str(error)
            assert str(path) in sentence, (done, sentence)
            assert "\n" not in sentence and len(sentence) < 2000, (done, sentence)
            assert not re.search(r"Traceback|pydantic|https?://|<class|object at 0x", sentence), (done, sentence)
        except Exception as error:
            raise AssertionError(f"{done} ended in {error!r}") from error
    assert tried > 50 and refused > 0.5 * tried


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00", "{'a': 1}", '{"a": 1, "a": 2}', "null", "3", "[" * 100_000])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_json_object_is_refused_by_name(name, text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(str(path))):
        FILES[name][0](path)


# ----------------------------------------------------------------------------------------------- the command line

VALUES = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "-",
    "no/such/file",
    "\u00fc",
    "a" * 5000,
    "[0]",
    "x[IMAGE,\u00b2]",
    "/dev/null",
    ".",
)
# What makes each command end before it does anything, whatever else it is given.
BLOCKED = {
    "reconstruct": ["no.fits", "--noise", "1", "--psf", "0.1", "--lens", "no.json"],
    "invert": ["no.fits", "--noise", "1", "--psf", "0.1", "--lens", "no.json"],
    "model": ["no.fits", "--noise", "1", "--psf", "0.1"],
    "posterior": ["no.fits", "--noise", "1", "--psf", "0.1"],
    "simulate": ["--lens", "no.json", "--out", "out"],
    "demo": ["--out", "file"],
    "dataset build": ["--n", "1", "--out", "out", "--config", "no.json"],
    "dataset pack": ["nowhere", "out.npz"],
    "dataset show": ["nowhere"],
    "dataset priors": ["--config", "no.json"],
    "evaluate": ["--weights", "nothing", "--out", "out"],
    "export": ["--weights", "nothing", "--out", "out"],
    "serve": ["nowhere"],
    "remote reconstruct": ["no.fits", "--noise", "1", "--psf", "0.1", "--lens", "no.json"],
    "remote model": ["no.fits", "--noise", "1", "--psf", "0.1"],
}


def commands(group, words=()):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def test_every_command_is_tried():
    assert {name for name, _ in commands(main)} == set(BLOCKED)


@pytest.mark.parametrize("name", BLOCKED)
def test_no_value_of_an_option_ends_in_a_traceback(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    command = dict(commands(main))[name]
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.is_flag or parameter.name == "help":
            continue
        flag = parameter.opts[0]
        for value in VALUES:
            words = BLOCKED[name]
            if flag in words:  # the value that blocks stays, unless this one is refused too
                continue
            result = CliRunner().invoke(main, [*name.split(), *words, flag, value])
            assert isinstance(result.exception, SystemExit), (flag, value, result.exc_info)
            assert result.exit_code == 2, (flag, value, result.output)
            assert "Error: " in result.stderr and "Traceback" not in result.stderr, (flag, value, result.stderr)
    assert names_in(tmp_path) == ["file"]
