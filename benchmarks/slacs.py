"""Real lenses: the path from an HST image, lens galaxy and all, to the source, beside published values.

    python benchmarks/slacs.py --data FOLDER --lens J1627-0053 --lens J0737+3216 --out OUT

For each lens it writes the inputs as FITS files that `rim-tf reconstruct` reads, then subtracts the lens
galaxy, fits the lens from the published theta_E and axis ratio (the position angle is free: north is not
known to be up), and reconstructs the source. NAME.png is the reconstruction, NAME_light.png the subtraction;
table.txt and table.json have the figures. A study, not a test: look at the figures.

Noise maps of these drizzled images are conservative: chi^2 per pixel is about 0.45 on empty sky.
"""

import math
import pathlib
import time

import click
import numpy as np
from astropy.io import fits
from matplotlib.figure import Figure

from rim_tf.files import write_json, write_text
from rim_tf.inference.lens_light import subtract_lens_light
from rim_tf.inference.optimise import cropped, optimise_lens
from rim_tf.inference.rim import reconstruct
from rim_tf.io import read_observation, write_lens, write_reconstruction
from rim_tf.lens import LensParameters
from rim_tf.models.pretrained import load_pretrained
from rim_tf.plots import draw_image, draw_residual

# Clear rings and arcs, not hidden by masks.
CLEAR = (
    "J0029-0055 J0330-0020 J0728+3835 J0737+3216 J0903+4116 J0946+1006 "
    "J0959+0410 J1250+0523 J1402+6321 J1430+4105 J1627-0053 J1630+4520 J2300+0022 J2341+0000"
).split()
# Half-width of what is fitted [theta_E]: arcs end before 2, and time grows with the area; and of what is shown,
# whose source grid is wider too, for galaxies larger than the Einstein ring.
_FITTED, _SHOWN = 2.3, 3.0
_COLUMNS = {
    "name": ("lens", "{:<11}"),
    "theta_E": ("theta_E", "{:7.3f}"),
    "bolton": ("Bolton", "{:6.2f}"),
    "tinylens": ("tinylens 3 sigma", "{:>16}"),
    "q": ("q", "{:5.2f}"),
    "q_bolton": ("Bolton", "{:6.2f}"),
    "shear": ("shear", "{:5.2f}"),
    "chi2_light": ("chi2 light", "{:10.2f}"),
    "chi2_start": ("start", "{:5.2f}"),
    "chi2_ring": ("ring", "{:5.2f}"),
    "magnification": ("mu", "{:5.1f}"),
    "seconds_light": ("s light", "{:7.0f}"),
    "seconds_fit": ("s fit", "{:5.0f}"),
    "cpu_seconds_fit": ("cpu s", "{:5.0f}"),
    "steps": ("steps", "{:5d}"),
}


def write_inputs(folder, catalogue, i):
    """image.fits with HDUs IMAGE, NOISE, PSF, MASK, and lens.json, the published lens at angle 0."""
    folder.mkdir(parents=True, exist_ok=True)
    hdus = [fits.PrimaryHDU()]
    for name in ("image", "noise", "psf", "mask"):
        array = catalogue[name][i]
        array = array.astype(np.uint8 if name == "mask" else np.float32)
        hdus.append(fits.ImageHDU(array, name=name.upper()))
        hdus[-1].header["PIXSCALE"] = (float(catalogue["pixel_scale"]), "[arcsec]")
    fits.HDUList(hdus).writeto(folder / "image.fits", overwrite=True)
    theta_E, q = (float(catalogue[f"bolton2008_{key}"][i]) for key in ("bSIE_arcsec", "qSIE"))
    lens = LensParameters.from_axis_ratio(theta_E, q, 0.0)
    write_lens(lens, folder / "lens.json")
    return lens


def ring_chi2(reconstruction, lens):
    """chi^2 per pixel where the arcs are, from 0.5 to 1.6 theta_E."""
    rows, columns = reconstruction.observation.shape
    y, x = np.indices((rows, columns), dtype=float)
    radius = np.hypot(x - (columns - 1) / 2, y - (rows - 1) / 2) * reconstruction.observation.pixel_scale
    ring = (radius > 0.5 * lens.theta_E) & (radius < 1.6 * lens.theta_E)
    return float(np.nanmean(reconstruction.residual[ring] ** 2))


def light_figure(observation, light, half_width):
    """The frame, the model of the lens galaxy and what is left, and the residual outside the arcs."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    before, after = cropped(observation, half_width), cropped(light.observation, half_width)
    model = before.image - after.image
    # A logarithm, which shows the arcs on the galaxy: its centre is a hundred times brighter than they are.
    floor = np.nanpercentile(before.image[before.mask], 5) / 2
    for ax, image, title in [(axes[0], before.image, "observed"), (axes[1], model, "lens light (log)")]:
        shown = np.where(before.mask, np.log10(np.maximum(image, max(floor, 1e-4))), np.nan)
        draw_image(ax, shown, before.pixel_scale, None).set_title(title)
    peak = np.percentile(after.image[after.mask], 99.7)
    draw_image(axes[2], np.where(after.mask, after.image, np.nan), after.pixel_scale, None).set_title("left")
    axes[2].images[0].set_clim(-0.1 * peak, peak)
    kept = observation.mask & ~light.arc_mask
    residual = np.where(kept, light.observation.image / observation.noise, np.nan)
    draw_residual(axes[3], residual, observation.pixel_scale).set_title("whole frame, sigma")
    return figure, float(np.nanmean(residual**2))


def study(name, catalogue, model, out):
    """One lens: files and figures into `out`; returns its row of the table."""
    i = list(catalogue["names"]).index(name)
    published = write_inputs(out / name, catalogue, i)
    path = f"{out / name / 'image.fits'}"
    observation = read_observation(f"{path}[IMAGE]", f"{path}[NOISE]", f"{path}[PSF]", f"{path}[MASK]")
    started = time.perf_counter()
    light = subtract_lens_light(observation, published)
    light_done = time.perf_counter()
    centre = light.parameters["components"][0]
    start = LensParameters(published.theta_E, published.e1, published.e2, centre["x"], centre["y"])
    figure, chi2_light = light_figure(observation, light, _SHOWN * start.theta_E)
    figure.savefig(out / f"{name}_light.png", dpi=90)
    cut = cropped(light.observation, _FITTED * start.theta_E)
    fit_started, cpu_started = time.perf_counter(), time.process_time()
    fit = optimise_lens(cut, start, model)
    seconds_fit, cpu_seconds_fit = time.perf_counter() - fit_started, time.process_time() - cpu_started
    result = reconstruct(cropped(light.observation, _SHOWN * start.theta_E), fit.lens, model)
    result.plot().savefig(out / f"{name}.png", dpi=90)
    write_lens(fit.lens, out / name / "fitted_lens.json")
    write_reconstruction(result, out / name / "reconstruction.fits")
    low, best, high = (float(catalogue[f"tinylens_thetaE{end}"][i]) for end in ("_3sig_lo", "", "_3sig_hi"))
    ellipticity = math.hypot(fit.lens.e1, fit.lens.e2)
    return {
        "name": name,
        "theta_E": fit.lens.theta_E,
        "bolton": published.theta_E,
        "tinylens": f"{low:.3f} - {high:.3f}",
        "tinylens_best": best,
        "q": (1 - ellipticity) / (1 + ellipticity),
        "q_bolton": float(catalogue["bolton2008_qSIE"][i]),
        "shear": math.hypot(fit.lens.gamma1, fit.lens.gamma2),
        "chi2_light": chi2_light,
        "chi2_start": fit.history[0]["chi2"],
        "chi2_ring": ring_chi2(result, fit.lens),
        "magnification": result.magnification,
        "seconds_light": light_done - started,
        "seconds_fit": seconds_fit,
        "cpu_seconds_fit": cpu_seconds_fit,  # on a shared machine the better measure
        "steps": len(fit.history),
        "lens": fit.lens.as_tuple(),
        "light": light.parameters,
    }


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=pathlib.Path), required=True)
@click.option("--lens", "lenses", multiple=True, help="A name; may be repeated.  [default: the clear ones]")
@click.option("--weights", default="small", show_default=True, help="Name, or path of NAME.json.")
@click.option("--out", type=click.Path(path_type=pathlib.Path), default="slacs", show_default=True)
def main(data, lenses, weights, out):
    """Subtract, fit and reconstruct SLACS lenses; see the top of this file."""
    catalogue = np.load(data / "lenses_slacs_f814w.npz")
    out.mkdir(parents=True, exist_ok=True)
    model = load_pretrained(weights)
    unknown = set(lenses) - set(catalogue["names"])
    if unknown:
        raise click.BadParameter(f"no such lens: {', '.join(sorted(unknown))}.", param_hint="--lens")
    rows = []
    header = "  ".join(title.rjust(len(form.format(*_blank(form)))) for title, form in _COLUMNS.values())
    click.echo(header)
    table = [header]
    for name in lenses or CLEAR:
        click.echo(f"{name}: subtracting the lens galaxy, fitting the lens, reconstructing ...", err=True)
        rows.append(study(name, catalogue, model, out))
        table.append("  ".join(form.format(rows[-1][key]) for key, (_, form) in _COLUMNS.items()))
        click.echo(table[-1])
        # After each lens, so that an interrupted study is not lost.
        write_text(out / "table.txt", "\n".join(table) + "\n")
        write_json(out / "table.json", rows)


def _blank(form):
    """Something that the format takes, to learn its width."""
    return [0] if form[-2] in "df" else [""]


if __name__ == "__main__":
    main()
