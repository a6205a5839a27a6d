"""Trained networks as a SavedModel that TensorFlow alone can run: for TensorFlow Serving, and for other pipelines.

Every signature takes named tensors whose first axis is the batch, as a model server batches no other, and leaves every
axis free but that of the lens's parameters.
"""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Sequence

import jinja2
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from rim_tf.config import SOURCE_SCALE_RATIO
from rim_tf.errors import InputError
from rim_tf.files import write_text
from rim_tf.models.estimator import Estimator
from rim_tf.models.joint import JointRIM, from_samples
from rim_tf.models.looks import judge, see, surest
from rim_tf.models.mixture import LensPosterior
from rim_tf.models.rim import RIM
from rim_tf.physics.derivatives import plain
from rim_tf.physics.imaging import imaging_operator, imaging_problem
from rim_tf.physics.inversion import invert
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel
from rim_tf.physics.usable import checks, with_stand_ins
from rim_tf.systems import GAUSSIAN_PSF, IMAGING, SEED, SOURCE, Tensor
from rim_tf_client.messages import WARM_UP, PredictionLog, to_proto
from rim_tf_client.status import MUST_BE, NO_RESULT

# Source pixels of a linear inversion: its matrices, of this squared, take a second and 0.1 GB.
_LARGEST_INVERSION = 32 * 32

# ---------------------------------------------------------------------------------------------- what a signature does


@dataclasses.dataclass(frozen=True)
class _Networks:
    """What the signatures are made of.

    Attributes:
      rim: a built `RIM`.
      estimator: a built `Estimator`, or None.
      mass: `MassModel`, to which the columns of an input `lens` belong.
      joint: a built `JointRIM` of the estimator's mass model, or None.
    """

    rim: RIM
    estimator: Estimator | None
    mass: MassModel
    joint: JointRIM | None = None


def _reconstruct(networks, inputs):
    return _reconstruction(networks.rim, inputs, networks.mass)


def _source_shape(network, inputs):
    """A square of the image's longer side, as `systems.source_grid` has it."""
    return network.source_shape([ops.max(ops.stack(ops.shape(inputs["image"])[1:]))]) * 2


def _reconstruction(rim, inputs, mass):
    problem = imaging_problem(inputs, _source_shape(rim, inputs), mass)
    return _figures(problem, rim.solve_last(problem), inputs)


def _figures(problem, source, inputs):
    """A source and what is said of it."""
    model_image = problem.model_image(source)
    flux = ops.sum(source, axis=(1, 2)) * inputs["source_pixel_scale"] ** 2
    image_flux = ops.sum(model_image, axis=(1, 2)) * inputs["pixel_scale"] ** 2
    return {
        "source": source,
        "model_image": model_image,
        "chi2": problem.chi2(model_image),
        "chi2_per_pixel": problem.chi2_per_pixel(model_image),
        "flux": flux,
        "magnification": ops.where(flux > 0, image_flux / ops.where(flux > 0, flux, 1.0), float("nan")),
        "flux_outside": problem.flux_outside(),
    }


def _model(networks, inputs):
    found = surest(judge(*see(networks.estimator, inputs), networks.estimator.mass))
    outputs = {"lens": found["lens"], "lens_covariance": found["covariance"], "field": found["field"]}
    inputs = {**inputs, "lens": found["lens"]}
    return outputs | _reconstruction(networks.rim, inputs, networks.estimator.mass)


def _together(networks, inputs):
    joint, mass, shape = networks.joint, networks.joint.mass, _source_shape(networks.joint, inputs)
    seen = surest(judge(*see(networks.estimator, inputs), mass))
    found = joint.search({**inputs, **from_samples(seen["samples"], mass)}, source_shape=shape)
    mean, covariance = LensPosterior(found["head"], mass).moments()
    lens = found["path"][:, -1]
    outputs = {"lens": lens, "lens_mean": mean, "lens_covariance": covariance, "field": seen["field"]}
    outputs["standard_deviation"] = ops.exp(found["log_error"])
    return outputs | _figures(imaging_problem({**inputs, "lens": lens}, shape, mass), found["source"], inputs)


def _log_likelihood(networks, inputs):
    with tf.GradientTape() as tape:
        tape.watch((inputs["source"], inputs["lens"]))
        problem = imaging_problem(inputs, ops.shape(inputs["source"])[1:], networks.mass)
        model_image = problem.model_image(inputs["source"])
        # Of many systems at once: the slope of the sum, in the numbers of one, is that of its own.
        log_likelihood = problem.log_likelihood(model_image)
    in_source, in_lens = tape.gradient(log_likelihood, (inputs["source"], inputs["lens"]))
    return {
        "log_likelihood": log_likelihood,
        "gradient_source": in_source,
        "gradient_lens": in_lens,
        "model_image": model_image,
    }


def _simulate(networks, inputs):
    inputs = {**inputs, "image": inputs["noise_rms"]}
    model_image = imaging_operator(inputs, ops.shape(inputs["source"])[1:], networks.mass).forward(inputs["source"])
    shape = tf.shape(model_image)[1:]

    def unit_noise(seed):
        return tf.random.stateless_normal(shape, [seed, 0], alg="philox")

    # Each system's own seed, so that it gets the same noise in whatever batch it is.
    noise = tf.map_fn(unit_noise, inputs["seed"], fn_output_signature=tf.TensorSpec([None, None]))
    return {"model_image": model_image, "image": model_image + inputs["noise_rms"] * noise}


def _invert(networks, inputs):
    shape = ops.shape(inputs["prior_mean"])[1:]
    why = f"prior_mean may have at most {_LARGEST_INVERSION} pixels"
    tf.debugging.assert_less_equal(shape[0] * shape[1], _LARGEST_INVERSION, why)

    def invert_one(inputs):
        """In float64, where the factors of its matrices need it; one at a time, for they are large."""
        one = {name: tf.cast(value, "float64") if value.dtype.is_floating else value for name, value in inputs.items()}
        problem = imaging_problem({name: value[None] for name, value in one.items()}, shape, networks.mass)
        return invert(problem, *(one[name] for name in ("strength", "regularisation", "prior_mean")))

    images = tf.TensorSpec([None, None], "float64")
    kinds = {"source": images, "standard_deviation": images, "log_evidence": tf.TensorSpec([], "float64")}
    found = tf.map_fn(invert_one, inputs, fn_output_signature=kinds, parallel_iterations=1)
    found = {name: tf.cast(value, "float32") for name, value in found.items()}
    return found | _figures(imaging_problem(inputs, shape, networks.mass), found["source"], inputs)


def _about(networks, inputs):
    said = {"mass_model": networks.mass.types, "lens_parameters": networks.mass.names}
    if networks.estimator is not None:
        said["found_mass_model"] = networks.estimator.mass.types
    return {name: tf.tile(tf.constant([words]), [tf.shape(inputs["item"])[0], 1]) for name, words in said.items()}


# ---------------------------------------------------------------------------------------------- and what it is called


@dataclasses.dataclass(frozen=True)
class Signature:
    """One of the functions of an exported model.

    Attributes:
      function: (`_Networks`, inputs) -> outputs.
      inputs: name -> `rim_tf.systems.Tensor`.
      about: what it does, a sentence.
      needs: names of `_Networks` without which it is not.
    """

    function: Callable
    inputs: dict
    about: str
    needs: tuple = ()


def _without(*names):
    return {name: tensor for name, tensor in IMAGING.items() if name not in names}


_ABOUT = {
    "serving_default": "The source behind a known lens, by the RIM.",
    "model": "Lens and source from the image alone: the estimator's lens, its covariance and the width of the field "
    "that it was found in [arcsec], then the RIM with that lens. Nothing is fitted; take a lens galaxy off before.",
    "together": "Lens and source from the image alone, by the network that improves both at every step from what the "
    "estimator finds: the lens with which the source was found, mean and covariance of its posterior, the source and "
    "the standard deviation of its pixels. Take a lens galaxy off before, and cut the frame to about 2.3 Einstein "
    "radii to each side of the lens.",
    "log_likelihood": "The log-likelihood (Eq. 6) of a source and a lens, and its gradients in both.",
    "simulate": "What a source looks like through a lens, without noise (model_image) and with (image).",
    "invert": "Linear inversion with its evidence, at a given strength of a prior (Suyu et al. 2006), dark beyond the "
    f"source grid, which is that of prior_mean: at most {_LARGEST_INVERSION} pixels.",
    "about": "The components of the mass model of `lens`, the names of its columns and, where there is an estimator, "
    "the components of the lens that `model` and `together` find.",
}
_OF_INVERSION = {
    "strength": Tensor(("batch",)),
    "regularisation": Tensor(("batch",), "int32"),
    "prior_mean": SOURCE,
}
_STAMPS = {
    "serving_default": Signature(_reconstruct, IMAGING, _ABOUT["serving_default"]),
    "model": Signature(_model, _without("lens"), _ABOUT["model"], ("estimator",)),
    "together": Signature(_together, _without("lens"), _ABOUT["together"], ("estimator", "joint")),
    "log_likelihood": Signature(_log_likelihood, IMAGING | {"source": SOURCE}, _ABOUT["log_likelihood"]),
    "simulate": Signature(_simulate, _without("image", "mask") | {"source": SOURCE, "seed": SEED}, _ABOUT["simulate"]),
    "invert": Signature(_invert, IMAGING | _OF_INVERSION, _ABOUT["invert"]),
}


def gaussian(name):
    """The signature that does the same as `name` for a PSF that is the sigma of a Gaussian, not a stamp."""
    return "gaussian_psf" if name == "serving_default" else f"{name}_gaussian_psf"


def _of_gaussian(each):
    return dataclasses.replace(
        each, inputs=each.inputs | {"psf": GAUSSIAN_PSF}, about=f"{each.about} The PSF is a Gaussian."
    )


# Name -> `Signature`.
SIGNATURES = _STAMPS | {gaussian(name): _of_gaussian(each) for name, each in _STAMPS.items()}
SIGNATURES["about"] = Signature(_about, {"item": Tensor(("batch",), "int32")}, _ABOUT["about"])


def _lacking(networks, name):
    """Networks that a signature needs and that there are not."""
    return [each for each in SIGNATURES[name].needs if getattr(networks, each) is None]


def export_saved_model(
    model: RIM,
    path: str | pathlib.Path,
    mass: MassModel = SIE_SHEAR,
    estimator: Estimator | None = None,
    provenance: dict | None = None,
    signatures: Sequence[str] | None = None,
    joint: JointRIM | None = None,
) -> None:
    """Write networks as a SavedModel directory with the signatures SIGNATURES, a model card and warm-up requests.

    Their inputs are those of `rim_tf.systems`, with batch and image size free. Those that reconstruct put out source
    [batch, n, n], n the image's longer side rounded up to the network's stride; model_image [batch, rows, columns]
    (Eq. 5); chi2, chi2_per_pixel, flux [image units arcsec^2], magnification and flux_outside, each [batch], as
    `rim_tf.results.SourceFit` has them. The model card in assets.extra lists all of it.

    Args:
      model: a built `RIM`.
      path: a directory that does not exist yet; it appears complete or not at all.
      mass: `MassModel`, to which the columns of the input `lens` belong.
      estimator: a built `Estimator`; without one there are no signatures `model` and `together`.
      provenance: what the weights are and where they come from, by name, for the model card.
      signatures: names of SIGNATURES; by default all that the networks allow.
      joint: a built `JointRIM` of the estimator's mass model; without one there are no signatures `together`.

    Raises:
      InputError: `path` exists, or cannot be written; a name that is none of SIGNATURES, or for which a network is
        missing; or a `joint` of another mass model.
      RuntimeError: the Keras backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"A SavedModel needs the tensorflow backend of Keras, not {keras.backend.backend()!r}.")
    path = pathlib.Path(path)
    if path.exists():
        raise InputError(f"{path} exists already; give a directory that does not, or remove it.")
    networks = _Networks(model, estimator, mass, joint)
    if estimator is not None and joint is not None and estimator.mass != joint.mass:
        raise InputError(
            f"The estimator knows the mass model {estimator.mass.types}, and the network that finds lens and source "
            f"together another, {joint.mass.types}; take weights of one mass model."
        )
    if signatures is None:
        signatures = [name for name in SIGNATURES if not _lacking(networks, name)]
    for name in signatures:
        if name not in SIGNATURES:
            raise InputError(f"There is no signature {name!r}; known are {', '.join(SIGNATURES)}.")
        if missing := _lacking(networks, name):
            raise InputError(f"The signature {name!r} needs the network {missing[0]!r}; give one.")
    # Not keras.export.ExportArchive, which traces every signature twice.
    module = tf.Module()
    given = (each for each in (model, estimator, joint) if each is not None)
    module.weights = [variable.value for each in given for variable in each.variables]
    outputs = {}  # name -> those of a signature, once it is traced
    traced = {name: _traced(name, networks, outputs) for name in signatures}
    for name, each in traced.items():
        setattr(module, name, each)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name that is no number, and so none of a version that a server looks for.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            unfinished = pathlib.Path(folder) / "model"
            # Of these it traces each once; of concrete functions, which were not traced within it, each again.
            tf.saved_model.save(module, str(unfinished), traced, options)
            extra = unfinished / "assets.extra"
            extra.mkdir()
            write_warm_up(extra / WARM_UP, signatures, mass)
            write_text(extra / "MODEL_CARD.md", _card(outputs, networks, provenance or {}))
            shutil.move(unfinished, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None


def _traced(name, networks, outputs):
    """The tf.function of one of SIGNATURES, which keeps under its name in `outputs` what it puts out when traced."""
    signature = SIGNATURES[name]
    specification = {
        name: tf.TensorSpec(
            [networks.mass.size if axis == "parameters" else None for axis in each.axes], each.dtype, name=name
        )
        for name, each in signature.inputs.items()
    }

    @tf.function(input_signature=[specification], autograph=False)
    def traced(inputs):
        _check_axes(signature, inputs)
        with plain():
            outputs[name] = _told(signature.function, networks, inputs)
        return outputs[name]

    return traced


def _told(function, networks, inputs):
    """The outputs, and `status` of each system: 0, or a number of `rim_tf_client.status`, the others then being NaN."""
    found = checks(inputs, networks.mass)
    if not found:
        return function(networks, inputs)
    numbers = {name: number for number, (name, _) in MUST_BE.items()}
    status = tf.zeros_like(next(iter(found.values())), "int32")
    for name in sorted(found, key=numbers.get, reverse=True):  # so that the first of them is told
        status = tf.where(found[name], status, numbers[name])
    outputs = function(networks, with_stand_ins(inputs, status == 0, networks.mass))
    for name, value in outputs.items():
        if name != "magnification":  # which a source without flux has none of
            finite = tf.reduce_all(tf.math.is_finite(value), axis=range(1, len(value.shape)))
            status = tf.where((status == 0) & ~finite, NO_RESULT, status)
    for name, value in outputs.items():
        good = tf.reshape(status == 0, [-1] + [1] * (len(value.shape) - 1))
        outputs[name] = tf.where(good, value, float("nan"))
    return outputs | {"status": status}


def _check_axes(signature, inputs):
    """Refuse inputs whose axes do not belong together: what broadcasts would pass, and be wrong without a word."""
    sizes = {}
    for name, each in signature.inputs.items():
        for i, axis in enumerate(each.axes):
            sizes.setdefault(axis, []).append((name, tf.shape(inputs[name])[i]))
    for axis, ((first, size), *others) in sizes.items():
        for name, other in others:
            tf.debugging.assert_equal(size, other, f"{first} and {name} must have the same number of {axis}")
        if axis.startswith("stamp"):
            tf.debugging.assert_equal(size % 2, 1, f"psf must have an odd number of {axis}")


# ------------------------------------------------------------------------------------------------- what lies beside it

# Pixels on a side of the image and of the source in them.
_WARM_UP_PIXELS = 64


def write_warm_up(path, signatures, mass=SIE_SHEAR):
    """A request to each of the signatures, of one lens, as a TFRecord file.

    Args:
      path: of the file.
      signatures: names of SIGNATURES.
      mass: `MassModel` of the exported model.
    """
    with tf.io.TFRecordWriter(str(path)) as file:
        for name in signatures:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = name
            for key, array in example(name, mass).items():
                request.inputs[key].CopyFrom(to_proto(array))
            file.write(log.SerializeToString())


def example(name, mass=SIE_SHEAR, pixels=_WARM_UP_PIXELS):
    """Inputs of one of SIGNATURES, of a ring around a lens without ellipticity, as NumPy arrays with a batch of one.

    Args:
      name: of the signature.
      mass: `MassModel` of the exported model.
      pixels: on a side of the image.
    """
    scale = 0.08
    y, x = (np.mgrid[:pixels, :pixels] - (pixels - 1) / 2) * scale
    theta_E = pixels * scale / 4
    psf = np.exp(-((np.arange(-2, 3)[:, None] ** 2 + np.arange(-2, 3) ** 2) / 2.0))
    # Numbers that are within the bounds of every column.
    lens = mass.from_real(np.zeros((1, mass.size), np.float32))
    arrays = {
        "image": np.exp(-(((np.hypot(x, y) - theta_E) / 0.2) ** 2)),
        "noise_rms": np.full((pixels, pixels), 0.02),
        "mask": np.ones((pixels, pixels)),
        "psf": psf / psf.sum() if SIGNATURES[name].inputs.get("psf") is not GAUSSIAN_PSF else np.float64(0.05),
        "lens": ops.convert_to_numpy(lens)[0],
        "pixel_scale": np.float64(scale),
        "source_pixel_scale": np.float64(SOURCE_SCALE_RATIO * scale),
        "source": np.exp(-((x / 2) ** 2 + (y / 2) ** 2) / 0.1),
        "seed": np.int32(0),
        "strength": np.float64(10.0),
        "regularisation": np.int32(1),
        "prior_mean": np.zeros((16, 16)),
        "item": np.int32(0),
    }
    return {key: arrays[key][None].astype(each.dtype) for key, each in SIGNATURES[name].inputs.items()}


_UNITS = {
    "image": "surface brightness in any unit; what is masked may be anything",
    "noise_rms": "standard deviation of each pixel, unit of the image, above 0 where the mask is true",
    "mask": "true where a pixel is to be used",
    "psf": "stamps of odd sides and unit sum, or sigma of a Gaussian [arcsec]",
    "lens": "parameters of the lens, in the order above",
    "pixel_scale": "of the image [arcsec]",
    "source_pixel_scale": f"of the source [arcsec]; trained at {SOURCE_SCALE_RATIO:.4g} of the image's",
    "source": "surface brightness, centred on (0, 0)",
    "seed": "of the noise",
    "strength": "lambda of the prior exp(-lambda / 2 (s - m)^T H (s - m)) [1 / brightness^2]",
    "regularisation": "H: 0 for brightness, 1 for gradient, 2 for curvature",
    "prior_mean": "m, on the grid of the source; zeros where nothing is known of it",
    "item": "any number",
}
_CARD = """# Lens and source by a Recurrent Inference Machine

A SavedModel for TensorFlow Serving or `tf.saved_model.load`, by rim_tf {{ version }}, which it does not need.

Row 0 of an image is the smallest y, the centre of the field is (0, 0), angles run anticlockwise from +x, lengths are in
arcsec. The mass model of `lens` is {{ types | join(" + ") }}, its columns {{ names | join(", ") }}.
Every axis but that one is free; the batch is the first of each.
`status` is 0, or says why a system could not be used, all its other outputs being NaN; the other systems of its batch
have theirs. `rim-tf serve` and `rim_tf_client` make an error of such a request (INVALID_ARGUMENT).

## Signatures
{% for name, each in signatures.items() %}
### `{{ name }}`

{{ each.about }}

| | type | axes |
|---|---|---|
{% for key, tensor in each.inputs.items() -%}
| in: `{{ key }}` | {{ tensor.dtype }} | {{ tensor.axes | join(", ") }} |
{% endfor %}{% for key, tensor in outputs[name].items() -%}
| out: `{{ key }}` | {{ tensor.dtype.name }} | {{ tensor.shape.rank }} axes |
{% endfor %}{% endfor %}
| input | what it is |
|---|---|
{% for key, text in units.items() %}| `{{ key }}` | {{ text }} |
{% endfor %}
| status | what is wrong |
|---|---|
| 0 | nothing |
{% for number, (name, must_be) in must_be.items() %}| {{ number }} | `{{ name }}` must be {{ must_be }} |
{% endfor %}| {{ no_result }} | there is no finite result: some number is too large or too small |

## What it was made of

{% for name, text in provenance.items() %}- {{ name }}: {{ text }}
{% else %}- not stated
{% endfor %}"""


def _card(outputs, networks, provenance):
    from rim_tf import __version__

    return jinja2.Template(_CARD, keep_trailing_newline=True).render(
        version=__version__,
        types=networks.mass.types,
        names=networks.mass.names,
        signatures={name: SIGNATURES[name] for name in outputs},
        outputs=outputs,
        units=_UNITS,
        must_be=MUST_BE,
        no_result=NO_RESULT,
        provenance=provenance,
    )
