import pytest
from commands import run


def test_a_version_is_written_with_what_it_was_made_of(tmp_path, monkeypatch):
    written = {}

    def export_saved_model(rim, path, mass, estimator, provenance, joint):
        networks = [None if each is None else each.config.type for each in (rim, estimator, joint)]
        written.update(networks=networks, path=path, types=mass.types, provenance=provenance)

    monkeypatch.setattr("rim_tf.export.export_saved_model", export_saved_model)
    result = run("export", "--out", tmp_path / "rim" / "1")
    assert result.exit_code == 0 and f"rim-tf serve {tmp_path / 'rim'}" in result.output
    assert written["networks"] == ["rim", "estimator", None] and written["path"] == tmp_path / "rim" / "1"
    assert written["types"] == ("sie", "shear")
    run("export", "--out", tmp_path / "rim" / "2", "--component", "power_law", "--component", "shear")
    assert written["types"] == ("power_law", "shear")
    run("export", "--out", tmp_path / "rim" / "3", "--joint", "joint-small")
    assert written["networks"] == list(written["provenance"]) == ["rim", "estimator", "joint"]
    assert all("SHA-256" in text and "training.train" in text for text in written["provenance"].values())


@pytest.mark.parametrize(("name", "why"), [("rim", "whole number"), ("1", "exists already")])
def test_what_is_no_version_is_refused_at_once(name, why, tmp_path):
    (tmp_path / "1").mkdir()
    result = run("export", "--out", tmp_path / name)
    assert result.exit_code == 2 and why in result.output and "Traceback" not in result.output
