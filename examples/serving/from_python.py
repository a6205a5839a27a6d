"""Many lenses through a model server, from a pipeline without TensorFlow.

python examples/serving/from_python.py SERVER
"""

import sys

import numpy as np

from rim_tf_client import Client, ServerError


def rings(n, pixels=32, pixel_scale=0.16):
    """Requests of one noisy ring each, [1, rows, columns]."""
    y, x = (np.mgrid[:pixels, :pixels] - (pixels - 1) / 2) * pixel_scale
    rng = np.random.default_rng(0)
    for _ in range(n):
        theta_E, noise_rms = rng.uniform(0.9, 1.3), 0.02
        image = np.exp(-(((np.hypot(x, y) - theta_E) / 0.2) ** 2)) + rng.normal(scale=noise_rms, size=x.shape)
        arrays = {
            "image": image,
            "noise_rms": np.full(x.shape, noise_rms),
            "psf": 0.05,
            "lens": [theta_E, 0, 0, 0, 0, 0, 0],
            "pixel_scale": pixel_scale,
            "source_pixel_scale": 0.39 * pixel_scale,
        }
        arrays = {name: np.float32(value)[None] for name, value in arrays.items()}
        yield arrays | {"mask": np.ones((1, *x.shape), bool)}


def main(server, n=20, signature="gaussian_psf"):
    magnifications = []
    with Client(server, timeout=60) as client:
        for i, outputs in enumerate(client.predict_many(signature, rings(n), at_once=8)):
            if isinstance(outputs, ServerError):
                print(f"lens {i}: {outputs}")
            else:
                magnifications.append(float(outputs["magnification"][0]))
    print(f"{len(magnifications)} of {n} lenses, median magnification {np.median(magnifications):.1f}")
    return magnifications


if __name__ == "__main__":
    main(sys.argv[1])
