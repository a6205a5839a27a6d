"""Lens parameters, and what is known of them, as JSON."""

import json

from rim_tf.errors import InputError
from rim_tf.files import read_json, write_json


def read_lens(path):
    """A lens from a JSON file: the seven names of `rim_tf.lens.LENS_PARAMETERS`, or a list "components".

    Args:
      path: of the file.

    Returns:
      `LensParameters` or `CompositeLens`.

    Raises:
      InputError: no such file, no JSON, a name missing, misspelt or given twice, a value out of range or no number.
    """
    # Whole numbers too large for a float become inf here, and are refused as such.
    values = read_json(path, parse_int=float)
    from rim_tf.lens import lens_from_dict  # and with it Keras, which takes seconds: a wrong file is told before

    return lens_from_dict(values, where=str(path))


def read_prior(path):
    """What is known of the parameters of a lens, from a JSON file as {"theta_E": [1.25, 0.02]}.

    Args:
      path: of the file: by the names of parameters a list of a mean and a standard deviation.

    Returns:
      {name: (mean, standard deviation)}

    Raises:
      InputError: no such file, no JSON, or not as above.
    """
    values = read_json(path, parse_int=float)
    if not isinstance(values, dict) or not values:
        raise InputError(f'{path} must hold parameters by their names, as in {{"theta_E": [1.25, 0.02]}}.')
    for name, value in values.items():
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, float) for each in value)):
            raise InputError(
                f"{path}: {name} is {json.dumps(value)}; it must be [mean, standard deviation], two numbers."
            )
    return {name: tuple(value) for name, value in values.items()}


def write_lens(lens, path):
    """A lens as JSON, as `read_lens` reads it.

    Args:
      lens: `LensParameters` or `CompositeLens`.
      path: of the file; an existing one is replaced.
    """
    write_json(path, lens.to_dict())
