"""The RIM and linear inversion on many lenses at once, each with its own noise, PSF and lens.

python examples/two_methods.py
"""

import numpy as np

import rim_tf
from rim_tf.data.single import draw_system, observe_system
from rim_tf.evaluation.metrics import rms_error


def main(n=3):
    observations, lenses, truths = [], [], []
    for seed in range(n):
        lens, source, source_scale = draw_system(seed, pixels=64, pixel_scale=0.08)
        noise, psf = 0.005 * (1 + seed), 0.03 * (1 + seed)
        observations.append(observe_system(seed, lens, source, source_scale, 64, 0.08, noise, psf)[0])
        lenses.append(lens)
        truths.append(source)
    by_rim = rim_tf.reconstruct(observations, lenses)
    by_inversion = [rim_tf.invert(*each, solver="matrix-free") for each in zip(observations, lenses, strict=True)]
    errors = {}
    for name, results in (("RIM", by_rim), ("linear inversion", by_inversion)):
        errors[name] = [100 * float(rms_error(t, r.source)) for t, r in zip(truths, results, strict=True)]
        print(f"{name}: median RMS error {np.median(errors[name]):.2f} % of the peak")
    return errors


if __name__ == "__main__":
    main()
