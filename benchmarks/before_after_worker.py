"""What a user waits for, in one version of rim_tf, which PYTHONPATH names: the worker of before_after.py.

    python before_after_worker.py THREADS OBSERVATIONS.npz

OBSERVATIONS.npz has image_N [k, N, N], noise_N, psf_N, scale_N [k] and lens_N [k, 7] for each size N, and for "lens"
with_galaxy_N and start_N, images with the lens galaxy and starts of a fit. A case is {"task": "reconstruct" or
"exported", "pixels": N, "batch": b} or {"task": "lens", "pixels": N, "system": i}. Only public functions are called,
and their arguments by position, so that many versions can be compared.
"""

import sys
import tempfile

from timing import limit_threads, serve

if __name__ == "__main__":
    limit_threads(int(sys.argv[1]))

import numpy as np


def systems(arrays, case):
    """The first systems of this size, as two lists: `Observation` and `LensParameters`."""
    import rim_tf

    n = case["pixels"]
    mine = [arrays[f"{name}_{n}"][: case["batch"]] for name in ("image", "noise", "psf", "scale", "lens")]
    observations, lenses = [], []
    for image, noise, psf, scale, lens in zip(*mine, strict=True):
        observations.append(rim_tf.Observation(image, float(noise), float(psf), None, float(scale)))
        lenses.append(rim_tf.LensParameters(*map(float, lens)))
    return observations, lenses


def reconstruct(arrays, case):
    import rim_tf

    observations, lenses = systems(arrays, case)

    def call():
        return rim_tf.reconstruct(observations, lenses)

    return call, lambda: {"source": np.stack([each.source for each in call()])}


def exported(arrays, case):
    import tensorflow as tf

    from rim_tf.export import export_saved_model

    n, batch = case["pixels"], case["batch"]
    with tempfile.TemporaryDirectory() as folder:
        export_saved_model(_shipped(), folder + "/model")
        loaded = tf.saved_model.load(folder + "/model")
    scale = arrays[f"scale_{n}"][:batch].astype(np.float32)
    image = arrays[f"image_{n}"][:batch].astype(np.float32)
    inputs = {
        "image": image,
        "noise_rms": np.ones_like(image) * arrays[f"noise_{n}"][:batch, None, None].astype(np.float32),
        "psf": arrays[f"psf_{n}"][:batch].astype(np.float32),
        "mask": np.ones(image.shape, bool),
        "lens": arrays[f"lens_{n}"][:batch].astype(np.float32),
        "pixel_scale": scale,
        "source_pixel_scale": scale * np.float32(3 / 192 / 0.04),
    }
    inputs = {name: tf.constant(value) for name, value in inputs.items()}

    def call():
        return loaded.signatures["gaussian_psf"](**inputs)["source"].numpy()

    return call, lambda: {"source": call()}


def lens(arrays, case):
    """A lens and its galaxy from the image: by `workflow.model`, which needs no start, where the version has it."""
    import importlib

    import rim_tf

    n, i = case["pixels"], case["system"]
    noise, psf, scale = (float(arrays[f"{name}_{n}"][i]) for name in ("noise", "psf", "scale"))
    seen = rim_tf.Observation(arrays[f"with_galaxy_{n}"][i], noise, psf, None, scale)
    start = rim_tf.LensParameters(*map(float, arrays[f"start_{n}"][i]))
    try:
        find = importlib.import_module("rim_tf.inference.workflow").model
    except (ImportError, AttributeError):
        find = None

    def call():
        if find is not None:
            return find(seen).lens
        light = importlib.import_module("rim_tf.inference.lens_light").subtract_lens_light(seen, start)
        optimise = importlib.import_module("rim_tf.inference.optimise")
        return optimise.optimise_lens(optimise.cropped(light.observation, 2.3 * start.theta_E), start).lens

    return call, lambda: {"theta_E": np.array([call().theta_E])}


def _shipped():
    import rim_tf

    return rim_tf.load_pretrained("small")


TASKS = {"reconstruct": reconstruct, "exported": exported, "lens": lens}


if __name__ == "__main__":
    OBSERVATIONS = dict(np.load(sys.argv[2]))
    serve(lambda case: TASKS[case["task"]](OBSERVATIONS, case))
