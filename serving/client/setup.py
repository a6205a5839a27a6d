"""The client alone, for machines without TensorFlow: pip install ./serving/client

It holds `rim_tf_client` and those modules of `rim_tf` that need NumPy and astropy alone. Where rim_tf itself is
installed the client is there already; do not install both.
"""

import pathlib
import re

from setuptools import setup

ROOT = pathlib.Path("..", "..")
HERE = pathlib.Path(__file__).resolve().parent
text = (HERE / ROOT / "rim_tf" / "__init__.py").read_text()

setup(
    name="rim_tf_client",
    version=re.search('__version__ = "(.*)"', text)[1],
    description="Lens models from a model server: arrays or FITS in and out",
    license="MIT",
    python_requires=">=3.11,<3.14",
    packages=["rim_tf_client", "rim_tf", "rim_tf.io"],
    package_dir={"rim_tf_client": "../../rim_tf_client", "rim_tf": "../../rim_tf", "rim_tf.io": "../../rim_tf/io"},
    package_data={"rim_tf": ["*.pyi"]},
    install_requires=[
        "numpy>=2.0,<3",
        "astropy>=6.1",
        "scipy>=1.15",
        "grpcio>=1.60",
        "protobuf>=5.26,<8",
        "lazy_loader>=0.4",
        "pydantic>=2.7",
        "humanize>=4.9",
    ],
)
