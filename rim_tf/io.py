"""Files in and out: FITS through astropy, lens parameters and summaries as JSON.

A FITS image is read as it is stored: its row 0 is the bottom of the picture and our smallest y, its column 0
our smallest x, so nothing is flipped. All angles (e1, e2, the shear) are those of the pixel axes,
anticlockwise from +x, along a row. A world coordinate system gives the pixel scale and no more: on a sky
image with north up and east to the left +x points west, and phi is the position angle east of north plus 90
degrees.

A path may end in [HDU], the HDU's name, its number, or NAME,VERSION, as in `lens.fits[NOISE]`, so that one
file can carry image, noise, PSF and mask.

What is written appears whole or not at all: under a passing name first, then renamed.
"""

import contextlib
import dataclasses
import datetime
import difflib
import json
import math
import os
import pathlib
import re
import warnings
import zlib

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from rim_tf import __version__
from rim_tf.errors import InputError, InputWarning
from rim_tf.lens import LENS_PARAMETERS, LensParameters
from rim_tf.observation import Observation, check_pixel_scale

# Two pixel scales are the same, and a pixel is square, within this fraction.
_SAME_SCALE = 0.01
# What astropy raises on files that are cut short, overwritten or compressed wrongly.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error, fits.VerifyError)


# ------------------------------------------------------------------------------------------------ images in


def read_image(path, hdu=None):
    """An image and its pixel scale.

    Args:
      path: FITS file, gzipped or not, perhaps with [HDU] at its end.
      hdu: name or number, in place of that; by default the first HDU that holds an image of two dimensions.

    Returns:
      The image, float64 [rows, columns], axes of length 1 left out; and its pixel scale [arcsec] from the
      celestial WCS or else from the keyword PIXSCALE, or None where there is neither.

    Raises:
      InputError: no such file, no FITS, no such HDU, too many dimensions, a truncated file, oblong pixels.
    """
    path, named = split_hdu(path)
    hdu = named if hdu is None else hdu
    with _open_fits(path) as hdus:
        chosen = _first_image(hdus, path) if hdu is None else _named_hdu(hdus, path, hdu)
        image = _two_dimensional(_pixels(chosen, path), f"{path}[{hdus.index_of(chosen)}]")
        return image, _pixel_scale(chosen.header, hdus[0].header, path)


def split_hdu(path):
    """The path without its [HDU], and the HDU as it is written there or None."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", str(path))
    if match is None or os.path.exists(path):  # brackets may also be part of a file's name
        return str(path), None
    return match.group(1), match.group(2)


def read_observation(image, noise, psf, mask=None, pixel_scale=None):
    """An `Observation` from files.

    Args:
      image: path of the FITS image; this and the other paths may end in [HDU].
      noise: path of the noise map, or one rms for all pixels.
      psf: path of the PSF stamp, or a Gaussian sigma [arcsec].
      mask: path of the mask, nonzero where a pixel is to be used (as in `Observation`), or None to use all.
      pixel_scale: [arcsec]; by default what the file of the image says.

    Raises:
      InputError: as `read_image` and `Observation`, and where no pixel scale is known.
    """
    _refuse_the_image_itself(image, noise=noise, psf=psf, mask=mask)
    pixels, scale_of_image = read_image(image)
    if pixel_scale is None:
        if scale_of_image is None:
            raise InputError(
                f"{image} has no pixel scale, neither a celestial WCS nor a keyword PIXSCALE; give it with "
                "--pixel-scale [arcsec]."
            )
        pixel_scale = scale_of_image
    pixel_scale = check_pixel_scale(pixel_scale)
    _warn_if_scales_differ(scale_of_image, pixel_scale, image, "the given pixel scale is used")
    if isinstance(psf, (str, os.PathLike)):
        psf_name = psf
        psf, scale_of_psf = read_image(psf)
        _warn_if_scales_differ(scale_of_psf, pixel_scale, psf_name, "it is used as it is, so resample it if it must be")
    return Observation(
        image=pixels,
        noise=read_image(noise)[0] if isinstance(noise, (str, os.PathLike)) else noise,
        psf=psf,
        mask=None if mask is None else _read_mask(mask),
        pixel_scale=pixel_scale,
    )


def read_source(path, pixel_scale=None):
    """A source to be lensed, [n, m], and its pixel scale [arcsec].

    Args:
      path: FITS file, perhaps with [HDU] at its end.
      pixel_scale: [arcsec]; by default what the file says.

    Raises:
      InputError: as `read_image`; no pixel scale is known; pixels that are no number, or no light at all.
    """
    source, scale_in_file = read_image(path)
    pixel_scale = scale_in_file if pixel_scale is None else pixel_scale
    if pixel_scale is None:
        raise InputError(f"{path} has no pixel scale; give it with --source-pixel-scale [arcsec].")
    if not np.isfinite(source).all() or source.max() <= 0:
        raise InputError(f"{path} has pixels that are NaN or infinite, or none above 0; a source must be finite light.")
    return source, pixel_scale


def _read_mask(path):
    mask, _ = read_image(path)
    return np.isfinite(mask) & (mask != 0)


def _refuse_the_image_itself(image, **others):
    """A file with many HDUs given twice without their names would be read as its own noise map."""
    for name, other in others.items():
        if isinstance(other, (str, os.PathLike)):
            path, hdu = split_hdu(image)
            other_path, other_hdu = split_hdu(other)
            if hdu == other_hdu and os.path.realpath(path) == os.path.realpath(other_path):
                raise InputError(
                    f"The {name} is {other}, which is the image itself; say which HDU holds the {name}, as "
                    f"in {other_path}[{name.upper()}]."
                )


def _warn_if_scales_differ(scale_in_file, pixel_scale, path, what_happens):
    if scale_in_file is not None and abs(scale_in_file / pixel_scale - 1) > _SAME_SCALE:
        warnings.warn(
            f"{path} says its pixels are {scale_in_file:.4g} arcsec wide, the image's are taken to be "
            f"{pixel_scale:.4g}; {what_happens}.",
            InputWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def _open_fits(path):
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist.")
    with warnings.catch_warnings():
        # astropy's warnings (odd dates, truncation) do not stop it; what matters raises below.
        warnings.simplefilter("ignore")
        try:
            hdus = fits.open(path, memmap=False, lazy_load_hdus=False)
        except (PermissionError, IsADirectoryError) as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        except _UNREADABLE:
            raise InputError(f"{path} is not a FITS file, or its beginning is damaged.") from None
        with hdus:
            yield hdus


def _pixels(hdu, path):
    """The data of an HDU, or None; reading is where a truncated file shows."""
    try:
        return None if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)) and not _is_compressed(hdu) else hdu.data
    except _UNREADABLE:
        raise InputError(
            f"{path} is truncated or damaged in HDU {hdu.name or 'without a name'}; get it again."
        ) from None


def _is_compressed(hdu):
    return isinstance(hdu, fits.CompImageHDU)


def _first_image(hdus, path):
    """The first HDU with two dimensions longer than 1, or else the first image of any kind."""
    images = [hdu for hdu in hdus if getattr(hdu, "is_image", False) and hdu.header.get("NAXIS", 0) > 0]
    flat = [hdu for hdu in images if len(hdu.shape) - sum(n == 1 for n in hdu.shape) == 2]
    if not images:
        raise InputError(f"{path} holds no image; its HDUs are {_contents(hdus)}.")
    return (flat or images)[0]


def _named_hdu(hdus, path, hdu):
    key = hdu
    if isinstance(hdu, str):
        name, _, version = hdu.partition(",")
        key = int(hdu) if re.fullmatch(r"\s*\d+\s*", hdu) else name.strip()
        if version.strip().isdigit():
            key = (name.strip(), int(version))
    try:
        chosen = hdus[key]
    except (KeyError, IndexError):
        raise InputError(f"{path} has no HDU {hdu}; its HDUs are {_contents(hdus)}.") from None
    if _pixels(chosen, path) is None:
        raise InputError(f"HDU {hdu} of {path} holds no image; its HDUs are {_contents(hdus)}.")
    return chosen


def _contents(hdus):
    """What there is to choose from: "0 PRIMARY (empty), 1 IMAGE (64 x 64)"."""
    described = []
    for i, hdu in enumerate(hdus):
        shape = hdu.shape if getattr(hdu, "is_image", False) else None
        content = "table" if shape is None else " x ".join(map(str, shape)) or "empty"
        described.append(f"{i} {hdu.name} ({content})".replace("  ", " "))
    return ", ".join(described)


def _two_dimensional(data, name):
    long_axes = [n for n in data.shape if n > 1]
    if data.ndim > 2 and len(long_axes) > 2:
        raise InputError(
            f"{name} has {data.ndim} dimensions, {' x '.join(map(str, data.shape))}; write one plane "
            "to its own file, as with astropy.io.fits.writeto('plane.fits', astropy.io.fits.getdata(...)[0])."
        )
    while data.ndim > 2:
        data = np.squeeze(data, axis=data.shape.index(1))
    if data.ndim != 2:
        raise InputError(f"{name} has {data.ndim} dimension; an image has two.")
    return data.astype(np.float64)


def _pixel_scale(header, primary, path):
    try:
        wcs = WCS(header).celestial
        sides = proj_plane_pixel_scales(wcs) * 3600 if wcs.has_celestial else None
    except Exception:  # wcslib has errors of many kinds; a WCS that it cannot read is one that says nothing
        sides = None
    if sides is not None:
        if abs(sides[0] / sides[1] - 1) > _SAME_SCALE:
            raise InputError(
                f"{path} has pixels of {sides[0]:.4g} x {sides[1]:.4g} arcsec by its WCS; they must be "
                "square, so resample the image."
            )
        # Going through degrees leaves noise in the last digits.
        return float(f"{np.sqrt(sides[0] * sides[1]):.10g}")
    value = header.get("PIXSCALE", primary.get("PIXSCALE"))
    return None if value is None else check_pixel_scale(value, f"PIXSCALE of {path}")


# -------------------------------------------------------------------------------------------------- lens in


def read_lens(path):
    """`LensParameters` from a JSON file with exactly the seven names of `rim_tf.lens.LENS_PARAMETERS`.

    Raises:
      InputError: no such file, no JSON, a name missing or misspelt, a value out of range or no number.
    """
    try:
        # Whole numbers too large for a float become inf here, and are refused as such.
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"), parse_int=float)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from None
    for name in values if isinstance(values, dict) else ():
        meant = difflib.get_close_matches(name.lower(), [known.lower() for known in LENS_PARAMETERS], n=1, cutoff=0.5)
        if name not in LENS_PARAMETERS and meant:
            known = next(known for known in LENS_PARAMETERS if known.lower() == meant[0])
            if known not in values:
                raise InputError(
                    f"{path} has unknown {name!r}, did you mean {known!r}? It must hold {', '.join(LENS_PARAMETERS)}."
                )
    try:
        return LensParameters.from_dict(values, where=str(path))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None


# ------------------------------------------------------------------------------------------------ files out


def write_reconstruction(reconstruction, path, weights=None, lens_light=None, provenance=None):
    """One FITS file with the result and all that it was made from, enough to make it again.

    HDUs: an empty primary one, whose header holds the seven lens parameters, the figures of
    `Reconstruction.summary` and the versions; SOURCE; MODEL; RESIDUAL (in sigma); DATA, NOISE (NaN where
    masked) and MASK (1 = used) as the network saw them; PSF where it is a stamp; LENSLIGHT where some was
    subtracted; STDDEV, the source's standard deviation, where the method gives it. Each image has PIXSCALE and a
    linear WCS [arcsec] with (0, 0) at the centre of the field.

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
    images = [
        ("SOURCE", reconstruction.source, reconstruction.source_pixel_scale),
        ("MODEL", reconstruction.model_image, scale),
        ("RESIDUAL", reconstruction.residual, scale),
        ("DATA", np.where(used, observation.image, np.nan), scale),
        ("NOISE", np.where(used, observation.noise, np.nan), scale),
        ("MASK", used.astype(np.uint8), scale),
    ]
    if not isinstance(observation.psf, float):
        images.append(("PSF", observation.psf, scale))
    if reconstruction.standard_deviation is not None:
        images.append(("STDDEV", reconstruction.standard_deviation, reconstruction.source_pixel_scale))
    if lens_light is not None:
        images.append(("LENSLIGHT", lens_light, scale))
    header = _header(
        _lens_cards(reconstruction.lens)
        | _psf_card(observation.psf)
        | {
            "SRCSCALE": (reconstruction.source_pixel_scale, "[arcsec] pixel of SOURCE"),
            "CHI2PIX": (reconstruction.chi2_per_pixel, "chi^2 per unmasked pixel"),
            "FLUX": (reconstruction.flux, "flux of SOURCE [unit of the image arcsec^2]"),
            "MAGNIF": (reconstruction.magnification, "flux of MODEL over flux of SOURCE"),
            "FLUXOUT": (reconstruction.flux_outside, "share of flux from beyond the source grid"),
            "SECONDS": (reconstruction.seconds, "time the reconstruction took"),
            "WEIGHTS": (weights, "weights of the network"),
            "DATE": (_now(), "when this was written"),
        }
        | {f"V_{name.upper()[:6]}": (version, f"version of {name}") for name, version in versions().items()}
        | (provenance or {})
    )
    header.insert(0, ("PIXSCALE", scale, "[arcsec] pixel of MODEL, RESIDUAL, DATA"))
    _write_fits(path, header, images)


def write_simulation(folder, observation, lens, source, source_pixel_scale, noiseless, provenance=None):
    """The files of a simulated lens, which `read_observation` and `read_lens` read.

    image.fits, noise.fits, mask.fits; psf.fits where the PSF is a stamp (the sigma of a Gaussian one is in
    the header of image.fits as PSFSIGMA); lens.json; truth.fits with HDUs SOURCE and MODEL, the image before
    noise.

    Args:
      folder: where to write, an existing folder.
      observation, lens: what was simulated.
      source: the true source, [n, m]; source_pixel_scale: its pixel [arcsec].
      noiseless: blurred image before noise was added, [rows, columns].
      provenance: dictionary of header cards, such as the seed.
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
        _write_fits(folder / f"{name}.fits", header, [(name.upper(), image, scale)])
    truth = [("SOURCE", source, source_pixel_scale), ("MODEL", noiseless, scale)]
    _write_fits(folder / "truth.fits", header, truth)
    write_lens(lens, folder / "lens.json")


def write_lens(lens, path):
    """lens.json, as `read_lens` reads it."""
    write_json(dataclasses.asdict(lens), path)


def write_json(values, path):
    """Plain Python values as JSON, whole or not at all; NaN and infinity, which JSON has not, become null."""
    text = json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"
    with _written_whole(path) as passing:
        passing.write_text(text, encoding="utf-8")


def versions():
    """Versions of what the numbers depend on."""
    import keras
    import tensorflow

    return {
        "rim_tf": __version__,
        "keras": keras.__version__,
        "tensorflow": tensorflow.__version__,
        "numpy": np.__version__,
    }


def _finite(values):
    if isinstance(values, dict):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    if isinstance(values, np.generic):
        values = values.item()
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "")


def _lens_cards(lens):
    units = {"theta_E": "[arcsec] Einstein radius", "x_lens": "[arcsec]", "y_lens": "[arcsec]"}
    return {
        name.upper(): (value, units.get(name, "")) for name, value in zip(LENS_PARAMETERS, lens.as_tuple(), strict=True)
    }


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


def _write_fits(path, header, images):
    """An empty primary HDU with `header`, then (name, image, pixel scale) each as an HDU of its own."""
    hdus = [fits.PrimaryHDU(header=header)]
    for name, image, pixel_scale in images:
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        hdu = fits.ImageHDU(image, name=name)
        hdu.header["PIXSCALE"] = (pixel_scale, "[arcsec]")
        for axis, letter, n in ((1, "X", image.shape[1]), (2, "Y", image.shape[0])):
            hdu.header[f"CTYPE{axis}"] = letter
            hdu.header[f"CUNIT{axis}"] = "arcsec"
            hdu.header[f"CRPIX{axis}"] = (n + 1) / 2  # FITS counts pixels from 1
            hdu.header[f"CRVAL{axis}"] = 0.0
            hdu.header[f"CDELT{axis}"] = pixel_scale
        hdus.append(hdu)
    with _written_whole(path) as passing, warnings.catch_warnings():
        # A file name may leave no room for its card's comment.
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        fits.HDUList(hdus).writeto(passing, overwrite=True)


@contextlib.contextmanager
def _written_whole(path):
    """A passing path in the same folder; renamed to `path` where the block ends well, removed otherwise."""
    path = pathlib.Path(path)
    # The name's end is kept: by it astropy decides whether to compress.
    passing = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield passing
        os.replace(passing, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        passing.unlink(missing_ok=True)
