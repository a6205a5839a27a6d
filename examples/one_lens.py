"""From a FITS file to a source: simulate a lens, read it as one would read a telescope's, reconstruct, save.

python examples/one_lens.py OUT
"""

import pathlib
import sys

import rim_tf
from rim_tf import io
from rim_tf.data.single import draw_system, observe_system


def main(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    lens, source, source_scale = draw_system(seed=28, pixels=64, pixel_scale=0.08)
    observation, noiseless = observe_system(28, lens, source, source_scale, 64, 0.08, noise=0.01, psf=0.05)
    io.write_simulation(out, observation, lens, source, source_scale, noiseless)

    observation = io.read_observation(out / "image.fits", noise=out / "noise.fits", psf=0.05, mask=out / "mask.fits")
    lens = io.read_lens(out / "lens.json")
    result = rim_tf.reconstruct(observation, lens)
    print(f"chi^2 per pixel {result.chi2_per_pixel:.3f}, magnification {result.magnification:.1f}")
    for doubt in result.doubts():
        print("But:", doubt)
    result.save(out / "source.fits")
    result.plot(truth=source).savefig(out / "source.png")
    return result


if __name__ == "__main__":
    main(sys.argv[1])
