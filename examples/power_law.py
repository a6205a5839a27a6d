"""A lens that is no SIE: a steep power law with a second deflector and shear, by the same weights.

python examples/power_law.py PICTURE.png
"""

import sys

import rim_tf
from rim_tf.data.single import draw_system, observe_system
from rim_tf.lens import Component, CompositeLens

LENS = CompositeLens(
    Component("power_law", theta_E=1.2, slope=2.25, e1=0.1, e2=-0.08),
    Component("sie", theta_E=0.25, x_lens=1.3, y_lens=0.6),
    Component("shear", gamma1=0.03, gamma2=-0.02),
)


def main(picture=None):
    _, source, source_scale = draw_system(seed=3, pixels=64, pixel_scale=0.08, lens=LENS)
    observation, _ = observe_system(3, LENS, source, source_scale, 64, 0.08, noise=0.01, psf=0.05)
    result = rim_tf.reconstruct(observation, LENS)
    print(f"chi^2 per pixel {result.chi2_per_pixel:.3f}, magnification {result.magnification:.1f}")
    if picture:
        result.plot(truth=source).savefig(picture)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
