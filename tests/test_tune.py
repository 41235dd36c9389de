"""A search: what it draws, what it refuses, and trials that go on where they died. On Ray only with SRPO_TEST_RAY=1."""

import contextlib
import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import h5py
import jax
import numpy as np
import pytest
from clusters import kill_the_node_at_work

import srpo
from srpo import algorithms, cli
from srpo.commands import tune
from srpo.data import sources
from srpo.errors import ConfigError
from srpo.judging.evidence import Judging
from srpo.runs import elsewhere
from srpo.runs.checkpoint import load_info
from srpo.system.clock import Clock
from srpo.system.cluster import Resources, connected
from srpo.training import progress
from srpo.tuning import search, table
from srpo.tuning.job import FAILED, FINISHED, STOPPED, Job, ranked
from srpo.tuning.objective import NOT_TRUSTED, Objective, Score
from srpo.tuning.space import Axis, drawn, read_space
from srpo.tuning.trial import Work, run_trial, shared

SMALL = {"critic.hidden": "8", "critic.batch_size": "8", "policy.hidden": "8", "policy.batch_size": "8"}
SMALL |= {"critic.layer_init": "torch", "policy.layer_init": "torch"}  # compiles in half the time


@pytest.fixture(scope="module")
def iql():
    return srpo.algorithms.find("iql").default().set("critic.steps", 40).set("policy.steps", 40)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """logs.hdf5: Pendulum, pushed at random."""
    n, rng = 400, np.random.default_rng(0)
    angle = rng.uniform(-np.pi, np.pi, n)
    with h5py.File(tmp_path / "logs.hdf5", "w") as file:
        file["observations"] = np.stack([np.cos(angle), np.sin(angle), rng.normal(size=n)], 1)
        file["actions"] = rng.uniform(-1.9, 1.9, (n, 1))
        file["rewards"], file["terminals"], file["timeouts"] = -(angle**2), np.zeros(n, bool), np.arange(n) % 20 == 19
        file.attrs["env_id"] = "Pendulum-v1"
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what is drawn


def test_ranges_and_choices_are_read_as_their_settings(iql):
    given = [
        "policy.beta=log:0.01,100",
        "critic.expectile=uniform:0.6,0.9",
        "policy.batch_size=log:8,512",
        "critic.hidden=choice:64,64|256",
        "critic.lr=choice:3e-4,1e-3",
    ]
    axes = read_space(given, iql)
    assert axes[3].values == ((64, 64), (256,)) and axes[4].values == (3e-4, 1e-3)
    points = drawn(axes, 400, 0)
    beta, level, size = (
        np.array([p[path] for p in points]) for path in ("policy.beta", "critic.expectile", "policy.batch_size")
    )
    assert beta.min() >= 0.01 and beta.max() <= 100 and abs(np.median(np.log10(beta))) < 0.3  # the middle of the powers
    assert level.min() >= 0.6 and level.max() <= 0.9 and abs(level.mean() - 0.75) < 0.02
    assert size.dtype.kind == "i" and 40 < np.median(size) < 100
    assert {p["critic.hidden"] for p in points} == {(64, 64), (256,)}
    assert all(float(f"{b:.3g}") == b for b in beta)  # what a table shows is what was trained


def test_more_samples_begin_with_the_same_and_none_comes_twice():
    axes = (Axis("a", "choice", (1, 2)), Axis("b", "uniform", (0, 2)))
    few, many = drawn(axes, 3, 0), drawn(axes, 100, 0)
    assert many[:3] == few and len(many) == 6  # all there are
    assert drawn(axes, 3, 1) != few


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "--space policy.beta=log:0.01,1"),
        (["--space", "policy.beta"], "expected PATH=log:LOW,HIGH"),
        (["--space", "policy.beta=logs:1,2"], "did you mean 'log'?"),
        (["--space", "policy.bata=log:1,2"], "did you mean 'policy.beta'?"),
        (["--space", "policy.beta=log:0,2"], "above zero"),
        (["--space", "policy.beta=uniform:2,1"], "the lower one first"),
        (["--space", "policy.beta=uniform:1,2,3"], "two ends"),
        (["--space", "policy.beta=log:1,x"], "found 'x', expected a finite number"),
        (["--space", "critic.hidden=uniform:8,16"], "range of numbers"),
        (["--space", "critic.lr=choice:1e-3"], "two or more different values"),
        (["--space", "policy.steps=log:10,1000"], "compared at the same steps"),
        (["--space", "policy.beta=log:1,2", "--space", "policy.beta=choice:3,4"], "found it twice"),
        (["--space", "policy.beta=log:1,2", "--set", "policy.beta=3"], "both in --set and in --space"),
        (["--space", "policy.beta=log:1,2", "--samples", "0"], "found 0 as --samples, expected one or more"),
        (["--space", "policy.beta=log:1,2", "--search-seed", "-1"], "found -1 as --search-seed, expected zero or more"),
        (["--space", "policy.beta=log:1,2", "--search-seed", "9" * 20], "as --search-seed, expected at most 4294967295"),
        (["--space", "policy.beta=log:1,2", "--eval-episodes", "2000000"], "as --eval-episodes, expected at most 1000000"),
        (["--space", "policy.beta=log:1,2", "--max-steps", "3000000000"], "as --max-steps, expected at most 2147483647"),
        (["--space", "policy.beta=log:1,2", "--reports", "10001"], "found 10001 reports, expected at most 10000"),
        (["--space", "policy.beta=log:1,2", "--reports", "0"], "found 0 reports"),
        (["--space", "policy.beta=log:1,2", "--keep-one-of", "1"], "expected two or more"),
        (["--space", "policy.beta=log:1,2", "--cores", "0"], "one core or more"),
        (["--space", "policy.beta=log:1,2", "--minutes", "0"], "more than zero"),
        (["--space", "policy.beta=log:1,2", "--minutes", "-2"], "more than zero"),
        (["--space", "policy.beta=log:1,2", "--minutes", "nan"], "--minutes nan: expected a finite number, more than zero"),
        (["--space", "policy.beta=log:1,2", "--minutes", "inf"], "--minutes inf: expected a finite number, more than zero"),
        (["--space", "policy.beta=log:1,2", "--checkpoint-every", "-1"], "zero or more"),
        (["--space", "policy.beta=log:1,2", "--seed", "1"], "expected --seeds"),
        (["--space", "policy.beta=log:1,2", "--objective", "judge", "--set", "data.holdout=0"], "needs held-out episodes"),
        (["--space", "data.holdout=choice:0.1,0.2", "--objective", "judge"], "trials are judged by the same episodes"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, options, complaint):
    assert cli.main(["tune", "logs.hdf5", "--action-range", "env", "--algo", "iql", *options]) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (folder / "runs").exists()


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out\nduring startup."), RuntimeError(), TimeoutError("late")]
)
def test_a_cluster_that_does_not_start_is_one_line(error, monkeypatch):
    def fails(**options):
        raise error

    ended = []
    slow = SimpleNamespace(is_initialized=lambda: False, init=fails, shutdown=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "ray", slow)
    with pytest.raises(ConfigError, match="^Ray does not start on this machine .*try again$") as refusal, connected(None):
        pass
    assert ended and "\n" not in str(refusal.value)


def test_without_a_simulator_the_judge_decides(folder, capsys):
    with h5py.File("logs.hdf5", "r+") as file:
        del file.attrs["env_id"]
    command = ["tune", "logs.hdf5", "--action-range=-2,2", "--algo", "iql", "--space", "policy.beta=log:1,2"]
    assert cli.main([*command, "--objective", "score"]) == 2
    assert "names no environment to score in" in capsys.readouterr().err


def test_data_that_no_trial_can_be_trained_on_are_one_line(folder, capsys):
    with h5py.File("logs.hdf5", "r+") as file:
        del file["timeouts"]
        file["timeouts"] = np.zeros(400, bool)
    command = ["tune", "logs.hdf5", "--action-range=-2,2", "--algo", "iql", "--space", "policy.beta=log:1,2"]
    for options in (["--objective", "judge"], ["--objective", "score", "--set", "data.reward=return-range"]):
        assert cli.main([*command, *options]) == 2
        assert "no episode" in capsys.readouterr().err.replace("mark no end of an episode", "no episode")
    assert not (folder / "runs").exists()


# --- a trial, without Ray


class Weights(Objective):
    """A stand-in that costs nothing, yet knows the policy: a mean over its weights."""

    def __call__(self, run, data, step):
        leaves = jax.tree.leaves(run.policies_at(step))
        value = float(sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in leaves))
        return Score(value, value, value)


@pytest.fixture
def job(folder, iql):
    algorithm = (
        srpo.configure("iql", srpo.load_dataset("logs.hdf5", action_range="env"), **SMALL)
        .set("critic.steps", 40)
        .set("policy.steps", 40)
    )
    space = (Axis("policy.beta", "choice", (1.0, 3.0)),)
    data = srpo.load_dataset("logs.hdf5", action_range="env")
    return Job(algorithm, data, space, 2, (0,), Weights("judge", Judging()), folder / "out", reports=4, checkpoint_every=0.0)


class Killed(BaseException):
    """What Ray does to a trial."""


def reported(trial, most=99):
    """The reports of a trial that is killed at one of them."""
    found = []

    def report(metrics):
        found.append(metrics)
        if len(found) == most:
            raise Killed

    try:
        Work(trial, report).through()
    except Killed:
        assert len(found) == most
    return found


def files(path):
    return {p.relative_to(path): p.read_bytes() for name in ("*.safetensors", "metrics.csv") for p in path.rglob(name)}


def test_a_trial_goes_on_where_it_died_and_shares_its_critic(job, monkeypatch):
    monkeypatch.setattr(progress, "draw_curves", lambda run: None)
    first, second = job.trials
    alone = srpo.train(first.algorithm, job.data, out=job.out / "alone", eval_every=0, keep=4, quiet=True)
    expected = [{"report": i + 1, "objective": job.objective(alone, job.data, step).value} for i, step in enumerate(alone.kept)]
    assert reported(first, most=2) == expected[:2]
    assert reported(first) == expected  # what was reported is reported again, then the rest
    assert reported(first) == expected  # and once more, after its end
    assert files(first.folder / "stages") == files(alone.path / "stages")
    assert {row["stage"] for row in csv.DictReader((first.folder / "metrics.csv").read_text().splitlines())} == {"policy"}
    monkeypatch.setattr("srpo.tuning.trial.train", None)  # nothing is left to be trained for the second
    critic = srpo.load_run(shared(second, 1, [second]))
    assert critic.finished == ["critic"] and list((job.out / "shared").glob("*/run.json")) == [critic.path / "run.json"]


def test_an_algorithm_of_another_package_is_known_where_it_trains(job, folder, monkeypatch):
    (folder / "mine.py").write_text("from srpo.algorithms.iql import IQL\n\n\nclass Mine(IQL):\n    pass\n")
    known = []
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(algorithms, "registered", {})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=SimpleNamespace(report=None)))
    monkeypatch.setattr(Work, "through", lambda self: known.append(algorithms.name_of(self.trial.algorithm)))
    monkeypatch.setitem(sys.modules, "mine_world", SimpleNamespace())
    mine = algorithms.named("mine:Mine")
    srpo.register("mine", mine)
    monkeypatch.setattr(sources, "registered", [reader := SimpleNamespace(matches=len, read=len, __module__="mine")])
    importlib.import_module("mine").reader = reader
    for name in ("mine:Mine", "mine"):
        told = elsewhere.known([name], ["mine_world:Cart-v0", "antigravity:Cart-v0", "Hopper-v4", None])
        assert told == {"algorithms": {name: "mine:Mine"}, "sources": ["mine:reader"], "modules": ["mine_world"]}
        with monkeypatch.context() as process:  # a new one
            process.setattr(algorithms, "registered", {})
            process.setattr(sources, "registered", [])
            run_trial({"trial": 0}, replace(job, algorithm=mine.default(), known=told))
            assert sources.registered == [reader]
    assert known == ["mine:Mine", "mine"]


def test_stages_are_shared_by_those_that_agree_in_them(job):
    space = (Axis("critic.lr", "choice", (1e-3, 1e-4)), Axis("policy.beta", "choice", (1.0, 3.0)))
    trials = replace(job, space=space, samples=4).trials
    for trial in trials:
        near = trial.alike(1)
        assert len(near) == 2 and {t.values["critic.lr"] for t in near} == {trial.values["critic.lr"]}
    assert all(len(t.alike(1)) == 1 for t in replace(job, space=space[:1], samples=2).trials)


def record(trial, values, outcome=None, note="", error=None):
    reports = [{"step": 10 * (i + 1), "value": v, "low": v - 1, "high": v + 1, "note": note} for i, v in enumerate(values)]
    trial.note(reports=reports, error=error)
    if outcome is not None:
        trial.end(outcome)


@pytest.fixture
def searched(job):
    """A search of which four trials ended and one failed."""
    job = replace(job, space=(Axis("policy.beta", "choice", (1.0, 2.0, 3.0, 4.0, 5.0)),), samples=5)
    job.describe()
    poor, good, mad, broken, middling = job.trials
    record(poor, [1.0], STOPPED)
    record(good, [2.0, 2.5, 3.0, 5.0], FINISHED)
    record(mad, [NOT_TRUSTED] * 4, FINISHED, note="it acts 3 nats off the data")
    record(broken, [9.0], error="FloatingPointError: loss")
    record(middling, [2.0, 3.0, 3.0, 4.0], FINISHED)
    return job


def test_the_table_and_the_picture(searched, capsys):
    poor, good, mad, broken, middling = searched.trials
    assert ranked(searched.trials) == [good, middling, mad, poor, broken] and table.best(searched) is good
    found = table.write(searched)
    with (searched.out / "trials.csv").open() as file:
        kept = list(csv.DictReader(file))
    assert [row["trial"] for row in kept] == [t.name for t in (good, middling, mad, poor, broken)]
    assert (kept[0]["objective"], kept[0]["low"], kept[0]["step"]) == ("5.0", "4.0", "40")
    assert kept[2]["objective"] == "" and "off the data" in kept[2]["note"] and kept[4]["outcome"] == FAILED
    printed = table.text(searched, found).splitlines()
    assert len(printed) == 6 and "4 to 6" in printed[1]
    table.draw(searched)
    assert (searched.out / "tune.png").read_bytes().startswith(b"\x89PNG")


def test_a_scheduler_is_told_what_was_before(searched):
    class Scheduler:
        def __init__(self):
            self.told = {}

        def on_trial_add(self, _, trial):
            self.told[trial.trial_id] = []

        def on_trial_result(self, _, trial, result):
            self.told[trial.trial_id].append((result["report"], result["objective"]))

    scheduler = Scheduler()
    search.remember(scheduler, searched)
    poor, good, _, broken, _ = searched.trials
    assert scheduler.told[f"before-{poor.name}"] == [(1, 1.0)] and f"before-{broken.name}" not in scheduler.told
    assert scheduler.told[f"before-{good.name}"] == [(1, 2.0), (2, 2.5), (3, 3.0), (4, 5.0)]


def test_another_search_in_the_folder_is_refused(searched):
    searched.check()
    replace(searched, samples=3).check()  # more or fewer of the same
    with pytest.raises(ConfigError, match="another search .*episodes: 10, not 20"):
        replace(searched, episodes=20).check()
    (searched.out / "tune.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        searched.check()


def test_a_search_goes_on_with_the_same_environment_and_range_of_actions_alone(searched):
    for changed, why in (({"env_id": "Pendulum-v0"}, "environment"), ({"action_range": None}, "action_range")):
        with pytest.raises(ConfigError, match=f"another search .*{why}"):
            replace(searched, data=replace(searched.data, **changed)).check()


def test_one_search_at_a_time_is_in_a_folder(searched, monkeypatch):
    notes, refused = searched.out / search.NOTES, []

    def fit():
        notes.mkdir()
        arguments = SimpleNamespace(address=None, keep_one_of=3, json=False)
        with pytest.raises(ConfigError, match="is being searched by another process") as refusal:
            tune._searched(arguments, searched, Resources(), Clock(None))
        refused.append(refusal)
        assert notes.exists() and not (searched.out / "trials.csv").exists()

    monkeypatch.setattr(search, "connected", lambda *a: contextlib.nullcontext())
    monkeypatch.setattr(search, "require_room", lambda *a, **options: None)
    monkeypatch.setattr(search, "_tune", lambda: None)
    monkeypatch.setattr(search, "_tuner", lambda *a: SimpleNamespace(fit=fit))
    search.through(searched, Resources(), None, 3, Clock(None))
    assert refused and not notes.exists()
    search.through(replace(searched, samples=0), Resources(), None, 3, Clock(None))  # the next one may


def test_what_comes_next_can_be_done_where_nothing_can_be_played():
    data = {"env_id": None, "source": "logs.npz", "reward": "rewards:level"}
    run = SimpleNamespace(path="out/trials/003", algo="", info={"data": data})
    assert tune._next(run, "judge").startswith("srpo judge out/trials/003 --reward rewards:level, ")
    assert tune._next(run, "score").startswith("srpo eval out/trials/003 --episodes 100")


def test_how_a_trial_ended_is_written_and_said(searched, capsys):
    trial = replace(searched, out=searched.out / "new").trials[0]
    record(trial, [1.0, 2.0])
    search.ended(trial)
    assert trial.outcome == STOPPED and "stopped at report 2 of 4, 2" in capsys.readouterr().err
    trial = replace(searched, out=searched.out / "other").trials[0]
    record(trial, [1.0], error="ValueError: no")
    search.ended(trial)
    assert trial.outcome == FAILED and "failed: ValueError: no" in capsys.readouterr().err


# --- the whole, on Ray


ON_RAY = pytest.mark.skipif(not os.environ.get("SRPO_TEST_RAY"), reason="starts Ray: minutes; SRPO_TEST_RAY=1")


def words(policy_steps, *more):
    """Of a search that trains small networks and scores a policy by one episode."""
    fixed = ["tune", "logs.hdf5", "--action-range", "env", "--algo", "iql", "--eval-episodes", "1", "--checkpoint-every", "0"]
    sizes = (SMALL | {"critic.steps": 200, "policy.steps": policy_steps}).items()
    space = ["--space", "policy.beta=log:0.1,10", "--space", "policy.lr=choice:1e-4,1e-2"]
    return [*fixed, *(word for path, value in sizes for word in ("--set", f"{path}={value}")), *space, *more]


def results(told):
    """What a search says of its trials, but for the time that they took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in told["trials"]]


@ON_RAY
def test_a_killed_search_ends_as_one_that_was_not(folder):
    pytest.importorskip("ray")
    one_after_the_other = ("--cores", str(os.cpu_count()))
    more = ("--samples", "4", "--reports", "3", "--keep-one-of", "2", "--json", *one_after_the_other)
    command = [sys.executable, "-m", "srpo", *words(900, *more)]
    killed = subprocess.Popen([*command, "--out", "killed"], stdout=subprocess.DEVNULL, start_new_session=True)
    while not list((folder / "killed" / "trials").glob("*.end")):
        assert killed.poll() is None
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    told = [
        json.loads(subprocess.run([*command, "--out", out], capture_output=True, check=True).stdout)
        for out in ("killed", "whole")
    ]
    assert results(told[0]) == results(told[1]) and {r["outcome"] for r in results(told[0])} <= {FINISHED, STOPPED}
    assert told[0]["best"]["values"] == told[1]["best"]["values"]
    for name in ("000", "001", "002", "003"):
        assert files(folder / "killed" / "trials" / name) == files(folder / "whole" / "trials" / name)


@ON_RAY
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_node_dies_under_a_trial_and_another_goes_on(folder, capsys):
    """In the middle of the last stage; no trial is stopped as too poor, as that depends on who is first."""
    pytest.importorskip("ray")
    more = ("--samples", "2", "--reports", "1", "--json")
    whole = subprocess.run(
        [sys.executable, "-m", "srpo", *words(20000, *more, "--out", "whole")], capture_output=True, check=True
    )
    first = folder / "out" / "trials" / "000"
    state = first / "state" / "policy.safetensors"
    code, (step, before) = kill_the_node_at_work(
        lambda: cli.main(words(20000, *more, "--out", "out")),
        state.exists,
        lambda: (load_info(state)["step"], json.loads((first / "run.json").read_text())),
    )
    assert code == 0 and 0 < step < 20000 and "critic" in before["stages"]
    assert json.loads((first / "run.json").read_text())["created"] == before["created"]  # the same run went on
    told = capsys.readouterr().out.splitlines()[-1]  # Ray says something of the dead node before
    assert results(json.loads(told)) == results(json.loads(whole.stdout))
    for name in ("trials/000", "trials/001", "shared"):
        assert files(folder / "out" / name) == files(folder / "whole" / name) != {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told.pop("reports"),
        lambda told: told["reports"][0].pop("value"),
        lambda told: told["reports"][0].update(value="high"),
        lambda told: told["reports"][0].update(step=-1),
        lambda told: told.update(more=1),
    ],
)
def test_an_edited_record_of_a_trial_is_one_line(searched, damage):
    trial = searched.trials[0]
    assert trial.scores
    told = trial.record
    damage(told)
    trial.folder.with_suffix(".json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"\.json is damaged \(.*\); restore it"):
        _ = trial.scores
