"""The packages that take seconds to import, imported in as few of them as can be."""

import atexit
import contextlib
import gc
import os
import sys
import tempfile

# TensorFlow and Keras import these where they find them, without asking for them in their requirements, and we use
# nothing that needs them: half of the seconds, where all are installed.
_UNUSED = ("IPython", "jax", "matplotlib.pyplot", "pandas", "scipy", "sklearn", "torch")


@contextlib.contextmanager
def collection_later():
    """Within the block no garbage is looked for before `import_quietly` is done.

    Imports make half a million objects that all stay; looking through them again and again, and a last time when the
    process ends, takes seconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def import_quietly():
    """Import TensorFlow without what it says of GPUs before it can be told not to; errors are passed on."""
    if "tensorflow" not in sys.modules:
        with _silence(), _hidden(_UNUSED):
            import tensorflow  # noqa: F401
        gc.freeze()
        atexit.register(gc.freeze)
    import keras

    # A keras.json of other projects may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    gc.enable()


@contextlib.contextmanager
def _hidden(names):
    """Within the block the modules of these names, where they are not imported yet, are not to be found."""
    names = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


@contextlib.contextmanager
def _silence():
    """Within the block nothing appears on stderr, also of what C++ writes, unless it fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
