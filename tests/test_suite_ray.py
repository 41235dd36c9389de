"""A suite on a Ray cluster: a node dies in the middle, and nothing is lost, nothing done twice, every byte as without Ray."""

import importlib.util
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest

from srpo import cli
from srpo.errors import ConfigError
from srpo.suite import on_ray, plan, work
from srpo.suite.cells import Cell
from srpo.suite.clock import Clock
from srpo.suite.keep import Keep
from srpo.suite.on_ray import Resources

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


@pytest.mark.skipif(not os.environ.get("SRPO_TEST_RAY"), reason="starts a Ray cluster: about a minute; SRPO_TEST_RAY=1")
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_node_dies_in_the_middle_and_another_goes_on(folder, capsys):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    assert suite_run("alone", "--jobs", "1") == 0
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0, "include_dashboard": False})
    first = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        with ThreadPoolExecutor(1) as driver:
            told = driver.submit(suite_run, "ray", "--on", "ray")
            critic = folder / "ray" / "logs" / "iql" / "0" / "stages" / "critic.safetensors"
            while not critic.exists() and not told.done():
                time.sleep(0.02)
            cluster.remove_node(first, allow_graceful=False)
            policy, written = critic.with_name("policy.safetensors"), critic.stat().st_mtime_ns
            assert not policy.exists()  # it died in the middle
            cluster.add_node(**node)
            assert told.result(timeout=300) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert policy.exists() and critic.stat().st_mtime_ns == written  # what was finished was not trained again
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
        _, _, near, *after = args
        self.asked[self.chosen["name"]] = (self.chosen, [c.algorithm for c in near], after)
        return self.chosen["name"]

    def options(self, **options):
        self.chosen = options
        return self


def test_cells_that_share_a_stage_wait_for_each_other_and_others_do_not(tmp_path):
    suite = replace(plan.load_suite("open"), seeds=(0,))
    cells = [
        Cell(suite, data, "x", "hopper-medium-v2", name, (0,), tmp_path) for data in "ab" for name in ("srpo", "bc", "iql")
    ]
    here, tasks = work.Work(suite, {}, tmp_path, Keep(tmp_path), "", Clock()), Tasks()
    assert list(on_ray.started(tasks, here, cells, None, Resources(2, 0.5)).values()) == cells
    for data in "ab":
        options, near, after = tasks.asked[f"{data} iql 0"]
        assert near == ["srpo"] and after == [f"{data} srpo 0"]
        assert (options["num_cpus"], options["num_gpus"]) == (2, 0.5) and options["max_retries"] > 0
        assert tasks.asked[f"{data} bc 0"][2] == tasks.asked[f"{data} srpo 0"][2] == []


def test_data_that_differ_between_nodes_are_refused(folder):
    suite = plan.load_suite("small.toml")
    here = work.Work(suite, {}, folder, Keep(folder), "", Clock())
    with pytest.raises(ConfigError, match="differs between nodes"):
        on_ray.cell_task((here, folder), Cell(suite, "logs", "another", "hopper-medium-v2", "iql", (0,), folder / "out"), [])


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
