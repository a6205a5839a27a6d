"""Simulated lenses: priors and draws (Section 2.3), on whichever backend Keras runs.

Everything is drawn from a pair of `rim_tf.data.seeds` and the index of the batch, so that a stream is the same on every
machine with one backend, can be taken up at any batch after an interruption, and differs between any two batches.
"""

import numpy as np
from keras import ops

from rim_tf.data import seeds
from rim_tf.data.draws import Draws
from rim_tf.data.observing import observe
from rim_tf.errors import InputError
from rim_tf.grids import PixelGrid
from rim_tf.physics.lensing import LensingOperator

# Systems are drawn in rounds of twice as many as are wanted, and at least so many; after so many rounds it is given up.
_SMALLEST_ROUND, _ROUNDS = 16, 50
# What else is drawn for a batch is folded in where a round has its number, beyond those of all rounds.
_OBSERVING, _POOL = 1 << 20, 1 << 21
# How the sentence begins that says why too few systems are accepted; a graph of TensorFlow's wraps it in its own words.
REFUSAL = "Too few simulated systems are accepted"


class GalaxyStamps:
    """Source galaxies in memory: peak 1, zero at the border.

    Args:
      images: [n_galaxies, k, k].
      half_light_radius: [n_galaxies], in stamp pixels.
    """

    def __init__(self, images, half_light_radius):
        self.images = ops.convert_to_tensor(images, "float32")
        self.half_light_radius = ops.convert_to_tensor(half_light_radius, "float32")

    @classmethod
    def of(cls, galaxies):
        """The stamps of a `GalaxySet`."""
        return cls(galaxies.images, galaxies.half_light_radius)

    def __len__(self):
        return self.images.shape[0]


def draw_lenses(draws, n, config, field):
    """[n, 7] lens parameters for fields `field` [n] wide [arcsec]."""
    ellipticity, shear = draws.uniform([n], *config.ellipticity), draws.uniform([n], *config.shear)
    two_phi, two_phi_shear = draws.uniform([n], 0, 2 * np.pi), draws.uniform([n], 0, 2 * np.pi)
    return ops.stack(
        [
            field * draws.uniform([n], *config.theta_E),
            ellipticity * ops.cos(two_phi),
            ellipticity * ops.sin(two_phi),
            field * draws.normal([n], config.lens_offset),
            field * draws.normal([n], config.lens_offset),
            shear * ops.cos(two_phi_shear),
            shear * ops.sin(two_phi_shear),
        ],
        axis=1,
    )


def place_sources(stamps, index, grid, x, y, radius, angle, stretch, mirror):
    """Galaxies on a source grid, [n, rows, columns], each pixel the mean of 2 x 2 samples; peak 1.

    Args:
      stamps: `GalaxyStamps`.
      index: [n], which galaxies.
      grid: `PixelGrid` of the source plane.
      x: [n], centre there [arcsec].
      y: likewise.
      radius: [n], half-light radius there [arcsec].
      angle: [n], rotation [rad].
      stretch: [n], factor on one axis of the galaxy.
      mirror: [n], 1 or -1.
    """
    fine = PixelGrid(2 * grid.rows, 2 * grid.columns, grid.pixel_scale / 2)
    column, row = fine.coordinates()
    per_system = [v[:, None, None] for v in (x, y, angle, stretch, mirror)]
    x, y, angle, stretch, mirror = per_system
    stamp_pixel = (radius / ops.take(stamps.half_light_radius, index, axis=0))[:, None, None]
    dx, dy = (column - x) / stamp_pixel, (row - y) / stamp_pixel
    u = (dx * ops.cos(angle) + dy * ops.sin(angle)) * mirror
    v = (dy * ops.cos(angle) - dx * ops.sin(angle)) / stretch
    images = ops.take(stamps.images, index, axis=0)
    k = images.shape[1]
    sampled = LensingOperator(u + (k - 1) / 2, v + (k - 1) / 2, k, k).forward(images)
    source = ops.average_pool(sampled[..., None], 2, 2, "valid")[..., 0]
    return source / ops.maximum(ops.max(source, axis=(1, 2), keepdims=True), 1e-6)


def draw_systems(draws, n, stamps, config):
    """Noiseless systems, and which of the paper's conditions each fulfils (magnification, flux on the frame).

    Args:
      draws: `Draws`.
      n: how many.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.

    Returns:
      A dictionary of lens [n, 7], source [n, m, m], lensed [n, k, k], pixel_scale [n], source_pixel_scale [n],
      source_position [n, 2] relative to the lens, half_light_radius [n] (both [arcsec]) and magnification [n]; and
      the conditions, [n, 3] boolean, whose order is that of `refusal`: a system that fulfils all is accepted.
    """
    pixel_scale = draws.log_uniform([n], *config.log_pixel_scale)
    source_scale = pixel_scale * config.source_scale_ratio
    field = pixel_scale * config.image_pixels
    lens = draw_lenses(draws, n, config, field)
    source_grid = PixelGrid(config.source_pixels, config.source_pixels, source_scale)
    radius = field * draws.log_uniform([n], *config.log_half_light_radius)
    galaxy = draws.integer([n], ops.shape(stamps.images)[0])
    x, y = (field * draws.normal([n], config.source_offset) for _ in range(2))
    source = place_sources(
        stamps,
        galaxy,
        source_grid,
        lens[:, 3] + x,
        lens[:, 4] + y,
        radius,
        draws.uniform([n], 0, 2 * np.pi),
        draws.uniform([n], *config.axis_stretch),
        ops.sign(draws.uniform([n], -1.0, 1.0)),
    )
    systems = {
        "lens": lens,
        "source": source,
        "pixel_scale": pixel_scale,
        "source_pixel_scale": source_scale,
        "source_position": ops.stack([x, y], axis=1),
        "half_light_radius": radius,
    }
    lensed = image_systems(systems, config.image_pixels)
    flux, source_flux = ops.sum(lensed, axis=(1, 2)), ops.sum(source, axis=(1, 2))
    # Surface brightness is conserved, so fluxes compare through the areas of the pixels.
    magnification = flux / ops.maximum(source_flux, 1e-6) / config.source_scale_ratio**2
    conditions = [
        magnification >= config.minimum_magnification,
        _edge_sum(lensed) <= config.edge_flux * flux,
        _edge_sum(source) <= config.edge_flux * source_flux,
    ]
    return systems | {"lensed": lensed, "magnification": magnification}, ops.stack(conditions, axis=1)


def image_systems(systems, pixels):
    """L s: the sources lensed and not yet observed, [n, pixels, pixels]; `systems` as `draw_systems` returns them."""
    image_grid = PixelGrid(pixels, pixels, systems["pixel_scale"])
    source_grid = PixelGrid(*systems["source"].shape[1:], systems["source_pixel_scale"])
    return LensingOperator.from_lens(systems["lens"], image_grid, source_grid).forward(systems["source"])


def _edge_sum(image):
    """Flux in the outermost two pixels on each side, [n]."""
    return ops.sum(image, axis=(1, 2)) - ops.sum(image[:, 2:-2, 2:-2], axis=(1, 2))


def draw_accepted(seed, index, n, stamps, config):
    """Exactly n accepted systems: `draw_systems` in rounds until there are enough.

    Args:
      seed: `seeds.seed_pair` of a stream.
      index: of the batch, scalar integer.
      n: how many.
      stamps: `GalaxyStamps`.
      config: `MockConfig`.

    Returns:
      The systems of `draw_systems`, and a tally, int32 [5]: how many were accepted, how many were drawn, and how many
      of these fulfil each condition. Where fewer than n were accepted, the rest of the systems are zeros (`refusal`).
    """
    seeds.check_pair(seed)
    size = max(2 * n, _SMALLEST_ROUND)

    def another(round_index, tally, found):
        # Rounds of one batch and batches of one stream never share numbers: they are folded in one after another.
        systems, conditions = draw_systems(Draws(seed, index, round_index), size, stamps, config)
        accepted = ops.all(conditions, axis=1)
        # The shapes stay: those that were found before, then the new ones, in the order in which they were drawn.
        wanted = ops.concatenate([ops.arange(n) < tally[0], accepted], axis=0)
        order = ops.argsort(ops.where(wanted, 0, n + size) + ops.arange(n + size))[:n]
        kept = {
            name: ops.take(ops.concatenate([found[name], systems[name]], axis=0), order, axis=0) for name in systems
        }
        # Where JAX has 64 bits, its sums of integers take them.
        n_accepted = ops.cast(ops.sum(ops.cast(accepted, "int32")), "int32")
        fulfilled = ops.cast(ops.sum(ops.cast(conditions, "int32"), axis=0), "int32")
        return round_index + 1, tally + ops.concatenate([ops.stack([n_accepted, size]), fulfilled], axis=0), kept

    m, k = config.source_pixels, config.image_pixels
    shapes = {"lens": [7], "source": [m, m], "lensed": [k, k], "pixel_scale": [], "source_pixel_scale": []}
    shapes |= {"source_position": [2], "half_light_radius": [], "magnification": []}
    _, tally, found = ops.while_loop(
        lambda round_index, tally, found: (tally[0] < n) & (round_index < _ROUNDS),
        another,
        (0, ops.zeros([5], "int32"), {name: ops.zeros([n, *shape]) for name, shape in shapes.items()}),
    )
    return found, tally


def refusal(wanted, config):
    """The sentence that says which conditions refuse what is drawn, with {} for each of `shares_refused`.

    Args:
      wanted: systems.
      config: `MockConfig`.
    """
    return (
        f"{REFUSAL}: {{}} of {{}} drawn, where {wanted} are wanted. {{}} % are magnified less than "
        f"{config.minimum_magnification:g} times (minimum_magnification), {{}} % have more than "
        f"{100 * config.edge_flux:g} % of their light at the edge of the image and {{}} % at the edge of the "
        "source grid (edge_flux); loosen these conditions, or draw other lenses and sources."
    )


def shares_refused(tally):
    """The numbers of `refusal` from a tally of `draw_accepted`: accepted, drawn, and per cent for each condition."""
    refused = 100 * (1 - ops.cast(tally[2:], "float32") / ops.cast(tally[1], "float32"))
    return [tally[0], tally[1], *(ops.cast(ops.round(refused[i]), "int32") for i in range(3))]


def check_tally(wanted, tally, config):
    """InputError where a tally of `draw_accepted`, outside of any graph, says that fewer than `wanted` are accepted."""
    if int(tally[0]) < wanted:
        raise InputError(refusal(wanted, config).format(*map(int, shares_refused(tally))))


def simulated(seed, index, batch_size, stamps, config, psfs=None, target="source"):
    """One batch of a stream and the tally of its draws: (inputs, target, tally); see `streaming.simulate_batch`."""
    systems, tally = draw_accepted(seed, index, batch_size, stamps, config)
    return observe(observing_draws(seed, index), systems, config, psfs), found_of(systems, target), tally


def found_of(systems, target):
    """What is to be found of `systems`: the tensor of a name, or a dictionary of those of several names."""
    return systems[target] if isinstance(target, str) else {name: systems[name] for name in target}


def observing_draws(seed, index):
    """The `Draws` that PSF, noise and masks of a batch come from."""
    return Draws(seed, index, _OBSERVING)


def pool_draws(seed, index):
    """The `Draws` that say which galaxies a batch may choose from."""
    return Draws(seed, index, _POOL)
