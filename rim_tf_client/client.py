"""Named arrays to a model server and back, by gRPC or by REST, one request or many at a time."""

import collections
import concurrent.futures
import http.client
import itertools
import json
import random
import time
import urllib.parse

import numpy as np

from rim_tf_client.messages import DTYPES, METHODS, STATES, SignatureDefMap, from_proto, to_proto
from rim_tf_client.status import complaint

# Seconds before the second attempt; each further one waits twice as long, and by chance up to half as long again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# HTTP status -> what gRPC calls it.
_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 412: "FAILED_PRECONDITION", 413: "RESOURCE_EXHAUSTED"}
_CODES |= {501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class ServerError(Exception):
    """What a server, or the way to it, said instead of an answer.

    Args:
      code: name of a grpc.StatusCode.
      message: what was said.
    """

    def __init__(self, code, message):
        super().__init__(f"{message} ({code})")
        self.code, self.message = code, message


class Client:
    """A model on a server. It may be used by many threads at a time.

    Args:
      server: HOST:PORT of gRPC, or http://HOST:PORT of REST; of servers that all have the model several, with commas
        between them. Requests go to them in turn, and what one does not take (UNAVAILABLE) to the next.
      model: its name there.
      version: a number; None is the newest.
      timeout: seconds that a call may take, with all its attempts.

    Raises:
      ValueError: an address that is none.
    """

    def __init__(self, server, model="rim", version=None, timeout=60.0):
        self.server, self.model, self.version, self.timeout = server, model, version, timeout
        self._ways, self._turns = [_way(each, model, version) for each in server.split(",")], itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Let the connection go."""
        for way in self._ways:
            way.close()

    def predict(self, signature, inputs, timeout=None):
        """The outputs of a signature.

        Args:
          signature: its name, as the model card lists them.
          inputs: {name: array}, the batch as the first axis of each.
          timeout: seconds, in place of those of the client.

        Returns:
          {name: array}.

        Raises:
          ServerError: no answer in time, or a refusal, be it of one system alone. A server that is not there
            (UNAVAILABLE) is asked again, with longer and longer pauses, until the time is over.
        """
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        outputs = self._again(lambda way, seconds: way.predict(signature, inputs, seconds), timeout)
        if wrong := complaint(outputs):  # TensorFlow Serving knows no better than to hand it on
            raise ServerError("INVALID_ARGUMENT", wrong)
        return outputs

    def predict_many(self, signature, many, at_once=8, timeout=None):
        """`predict` for each of many inputs, some at a time.

        Args:
          signature: as of `predict`.
          many: iterable of inputs; it is read no faster than the server answers.
          at_once: requests on the way at a time.
          timeout: seconds for each.

        Yields:
          The outputs, in the order of the inputs; a ServerError in the place of those that failed.
        """

        def one(inputs):
            try:
                return self.predict(signature, inputs, timeout)
            except ServerError as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
            waiting = collections.deque()
            for inputs in many:
                waiting.append(threads.submit(one, inputs))
                if len(waiting) >= at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def status(self, timeout=None):
        """{number of a version: its state, as "AVAILABLE"}."""
        return self._again(lambda way, seconds: way.status(seconds), timeout)

    def signatures(self, timeout=None):
        """{signature: {"inputs": {name: (type, shape)}, "outputs": the same}}, -1 where a shape is free."""
        return self._again(lambda way, seconds: way.signatures(seconds), timeout)

    def _again(self, call, timeout):
        """What `call` of one way to a server gives within the time there is; a pause when all have been tried."""
        end, pause = time.monotonic() + (self.timeout if timeout is None else timeout), _FIRST_PAUSE
        first = next(self._turns)
        for attempt in itertools.count(1):
            try:
                return call(self._ways[(first + attempt) % len(self._ways)], max(end - time.monotonic(), 1e-3))
            except ServerError as error:
                if error.code != "UNAVAILABLE" or time.monotonic() > end:
                    raise
                if attempt % len(self._ways):
                    continue
                pause *= random.uniform(1.0, 1.5)
                if time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _way(server, model, version):
    """One address, as something that calls the model there."""
    address = urllib.parse.urlsplit(server if "://" in server else f"grpc://{server}")
    if address.scheme not in ("grpc", "http") or not address.hostname or address.path not in ("", "/"):
        raise ValueError(f"{server!r} is no address of a server; wanted is HOST:PORT or http://HOST:PORT.")
    return (_ByREST if address.scheme == "http" else _ByGRPC)(address, model, version)


class _ByGRPC:
    def __init__(self, address, model, version):
        import grpc

        self.grpc, self.model, self.version = grpc, model, version
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        # Found again soon after it is back.
        options += [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 200)]
        self.channel = grpc.insecure_channel(address.netloc, options)
        self.calls = {}
        for method, (service, request, response) in METHODS.items():
            path = f"/{service}/{method}"
            self.calls[method] = self.channel.unary_unary(path, request.SerializeToString, response.FromString)

    def _call(self, method, seconds, **fields):
        request = METHODS[method][1](**fields)
        request.model_spec.name = self.model
        if self.version is not None:
            request.model_spec.version.value = self.version
        return request, lambda: self._answer(self.calls[method], request, seconds)

    def _answer(self, call, request, seconds):
        try:
            return call(request, timeout=seconds)
        except self.grpc.RpcError as error:
            raise ServerError(error.code().name, error.details() or "no reason was given") from None

    def predict(self, signature, inputs, seconds):
        request, answer = self._call("Predict", seconds)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        return {name: from_proto(tensor) for name, tensor in answer().outputs.items()}

    def status(self, seconds):
        _, answer = self._call("GetModelStatus", seconds)
        return {each.version: STATES[each.state] for each in answer().model_version_status}

    def signatures(self, seconds):
        _, answer = self._call("GetModelMetadata", seconds, metadata_field=["signature_def"])
        definitions = SignatureDefMap.FromString(answer().metadata["signature_def"].value)

        def tensors(infos):
            return {
                name: (DTYPES[info.dtype][0].name, [dim.size for dim in info.tensor_shape.dim])
                for name, info in infos.items()
            }

        return {
            name: {"inputs": tensors(each.inputs), "outputs": tensors(each.outputs)}
            for name, each in definitions.signature_def.items()
        }

    def close(self):
        self.channel.close()


class _ByREST:
    """JSON carries float32 exactly, as decimals, in about five times as many bytes."""

    def __init__(self, address, model, version):
        self.address = address
        self.path = f"/v1/models/{model}" + ("" if version is None else f"/versions/{version}")

    def _json(self, method, path, seconds, values=None):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=seconds)
        try:
            body = None if values is None else json.dumps(values)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            raise ServerError("DEADLINE_EXCEEDED", f"No answer within {seconds:.3g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError("UNAVAILABLE", f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()
        try:
            answer = json.loads(content)
        except ValueError:
            raise ServerError("INTERNAL", f"The answer is no JSON; is {self.address.netloc} a model server?") from None
        if response.status != 200:
            raise ServerError(_CODES.get(response.status, "INTERNAL"), str(answer.get("error", "no reason was given")))
        return answer

    def predict(self, signature, inputs, seconds):
        values = {"signature_name": signature, "inputs": {name: array.tolist() for name, array in inputs.items()}}
        outputs = self._json("POST", self.path + ":predict", seconds, values)["outputs"]
        return {name: _array(value) for name, value in outputs.items()}

    def status(self, seconds):
        states = self._json("GET", self.path, seconds)["model_version_status"]
        return {int(each["version"]): each["state"] for each in states}

    def signatures(self, seconds):
        answer = self._json("GET", self.path + "/metadata", seconds)["metadata"]["signature_def"]["signature_def"]
        types = {name: dtype.name for dtype, name, _ in DTYPES.values()}

        def tensors(infos):
            return {
                name: (types[info["dtype"]], [int(dim["size"]) for dim in info["tensor_shape"]["dim"]])
                for name, info in infos.items()
            }

        return {
            name: {"inputs": tensors(each["inputs"]), "outputs": tensors(each["outputs"])}
            for name, each in answer.items()
            if not name.startswith("__")
        }

    def close(self):
        """There is a connection for each call alone."""


def _array(value):
    """A JSON value: numbers, or words as the bytes that gRPC gives."""
    array = np.asarray(value)
    return np.char.encode(array) if array.dtype.kind == "U" else np.asarray(value, np.float32)
