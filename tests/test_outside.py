"""Algorithms of other packages: registered, named on the command line, or found as entry points; and what is never imported."""

import importlib
import json
import sys
from importlib import metadata

import numpy as np
import pytest

import srpo
from srpo import algorithms
from srpo.algorithms.bc import BC
from srpo.cli import main
from srpo.data import sources
from srpo.deploy import Policy
from srpo.errors import ConfigError
from srpo.runs import options
from srpo.runs.run import RunError

MODULE = """
from typing import ClassVar
from srpo import Algorithm, Treatment
from srpo.algorithms.bc import Regression
from srpo.policies import DeterministicPolicy

class Mine(Algorithm):
    data: Treatment = Treatment()
    policy: Regression = Regression(steps=6, batch_size=4, hidden=(4,))

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    presets: ClassVar = {"paper": {}}

class NotOne:
    pass
"""
WORLD = """
import gymnasium
import numpy as np

class Rail(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (3,))
    action_space = gymnasium.spaces.Box(-2, 2, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=3), {}

    def step(self, action):
        return self.np_random.normal(size=3), float(action[0]), False, False, {}

gymnasium.registry.pop("Rail-v0", None)
gymnasium.register("Rail-v0", entry_point=Rail, max_episode_steps=5)
"""
SOURCE = """
import numpy as np
from srpo.data.sources import Attributes

def matches(source):
    return source.startswith("rail:")

def read(source):
    rng, n = np.random.default_rng(0), 40
    arrays = {"obs": rng.normal(size=(n, 3)), "action": rng.uniform(-2, 2, (n, 2)), "reward": rng.normal(size=n)}
    arrays |= {"terminal": np.zeros(n, bool), "timeout": np.arange(n) % 10 == 9}
    return arrays, Attributes(name="rail", source=source, env_id="world_of_tests:Rail-v0")
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(algorithms, "registered", {})
    monkeypatch.setattr(sources, "registered", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a module and a data set."""
    for name, text in (("mine", MODULE), ("world", WORLD), ("source", SOURCE)):
        (tmp_path / f"{name}_of_tests.py").write_text(text)
    rng = np.random.default_rng(0)
    fields = {"observations": rng.normal(size=(40, 3)), "actions": rng.uniform(-1, 1, (40, 2)), "rewards": rng.normal(size=40)}
    end = np.arange(40) % 10 == 9
    np.savez(tmp_path / "logs.npz", **fields, terminals=np.zeros(40, bool), timeouts=end)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def forget():
    algorithms.registered.clear()
    sources.registered.clear()
    for name in ("mine_of_tests", "world_of_tests", "source_of_tests"):
        sys.modules.pop(name, None)


def test_a_run_of_a_named_class_loads_only_when_it_is_named_again(folder, capsys):
    options = ["--algo", "mine_of_tests:Mine"]
    assert main(["train", "logs.npz", *options, "--no-eval", "--quiet"]) == 0
    (run,) = folder.glob("runs/logs/mine_of_tests.Mine/*")
    assert f"srpo export {run.relative_to(folder)} --algo mine_of_tests:Mine --to" in capsys.readouterr().err
    info = json.loads((run / "run.json").read_text())
    assert (info["algorithm"], info["class"]) == ("mine_of_tests:Mine", "mine_of_tests:Mine")
    forget()
    for command in (["eval", str(run)], ["export", str(run), "--to", "p.safetensors"], ["train", "--resume", str(run)]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "nothing is imported because a file names it; add --algo mine_of_tests:Mine" in said
    assert "mine_of_tests" not in sys.modules
    assert main(["export", str(run), "--to", "p.safetensors", *options]) == 0 and (folder / "p.safetensors").exists()
    assert main(["train", "--resume", str(run), *options]) == 0
    assert main(["train", "--resume", str(run), "--algo", "srpo.algorithms.bc:BC"]) == 2
    assert "was trained by 'mine_of_tests:Mine', found --algo srpo.algorithms.bc:BC" in capsys.readouterr().err


def test_what_is_printed_to_go_on_names_all_that_is_of_other_packages(folder, capsys, monkeypatch):
    mine, source, env = "--algo mine_of_tests:Mine", "--source source_of_tests", "--env world_of_tests:Rail-v0"
    fixed = ["train", "rail:", "--preset", "paper", "--eval-episodes", "1", "--out", "run", "--quiet"]
    assert main([*fixed, *f"{mine} {source} {env}".split()]) == 0
    told = capsys.readouterr().err
    forget()
    score, export = told.partition("next: ")[2].split("; ")
    assert score == f"srpo eval run {mine} {env} --episodes 100"
    assert export == f"srpo export run {mine} {source} {env} --to policy.safetensors\n"
    assert main(score.replace("100", "1").split()[1:]) == 0
    forget()
    assert main(export.split()[1:]) == 0 and Policy("policy.safetensors").support is not None
    assert options.resume(srpo.load_run("run")) == f"srpo train --resume run {mine} {source} {env}"
    forget()
    contract = export_without(folder, mine, capsys)
    assert "or what reads it with --source" in contract["notes"][0]
    assert contract["notes"][1].startswith("what world_of_tests:Rail-v0 says of signals is unknown: ")  # its units are known
    forget()
    assert main(["export", "run", *mine.split(), "--env", "os:Rail-v0", "--to", "b.safetensors"]) == 2
    assert "found --env os:Rail-v0, expected the run's own environment, world_of_tests:Rail-v0" in capsys.readouterr().err
    monkeypatch.setattr(algorithms, "_installed", lambda: {"mine_of_tests:Mine": None})
    srpo.register("mine", algorithms.named("mine_of_tests:Mine"))
    assert srpo.load_run("run").algo == ""  # installed: its name is enough


def export_without(folder, mine, capsys):
    """The contract of an export where neither the data nor the environment are at hand."""
    capsys.readouterr()
    assert main(["export", "run", *mine.split(), "--to", "a.safetensors", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_name_that_a_message_tells_to_register_is_one_that_can_be(folder):
    with pytest.raises(ConfigError, match=r"call srpo.register\('my-name', ...\) before$"):
        algorithms.recorded("mine_of_tests:Mine", "mine_of_tests:Mine")


def test_aregistered_algorithm_is_used_by_its_name(folder, capsys):
    sys.path.append(str(folder))
    from mine_of_tests import Mine

    srpo.register("mine", Mine)
    srpo.register("mine", Mine)
    assert main(["train", "logs.npz", "--algo", "mine", "--out", "run", "--no-eval", "--quiet"]) == 0
    capsys.readouterr()
    expected = srpo.load_run("run").policy().act(np.zeros(3))
    forget()
    with pytest.raises(
        RunError, match=r"^run/run.json: it was trained by 'mine' of 'mine_of_tests:Mine'.*srpo.register\('mine'"
    ):
        srpo.load_run("run")
    from mine_of_tests import Mine as Again

    srpo.register("another-name", Again)
    np.testing.assert_array_equal(srpo.load_run("run").policy().act(np.zeros(3)), expected)


def test_entry_points_of_what_is_installed_are_listed_and_loaded_when_asked_for(folder, monkeypatch):
    sys.path.append(str(folder))

    def points(group):
        assert group == "srpo.algorithms"
        return [metadata.EntryPoint("theirs", "mine_of_tests:Mine", group), metadata.EntryPoint("srpo", "os:system", group)]

    monkeypatch.setattr(metadata, "entry_points", points)
    assert algorithms.names()[-1] == "theirs" and "mine_of_tests" not in sys.modules
    assert algorithms.find("srpo") is srpo.SRPO  # an entry point takes no name of the package
    cls = algorithms.find("theirs")
    assert cls.__name__ == "Mine" and algorithms.origin(cls()) == {"algorithm": "theirs", "class": "mine_of_tests:Mine"}
    forget()
    assert algorithms.recorded("theirs", "mine_of_tests:Mine").__name__ == "Mine"


def test_what_cannot_beregistered_is_refused_in_one_line(folder):
    sys.path.append(str(folder))
    from mine_of_tests import Mine, NotOne

    class Needy(BC):
        policy: srpo.Stage = srpo.algorithms.find("iql")().policy

    class Empty(BC):
        policy: int = 3

    class Unset(BC):
        more: int

        def __init__(self, more):
            self.more = more

    for name, cls, said in (
        ("Mine", Mine, "expected lower-case letters"),
        ("../x", Mine, "expected lower-case letters"),
        ("bc", Mine, "the name 'bc' is that of srpo.algorithms.bc:BC"),
        ("x", NotOne, "is no algorithm"),
        ("x", Mine(), "is no algorithm"),
        ("x", Needy, "stage policy needs 'critic', which is no stage before it"),
        ("x", Empty, "has no stage"),
        ("x", Unset, "give every field a default"),
    ):
        with pytest.raises(ConfigError, match=said) as refusal:
            srpo.register(name, cls)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match=r"srpo.train|call srpo.register\('my-name'"):
        srpo.train(Mine(), srpo.load_dataset("logs.npz"), out=folder / "run", quiet=True)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ("absent_module:Mine", "No module named 'absent_module'"),
        ("mine_of_tests:Yours", "AttributeError"),
        ("mine_of_tests:NotOne", "is no algorithm"),
        (":Mine", "expected package.module:Class"),
        ("idqk", "unknown algorithm 'idqk'; did you mean 'idql'?"),
    ],
)
def test_a_wrong_name_is_answered_in_one_line(folder, text, said, capsys):
    assert main(["train", "logs.npz", "--algo", text]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (folder / "runs").exists()


def test_a_file_cannot_make_anything_be_imported(folder, capsys):
    """However its run.json names a class."""
    like_mine = [x for value in ("steps=6", "batch_size=4", "hidden=4") for x in ("--set", f"policy.{value}")]
    assert main(["train", "logs.npz", "--algo", "bc", *like_mine, "--out", "run", "--no-eval", "--quiet"]) == 0
    info = json.loads((folder / "run/run.json").read_text())
    assert "class" not in info
    for change in (
        {"algorithm": "mine_of_tests:Mine"},
        {"algorithm": "x", "class": "mine_of_tests:Mine"},
        {"class": "mine_of_tests:Mine"},
    ):
        (folder / "run/run.json").write_text(json.dumps(info | change))
        capsys.readouterr()
        assert main(["eval", "run"]) == 2 and capsys.readouterr().err.count("\n") == 1
        assert "mine_of_tests" not in sys.modules
