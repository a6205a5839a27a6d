"""Other people's pipelines: the examples that they copy, the command line, and a Python without TensorFlow."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from commands import run
from scripts import loaded

import rim_tf
from rim_tf.export import example

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "serving"


def load(name):
    return loaded(EXAMPLES / f"{name}.py")


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.iterdir() if path.is_file()} == {
        "build_c",
        "curl",
        "from_python",
        "reconstruct",
        "with_jax",
        "with_lenstronomy",
    }


def test_curl(server, tmp_path):
    arrays = example("serving_default", pixels=16)
    rows = [{name: value[0].tolist() for name, value in arrays.items()}]
    (tmp_path / "request.json").write_text(json.dumps({"instances": rows}))
    command = ["sh", EXAMPLES / "curl.sh", f"http://127.0.0.1:{server.rest_port}", tmp_path / "request.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert np.shape(prediction["source"]) == (16, 16)


@pytest.fixture(scope="module")
def lens(tmp_path_factory):
    """The folder of a simulated lens whose PSF is a stamp."""
    folder = tmp_path_factory.mktemp("lens")
    options = ("--seed", 4, "--pixels", 32, "--pixel-scale", 0.16, "--noise", 0.03, "--psf-sigma", 0.1)
    assert run("simulate", *options, "--out", folder).exit_code == 0
    offset = np.arange(-2, 3) * 0.16
    psf = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 0.1**2))
    fits.PrimaryHDU(psf / psf.sum()).writeto(folder / "psf.fits")
    return folder


def files(lens):
    return [lens / "image.fits", "--noise", lens / "noise.fits", "--psf", lens / "psf.fits"]


def test_the_remote_command_gives_what_the_python_interface_gives(server, lens, tmp_path):
    import exported

    options = ("--lens", lens / "lens.json", "--server", f"127.0.0.1:{server.port}", "--out", tmp_path)
    result = run("remote", "reconstruct", *files(lens), *options)
    assert result.exit_code == 0, result.output
    assert "magnification" in result.output
    observation = rim_tf.io.read_observation(lens / "image.fits", str(lens / "noise.fits"), str(lens / "psf.fits"))
    fit = rim_tf.reconstruct(observation, rim_tf.io.read_lens(lens / "lens.json"), exported.networks()[0])
    with fits.open(tmp_path / "reconstruction.fits") as hdus:
        np.testing.assert_allclose(hdus["SOURCE"].data, fit.source, atol=1e-5 * fit.source.max())
        assert hdus[0].header["THETA_E"] == fit.lens.theta_E
    assert json.loads((tmp_path / "summary.json").read_text())["flux"] == pytest.approx(fit.flux, rel=1e-4)


def components(folder):
    """A lens of components in lens.json, and its path."""
    two = (rim_tf.Component("sie", theta_E=theta_E, x_lens=x) for theta_E, x in ((1.2, 0), (0.2, 1.5)))
    lens = rim_tf.CompositeLens(*two)
    rim_tf.io.write_lens(lens, folder / "components.json")
    return lens, folder / "components.json"


def test_a_lens_of_other_components_than_the_model_was_exported_for_is_refused(server, lens, tmp_path):
    options = ("--server", f"127.0.0.1:{server.port}", "--out", tmp_path / "out")
    result = run("remote", "reconstruct", *files(lens), "--lens", components(tmp_path)[1], *options)
    assert result.exit_code == 2 and "was exported for sie, shear" in result.output
    assert "rim-tf export --component sie --component sie" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_a_lens_of_the_components_that_the_model_was_exported_for(lens, tmp_path, monkeypatch):
    known, path = components(tmp_path)
    asked = {}

    def predict(client, signature, inputs):  # in the place of a server, whose model would take half a minute to write
        if signature == "about":
            return {"mass_model": np.array([[b"sie", b"sie"]])}
        asked.update(inputs)
        image = inputs["image"]
        return {"source": image, "model_image": image, "chi2_per_pixel": np.ones(1), "flux_outside": np.zeros(1)}

    monkeypatch.setattr("rim_tf_client.Client.predict", predict)
    options = ("--server", "127.0.0.1:9", "--out", tmp_path / "out")
    result = run("remote", "reconstruct", *files(lens), "--lens", path, *options)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(asked["lens"], [known.as_tuple()], rtol=1e-6)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["lens"] == known.to_dict()


def test_what_no_server_answers_is_one_sentence(server, lens, tmp_path):
    # The small model of the tests has no signature for stamps without a lens.
    result = run("remote", "model", *files(lens), "--server", f"127.0.0.1:{server.port}", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "gave no result" in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    result = run(
        "remote", "model", *files(lens), "--server", "127.0.0.1:9", "--timeout", 0.5, "--out", tmp_path / "out"
    )
    assert result.exit_code == 2 and "127.0.0.1:9 gave no result" in result.output


WITHOUT_TENSORFLOW = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "jax", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Nowhere())
from rim_tf.io import read_observation, write_reconstruction
from rim_tf_client import Client, lenses
address, image, noise, out = sys.argv[1:]
with Client(address) as client:
    found = lenses.model(client, read_observation(image, noise, 0.1))
    write_reconstruction(found.source_fit, out)
    print(found.source_fit.lens.theta_E, found.covariance.shape)
"""


def test_fits_in_and_fits_out_without_tensorflow(server, lens, tmp_path):
    arguments = [f"127.0.0.1:{server.port}", lens / "image.fits", lens / "noise.fits", tmp_path / "found.fits"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    with fits.open(tmp_path / "found.fits") as hdus:
        assert hdus["SOURCE"].data.shape == (32, 32) and hdus[0].header["THETA_E"] == float(done.stdout.split()[0])


def test_seven_numbers_move_as_a_lens_of_rim_tf_does():
    from rim_tf_client.lenses import SevenNumbers

    numbers = (1.2, 0.1, -0.05, 0.02, 0.03, 0.04, -0.06)
    ours, theirs = SevenNumbers(*numbers), rim_tf.LensParameters(*numbers)
    assert ours.named() == theirs.named() and ours.to_dict() == theirs.to_dict()
    assert ours.moved((0.3, -0.2)).as_tuple() == theirs.moved((0.3, -0.2)).as_tuple()
    assert ours.moved_source((0.3, -0.2)) == pytest.approx(theirs.moved_source((0.3, -0.2)))


def test_from_c(version, lens, tmp_path):
    import exported

    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    # The linker that is quick with a library of a gigabyte, where there is one.
    gold = " -fuse-ld=gold" if shutil.which("ld.gold") else ""
    environment = os.environ | {"PYTHON": sys.executable, "CC": f"cc{gold}"}
    program = tmp_path / "reconstruct"
    built = subprocess.run(["sh", EXAMPLES / "build_c.sh", program], env=environment, capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    observation = rim_tf.io.read_observation(lens / "image.fits", str(lens / "noise.fits"), str(lens / "psf.fits"))
    known = rim_tf.io.read_lens(lens / "lens.json")
    arrays = {"image": observation.image, "noise_rms": observation.noise, "psf": observation.psf}
    for name, array in (arrays | {"lens": known.as_tuple()}).items():
        np.asarray(array, "float32").tofile(tmp_path / f"{name}.f32")
    np.asarray(observation.mask, "uint8").tofile(tmp_path / "mask.u8")
    fit = rim_tf.reconstruct(observation, known, exported.networks()[0])
    sizes = [*observation.shape, len(observation.psf), observation.pixel_scale, fit.source_pixel_scale]
    command = [program, version, tmp_path, *map(repr, sizes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    source = np.fromfile(tmp_path / "source.f32", "float32").reshape(fit.source.shape)
    np.testing.assert_allclose(source, fit.source, atol=1e-5 * fit.source.max())
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert float(said["flux"]) == pytest.approx(fit.flux, rel=1e-4)
    (tmp_path / "lens.f32").write_bytes(bytes(28))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "status 5" in done.stderr


def test_from_python(server):
    magnifications = load("from_python").main(f"127.0.0.1:{server.port}", n=3)
    assert len(magnifications) == 3 and min(magnifications) > 1


def test_with_jax(version):
    loss, parameters, slope = load("with_jax").main(str(version))
    lens, step = parameters["lens"], 1e-3
    moved = [loss(parameters | {"lens": lens.at[0, 0].add(sign * step)}) for sign in (1, -1)]
    # Bilinear interpolation has kinks, so that differences are a rough guide.
    assert slope["lens"][0, 0] == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=0.05)


def test_with_lenstronomy(version, lens):
    pytest.importorskip("lenstronomy", reason="install the extra test: lenstronomy is missing")
    observation = rim_tf.io.read_observation(lens / "image.fits", str(lens / "noise.fits"), 0.1)
    known = rim_tf.io.read_lens(lens / "lens.json").as_tuple()
    system = {
        "image": observation.image,
        "noise_rms": observation.noise,
        "psf": 0.1,
        "pixel_scale": 0.16,
        "lens": known,
    }
    slopes, of_slope, chain, evaluate = load("with_lenstronomy").main(str(version), system, steps=10)
    # lenstronomy's likelihood of the isothermal slope is the graph's, but for the constant.
    constant = -np.log(np.sqrt(2 * np.pi) * observation.noise).sum()
    assert of_slope[slopes == 2.0] + constant == pytest.approx(evaluate(np.float64(known))[0], rel=0.01)
    assert of_slope.argmax() in (1, 2, 3) and np.isfinite(chain).all() and len(set(chain)) > 3
