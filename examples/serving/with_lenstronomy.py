"""A lenstronomy user, his own mass model, and the source and the gradients of a SavedModel; rim_tf is not imported.

python examples/serving/with_lenstronomy.py models/rim/1 lens.npz
lens.npz holds image, noise_rms [n, n], psf (a sigma), pixel_scale and lens, the seven parameters of a first guess.
"""

import sys

import numpy as np
import tensorflow as tf
from lenstronomy.ImSim.image2source_mapping import Image2SourceMapping
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from scipy.ndimage import gaussian_filter

RATIO = 0.39  # source pixel over image pixel, as the network was trained


def inputs_of(system, lens):
    """What the signatures take, with a batch of one."""
    image, scale = np.float32(system["image"]), np.float32(system["pixel_scale"])
    arrays = {
        "image": image,
        "noise_rms": np.float32(system["noise_rms"]),
        "mask": np.ones(image.shape, bool),
        "psf": np.float32(system["psf"]),
        "lens": np.float32(lens),
        "pixel_scale": scale,
        "source_pixel_scale": np.float32(RATIO * scale),
    }
    return {name: tf.constant(value[None]) for name, value in arrays.items()}


def log_likelihood_of_power_law(system, source, lens, slope):
    """Of lenstronomy's own elliptical power law and shear, and of our source as a light profile of lenstronomy's."""
    n, scale = len(system["image"]), float(system["pixel_scale"])
    theta_E, e1, e2, x, y, gamma1, gamma2 = map(float, lens)
    power_law = {"theta_E": theta_E, "gamma": slope, "e1": e1, "e2": e2, "center_x": x, "center_y": y}
    shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": 0, "dec_0": 0}
    light = {"image": source, "amp": 1, "center_x": 0, "center_y": 0, "phi_G": 0, "scale": RATIO * scale}
    mapping = Image2SourceMapping(LensModel(["EPL", "SHEAR"]), LightModel(["INTERPOL"]))
    theta_y, theta_x = (np.mgrid[:n, :n] - (n - 1) / 2) * scale
    sky = mapping.image_flux_joint(theta_x.ravel(), theta_y.ravel(), [power_law, shear], [light])
    model = gaussian_filter(sky.reshape(n, n), float(system["psf"]) / scale, mode="constant")
    return -0.5 * (((system["image"] - model) / system["noise_rms"]) ** 2).sum()


def main(path, system, steps=30):
    saved = tf.saved_model.load(path)
    reconstruct, likelihood = saved.signatures["gaussian_psf"], saved.signatures["log_likelihood_gaussian_psf"]
    source = reconstruct(**inputs_of(system, system["lens"]))["source"]

    # His model: a power law of any slope, for which the graph has no signature. Ours is the one of slope 2.
    slopes = np.linspace(1.9, 2.1, 5)
    of_slope = [log_likelihood_of_power_law(system, source[0].numpy(), system["lens"], each) for each in slopes]

    # His sampler, Langevin's with Metropolis's test, with our gradients.
    rng, lens = np.random.default_rng(0), np.float64(system["lens"])
    width = 1e-4 * np.ones(7)

    def evaluate(lens):
        outputs = likelihood(**inputs_of(system, lens), source=source)
        return float(outputs["log_likelihood"][0]), np.float64(outputs["gradient_lens"][0])

    value, slope = evaluate(lens)
    chain, accepted = [], 0
    for _ in range(steps):
        ahead = lens + width**2 * slope / 2
        new = ahead + width * rng.normal(size=7)
        new_value, new_slope = evaluate(new)
        back = new + width**2 * new_slope / 2
        ratio = new_value - value + (((new - ahead) / width) ** 2).sum() / 2 - (((lens - back) / width) ** 2).sum() / 2
        if np.log(rng.uniform()) < ratio:
            lens, value, slope, accepted = new, new_value, new_slope, accepted + 1
        chain.append(value)
    print(f"slope of the power law that explains most: {slopes[np.argmax(of_slope)]:.2f}")
    print(f"log-likelihood {chain[0]:.1f} -> {chain[-1]:.1f}, {accepted} of {steps} steps taken")
    return slopes, np.array(of_slope), np.array(chain), evaluate


if __name__ == "__main__":
    main(sys.argv[1], dict(np.load(sys.argv[2])))
