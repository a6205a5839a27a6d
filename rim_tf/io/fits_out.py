"""Results and simulations as FITS files, each whole or not there at all."""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import warnings

import numpy as np
from astropy.io import fits

from rim_tf import __version__
from rim_tf.files import written_whole
from rim_tf.io.lens_json import write_lens

# Beyond these float32 keeps too few digits, and an image is stored in float64.
_FLOAT32_RANGE = 1e-30, 1e30
# Where most fields have their middle [arcsec].
_MIDDLE = 0.0, 0.0


def write_reconstruction(reconstruction, path, weights=None, lens_light=None, provenance=None):
    """One FITS file with the result and all that it was made from, enough to make it again.

    HDUs: an empty primary one, whose header holds the lens parameters, the figures of `SourceFit.summary` and the
    versions; SOURCE; MODEL; RESIDUAL (in sigma); DATA, NOISE (NaN where masked) and MASK (1 = used) as the network
    saw them; PSF where it is a stamp; LENSLIGHT where some was subtracted; STDDEV, the source's standard deviation,
    where the method gives it. Where errors were asked for, the header has FLUXERR, MAGNERR, PEAKERR and RHALFERR too,
    half the distance of the 16th and the 84th percentile of draws, which beside a lens galaxy know that its light is
    hard to tell from the source's; STDDEV does not. Each image has PIXSCALE and a linear WCS [arcsec]
    with (0, 0) at the centre of the field, or of the frame that the field was cut from by `recentred`: lens and source
    are in the coordinates of that frame, in which CENTRE_X, CENTRE_Y is the middle of the field. Where the observation
    has sky coordinates, they are the WCS of the images in its pixels, and the linear one is its alternate A.

    Args:
      reconstruction: `rim_tf.results.SourceFit`, by whatever method.
      path: an existing file is replaced.
      weights: name of the weights, for the header.
      lens_light: what was subtracted from the image, [rows, columns].
      provenance: dictionary of further header cards, such as the names of the input files.

    Raises:
      InputError: the file cannot be written.
    """
    observation = reconstruction.observation
    used, scale = observation.mask, observation.pixel_scale
    of_image = scale, observation.sky, observation.centre
    of_source = reconstruction.source_pixel_scale, None, reconstruction.lens.moved_source(observation.centre)
    images = [
        ("SOURCE", reconstruction.source, *of_source),
        ("MODEL", reconstruction.model_image, *of_image),
        ("RESIDUAL", reconstruction.residual, *of_image),
        ("DATA", np.where(used, observation.image, np.nan), *of_image),
        ("NOISE", np.where(used, observation.noise, np.nan), *of_image),
        ("MASK", used.astype(np.uint8), *of_image),
    ]
    if not isinstance(observation.psf, float):
        images.append(("PSF", observation.psf, scale, None, _MIDDLE))
    if reconstruction.standard_deviation is not None:
        images.append(("STDDEV", reconstruction.standard_deviation, *of_source))
    if lens_light is not None:
        images.append(("LENSLIGHT", lens_light, *of_image))
    header = _header(
        _lens_cards(reconstruction.lens.moved(observation.centre))
        | {
            f"CENTRE_{axis}": (at, "[arcsec] middle of MODEL")
            for axis, at in zip("XY", observation.centre, strict=True)
        }
        | _psf_card(observation.psf)
        | {
            "SRCSCALE": (reconstruction.source_pixel_scale, "[arcsec] pixel of SOURCE"),
            "CHI2PIX": (reconstruction.chi2_per_pixel, "chi^2 per unmasked pixel"),
            "FLUX": (reconstruction.flux, "flux of SOURCE [unit of the image arcsec^2]"),
            "MAGNIF": (reconstruction.magnification, "flux of MODEL over flux of SOURCE"),
            "PEAK": (float(reconstruction.source.max()), "of SOURCE [unit of the image]"),
            "RHALF": (reconstruction.half_light_radius, "[arcsec] radius of half the flux of SOURCE"),
            "FLUXOUT": (reconstruction.flux_outside, "share of flux from beyond the source grid"),
            "SECONDS": (reconstruction.seconds, "time the reconstruction took"),
            "WEIGHTS": (weights, "weights of the network"),
            "DATE": (_now(), "when this was written"),
        }
        | {f"V_{name.upper()[:6]}": (version, f"version of {name}") for name, version in versions().items()}
        | _error_cards(reconstruction.errors)
        | (provenance or {})
    )
    header.insert(0, ("PIXSCALE", scale, "[arcsec] pixel of MODEL, RESIDUAL, DATA"))
    _write_fits(path, header, images)


def write_sources(path, errors, source_pixel_scale, centre=(0.0, 0.0), provenance=None):
    """One FITS file with draws of a source and what they come to.

    HDUs: an empty primary one, whose header has the errors as `write_reconstruction` writes them; MEAN and STDDEV of
    the draws; SAMPLES, the draws, [k, n, m]; FIGURES, a table of the flux, magnification, source_peak and
    half_light_radius that each draw counts as.

    Args:
      path: an existing file is replaced.
      errors: `rim_tf.results.SourceErrors`.
      source_pixel_scale: [arcsec].
      centre: of the source's grid, x, y [arcsec].
      provenance: dictionary of further header cards.

    Raises:
      InputError: the file cannot be written.
    """
    drawn = errors.samples
    images = [("MEAN", drawn.mean(axis=0)), ("STDDEV", drawn.std(axis=0)), ("SAMPLES", drawn)]
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "D", array=values) for name, values in errors.figures.items()], name="FIGURES"
    )
    header = _header(
        {"SRCSCALE": (source_pixel_scale, "[arcsec] pixel of MEAN"), "DATE": (_now(), "when this was written")}
        | {f"V_{name.upper()[:6]}": (version, f"version of {name}") for name, version in versions().items()}
        | _error_cards(errors)
        | (provenance or {})
    )
    _write_fits(path, header, [(*each, source_pixel_scale, None, centre) for each in images], [table])


def write_simulation(folder, observation, lens, source, source_pixel_scale, noiseless, provenance=None):
    """The files of a simulated lens, which `read_observation` and `read_lens` read.

    image.fits, noise.fits, mask.fits; psf.fits where the PSF is a stamp (the sigma of a Gaussian one is in the header
    of image.fits as PSFSIGMA); lens.json; truth.fits with HDUs SOURCE and MODEL, the image before noise.

    Args:
      folder: where to write, an existing folder.
      observation: what was simulated, an `Observation`.
      lens: of the simulation.
      source: the true source, [n, m].
      source_pixel_scale: its pixel [arcsec].
      noiseless: blurred image before noise was added, [rows, columns].
      provenance: dictionary of header cards, such as the seed.

    Raises:
      InputError: a file cannot be written.
    """
    folder, scale = pathlib.Path(folder), observation.pixel_scale
    cards = _lens_cards(lens) | _psf_card(observation.psf) | {"V_RIM_TF": (__version__, "version of rim_tf")}
    header = _header(cards | (provenance or {}))
    single = [
        ("image", observation.image),
        ("noise", observation.noise),
        ("mask", observation.mask.astype(np.uint8)),
    ]
    if not isinstance(observation.psf, float):
        single.append(("psf", observation.psf))
    for name, image in single:
        _write_fits(folder / f"{name}.fits", header, [(name.upper(), image, scale, None, _MIDDLE)])
    truth = [("SOURCE", source, source_pixel_scale, None, _MIDDLE), ("MODEL", noiseless, scale, None, _MIDDLE)]
    _write_fits(folder / "truth.fits", header, truth)
    write_lens(lens, folder / "lens.json")


def versions():
    """Versions of what the numbers depend on, by name; None for a package that does not say."""
    found = {"rim_tf": __version__}
    for name in ("keras", "tensorflow", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # built under another name, as tensorflow-cpu is
            found[name] = None
    return found


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "")


def _lens_cards(lens):
    """Each parameter in a card of its name; a lens of components as JSON besides, so that it can be read back."""
    units = {"theta_E": "[arcsec] Einstein radius", "x_lens": "[arcsec]", "y_lens": "[arcsec]"}
    cards = {_keyword(name): (value, units.get(name, "")) for name, value in lens.named().items()}
    values = lens.to_dict()
    return cards | ({"LENS": json.dumps(values)} if "components" in values else {})


_ERRORS = {"flux": "FLUXERR", "magnification": "MAGNERR", "source_peak": "PEAKERR", "half_light_radius": "RHALFERR"}


def _error_cards(errors):
    if errors is None:
        return {}
    figures = errors.summary()
    cards = {card: (figures[name]["error"], f"standard error of {name}") for name, card in _ERRORS.items()}
    return cards | {"NDRAWS": (len(errors.samples), "draws that the errors are made of")}


def _keyword(name):
    """FITS has eight letters for a card, unless it begins with HIERARCH."""
    return name.upper() if len(name) <= 8 else f"HIERARCH {name.upper()}"


def _psf_card(psf):
    return {"PSFSIGMA": (psf, "[arcsec] Gaussian PSF")} if isinstance(psf, float) else {}


def _header(cards):
    """A header of {keyword: value or (value, comment)}; what FITS cannot hold is undefined or escaped."""
    header = fits.Header()
    for keyword, card in cards.items():
        value, comment = card if isinstance(card, tuple) else (card, "")
        if isinstance(value, (float, np.floating)):
            value = float(value) if math.isfinite(value) else None
        elif isinstance(value, (str, os.PathLike)):
            value = str(value).encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
        header[keyword] = (value, comment)
    return header


def _write_fits(path, header, images, tables=()):
    """An empty primary HDU with `header`, one for each (name, image, pixel scale, sky or None, centre), and tables."""
    hdus = [fits.PrimaryHDU(header=header)]
    for name, image, pixel_scale, sky, centre in images:
        hdu = fits.ImageHDU(_stored(image), name=name)
        hdu.header["PIXSCALE"] = (pixel_scale, "[arcsec]")
        if sky is not None:
            _add_sky(hdu.header, sky, image.shape)
        _add_linear(hdu.header, pixel_scale, image.shape, centre, "" if sky is None else "A")
        hdus.append(hdu)
    with written_whole(path) as unfinished, warnings.catch_warnings():
        # A file name may leave no room for its card's comment.
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        fits.HDUList([*hdus, *tables]).writeto(unfinished, overwrite=True)


def _stored(image):
    """In float32, but for integers and for brightness that float32 cannot hold."""
    if image.dtype == np.uint8:
        return image
    sizes = np.abs(image[np.isfinite(image) & (image != 0)])
    peak = sizes.max() if sizes.size else 1.0
    return image.astype(np.float32 if _FLOAT32_RANGE[0] < peak < _FLOAT32_RANGE[1] else np.float64)


def _add_sky(header, sky, shape):
    header.extend(sky.copy(), unique=True)  # cards are shared otherwise
    for axis, n in ((1, shape[1]), (2, shape[0])):
        header[f"CRPIX{axis}"] = sky.get(f"CRPIX{axis}", 0.0) + (n + 1) / 2


def _add_linear(header, pixel_scale, shape, centre, alternate):
    """Coordinates [arcsec], in which the middle of the field is `centre`."""
    for axis, letter, n, middle in ((1, "X", shape[-1], centre[0]), (2, "Y", shape[-2], centre[1])):
        header[f"CTYPE{axis}{alternate}"] = letter
        header[f"CUNIT{axis}{alternate}"] = "arcsec"
        header[f"CRPIX{axis}{alternate}"] = (n + 1) / 2  # FITS counts pixels from 1
        header[f"CRVAL{axis}{alternate}"] = middle
        header[f"CDELT{axis}{alternate}"] = pixel_scale
