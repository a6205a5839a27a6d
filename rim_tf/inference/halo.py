"""How much of a source's light may be that of the lens galaxy instead.

A smooth galaxy and the faint outer parts of a source look alike: fits share the light out between them, and real
galaxies, which no law describes, are shared out worse than simulated ones. No posterior with the galaxy taken off knows
of it. What a source comes to beside a galaxy is therefore spread by what arcs about real galaxies were counted to be
off by (`benchmarks/from_image.py about`; docs/ERRORS.md has the count).
"""

import numpy as np
from keras import ops

from rim_tf.physics.imaging import imaging_problem
from rim_tf.systems import batch_of


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
