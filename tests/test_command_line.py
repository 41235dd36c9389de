"""What was asked is what is done: options are taken as written, mistakes are one line, what is printed can be pasted."""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from srpo import cli
from srpo.commands.outcome import next_commands, report
from srpo.runs.run import Run
from srpo.system import strict_json
from srpo.text import command
from srpo.training.demo import Row, show

SRC = Path(cli.__file__).parent


def options_of(parser):
    for action in parser._actions:
        yield from action.option_strings
        for nested in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from options_of(nested)


def parsers():
    for name in cli.COMMANDS:
        made = cli.Parser(prog=f"srpo {name}")
        importlib.import_module(f"srpo.commands.{name}").add_arguments(made)
        yield name, made


@pytest.mark.parametrize(
    "line, expected",
    [
        ("train logs.hdf5 --see 3", "unknown option '--see'; did you mean '--seeds'?"),
        ("train logs.hdf5 --seed 3", "--seeds 3, (with the comma)"),
        ("demo --seed 3", "--seeds 3, (with the comma)"),
        ("train logs.hdf5 --eval-epis 3", "did you mean '--eval-episodes'?"),
        ("data info logs.hdf5 --pn a.png", "did you mean '--png'?"),
        ("train a.hdf5 b.hdf5", "found 'b.hdf5', expected nothing more"),
        ("eval", "arguments are required: RUN"),
        ("train logs.hdf5 --eval-every soon", "invalid int value: 'soon'"),
        ("--vers", "did you mean '--version'?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_guessed(line, expected, capsys):
    assert cli.main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_no_option_of_any_command_may_be_abbreviated(capsys):
    for name, parser in parsers():
        for option in set(options_of(parser)) - {"-h", "--help"}:
            assert cli.main([name, option[:-1]]) == 2, option
    assert "Traceback" not in capsys.readouterr().err


def test_advice_names_options_that_exist():
    """Every --option in a text of the package is one of some command, or of a tool that is named in the same text."""
    known = {option for _, parser in parsers() for option in options_of(parser)} | {"--version"}
    others = re.compile(r"gcc|cc |-march|xla_|nvidia-smi|pip ")
    for path in SRC.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", line):
                assert option in known or others.search(line), f"{path.name}:{number} names {option}, which no command has"


class Made:
    """A run as `next_commands` sees it."""

    def __init__(self, path):
        self.path, self.seeds, self.points = path, (3, 4), [(("policy.beta", 0.1),), (("policy.beta", 0.2),)]
        self.info, self.algo = {"data": {"env_id": "Hopper-v4", "source": "logs.npz"}}, ""
        self.failures = []

    failed = Run.failed


@pytest.mark.parametrize("name", ["plain", "Bob's robot (v2)", "a;b $HOME `x` [red] \\", "tab\there"])
def test_commands_that_are_printed_can_be_pasted(name, monkeypatch):
    monkeypatch.setattr(importlib.import_module("srpo.deploy.describe"), "exportable", lambda run: True)
    for line in next_commands(Made(Path("runs", name, "bc"))):
        assert line.isascii() and line.isprintable()
        if "\t" not in name:
            assert shlex.split(line)[2] == f"runs/{name}/bc"
    assert command("echo", "a b") == "echo 'a b'"


def test_runs_that_failed_are_told_and_what_is_next_names_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("srpo.deploy.describe"), "exportable", lambda run: True)
    monkeypatch.setattr(importlib.import_module("srpo.evaluation.scores"), "training_scores", lambda run: None)
    run = Made(tmp_path)
    points = [[["policy.beta", 0.1]], [["policy.beta", 0.2]]]
    run.failures = [{"stage": "policy", "step": 7, "metric": "loss", "seed": 3, "point": point} for point in points]
    assert report(run, as_json=False) == 1
    told = capsys.readouterr().err
    assert "failed: 2 of 4 runs (seed 3, policy.beta=0.1: loss is not finite at step 7 of stage policy)" in told
    assert "--seed 4 --set-point policy.beta=0.1" in told
    run.failures = [failure | {"seed": seed} for failure in run.failures for seed in run.seeds]
    assert report(run, as_json=False) == 1 and next_commands(run) == []
    assert "next:" not in capsys.readouterr().err


@pytest.mark.parametrize("seeds, said", [((0,), ""), ((7,), " --seeds 7,"), ((0, 1), " --seeds 0,1,")])
def test_what_the_demo_says_to_try_next_has_the_seeds_of_its_runs(seeds, said, capsys):
    show([Row("SRPO", "", 1.0, 0.0, run=SimpleNamespace(path=Path("run"), seeds=seeds))], "logs.npz", 0.0)
    told = " ".join(capsys.readouterr().out.split())
    assert f"srpo train logs.npz --from run --preset quick{said} --sweep policy.beta=" in told


def test_without_an_environment_held_out_episodes_judge(monkeypatch):
    monkeypatch.setattr(importlib.import_module("srpo.deploy.describe"), "exportable", lambda run: False)
    run = Made(Path("runs/logs"))
    run.info = {"data": {"env_id": None, "source": "logs.npz", "reward": "rewards:level"}, "settings": {"data.holdout": 0.2}}
    assert next_commands(run) == ["srpo judge runs/logs --reward rewards:level"]
    run.info["data"] |= {"source": "logs.csv?reward=rewards:level", "reward": None}  # a table's source says it
    assert next_commands(run) == ["srpo judge runs/logs --reward rewards:level"]
    run.info["settings"]["data.holdout"] = 0.0
    assert next_commands(run) == ["srpo eval runs/logs --episodes 100 --env ID, if there is a simulator"]


def test_json_has_no_nan():
    value = {"a": float("nan"), "b": [1.5, float("-inf"), {"c": (2, float("nan"))}], "d": "NaN", "e": True}
    found = json.loads(strict_json.dumps(value), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.5, None, {"c": [2, None]}], "d": "NaN", "e": True}


def test_commands_print_strict_json_only():
    for path in (SRC / "commands").glob("*.py"):
        assert not re.search(r"(?<!strict_)json\.dumps", path.read_text()), path.name


def test_home_folders_are_looked_up_in_one_place():
    """`Path.expanduser` raises where there is no home, as in containers of unknown users; `srpo.system.surroundings.expanded` does not."""
    for path in SRC.rglob("*.py"):
        assert path.name == "surroundings.py" or ".expanduser(" not in path.read_text(), path.name
