"""Posteriors of real lenses: where published Einstein radii lie in them, and whether they predict what was hidden.

    python benchmarks/real_posteriors.py --data FOLDER --out OUT

Of each SLACS lens blocks of 3 x 3 pixels on the ring, about a tenth of it, are masked; the lens is found from the rest
as `rim-tf model --posterior` finds it, and draws of lens and source say what the masked pixels should be, and how
surely. Each lens is one line of OUT/rows.jsonl as soon as it is done, and a run that is killed goes on there.
"""

import dataclasses
import pathlib
import warnings

import click
import numpy as np
from calibration import append, read_rows
from from_image import real_lenses
from keras import ops

from rim_tf.config import ModelConfig
from rim_tf.data.seeds import generator
from rim_tf.errors import InputError
from rim_tf.inference import workflow
from rim_tf.inference.methods import find_method
from rim_tf.inference.optimise import middle
from rim_tf.inference.source_errors import draw_sources
from rim_tf.physics.imaging import imaging_problem
from rim_tf.systems import batch_of

# Share of the ring that is masked, by blocks of so many pixels on a side; where the ring is [published theta_E].
_HIDDEN, _BLOCK, _RING = 0.1, 3, (0.6, 1.5)
# Lenses of the posterior that predict, one source each.
_DRAWS = 48
_LEVELS = (1.0, 2.0, 3.0)


def hidden(observation, theta_E, rng):
    """Which pixels are hidden, [rows, columns]: blocks on the ring of a lens in the middle of the frame."""
    rows, columns = observation.shape
    y, x = np.indices((rows, columns), float)
    radius = np.hypot(x - (columns - 1) / 2, y - (rows - 1) / 2) * observation.pixel_scale / theta_E
    ring = observation.mask & (radius > _RING[0]) & (radius < _RING[1])
    chosen, places = np.zeros((rows, columns), bool), rng.permutation(np.argwhere(ring))
    for row, column in places:
        if (chosen & ring).sum() >= _HIDDEN * ring.sum():
            break
        half = _BLOCK // 2
        chosen[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = True
    return chosen & ring


def predicted(result, n=_DRAWS):
    """Images of the arcs of lenses and sources drawn from the posterior of a `ModelResult`, [n, rows, columns]."""
    fit, lenses = result.source_fit, result.posterior.moved(-np.array(result.observation.centre)).lenses(n)
    seen, pixels, scale = fit.observation, fit.source.shape[0], fit.source_pixel_scale
    sources = draw_sources(seen, lenses, find_method("rim").build(), 1, 0, scale, pixels).samples / seen.unit
    problem = imaging_problem(batch_of([seen] * n, lenses, [scale] * n), (pixels, pixels), lenses[0].mass)
    images = problem.model_image(ops.convert_to_tensor(sources.astype("float32")))
    return seen.in_data_units(ops.convert_to_numpy(images))


def judged(read, published, networks, rng):
    """One row: the lens with its errors, and how the hidden pixels and the others are predicted."""
    observation = read()
    away = hidden(observation, published["Bolton"], rng)
    seen = dataclasses.replace(observation, mask=observation.mask & ~away)
    result = workflow.model(seen, ModelConfig(posterior=True), None, *networks)
    if result.posterior is None:
        raise InputError("The lens has no counted errors: the prior excludes it.")
    fit, verdict, light = result.source_fit, result.verdict, result.lens_light
    if light is not None:
        away &= ~light.neighbours(result.lens)
    shape = fit.observation.shape
    images = predicted(result)
    mean, deviation = images.mean(axis=0), images.std(axis=0)
    # Of the observation as it was read: what is masked is lost in those that were made of it.
    image = observation.image - (0 if light is None else light.model_image)
    noise, residual = verdict.sky_noise * middle(observation.noise, shape), middle(image, shape) - mean
    # What was fitted, and is as bright in the mean as what was hidden.
    parts = {"hidden": middle(away, shape), "fitted": middle(hidden(seen, published["Bolton"], rng), shape)}
    parts["fitted"] &= fit.observation.mask
    if not all(part.any() for part in parts.values()):
        raise InputError("No pixel of the ring is left to be predicted.")
    row = {"flags": list(verdict.flags), "sky_noise": verdict.sky_noise, "seconds": result.seconds}
    row |= {"theta_E": result.posterior.mean[0], "error": result.posterior.standard_deviation[0]}
    for name, part in parts.items():
        within = np.abs(residual / np.hypot(noise, deviation))[part]
        row[name] = {
            "n": int(part.sum()),
            "chi2_of_noise": float(((residual / noise)[part] ** 2).mean()),
            "chi2": float((within**2).mean()),
            "within": [float((within < level).mean()) for level in _LEVELS],
            "deviation_over_noise": float(np.median((deviation / noise)[part])),
        }
    return row


def report(rows):
    """What was found, as lines of text."""
    lines = [
        "lens        theta_E            published: off by [error]        hidden pixels: n, chi^2 of noise, with the "
        "draws, within 1, 2, 3 sigma; fitted ones: the same"
    ]
    for row in rows:
        if "error_text" in row:
            lines.append(f"{row['name']}  dead: {row['error_text']}")
            continue
        off = ", ".join(f"{v:.3f} ({(v - row['theta_E']) / row['error']:+.1f})" for v in row["published"].values())
        parts = "; ".join(
            f"{part['n']}, {part['chi2_of_noise']:.2f}, {part['chi2']:.2f}, "
            + " ".join(f"{100 * share:.0f}" for share in part["within"])
            for part in (row["hidden"], row["fitted"])
        )
        lines.append(
            f"{row['name']}  {row['theta_E']:.3f} +- {row['error']:.3f}  {off}  {parts}  {' '.join(row['flags'])}"
        )
    for believed in (True, False):
        chosen = [row for row in rows if "error_text" not in row and (not row["flags"]) == believed]
        if chosen:
            n = np.array([row["hidden"]["n"] for row in chosen])
            within = np.average([row["hidden"]["within"] for row in chosen], axis=0, weights=n)
            lines.append(
                f"{len(chosen)} {'without a flag' if believed else 'with flags'}: of {n.sum()} hidden pixels within "
                f"1, 2, 3 sigma {', '.join(f'{100 * share:.1f}' for share in within)} %"
            )
    return lines


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=pathlib.Path), required=True)
@click.option("--n", default=10, show_default=True, help="SLACS lenses, the first so many.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def main(data, n, out):
    """Posteriors of real lenses; see the top of this file."""
    warnings.simplefilter("ignore")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.jsonl"
    rows = read_rows(path)
    networks = workflow.networks(*ModelConfig().networks)
    lenses = [each for each in real_lenses(data) if each[0].startswith("SLACS")][:n]
    for index in range(len(rows), len(lenses)):
        name, read, published = lenses[index]
        try:
            row = judged(read, published, networks, generator("calibration", 1, index))
        except InputError as error:
            row = {"error_text": str(error)}
        rows.append({"name": name[5:], "published": published, **row})
        append(path, rows[-1])
        click.echo(report(rows[-1:])[1])
    click.echo("\n".join(report(rows)))


if __name__ == "__main__":
    main()
