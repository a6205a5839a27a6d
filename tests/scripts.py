"""Scripts of `examples/` as modules."""

import importlib.util


def loaded(path):
    """The module of a Python file, run without being installed."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
