"""The loops in examples/ build and run, and their counts add up."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_cases import DATA, DIALED, POLICIES

from srpo.deploy import export_policy

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """A policy of HalfCheetah's sizes, untrained."""
    folder = tmp_path_factory.mktemp("robot")
    export_policy(POLICIES["bc"], folder, data=DATA, calls=0)
    return folder


@pytest.mark.parametrize("name", ["policy.safetensors", "policy.onnx"])
def test_python_loop(robot, name):
    command = [sys.executable, EXAMPLES / "control_loop.py", robot / name, "--seconds", "0.3", "--rate", "500", "--json"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["ticks"] == 150 and found["missed_deadlines"] >= 0
    assert 0 < found["acting"]["median_us"] <= found["tick"]["median_us"] <= found["tick"]["worst_us"]


def test_python_loop_turns_no_dial(tmp_path):
    export_policy(DIALED["dial"], tmp_path / "p.onnx", calls=0)
    command = [sys.executable, EXAMPLES / "control_loop.py", tmp_path / "p.onnx", "--seconds", "0.1", "--rate", "100"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="needs make and cc")
def test_c_loop(robot, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(EXAMPLES / "c", folder)
    options = [f"POLICY={robot / 'policy.c'}", f"PYTHON={sys.executable}", "RATE=500", "DURATION=0.3"]
    run = subprocess.run(["make", "-C", folder, *options, "run"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "150 ticks at 500 Hz" in run.stdout and re.search(
        r"m/s forward in 7.5 simulated seconds; fall-back in \d+ ticks", run.stdout
    )
    export_policy(POLICIES["srpo"], tmp_path / "other.c", calls=0)  # no data, no policy_far
    os.utime(tmp_path / "other.c", (0, 0))  # older than the loop
    options[0] = f"POLICY={tmp_path / 'other.c'}"
    run = subprocess.run(["make", "-C", folder, *options, "run"], capture_output=True, text=True)
    assert run.returncode == 0 and "other.c" in run.stdout and "fall-back in 0 ticks" in run.stdout, run.stderr
    wrong = [folder / "control_loop", "model.xml", "5", "500"]
    assert subprocess.run(wrong, capture_output=True).returncode == 2
