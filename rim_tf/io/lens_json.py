"""Lens parameters as JSON."""

import difflib

from rim_tf.errors import InputError
from rim_tf.files import read_json, write_json
from rim_tf.lens import LENS_PARAMETERS, LensParameters


def read_lens(path):
    """`LensParameters` from a JSON file with exactly the seven names of `rim_tf.lens.LENS_PARAMETERS`.

    Args:
      path: of the file.

    Raises:
      InputError: no such file, no JSON, a name missing, misspelt or given twice, a value out of range or no number.
    """
    # Whole numbers too large for a float become inf here, and are refused as such.
    values = read_json(path, parse_int=float)
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


def write_lens(lens, path):
    """A lens as JSON, as `read_lens` reads it.

    Args:
      lens: `LensParameters`.
      path: of the file; an existing one is replaced.
    """
    write_json(path, lens.to_dict())
