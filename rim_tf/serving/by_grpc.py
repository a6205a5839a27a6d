"""The server's gRPC side: PredictionService and ModelService, as TensorFlow Serving has them."""

import concurrent.futures

import grpc
from google.protobuf.message import DecodeError

from rim_tf.serving.refusals import Refusal
from rim_tf_client.messages import METHODS


def start(service, address, largest_request, threads=64):
    """A running `grpc.Server`.

    Args:
      service: `rim_tf.serving.service.Service`.
      address: HOST:PORT; of port 0 the system chooses one.
      largest_request: bytes.
      threads: requests that are held at a time; others wait for one of these.

    Returns:
      The server, and its port.
    """
    options = [("grpc.max_receive_message_length", largest_request), ("grpc.max_send_message_length", -1)]
    options.append(("grpc.so_reuseport", 0))  # a second server on the port fails, and does not share it
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads, "grpc"), options=options)
    handlers = {}
    for name, (of_service, request, response) in METHODS.items():
        handlers.setdefault(of_service, {})[name] = grpc.unary_unary_rpc_method_handler(
            # Read here, so that bytes that are no message get the status of a bad request.
            _handler(getattr(service, name), request),
            request_deserializer=None,
            response_serializer=response.SerializeToString,
        )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(of_service, methods) for of_service, methods in handlers.items()]
    )
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def _handler(call, request_class):
    def handle(content, context):
        try:
            try:
                request = request_class.FromString(content)
            except DecodeError:
                raise Refusal("INVALID_ARGUMENT", f"The message is no {request_class.DESCRIPTOR.name}.") from None
            return call(request, context.time_remaining())
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.code], refusal.message)

    return handle
