"""Calls a server of lens models, TensorFlow Serving or `rim-tf serve`, and needs no TensorFlow itself."""

from rim_tf_client.client import Client, ServerError

__all__ = ["Client", "ServerError"]
