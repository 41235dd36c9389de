"""Runs over several devices, here forced on the CPU: the same numbers, byte for byte, however many there are."""

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
from srpo.training.loop import StageLoop

PROGRAM = """
import hashlib, json, sys
import jax, numpy as np
import srpo
from srpo.data import from_arrays
from srpo.errors import ConfigError
from srpo.errors import UserError

rng = np.random.default_rng(0)
arrays = {"obs": rng.normal(size=(60, 3)), "action": rng.uniform(-0.9, 0.9, (60, 2)), "reward": rng.normal(size=60)}
data = from_arrays(**arrays, terminal=np.arange(60) % 20 == 19)
small = {"critic.hidden": (4,), "policy.hidden": (4,), "data.reward": "none"}
sizes = {f"{s}.{k}": v for s in ("critic", "policy") for k, v in {"steps": 4, "batch_size": 4}.items()}
algorithm = srpo.configure("iql", data, **small, **sizes)
found = {}
for devices in (1, 2, 4):
    out = f"{sys.argv[1]}/{devices}"
    run = srpo.train(algorithm, data, seeds=3, sweep={"policy.beta": [0.1, 0.5]}, out=out, quiet=True, devices=devices)
    found[devices] = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(run.results))).hexdigest()
try:
    srpo.train(algorithm, data, out=f"{sys.argv[1]}/5", quiet=True, devices=5)
except UserError as e:
    found["refused"] = str(e)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    flags = "--xla_force_host_platform_device_count=4"  # code as users run it: the tests' own options fuse by the layout
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("devices"))]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_two_and_four_devices_give_the_same_bytes(found):
    assert found["1"] == found["2"] == found["4"]  # six runs of the policy on four devices: two are padding


def test_runs_that_do_not_fit_into_memory_take_turns(tmp_path, monkeypatch, capsys):
    """The allocation fails until two of the six runs are computed at once; the numbers stay."""
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(40, 3)), "action": rng.uniform(-0.9, 0.9, (40, 2)), "reward": rng.normal(size=40)}
    data = from_arrays(**arrays, terminal=np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.steps": 6, "policy.batch_size": 4, "policy.hidden": (8, 8)})
    whole = srpo.train(algorithm, data, seeds=6, out=tmp_path / "whole", quiet=True)
    plain = StageLoop.compiled

    def compiled(self):
        program = plain(self)

        def starved(*args):
            if self.rounds < 3:
                jax.tree.map(lambda x: x.delete(), args[1:3])  # as after a donation
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            return program(*args)

        return starved

    monkeypatch.setattr(StageLoop, "compiled", compiled)
    turns = srpo.train(algorithm, data, seeds=6, out=tmp_path / "turns")
    assert "does not hold all runs at once; they take turns in 4 rounds" in "".join(capsys.readouterr())
    for a, b in zip(jax.tree.leaves(whole.results), jax.tree.leaves(turns.results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # two at once are products of another shape


def test_more_devices_than_there_are_is_one_line(found):
    assert found["refused"] == "found 5 devices to train on, expected 1 to 4, what this machine has"


def test_networks_that_no_memory_holds_are_one_line(tmp_path, monkeypatch):
    data = from_arrays(np.zeros((40, 3)), np.zeros((40, 2)), np.arange(40.0), np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.hidden": (65536, 65536), "policy.steps": 5})
    with pytest.raises(ConfigError, match=r"stage policy, 9 runs: networks.* take .* (GiB|TiB), .* are free"):
        srpo.train(algorithm, data, seeds=9, out=tmp_path / "run", quiet=True)
