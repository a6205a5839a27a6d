"""What a server says of a request that it cannot answer: a status of gRPC and HTTP, and a sentence."""

# Name of a grpc.StatusCode -> HTTP status, as TensorFlow Serving has them.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class Refusal(Exception):
    """A request that is not answered.

    Args:
      code: one of HTTP_STATUS.
      message: a sentence for who sent it.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message
