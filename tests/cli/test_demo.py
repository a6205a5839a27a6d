import json

from commands import names_in, run


def test_the_demo_shows_the_truth_and_can_be_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    assert "RMS error" in result.stdout and "chi^2 per pixel" in result.stdout
    assert names_in(tmp_path / "demo") == [
        "lens",
        "reconstruction.fits",
        "reconstruction.png",
        "summary.json",
    ]
    assert "compared_with_truth" in json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert run("demo").exit_code == 2
    assert run("demo", "--overwrite").exit_code == 0
