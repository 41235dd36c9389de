"""Runs over several devices, here forced on the CPU: the same numbers, byte for byte, however many there are.

How runs are shared out knows nothing of what a stage computes: a line and a small network, of which the second needs the first and has two
values to sweep, stand for all; every layout is compiled anew, and two devices differ from four in nothing.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import srpo
from srpo.data import from_arrays
from srpo.errors import ConfigError
from srpo.training import programs
from srpo.training.loop import StageLoop

PROGRAM = """
import hashlib, json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
import srpo
from srpo import Algorithm, Stage, TrainState, descend, setting, static
from srpo.data import from_arrays
from srpo.data.treatments import Treatment
from srpo.errors import UserError
from srpo.networks.layers import MLP
from srpo.optim import adam
from srpo.training import progress

progress.draw_curves = lambda run: None  # as in all tests


def began(sizes, rate, key):
    return TrainState.create(MLP(sizes, key), adam(rate), target=True)


def fitted(rate, state, batch, wanted, key):
    def loss(net):
        error = net(batch.obs)[..., 0] - wanted + 0.1 * jax.random.normal(key, wanted.shape)
        return jnp.mean(error**2), {"loss": jnp.mean(error**2)}

    return descend(state, adam(rate), loss, ema=0.1)


class Reward(Stage):
    steps: int = static(4, "gradient steps")
    batch_size: int = static(4, "rows per step")

    def init(self, data, given, key):
        return began((3, 1), 1e-2, key)

    def update(self, state, batch, given, key, step):
        return fitted(1e-2, state, batch, batch.reward, key)

    def result(self, state):
        return state.target


class Next(Stage):
    needs = ("reward",)
    steps: int = static(4, "gradient steps")
    batch_size: int = static(4, "rows per step")
    lr: float = setting(1e-2, "learning rate")

    def init(self, data, given, key):
        return began((3, 4, 1), self.lr, key)

    def update(self, state, batch, given, key, step):
        return fitted(self.lr, state, batch, given["reward"](batch.next_obs)[..., 0], key)

    def result(self, state):
        return state.target


class Still(eqx.Module):
    net: MLP

    def act(self, obs, key=None):
        return jnp.zeros((*obs.shape[:-1], 2))


class Two(Algorithm):
    data: Treatment = Treatment()
    reward: Reward = Reward()
    next: Next = Next()

    def make_policy(self, trained):
        return Still(trained["next"])


srpo.register("two", Two)
rng = np.random.default_rng(0)
arrays = {"obs": rng.normal(size=(60, 3)), "action": rng.uniform(-0.9, 0.9, (60, 2)), "reward": rng.normal(size=60)}
data = from_arrays(**arrays, terminal=np.arange(60) % 20 == 19)
found = {}
for devices in (1, 4):
    out = f"{sys.argv[1]}/{devices}"
    run = srpo.train(Two(), data, seeds=3, sweep={"next.lr": [0.001, 0.01]}, out=out, quiet=True, devices=devices)
    found[devices] = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(run.results))).hexdigest()
try:
    srpo.train(Two(), data, out=f"{sys.argv[1]}/5", quiet=True, devices=5)
except UserError as e:
    found["refused"] = str(e)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # cheap code, but fused as users' is: the tests' own options fuse by the layout
    flags = (
        "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("devices"))]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_and_four_devices_give_the_same_bytes(found):
    assert found["1"] == found["4"]  # six runs of the second stage on four devices: two are padding


NO_MEMORY = ["RESOURCE_EXHAUSTED: Out of memory while trying to allocate", "INTERNAL: Out of memory allocating 4 bytes."]


@pytest.mark.parametrize("said", NO_MEMORY, ids=["of an accelerator", "of a CPU"])
def test_runs_that_do_not_fit_into_memory_take_turns(said, tmp_path, monkeypatch, capsys):
    """The allocation fails until two of the six runs are computed at once; the numbers stay."""
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(40, 3)), "action": rng.uniform(-0.9, 0.9, (40, 2)), "reward": rng.normal(size=40)}
    data = from_arrays(**arrays, terminal=np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.steps": 6, "policy.batch_size": 4, "policy.hidden": (8,)})
    whole = srpo.train(algorithm, data, seeds=6, out=tmp_path / "whole", quiet=True)
    plain = StageLoop.compiled

    def compiled(self):
        program = plain(self)

        def starved(*args):
            if self.rounds < 3:
                jax.tree.map(lambda x: x.delete(), args[1:3])  # as after a donation
                raise jax.errors.JaxRuntimeError(said)
            return program(*args)

        return starved

    monkeypatch.setattr(StageLoop, "compiled", compiled)
    turns = srpo.train(algorithm, data, seeds=6, out=tmp_path / "turns")
    assert "does not hold all runs at once; they take turns in 4 rounds" in "".join(capsys.readouterr())
    for a, b in zip(jax.tree.leaves(whole.results), jax.tree.leaves(turns.results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # two at once are products of another shape


@pytest.mark.parametrize("large", ["critic", "policy"])
def test_what_no_turns_can_fit_into_memory_leaves_a_run_only_where_something_was_trained(large, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(40, 3)), "action": rng.uniform(-0.9, 0.9, (40, 2)), "reward": rng.normal(size=40)}
    data = from_arrays(**arrays, terminal=np.zeros(40, bool))
    small = {"steps": 3, "hidden": (8,), "batch_size": 4}
    tiny = {f"{stage}.{name}": value for stage in ("critic", "policy") for name, value in small.items()} | {
        "data.reward": "none"
    }
    plain = StageLoop.compiled

    def starved(*args):
        raise jax.errors.JaxRuntimeError(NO_MEMORY[1])

    monkeypatch.setattr(StageLoop, "compiled", lambda self: starved if self.name == large else plain(self))
    with pytest.raises(
        ConfigError, match=f"stage {large}, 2 runs: the memory does not hold what one of them needs; choose narrower"
    ):
        srpo.train(srpo.configure("iql", data, **tiny), data, seeds=2, out=tmp_path / "run", quiet=True)
    assert (tmp_path / "run").exists() == (large == "policy")


def test_more_devices_than_there_are_is_one_line(found):
    assert found["refused"] == "found 5 devices to train on, expected 1 to 4, what this machine has"


def test_networks_that_no_memory_holds_are_one_line(tmp_path, monkeypatch):
    data = from_arrays(np.zeros((40, 3)), np.zeros((40, 2)), np.arange(40.0), np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.hidden": (65536, 65536), "policy.steps": 5})
    with pytest.raises(ConfigError, match=r"stage policy, 9 runs: networks.* take .* (GiB|TiB), .* are free"):
        srpo.train(algorithm, data, seeds=9, out=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("data_in", ["device", "memory"])
def test_batches_that_no_memory_holds_are_one_line(data_in, tmp_path):
    data = from_arrays(np.zeros((40, 3)), np.zeros((40, 2)), np.arange(40.0), np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.batch_size": 2_000_000_000, "policy.steps": 5})
    with pytest.raises(ConfigError, match=r"batches of 2000000000 rows take .* GiB, .* are free; choose smaller ones"):
        srpo.train(algorithm, data, out=tmp_path / "run", data_in=data_in, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_gpu_runs_kernels_side_by_side_if_this_jax_can(monkeypatch):
    programs.compiler_options.cache_clear()
    assert programs.compiler_options() == {}  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    programs.compiler_options.cache_clear()
    assert programs.compiler_options() == programs.SIDE_BY_SIDE
    monkeypatch.setattr(programs, "SIDE_BY_SIDE", {"xla_gpu_no_such_option": "CONCURRENT"})
    programs.compiler_options.cache_clear()
    assert programs.compiler_options() == {}
    programs.compiler_options.cache_clear()
