"""FITS files of galaxies, opened in one way. What astropy says of a damaged file, its reader says with its name."""

import contextlib
import os
import warnings

from astropy.io import fits


@contextlib.contextmanager
def opened(path):
    """The HDUs of a FITS file, read into memory as they are used; raises OSError where it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, memmap=False) as hdus:
            yield hdus


def is_cut_short(hdus, path):
    """Whether bytes follow the last HDU: a header that ends too early, which astropy passes over."""
    last = hdus[-1].fileinfo()
    return last["datLoc"] + last["datSpan"] < os.path.getsize(path)
