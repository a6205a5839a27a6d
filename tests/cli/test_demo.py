import json

import modelled
import pytest
from commands import names_in, run

from rim_tf import survey
from rim_tf.inference import workflow


@pytest.fixture
def at_once(monkeypatch):
    """`workflow.model` gives a result without any work, in the frame that it was asked for."""

    def model(observation, config, progress):
        import dataclasses

        result = modelled.of(observation)
        return dataclasses.replace(result, frame=observation, observation=observation, lens_light=None)

    monkeypatch.setattr(workflow, "model", model)


def test_the_demo_shows_the_truth_and_can_be_run_again(tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert "source's RMS error" in result.stdout and "(true 1.2500)" in result.stdout
    assert names_in(tmp_path / "demo") == sorted(["lens", *survey.FILES])
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["true_lens"]["theta_E"] == 1.25 and "rms_percent_of_peak" in summary["compared_with_truth"]
    assert run("demo").exit_code == 2
    assert run("demo", "--overwrite").exit_code == 0
