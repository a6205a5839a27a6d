"""Lens parameters as JSON."""

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


def write_lens(lens, path):
    """A lens as JSON, as `read_lens` reads it.

    Args:
      lens: `LensParameters` or `CompositeLens`.
      path: of the file; an existing one is replaced.
    """
    write_json(path, lens.to_dict())
