"""A trained RIM as a SavedModel that TensorFlow alone can run, with rim_tf nowhere in sight."""

import pathlib
import shutil
import tempfile

import keras
import tensorflow as tf
from keras import ops

from rim_tf.errors import InputError
from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.likelihood import chi2, inverse_variance

_IMAGE = (None, None, None)
# Axis 0 of every input is the batch: model servers batch nothing else.
_SHAPES = {
    "image": _IMAGE,
    "noise_rms": _IMAGE,
    "mask": _IMAGE,
    "lens": (None, 7),
    "pixel_scale": (None,),
    "source_pixel_scale": (None,),
}
# Signature -> shape of its psf: one stamp for each system, or one Gaussian sigma [arcsec].
SIGNATURES = {"serving_default": _IMAGE, "gaussian_psf": (None,)}


def export_saved_model(model, path):
    """Write `model` as a SavedModel directory with the signatures SIGNATURES.

    Their inputs are those of `RIM.call`, with batch and image size free; `mask` may be of any batch, 1 where a pixel
    is to be used. Their outputs: source [batch, n, m], with n and m the image's sides rounded up to the network's
    stride; model_image [batch, rows, columns] (Eq. 5); chi2_per_pixel [batch].

    Args:
      model: a built `RIM`. path: a directory that does not exist yet; it appears complete or not at all.

    Raises:
      InputError: `path` exists, or cannot be written. RuntimeError: the Keras backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"A SavedModel needs the tensorflow backend of Keras, not {keras.backend.backend()!r}.")
    path = pathlib.Path(path)
    if path.exists():
        raise InputError(f"{path} exists already; give a directory that does not, or remove it.")
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, psf_shape in SIGNATURES.items():
        archive.add_endpoint(name, _signature(model), [_specification(psf_shape)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            archive.write_out(folder + "/model", verbose=False)
            shutil.move(folder + "/model", path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None


def _specification(psf_shape):
    specification = {
        name: tf.TensorSpec(shape, tf.bool if name == "mask" else tf.float32, name=name)
        for name, shape in _SHAPES.items()
    }
    return specification | {"psf": tf.TensorSpec(psf_shape, tf.float32, name="psf")}


def _signature(model):
    def reconstruct(inputs):
        source = model(inputs)[:, -1]
        model_image = imaging_operator(inputs, ops.shape(source)[1:]).forward(source)
        weight = inverse_variance(inputs["noise_rms"], inputs["mask"])
        data = ops.where(inputs["mask"], inputs["image"], 0.0)
        n_used = ops.sum(ops.cast(inputs["mask"], "float32"), axis=(1, 2))
        return {
            "source": source,
            "model_image": model_image,
            "chi2_per_pixel": chi2(data, model_image, weight) / ops.maximum(n_used, 1.0),
        }

    return reconstruct
