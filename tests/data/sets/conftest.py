"""A small set of lenses and one of galaxies, for all tests of prepared sets."""

import importlib

import pytest
from astropy.io import fits


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A set made without interruption by one worker."""
    pytest.importorskip("tensorflow_datasets")
    from small_sets import build

    out = tmp_path_factory.mktemp("sets") / "whole"
    said = build(out)
    assert "To be made: 32 lenses" in said[0] and "kB" in said[0] and "in 5 files" in said[0]
    assert "holds 32 lenses in 5 files" in said[-1]
    return out


@pytest.fixture(scope="session")
def galaxy_set(galaxies, on_sky, tmp_path_factory):
    """Builder of a prepared set of nine galaxies, made from a folder of FITS files."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builders = importlib.import_module("rim_tf.data.builders")
    folder = tmp_path_factory.mktemp("fits")
    for i, image in enumerate(galaxies.images[:9]):
        fits.writeto(folder / f"galaxy{i}.fits", on_sky(image))
    builder = builders.GalaxyFolder(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return builder
