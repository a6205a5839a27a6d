"""The packages that take seconds to import."""

import os
import sys
import tempfile


def import_quietly():
    """Import TensorFlow without what it says of GPUs before it can be told not to; errors are passed on."""
    if "tensorflow" not in sys.modules:
        sys.stderr.flush()
        with tempfile.TemporaryFile() as said:
            stderr = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                import tensorflow  # noqa: F401
            except BaseException:
                said.seek(0)
                os.write(stderr, said.read())
                raise
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
    import keras

    # A keras.json of other projects may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
