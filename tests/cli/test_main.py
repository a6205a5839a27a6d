import configparser
import importlib.metadata
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from commands import LENS, names_in, reconstruct

from rim_tf.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
RIM_TF = [sys.executable, "-m", "rim_tf"]


def test_help_and_import_are_quick():
    heavy = "tensorflow", "keras", "matplotlib", "astropy", "numpy"
    code = f"import sys, rim_tf, rim_tf.cli.main; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

    def seconds():
        # Of the processor, as the machine may be busy with other things.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "reconstruct" in subprocess.run([*RIM_TF, "--help"], capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


def test_a_process_says_one_sentence_and_no_more(tmp_path):
    (tmp_path / "lens.json").write_text(json.dumps(LENS))
    command = [*RIM_TF, "reconstruct", "no.fits", "--noise", "0.1", "--psf", "0.05", "--lens", "lens.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: no.fits does not exist.\n"
    assert names_in(tmp_path) == ["lens.json"]


def test_what_other_projects_have_set_does_not_matter(options, tmp_path):
    (tmp_path / "keras").mkdir()
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "torch", "epsilon": 1e-7}
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(settings))
    # A name that is no text in UTF-8 is one like any other.
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in ("image", "--noise", "--lens"):
        shutil.copy(options[name], os.fsdecode(folder))
    command = [*RIM_TF, "reconstruct", folder + b"/image.fits", "--noise", folder + b"/noise.fits", "--psf", "0.05"]
    command += ["--lens", folder + b"/lens.json", "--weights", options["--weights"], "--out", folder + b"/out"]
    surroundings = {"KERAS_HOME": str(tmp_path / "keras"), "MPLBACKEND": "nonsense", "KERAS_BACKEND": "nonsense"}
    surroundings["PYTHONIOENCODING"] = "utf-8:strict"
    done = subprocess.run(command, capture_output=True, env=os.environ | surroundings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(folder + b"/out")) == [b"reconstruction.fits", b"reconstruction.png", b"summary.json"]
    expected = reconstruct(options)
    assert expected.exit_code == 0
    source = fits.getdata(options["--out"] / "reconstruction.fits", "SOURCE")
    np.testing.assert_allclose(
        fits.getdata(os.fsdecode(folder) + "/out/reconstruction.fits", "SOURCE"), source, rtol=1e-4
    )


@pytest.mark.parametrize("missing", ["tensorflow", "astropy"])
def test_a_package_that_is_missing_is_named(options, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from rim_tf.cli.main import main; main()"
    words = [str(word) for option, value in options.items() for word in (option, value) if word != "image"]
    done = subprocess.run([sys.executable, "-c", code, "reconstruct", *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {missing} cannot be imported") and done.stderr.count("\n") == 1
    assert not options["--out"].exists()


def test_memory_that_is_not_enough_is_one_sentence(options, monkeypatch):
    from rim_tf.inference import workflow

    def take_all(*_):
        raise MemoryError

    monkeypatch.setattr(workflow, "run", take_all)
    result = reconstruct(options)
    assert result.exit_code == 2 and result.stderr.startswith("Error: The memory is not enough")


def test_the_script_is_what_the_package_declares():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (script,) = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    name, target = (part.strip() for part in script.split("="))
    assert name == "rim-tf"
    assert importlib.metadata.EntryPoint(name, target, "console_scripts").load() is main
