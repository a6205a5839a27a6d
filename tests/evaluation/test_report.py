"""The texts of a made-up study's report: complete, whole, the same in both."""

import html
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from rim_tf.evaluation import figures, report, store
from rim_tf.evaluation.numbers import evaluate


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_up_study):
    """The folder of its report; to be read only."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(store, "read_study", lambda out: make_up_study(2, [27]))
        report.write_report(folder)
    return folder


def test_every_file_is_there_and_whole(written):
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    assert names == sorted(
        ["report.html", "report.json", "report.md", *(f"figures/{name}.png" for name in figures.CAPTIONS)]
    )
    assert (written / "report.html").stat().st_size < 5e6


def test_json_is_readable_by_all(written):
    numbers = json.loads((written / "report.json").read_text(), parse_constant=pytest.fail)
    assert numbers["systems"]["rim"]["rms"]["error"] == pytest.approx(0, abs=1e-9)
    assert len(numbers["coherence"]["rim"]["mean"]["value"]) == len(numbers["coherence"]["k_cycles_per_field"]) == 6


def test_both_texts_have_the_same_tables_and_pictures(written):
    markdown, page = ((written / name).read_text() for name in ("report.md", "report.html"))
    assert re.findall(r"figures/(\w+)\.png", markdown) == re.findall(r'alt="(\w+)" src="data:image/png', page)
    assert "made <up>" in markdown and "made &lt;up&gt;" in page and "made <up>" not in page
    cells = [cell for line in markdown.split("\n") if line.startswith("| ") for cell in line[2:-2].split(" | ")]
    for cell in cells:
        assert cell in ("---", "") or f">{html.escape(cell).replace('&#x27;', '&#39;')}<" in page.replace(
            "&#34;", "&quot;"
        ), cell
    assert "0.400 ± 0.000" in markdown and "13.00 ± 0.00" in markdown


def test_markdown_is_a_table_where_a_table_is_meant():
    content = [
        {"kind": "title", "text": "A & B"},
        {"kind": "table", "header": ["a", "b"], "rows": [["1 | 2", "<3>"], ["4", "5"]]},
        {"kind": "heading", "text": "Figures"},
        {"kind": "figure", "name": "rms", "caption": "Errors."},
    ]
    assert report.markdown(content) == (
        "# A & B\n\n| a | b |\n| --- | --- |\n| 1 \\| 2 | <3> |\n| 4 | 5 |\n\n"
        "## Figures\n\n![rms](figures/rms.png)\n\nErrors.\n"
    )


def test_each_method_is_described_with_its_settings(made_up_study):
    settings, columns, _, unusual = made_up_study
    text = report.markdown(report.blocks(evaluate(settings, columns, unusual), []))
    assert "\nRIM: Recurrent Inference Machine (Morningstar et al. 2019); weights made <up>.\n" in text
    assert "(Suyu et al. 2006); regularisation gradient, boundary zero.\n" in text
    assert "RIM 60 systems, linear inversion 30 systems" in text


def test_without_the_inversion_nothing_is_said_of_it(made_up_study):
    settings, columns, _, _ = made_up_study
    numbers = evaluate(settings, {"rim": columns["rim"]}, {})
    assert numbers["comparison"] == {} and set(numbers["systems"]) == {"rim", "truth"}
    text = report.markdown(report.blocks(numbers, ["worst"]))
    assert "inversion: least" not in text and "better" not in text
    assert "The systems on which RIM is worst" in text


def test_pictures_of_an_earlier_report_do_not_stay(made_up_study, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "read_study", lambda out: made_up_study)
    for names in (["flux", "unusual"], ["flux"]):
        monkeypatch.setattr(figures, "draw_figures", lambda *_, names=names: {name: Figure() for name in names})
        report.write_report(tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["flux.png"]


def test_one_system_is_enough_for_a_report(made_up_study, monkeypatch, tmp_path):
    settings, columns, kept, _ = made_up_study
    one, pictures = ({k: v[:1] for k, v in of["inversion"].items()} for of in (columns, kept))
    monkeypatch.setattr(store, "read_study", lambda out: (settings, {"inversion": one}, {"inversion": pictures}, {}))
    numbers = report.write_report(tmp_path)
    assert numbers["goals"] == [] and numbers["systems"]["inversion"]["rms"]["n"] == 1
    assert np.isfinite(numbers["systems"]["inversion"]["rms"]["value"])
    assert "linear inversion 1 systems" in (tmp_path / "report.md").read_text()
