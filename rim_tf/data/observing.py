"""What a telescope makes of a lensed image: PSF, noise, the lens galaxy's light, masks (Section 2.3 and beyond).

Only the Gaussian PSF and white noise are the paper's. All else is off unless a `MockConfig` turns it on; what is off
takes no random numbers away from what is on, so a stream keeps its images when an option is added here.
"""

import math

import numpy as np
from keras import ops

from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.physics.light import elliptical_radius2, sersic
from rim_tf.physics.psf import GaussianBlur, blur_operator

# Standard deviations of a Gaussian PSF from which light comes in.
_REACH = 4.0
# Samples of a PSF along each side of a pixel, whose mean is the pixel's value.
_OVERSAMPLING = 5


def observe(draws, systems, config, psfs=None):
    """Blur and noise added to noiseless systems: the inputs of `RIM.call`.

    The noise rms is a fraction of the image's peak. Where a noise map is drawn, the variance is half of that for the
    background and, at the peak, as much as that for the photons; those of the lens galaxy count as well.

    Args:
      draws: `rim_tf.data.draws.Draws`.
      systems: dictionary as `mocks.draw_accepted` returns it.
      config: `MockConfig`.
      psfs: [n_psfs, k, k], stamps of odd side and sum 1 at the pixel scale of the images, one of which is the PSF of
        each system in the share `given_psf_fraction`; None for what the config describes.
    """
    lensed, n = systems["lensed"], ops.shape(systems["lensed"])[0]
    grid = PixelGrid(config.image_pixels, config.image_pixels, systems["pixel_scale"])
    sigma = draws.uniform([n], *config.psf_sigma)
    level = draws.log_uniform([n, 1, 1], *config.log_noise)
    photons = ops.cast(draws.uniform([n, 1, 1]) < config.noise_map_fraction, "float32")
    white = draws.normal(ops.shape(lensed))
    mask = _draw_masks(draws, n, grid, config)
    lens = _with_errors(draws, systems["lens"], config)

    psf = _draw_psfs(draws, sigma, systems["pixel_scale"], config, psfs)
    blurred = blur_operator(psf, grid).forward(lensed)
    sky = Sky(psf, grid, gaussian_reach(config.psf_sigma[1], config.log_pixel_scale[0]))
    peak = ops.max(blurred, axis=(1, 2), keepdims=True)
    counted, left = blurred, 0.0
    if config.lens_light_fraction > 0:
        light, fitted = (peak * sky.seen(each) for each in _draw_lens_light(draws, systems["lens"], sky.grid, config))
        counted, left = blurred + light, light - fitted
    if config.lens_galaxy_fraction > 0:
        galaxy = peak * sky.seen(_draw_lens_galaxy(draws, systems["lens"], sky.grid))
        is_in = draws.uniform([n, 1, 1]) < config.lens_galaxy_fraction
        counted, left = ops.where(is_in, blurred + galaxy, counted), ops.where(is_in, galaxy, left)
    if config.neighbour_fraction > 0:
        neighbours = peak * sky.seen(_draw_neighbours(draws, systems["lens"], sky.grid, config))
        counted, left = counted + neighbours, left + neighbours
    noise_rms = level * peak * ops.sqrt(1 - 0.5 * photons + photons * counted / peak)
    told = noise_rms
    if config.correlated_noise_fraction > 0:
        white, is_correlated = _correlate(draws, white, config)
        factor = draws.log_uniform([n, 1, 1], *config.log_noise_overestimate)
        told = noise_rms * ops.where(is_correlated, factor, 1.0)
    return {
        "image": blurred + left + noise_rms * white,
        "noise_rms": told,
        "mask": mask,
        "psf": psf,
        "lens": lens,
        "pixel_scale": systems["pixel_scale"],
        "source_pixel_scale": systems["source_pixel_scale"],
    }


def gaussian_reach(sigma, pixel_scale):
    """From how many pixels away a Gaussian PSF [arcsec] brings light."""
    return math.ceil(_REACH * sigma / pixel_scale)


class Sky:
    """Light that does not end with the frame, as a lens galaxy's: the PSF brings some in from beyond.

    Args:
      psf: as of `blur_operator`.
      frame: `PixelGrid`.
      reach: pixels from which light comes in, of a Gaussian PSF; of a stamp it is half its side.

    Attributes:
      grid: `PixelGrid` in whose pixels the light is wanted.
    """

    def __init__(self, psf, frame, reach):
        reach = max(psf.shape[1:]) // 2 if len(psf.shape) == 3 else reach
        rows, columns = (n + 2 * reach for n in (frame.rows, frame.columns))
        self.grid = PixelGrid(rows, columns, frame.pixel_scale)
        self._blur = blur_operator(psf, self.grid)
        self._cut = [slice(reach, n - reach) for n in (rows, columns)]

    def seen(self, light):
        """The frame's pixels, [batch, rows, columns], of light in those of `grid`."""
        return self._blur.forward(light)[(slice(None), *self._cut)]


def _draw_masks(draws, n, grid, config):
    """Boolean [n, k, k]: in some systems up to three round holes, as stars and neighbours leave them."""
    x, y = grid.coordinates()
    field = (grid.pixel_scale * config.image_pixels)[..., None]
    centre = field[None] * draws.uniform([2, n, 1, 1, 3], -0.5, 0.5)
    radius = field * draws.uniform([n, 1, 1, 3], 0.0, 0.08)
    with_holes = draws.uniform([n, 1, 1]) < config.mask_fraction
    distance2 = (x[..., None] - centre[0]) ** 2 + (y[..., None] - centre[1]) ** 2
    hole = ops.any(distance2 < radius**2, axis=-1)
    return ops.logical_not(hole & with_holes)


def _with_errors(draws, lens, config):
    """What the network is told of lenses [n, 7]: theta_E, e1, e2, x, y, and shear."""
    error = draws.normal(ops.shape(lens), config.lens_error)
    error *= _smaller(draws, [ops.shape(lens)[0], 1], config.lens_error_decades)
    return lens + error * ops.where(np.array([1, 0, 0, 1, 1, 0, 0], bool), lens[:, :1], 1.0)


def _smaller(draws, shape, decades):
    """By what the errors of each system are smaller than the largest: log-uniform over so many decades, 1 for none."""
    return draws.log_uniform(shape, 10**-decades, 1.0) if decades else 1.0


def _draw_psfs(draws, sigma, pixel_scale, config, psfs):
    """Gaussian sigmas [n], or stamps [n, k, k]."""
    drawn = sigma
    if config.psf_pixels and (psfs is None or config.given_psf_fraction < 1):
        n = ops.shape(sigma)[0]
        ellipticity, two_phi = draws.uniform([n], *config.psf_ellipticity), draws.uniform([n], 0, 2 * np.pi)
        fwhm = 2.3548 * sigma / pixel_scale
        beta = draws.uniform([n], *config.psf_beta)
        e1, e2 = ellipticity * ops.cos(two_phi), ellipticity * ops.sin(two_phi)
        drawn = moffat_stamps(fwhm, beta, e1, e2, config.psf_pixels)
    if psfs is None:
        return drawn
    psfs = ops.convert_to_tensor(psfs, "float32")
    given = ops.take(psfs, draws.integer([ops.shape(sigma)[0]], ops.shape(psfs)[0]), axis=0)
    if config.given_psf_fraction == 1:
        return given
    if given.shape[1:] != drawn.shape[1:]:
        raise InputError(
            f"The PSFs that are given have the shape {tuple(given.shape[1:])}; where they are a share of all, they "
            f"must have that of those that are drawn, {tuple(drawn.shape[1:])}."
        )
    return ops.where(draws.uniform([ops.shape(sigma)[0], 1, 1]) < config.given_psf_fraction, given, drawn)


def moffat_stamps(fwhm, beta, e1, e2, pixels):
    """Pixelated PSFs with wings, [n, pixels, pixels]: elliptical Moffat profiles (1 + r^2 / a^2)^-beta of sum 1.

    Args:
      fwhm: [n] [pixels], on the intermediate axis.
      beta: [n], above 1.
      e1: [n], ellipticity, as that of a lens.
      e2: likewise.
      pixels: side of the stamps, odd.
    """
    grid = PixelGrid(pixels * _OVERSAMPLING, pixels * _OVERSAMPLING, [1 / _OVERSAMPLING])
    x, y = grid.coordinates()
    fwhm, beta, e1, e2 = (value[:, None, None] for value in (fwhm, beta, e1, e2))
    # A PSF much narrower than the samples would fall between them.
    core = ops.maximum(fwhm, 1 / _OVERSAMPLING) / (2 * ops.sqrt(2 ** (1 / beta) - 1))
    profile = (1 + elliptical_radius2(x, y, e1, e2) / core**2) ** -beta
    stamps = ops.average_pool(profile[..., None], _OVERSAMPLING, _OVERSAMPLING, "valid")[..., 0]
    return stamps / ops.sum(stamps, axis=(1, 2), keepdims=True)


def _draw_lens_light(draws, lens, grid, config):
    """The lens galaxy and a fit to it that is a little wrong, [n, k, k] each, in units of the arcs' peak.

    The galaxy follows the mass in centre, and in ellipticity up to a scatter, has a half-light radius of 0.5-1.5
    theta_E and, there, 0.1-1 times the arcs' brightness. Every parameter of the fit is off by `lens_light_error`,
    which leaves dipoles at the centre, and the fit is a few times that above and below along radius and angle, as it is
    around masked arcs, which hide what it should follow.
    """
    column = [ops.shape(lens)[0], 1, 1]
    theta_E, e1, e2, x_lens, y_lens = (lens[:, i, None, None] for i in range(5))
    with_light = ops.cast(draws.uniform(column) < config.lens_light_fraction, "float32")
    brightness = with_light * draws.log_uniform(column, 0.1, 1.0)
    radius, index = theta_E * draws.uniform(column, 0.5, 1.5), draws.uniform(column, 2.0, 5.0)
    e1, e2 = e1 + draws.normal(column, 0.03), e2 + draws.normal(column, 0.03)
    x, y = grid.coordinates()
    x, y = x - x_lens, y - y_lens
    pixel = grid.pixel_scale

    smaller = _smaller(draws, column, config.lens_light_error_decades)

    def error():
        return smaller * draws.normal(column, config.lens_light_error)

    light = _galaxy(x, y, pixel, radius, index, e1, e2)
    fit = _galaxy(
        x + 10 * pixel * error(),
        y + 10 * pixel * error(),
        pixel,
        radius * ops.exp(error()),
        index * ops.exp(error()),
        e1 + error(),
        e2 + error(),
    )
    size = ops.sqrt(elliptical_radius2(x, y, e1, e2) + pixel**2) / radius
    wave = ops.cos(draws.uniform(column, 1.0, 4.0) * ops.log(size) + draws.uniform(column, 0, 2 * np.pi))
    turned = draws.uniform(column, 0, 2 * np.pi)
    lobes = ((x**2 - y**2) * ops.cos(turned) + 2 * x * y * ops.sin(turned)) / (x**2 + y**2 + pixel**2)
    fit *= ops.exp(error()) + 5 * error() * wave + 5 * error() * lobes
    return brightness * light, brightness * fit


def _draw_lens_galaxy(draws, lens, grid):
    """Lens galaxies that nobody has taken off, [n, k, k], in units of the arcs' peak.

    From fainter than the arcs to far above them: a half-light radius of 0.3-3 theta_E and, there, 0.03-3 times the
    arcs' brightness; a second component on the same centre, a disc or a halo, with up to as much light. Light follows
    the mass in centre to a tenth of theta_E or so, and in ellipticity up to a scatter.
    """
    column = [ops.shape(lens)[0], 1, 1]
    theta_E, e1, e2, x_lens, y_lens = (lens[:, i, None, None] for i in range(5))
    x, y = grid.coordinates()
    x, y = x - x_lens - theta_E * draws.normal(column, 0.03), y - y_lens - theta_E * draws.normal(column, 0.03)
    pixel = grid.pixel_scale
    brightness, radius = draws.log_uniform(column, 0.03, 3.0), theta_E * draws.log_uniform(column, 0.3, 3.0)
    # A bright galaxy is not a large one too, or it would fill the frame.
    brightness *= ops.minimum(1.0, theta_E / radius)

    def component(radius, index):
        e = [value + draws.normal(column, 0.08) for value in (e1, e2)]
        shrink = ops.minimum(1.0, 0.6 / ops.maximum(ops.sqrt(e[0] ** 2 + e[1] ** 2), 1e-6))
        return _galaxy(x, y, pixel, radius, index, *(value * shrink for value in e))

    first = component(radius, draws.uniform(column, 1.0, 5.0))
    second = component(radius * draws.log_uniform(column, 0.3, 3.0), draws.uniform(column, 0.7, 2.0))
    return brightness * (first + draws.uniform(column) * second)


def _draw_neighbours(draws, lens, grid, config):
    """Up to three small galaxies outside of 1.4 theta_E, [n, k, k], in units of the arcs' peak."""
    x, y = (position[..., None] for position in grid.coordinates())
    shape = [ops.shape(lens)[0], 1, 1, 3]
    field = (grid.pixel_scale * config.image_pixels)[..., None]
    theta_E, x_lens, y_lens = (lens[:, i, None, None, None] for i in (0, 3, 4))
    there = draws.uniform([shape[0], 1, 1, 1]) < config.neighbour_fraction
    x_own, y_own = (field * draws.uniform(shape, -0.5, 0.5) for _ in range(2))
    there &= (x_own - x_lens) ** 2 + (y_own - y_lens) ** 2 > (1.4 * theta_E) ** 2
    there &= draws.uniform(shape) < 0.5
    e = [draws.uniform(shape, -0.3, 0.3) for _ in range(2)]
    radius, index = field * draws.log_uniform(shape, 0.01, 0.05), draws.uniform(shape, 0.7, 4.0)
    light = draws.log_uniform(shape, 0.03, 1.0) * _galaxy(
        x - x_own, y - y_own, grid.pixel_scale[..., None], radius, index, *e
    )
    return ops.sum(ops.where(there, light, 0.0), axis=-1)


def _galaxy(x, y, pixel, radius, index, e1, e2):
    """A Sersic profile, 1 at its half-light radius."""
    # Within half a pixel of its centre the cusp is flat: a pixel is a mean, and no cusp could be seen.
    return sersic(elliptical_radius2(x, y, e1, e2) + (0.5 * pixel) ** 2, radius, index, ops.exp)


def _correlate(draws, white, config):
    """White noise blurred by a Gaussian in a share of the systems, as drizzling does, and whether it is, [n, 1, 1].

    The rms stays 1 everywhere.
    """
    n, rows, columns = white.shape
    sigma = draws.uniform([n], *config.noise_correlation)
    correlated = draws.uniform([n, 1, 1]) < config.correlated_noise_fraction
    blur = GaussianBlur(sigma, PixelGrid(rows, columns, ops.ones([n])))
    # The variance of a sum of independent numbers; less light than noise comes from beyond the frame's edge.
    variance = ops.sum(blur.along_rows**2, axis=-1)[:, :, None] * ops.sum(blur.along_columns**2, axis=-1)[:, None]
    return ops.where(correlated, blur.forward(white) / ops.sqrt(variance), white), correlated
