"""Ablations change one thing each, are measured once, and all end up in the table."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from rim_tf.config import SMALL
from rim_tf.models.flops import count_flops
from rim_tf.models.pretrained import build_model
from training import ablate, joint_figures
from training.experiments import EXPERIMENTS


def test_each_variant_differs_from_small_in_what_its_name_says():
    base = dataclasses.replace(EXPERIMENTS["small"], n_steps=8, steps_per_epoch=2, seed=3)
    configs = _configs("small")
    assert configs["small"] == base
    for name, config in configs.items():
        if name == "lens jitter in training":
            assert config == dataclasses.replace(base, mocks=dataclasses.replace(base.mocks, lens_error=0.01))
        else:
            assert config == dataclasses.replace(base, model=config.model) and (
                config.model != SMALL or name == "small"
            )
    raw = configs["raw gradient"].model
    assert "gradient" in raw.inputs and "preconditioned" not in raw.inputs
    cost = {name: count_flops(config.model, 64) for name, config in configs.items()}
    assert cost["5 steps"] < cost["small"] < cost["15 steps"] and cost["small"] < cost["kernel 5"]


def test_each_variant_of_the_joint_network_is_another_and_has_the_parts_it_names():
    configs = _configs("joint")
    base = configs["joint"]
    assert base.model == EXPERIMENTS["joint"].model and base.initial == "small"
    assert len({str(config) for config in configs.values()}) == len(configs)
    for name, config in configs.items():
        if name == "starts at the estimator's answer alone":
            assert config.model == base.model and base.mocks.lens_error > config.mocks.lens_error == 0
        else:
            assert config.mocks == base.mocks
    numbers = {name: build_model(config.model).count_params() for name, config in configs.items()}
    # Neither the number of steps nor where gradients pass changes what there is to learn.
    assert numbers["joint"] == numbers["5 steps"] == numbers["20 steps"] == numbers["gradient through the rays"]
    less = ("no curvature", "curvature with the source fixed", "joint")
    assert numbers[less[0]] < numbers[less[1]] < numbers[less[2]] and numbers["no image plane"] < numbers["joint"]


def _configs(network):
    ablation = ablate.ABLATIONS[network]
    return {name: ablate.variant_config(ablation, name, 8, 3) for name in ablation.variants}


@pytest.fixture
def measured(monkeypatch):
    """Names of the variants that were trained; training and measuring are stood in for."""
    trained = []
    n = np.arange(1, 21)
    figures = {
        "rms": n / 1000,
        "flux_error": n / 500,
        "chi2_per_pixel": np.ones(20),
        "noise": np.where(n % 2, 0.005, 0.05),
    }
    monkeypatch.setattr(ablate, "train", lambda config, folder, galaxies, verbose: _Model(folder, trained))
    monkeypatch.setattr(ablate, "measure", lambda model, stamps, mocks, n, stream: figures)
    monkeypatch.setattr(ablate, "seconds_per_lens", lambda ablation, names: {name: 0.1 for name in names})
    return trained


class _Model:
    def __init__(self, folder, trained):
        folder.mkdir(parents=True)
        trained.append(folder.name)

    def count_params(self):
        return 7


def test_a_variant_is_trained_once_and_is_in_the_table(measured, tmp_path):
    options = ["--out", str(tmp_path), "--steps", "4", "--n", "20", "--only", "small", "--only", "5 steps"]
    for _ in range(2):
        done = CliRunner().invoke(ablate.main, options)
        assert done.exit_code == 0, done.output
    assert measured == ["small", "5-steps"]
    refused = CliRunner().invoke(ablate.main, [*options, "--seed", "2"])
    assert refused.exit_code == 2 and "'seed': 2" in refused.stderr
    assert "| small | 7 |" in done.stdout and "| 5 steps | 7 |" in done.stdout
    found = json.loads((tmp_path / "ablations.json").read_text())["variants"]["small"]
    assert found["exact"]["all"]["rms_percent_of_peak"]["median"] == pytest.approx(1.05)
    assert (tmp_path / "ablations.png").stat().st_size > 5000
    refused = CliRunner().invoke(ablate.main, [*options, "--seed", "-1"])
    assert refused.exit_code == 2 and "The seed is -1; it must be a whole number from 0" in refused.stderr
    refused = CliRunner().invoke(ablate.main, ["joint", "--only", "kernel 5"])
    assert refused.exit_code == 2 and "--only is 'kernel 5'; variants of joint are ['joint', " in refused.stderr


def test_the_joint_network_is_ranked_by_the_lens_that_it_finds(measured, monkeypatch, tmp_path):
    n = 20
    truth = np.ones((n, 7))
    found = {"truth": truth, "mean": truth * 1.02, "sigma": truth, "credibility": 0 * truth + 0.5}
    found |= {"joint": np.full(n, 0.5), "noise": np.full(n, 0.01)}
    found |= {"chi2": np.linspace(1, 1.1, n), "true_chi2": np.ones(n), "rms": np.ones(n), "true_rms": np.ones(n)}
    found |= {kind: np.ones((n, 200)) for kind in joint_figures.PIXELS}
    monkeypatch.setattr(joint_figures, "measure", lambda model, stamps, mocks, n, stream: found)
    options = ["joint", "--out", str(tmp_path), "--steps", "4", "--n", "20", "--only", "no image plane"]
    done = CliRunner().invoke(ablate.main, options)
    assert done.exit_code == 0, done.output
    assert measured == ["no-image-plane"]
    assert "| no image plane | 7 | 0.100 | 2.00 +- 0.00 | 10 / 50 % | 1.00 |" in done.stdout


@pytest.mark.parametrize("network", ["small", "joint"])
def test_seconds_are_of_each_variant(network):
    name = "5 steps"
    (seconds,) = ablate.seconds_per_lens(ablate.ABLATIONS[network], [name], rounds=1).values()
    assert 0 < seconds < 60
