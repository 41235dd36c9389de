"""A suite on a Ray cluster: a node dies in the middle, and nothing is lost, nothing done twice, every byte as without Ray."""

import contextlib
import importlib.util
import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
from clusters import kill_the_node_at_work

from srpo import cli
from srpo.errors import ConfigError
from srpo.runs.checkpoint import load_info
from srpo.suite import on_ray, plan, work
from srpo.suite.cells import Cell
from srpo.suite.keep import Keep
from srpo.system.clock import Clock, Stopped
from srpo.system.cluster import Resources

SUITE = """
title = "small"
algorithms = ["iql"]
seeds = [0]
[budget]
iterations = 2000
[settings.iql]
"critic.hidden" = [8]
"critic.batch_size" = 8
"policy.hidden" = [8]
"policy.batch_size" = 8
[[data]]
name = "logs"
task = "hopper-medium-v2"
"""
CELL = "logs/iql/0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    n, rng = 200, np.random.default_rng(0)
    with h5py.File(tmp_path / "logs.hdf5", "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(n, 4)), rng.uniform(-0.9, 0.9, (n, 2))
        file["rewards"], file["terminals"], file["timeouts"] = rng.normal(size=n), np.zeros(n, bool), np.arange(n) % 20 == 19
    (tmp_path / "small.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def suite_run(out, *more):
    fixed = ["suite", "run", "small.toml", "--data-dir", ".", "--no-eval", "--quiet", "--algos", "iql", "--out", out]
    return cli.main([*fixed, *more])


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for name in ("*.safetensors", "metrics.csv") for p in folder.rglob(name)}


def file_of_state(folder, storage):
    """The file with the state of the policy's training, once there is one."""
    if not storage:
        return folder / "ray" / CELL / "state" / "policy.safetensors"
    copy = folder / "bucket" / "runs" / CELL
    known = json.loads((copy / "files.json").read_text()) if (copy / "files.json").exists() else {}
    return copy / "contents" / known.get(f"{CELL}/state/policy.safetensors", "none")


def run_json(folder, storage):
    if not storage:
        return json.loads((folder / "ray" / CELL / "run.json").read_text())
    copy = folder / "bucket" / "runs" / CELL
    return json.loads((copy / "contents" / json.loads((copy / "files.json").read_text())[f"{CELL}/run.json"]).read_text())


@pytest.mark.skipif(not os.environ.get("SRPO_TEST_RAY"), reason="starts a Ray cluster: a minute each; SRPO_TEST_RAY=1")
@pytest.mark.filterwarnings("default")  # Ray's own
@pytest.mark.parametrize("storage", [False, True], ids=["shared folder", "storage"])
def test_a_node_dies_in_the_middle_of_a_stage_and_another_goes_on(folder, capsys, storage):
    pytest.importorskip("ray")
    often = ("--iterations", "20000", "--checkpoint-every", "0")
    through = ("--storage", f"file://{folder}/bucket") if storage else ()
    assert suite_run("alone", "--jobs", "1", *often) == 0
    code, (step, before) = kill_the_node_at_work(
        lambda: suite_run("ray", "--on", "ray", *often, *through),
        lambda: file_of_state(folder, storage).exists(),
        lambda: (load_info(file_of_state(folder, storage))["step"], run_json(folder, storage)),
    )
    assert code == 0 and 0 < step < 20000 and "critic" in before["stages"]  # it died in the middle of the second stage
    after, record = run_json(folder, storage), json.loads((folder / "ray" / f"{CELL}.json").read_text())
    assert after["created"] == before["created"] and record["incomplete"]  # the same run went on after a death
    assert content(folder / "ray") == content(folder / "alone")
    assert "1 of 1" in capsys.readouterr().err


# --- without a cluster


def test_a_cell_keeps_to_its_share():
    assert Resources().surroundings == {"NPROC": "1", "JAX_PLATFORMS": "cpu"}
    assert Resources(2, 0.5).surroundings == {"NPROC": "2", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    assert Resources(2, 2).surroundings == {"NPROC": "2"}


class Tasks:
    """What of Ray starts tasks: it remembers the options and what each task waits for. A task's reference is its name."""

    def __init__(self):
        self.asked = {}

    def put(self, value):
        return value

    def remote(self, *args):
        if args == (on_ray.cell_task,):
            return self
        _, _, _, near, *after = args
        self.asked[self.chosen["name"]] = (self.chosen, [c.algorithm for c in near], after)
        return self.chosen["name"]

    def options(self, **options):
        self.chosen = options
        return self


def test_cells_that_share_a_stage_wait_for_each_other_and_others_do_not(tmp_path):
    suite = replace(plan.load_suite("open"), seeds=(0,), data=tuple(plan.Source(name, "hopper-medium-v2") for name in "ab"))
    cells = [
        Cell(suite, data, "x", "hopper-medium-v2", name, (0,), tmp_path) for data in "ab" for name in ("srpo", "bc", "iql")
    ]
    here, tasks = work.Work(suite, {}, tmp_path, Keep(tmp_path), "", Clock()), Tasks()
    assert list(on_ray.started(tasks, on_ray.Job(here, None, None, here.known), {}, cells, Resources(2, 0.5)).values()) == cells
    for data in "ab":
        options, near, after = tasks.asked[f"{data} iql 0"]
        assert near == ["srpo"] and after == [f"{data} srpo 0"]
        assert (options["num_cpus"], options["num_gpus"]) == (2, 0.5) and options["max_retries"] > 0
        assert tasks.asked[f"{data} bc 0"][2] == tasks.asked[f"{data} srpo 0"][2] == []


class Busy(Tasks):
    """A cluster whose tasks go on until they are told to stop; `meanwhile` happens to who waits for them."""

    def __init__(self, meanwhile):
        super().__init__()
        self.meanwhile, self.cancelled, self.patience = meanwhile, [], None

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def wait(self, left, num_returns=1, timeout=None):
        if num_returns == 1 and not self.cancelled:
            self.meanwhile()
        self.patience = num_returns, timeout
        return left, []

    def cancel(self, ref):
        self.cancelled.append(ref)


@pytest.mark.parametrize(
    ("over", "code", "said"), [(False, 143, "stopped; the same command goes on"), (True, 0, "the time is over")]
)
def test_whoever_stops_lets_all_cells_save_their_state(folder, capsys, monkeypatch, over, code, said):
    def stop():  # Ctrl-C, or what the clock's signal does
        if over:
            monkeypatch.setattr(Clock, "left", -1.0)
        raise Stopped("stopped; the same command goes on")

    ray = Busy(stop)
    monkeypatch.setattr(on_ray, "connected", lambda address: contextlib.nullcontext(ray))
    assert suite_run("out", "--on", "ray", "--seeds", "2", "--minutes", "60") == code
    assert ray.cancelled == ["logs iql 0", "logs iql 1"] and ray.patience == (2, on_ray.STOP_SECONDS)
    assert said in capsys.readouterr().err and (folder / "out" / "results" / "suite.json").exists()


def test_data_that_differ_between_nodes_are_refused(folder):
    suite = plan.load_suite("small.toml")
    here = work.Work(suite, {}, folder, Keep(folder), "", Clock())
    with pytest.raises(ConfigError, match="differs between nodes"):
        on_ray.cell_task(
            on_ray.Job(here, folder, None, here.known),
            None,
            Cell(suite, "logs", "another", "hopper-medium-v2", "iql", (0,), folder / "out"),
            [],
        )


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--on", "ray", "--cores", "0"), "one core or more"),
        (("--on", "ray", "--gpus", "1.5"), "fraction of one GPU"),
        (("--on", "ray", "--jobs", "2"), "--cores, --gpus"),
        (("--gpus", "1"), "add --on ray"),
        pytest.param(
            ("--on", "ray", "--address", "127.0.0.1:1"),
            "no Ray cluster answers",
            marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
        ),
        pytest.param(
            ("--on", "ray"),
            "install srpo[ray]",
            marks=pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed"),
        ),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, more, complaint):
    assert suite_run("out", *more) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (folder / "out").exists()
