"""A study of small systems by an untrained network: that nothing is lost, mixed up or half-written."""

import dataclasses
import json
import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.config import SMALL
from rim_tf.data.mocks import MockConfig
from rim_tf.errors import InputError
from rim_tf.evaluation import metrics, study
from rim_tf.evaluation.study import Study, StudyConfig, read_study
from rim_tf.models.rim import RIM

MOCKS = MockConfig(image_pixels=16, source_pixels=16, log_pixel_scale=(0.3, 0.3))


@pytest.fixture(scope="module")
def model():
    return RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(study, "CHUNK", 4)
    monkeypatch.setattr(study, "INVERSIONS", 2)
    monkeypatch.setattr(study, "_N_PROCEDURAL", 6)


@pytest.fixture
def config():
    return StudyConfig(MOCKS, seed=3)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """The folder of a study of six systems by both methods; to be read only."""
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(study, "CHUNK", 4)
        patch.setattr(study, "INVERSIONS", 2)
        patch.setattr(study, "_N_PROCEDURAL", 6)
        done = Study(tmp_path_factory.mktemp("study") / "out", StudyConfig(MOCKS, seed=3), model)
        done.run_rim(6)
        done.run_inversion(5)
    return done


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_system_is_described_and_judged(finished):
    settings, columns, kept, unusual = read_study(finished.out)
    assert {method: len(sample["rms"]) for method, sample in columns.items()} == {"rim": 6, "inversion": 5}
    for sample in columns.values():
        assert all(np.all(np.isfinite(values)) for values in sample.values())
    assert settings["mocks"]["image_pixels"] == 16 and unusual == {}
    assert_array_equal(columns["rim"]["lens"][:5], columns["inversion"]["lens"])
    assert np.all(columns["rim"]["magnification"] > 2.9) and np.all(columns["rim"]["noise"] > 9e-4)
    assert_allclose(columns["rim"]["truth_chi2"], 1, atol=0.5)
    # All of the first chunk, the worst of the second.
    assert list(kept["rim"]["index"][:4]) == [0, 1, 2, 3]
    assert list(kept["inversion"]["index"]) == [0, 1, 2, 3]
    assert kept["rim"]["index"][4:] == [4 + np.argmax(columns["rim"]["rms"][4:])]


def test_what_is_stored_is_what_was_drawn_and_reconstructed(finished):
    _, columns, kept, _ = read_study(finished.out)
    system = finished.draw(2, 1)[0]
    assert_array_equal(kept["rim"]["truth"][2], system.truth)
    assert_array_equal(kept["rim"]["image"][2], system.observation.image)
    for method in ("rim", "inversion"):
        source = kept[method]["source"][2]
        assert_allclose(columns[method]["rms"][2], metrics.rms_error(system.truth, source), rtol=1e-5)
    assert columns["rim"]["half_light_radius"][2] > 0
    assert_allclose(columns["rim"]["true_flux"][2], system.truth.sum() * system.source_pixel_scale**2, rtol=1e-5)


def test_inversion_fits_better_than_a_network_that_has_not_learned(finished):
    _, columns, _, _ = read_study(finished.out)
    # There are as many source pixels as data, so that part of the noise is fitted.
    assert np.all((columns["inversion"]["chi2"] > 0.2) & (columns["inversion"]["chi2"] < 1.2))
    assert np.median(columns["inversion"]["rms"]) < np.median(columns["rim"]["rms"])
    # The most probable source has the largest posterior of all, the truth's included.
    inversion = columns["inversion"]
    posterior = inversion["strength"] * (inversion["truth_roughness"] - inversion["roughness"]) / 2
    n_pixels = MOCKS.image_pixels**2
    posterior += n_pixels / 2 * (columns["rim"]["truth_chi2"][:5] - columns["inversion"]["chi2"])
    assert np.all(posterior > 0)


def test_a_study_goes_on_where_it_stopped_and_grows(config, model, tmp_path):
    done = []

    class Killed(Exception):
        pass

    def killed_after_one_chunk(n):
        done.append(n)
        if len(done) == 2:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        Study(out, config, model).run_rim(12, killed_after_one_chunk)
    (path,) = (out / "chunks").glob("rim-*-00000.npz")
    first = path.read_bytes()
    assert not [name for name in files_in(out) if "incomplete" in name]

    Study(out, config, model).run_rim(6, done.append)
    assert path.read_bytes() == first
    assert sum(done[2:]) == 6
    Study(out, config, model).run_rim(9)
    grown = read_study(out)[1]["rim"]
    at_once = Study(tmp_path / "at_once", config, model)
    at_once.run_rim(9)
    whole = read_study(tmp_path / "at_once")[1]["rim"]
    assert set(grown) == set(whole)
    for name in set(whole) - {"seconds"}:
        assert_allclose(grown[name], whole[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_damaged_chunk_is_made_again_and_what_was_half_written_goes(config, model, tmp_path):
    Study(tmp_path, config, model).run_rim(2)
    (path,) = (tmp_path / "chunks").glob("rim-*.npz")
    path.write_bytes(path.read_bytes()[:1000])
    left_over = path.with_name(".rim-00001.0123.incomplete.npz")
    left_over.write_bytes(b"PK")
    os.utime(left_over, (0, 0))  # long ago, by a process that was killed
    Study(tmp_path, config, model).run_rim(2)
    assert len(read_study(tmp_path)[1]["rim"]["rms"]) == 2
    assert files_in(tmp_path) == [f"chunks/{path.name}", "config.json"]


def test_seeds_and_chunks_are_other_systems(config, model, tmp_path):
    studies = [Study(tmp_path / str(seed), dataclasses.replace(config, seed=seed), model) for seed in (3, 4)]
    truths = [studies[0].draw(0, 1)[0].truth, studies[0].draw(4, 1)[0].truth, studies[1].draw(0, 1)[0].truth]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(truths) for b in truths[:i])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"sources": "elsewhere"},
        {"regularisation": "curvature"},
        {"solver": "exact"},
        {"mocks": MockConfig(image_pixels=20)},
    ],
)
def test_other_settings_are_refused(config, model, tmp_path, changes):
    Study(tmp_path, config, model)
    before = files_in(tmp_path)
    with pytest.raises(InputError, match=f"another {next(iter(changes))}"):
        Study(tmp_path, dataclasses.replace(config, **changes), model)
    assert files_in(tmp_path) == before


def test_the_same_weights_in_another_network_are_another_network(config, model, tmp_path):
    other = RIM(dataclasses.replace(model.config, n_steps=model.config.n_steps + 1))
    other.set_weights(model.get_weights())
    assert Study(tmp_path, config, model).weights != Study(tmp_path, config, other).weights


def test_other_weights_share_the_inversions_and_have_files_of_their_own(config, model, tmp_path):
    study = Study(tmp_path, config, model)
    study.run_rim(2)
    study.run_inversion(1)
    before = files_in(tmp_path / "chunks")
    other = RIM(model.config)
    other.set_weights([weights + 0.1 for weights in model.get_weights()])
    second = Study(tmp_path, config, other)
    second.run_rim(2)
    second.run_inversion(1)
    assert set(before) < set(files_in(tmp_path / "chunks")) and len(files_in(tmp_path / "chunks")) == len(before) + 1
    of_other = read_study(tmp_path)[1]
    Study(tmp_path, config, model)
    of_first = read_study(tmp_path)[1]
    assert np.all(of_first["rim"]["rms"] != of_other["rim"]["rms"])
    assert_array_equal(of_first["inversion"]["rms"], of_other["inversion"]["rms"])


def test_folders_of_something_else_are_refused(config, model, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        Study(tmp_path, config, model)
    assert files_in(tmp_path) == ["thesis.tex"]
    with pytest.raises(InputError, match="holds no study"):
        read_study(tmp_path)


def test_a_study_without_a_system_has_no_numbers(config, model, tmp_path):
    Study(tmp_path, config, model)
    with pytest.raises(InputError, match="no finished systems"):
        read_study(tmp_path)


# ------------------------------------------------------------------------------------------ where sources come from


def test_procedural_test_galaxies_are_not_those_of_training():
    from rim_tf.data.sources.procedural import procedural_galaxies

    tested = study.unseen_galaxies(None, 0)
    for seed in (0, 1, 1_000_000):  # training, its validation
        assert np.abs(tested.images[0] - procedural_galaxies(1, seed)[0]).max() > 0.1
    assert not set(tested.ids) & set(study.unseen_galaxies(None, 1).ids)


def test_real_test_galaxies_are_the_validation_split(monkeypatch, tmp_path, rng):
    from rim_tf.data.sources.galaxies import LOADERS, GalaxySet, split_of

    ids = tuple(f"set:{i}" for i in range(60))
    found = GalaxySet(rng.random((60, 128, 128)).astype(np.float32), ids, np.full(60, 20.0))
    monkeypatch.setattr(study, "load_directory", lambda folder: found)
    (tmp_path / next(iter(LOADERS))).write_bytes(b"")
    tested = study.unseen_galaxies(tmp_path)
    assert 0 < len(tested) < 60 and all(split_of(galaxy) == "validation" for galaxy in tested.ids)

    monkeypatch.setattr(study, "load_directory", lambda folder: found.split("train"))
    with pytest.raises(InputError, match="no galaxies in the validation split"):
        study.unseen_galaxies(tmp_path)


def test_galaxies_are_kept_with_the_study(config, model, monkeypatch, tmp_path):
    from rim_tf.data.sources.galaxies import GalaxySet

    galaxies = study.unseen_galaxies(None, 0)
    monkeypatch.setattr(study, "unseen_galaxies", lambda where, seed: galaxies)
    first = Study(tmp_path, dataclasses.replace(config, sources="folder"), model).draw(0, 1)[0].truth
    monkeypatch.setattr(study, "unseen_galaxies", lambda where, seed: pytest.fail("read again"))
    again = Study(tmp_path, dataclasses.replace(config, sources="folder"), model)
    assert_array_equal(again.draw(0, 1)[0].truth, first)
    assert isinstance(again._galaxies, GalaxySet)


# -------------------------------------------------------------------------------------------- text and digits


def test_text_is_upright_and_legible():
    image = study.draw_text("L", 32)
    assert image.shape == (32, 32) and image.min() >= 0 and image.max() <= 1
    rows, columns = np.nonzero(image > 0.5)
    # The foot of an L is at the bottom, row 0 being the smallest y, and its stem at the left.
    assert np.sum(rows < rows.mean()) > np.sum(rows > rows.mean())
    assert np.mean(columns[rows > np.median(rows) + 3]) < columns.mean()
    assert np.all(image[[0, -1]] == 0) and np.all(image[:, [0, -1]] == 0)


def test_a_digit_is_upright_and_in_the_middle():
    seven = np.zeros((28, 28))
    seven[4, 4:24] = seven[4:24, 14] = 1.0  # its bar is at the top, row 0
    image = study.draw_digit(seven, 40)
    assert image.shape == (40, 40) and image.max() == 1
    rows, columns = np.nonzero(image)
    assert image[rows.max() - 1].sum() > 3 * image[rows.min() + 2].sum()
    assert abs(rows.mean() - 20) < 6 and abs(columns.mean() - 20) < 3


def test_unusual_sources_are_reconstructed_once(config, model, tmp_path, rng):
    images, labels = rng.random((5, 28, 28)), np.array([3, 3, 8, 3, 8])
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    out = tmp_path / "out"
    done = Study(out, config, model)
    done.run_unusual("rim")
    (unusual,) = out.glob("unusual-rim-*.npz")
    assert list(np.load(unusual)["names"]) == ["text"]
    done.run_unusual("rim", tmp_path / "digits.npz")
    written = unusual.stat().st_mtime_ns
    for mnist in (tmp_path / "digits.npz", None):  # without the file, what is there is not taken away
        done.run_unusual("rim", mnist)
        assert unusual.stat().st_mtime_ns == written
    found = np.load(unusual)
    assert list(found["names"]) == ["text", "digit 3", "digit 8"]
    assert_allclose(found["kept_truth"][1], study.draw_digit(images[0], 16), rtol=1e-6)


@pytest.mark.parametrize("arrays", [{}, {"images": np.ones((2, 28, 28))}, {"images": np.ones(3), "labels": np.ones(3)}])
def test_files_without_digits_are_refused(tmp_path, arrays):
    path = tmp_path / "digits.npz"
    with pytest.raises(InputError, match="cannot be read"):
        study.read_digits(path)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="digits.npz has"):
        study.read_digits(path)


def test_settings_are_json(finished):
    settings = json.loads((finished.out / "config.json").read_text())
    assert settings["seed"] == 3 and settings["sources"] is None and len(settings["weights_sha256"]) == 64
