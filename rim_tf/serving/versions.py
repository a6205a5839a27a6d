"""The versions of a model in a folder, as TensorFlow Serving finds them.

The newest is served, and loaded before the one that it replaces goes.
"""

import pathlib
import re
import threading

import absl.logging
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from rim_tf.errors import InputError
from rim_tf.serving.refusals import Refusal
from rim_tf_client.messages import WARM_UP, PredictionLog, SignatureDefMap, from_proto

_LOADING, _AVAILABLE, _END = 20, 30, 50


class Version:
    """A SavedModel, loaded and warm.

    Args:
      path: of its folder, whose name is its number.

    Attributes:
      number: of the version.
      definitions: `SignatureDefMap`.
    """

    def __init__(self, path):
        self.number = int(path.name)
        self._model = _loaded(path)  # holds the variables of its signatures
        self.signatures = {name: each for name, each in self._model.signatures.items() if not name.startswith("__")}
        self.definitions = _definitions(path, self.signatures)
        for name, arrays in _warm_up(path):
            self.run(name, arrays)

    def check(self, name, arrays):
        """Refuse arrays that a signature does not take.

        Args:
          name: of the signature.
          arrays: {name: array}.

        Raises:
          Refusal: no such signature, or inputs that are not its own.
        """
        if name not in self.signatures:
            raise Refusal("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        wanted = self.signatures[name].structured_input_signature[1]
        for key in sorted(set(wanted) | set(arrays)):
            if key not in arrays or key not in wanted:
                what = "lacks the input" if key not in arrays else "has no input"
                raise Refusal("INVALID_ARGUMENT", f"{name} {what} {key!r}; it takes {', '.join(sorted(wanted))}.")
        for key, each in wanted.items():
            array = arrays[key]
            if array.dtype != each.dtype.as_numpy_dtype:
                raise Refusal("INVALID_ARGUMENT", f"{key} is of {array.dtype}; wanted is {each.dtype.name}.")
            if not each.shape.is_compatible_with(array.shape):
                shape = [-1 if size is None else size for size in each.shape.as_list()]
                raise Refusal("INVALID_ARGUMENT", f"{key} has shape {list(array.shape)}; wanted is {shape}.")
            if 0 in array.shape:
                raise Refusal("INVALID_ARGUMENT", f"{key} has shape {list(array.shape)}; there is nothing in it.")
        batches = {key: len(array) for key, array in arrays.items()}
        if len(set(batches.values())) > 1:
            raise Refusal("INVALID_ARGUMENT", f"The inputs have different first axes, the batch: {batches}.")

    def run(self, name, arrays):
        """The outputs of a signature as NumPy arrays.

        Raises:
          Refusal: inputs that do not belong together, or more than there is memory for.
        """
        try:
            outputs = self.signatures[name](**{key: tf.constant(array) for key, array in arrays.items()})
        except tf.errors.ResourceExhaustedError:
            raise Refusal("RESOURCE_EXHAUSTED", "The memory is not enough; send fewer or smaller images.") from None
        except tf.errors.InvalidArgumentError as error:
            raise Refusal("INVALID_ARGUMENT", _sentence(error)) from None
        return {key: _array(value) for key, value in outputs.items()}


def _loaded(path):
    """What is lost for those who ask for gradients of gradients is no news to who serves values."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        return tf.saved_model.load(str(path))
    finally:
        absl.logging.set_verbosity(before)


def _array(tensor):
    """As NumPy: words as bytes of a fixed length, not as objects."""
    return np.asarray(tensor.numpy(), "S") if tensor.dtype == tf.string else tensor.numpy()


def _sentence(error):
    """What an error of TensorFlow says, without the traces that it carries."""
    said = re.search(r"assertion failed: \[([^]]*)\]", error.message)
    if said is None:  # else the first line that is no trace
        said = re.search(r"^(?!Detected|Graph exec|Stack|<stack|\s|$)(.+)$", error.message, re.MULTILINE)
    return f"{said[1][:300]}." if said else "The inputs do not belong together."


def _definitions(path, names):
    """The signatures that stand in saved_model.pb."""
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    found = SignatureDefMap()
    for name, definition in model.meta_graphs[0].signature_def.items():
        if name in names:
            found.signature_def[name].ParseFromString(definition.SerializeToString())
    return found


def _warm_up(path):
    """The requests that lie beside the model, as (signature, arrays)."""
    requests = path / "assets.extra" / WARM_UP
    if requests.is_file():
        for record in tf.data.TFRecordDataset(str(requests)).as_numpy_iterator():
            request = PredictionLog.FromString(record).predict_log.request
            name = request.model_spec.signature_name or "serving_default"
            yield name, {key: np.array(from_proto(tensor)) for key, tensor in request.inputs.items()}


class Model:
    """A model whose versions come and go in a folder.

    Args:
      folder: of the versions, subfolders whose names are whole numbers.
      keep: how many of the newest versions are served.
      tell: called with a line of text on what is loaded and unloaded.

    Attributes:
      name: that of the folder.
      states: number of a version -> state, as in a GetModelStatusResponse.

    Raises:
      InputError: no version there, or none that can be loaded.
    """

    def __init__(self, folder, keep=1, tell=lambda line: None):
        self.folder, self.keep, self.tell = pathlib.Path(folder).resolve(), keep, tell
        self.name, self.states = self.folder.name, {}
        self._served, self._failed = {}, {}
        self._looking, self._closed = threading.Lock(), threading.Event()
        if not self._found():
            raise InputError(
                f"{folder} holds no version of a model, a folder whose name is a whole number and that has a "
                f"saved_model.pb; write one with rim-tf export --out {pathlib.Path(folder) / '1'}."
            )
        self.look()
        if not self._served:
            raise InputError(f"No version in {folder} can be loaded: {'; '.join(map(str, self._failed.values()))}.")

    def find(self, number=None):
        """The `Version` of that number, or the newest; Refusal where there is none."""
        served = self._served  # replaced as a whole, never changed
        if number is None and served:
            return served[max(served)]
        if number not in served:
            what = self.name if number is None else f"{self.name}:{number}"
            raise Refusal("NOT_FOUND", f"Servable not found for request: Specific({what})")
        return served[number]

    def _found(self):
        """Number -> path of the versions that are complete."""
        try:
            paths = [path for path in self.folder.iterdir() if path.name.isascii() and path.name.isdigit()]
        except OSError:
            return {}
        return {int(path.name): path for path in paths if (path / "saved_model.pb").is_file()}

    def look(self):
        """Load what is new in the folder, then let go what is no longer wanted."""
        with self._looking:
            found = self._found()
            if not found:
                return  # as when a disk is away for a moment; what is served stays
            wanted = sorted(found, reverse=True)[: self.keep]
            served, failed = {}, {}
            for number in wanted:
                stamp = (found[number] / "saved_model.pb").stat().st_mtime_ns
                if number in self._served:
                    served[number] = self._served[number]
                elif self._failed.get(number, (None,))[0] == stamp:
                    failed[number] = self._failed[number]
                else:
                    self._load(number, found[number], stamp, served, failed)
            if failed:
                served = self._served | served  # what cannot be loaded replaces nothing
            for number in set(self._served) - set(served):
                self.states[number] = _END
                self.tell(f"Version {number} of {self.name} is no longer served.")
            self._served, self._failed = served, failed

    def _load(self, number, path, stamp, served, failed):
        self.states[number] = _LOADING
        try:
            served[number] = Version(path)
        except Exception as error:  # whatever a damaged file makes TensorFlow raise
            failed[number] = stamp, " ".join(str(error).split())[:300]
            self.states[number] = _END
            self.tell(f"Version {number} of {self.name} cannot be loaded: {failed[number][1]}")
            return
        # Those that come now get it, while others that are wanted are still loaded.
        self._served = self._served | {number: served[number]}
        self.states[number] = _AVAILABLE
        self.tell(f"Version {number} of {self.name} is served.")

    def watch(self, seconds=1.0):
        """Look at the folder again and again, in a thread of its own, until `close`."""

        def look():
            while not self._closed.wait(seconds):
                self.look()

        threading.Thread(target=look, daemon=True).start()

    def close(self):
        """Look no more."""
        self._closed.set()
