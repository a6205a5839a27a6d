"""Weights too large to ship: fetched once from one place, by pooch, and taken only with the checksum that is here."""

import os
import pathlib

from rim_tf.errors import InputError

# Where the files are: a folder that a web server shows. The variable of the environment is for copies of it.
URL = os.environ.get("RIM_TF_WEIGHTS_URL", "")
# The SHA-256 of each file there, hexadecimal: NAME.json and NAME.weights.h5 for each of the weights. So far all ship.
FILES = {}


def names():
    """The weights that can be fetched."""
    return {name.removesuffix(".json") for name in FILES if name.endswith(".json")}


def fetched(name):
    """The path of NAME.json, beside NAME.weights.h5, after both have been fetched or found to be there already.

    Args:
      name: one of `names`.

    Raises:
      InputError: no pooch, nobody who answers, or other files than they should be.
    """
    try:
        import pooch
    except ImportError:
        raise InputError(
            f"The weights {name!r} are to be fetched, which needs pooch; do: pip install 'rim_tf[download]'."
        ) from None
    if not URL:
        raise InputError(f"The weights {name!r} are to be fetched; say from where in RIM_TF_WEIGHTS_URL.")
    pooch.get_logger().setLevel("WARNING")
    store = pooch.create(
        pooch.os_cache("rim_tf"), f"{URL.rstrip('/')}/", registry=FILES, env="RIM_TF_WEIGHTS", retry_if_failed=2
    )
    paths = []
    for file in (f"{name}.weights.h5", f"{name}.json"):
        try:
            paths.append(pathlib.Path(store.fetch(file)))
        except (OSError, ValueError) as error:  # what requests raises is an OSError, another checksum a ValueError
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{URL}/{file} cannot be fetched ({reason}).") from None
    return paths[-1]
