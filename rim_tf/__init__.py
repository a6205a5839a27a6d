"""Recurrent Inference Machines for strong gravitational lenses. What is public is named in __init__.pyi, and imported
when it is used: Keras takes seconds, and `import rim_tf` should not."""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
