import pathlib
import re

from commands import run

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def test_the_lines_for_python_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search("## From Python\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    simulate = re.search("rim-tf (simulate .*)", code)[1].split()
    assert run(*simulate, "--pixels", 32, "--pixel-scale", 0.16).exit_code == 0
    exec(compile(code, "README.md", "exec"), {})
    assert "chi2_per_pixel" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"lens", "source.png", "source.fits"}
