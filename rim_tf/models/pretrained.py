"""Weights that ship with the package: HDF5 files of plain arrays, checked against a checksum before they are read."""

import hashlib
import json
import pathlib

from rim_tf.config import RIMConfig
from rim_tf.errors import InputError
from rim_tf.models.rim import RIM

WEIGHTS = pathlib.Path(__file__).parent / "weights"


def load_pretrained(name="small"):
    """The trained `RIM` of that name.

    Args:
      name: of shipped weights ("small"), or the path of a description NAME.json beside its weights, as
        `save_trained` writes them.

    Raises:
      InputError: no such weights, or a file that is damaged or does not belong to its description.
    """
    description_path = pathlib.Path(name) if str(name).endswith(".json") else WEIGHTS / f"{name}.json"
    if not description_path.is_file():
        shipped = ", ".join(sorted(path.stem for path in WEIGHTS.glob("*.json"))) or "none"
        raise InputError(f"There are no weights {str(name)!r}; shipped are: {shipped}.")
    try:
        description = json.loads(description_path.read_text())
        config, checksum = RIMConfig.from_dict(description["rim"]), description["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{description_path} does not describe weights ({error}); install it again.") from None
    path = description_path.with_suffix(".weights.h5")
    if not path.is_file():
        raise InputError(f"{path} is missing; install it again.")
    if sha256(path) != checksum:
        raise InputError(
            f"{path} is truncated or was changed: its checksum is not the one in {description_path.name}. "
            "Install or download it again."
        )
    model = RIM(config)
    model.load_weights(path)
    return model


def save_trained(model, path, provenance):
    """Write PATH.json and PATH.weights.h5 for `load_pretrained`.

    Args:
      model: a built `RIM`.
      path: without a suffix.
      provenance: JSON-ready dictionary: the command, seed, data and measured figures of these weights.
    """
    path = pathlib.Path(path)
    weights = path.with_name(path.name + ".weights.h5")
    bare = RIM(model.config)  # a compiled model would write its optimiser's state too, twice its size
    bare.set_weights(model.get_weights())
    bare.save_weights(weights)
    description = {"rim": bare.get_config()["config"], "sha256": sha256(weights), **provenance}
    path.with_name(path.name + ".json").write_text(json.dumps(description, indent=2) + "\n")


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
