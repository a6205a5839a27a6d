"""A trained RIM as a SavedModel that TensorFlow alone can run, without rim_tf."""

import pathlib
import shutil
import tempfile

import keras
import tensorflow as tf
from keras import ops

from rim_tf.errors import InputError
from rim_tf.models.rim import RIM
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel
from rim_tf.systems import GAUSSIAN_PSF, IMAGING

# Signature -> its inputs: the PSF is a stamp for each system, or a Gaussian sigma.
SIGNATURES = {"serving_default": IMAGING, "gaussian_psf": IMAGING | {"psf": GAUSSIAN_PSF}}


def export_saved_model(model: RIM, path: str | pathlib.Path, mass: MassModel = SIE_SHEAR) -> None:
    """Write `model` as a SavedModel directory with the signatures SIGNATURES.

    Their inputs are those of `rim_tf.systems.IMAGING`, with batch and image size free. Their outputs: source
    [batch, n, m], with n and m the image's sides rounded up to the network's stride; model_image
    [batch, rows, columns] (Eq. 5); chi2_per_pixel [batch].

    Args:
      model: a built `RIM`.
      path: a directory that does not exist yet; it appears complete or not at all.
      mass: `MassModel`, to which the columns of the input `lens` belong.

    Raises:
      InputError: `path` exists, or cannot be written.
      RuntimeError: the Keras backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"A SavedModel needs the tensorflow backend of Keras, not {keras.backend.backend()!r}.")
    path = pathlib.Path(path)
    if path.exists():
        raise InputError(f"{path} exists already; give a directory that does not, or remove it.")
    # Not keras.export.ExportArchive, which traces every signature twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    for name in SIGNATURES:
        setattr(module, name, _signature(name, model, mass))
    signatures = {name: getattr(module, name) for name in SIGNATURES}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            tf.saved_model.save(module, folder + "/model", signatures, options)
            shutil.move(folder + "/model", path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None


def _signature(name, model, mass):
    """The tf.function of that name; every axis of its inputs is free but that of the lens's parameters."""
    specification = {
        name: tf.TensorSpec([mass.size if axis == "parameters" else None for axis in each.axes], each.dtype, name=name)
        for name, each in SIGNATURES[name].items()
    }

    @tf.function(input_signature=[specification], autograph=False)
    def reconstruct(inputs):
        problem = imaging_problem(inputs, model.source_shape(ops.shape(inputs["image"])[1:]), mass)
        source = model.solve(problem)[:, -1]
        model_image = problem.model_image(source)
        return {
            "source": source,
            "model_image": model_image,
            "chi2_per_pixel": problem.chi2_per_pixel(model_image),
        }

    return reconstruct
