"""Lenses from their images alone: how often `rim_tf.inference.workflow.model` is right, and whether it knows.

    python benchmarks/from_image.py mocks --galaxies FOLDER --n 1000 --out OUT
    python benchmarks/from_image.py mocks --galaxies FOLDER --n 48 --telescope euclid --out OUT
    python benchmarks/from_image.py beyond --n 8 --out OUT
    python benchmarks/from_image.py residues --galaxies FOLDER --n 60 --out OUT
    python benchmarks/from_image.py about --data FOLDER --n 2 --out OUT
    python benchmarks/from_image.py real --data FOLDER --out OUT
    python benchmarks/from_image.py real --data FOLDER --turned --out OUT

`mocks` draws systems with unseen galaxies, half of them with the lens galaxy in the image, and compares with the truth;
`--telescope` says what sees them.
`beyond` draws what no network here was trained on, down to frames without any lens: what does the verdict say?
`residues` puts what our fit leaves of simulated lens galaxies beside the imitation that networks are trained on.
`about` puts simulated arcs, of unseen galaxies, about real ones, which no law describes: what becomes of the galaxy's
light, and what of the source's?
`real` takes HST and Euclid images untouched and compares theta_E with published values; a PNG for each lens is to be
looked at; `--turned` asks whether the same comes of it turned by a quarter. Each lens is one line of OUT/rows.jsonl as
soon as it is done, and a run that is killed goes on there.
"""

import collections
import dataclasses
import json
import pathlib
import time
import warnings

import click
import numpy as np
import source_counts
from scipy import ndimage, optimize

from rim_tf.config import MockConfig, ModelConfig
from rim_tf.errors import InputError
from rim_tf.evaluation import measures
from rim_tf.evaluation.metrics import aligned_rms, flux_error, rms_error
from rim_tf.files import finite
from rim_tf.inference import workflow
from rim_tf.inference.calibration import Calibration
from rim_tf.inference.rim import reconstruct
from rim_tf.io import open_fits, read_observation
from rim_tf.lens import Component, CompositeLens, LensParameters
from rim_tf.observation import Observation
from rim_tf.results import source_figures

# As in the paper, but for the lens galaxy; the same with noise that is correlated as drizzling leaves it; and as two
# surveys see lenses: pixels of 0.1" and a PSF of 0.18" (full width at half maximum), or of 0.2" and one of 0.7".
MOCKS = MockConfig(lens_galaxy_fraction=0.5)
_SURVEY = dataclasses.replace(MOCKS, log_half_light_radius=(0.02, 0.06), log_noise=(1e-2, 1e-1))
TELESCOPES = {
    "hubble": MOCKS,
    "drizzled": dataclasses.replace(
        MOCKS, correlated_noise_fraction=1.0, noise_correlation=(0.5, 0.7), log_noise_overestimate=(1.0, 1.4)
    ),
    "euclid": dataclasses.replace(
        _SURVEY,
        image_pixels=100,
        source_pixels=100,
        log_pixel_scale=(0.1, 0.1),
        psf_sigma=(0.07, 0.08),
        theta_E=(0.06, 0.2),
    ),
    "ground": dataclasses.replace(_SURVEY, log_pixel_scale=(0.2, 0.2), psf_sigma=(0.28, 0.32), theta_E=(0.08, 0.2)),
}
# A source that fits no worse than with the true lens, and a theta_E that is right.
_CHI2, _THETA_E, _RMS = 0.01, 0.01, 1.25
# Of fewer systems no stretch of errors is fitted.
_ENOUGH = 20
# Noise of the mocks over the peak.
_MOCKS_NOISE = 1e-3, 1e-1


# ------------------------------------------------------------------------------------------------------- mocks


def unseen_galaxies(folder):
    """`GalaxyStamps` of a folder's galaxies, or procedural ones, that training left aside."""
    from rim_tf.data.mocks import GalaxyStamps
    from rim_tf.data.sources.find import find_galaxies

    return GalaxyStamps.of(find_galaxies(folder, "validation", "test"))


def mock(index, stamps, config=MOCKS, stream="test"):
    """System `index` of a stream: its `Observation`, true lens, true source, noise over the peak, whether there is a
    lens galaxy, and what the source comes to, as of `rim_tf.results.source_figures`.
    """
    import tensorflow as tf

    from rim_tf.data.seeds import seed_pair
    from rim_tf.data.streaming import simulate_batch
    from rim_tf.physics.imaging import imaging_operator

    inputs, source = simulate_batch(tf.constant(seed_pair(stream, 0)), tf.constant(index), 1, stamps, config)
    operator = imaging_operator(inputs, source.shape[1:])
    noiseless, area = operator.forward(source).numpy(), operator.adjoint(tf.ones_like(inputs["image"])).numpy()[0]
    given = {name: value.numpy()[0] for name, value in inputs.items()}
    psf = float(given["psf"]) if given["psf"].ndim == 0 else given["psf"]
    seen = Observation(given["image"], given["noise_rms"], psf, given["mask"], float(given["pixel_scale"]))
    noise = measures.noise_over_peak(inputs["noise_rms"].numpy(), noiseless)[0]
    # The smooth part of what is in the image besides the arcs: galaxies far below the noise count as none.
    besides = ndimage.gaussian_filter((given["image"] - noiseless[0]) / given["noise_rms"], 2.0)
    with_galaxy = besides.max() > 8 / (2 * np.sqrt(np.pi) * 2.0)
    lens, source = LensParameters(*map(float, given["lens"])), source.numpy()[0]
    figures = source_figures(source[None], float(given["source_pixel_scale"]), area * seen.pixel_scale**2)
    figures = {name: float(value[0]) for name, value in figures.items()}
    return seen, lens, source, float(noise), bool(with_galaxy), figures


def judged_mock(index, stamps, networks, config, telescope="hubble"):
    """One row of the study."""
    seen, truth, source, noise, with_galaxy, figures = mock(index, stamps, TELESCOPES[telescope])
    rim, result = networks[0], workflow.model(seen, config, None, *networks)
    frame, lenses = result.frame, [truth, result.lens, result.estimate.lens]
    # With as many steps of the network for each lens as the fit took, on the whole frame's grid, which the truth has.
    alike = {"source_pixels": len(source), "n_steps": len(result.source_fit.iterates)}
    fits = reconstruct([frame] * 3, lenses, rim, **alike)
    fits_ = dict(zip(("true", "fitted", "estimated"), fits, strict=True))
    row = {
        "index": index,
        "telescope": telescope,
        "noise": noise,
        "with_galaxy": with_galaxy,
        **result.summary(),
        "truth": truth.to_dict(),
    }
    row["covariance"] = result.lens_fit.covariance.tolist()
    row |= {"noise_factor": result.verdict.noise_factor, "error_factor": result.error_factor}
    uncounted = dataclasses.replace(result, posterior=None).lens_error
    row["uncounted_error"] = dict(zip(truth.mass.names, uncounted.tolist(), strict=True))
    if result.posterior is not None:
        row["posterior_mean"] = dict(zip(truth.mass.names, result.posterior.mean.tolist(), strict=True))
        if result.posterior.sources is not None:
            row["sources"] = _judged_sources(result, source, figures, index)
    for name, fit in fits_.items():
        row |= {
            f"chi2_{name}": fit.chi2_per_pixel,
            f"rms_{name}": 100 * float(rms_error(source, fit.source)),
            f"flux_{name}": 100 * float(flux_error(source, fit.source)),
        }
    return row | {"aligned_rms": 100 * aligned_rms(source, fits_["fitted"].source)}


def _judged_sources(result, source, figures, index):
    """As of `source_counts.judged`, over the lens's posterior: of the true source on the grid of the fit."""
    fit = result.source_fit
    more = (len(fit.source) - len(source)) // 2
    truth = np.pad(source, more) if more >= 0 else source[-more:more, -more:more]
    return source_counts.judged(truth, figures, fit, (fit, fit.errors), np.random.default_rng(index))


def mock_report(rows):
    """What the issue asks of mocks, as lines of text."""
    # Rows of earlier versions may lack what later ones have.
    names = [name for name in rows[0] if all(np.isscalar(row.get(name)) for row in rows)]
    table = {name: np.array([row[name] for row in rows]) for name in names}
    theta_E = np.array([row["lens"]["theta_E"] for row in rows])
    true = np.array([row["truth"]["theta_E"] for row in rows])
    estimated = np.array([row["estimate"]["theta_E"] for row in rows])
    fitted_well = table["chi2_fitted"] < table["chi2_true"] + _CHI2
    ring_right = np.abs(theta_E / true - 1) < _THETA_E
    source_right = table["aligned_rms"] < _RMS * table["rms_true"]
    right = fitted_well & ring_right
    flagged = ~table["believed"].astype(bool)
    lines = [
        f"{len(rows)} systems, {table['with_galaxy'].sum()} with a lens galaxy",
        f"the estimator's lens alone: median RMS {np.median(table['rms_estimated']):.2f} %, flux "
        f"{np.median(np.abs(table['flux_estimated'])):.2f} %, theta_E {_percent(np.abs(estimated / true - 1))}; "
        f"{_share(table['rms_estimated'] < 2 * table['rms_true'])} with an RMS below twice the true lens's",
        f"fitted: median RMS {np.median(table['rms_fitted']):.2f} %, aligned {np.median(table['aligned_rms']):.2f} %, "
        f"true lens {np.median(table['rms_true']):.2f} %; theta_E {_percent(np.abs(theta_E / true - 1))}",
        f"chi^2 at most {_CHI2} above the true lens's: {_share(fitted_well)}",
        f"theta_E within {_THETA_E:.0%}: {_share(ring_right)}",
        f"aligned RMS at most {_RMS} of the true lens's: {_share(source_right)}",
        f"of {(~right).sum()} failures (one of the first two) flagged: {_share(flagged[~right])}",
        f"of {right.sum()} that are right flagged: {_share(flagged[right])}",
        f"flags of the right: {_count(rows, right)}; of failures: {_count(rows, ~right)}",
        f"seconds: median {np.median(table['seconds']):.1f}",
    ]
    for galaxy in (False, True):
        part = table["with_galaxy"].astype(bool) == galaxy
        lines.append(
            f"lens galaxy {'in' if galaxy else 'out'}: chi^2 {_share(fitted_well[part])}, theta_E "
            f"{_share(ring_right[part])}, found out {_share(table['lens_light'][part].astype(bool) == galaxy)}, flux "
            f"off by {np.median(np.abs(table['flux_fitted'][part])):.1f} % in the median, "
            f"{np.percentile(np.abs(table['flux_fitted'][part]), 84):.1f} % or less in 84 %"
        )
    return lines + coverage_report(rows) + stretch_report(rows) + source_report(rows)


def coverage_report(rows):
    """How often truths lie within one, two and three errors, as lines of text."""
    kinds = {"lens_error": ("lens", "uncounted_error")}
    if any("posterior_mean" in row for row in rows):
        kinds["posterior"] = ("posterior_mean", "lens_error")
    lines = [f"{'truths within 1, 2, 3 errors':<50} n   mean of the parameters   theta_E"]
    parts = {"no flag": (True, (False, True)), "no flag, galaxy out": (True, (False,))}
    parts |= {"no flag, galaxy in": (True, (True,)), "flagged": (False, (False, True))}
    for part, (believed, galaxies) in parts.items():
        for decade, (least, most) in {"below 1 %": (0.0, 0.01), "above 1 %": (0.01, 1.0)}.items():
            chosen = [row for row in rows if row["believed"] == believed and row["with_galaxy"] in galaxies]
            chosen = [row for row in chosen if least <= row["noise"] < most]
            for kind, (middle, error) in kinds.items():
                told = [row for row in chosen if middle in row and error in row]
                if not told:
                    continue
                off = [[(row["truth"][k] - row[middle][k]) / row[error][k] for k in row["truth"]] for row in told]
                within = [(np.abs(np.array(off)) < n).mean(axis=0) for n in (1, 2, 3)]
                mean = "  ".join(f"{100 * each.mean():5.1f}" for each in within)
                of_radius = "  ".join(f"{100 * each[0]:5.1f}" for each in within)
                lines.append(f"{f'{kind}, {part}, noise {decade}':<50} {len(told):<3} {mean:<24} {of_radius}")
    return lines


def stretch_report(rows):
    """By what errors of the curvature are to be multiplied, that two thirds of truths lie within, as lines of text.

    The valley's share is taken off before. The logarithm is a parabola in x = log10(noise over the peak / 0.01), by the
    least loss of the quantile of 68.3 %.
    """
    rows = [row for row in rows if row["believed"]]
    if len(rows) < _ENOUGH:
        return []
    off = np.array([[row["truth"][name] - row["lens"][name] for name in row["truth"]] for row in rows])
    sigma = np.sqrt([np.maximum(np.diag(row["covariance"]), 1e-30) for row in rows])
    factor = np.array([row.get("error_factor", row["noise_factor"]) for row in rows])
    noise = np.array([row["noise"] for row in rows])
    valleys = [(row.get("valley") or {"error": dict.fromkeys(row["truth"], 0.0)})["error"] for row in rows]
    along = np.array([list(valley.values()) for valley in valleys])
    z = np.log(np.sqrt(np.maximum(off**2 - along**2, 1e-12 * sigma**2)) / sigma / factor[:, None])

    def loss(log_s):
        above = z - np.log(Calibration(tuple(log_s), fitted_in=_MOCKS_NOISE).stretch(noise))[:, None]
        return np.where(above > 0, 0.683 * above, -0.317 * above).sum()

    a, b, c = optimize.minimize(loss, [0.5, 0.0, 0.5], method="Nelder-Mead").x
    told = f"errors by the curvature, {len(rows)} without a flag: to be multiplied by exp"
    return [f"{told}({a:.2f} {b:+.2f} x {c:+.2f} x^2)"]


def source_report(rows):
    """How often true sources without a flag lie where draws over the lens's posterior say, as lines of text."""
    lines, told = [], [row for row in rows if row["believed"] and "sources" in row]
    for galaxy in (False, True):
        for decade, (least, most) in {"below 1 %": (0.0, 0.01), "above 1 %": (0.01, 1.0)}.items():
            chosen = [row for row in told if row["with_galaxy"] == galaxy and least <= row["noise"] < most]
            if chosen:
                head = f"sources, lens galaxy {'in' if galaxy else 'out'}, noise {decade}, {len(chosen)} systems:"
                lines += [head, *source_counts.table([row["sources"] for row in chosen])[0]]
    return lines


def _percent(values):
    return f"{100 * np.median(values):.2f} % in the median"


def _share(hits):
    return f"{100 * np.mean(hits):.1f} % ({np.sum(hits)} of {len(hits)})" if len(hits) else "none"


def _count(rows, chosen):
    found = collections.Counter(flag for row, take in zip(rows, chosen, strict=True) if take for flag in row["flags"])
    return ", ".join(f"{name} {n}" for name, n in found.most_common()) or "none"


# -------------------------------------------------------------------------------- beyond what networks were trained on

# Pixels on a side, their scale [arcsec], the PSF's sigma [arcsec], noise over the peak.
_PIXELS, _SCALE, _PSF, _NOISE = 64, 0.05, 0.05, 0.02


def _power_law(slope):
    def lens(truth, rng):
        named = truth.to_dict()
        shear = Component("shear", gamma1=named.pop("gamma1"), gamma2=named.pop("gamma2"))
        return CompositeLens(Component("power_law", slope=slope, **named), shear)

    return lens


def _satellite(truth, rng):
    """A second deflector, a tenth to a fifth as large, at 1.2 to 2 theta_E."""
    named = truth.to_dict()
    shear = Component("shear", gamma1=named.pop("gamma1"), gamma2=named.pop("gamma2"))
    distance, angle = truth.theta_E * rng.uniform(1.2, 2.0), rng.uniform(0, 2 * np.pi)
    second = Component(
        "sie",
        theta_E=truth.theta_E * rng.uniform(0.1, 0.2),
        e1=0.0,
        e2=0.0,
        x_lens=truth.x_lens + distance * np.cos(angle),
        y_lens=truth.y_lens + distance * np.sin(angle),
    )
    return CompositeLens(Component("sie", **named), second, shear)


def _no_deflector(truth, rng):
    """What shows the source as it is: a galaxy beside another."""
    return dataclasses.replace(truth, theta_E=1e-3, e1=0.0, e2=0.0, gamma1=0.0, gamma2=0.0)


def _as_it_is(truth, rng):
    return truth


def _points(source, rng):
    """A few points in place of a galaxy, as of quasars."""
    points = np.zeros_like(source)
    middle = np.array(ndimage.center_of_mass(source))
    for _ in range(3):
        row, column = np.clip(np.round(middle + rng.normal(0, 4, 2)), 2, len(source) - 3).astype(int)
        points[row, column] = rng.uniform(0.3, 1)
    return points


# Name -> (lens, source) of a draw as they are made of the usual ones, and the lens galaxy's brightness.
KINDS = {
    "as trained": (_as_it_is, None, 0.5),
    "power law, slope 1.8": (_power_law(1.8), None, 0.5),
    "power law, slope 2.2": (_power_law(2.2), None, 0.5),
    "second deflector": (_satellite, None, 0.5),
    "source of points": (_as_it_is, _points, 0.5),
    "two galaxies, no lens": (_no_deflector, None, 2.0),
    "no lens, no galaxy": (_no_deflector, None, 0.0),
}


def judged_beyond(kind, index, networks, config):
    """One row: what `model` says of system `index` of that kind."""
    from rim_tf.data import seeds
    from rim_tf.data.single import draw_system, observe_system

    other_lens, other_source, galaxy = KINDS[kind]
    seed, rng = 1000 + index, seeds.generator("test", 1000 + index, 2)
    truth, source, source_scale = draw_system(seed, _PIXELS, _SCALE, stream="test")
    lens = other_lens(truth, rng)
    source = source if other_source is None else other_source(source, rng)
    given = lens, source, source_scale, _PIXELS, _SCALE, _NOISE, _PSF
    seen, _ = observe_system(seed, *given, stream="test", lens_galaxy=0.0 if lens.theta_E < 0.01 else galaxy)
    if lens.theta_E < 0.01 and galaxy:  # which has a size of its own
        other, _ = observe_system(seed, truth, *given[1:], stream="test", lens_galaxy=galaxy)
        bare, _ = observe_system(seed, truth, *given[1:], stream="test")
        seen = dataclasses.replace(seen, image=seen.image + other.image - bare.image)
    row = {"kind": kind, "index": index, "truth": lens.to_dict(), "true_theta_E": truth.theta_E}
    try:
        result = workflow.model(seen, config, None, *networks)
    except InputError as error:
        return row | {"error": str(error)}
    return row | result.summary()


def beyond_report(rows):
    lines = [f"{'':<24} n   theta_E off by (median, largest)   believed   flags"]
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        alive = [row for row in mine if "error" not in row]
        if not alive:
            continue
        off = np.array([abs(row["lens"]["theta_E"] / row["true_theta_E"] - 1) for row in alive])
        figures = f"{np.median(off):7.1%} {off.max():7.1%}" if "no lens" not in kind else f"{'-':>7} {'-':>7}"
        believed = sum(row["believed"] for row in alive)
        flags = collections.Counter(flag for row in alive for flag in row["flags"])
        shown = ", ".join(f"{name} {n}" for name, n in flags.most_common())
        dead = f"; {len(mine) - len(alive)} refused" if len(mine) > len(alive) else ""
        lines.append(f"{kind:<24} {len(mine):<3} {figures}   {believed} of {len(alive)}   {shown}{dead}")
    return lines


# ---------------------------------------------------------------------------------------------------- residues


def residue(index, stamps, config):
    """What is in the image of system `index` besides arcs and noise, its galaxy taken off where there is one.

    Returns:
      Residue over the arcs' peak [rows, columns], and how far each pixel is from the lens [theta_E]; None where no fit
      is possible.
    """
    from rim_tf.data.seeds import seed_pair
    from rim_tf.data.streaming import simulate_batch
    from rim_tf.inference import lens_light

    # What is off takes no random numbers: without any galaxy the system has the same arcs and the same noise.
    bare = dataclasses.replace(config, lens_galaxy_fraction=0.0, lens_light_fraction=0.0)
    (inputs, _), (without, _) = (
        simulate_batch(seed_pair("test", 1), index, 1, stamps, each) for each in (config, bare)
    )
    image, noise, scale = (inputs[name].numpy()[0] for name in ("image", "noise_rms", "pixel_scale"))
    seen = Observation(image, noise, inputs["psf"].numpy()[0], None, float(scale))
    lens = LensParameters(*map(float, inputs["lens"].numpy()[0]))
    if config.lens_galaxy_fraction:
        try:
            seen = lens_light.subtract_lens_light(seen, lens).observation
        except InputError:
            return None
    arcs = without["image"].numpy()[0]
    return (seen.image - arcs) / arcs.max(), lens_light.radius_about(lens, seen) / lens.theta_E


def residue_report(found):
    """Rms of each kind of residue over the arcs' peak by distance from the lens, as lines of text."""
    edges = (0.0, 0.3, 0.6, 1.0, 1.5, 2.5)
    lines = [f"{'rms, % of the peak, at':<26}" + "".join(f"{a:g}-{b:g} theta_E".rjust(16) for a, b in _pairs(edges))]
    for name, residues in found.items():
        # The noise is the same in both images, so that what is left is the galaxy's alone.
        rms = [[np.sqrt((left[(at >= a) & (at < b)] ** 2).mean()) for left, at in residues] for a, b in _pairs(edges)]
        quartiles = [np.nanpercentile(each, [25, 50, 75]) * 100 for each in rms]
        lines.append(f"{name:<26}" + "".join("{:.2f} {:.2f} {:.2f}".format(*each).rjust(16) for each in quartiles))
    return [*lines, "(quartiles over the systems)"]


def _pairs(edges):
    return zip(edges[:-1], edges[1:], strict=True)


# ------------------------------------------------------------------------------------- arcs about real galaxies

# Bright, and with a middle: HDUs of hst_cosmos_f814w.fits.
ABOUT = (
    "COSMOSpaltax_59",
    "COSMOSpaltax_93",
    "COSMOSpaltax_231",
    "COSMOSpaltaxtest_0",
    "COSMOSpaltaxtest_1",
    "COSMOSext_42_149.48243_2.48848",
    "COSMOS23.5_9205",
    "AEGIS_2",
)
# COSMOS was exposed for so many seconds, and its images, in electrons a second, are drizzled, which leaves a pixel such
# a share of its variance. The arcs' peak is so many times the noise of the sky, as of a good lens of SLACS.
_EXPOSURE, _DRIZZLED, _PEAK = 2028.0, 0.4, 30.0
_ABOUT_PIXELS, _SOURCE_PIXELS = 201, 200


def about_galaxy(data, name, index, stamps):
    """Arcs number `index` about a galaxy: its `Observation`, true lens, image of the arcs, and the source's figures.

    These are named as by `rim_tf.results.source_figures`.
    """
    import tensorflow as tf

    from rim_tf.data import mocks, seeds
    from rim_tf.data.single import observe_system
    from rim_tf.grids import PixelGrid

    with open_fits(data / "hst_cosmos_f814w.fits") as hdus:
        galaxy, header = hdus[name].data.astype(np.float64), hdus[name].header
        scale, sky = float(header["PIXSCALE"]), float(header["NOISESIG"])
    psfs = np.load(data / "psf_hst_acs_f814w_030mas.npz")
    rng = seeds.generator("test", 5000 + 100 * ABOUT.index(name) + index)
    psf = next(psfs[key] for key in psfs if psfs[key].ndim == 3)
    psf = psf[rng.integers(len(psf))]
    # The galaxy's centre in the middle of a square, which a stamp's own middle may be off by some pixels.
    smooth = ndimage.gaussian_filter(galaxy, 2.0)
    quarter = [n // 4 for n in galaxy.shape]
    inner = smooth[quarter[0] : -quarter[0], quarter[1] : -quarter[1]]
    row, column = np.add(np.unravel_index(inner.argmax(), inner.shape), quarter)
    half = min(_ABOUT_PIXELS // 2, row, column, galaxy.shape[0] - 1 - row, galaxy.shape[1] - 1 - column)
    cut = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    noise = np.sqrt(sky**2 + _DRIZZLED * np.maximum(ndimage.gaussian_filter(galaxy, 1.0)[cut], 0) / _EXPOSURE)
    seen = Observation(galaxy[cut], noise, psf, galaxy[cut] != 0, scale)
    theta_E = rng.uniform(16, min(30, half / 2.4)) * scale
    e, shear, centre = rng.normal(0, 0.1, 2), rng.normal(0, 0.04, 2), rng.normal(0, 0.02 * theta_E, 2)
    lens = LensParameters(theta_E, *e, *centre, *shear)
    source_scale = float(3 * theta_E / _SOURCE_PIXELS)
    grid = PixelGrid(_SOURCE_PIXELS, _SOURCE_PIXELS, np.float32(source_scale))
    place = [
        *(centre + rng.normal(0, 0.12 * theta_E, 2)),
        theta_E * rng.uniform(0.08, 0.25),
        rng.uniform(0, 6.28),
        1,
        1,
    ]
    of_one = (tf.constant([value], tf.float32) for value in place)
    source = mocks.place_sources(stamps, [int(rng.integers(len(stamps.images)))], grid, *of_one)[0].numpy()
    # Without its noise: the galaxy's image has noise of its own.
    _, arcs = observe_system(0, lens, source, source_scale, len(noise), scale, _NOISE, psf)
    brightness = _PEAK * sky / arcs.max()
    seen = dataclasses.replace(seen, image=seen.image + brightness * arcs)
    # The image's light does not depend on how the rays are traced back, but for what leaves the frame.
    figures = source_figures(source[None], source_scale, np.zeros(source.shape))
    figures = {name: float(value[0]) for name, value in figures.items()}
    figures["magnification"] = float(arcs.sum()) * scale**2 / figures["flux"]
    figures |= {name: float(brightness) * figures[name] for name in ("flux", "source_peak")}
    return seen, lens, brightness * arcs, figures


def judged_about(data, name, index, stamps, networks, config):
    """One row of that study."""
    from rim_tf.inference.optimise import placed

    seen, truth, arcs, figures = about_galaxy(data, name, index, stamps)
    row = {"name": name, "index": index, "truth": truth.to_dict()}
    try:
        result = workflow.model(seen, config, None, *networks)
    except InputError as error:
        return row | {"error": str(error)}
    found = placed(result.source_fit.model_image, seen.shape)
    row |= {"true_figures": figures, **result.summary()}
    off = {"arcs": found[seen.mask].sum() / arcs[seen.mask].sum() - 1}
    off |= {each: row[each] / figures[each] - 1 for each in source_counts.FIGURES}
    return row | {f"{each}_off": 100 * float(value) for each, value in off.items()}


def about_report(rows):
    alive = [row for row in rows if "error" not in row]
    lines = [f"{len(rows)} systems, {len(rows) - len(alive)} refused"]
    if not alive:
        return lines
    theta_E = np.array([abs(row["lens"]["theta_E"] / row["truth"]["theta_E"] - 1) for row in alive])
    believed = np.array([row["believed"] for row in alive], bool)
    for which, what in ((believed >= 0, "all"), (believed, "without a flag")):
        if not which.any():
            continue
        lines.append(f"{what}, {_share(which)}: theta_E off by {_percent(theta_E[which])}")
        lines[-1] += f", within 3 % {_share(theta_E[which] < 0.03)}"
        for each, light in (("arcs_off", "light of the arcs"), ("flux_off", "flux of the source")):
            off = np.array([row[each] for row in alive])[which]
            quartiles = ", ".join(f"{value:+.0f}" for value in np.percentile(off, [25, 50, 75]))
            lines.append(f"  {light} off by {quartiles} % (quartiles), by {np.median(np.abs(off)):.1f} % (modulus)")
        told = [row for row, take in zip(alive, which, strict=True) if take and "source_errors" in row]
        for each in source_counts.FIGURES if told else ():
            found = [(row["source_errors"][each], row["true_figures"][each]) for row in told]
            found = [(error, truth) for error, truth in found if np.isfinite(error["error"] or np.nan)]
            off = np.array([abs(truth - error["median"]) / error["error"] for error, truth in found])
            error = np.median([error["error"] / truth for error, truth in found])
            lines.append(
                f"  {each}: error {100 * error:.0f} % of the truth in the median; truths within one, two, three "
                f"{', '.join(_share(off < n) for n in (1, 2, 3))}"
            )
    return lines


# -------------------------------------------------------------------------------------------------- real lenses


def real_lenses(data):
    """(name, function that reads its `Observation`, published theta_E by whom) of every real lens in the folder."""
    slacs = np.load(data / "lenses_slacs_f814w.npz")
    for i, name in enumerate(slacs["names"]):
        published = {
            "Bolton": float(slacs["bolton2008_bSIE_arcsec"][i]),
            "tinylens": float(slacs["tinylens_thetaE"][i]),
        }
        yield f"SLACS{name}", lambda i=i: _slacs(slacs, i), published
    for path in sorted((data / "lenses_desi_f140w").glob("*.fits")):
        with open_fits(path) as hdus:
            headers = hdus["IMAGE"].header, hdus[0].header
        theta_E = next((header["THETAE"] for header in headers if "THETAE" in header), None)
        yield path.stem, lambda path=path: _files(path), {} if theta_E is None else {"origin": float(theta_E)}
    for path in sorted((data / "lenses_other").glob("*.fits")):
        with open_fits(path) as hdus:
            images = [hdu.name for hdu in hdus if hdu.name.startswith("IMAGE")]
        for image in images:
            yield f"{path.stem}{image[5:]}", lambda path=path, image=image: _files(path, image[5:]), {}


def _slacs(catalogue, i):
    arrays = (catalogue[name][i] for name in ("image", "noise", "psf", "mask"))
    return Observation(*arrays, float(catalogue["pixel_scale"]))


def _files(path, band=""):
    with open_fits(path) as hdus:
        names = [hdu.name for hdu in hdus]
        noise = next(name for name in (f"NOISE{band}", f"RMS{band}", "NOISE", "RMS") if name in names)
        psf = next(name for name in (f"PSF{band}", "PSF") if name in names)
    return read_observation(f"{path}[IMAGE{band}]", f"{path}[{noise}]", f"{path}[{psf}]")


def turned_by_a_quarter(seen):
    """The same `Observation`, turned: another image to a network, whose lens is as large."""
    psf = seen.psf if isinstance(seen.psf, float) else np.rot90(seen.psf)
    image, noise, mask = (np.rot90(each) for each in (seen.image, seen.noise, seen.mask))
    return dataclasses.replace(seen, image=image, noise=noise, psf=psf, mask=mask)


def judged_real(name, read, published, networks, config, out, turned=False):
    row = {"name": name, "published": published, "turned": turned}
    try:
        seen = read()
        result = workflow.model(turned_by_a_quarter(seen) if turned else seen, config, None, *networks)
    except InputError as error:
        return row | {"error": str(error)}
    result.source_fit.plot().savefig(out / f"{name}.png", dpi=70)
    return row | result.summary()


def real_report(rows):
    lines = []
    for row in rows:
        published = ", ".join(f"{who} {value:.3f}" for who, value in row["published"].items())
        if "error" in row:
            lines.append(f"{row['name']:<24} dead: {row['error']}")
            continue
        lines.append(
            f"{row['name']:<24} theta_E {row['lens']['theta_E']:.3f} ({published}) estimator "
            f"{row['estimate']['theta_E']:.2f} chi2 {row['tests']['chi2']:.2f} {row['seconds']:4.0f} s "
            f"{' '.join(row['flags'])}"
        )
    alive = [row for row in rows if "error" not in row and row["published"]]
    near = np.array([_near(row) for row in alive], bool)
    clear = np.array([row["believed"] for row in alive], bool)
    slacs = np.array([row["name"].startswith("SLACS") for row in alive], bool)
    lines.append(f"theta_E within 3 % of a published value: {_share(near)}; of SLACS {_share(near[slacs])}")
    lines.append(f"of those without a flag: {_share(near[clear])}; of SLACS {_share(near[clear & slacs])}")
    lines.append(f"seconds: median {np.median([row['seconds'] for row in rows if 'seconds' in row]):.1f}")
    return lines


def _near(row):
    return any(abs(row["lens"]["theta_E"] / value - 1) < 0.03 for value in row["published"].values())


# ---------------------------------------------------------------------------------------------------- the commands


def _done(path):
    """The rows so far; what was no number is NaN again, but for a valley that there is none of."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        for values in (row, row.get("tests", {})):
            lost = [name for name, value in values.items() if value is None and name != "valley"]
            values.update(dict.fromkeys(lost, float("nan")))
    return rows


def _append(path, row):
    with open(path, "a") as file:
        file.write(json.dumps(finite(row)) + "\n")


def _given(function):
    for option in (
        click.option("--weights", default=ModelConfig.weights, show_default=True),
        click.option("--estimator", default=ModelConfig.estimator, show_default=True),
        click.option("--joint", default=ModelConfig.joint, show_default=True),
        click.option("--search", type=click.Choice(["network", "descent"]), default=ModelConfig.search),
        click.option("--fast", is_flag=True, help="What the network finds, without a fit."),
        click.option("--out", type=click.Path(path_type=pathlib.Path), required=True),
    ):
        function = option(function)
    return function


def _settled(settings, out):
    """The `ModelConfig` of these options and its networks, once the folder is known to hold no rows of others."""
    warnings.simplefilter("ignore")
    config, path = ModelConfig(**settings), out / "settings.json"
    out.mkdir(parents=True, exist_ok=True)
    if path.exists() and ModelConfig(**json.loads(path.read_text())) != config:
        raise click.ClickException(f"{out} holds rows of other settings, {path.read_text()}; choose another --out.")
    path.write_text(json.dumps(settings))
    return config, workflow.networks(*config.networks)


@click.group()
def main():
    """Lenses from their images alone; see the top of this file."""


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="Folder of real galaxies; without it, procedural ones.")
@click.option("--n", default=1000, show_default=True)
@click.option("--first", default=0, show_default=True, help="Number of the first system.")
@click.option("--posterior", is_flag=True, help="Errors from the posterior, too; doubles the time.")
@click.option("--telescope", type=click.Choice(list(TELESCOPES)), default="hubble", show_default=True)
@_given
def mocks(galaxies, n, first, telescope, out, **settings):
    """Simulated systems."""
    config, networks = _settled(settings, out)
    stamps = unseen_galaxies(galaxies)
    rows = _done(out / "rows.jsonl")
    if rows and rows[0]["index"] != first:
        raise click.ClickException(f"{out} begins with system {rows[0]['index']}, not {first}; choose another --out.")
    # Rows of earlier versions say nothing of it.
    held = rows[0].get("telescope", "hubble") if rows else telescope
    if held != telescope:
        raise click.ClickException(f"{out} holds systems of {held}, not {telescope}; choose another --out.")
    for index in range(first + len(rows), first + n):
        rows.append(judged_mock(index, stamps, networks, config, telescope))
        _append(out / "rows.jsonl", rows[-1])
        row = rows[-1]
        click.echo(
            f"{index}: noise {row['noise']:.4f} galaxy {row['with_galaxy']:d} chi2 {row['chi2_fitted']:.3f} "
            f"(true lens {row['chi2_true']:.3f}) theta_E {row['lens']['theta_E']:.4f} ({row['truth']['theta_E']:.4f}) "
            f"rms {row['rms_fitted']:.2f} aligned {row['aligned_rms']:.2f} ({row['rms_true']:.2f}) "
            f"{row['seconds']:.0f} s {' '.join(row['flags'])}"
        )
    click.echo("\n".join(mock_report(rows)))


@main.command()
@click.option("--n", default=8, show_default=True, help="Systems of each kind.")
@_given
def beyond(n, out, **settings):
    """Systems of other kinds than networks were trained on."""
    config, networks = _settled(settings, out)
    rows = _done(out / "rows.jsonl")
    known = {(row["kind"], row["index"]) for row in rows}
    for index, kind in ((index, kind) for index in range(n) for kind in KINDS):
        if (kind, index) in known:
            continue
        rows.append(judged_beyond(kind, index, networks, config))
        _append(out / "rows.jsonl", rows[-1])
        row = rows[-1]
        said = row.get("error") or f"theta_E {row['lens']['theta_E']:.3f} {' '.join(row['flags'])}"
        click.echo(f"{kind} {index}: true theta_E {row['true_theta_E']:.3f}, {said}")
    click.echo("\n".join(beyond_report(rows)))


@main.command()
@click.option("--galaxies", type=click.Path(exists=True), help="As of `mocks`.")
@click.option("--n", default=60, show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), required=True)
def residues(galaxies, n, out):
    """What is left of lens galaxies: of our own fit, and as in training."""
    import matplotlib.pyplot as plt

    warnings.simplefilter("ignore")
    stamps = unseen_galaxies(galaxies)
    base = MockConfig(lens_light_error=0.02, lens_light_error_decades=1.0)
    kinds = {
        "left by our fit": dataclasses.replace(base, lens_galaxy_fraction=1.0),
        "imitated in training": dataclasses.replace(base, lens_light_fraction=1.0),
    }
    found = {}
    for name, config in kinds.items():
        each = (residue(index, stamps, config) for index in range(n))
        found[name] = [pair for pair in each if pair is not None]
        click.echo(f"{name}: {len(found[name])} of {n} systems")
    click.echo("\n".join(residue_report(found)))
    out.mkdir(parents=True, exist_ok=True)
    n_shown = 6
    figure, axes = plt.subplots(2, n_shown, figsize=(2 * n_shown, 4.4), layout="constrained")
    for row, (name, pairs) in zip(axes, found.items(), strict=True):
        for axis, (left, at) in zip(row, pairs[:n_shown], strict=True):
            drawn = axis.imshow(left, origin="lower", cmap="RdBu_r", vmin=-0.2, vmax=0.2)
            axis.contour(at, [1.0], colors="grey", linewidths=0.8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    figure.colorbar(drawn, ax=axes, label="residue / peak of the arcs", shrink=0.7)
    figure.savefig(out / "residues.png", dpi=110)


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=pathlib.Path), required=True)
@click.option("--n", default=2, show_default=True, help="Arcs about each galaxy.")
@click.option("--first", default=0, show_default=True, help="Number of the first of these.")
@click.option("--posterior", is_flag=True, help="As of `mocks`.")
@_given
def about(data, n, first, out, **settings):
    """Simulated arcs about real galaxies."""
    config, networks = _settled(settings, out)
    stamps = unseen_galaxies(data)
    rows = _done(out / "rows.jsonl")
    known = {(row["name"], row["index"]) for row in rows}
    for index, name in ((index, name) for index in range(first, first + n) for name in ABOUT):
        if (name, index) in known:
            continue
        rows.append(judged_about(data, name, index, stamps, networks, config))
        _append(out / "rows.jsonl", rows[-1])
        row = rows[-1]
        said = row.get("error") or (
            f"theta_E {row['lens']['theta_E']:.4f} ({row['truth']['theta_E']:.4f}) arcs {row['arcs_off']:+.0f} % "
            f"source {row['flux_off']:+.0f} % chi2 {row['tests']['chi2']:.2f} {row['seconds']:.0f} s "
            f"{' '.join(row['flags'])}"
        )
        click.echo(f"{name} {index}: {said}")
    click.echo("\n".join(about_report(rows)))


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=pathlib.Path), required=True)
@click.option("--only", default="", help="Lenses whose name begins so.")
@click.option("--turned", is_flag=True, help="Each image turned by a quarter: what no limit here was chosen on.")
@_given
def real(data, only, turned, out, **settings):
    """Real lenses."""
    config, networks = _settled(settings, out)
    rows = _done(out / "rows.jsonl")
    if rows and rows[0].get("turned", False) != turned:
        held = "as they are" if turned else "turned"
        raise click.ClickException(f"{out} holds images {held}; choose another --out.")
    known = {row["name"] for row in rows}
    for name, read, published in real_lenses(data):
        if name in known or not name.startswith(only):
            continue
        started = time.perf_counter()
        rows.append(judged_real(name, read, published, networks, config, out, turned))
        _append(out / "rows.jsonl", rows[-1])
        click.echo(f"{real_report(rows[-1:])[0]}  ({time.perf_counter() - started:.0f} s in all)")
    click.echo("\n".join(real_report(rows)))


if __name__ == "__main__":
    main()
