"""A study of small systems by an untrained network: that nothing is lost, mixed up or half-written."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.config import SMALL, InversionSettings, MockConfig, RIMSettings
from rim_tf.data.sources.drawings import draw_digit
from rim_tf.errors import InputError
from rim_tf.evaluation import figures, metrics, report, store, study
from rim_tf.evaluation.numbers import evaluate
from rim_tf.evaluation.store import Store, StudyConfig, read_study
from rim_tf.evaluation.study import Study
from rim_tf.inference.linear.inversion import InversionSolver
from rim_tf.inference.methods import METHODS, Method, register
from rim_tf.inference.rim import RIMSolver
from rim_tf.models.rim import RIM
from rim_tf.results import SourceFit
from rim_tf.validation import to_json

MOCKS = MockConfig(image_pixels=16, source_pixels=16, log_pixel_scale=(0.3, 0.3))
INVERSION = InversionSolver(InversionSettings(solver="exact"))


@pytest.fixture(scope="module")
def rim():
    return RIMSolver(RIMSettings("untrained"), RIM(dataclasses.replace(SMALL, n_steps=1, features=4, hidden=(4, 4))))


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(store, "CHUNK", 4)
        patch.setattr(study, "_N_PROCEDURAL", 6)
        patch.setitem(METHODS, "inversion", dataclasses.replace(METHODS["inversion"], systems_at_once=2))
        yield


@pytest.fixture
def config():
    return StudyConfig(MOCKS, seed=3)


@pytest.fixture(scope="module")
def finished(rim, tmp_path_factory, small_chunks):
    """The study of six systems by one method, and of five of them by another; to be read only."""
    done = Study(tmp_path_factory.mktemp("study") / "out", StudyConfig(MOCKS, seed=3))
    done.run("rim", rim, 6)
    done.run("inversion", INVERSION, 5)
    return done


def out_of(done):
    return done.store.out


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_system_is_described_and_judged(finished):
    settings, columns, kept, unusual = read_study(out_of(finished))
    assert {method: len(sample["rms"]) for method, sample in columns.items()} == {"rim": 6, "inversion": 5}
    for sample in columns.values():
        assert all(np.all(np.isfinite(values)) for name, values in sample.items() if name != "lens")
    assert settings["mocks"]["image_pixels"] == 16 and unusual == {}
    assert_array_equal(columns["rim"]["lens"][:5], columns["inversion"]["lens"])
    assert np.all(columns["rim"]["magnification"] > 2.9) and np.all(columns["rim"]["noise"] > 9e-4)
    assert_allclose(columns["rim"]["truth_chi2_per_pixel"], 1, atol=0.5)
    # All of the first chunk; of a file of a whole chunk after it the worst, of a smaller one none.
    assert list(kept["rim"]["index"][:4]) == [0, 1, 2, 3]
    assert list(kept["inversion"]["index"]) == [0, 1, 2, 3]
    assert kept["rim"]["index"][4:] == [4 + np.argmax(columns["rim"]["rms"][4:])]


def test_what_is_stored_is_what_was_drawn_and_reconstructed(finished):
    _, columns, kept, _ = read_study(out_of(finished))
    system = finished.draw(2, 1)[0]
    assert_array_equal(kept["rim"]["truth"][2], system.truth)
    assert_array_equal(kept["rim"]["image"][2], system.observation.image)
    for method in ("rim", "inversion"):
        source = kept[method]["source"][2]
        assert_allclose(columns[method]["rms"][2], metrics.rms_error(system.truth, source), rtol=1e-5)
    assert columns["rim"]["half_light_radius"][2] > 0
    assert_allclose(columns["rim"]["true_flux"][2], system.truth.sum() * system.source_pixel_scale**2, rtol=1e-5)
    assert json.loads(str(columns["rim"]["lens"][2])) == dataclasses.asdict(system.lens)


def test_inversion_fits_better_than_a_network_that_has_not_learned(finished):
    _, columns, _, _ = read_study(out_of(finished))
    rim, inversion = columns["rim"], columns["inversion"]
    # There are as many source pixels as data, so that part of the noise is fitted.
    assert np.all((inversion["chi2_per_pixel"] > 0.2) & (inversion["chi2_per_pixel"] < 1.2))
    assert np.median(inversion["rms"]) < np.median(rim["rms"])
    # The most probable source has the largest posterior of all, the truth's included.
    posterior = inversion["strength"] * (inversion["truth_roughness"] - inversion["roughness"]) / 2
    n_pixels = MOCKS.image_pixels**2
    posterior += n_pixels / 2 * (inversion["truth_chi2_per_pixel"] - inversion["chi2_per_pixel"])
    assert np.all(posterior > 0)


def test_a_study_goes_on_where_it_stopped_and_grows(config, rim, tmp_path):
    done = []

    class Killed(Exception):
        pass

    def killed_after_one_chunk(n):
        done.append(n)
        if len(done) == 2:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        Study(out, config).run("rim", rim, 12, killed_after_one_chunk)
    (path,) = (out / "chunks").glob("rim-*-000000.npz")
    first = path.read_bytes()
    assert not [name for name in files_in(out) if "incomplete" in name]

    Study(out, config).run("rim", rim, 6, done.append)
    assert path.read_bytes() == first
    assert sum(done[2:]) == 6
    Study(out, config).run("rim", rim, 9)
    grown = read_study(out)[1]["rim"]
    Study(tmp_path / "at_once", config).run("rim", rim, 9)
    whole = read_study(tmp_path / "at_once")[1]["rim"]
    assert set(grown) == set(whole)
    assert_array_equal(grown["lens"], whole["lens"])
    for name in set(whole) - {"seconds", "lens"}:
        assert_allclose(grown[name], whole[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_what_a_method_writes_at_once_does_not_change_its_systems(config, tmp_path, monkeypatch, finished):
    # Three at a time, across the ends of chunks of four.
    method = dataclasses.replace(METHODS["inversion"], systems_at_once=3)
    monkeypatch.setitem(METHODS, "inversion", method)
    Study(tmp_path, config).run("inversion", INVERSION, 5)
    assert [name[-10:] for name in files_in(tmp_path / "chunks")] == ["000000.npz", "000003.npz"]
    _, columns, kept, _ = read_study(tmp_path)
    expected = read_study(out_of(finished))[1]["inversion"]
    assert_array_equal(columns["inversion"]["lens"], expected["lens"])
    assert_allclose(columns["inversion"]["rms"], expected["rms"])
    assert list(kept["inversion"]["index"]) == [0, 1, 2, 3]


def test_a_damaged_chunk_is_made_again_and_what_was_half_written_goes(config, rim, tmp_path):
    Study(tmp_path, config).run("rim", rim, 2)
    (path,) = (tmp_path / "chunks").glob("rim-*.npz")
    path.write_bytes(path.read_bytes()[:1000])
    left_over = path.with_name(".rim-000001.0123.incomplete.npz")
    left_over.write_bytes(b"PK")
    os.utime(left_over, (0, 0))  # long ago, by a process that was killed
    Study(tmp_path, config).run("rim", rim, 2)
    assert len(read_study(tmp_path)[1]["rim"]["rms"]) == 2
    assert files_in(tmp_path) == [f"chunks/{path.name}", "config.json"]


def test_seeds_and_chunks_are_other_systems(config, tmp_path):
    studies = [Study(tmp_path / str(seed), dataclasses.replace(config, seed=seed)) for seed in (3, 4)]
    truths = [studies[0].draw(0, 1)[0].truth, studies[0].draw(4, 1)[0].truth, studies[1].draw(0, 1)[0].truth]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(truths) for b in truths[:i])


def test_other_weights_have_files_of_their_own_and_all_else_is_kept(finished, config, rim, tmp_path):
    out = shutil.copytree(out_of(finished), tmp_path / "out")
    before = files_in(out / "chunks")
    weights = RIM(rim.model.config)
    weights.set_weights([values + 0.1 for values in rim.model.get_weights()])
    # The same weights in a network of more steps are another one, too.
    steps = RIM(dataclasses.replace(rim.model.config, n_steps=2))
    steps.set_weights(rim.model.get_weights())
    rms = [read_study(out)[1]["rim"]["rms"][:2]]
    for model in (weights, steps):
        Study(out, config).run("rim", RIMSolver(RIMSettings("other"), model), 2)
        rms.append(read_study(out)[1]["rim"]["rms"])
        assert len(rms[-1]) == 2
    assert len(files_in(out / "chunks")) == len(before) + 2 and set(before) < set(files_in(out / "chunks"))
    assert all(np.all(a != b) for i, a in enumerate(rms) for b in rms[:i])
    inversion = read_study(out)[1]["inversion"]
    assert_array_equal(inversion["rms"], read_study(out_of(finished))[1]["inversion"]["rms"])
    # The report is of the weights that were given last.
    Study(out, config).run("rim", rim, 2)
    assert_array_equal(read_study(out)[1]["rim"]["rms"][:2], rms[0])


def test_other_settings_of_a_method_have_files_of_their_own(finished, config, tmp_path):
    out = shutil.copytree(out_of(finished), tmp_path / "out")
    curvature = InversionSolver(InversionSettings(regularisation="curvature"))
    Study(out, config).run("inversion", curvature, 1)
    settings, columns, _, _ = read_study(out)
    assert settings["methods"]["inversion"]["settings"]["regularisation"] == "curvature"
    assert len(columns["inversion"]["rms"]) == 1
    assert columns["inversion"]["rms"] != read_study(out_of(finished))[1]["inversion"]["rms"][0]


def test_a_method_that_answers_on_another_grid_is_refused(config, tmp_path):
    def coarser(observations, lenses, scale, pixels):
        return InversionSolver.__call__(INVERSION, observations, lenses, 2 * scale, pixels // 2)

    solver = InversionSolver(InversionSettings())
    solver.__class__ = type("Coarser", (InversionSolver,), {"__call__": lambda self, *given: coarser(*given)})
    with pytest.raises(InputError, match=r"are \(16, 16\), and the method gives \(8, 8\)"):
        Study(tmp_path, config).run("inversion", solver, 1)
    assert files_in(tmp_path) == ["config.json"]


def test_lenses_that_are_not_known_are_refused(tmp_path):
    with pytest.raises(InputError, match="lens_error must be 0"):
        Study(tmp_path / "out", StudyConfig(dataclasses.replace(MOCKS, lens_error=0.01)))
    assert files_in(tmp_path) == []


# ------------------------------------------------------------------------------------------------ another method


@dataclasses.dataclass(frozen=True)
class FlatSettings:
    """How bright every source is said to be."""

    level: float = 0.25


class FlatSolver:
    def __init__(self, settings):
        self.settings, self.fingerprint = settings, to_json(settings)

    def __call__(self, observations, lenses, source_pixel_scale=None, source_pixels=None):
        source = np.full((source_pixels, source_pixels), self.settings.level)
        given = dict(source=source, source_pixel_scale=source_pixel_scale, seconds=0.0)
        given |= dict(chi2_per_pixel=1.0, flux_outside=0.0)
        pairs = zip(observations, lenses, strict=True)
        return [SourceFit(observation=o, lens=lens, model_image=0 * o.image, **given) for o, lens in pairs]


@pytest.fixture
def flat():
    """A third method, while the test runs."""
    name = "flat"
    register(Method(name, "flatten", "no source", "tab:green", FlatSettings, FlatSolver, figures=("flux",)))
    yield name
    del METHODS[name]


def test_another_method_is_in_files_numbers_pictures_and_text(flat, finished, config, tmp_path):
    out = shutil.copytree(out_of(finished), tmp_path / "out")
    solver = METHODS[flat].build()
    again = Study(out, config)
    again.run(flat, solver, 5)
    again.run_unusual(flat, solver)
    new = set(files_in(out)) - set(files_in(out_of(finished)))
    assert sorted(name.split("-")[0] for name in new) == ["chunks/flat", "chunks/flat", "unusual"]
    settings, columns, kept, unusual = read_study(out)
    assert list(columns) == ["rim", "inversion", "flat"] and list(unusual) == ["flat"]
    assert settings["methods"]["flat"]["settings"] == {"level": 0.25}
    assert_allclose(columns["flat"]["flux"], 0.25 * columns["flat"]["field"] ** 2)  # its own figure

    numbers = evaluate(settings, columns, unusual)
    assert numbers["n"] == {"rim": 6, "inversion": 5, "flat": 5}
    assert numbers["systems"]["flat"]["seconds"]["value"] == 0
    assert set(numbers["comparison"]) == set(numbers["coherence"]["difference"]) == {"inversion", "flat"}

    drawn = figures.draw_figures(columns, kept, unusual, numbers)
    for name in ("flux", "rms", "coherence", "coherence_pooled"):
        legend = [text.get_text() for text in drawn[name].axes[0].get_legend().get_texts()]
        assert any(text.startswith("no source") for text in legend)
    assert "no source - truth" in [axes.get_title() for axes in drawn["comparison"].axes]
    assert "model, no source" in [axes.get_title() for axes in drawn["unusual"].axes]

    text = report.markdown(report.blocks(numbers, list(drawn)))
    assert "|  | paper | no source | linear inversion | RIM | RIM, the first 5 systems | the truth itself |" in text
    assert "RIM better than no source [% of systems] |" in text
    assert "that both RIM and no source have done" in text
    assert "\nNo source: level 0.25.\n" in text
    assert "| source | RMS [% of peak]: no source | chi^2 per pixel: no source |" in text


def test_results_of_a_method_that_is_not_known_here_are_left_out_aloud(flat, finished, config, tmp_path):
    out = shutil.copytree(out_of(finished), tmp_path / "out")
    Study(out, config).run(flat, METHODS[flat].build(), 1)
    method = METHODS.pop(flat)
    try:
        with pytest.warns(UserWarning, match="a method 'flat', which is not registered"):
            assert list(read_study(out)[1]) == ["rim", "inversion"]
        with pytest.raises(InputError, match="no method 'flat'"):
            Study(out, config).run(flat, method.build(), 1)
    finally:
        register(method)


def test_no_module_of_the_evaluation_names_a_method():
    for path in pathlib.Path(study.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert not [name for name in METHODS if f'"{name}"' in text], path.name


# ------------------------------------------------------------------------------------------ where sources come from


def test_procedural_test_galaxies_are_not_those_of_training():
    from rim_tf.data.sources.procedural import procedural_galaxies

    tested = study.unseen_galaxies(None, 0)
    for stream in ("training", "validation", "test"):
        others = procedural_galaxies(1, stream, 0)
        assert np.abs(tested.images[0] - others.images[0]).max() > 0.1
        assert not set(tested.ids) & set(others.ids)
    assert not set(tested.ids) & set(study.unseen_galaxies(None, 1).ids)


def test_real_test_galaxies_are_the_validation_split(monkeypatch, tmp_path, rng):
    from rim_tf.data.sources.galaxies import GalaxySet, split_of
    from rim_tf.data.sources.samples import LOADERS

    ids = tuple(f"set:{i}" for i in range(60))
    found = GalaxySet(rng.random((60, 128, 128)).astype(np.float32), ids, np.full(60, 20.0))
    monkeypatch.setattr("rim_tf.data.sources.samples.load_directory", lambda folder: found)
    (tmp_path / next(iter(LOADERS))).write_bytes(b"")
    tested = study.unseen_galaxies(tmp_path)
    assert 0 < len(tested) < 60 and all(split_of(galaxy) == "validation" for galaxy in tested.ids)

    monkeypatch.setattr("rim_tf.data.sources.samples.load_directory", lambda folder: found.split("train"))
    with pytest.raises(InputError, match="no galaxies in the split 'validation'"):
        study.unseen_galaxies(tmp_path)


def test_galaxies_are_kept_with_the_study(config, monkeypatch, tmp_path):
    from rim_tf.data.sources.galaxies import GalaxySet

    config = dataclasses.replace(config, sources="folder")
    galaxies = study.unseen_galaxies(None, 0)
    monkeypatch.setattr(study, "unseen_galaxies", lambda where, seed: galaxies)
    first = Study(tmp_path, config).draw(0, 1)[0].truth
    monkeypatch.setattr(study, "unseen_galaxies", lambda where, seed: pytest.fail("read again"))
    again = Study(tmp_path, config)
    assert_array_equal(again.draw(0, 1)[0].truth, first)
    assert isinstance(again._galaxies, GalaxySet)


# -------------------------------------------------------------------------------------------- text and digits


def test_unusual_sources_are_reconstructed_once(config, rim, tmp_path, rng):
    images, labels = rng.random((5, 28, 28)), np.array([3, 3, 8, 3, 8])
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    out = tmp_path / "out"
    done = Study(out, config)
    done.run_unusual("rim", rim)
    (unusual,) = out.glob("unusual-rim-*.npz")
    assert list(np.load(unusual)["names"]) == ["text"]
    done.run_unusual("rim", rim, tmp_path / "digits.npz")
    written = unusual.stat().st_mtime_ns
    for mnist in (tmp_path / "digits.npz", None):  # without the file, what is there is not taken away
        done.run_unusual("rim", rim, mnist)
        assert unusual.stat().st_mtime_ns == written
    found = np.load(unusual)
    assert list(found["names"]) == ["text", "digit 3", "digit 8"]
    assert_allclose(found["kept_truth"][1], draw_digit(images[0], 16), rtol=1e-6)
    # Reading them says so, where systems are there too.
    done.run("rim", rim, 1)
    assert list(read_study(out)[3]["rim"]["names"]) == ["text", "digit 3", "digit 8"]
    assert Store(out).unusual("inversion-0") == []
