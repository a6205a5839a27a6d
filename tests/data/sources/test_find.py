"""Galaxies are found wherever the user has them, and what is not there gets a sentence."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from rim_tf.cli.dataset import dataset
from rim_tf.data.extras import imported
from rim_tf.data.sources import find
from rim_tf.data.sources.find import find_galaxies, find_large_set
from rim_tf.errors import InputError


def test_procedural_galaxies_of_two_splits_are_others(monkeypatch):
    monkeypatch.setattr(find, "N_PROCEDURAL", {"train": 3, "validation": 2})
    train, validation = (find_galaxies(None, split, f"set: {split}", 1) for split in ("train", "validation"))
    assert len(train) == 3 and len(validation) == 2 and not set(train.ids) & set(validation.ids)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in validation.images}
    assert len(find_galaxies(None, "train", "study", n_procedural=1)) == 1
    assert find_large_set(None) is None


def test_galaxies_of_a_folder_of_files(galaxies, on_sky, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for i, image in enumerate(galaxies.images[:3]):
        fits.writeto(tmp_path / f"galaxy{i}.fits", on_sky(image))
    # Of these three names none is one of the tenth that validates.
    read = find_galaxies(tmp_path, "train", "training")
    assert set(read.ids) <= {f"folder:galaxy{i}.fits" for i in range(3)} and len(read) >= 2
    with pytest.raises(InputError, match="no galaxies in the split 'validation'"):
        find_galaxies(tmp_path, "validation", "validation")


def test_sample_files_need_no_tfds(galaxies, on_sky, tmp_path):
    # The names decide the splits: of fifty some validate.
    hdus = [fits.ImageHDU(on_sky(galaxies.images[i % 2]), name=f"G{i}") for i in range(12)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "hst_cosmos_f814w.fits")
    script = (
        "import sys\n"
        "from rim_tf.data.sources.find import find_galaxies, find_large_set\n"
        "find_galaxies(None, 'train', 'test', n_procedural=1)\n"
        "assert find_large_set(sys.argv[1]) is None\n"
        "found = find_galaxies(sys.argv[1], 'train', 'training')\n"
        "print(len(found), 'tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert done.stdout.split()[1:] == ["False", "False"], done.stderr
    assert int(done.stdout.split()[0]) == len(find_galaxies(tmp_path, "train", "training")) > 5


def test_places_without_galaxies_get_a_sentence(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(InputError, match=f"{tmp_path} does not exist or is empty.*give the folder of your galaxies"):
        find_galaxies(tmp_path, "train", "training")
    with pytest.raises(InputError, match="neither a folder nor the name"):
        find_galaxies("no_such_set_of_galaxies", "train", "training")
    with pytest.raises(InputError, match="has not been prepared"):
        find_galaxies("great3", "train", "training")
    images = np.zeros((1, 128, 128), np.float32)
    np.savez(tmp_path / "galaxyzoo2_128.npz", images=images, ids=["a"], bg_level=[0.0], clean=[False])
    with pytest.raises(InputError, match="has no galaxies in the split 'train'; give more galaxies"):
        find_galaxies(tmp_path, "train", "training")


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "rim_tf.data.sets.opening", raising=False)
    monkeypatch.delitem(sys.modules, "rim_tf.data.builders", raising=False)
    with pytest.raises(InputError, match=r"needs tensorflow_datasets.*pip install 'rim_tf\[datasets\]'"):
        find_galaxies("great3", "train", "training")
    with pytest.raises(ModuleNotFoundError, match="rim_tf.data.nothing"):  # a mistake of ours, and no extra
        imported("rim_tf.data.nothing", "datasets", "This")


def test_packed_galaxies_are_drawn_as_those_of_their_folder(galaxies, on_sky, tmp_path):
    hdus = [fits.ImageHDU(on_sky(galaxies.images[i % 2]), name=f"G{i}") for i in range(12)]
    folder = tmp_path / "folder"
    folder.mkdir()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(folder / "hst_cosmos_f814w.fits")
    done = CliRunner().invoke(dataset, ["pack", str(folder), str(tmp_path / "all.npz")])
    assert done.exit_code == 0 and "12 galaxies" in done.output
    for split in ("train", "validation"):
        packed, plain = (find_galaxies(where, split, "training") for where in (tmp_path / "all.npz", folder))
        assert packed.ids == plain.ids
        np.testing.assert_array_equal(packed.images, plain.images)
    assert find_large_set(tmp_path / "all.npz") is None
    with pytest.raises(InputError, match="its name must end in .npz"):
        dataset.main(["pack", str(folder), str(tmp_path / "all.fits")], standalone_mode=False)
