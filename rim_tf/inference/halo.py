"""How much less is known of a source, and of the lens, where the lens galaxy was in the image.

A smooth galaxy and the faint outer parts of a source look alike: fits share the light out between them, and real
galaxies, which no law describes, are shared out worse than simulated ones; what is left of one leads the lens away. No
posterior with the galaxy taken off knows of it. What a source comes to beside a galaxy is therefore spread, and errors
of the lens are widened, by what arcs about real galaxies were counted to be off by (`benchmarks/from_image.py about`;
docs/ERRORS.md has the count).
"""

import dataclasses

import numpy as np

from rim_tf.inference.optimise import middle

# Of 35 sources of arcs about real galaxies, without a flag, 66, 94 and 97 % had a flux that was off by less than once,
# twice, three times this in its logarithm: as Student's t of so many degrees has it. Light that is faint and far out:
# what else a source comes to was off with the flux, by so many times as much; its peak by itself.
_SPREAD, _TAIL = 0.27, 5.0
_OF_FLUX = {"flux": 1.0, "magnification": -0.6, "source_peak": 0.4, "half_light_radius": 1.0}
# Beside a galaxy this many times as bright as the arcs half as much; none of the 35 was fainter than 0.18 times.
_FAINT = 0.1
# Of the parameters of 23 of these lenses two thirds are within the errors so widened, in the mean of all seven; of
# mocks, whose galaxies are smoother, more are.
_WIDER = 0.7


def galaxy_over_arcs(arcs, light, used):
    """How bright the lens galaxy is where the arcs are, over these: the mean ratio, by the square of the arcs' light.

    Args:
      arcs: model image without the galaxy, [rows, columns].
      light: of the galaxy without sky, the same shape.
      used: true where a pixel counts, likewise.

    Returns:
      Ratio; NaN where there are no arcs.
    """
    arcs, light = (np.where(used, np.maximum(each, 0), 0).astype(float) for each in (arcs, light))
    total = float((arcs**2).sum())
    return float((arcs * light).sum()) / total if total > 0 else float("nan")


def beside(light, fit):
    """`galaxy_over_arcs` of a reconstruction beside the galaxy that was taken off; 0 where there was none.

    Args:
      light: `LensLightFit` of the whole frame, or None.
      fit: `Reconstruction` of its middle.
    """
    if light is None:
        return 0.0
    galaxy = middle(light.model_image, fit.model_image.shape) - light.parameters["sky"]
    return galaxy_over_arcs(fit.model_image, galaxy, fit.observation.mask)


def widening(ratio):
    """By what the errors of a lens are multiplied.

    Args:
      ratio: as of `galaxy_over_arcs`; 0 where there is no galaxy. NaN, where nothing is known, counts as infinite.
    """
    return 1 + _WIDER * _share(ratio)


def spread(errors, ratio, seed=0):
    """What each draw of a source comes to, spread by what of it may be the galaxy's; the draws stay as they are.

    The brighter the galaxy is beside the arcs the more, up to a limit: real galaxies ten times as bright were told from
    their arcs as well as such that were half as bright.

    Args:
      errors: `rim_tf.results.SourceErrors`.
      ratio: as of `widening`.
      seed: of what is random.

    Returns:
      `SourceErrors`.
    """
    if ratio == 0:
        return errors
    size = _SPREAD * _share(ratio)
    light, peak = np.random.default_rng(seed).standard_t(_TAIL, size=(2, len(errors.samples))) * size
    figures = {
        name: values * np.exp(_OF_FLUX[name] * (peak if name == "source_peak" else light))
        for name, values in errors.figures.items()
    }
    return dataclasses.replace(errors, figures=figures)


def _share(ratio):
    """Of what is asked for beside the brightest galaxies."""
    return ratio / (_FAINT + ratio) if np.isfinite(ratio) else 1.0
