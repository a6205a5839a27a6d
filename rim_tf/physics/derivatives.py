"""Derivatives worked out by hand, and how to do without them where a graph is written to a file.

A SavedModel keeps a derivative by hand as a function of its own for each place where it is used, and loses it where
that place is a loop. Of what has right derivatives without, though slower ones, it is better off with those.
"""

import contextlib
import contextvars

from keras import ops

_plain = contextvars.ContextVar("plain", default=False)


def by_hand(function):
    """`keras.ops.custom_gradient`, or within `plain` the function without its gradient.

    Args:
      function: arguments -> value and gradient, as `keras.ops.custom_gradient` takes it.
    """
    if _plain.get():
        return lambda *arguments: function(*arguments)[0]
    return ops.custom_gradient(function)


@contextlib.contextmanager
def plain():
    """Within the block what is traced is differentiated by the backend."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
