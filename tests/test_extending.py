"""docs/extending.md does what it says: every block of it is run, in order."""

import csv
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from srpo import algorithms
from srpo.data import sources, treatments
from srpo.deploy import Policy

HERE = str(Path(algorithms.__file__).parents[2])  # where the srpo that is tested is imported from
PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCKS = re.findall(r"^```(python|sh|toml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(algorithms, "registered", {})
    monkeypatch.setattr(sources, "registered", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    gymnasium.registry.pop("Dock-v0", None)
    treatments.REWARDS.pop("clipped", None)
    for name in [path.stem for path in tmp_path.glob("*.py")]:
        sys.modules.pop(name, None)


def in_a_fresh_shell(text):
    """The lines as printed, each in a process in which nothing is registered."""
    shell = f'set -e; srpo() {{ "{sys.executable}" -m srpo "$@"; }}\n{text}'
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": HERE}
    )
    assert done.returncode == 0, done.stderr


def test_every_block_of_the_page_runs(folder, capsys):
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("python") == 8 and kinds.count("sh") == 3
    space: dict = {"__name__": "page"}
    for _, text in BLOCKS:  # the files first: they name each other
        if file := re.match(r"# (\w+\.(?:py|toml))\n", text):
            (folder / file[1]).write_text(text)
    importlib.invalidate_caches()
    for kind, text in BLOCKS:
        if kind == "sh":
            in_a_fresh_shell(text)
        elif kind == "python" and not text.startswith("# "):
            exec(compile(text, str(PAGE), "exec"), space)
    cells = list(csv.DictReader((folder / "docks" / "cells.csv").read_text().splitlines()))
    done = [(cell["algorithm"], cell["seeds"], cell["status"]) for cell in cells]
    assert sorted(done) == [(name, seed, "finished") for name in ("bc", "filtered-bc") for seed in "01"]
    out = capsys.readouterr().out
    one, two = (re.findall(r"-?\d\.\d+(?:e-\d+)?", line)[:2] for line in out.splitlines()[:2])
    assert one and [float(x) for x in two] == pytest.approx([float(x) for x in one], abs=1e-5)  # the file acts as the policy
    assert out.splitlines()[1].endswith(" clip") and Policy(folder / "other.safetensors").support is not None


def test_the_entry_points_of_the_page_are_found(folder, monkeypatch):
    (toml,) = (text for kind, text in BLOCKS if kind == "toml" and "entry-points" in text)
    found = {}
    for group, entries in re.findall(r'entry-points\."(.*?)"\]\n((?:.+\n)*)', toml):
        found[group] = [
            importlib.metadata.EntryPoint(*re.match(r'(\S+) = "(.*)"', e).groups(), group) for e in entries.splitlines()
        ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found[group])
    assert algorithms.names()[-1] == "filtered-bc"
    (folder / "my_telemetry.py").write_text(next(text for _, text in BLOCKS if text.startswith("# my_telemetry.py")))
    importlib.invalidate_caches()
    assert sources.find("flight:july").__name__ == "my_telemetry" and sources.find("absent.npz").__name__.endswith("files")
