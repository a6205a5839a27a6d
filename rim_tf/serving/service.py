"""What the calls of the protocol do, whichever way they come in: by gRPC or by REST."""

import concurrent.futures
import math
import threading
import time
from collections import Counter

from rim_tf.memory import available_memory
from rim_tf.serving.batching import Batcher
from rim_tf.serving.refusals import Refusal
from rim_tf_client.messages import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    PredictResponse,
    from_proto,
    to_proto,
)
from rim_tf_client.status import complaint

# Bytes that a call takes for each number in its inputs, with the shipped weights on images of 64 and 192 pixels.
_BYTES_PER_NUMBER = 1000
# Seconds that a request without a deadline may take.
_LONGEST = 300.0


class Service:
    """The calls of PredictionService and ModelService on one model.

    Args:
      model: `rim_tf.serving.versions.Model`.
      workers: batches that are run at a time.
      largest_batch: systems in one.

    Attributes:
      counts: (signature, status) -> requests that were answered so.
    """

    def __init__(self, model, workers=1, largest_batch=16):
        self.model, self.counts, self._counting = model, Counter(), threading.Lock()
        self.batcher = Batcher(lambda key, arrays: key[0].run(key[1], arrays), workers, largest_batch)

    def predict(self, version, signature, arrays, seconds=None):
        """The outputs of a signature.

        Args:
          version: `rim_tf.serving.versions.Version`.
          signature: its name.
          arrays: {name: array}.
          seconds: until whoever asked stops waiting, or None.

        Raises:
          Refusal: whatever is wrong with it.
        """
        status = "INTERNAL"
        try:
            version.check(signature, arrays)
            _check_size(arrays)
            outputs = self._wait(self.batcher.submit((version, signature), arrays), seconds)
            if wrong := complaint(outputs):
                raise Refusal("INVALID_ARGUMENT", wrong)
            status = "OK"
            return outputs
        except Refusal as refusal:
            status = refusal.code
            raise
        finally:
            with self._counting:
                self.counts[signature if signature in version.signatures else "unknown", status] += 1

    def _wait(self, future, seconds):
        try:
            return future.result(_LONGEST if seconds is None else min(seconds, _LONGEST))
        except concurrent.futures.TimeoutError:
            future.cancel()  # one that still waits need not be run
            raise Refusal("DEADLINE_EXCEEDED", "The deadline is over.") from None

    def version_of(self, specification):
        """The `Version` that a ModelSpec names."""
        if specification.name != self.model.name:
            raise Refusal("NOT_FOUND", f"Servable not found for request: Latest({specification.name})")
        if specification.version_label:
            raise Refusal("NOT_FOUND", f"Unrecognized servable version label: {specification.version_label}")
        return self.model.find(specification.version.value if specification.HasField("version") else None)

    # ------------------------------------------------------------------------- requests and answers of protobuf

    def Predict(self, request, seconds=None):
        """A PredictResponse to a PredictRequest."""
        version = self.version_of(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        arrays = {}
        for key, tensor in request.inputs.items():
            try:
                arrays[key] = from_proto(tensor)
            except ValueError as error:
                raise Refusal("INVALID_ARGUMENT", f"The tensor {key!r} cannot be read: {error}.") from None
        outputs = self.predict(version, name, arrays, seconds)
        wanted = set(request.output_filter) or set(outputs)
        if unknown := sorted(wanted - set(outputs)):
            raise Refusal("INVALID_ARGUMENT", f"output tensor alias not found in signature: {unknown[0]}")
        response = PredictResponse()
        _name(response.model_spec, self.model.name, version.number)
        response.model_spec.signature_name = name
        for key in wanted:
            response.outputs[key].CopyFrom(to_proto(outputs[key]))
        return response

    def GetModelMetadata(self, request, seconds=None):
        """A GetModelMetadataResponse with the signatures."""
        version = self.version_of(request.model_spec)
        if list(request.metadata_field) != ["signature_def"]:
            raise Refusal("INVALID_ARGUMENT", "metadata_field must be signature_def, the only metadata that there is.")
        response = GetModelMetadataResponse()
        _name(response.model_spec, self.model.name, version.number)
        response.metadata["signature_def"].Pack(version.definitions)
        return response

    def GetModelStatus(self, request, seconds=None):
        """A GetModelStatusResponse of one version or of all."""
        specification = request.model_spec
        if specification.name != self.model.name:
            raise Refusal("NOT_FOUND", f"Could not find any versions of model {specification.name}")
        states = dict(self.model.states)
        if specification.HasField("version"):
            number = specification.version.value
            if number not in states:
                raise Refusal("NOT_FOUND", f"Could not find version {number} of model {self.model.name}")
            states = {number: states[number]}
        response = GetModelStatusResponse()
        for number in sorted(states, reverse=True):
            response.model_version_status.add(version=number, state=states[number])
        return response

    def close(self):
        """Answer what waits, and load nothing more."""
        self.model.close()
        self.batcher.close()


def _name(specification, name, number):
    specification.name = name
    specification.version.value = number


_memory = {"at": -math.inf, "bytes": None}


def _check_size(arrays):
    """Refuse what would take more than half of the memory that is free."""
    now = time.monotonic()
    if now - _memory["at"] > 1:
        _memory.update(at=now, bytes=available_memory())
    # A source against an image: what lies between them is as large as the larger.
    needed = _BYTES_PER_NUMBER * sum(array.size for array in arrays.values())
    if _memory["bytes"] is not None and needed > _memory["bytes"] / 2:
        raise Refusal(
            "RESOURCE_EXHAUSTED",
            f"The request would take about {needed / 1e9:.3g} GB, more than half of the memory that is free; send "
            "fewer or smaller images.",
        )
