"""Recurrent Inference Machines for strong gravitational lenses. What is public is named here, and loaded when used."""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "InputError": "rim_tf.errors",
    "InputWarning": "rim_tf.errors",
    "LensParameters": "rim_tf.lens",
    "RIMConfig": "rim_tf.config",
    "PAPER": "rim_tf.config",
    "SMALL": "rim_tf.config",
    "Observation": "rim_tf.observation",
    "Reconstruction": "rim_tf.results",
    "reconstruct": "rim_tf.inference.rim",
    "Inversion": "rim_tf.inference.linear.inversion",
    "invert": "rim_tf.inference.linear.inversion",
    "RIM": "rim_tf.models.rim",
    "load_pretrained": "rim_tf.models.pretrained",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    # Keras takes seconds to import, and `import rim_tf` should not.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
