"""The server as a whole: one model, by gRPC and by REST, until it is closed."""

from rim_tf.errors import InputError
from rim_tf.serving import by_grpc, by_rest
from rim_tf.serving.service import Service
from rim_tf.serving.versions import Model


class Server:
    """TensorFlow Serving's protocol on one model, hosted by rim_tf.

    Args:
      folder: of the model's versions; its name is the model's.
      host: to listen on.
      port: of gRPC; of 0 the system chooses one.
      rest_port: likewise of REST.
      settings: `rim_tf.config.ServingSettings`.
      tell: called with a line of text on what happens.

    Attributes:
      port: of gRPC.
      rest_port: of REST.
      service: `rim_tf.serving.service.Service`.

    Raises:
      InputError: no version that can be loaded, or a port that is taken.
    """

    def __init__(self, folder, host, port, rest_port, settings, tell=lambda line: None):
        model = Model(folder, settings.keep, tell)
        self.service = Service(model, settings.workers, settings.largest_batch)
        largest = settings.largest_request * 2**20
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._grpc, self.port = by_grpc.start(self.service, address, largest)
        except RuntimeError:
            self.service.close()
            raise InputError(f"{address} cannot be listened on; choose another --port or --host.") from None
        try:
            self._rest = by_rest.start(self.service, host, rest_port, largest)
        except OSError as error:
            self._grpc.stop(0)
            self.service.close()
            raise InputError(f"{host}:{rest_port} cannot be listened on ({error.strerror}); choose another.") from None
        self.rest_port = self._rest.server_address[1]
        model.watch()

    def close(self, grace=30):
        """Take no more requests, and answer those that are there.

        Args:
          grace: seconds after which those that are still unanswered are dropped.
        """
        stopped = self._grpc.stop(grace)
        self._rest.shutdown()
        self._rest.server_close()
        stopped.wait()
        self.service.close()
