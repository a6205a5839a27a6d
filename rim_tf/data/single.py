"""One simulated lens at a time, from parameters or drawn at random, as an `Observation` with its truth."""

import numpy as np
import tensorflow as tf

from rim_tf.config import SOURCE_SCALE_RATIO, MockConfig
from rim_tf.data import mocks, seeds
from rim_tf.data.observing import Sky, gaussian_reach
from rim_tf.data.sources.procedural import clumpy_spiral
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.light import elliptical_radius2, sersic
from rim_tf.results import half_light_radius
from rim_tf.systems import batch_of
from rim_tf.validation import from_json


def draw_system(seed, pixels, pixel_scale, lens=None, source=None, stream="simulate"):
    """A lens and a source; what is not given is drawn, the same for the same seed.

    Args:
      seed: whole number from 0 to 2^31 - 1.
      pixels: on a side of the image that is to come.
      pixel_scale: of that image [arcsec].
      lens: a lens, or None to draw as `rim_tf.config.MockConfig` says.
      source: (surface brightness [n, m], pixel scale [arcsec]), or None for a procedural clumpy spiral on the grid
        that `rim_tf.reconstruct` chooses by default.
      stream: a name in `seeds.STREAMS`.

    Returns:
      The lens, the source [n, m] and its pixel scale [arcsec].

    Raises:
      InputError: a seed, a number of pixels or a pixel scale out of range.
    """
    rng = seeds.generator(stream, seed)
    galaxy = clumpy_spiral(rng)
    stamps = mocks.GalaxyStamps([galaxy], [half_light_radius(galaxy)])
    source_pixels = pixels + pixels % 2
    asked = {"image_pixels": pixels, "source_pixels": source_pixels, "log_pixel_scale": (pixel_scale, pixel_scale)}
    config = from_json(MockConfig, asked, "The image that is asked for")
    if lens is None:
        system, tally = mocks.draw_accepted(seeds.seed_pair(stream, seed), 0, 1, stamps, config)
        mocks.check_tally(1, tally, config)
        lens = LensParameters(*map(float, system["lens"][0]))
        if source is None:
            return lens, system["source"][0].numpy(), pixel_scale * SOURCE_SCALE_RATIO
    if source is not None:
        return lens, *source
    # As a fraction of theta_E the galaxy is where, and as large as, MockConfig has it on average.
    radius, (x, y) = lens.theta_E * rng.uniform(0.15, 0.3), lens.theta_E * rng.normal(0, 0.2, 2)
    source_scale = np.float32(pixel_scale * SOURCE_SCALE_RATIO)
    place = [lens.x_lens + x, lens.y_lens + y, radius, rng.uniform(0, 2 * np.pi), 1.0, 1.0]
    source = mocks.place_sources(
        stamps,
        [0],
        PixelGrid(source_pixels, source_pixels, source_scale),
        *(tf.constant([value], tf.float32) for value in place),
    )
    return lens, source[0].numpy(), float(source_scale)


def observe_system(
    seed, lens, source, source_scale, pixels, pixel_scale, noise, psf, stream="simulate", lens_galaxy=0.0
):
    """`Observation` of a source, with white noise of rms `noise` times the peak; and its image without noise.

    Args:
      seed: of the noise, as in `draw_system`.
      lens: as `draw_system` returns it.
      source: likewise.
      source_scale: likewise.
      pixels: on a side of the image.
      pixel_scale: of the image [arcsec].
      noise: its rms over the image's peak.
      psf: as in `Observation`.
      stream: as in `draw_system`.
      lens_galaxy: light of a lens galaxy that is in the image too, at its half-light radius and over the peak of the
        lensed source's image; of de Vaucouleurs' law, with the lens's centre, ellipticity and Einstein radius.

    Raises:
      InputError: a PSF that `Observation` refuses, or none of the source's light reaches the image.
    """
    # Whatever is wrong with the PSF is said here, before anything is blurred by it.
    blank = Observation(np.ones((pixels, pixels)), 1.0, psf, None, pixel_scale)
    inputs = batch_of([blank], [lens], [source_scale])
    noiseless = np.asarray(
        imaging_operator(inputs, source.shape, lens.mass).forward(source[None].astype(np.float32))[0]
    )
    peak = float(noiseless.max())
    if peak <= 0:
        raise InputError("None of the source's light reaches the image; check the lens and the source's pixel scale.")
    galaxy = 0.0 if not lens_galaxy else lens_galaxy * peak * _galaxy(lens, blank)
    image = noiseless + galaxy + noise * peak * seeds.generator(stream, seed, 1).normal(size=noiseless.shape)
    return Observation(image, noise * peak, blank.psf, None, pixel_scale), noiseless


def _galaxy(lens, observation):
    """A galaxy about a lens, 1 at its half-light radius, as an observation of such a frame and PSF shows it."""
    psf = np.float32([observation.psf])
    frame = PixelGrid(*observation.shape, np.float32([observation.pixel_scale]))
    reach = gaussian_reach(observation.psf, observation.pixel_scale) if psf.ndim == 1 else None
    sky = Sky(psf, frame, reach)
    x, y = sky.grid.coordinates()
    named = lens.named()
    radius2 = elliptical_radius2(x - lens.x_lens, y - lens.y_lens, named.get("e1", 0.0), named.get("e2", 0.0))
    # Within half a pixel of its centre the cusp is flat, as the mean over a pixel is.
    light = sersic(radius2 + (0.5 * observation.pixel_scale) ** 2, lens.theta_E, 4.0, np.exp)
    return np.asarray(sky.seen(np.float32(light)))[0]
