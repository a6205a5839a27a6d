"""Images from FITS files, and an `Observation` made of them.

A FITS image is read as it is stored: its row 0 is the bottom of the picture and our smallest y, its column 0 our
smallest x, so nothing is flipped. All angles (e1, e2, the shear) are those of the pixel axes, anticlockwise from +x,
along a row. The sky coordinates give the pixel scale, are handed on to what is written, and do no more: on a sky
image with north up and east to the left +x points west, and phi is the position angle east of north plus 90 degrees.

A path may end in [HDU], the HDU's name, its number, or NAME,VERSION, as in `lens.fits[NOISE]`, so that one file can
carry image, noise, PSF and mask.
"""

import contextlib
import dataclasses
import os
import re
import struct
import warnings

import numpy as np
from astropy.io import fits

from rim_tf.errors import InputError, InputWarning
from rim_tf.files import DAMAGED, check_file
from rim_tf.memory import check_memory
from rim_tf.observation import Observation, centred_psf, check_pixel_scale, recentred

# Two pixel scales are the same, and a pixel is square, within this fraction.
_SAME_SCALE = 0.01
# What astropy raises on files that are cut short, overwritten or compressed wrongly.
_UNREADABLE = (*DAMAGED, ArithmeticError, AttributeError, AssertionError, MemoryError, struct.error, fits.VerifyError)


# ------------------------------------------------------------------------------------------- what users read


def read_image(path, hdu=None):
    """An image and its pixel scale.

    Args:
      path: FITS file, gzipped or not, perhaps with [HDU] at its end.
      hdu: name or number, in place of that; by default the first HDU that holds an image of two dimensions.

    Returns:
      The image, float64 [rows, columns], axes of length 1 left out; and its pixel scale [arcsec] from the
      celestial WCS or else from the keyword PIXSCALE, or None where there is neither.

    Raises:
      InputError: no such file, no FITS, no such HDU, too many dimensions, a truncated file, one too large for the
        memory, oblong pixels, or a pixel scale that cannot be.
    """
    stored = _read(path, hdu)
    return stored.pixels, stored.pixel_scale()


def read_observation(image, noise, psf, mask=None, pixel_scale=None, centre_psf=False, centre=None):
    """An `Observation` from files.

    Args:
      image: path of the FITS image; this and the other paths may end in [HDU].
      noise: path of the noise map, or one rms for all pixels.
      psf: path of the PSF stamp, or a Gaussian sigma [arcsec].
      mask: path of the mask, nonzero where a pixel is to be used (as in `Observation`), or None to use all.
      pixel_scale: [arcsec]; by default what the file of the image says.
      centre_psf: whether a stamp is brought to odd sides and its centre to the middle pixel, by `centred_psf`.
      centre: x, y [arcsec] from the middle of the frame, of a point that the frame is cut about, by `recentred`.

    Returns:
      `Observation`, with the sky coordinates of the image where they agree with its pixel scale.

    Raises:
      InputError: as `read_image` and `Observation`, and where no pixel scale is known.
    """
    _refuse_the_image_itself(image, noise=noise, psf=psf, mask=mask)
    stored = _read(image)
    scale_of_image = stored.pixel_scale(given=pixel_scale)
    if pixel_scale is None and scale_of_image is None:
        raise InputError(
            f"{image} has no pixel scale, neither a celestial WCS with CDELT or CD nor a keyword PIXSCALE; give it "
            "with --pixel-scale [arcsec], or in a catalogue's column pixel_scale."
        )
    pixel_scale = check_pixel_scale(scale_of_image if pixel_scale is None else pixel_scale)
    _warn_if_scales_differ(scale_of_image, pixel_scale, image, "the given pixel scale is used")
    psf_name = psf
    if isinstance(psf, (str, os.PathLike)):
        stored_psf = _read(psf)
        psf = centred_psf(stored_psf.pixels) if centre_psf else stored_psf.pixels
        scale_of_psf = stored_psf.pixel_scale(given=pixel_scale)
        _warn_if_scales_differ(scale_of_psf, pixel_scale, psf_name, "it is used as it is, so resample it if it must be")
    given = {
        "image": stored.pixels,
        "noise": _read(noise).pixels if isinstance(noise, (str, os.PathLike)) else noise,
        "psf": psf,
        "mask": None if mask is None else _read_mask(mask),
    }
    sky = stored.sky() if _same_scale(scale_of_image, pixel_scale) else None
    try:
        observation = Observation(**given, pixel_scale=pixel_scale, sky=sky)
    except InputError as error:
        raise InputError(_with_path(str(error), image=image, noise=noise, psf=psf_name, mask=mask)) from None
    return observation if centre is None else recentred(observation, centre)


def _with_path(sentence, **paths):
    """A sentence that begins with the name of a field, and the file that the field came from."""
    path = paths.get(sentence.split(" ", 1)[0])
    return f"{path}: {sentence}" if isinstance(path, (str, os.PathLike)) else sentence


def number_or_path(text):
    """What `read_observation` takes as noise or PSF, of the words that a user gave: a float where they are one."""
    try:
        return float(text)
    except ValueError:
        return text


def read_source(path, pixel_scale=None):
    """A source to be lensed, [n, m], and its pixel scale [arcsec].

    Args:
      path: FITS file, perhaps with [HDU] at its end.
      pixel_scale: [arcsec]; by default what the file says.

    Raises:
      InputError: as `read_image`; no pixel scale is known; pixels that are no number, or no light at all.
    """
    stored = _read(path)
    if pixel_scale is None:
        pixel_scale = stored.pixel_scale()
    if pixel_scale is None:
        raise InputError(f"{path} has no pixel scale; give it with --source-pixel-scale [arcsec].")
    if not np.isfinite(stored.pixels).all() or stored.pixels.max() <= 0:
        raise InputError(f"{path} has pixels that are NaN or infinite, or none above 0; a source must be finite light.")
    return stored.pixels, check_pixel_scale(pixel_scale, "source_pixel_scale")


def _read_mask(path):
    mask = _read(path).pixels
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


def _same_scale(scale_in_file, pixel_scale):
    return scale_in_file is not None and abs(scale_in_file / pixel_scale - 1) <= _SAME_SCALE


def _warn_if_scales_differ(scale_in_file, pixel_scale, path, what_happens):
    if scale_in_file is not None and not _same_scale(scale_in_file, pixel_scale):
        warnings.warn(
            f"{path} says its pixels are {scale_in_file:.4g} arcsec wide, the image's are taken to be "
            f"{pixel_scale:.4g}; {what_happens}.",
            InputWarning,
            stacklevel=3,
        )


# ------------------------------------------------------------------------------------------ one HDU of a file


def split_hdu(path):
    """The path without its [HDU], and the HDU as it is written there or None."""
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", str(path), re.DOTALL)
    if match is None or os.path.exists(path):  # brackets may also be part of a file's name
        return str(path), None
    return match.group(1), match.group(2)


@contextlib.contextmanager
def open_fits(path):
    """The HDUs of a FITS file, as of `hdus_of`, closed in the end; within, astropy says no warnings.

    Args:
      path: of the file, without [HDU].

    Raises:
      InputError: as of `hdus_of`.
    """
    with warnings.catch_warnings():
        # astropy's warnings (odd dates, truncation) do not stop it; what matters raises when it is read.
        warnings.simplefilter("ignore")
        with hdus_of(path) as hdus:
            yield hdus


def hdus_of(path):
    """The HDUs of a FITS file, as astropy's HDUList, to be closed; data are read when they are asked for.

    Args:
      path: of the file, without [HDU].

    Raises:
      InputError: no such file, no regular one, no FITS, or one whose beginning is damaged.
    """
    check_file(path)
    try:
        return fits.open(path, memmap=False, lazy_load_hdus=False)
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except _UNREADABLE:
        raise InputError(f"{path} is not a FITS file, or its beginning is damaged.") from None


def is_cut_short(hdus, path):
    """Whether bytes follow the last HDU: a header that ends too early, which astropy passes over.

    Args:
      hdus: of `open_fits`.
      path: of the file, which is not compressed.
    """
    last = hdus[-1].fileinfo()
    return last["datLoc"] + last["datSpan"] < os.path.getsize(path)


def pixel_scale_of(header, primary, path, given=None):
    """The pixel scale that a file says [arcsec], by its celestial WCS or else by PIXSCALE; None where it does not.

    Args:
      header: of the image's HDU.
      primary: header of the file's first HDU, where PIXSCALE is looked for after it.
      path: of the file, for the errors.
      given: another scale that takes the place of one that cannot be, or None.

    Raises:
      InputError: oblong pixels, or a scale that cannot be where no other is given.
    """
    wcs = _celestial(header, path)
    if wcs is not None:
        from astropy.wcs.utils import proj_plane_pixel_scales

        # Going through degrees leaves noise in the last digits.
        sides = [float(f"{side * 3600:.10g}") for side in proj_plane_pixel_scales(wcs)]
        if not abs(sides[0] / sides[1] - 1) <= _SAME_SCALE:
            raise InputError(
                f"{path} has pixels of {sides[0]:.4g} x {sides[1]:.4g} arcsec by its WCS; they must be square, so "
                "resample the image."
            )
        value, name = float(f"{np.sqrt(sides[0] * sides[1]):.10g}"), f"The pixel scale by the WCS of {path}"
    else:
        with _damage_named(path):
            value = header.get("PIXSCALE", primary.get("PIXSCALE"))
        name = f"PIXSCALE of {path}"
    if value is None:
        return None
    try:
        return check_pixel_scale(value, name)
    except InputError:
        if given is None:
            raise
        return None


def pixels_of(hdu, path):
    """The data of an HDU as they are stored, or None where it holds no image.

    Args:
      hdu: of `open_fits`.
      path: for the errors.

    Raises:
      InputError: the file is truncated or damaged there, or the image is larger than the memory.
    """
    # To FITS a compressed image is a table.
    if not (getattr(hdu, "is_image", False) or isinstance(hdu, fits.CompImageHDU)) or isinstance(hdu, fits.GroupsHDU):
        return None
    name = hdu.name or "without a name"
    try:
        # The bytes in the file, the same in this machine's order, and as float64.
        needed = np.prod(hdu.shape, dtype=float) * (2 * abs(hdu.header.get("BITPIX", 8)) / 8 + 8)
        check_memory(
            needed,
            f"The image of {' x '.join(map(str, hdu.shape))} pixels in {path}, HDU {name},",
            "cut out the region around the lens",
        )
        return hdu.data
    except InputError:
        raise
    except _UNREADABLE:
        raise InputError(f"{path} is truncated or damaged in HDU {name}; get it again.") from None


@dataclasses.dataclass(frozen=True)
class _Stored:
    """An image with the headers that describe it."""

    pixels: np.ndarray
    header: fits.Header
    primary: fits.Header
    path: str

    def pixel_scale(self, given=None):
        """As `pixel_scale_of`."""
        return pixel_scale_of(self.header, self.primary, self.path, given)

    def sky(self):
        """`Observation.sky`, or None."""
        wcs = _celestial(self.header, self.path)
        if wcs is None:
            return None
        rows, columns = self.pixels.shape
        wcs.wcs.crpix = wcs.wcs.crpix - (np.array([columns, rows]) + 1) / 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # distortions, of a part of a pixel over so small a field, are left out
            return wcs.to_header()


def _celestial(header, path):
    """The celestial WCS of a header, or None where it has none that says how large a pixel is."""
    with _damage_named(path):
        kinds = [str(header.get(f"CTYPE{axis}", "")).strip() for axis in range(1, header.get("NAXIS", 0) + 1)]
    if not any("-" in kind for kind in kinds):
        return None  # a celestial axis has one, as in RA---TAN; without it astropy.wcs need not be imported
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header).celestial
            # Without CDELT and CD wcslib takes a pixel to be one degree wide.
            known = wcs.wcs.has_cd() or any(name.startswith("CDELT") for name in header)
            return wcs if wcs.has_celestial and known else None
        except Exception:  # wcslib has errors of many kinds; a WCS that it cannot read is one that says nothing
            return None


def _read(path, hdu=None):
    """The `_Stored` image at a path, perhaps with [HDU] at its end."""
    path, named = split_hdu(path)
    hdu = named if hdu is None else hdu
    with open_fits(path) as hdus, _damage_named(path):
        chosen = _first_image(hdus, path) if hdu is None else _named_hdu(hdus, path, hdu)
        pixels = _two_dimensional(pixels_of(chosen, path), f"{path}[{hdus.index_of(chosen)}]")
        return _Stored(pixels, chosen.header, hdus[0].header, path)


@contextlib.contextmanager
def _damage_named(path):
    """astropy reads a header word by word, when it is asked: damage may show at any of them."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged ({error}); get it again.") from None


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
        name, _, version = (part.strip() for part in hdu.partition(","))
        if re.fullmatch("[0-9]{1,6}", hdu.strip()):
            key = int(hdu)
        elif re.fullmatch("[0-9]{1,6}", version):
            key = (name, int(version))
        else:
            key = name if not version else hdu
    try:
        chosen = hdus[key]
    except (KeyError, IndexError):
        raise InputError(f"{path} has no HDU {hdu}; its HDUs are {_contents(hdus)}.") from None
    if pixels_of(chosen, path) is None:
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
