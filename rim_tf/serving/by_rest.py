"""The server's REST side: the routes and the JSON of TensorFlow Serving."""

import http.server
import json
import re
import threading
import traceback

import numpy as np

from rim_tf.serving.refusals import HTTP_STATUS, Refusal
from rim_tf_client.messages import DTYPES, STATES, GetModelStatusRequest

_ROUTE = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?(/metadata|:[a-z]+)?")
_METRICS = "/monitoring/prometheus/metrics"
# Seconds after which a connection that says nothing is closed.
_PATIENCE = 60


def start(service, host, port, largest_request):
    """A running `http.server.ThreadingHTTPServer`, which answers in threads of its own.

    Args:
      service: `rim_tf.serving.service.Service`.
      host: to listen on.
      port: of 0 the system chooses one.
      largest_request: bytes.
    """
    handler = type("Handler", (_Handler,), {"service": service, "largest_request": largest_request})
    server = _Server((host, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that went away is no event."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "rim_tf", ""
    timeout = _PATIENCE
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path == _METRICS:
            self._send(200, _metrics(self.service).encode(), "text/plain; version=0.0.4")
        else:
            self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _answer(self, method):
        try:
            status, values = 200, method()
        except Refusal as refusal:
            status, values = HTTP_STATUS[refusal.code], {"error": refusal.message}
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            status, values = 500, {"error": "The server failed; its log says more."}
            traceback.print_exc()  # to stderr, as gRPC does on its side
        self._send(status, json.dumps(values).encode(), "application/json")

    def _send(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    # ------------------------------------------------------------------------------------------------- the routes

    def _route(self):
        """Version or None, and what is asked of it; and the request's model_spec, filled."""
        found = _ROUTE.fullmatch(self.path.split("?")[0])
        if found is None:
            raise Refusal("NOT_FOUND", f"Malformed request: {self.command} {self.path[:200]}")
        name, number, action = found.groups()
        request = GetModelStatusRequest()
        request.model_spec.name = name
        if number is not None:
            request.model_spec.version.value = int(number)
        return request, action

    def _get(self):
        request, action = self._route()
        if action is None:
            return _status(self.service.GetModelStatus(request))
        if action != "/metadata":
            raise Refusal("NOT_FOUND", f"Malformed request: {self.command} {self.path[:200]}")
        return _metadata(self.service, self.service.version_of(request.model_spec))

    def _post(self):
        content = self._content()
        request, action = self._route()
        if action != ":predict":
            raise Refusal(
                "NOT_FOUND" if action is None else "UNIMPLEMENTED", f"There is no {action} here, but :predict."
            )
        version = self.service.version_of(request.model_spec)
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Refusal("INVALID_ARGUMENT", f"JSON Parse error: {str(error)[:200]}") from None
        signature, arrays, by_row = _read(values, version)
        return _written(self.service.predict(version, signature, arrays), by_row)

    def _content(self):
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise Refusal("INVALID_ARGUMENT", "The length of the request is missing (Content-Length).")
        if int(length) > self.largest_request:
            self.close_connection = True  # what follows is not read
            raise Refusal("RESOURCE_EXHAUSTED", f"The request is larger than {self.largest_request} bytes.")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            self.close_connection = True
            raise Refusal("INVALID_ARGUMENT", "The request ended early.")
        return content


# ----------------------------------------------------------------------------------------------------- JSON in and out


def _read(values, version):
    """Signature, arrays, and whether they came row by row ("instances") or by column ("inputs")."""
    if not isinstance(values, dict) or ("instances" in values) == ("inputs" in values):
        raise Refusal("INVALID_ARGUMENT", 'The request must be an object with either "instances" or "inputs".')
    signature = values.get("signature_name", "serving_default")
    if not isinstance(signature, str):
        raise Refusal("INVALID_ARGUMENT", "signature_name must be a string.")
    by_row = "instances" in values
    columns = _columns(values["instances"]) if by_row else values["inputs"]
    if not isinstance(columns, dict):
        raise Refusal("INVALID_ARGUMENT", '"inputs" must be an object of named tensors.')
    types = {}
    if signature in version.signatures:
        wanted = version.signatures[signature].structured_input_signature[1]
        types = {key: each.dtype.as_numpy_dtype for key, each in wanted.items()}
    return signature, {key: _array(key, value, types.get(key)) for key, value in columns.items()}, by_row


def _columns(instances):
    if not isinstance(instances, list) or not instances or not all(isinstance(each, dict) for each in instances):
        raise Refusal(
            "INVALID_ARGUMENT", '"instances" must be a list of objects, each with the named tensors of a lens.'
        )
    if any(set(each) != set(instances[0]) for each in instances):
        raise Refusal("INVALID_ARGUMENT", "All instances must have the same names.")
    return {key: [each[key] for each in instances] for key in instances[0]}


def _array(key, value, dtype):
    """A JSON value as an array of the type that the signature wants; nothing but numbers of the right kind."""
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        array = np.array(None)
    kinds = {"b": "b", "i": "iu", "f": "iuf"}
    wanted = np.dtype(dtype or array.dtype)
    if array.dtype.kind not in kinds.get(wanted.kind, ""):
        raise Refusal("INVALID_ARGUMENT", f"{key} is no regular array of {wanted}.")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if wanted.kind == "i" and (cast != array).any():
        raise Refusal("INVALID_ARGUMENT", f"{key} has numbers that {wanted} has not.")
    return cast


def _written(outputs, by_row):
    words = {key: np.char.decode(value) for key, value in outputs.items() if value.dtype.kind == "S"}
    lists = {key: value.tolist() for key, value in (outputs | words).items()}
    if not by_row:
        return {"outputs": lists}
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]}


def _status(response):
    return {
        "model_version_status": [
            {
                "version": str(each.version),
                "state": STATES[each.state],
                "status": {"error_code": "OK", "error_message": ""},
            }
            for each in response.model_version_status
        ]
    }


def _metadata(service, version):
    def tensors(infos):
        return {
            key: {
                "dtype": DTYPES[info.dtype][1],
                "tensor_shape": {
                    "dim": [{"size": str(dim.size), "name": ""} for dim in info.tensor_shape.dim],
                    "unknown_rank": info.tensor_shape.unknown_rank,
                },
                "name": info.name,
            }
            for key, info in sorted(infos.items())
        }

    signatures = {
        name: {
            "inputs": tensors(each.inputs),
            "outputs": tensors(each.outputs),
            "method_name": each.method_name,
        }
        for name, each in sorted(version.definitions.signature_def.items())
    }
    return {
        "model_spec": {"name": service.model.name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _metrics(service):
    """Counters as Prometheus reads them."""
    lines = ["# TYPE rim_tf_requests_total counter"]
    for (signature, status), n in sorted(service.counts.items()):
        lines.append(f'rim_tf_requests_total{{signature="{signature}",status="{status}"}} {n}')
    lines.append("# TYPE rim_tf_batches_total counter")
    for size, n in sorted(service.batcher.sizes.items()):
        lines.append(f'rim_tf_batches_total{{lenses="{size}"}} {n}')
    return "\n".join(lines) + "\n"
