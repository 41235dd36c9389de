"""The page examples/no_simulator/README.md: every command on it runs, in its order, at a tiny size."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from srpo.cli import main

PAGE = Path(__file__).parent.parent / "examples" / "no_simulator"
TINY = {
    "SIZE": "--preset quick --set data.normalize_obs=true --set data.holdout=0.2 --set critic.steps=20 --set critic.hidden=8 "
    "--set critic.batch_size=32 --set behavior.steps=10 --set behavior.width=8 --set behavior.blocks=1 --set behavior.dropout=0 "
    "--set behavior.batch_size=32 --set policy.steps=9 --set policy.hidden=8 --set policy.batch_size=32",
    "JUDGE": "--set q.steps=20 --set q.hidden=8 --set q.members=1 --set q.batch_size=32 --set states=16 --set held_rows=64 "
    "--set model.steps=20 --set model.hidden=8 --set model.members=2 --set model.starts=2 --set model.horizon=30",
}

pytest.importorskip("pyarrow")


def commands(page):
    """The lines of the page's shell blocks, continued ones joined, with its variables (those of TINY instead) put in."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.S)).replace("\\\n", " ")
    variables = {}
    for line in text.splitlines():
        if line.startswith("cd ") or not line.strip():
            continue
        if found := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[found[1]] = TINY.get(found[1], found[2])
        else:
            yield shlex.split(re.sub(r"\$(\w+)", lambda m: variables[m[1]], line).replace("--trips 100", "--trips 15"))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc")
def test_the_page(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "no_simulator"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("logs", "runs", "robot", "__pycache__"))
    monkeypatch.chdir(folder)
    printed, run = {}, list(commands((PAGE / "README.md").read_text()))
    assert {words[0] for words in run} == {"python", "srpo", "cc"}
    for words in run:
        capsys.readouterr()
        if words[0] == "srpo":
            assert main([*words[1:], *(["--quiet"] if words[1] in ("train", "judge") else [])]) == 0, words
            text = capsys.readouterr().out
        else:
            words[0] = {"python": sys.executable}.get(words[0], words[0])
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            text = done.stdout
        printed[" ".join(words[1:3])] = text
    sys.modules.pop("rewards", None)
    assert "level_upper_cm, level_lower_cm, setpoint_cm" in printed["data info"]
    assert "held-out episodes" in next(text for key, text in printed.items() if key.startswith("judge"))
    contract = json.loads((folder / "robot/contract.json").read_text())
    names = [signal["name"] for part in ("input", "output") for signal in contract[part]["signals"]]
    assert names == ["level_upper_cm", "level_lower_cm", "setpoint_cm", "pump_V"]
    volts = contract["output"]["signals"][0]
    assert (volts["low"], volts["high"]) == (0, 10)
    rows = [line.split() for line in printed["plant.py truth"].splitlines()[1:]]
    truth = {name: (float(reward), float(off)) for name, reward, off in rows}
    assert -1.5 < truth["operator"][0] < -0.8  # of the plant, whatever was trained
    assert truth["robot/policy.so"] == pytest.approx(truth["robot/policy.safetensors"], abs=2e-3)  # volts, from C as from NumPy
    assert len({reward for reward, _ in truth.values()}) > 2  # the dial turns
