"""How much of a source's light may be that of the lens galaxy instead.

A smooth galaxy and the faint outer parts of a source look alike: fits share the light out between them, and real
galaxies, which no law describes, are shared out worse than simulated ones. No posterior with the galaxy taken off knows
of it. What a source comes to beside a galaxy is therefore spread by what arcs about real galaxies were counted to be
off by (`benchmarks/from_image.py about`; docs/ERRORS.md has the count).
"""

import dataclasses

import numpy as np
from keras import ops

from rim_tf.physics.imaging import imaging_problem
from rim_tf.systems import batch_of

# Of 31 arcs about real galaxies without a flag, two thirds of fluxes were off by less than this in their logarithm, and
# 29 by less than twice as much. Light that is faint and far out: what else a source comes to was off with the flux, in
# such a share of it, or, as its peak, by itself.
_SPREAD, _TAIL = 0.27, 5.0
_OF_FLUX = {"flux": 1.0, "magnification": -0.6, "source_peak": 0.5, "half_light_radius": 0.9}


def galaxy_over_source(fit, light):
    """Flux of the lens galaxy, as if its light were that of a source, over the flux of the source.

    Where the rays of several pixels meet, each counts by what its noise lets it say.

    Args:
      fit: `rim_tf.results.SourceFit`.
      light: of the galaxy without sky, in the frame of the fit, [rows, columns].

    Returns:
      Ratio of the fluxes on the grid of the source; NaN for a source without light.
    """
    seen, n = fit.observation, len(fit.source)
    problem = imaging_problem(batch_of([seen], [fit.lens], [fit.source_pixel_scale]), (n, n), fit.lens.mass)
    weight = np.where(seen.mask, seen.unit / np.where(seen.mask, seen.noise, 1), 0) ** 2
    light = np.where(seen.mask, np.maximum(light, 0), 0) / seen.unit
    back = (problem.operator.adjoint(ops.convert_to_tensor(each[None], "float32")) for each in (weight * light, weight))
    light, weight = (ops.convert_to_numpy(each)[0].astype(float) for each in back)
    reached = weight > 0
    flux = float((light[reached] / weight[reached]).sum()) * seen.unit
    total = float(fit.source.sum(dtype=float))
    return flux / total if total > 0 else float("nan")


def spread(errors, ratio, seed=0):
    """What each draw of a source comes to, spread by what of it may be the galaxy's; the draws stay as they are.

    The brighter the galaxy is beside the source the more, up to a limit: real galaxies a hundred times as bright were
    told from their arcs as well as such that were only twice as bright.

    Args:
      errors: `rim_tf.results.SourceErrors`.
      ratio: as of `galaxy_over_source`; 0 where there is no galaxy.
      seed: of what is random.

    Returns:
      `SourceErrors`.
    """
    if not ratio > 0:
        return errors
    off = np.random.default_rng(seed).standard_t(_TAIL, size=len(errors.samples))
    off *= _SPREAD * ratio / (1 + ratio)
    return dataclasses.replace(
        errors, figures={name: values * np.exp(_OF_FLUX[name] * off) for name, values in errors.figures.items()}
    )
