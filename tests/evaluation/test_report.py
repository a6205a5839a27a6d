"""The report of made-up systems, whose numbers are known."""

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from rim_tf.errors import InputError
from rim_tf.evaluation import report, study

N, PIXELS = 60, 12
SETTINGS = {
    "weights": "made <up>",
    "sources": None,
    "regularisation": "gradient",
    "solver": "matrix-free",
    "mocks": {"image_pixels": PIXELS, "source_pixels": PIXELS, "log_noise": [1e-3, 1e-1]},
}


def made_up(rng, n, rms, chi2, seed=0):
    """Columns of n systems of one method. Those that describe a system are the same for the same number."""
    of_systems = np.random.default_rng(seed)
    common = {
        "noise": np.geomspace(1.1e-3, 0.099, N)[of_systems.permutation(N)],
        "magnification": of_systems.uniform(3, 10, N),
        "half_light_radius": of_systems.uniform(0.1, 0.4, N),
        "lens": np.tile([1.0, 0.1, 0, 0, 0, 0, 0], (N, 1)),
        "pixel_scale": np.full(N, 0.1),
        "psf_sigma": np.full(N, 0.05),
        "field": np.full(N, 0.5),
        "true_flux": of_systems.uniform(0.01, 0.1, N),
    }
    p11 = of_systems.uniform(1, 2, (N, PIXELS // 2 + 1))
    columns = {
        "rms": np.full(n, rms),
        "flux_error": rng.normal(0, 0.01, n),
        "negative_flux": np.zeros(n),
        "psnr": np.full(n, 40.0),
        "ssim": np.full(n, 0.9),
        "p12": p11[:n] * (1 - 10 * rms),
        "p11": p11[:n],
        "p22": p11[:n],
        "seconds": np.full(n, 0.1),
        "chi2": rng.normal(chi2, 0.01, n),
        "correlation": np.zeros(n),
        "whiteness": np.where(np.arange(n) % 4 == 0, 5.0, 0.0),
    }
    return {name: values[:n] for name, values in common.items()} | columns


def kept_of(rng, index):
    shape = (len(index), PIXELS, PIXELS)
    images = {name: rng.random(shape).astype(np.float32) for name in ("image", "truth", "source", "model")}
    return images | {"noise": np.full(shape, 0.1), "mask": np.ones(shape, bool), "index": np.array(index)}


def make_up_study():
    """What `read_study` returns; the inversion has done 30 systems, and its errors are twice those of the RIM."""
    rng = np.random.default_rng(4)
    rim, inversion = made_up(rng, N, 0.004, 1.0), made_up(rng, 30, 0.008, 0.95)
    rim |= {"truth_chi2": np.ones(N), "truth_correlation": np.zeros(N), "truth_whiteness": rng.normal(size=N)}
    # The truth is as rough as the prior expects; the inversion's log-prior is 84.5 above, which is 13 sigma.
    inversion |= {"strength": np.full(30, 2.0), "prior_rank": np.full(30, 200.0)}
    rim |= {"roughness": np.full(N, 99.98), "truth_roughness": np.full(N, 100.0)}
    inversion |= {"roughness": np.full(30, 15.5), "truth_roughness": np.full(30, 100.0)}
    kept = {"rim": kept_of(rng, [*range(20), 27, 55]), "inversion": kept_of(rng, range(20))}
    unusual = {}
    for method in ("rim", "inversion"):
        unusual[method] = {"names": np.array(["text", "digit 4"]), "rms": [0.03, 0.02], "chi2": [1.2, 1.1]}
        unusual[method] |= {f"kept_{name}": value for name, value in kept_of(rng, [0, 1]).items()}
    return SETTINGS, {"rim": rim, "inversion": inversion}, kept, unusual


@pytest.fixture
def made_up_study():
    return make_up_study()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of its report; to be read only."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(study, "read_study", lambda out: make_up_study())
        report.write_report(folder)
    return folder


def test_numbers_are_those_of_the_systems(made_up_study):
    settings, columns, _, unusual = made_up_study
    numbers = report.evaluate(settings, columns, unusual)
    rim, inversion = numbers["systems"]["rim"], numbers["systems"]["inversion"]
    assert rim["rms"]["value"] == pytest.approx(0.4) and rim["rms"]["n"] == 60
    assert inversion["rms"]["value"] == pytest.approx(0.8) and inversion["rms"]["n"] == 30
    assert rim["flux_bias"]["value"] == pytest.approx(100 * np.median(columns["rim"]["flux_error"]))
    assert rim["whiteness"]["value"] == 25
    assert inversion["prior"]["value"] == pytest.approx(13) and inversion["prior_sigmas"]["value"] < 0
    assert (rim["prior"]["value"], rim["prior"]["n"]) == (pytest.approx(0.2), 30)
    assert numbers["systems"]["rim_on_inverted"]["rms"]["n"] == 30
    assert numbers["comparison"]["rim_better_percent"]["value"] == 100
    assert numbers["comparison"]["rms_ratio"]["value"] == pytest.approx(2)
    np.testing.assert_allclose(numbers["coherence"]["rim"]["pooled"]["value"], 0.96)
    np.testing.assert_allclose(numbers["coherence"]["difference"]["mean"]["value"], 0.04)
    assert numbers["coherence"]["cycles_per_arcsec"] == pytest.approx(2)


def test_groups_share_out_all_systems(made_up_study):
    settings, columns, _, unusual = made_up_study
    groups = report.evaluate(settings, columns, unusual)["groups"]
    assert list(groups["noise over the image's peak"]) == ["0.1-1 %", "1-10 %"]
    assert len(groups["magnification"]) == len(groups["half-light radius of the source"]) == 3
    for members in groups.values():
        assert sum(group["rim"]["rms"]["n"] for group in members.values()) == 60
        assert sum(group["inversion"]["rms"]["n"] for group in members.values()) == 30
    low = columns["rim"]["noise"] < 0.01
    value = groups["noise over the image's peak"]["0.1-1 %"]["rim"]["chi2"]["value"]
    assert value == pytest.approx(np.median(columns["rim"]["chi2"][low]))


@pytest.mark.parametrize(
    ("column", "value", "goal"),
    [
        ("rms", 0.0046, "median RMS"),
        ("flux_error", 0.021, "median flux error"),
        ("flux_error", 0.0011, "flux bias"),
        ("chi2", 1.021, "noise 1-10 %"),
        ("rms", 0.009, "RMS below linear inversion"),
        ("p12", 0.1, "coherence (mean)"),
    ],
)
def test_a_missed_goal_is_said_to_be_missed(made_up_study, column, value, goal):
    settings, columns, _, unusual = made_up_study
    columns["rim"]["flux_error"] = np.zeros(N)

    def met():
        goals = report.evaluate(settings, columns, unusual)["goals"]
        return all(each["met"] for each in goals if goal in each["goal"])

    assert met()
    columns["rim"][column] = np.full_like(columns["rim"][column], value)
    assert not met()


def test_methods_that_saw_other_systems_are_not_compared(made_up_study):
    settings, columns, _, unusual = made_up_study
    columns["inversion"]["lens"] = columns["inversion"]["lens"] + 0.1
    with pytest.raises(InputError, match="did not see the same systems"):
        report.evaluate(settings, columns, unusual)


def test_every_file_is_there_and_whole(written):
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    assert names == sorted(
        ["report.html", "report.json", "report.md", *(f"figures/{name}.png" for name in report.FIGURES)]
    )
    assert (written / "report.html").stat().st_size < 5e6


def test_json_is_readable_by_all(written):
    numbers = json.loads((written / "report.json").read_text(), parse_constant=pytest.fail)
    assert numbers["systems"]["rim"]["rms"]["error"] == pytest.approx(0, abs=1e-9)
    assert len(numbers["coherence"]["rim"]["mean"]["value"]) == len(numbers["coherence"]["k_cycles_per_field"]) == 6


def test_both_texts_have_the_same_tables_and_pictures(written):
    markdown, html = ((written / name).read_text() for name in ("report.md", "report.html"))
    assert re.findall(r"figures/(\w+)\.png", markdown) == re.findall(r'alt="(\w+)" src="data:image/png', html)
    assert "made <up>" in markdown and "made &lt;up&gt;" in html
    cells = [cell for line in markdown.split("\n") if line.startswith("| ") for cell in line[2:-2].split(" | ")]
    for cell in cells:
        assert cell in ("---", "") or report.html.escape(cell) in html, cell
    assert "0.400 ± 0.000" in markdown and "13.00 ± 0.00" in markdown


def test_without_the_inversion_nothing_is_said_of_it(made_up_study):
    settings, columns, kept, _ = made_up_study
    columns, kept = {"rim": columns["rim"]}, {"rim": kept["rim"]}
    numbers = report.evaluate(settings, columns, {})
    figures = report.draw_figures(columns, kept, {}, numbers)
    assert set(figures) == {"examples", "worst", "flux", "coherence", "coherence_pooled", "rms"}
    assert numbers["comparison"] == {} and set(numbers["systems"]) == {"rim", "truth"}
    text = report.markdown(report._blocks(numbers, list(figures)))
    assert "linear inversion: least" not in text and "RIM better" not in text


def test_pictures_of_an_earlier_report_do_not_stay(made_up_study, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "read_study", lambda out: made_up_study)
    for names in (["flux", "unusual"], ["flux"]):
        monkeypatch.setattr(report, "draw_figures", lambda *_, names=names: {name: Figure() for name in names})
        report.write_report(tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["flux.png"]


def test_one_system_is_enough_for_a_report(made_up_study, monkeypatch, tmp_path):
    settings, columns, kept, _ = made_up_study
    one = {name: values[:1] for name, values in columns["inversion"].items()}
    monkeypatch.setattr(
        study,
        "read_study",
        lambda out: (settings, {"inversion": one}, {"inversion": {k: v[:1] for k, v in kept["inversion"].items()}}, {}),
    )
    assert report.write_report(tmp_path)["goals"] == []
    assert "linear inversion 1 systems" in (tmp_path / "report.md").read_text()


def test_examples_go_from_best_to_worst(made_up_study, rng):
    _, columns, kept, _ = made_up_study
    columns["rim"]["rms"] = rng.random(N)
    positions = report._spread(columns["rim"], kept["rim"])
    rms = columns["rim"]["rms"][kept["rim"]["index"][positions]]
    assert len(positions) == 6 and np.all(np.diff(rms) > 0)
    first = columns["rim"]["rms"][:20]
    assert (rms[0], rms[-1]) == (first.min(), first.max())
    worst = kept["rim"]["index"][report._worst(columns["rim"], kept["rim"])]
    assert len({i // 20 for i in worst}) == len(worst) == 3 and np.all(np.diff(columns["rim"]["rms"][worst]) < 0)
