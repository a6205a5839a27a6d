"""Launch files, run in miniature: each worker gets a TF_CONFIG that we take, and is run again where it may."""

import json
import os
import pathlib
import subprocess

import pytest
import yaml

import training
from training.strategies import cluster_of

LAUNCH = pathlib.Path(training.__path__[0]) / "launch"
# What stands in for Slurm: `srun` runs the command for each of two tasks, and ends with the highest of their codes.
SRUN = """#!/bin/bash
shift  # --kill-on-bad-exit=1
code=0
for i in 0 1; do
    SLURM_PROCID=$i "$@"
    last=$?
    [ $last -gt $code ] && code=$last
done
exit $code
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && printf 'node1\\nnode2\\n' || echo "$@" >> "$SAID"
"""
PYTHON = """#!/bin/bash
echo "$TF_CONFIG $*" >> "$SAID"
exit ${CODE:-0}
"""


@pytest.fixture
def run(tmp_path):
    """Run a script with programs that write what they are told; the exit code and the lines."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"

    def call(*words, **environment):
        said.write_text("")
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(said), "PYTHON": "python"}
        done = subprocess.run(words, env=path | environment, capture_output=True, text=True)
        assert not done.stderr
        return done.returncode, said.read_text().splitlines()

    return call


def assert_cluster(line, index, workers, words):
    text, _, told = line.partition(" -m training.train ")
    assert cluster_of(text) == (workers, index)
    assert told == words


@pytest.mark.parametrize("code, again", [(0, False), (75, True), (76, True), (2, False)])
def test_slurm(run, code, again):
    script = ("bash", str(LAUNCH / "slurm.sbatch"), "paper", "--out", "a folder")
    ended, lines = run(*script, SLURM_JOB_ID="41", SLURM_JOB_NODELIST="node[1-2]", CODE=str(code))
    assert ended == code
    for index in range(2):
        words = "paper --out a folder --strategy multiworker --quiet"
        assert_cluster(lines[index], index, ["node1:20041", "node2:20041"], words)
    assert lines[2:] == ["requeue 41"] * again


def test_kubernetes(run):
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    n, name = job["spec"]["completions"], service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert job["spec"]["parallelism"] == n == int(container["env"][0]["value"])
    assert job["metadata"]["name"] == name == pod["subdomain"] == service["spec"]["selector"]["job-name"]
    for index in range(n):
        code, lines = run(*container["command"], *container["args"], WORKERS=str(n), JOB_COMPLETION_INDEX=str(index))
        words = "paper --out /runs/paper --strategy multiworker --quiet --batch-size 10 --micro-batches 2"
        # The name of a pod of an indexed job, in the domain of the service.
        assert_cluster(lines[0], index, [f"{name}-{i}.{name}:{port}" for i in range(n)], words)
        assert code == 0
    assert json.dumps(job["spec"]["podFailurePolicy"]["rules"]).count('"Ignore"') == 2
