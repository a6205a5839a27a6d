"""The numbers of made-up systems, which are known."""

import dataclasses

import numpy as np
import pytest

from rim_tf.errors import InputError
from rim_tf.evaluation.numbers import evaluate
from rim_tf.inference.methods import METHODS


def test_numbers_are_those_of_the_systems(made_up_study):
    settings, columns, _, unusual = made_up_study
    numbers = evaluate(settings, columns, unusual)
    rim, inversion = numbers["systems"]["rim"], numbers["systems"]["inversion"]
    assert rim["rms"]["value"] == pytest.approx(0.4) and rim["rms"]["n"] == 60
    assert inversion["rms"]["value"] == pytest.approx(0.8) and inversion["rms"]["n"] == 30
    assert rim["flux_bias"]["value"] == pytest.approx(100 * np.median(columns["rim"]["flux_error"]))
    assert rim["whiteness"]["value"] == 25
    assert inversion["prior"]["value"] == pytest.approx(13) and inversion["prior_sigmas"]["value"] < 0
    assert (rim["prior"]["value"], rim["prior"]["n"]) == (pytest.approx(0.2), 30)
    assert numbers["systems"]["truth"]["prior_sigmas"]["value"] == pytest.approx(0)
    assert numbers["systems"]["rim_first_30"]["rms"]["n"] == 30
    assert numbers["comparison"]["inversion"]["better_percent"]["value"] == 100
    assert numbers["comparison"]["inversion"]["rms_ratio"]["value"] == pytest.approx(2)
    np.testing.assert_allclose(numbers["coherence"]["rim"]["pooled"]["value"], 0.96)
    np.testing.assert_allclose(numbers["coherence"]["difference"]["inversion"]["mean"]["value"], 0.04)
    assert numbers["coherence"]["cycles_per_arcsec"] == pytest.approx(2)
    assert numbers["unusual"]["rim"]["digit 4"] == {"rms_percent_of_peak": 2.0, "chi2_per_pixel": 1.1}


def test_groups_share_out_all_systems(made_up_study):
    settings, columns, _, unusual = made_up_study
    groups = evaluate(settings, columns, unusual)["groups"]
    assert list(groups["noise over the image's peak"]) == ["0.1-1 %", "1-10 %"]
    assert len(groups["magnification"]) == len(groups["half-light radius of the source"]) == 3
    for members in groups.values():
        assert sum(group["rim"]["rms"]["n"] for group in members.values()) == 60
        assert sum(group["inversion"]["rms"]["n"] for group in members.values()) == 30
        assert sum(group["comparison"]["inversion"]["better_percent"]["n"] for group in members.values()) == 30
    low = columns["rim"]["noise"] < 0.01
    value = groups["noise over the image's peak"]["0.1-1 %"]["rim"]["chi2_per_pixel"]["value"]
    assert value == pytest.approx(np.median(columns["rim"]["chi2_per_pixel"][low]))


def goals_of(study, **columns):
    """{goal: whether it is met} with these columns of the reference in the place of its own."""
    settings, samples, _, unusual = study
    n = len(samples["rim"]["rms"])
    samples["rim"] |= {name: np.full_like(samples["rim"][name], value) for name, value in columns.items()}
    assert all(len(values) == n for values in samples["rim"].values())
    return {each["goal"]: each["met"] for each in evaluate(settings, samples, unusual)["goals"]}


@pytest.fixture(scope="module")
def met(make_up_study):
    return goals_of(make_up_study(), flux_error=0)


@pytest.mark.parametrize(
    ("column", "value", "goal"),
    [
        ("rms", 0.0046, "median RMS"),
        ("flux_error", 0.021, "median flux error"),
        ("flux_error", 0.0011, "flux bias"),
        ("chi2_per_pixel", 1.021, "noise 1-10 %"),
        ("rms", 0.009, "RMS below linear inversion"),
        ("p12", 0.1, "coherence (mean) above linear inversion"),
    ],
)
def test_a_missed_goal_is_said_to_be_missed(met, made_up_study, column, value, goal):
    missed = goals_of(made_up_study, **{"flux_error": 0, column: value})
    assert any(goal in text for text in met)
    for text in met:
        if goal in text:
            assert met[text] and not all(each for other, each in missed.items() if goal in other)


def test_methods_that_saw_other_systems_are_not_compared(made_up_study):
    settings, columns, _, unusual = made_up_study
    columns["inversion"]["theta_E"] = columns["inversion"]["theta_E"] + 0.1
    with pytest.raises(InputError, match="did not see the same systems"):
        evaluate(settings, columns, unusual)


def test_a_prior_other_than_the_study_s_is_not_asked(made_up_study):
    settings, columns, _, unusual = made_up_study
    other = {"settings": {"regularisation": "curvature", "boundary": "zero"}, "key": "inv-1"}
    numbers = evaluate(settings | {"methods": settings["methods"] | {"inversion": other}}, columns, unusual)
    assert all("prior" not in figures for figures in numbers["systems"].values())


def test_every_other_method_is_compared_with_the_first(made_up_study, monkeypatch):
    settings, columns, _, _ = made_up_study
    monkeypatch.setitem(METHODS, "third", dataclasses.replace(METHODS["inversion"], name="third", label="third"))
    worst = {name: values[:10] for name, values in columns["rim"].items()}
    columns["third"] = worst | {"rms": np.full(10, 0.02), "p12": 0.5 * worst["p11"]}
    numbers = evaluate(settings, columns, {})
    assert list(numbers["comparison"]) == ["inversion", "third"]
    assert numbers["comparison"]["third"]["rms_ratio"]["value"] == pytest.approx(5)
    assert numbers["comparison"]["third"]["better_percent"]["n"] == 10
    np.testing.assert_allclose(numbers["coherence"]["difference"]["third"]["pooled"]["value"], 0.46)
    assert list(numbers["labels"]) == ["third", "inversion", "rim", "rim_first_10", "rim_first_30", "truth"]
    assert any("RMS below third" in each["goal"] for each in numbers["goals"])
    assert numbers["systems"]["third"]["prior"]["n"] == 10  # by the strength that the inversion found

    del columns["rim"]
    without = evaluate(settings, columns, {})
    assert without["comparison"] == without["coherence"]["difference"] == {} and without["goals"] == []
