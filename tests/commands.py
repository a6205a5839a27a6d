"""The command line as a user types it."""

import numpy as np
from astropy.io import fits
from click.testing import CliRunner

from rim_tf.cli.main import main

LENS = {"theta_E": 0.6, "e1": 0.1, "e2": 0.05, "x_lens": 0.0, "y_lens": 0.02, "gamma1": 0.02, "gamma2": 0.0}
# Options of `simulate` for the lens of the tests here.
SIMULATED = ("--seed", 4, "--pixels", 32, "--pixel-scale", 0.1, "--noise", 0.1)


def run(*arguments):
    """The result of click's runner, without a traceback to hide."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def reconstruct(options, *flags, command="reconstruct"):
    """`run` with a dictionary of options, of which "image" is the argument."""
    words = (word for option, value in options.items() if option != "image" for word in (option, value))
    return run(command, options["image"], *flags, *words)


def fits_of(array):
    """What writes an array, or what a function returns, as bad.fits into a folder, and returns the path."""

    def write(folder):
        array_here = array() if callable(array) else array
        fits.PrimaryHDU(np.asarray(array_here, np.float32), fits.Header({"PIXSCALE": 0.1})).writeto(folder / "bad.fits")
        return folder / "bad.fits"

    return write


def names_in(folder):
    """The names of the files in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
