"""Modules that need a package of one of the extras in setup.cfg, imported when they are used."""

import importlib

from rim_tf.errors import InputError


def imported(module, extra, purpose):
    """The module of that name; InputError, which begins with `purpose`, where a package of the extra is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == __package__.split(".")[0]:
            raise
        raise InputError(
            f"{purpose} needs {error.name}, which is not installed; do: pip install 'rim_tf[{extra}]'."
        ) from None
