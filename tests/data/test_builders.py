"""Galaxies go from the public files into a prepared set, each into one split, and what is broken is named."""

import importlib
import io
import tarfile

import numpy as np
import pytest
from astropy.io import fits

from rim_tf.data.sources.galaxies import split_of
from rim_tf.data.sources.preparation import prepare_cosmos, prepare_galaxy_zoo
from rim_tf.errors import InputError, InputWarning
from rim_tf.io import read_image

tfds = pytest.importorskip("tensorflow_datasets")
Image = pytest.importorskip("PIL.Image")
builders = importlib.import_module("rim_tf.data.builders")


def galaxy(rng, n=96, noise_rms=0.005):
    """A round galaxy with peak 1 on noisy sky, [n, n]."""
    rows, columns = np.indices((n, n)) - (n - 1) / 2
    return 0.3 + np.exp(-0.5 * (rows**2 + columns**2) / 6.0**2) + rng.normal(0, noise_rms, (n, n))


def zoo_jpeg(rng, sigma=22.0):
    """A Galaxy Zoo frame as JPEG bytes: a round galaxy at the middle, a little off-colour noise."""
    rows, columns = np.indices((424, 424)) - 211.5
    light = 0.7 * np.exp(-0.5 * (rows**2 + columns**2) / sigma**2)
    rgb = np.clip(light[..., None] + 0.02 + rng.normal(0, 0.003, (424, 424, 3)), 0, 1)
    file = io.BytesIO()
    Image.fromarray((255 * rgb).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def prepare(name, folder, data_dir, config=None):
    """A builder, prepared from a manual folder into a new data folder."""
    builder = tfds.builder(name, data_dir=data_dir, config=config)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return builder


def examples(builder):
    """All examples by split."""
    return {
        split: list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        for split in builder.info.splits
    }


def ids(builder):
    return {split: {e["id"].decode() for e in part} for split, part in examples(builder).items()}


def write_folder(folder, rng, n=12):
    folder.mkdir()
    for i in range(n):
        hdu = fits.PrimaryHDU(galaxy(rng).astype(np.float32))
        hdu.header["PIXSCALE"], hdu.header["FILTER"] = 0.03, "F814W"
        hdu.writeto(folder / f"galaxy{i:02d}.fits")
    return folder


def test_a_prepared_folder_reopens_with_what_went_in(tmp_path, rng):
    folder = write_folder(tmp_path / "galaxies", rng)
    image = galaxy(rng)
    Image.fromarray((65535 * np.clip(image[::-1] / 2, 0, 1)).astype(np.uint16)).save(folder / "picture.png")
    prepared = prepare("galaxy_folder", folder, tmp_path / "data")
    reopened = tfds.builder_from_directory(prepared.data_dir)
    by_id = {e["id"].decode(): e for part in examples(reopened).values() for e in part}
    assert set(by_id) == {f"folder:galaxy{i:02d}.fits" for i in range(12)} | {"folder:picture.png"}
    for name, example in by_id.items():
        assert example["image"].dtype == np.float32 and example["image"].max() == 1
        assert not np.any(example["image"][[0, -1]]) and not np.any(example["image"][:, [0, -1]])
        assert reopened.info.features["quality"].int2str(example["quality"]) == "clean"
        if name.endswith(".fits"):
            assert example["pixel_scale"] == np.float32(0.03) and example["band"] == b"F814W"
            expected = prepare_cosmos(fits.getdata(folder / name.removeprefix("folder:")).astype(np.float32))
            np.testing.assert_array_equal(example["image"], expected.image)
            assert example["half_light_radius"] == np.float32(expected.half_light_radius)
        else:
            assert np.isnan(example["pixel_scale"]) and example["band"] == b""
            # Sixteen bits and row order survive the PNG.
            np.testing.assert_allclose(example["image"], prepare_cosmos(image.astype(np.float32)).image, atol=2e-3)
    assert reopened.info.metadata["skipped"] == [] and reopened.info.metadata["left_out"] == {}


def test_no_galaxy_is_in_two_splits_and_its_name_decides(tmp_path, rng):
    folder = write_folder(tmp_path / "galaxies", rng)
    # The same galaxy in another band: another file, which goes where the first one is.
    for i in range(12):
        fits.writeto(folder / f"galaxy{i:02d}.blue.fits", galaxy(rng).astype(np.float32))
    config = builders.GalaxyFolderConfig(name="third", validation_fraction=0.3, prefix="mine")
    parts = ids(prepare("galaxy_folder", folder, tmp_path / "data", config))
    assert set(parts) == {"train", "validation"} and sum(map(len, parts.values())) == 24
    galaxies = {split: {name.split(".")[0] for name in part} for split, part in parts.items()}
    assert not galaxies["train"] & galaxies["validation"]
    assert all(split_of(name, 0.3) == split for split, part in galaxies.items() for name in part)
    read = builders.read_galaxies(tfds.builder_from_directory(tmp_path / "data/galaxy_folder/third/1.0.0"), "train")
    assert set(read.ids) == parts["train"] and read.images.shape == (len(read), 128, 128)


@pytest.fixture
def damaged(tmp_path, rng):
    """A folder of which some files are whole, some are damaged and one is of no use; the names of the damaged."""
    folder = write_folder(tmp_path / "galaxies", rng, 3)
    whole = (folder / "galaxy00.fits").read_bytes()
    (folder / "cut_in_pixels.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "text.fits").write_text("this is no FITS file")
    (folder / "empty.fits").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(zoo_jpeg(rng)[:3000])
    (folder / "no_picture.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    fits.writeto(folder / "nan.fits", np.where(np.eye(64), np.nan, galaxy(rng, 64)).astype(np.float32))
    fits.writeto(folder / "tiny.fits", np.ones((8, 8), np.float32))
    fits.writeto(folder / "table.fits", np.array([(1,)], dtype=[("a", int)]))
    fits.writeto(folder / "flat.fits", np.ones((64, 64), np.float32))  # readable, but there is no galaxy in it
    names = "cut_in_pixels.fits text.fits empty.fits cut.jpg no_picture.png nan.fits tiny.fits table.fits".split()
    return folder, names


def test_damaged_files_are_named_counted_and_skipped(tmp_path, damaged):
    folder, names = damaged
    with pytest.warns(InputWarning) as caught:
        builder = prepare("galaxy_folder", folder, tmp_path / "data")
    (message,) = [str(w.message) for w in caught if issubclass(w.category, InputWarning)]
    skipped = tfds.builder_from_directory(builder.data_dir).info.metadata["skipped"]
    assert f"skipped {len(names)} file(s)" in message and len(skipped) == len(names)
    for name in names:
        assert name in message and any(name in line for line in skipped)
    assert builder.info.metadata["left_out"] == {"empty": 1}
    assert set().union(*ids(builder).values()) == {f"folder:galaxy{i:02d}.fits" for i in range(3)}


def test_the_pixel_scale_of_a_galaxy_is_that_of_an_image(tmp_path, rng):
    """One rule for both: the sky coordinates, or else PIXSCALE; coordinates without a scale say nothing."""
    folder, sky = tmp_path / "galaxies", {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    folder.mkdir()
    headers = {
        "kind_alone": sky,
        "kind_and_keyword": sky | {"PIXSCALE": 0.04},
        "sky_and_keyword": sky | {"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600, "PIXSCALE": 7.0},
        "oblong": sky | {"CDELT1": -0.05 / 3600, "CDELT2": 0.08 / 3600},
    }
    for name, header in headers.items():
        fits.writeto(folder / f"{name}.fits", galaxy(rng).astype(np.float32), fits.Header(header))
    with pytest.warns(InputWarning, match=r"oblong.fits\[0\].* has pixels of 0.05 x 0.08 arcsec by its WCS"):
        found = prepare("galaxy_folder", folder, tmp_path / "data")
    scales = {e["id"].decode(): e["pixel_scale"] for part in examples(found).values() for e in part}
    frame = {name: read_image(folder / f"{name}.fits")[1] for name in headers if name != "oblong"}
    assert frame == {"kind_alone": None, "kind_and_keyword": 0.04, "sky_and_keyword": 0.05}
    assert np.isnan(scales["folder:kind_alone.fits"]) and len(scales) == 3
    ratio = scales["folder:sky_and_keyword.fits"] / scales["folder:kind_and_keyword.fits"]
    assert ratio == pytest.approx(0.05 / 0.04, rel=0.1)  # galaxies of one size, cut out alike


def test_strict_stops_at_a_damaged_file(tmp_path, damaged):
    config = builders.GalaxyFolderConfig(name="strict", strict=True)
    with pytest.raises(InputError, match=r"(cut|text|empty|no_picture|nan|tiny|table)\S* cannot be read"):
        prepare("galaxy_folder", damaged[0], tmp_path / "data", config)


def test_a_folder_without_galaxies_is_an_input_error(tmp_path, rng):
    (tmp_path / "galaxies").mkdir()
    (tmp_path / "galaxies" / "notes.txt").write_text("none")
    with pytest.raises(InputError, match="holds no .fits"):
        prepare("galaxy_folder", tmp_path / "galaxies", tmp_path / "data")
    (tmp_path / "galaxies" / "galaxy.fits").write_text("none")
    with pytest.raises(InputError, match="yields no galaxy.*1 file"):
        prepare("galaxy_folder", tmp_path / "galaxies", tmp_path / "data")
    for name, wanted in (("galaxy_zoo", "images_gz2.zip"), ("great3", "COSMOS_23.5_training_sample.tar.gz")):
        with pytest.raises(InputError, match=wanted):
            prepare(name, tmp_path / "galaxies", tmp_path / "data")


def test_flawed_galaxies_are_counted_or_kept_with_their_flaw(tmp_path, rng):
    folder = write_folder(tmp_path / "galaxies", rng, 2)
    fits.writeto(folder / "noisy.fits", galaxy(rng, noise_rms=0.08).astype(np.float32))
    builder = prepare("galaxy_folder", folder, tmp_path / "data")
    assert builder.info.metadata["left_out"] == {"noisy": 1}
    config = builders.GalaxyFolderConfig(name="all", keep_flawed=True)
    builder = prepare("galaxy_folder", folder, tmp_path / "data", config)
    quality = builder.info.features["quality"]
    found = {e["id"]: quality.int2str(e["quality"]) for part in examples(builder).values() for e in part}
    assert found == {
        b"folder:galaxy00.fits": "clean",
        b"folder:galaxy01.fits": "clean",
        b"folder:noisy.fits": "noisy",
    }


def test_extensions_that_are_no_galaxies_are_passed_over(tmp_path, rng):
    folder = tmp_path / "galaxies"
    folder.mkdir()
    images = [fits.ImageHDU(galaxy(rng).astype(np.float32), name=name) for name in ("SCI", "ERR", "OTHER")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(folder / "several.fits")
    parts = ids(prepare("galaxy_folder", folder, tmp_path / "data"))
    assert set().union(*parts.values()) == {"folder:several.fits[SCI]", "folder:several.fits[OTHER]"}


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_galaxy_zoo_from_folder_and_archive(tmp_path, rng):
    folder = tmp_path / "zoo"
    (folder / "images").mkdir(parents=True)
    pictures = [zoo_jpeg(rng) for _ in range(4)]
    (folder / "images" / "11.jpg").write_bytes(pictures[0])
    (folder / "images" / "12.jpg").write_bytes(pictures[1][:9000])
    with tarfile.open(folder / "more.tar", "w") as archive:
        add(archive, "kaggle_gz_13.jpg", pictures[2])
        add(archive, "14.jpg", pictures[3])
        add(archive, "15.jpg", b"no JPEG")
    (folder / "gz2_filename_mapping.csv").write_text("objid,sample,asset_id\n900,original,11\n901,original,99\n")
    (folder / "gz2sample.csv").write_text("OBJID,RA,PETROR90_R\n900,1.0,10.0\n")
    with pytest.warns(InputWarning, match="skipped 2 file"):
        builder = prepare("galaxy_zoo", folder, tmp_path / "data")
    assert {line.split(" (")[0].rsplit("/")[-1] for line in builder.info.metadata["skipped"]} == {
        "12.jpg",
        "more.tar:15.jpg",
    }
    by_id = {e["id"].decode(): e for part in examples(builder).values() for e in part}
    assert set(by_id) == {"galaxy_zoo:gz2_asset:11", "galaxy_zoo:kaggle_gz:13", "galaxy_zoo:gz2_asset:14"}
    first = by_id["galaxy_zoo:gz2_asset:11"]
    expected = prepare_galaxy_zoo(np.asarray(Image.open(io.BytesIO(pictures[0])), np.float32) / 255)
    np.testing.assert_array_equal(first["image"], expected.image)
    assert first["pixel_scale"] == pytest.approx(0.4 * expected.frame_pixels)  # 0.04 R90 a pixel
    assert np.isnan(by_id["galaxy_zoo:kaggle_gz:13"]["pixel_scale"])


@pytest.mark.parametrize("lost", [1024, 4096])
def test_an_archive_that_is_cut_short_is_named(tmp_path, rng, lost):
    folder = tmp_path / "zoo"
    folder.mkdir()
    with tarfile.open(folder / "cut.tar", "w") as archive:
        for number in (1, 2):
            add(archive, f"{number}.jpg", zoo_jpeg(rng))
        end = archive.offset
    with open(folder / "cut.tar", "r+b") as file:
        file.truncate(end - lost)
    with pytest.warns(InputWarning, match=r"cut\.tar"):
        builder = prepare("galaxy_zoo", folder, tmp_path / "data")
    assert ids(builder) == {split_of("galaxy_zoo:gz2_asset:1"): {"galaxy_zoo:gz2_asset:1"}}


def test_two_processes_prepare_what_one_does(tmp_path, rng):
    folder = write_folder(tmp_path / "galaxies", rng, 4)
    files = []
    for workers in (1, 2):
        config = builders.GalaxyFolderConfig(name="folder", workers=workers)
        # A config of a builder's own name must be that config; another name would change the files' names.
        config.name = f"w{workers}"
        builder = prepare("galaxy_folder", folder, tmp_path / "data", config)
        files.append({p.name: p.read_bytes() for p in builder.data_path.glob("*.tfrecord*")})
    assert files[0] == files[1]


def write_real_galaxy_layout(folder, frames, psfs, sample="23.5"):
    """Postage stamps {ident: image} as GalSim's RealGalaxyCatalog reads them, two image files."""
    folder.mkdir()
    half = (len(frames) + 1) // 2
    rows = []
    for n, part in enumerate((list(frames)[:half], list(frames)[half:]), 1):
        names = [f"real_galaxy{kind}images_{sample}_n{n}.fits" for kind in ("_", "_PSF_")]
        for name, content in zip(names, (frames, psfs), strict=True):
            hdus = [fits.PrimaryHDU(content[part[0]]), *(fits.ImageHDU(content[ident]) for ident in part[1:])]
            fits.HDUList(hdus).writeto(folder / name)
        rows += [
            (ident, 150.0, 2.0, 21.5, "F814W", 1.0, *names, hdu, hdu, 0.03, 0.0, 1e-5, "cf.fits", 10.0)
            for hdu, ident in enumerate(part)
        ]
    table = np.array(
        rows,
        dtype=[("IDENT", "i4"), ("RA", "f8"), ("DEC", "f8"), ("MAG", "f8"), ("BAND", "S5"), ("WEIGHT", "f8")]
        + [("GAL_FILENAME", "S40"), ("PSF_FILENAME", "S40"), ("GAL_HDU", "i4"), ("PSF_HDU", "i4")]
        + [("PIXEL_SCALE", "f8"), ("NOISE_MEAN", "f8"), ("NOISE_VARIANCE", "f8"), ("NOISE_FILENAME", "S20")]
        + [("stamp_flux", "f8")],
    )
    fits.writeto(folder / f"real_galaxy_catalog_{sample}.fits", table)
    return folder


def test_great3_from_real_stamps_in_galsims_layout(tmp_path, shared):
    names = {141190: "COSMOS23.5_141190", 166341: "COSMOS23.5_166341", 129658: "COSMOS23.5_129658"}
    with fits.open(shared / "data/hst_cosmos_f814w.fits") as hdus:
        frames = {ident: np.array(hdus[name].data, np.float32) for ident, name in names.items()}
    frames[7] = np.full((64, 64), np.nan, np.float32)
    psf_images = np.load(shared / "data/psf_hst_acs_f814w_030mas.npz")["psf"]
    psfs = {ident: 3 * psf_images[i] for i, ident in enumerate(frames)}
    folder = write_real_galaxy_layout(tmp_path / "COSMOS_23.5_training_sample", frames, psfs)
    # Two of the three are too small to be clean.
    config = builders.Great3Config(name="all", keep_flawed=True)
    with pytest.warns(InputWarning, match=r"real_galaxy_images_23.5_n2.fits\[1\]"):
        builder = prepare("great3", folder.parent, tmp_path / "data", config)
    parts = examples(tfds.builder_from_directory(builder.data_dir))
    by_id = {e["id"].decode(): e for part in parts.values() for e in part}
    assert set(by_id) == {f"cosmos:{name}" for name in names.values()}
    for i, (ident, name) in enumerate(names.items()):
        example, stamp = by_id[f"cosmos:{name}"], prepare_cosmos(frames[ident])
        np.testing.assert_array_equal(example["image"], stamp.image)
        np.testing.assert_allclose(example["psf"], psf_images[i] / psf_images[i].sum(), rtol=1e-5)
        assert example["band"] == b"F814W" and example["magnitude"] == 21.5
        assert example["pixel_scale"] == np.float32(0.03 * stamp.frame_pixels)
        assert builder.info.features["quality"].int2str(example["quality"]) == stamp.quality


def test_galaxy_zoo_from_the_real_archive(tmp_path, shared):
    folder = tmp_path / "zoo"
    folder.mkdir()
    with tarfile.open(shared / "data/galaxyzoo2_jpeg424.tar") as whole, tarfile.open(folder / "few.tar", "w") as few:
        for member in whole.getmembers()[:6]:
            few.addfile(member, whole.extractfile(member))
    config = builders.GalaxyZooConfig(name="all", keep_flawed=True)
    builder = prepare("galaxy_zoo", folder, tmp_path / "data", config)
    found = set().union(*ids(builder).values())
    with np.load(shared / "data/galaxyzoo2_128.npz") as archive:
        assert found == {f"galaxy_zoo:{name}" for name in archive["ids"][:6]}
