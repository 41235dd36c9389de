"""The dial: at every temperature the policy that SRPO would train for it, within its range and in every exported form."""

import subprocess

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from bandits import fit
from deploy_cases import ACT, AT_BETA, BETA, DATA, DIALED, FRESH, OBS, POLICIES, acted_at

from srpo.algorithms.srpo_dial import DialedPolicyStage, SRPODial
from srpo.config import assign_all
from srpo.core import Batch
from srpo.deploy import DeployError, Policy, SafePolicy, export_policy, onnx_file
from srpo.deploy.ctarget import CompiledPolicy
from srpo.diffusion.schedules import VP
from srpo.errors import ConfigError
from srpo.networks.actors import DialedActor
from srpo.networks.layers import Normalizer
from srpo.policies import DialedPolicy
from srpo.runs.units import Normalized

BEST = np.float32([0.5])


class Quadratic(eqx.Module):
    """Q(a) = -|a - best|^2 / 2 in both heads."""

    best: jax.Array

    def q_target(self, obs, action):
        return -0.5 * jnp.sum((action - self.best) ** 2, -1) * jnp.ones((2, *action.shape[:-1]))


class Around(eqx.Module):
    """The exact noise of mu(a|s) = N(s, 0.2^2)."""

    schedule: VP = eqx.field(static=True, default=VP())

    def __call__(self, x, t, obs):
        alpha, sigma = (a[..., None] for a in self.schedule(t))
        return sigma * (x - alpha * obs) / (0.04 * alpha**2 + sigma**2)


def test_at_every_temperature_it_is_the_policy_of_that_temperature():
    """Eq. 15 vanishes where c (a - s) = beta (best - a), c = E_t sigma^3 alpha / (0.04 alpha^2 + sigma^2)."""
    alpha, sigma = map(np.asarray, jax.jit(VP().__call__)(np.linspace(0.02, 0.98, 10_001)))
    c = float(np.mean(sigma**3 * alpha / (0.04 * alpha**2 + sigma**2)))
    obs, zeros = np.tile(np.float32([[-0.5], [0.2]]), (256, 1)), np.zeros(512, np.float32)
    data = Batch(obs, 0 * obs, zeros, obs, zeros + 1, np.arange(512))
    stage = DialedPolicyStage(steps=1000, batch_size=128, hidden=(32, 32), lr=5e-3, low=0.01, high=1.0)
    actor, _ = fit(stage, data, {"critic": Quadratic(BEST), "behavior": Around()})
    beta, acted = np.float32([0.01, 0.05, 0.2, 1.0]), jax.jit(lambda actor, obs, beta: actor(obs, beta)[:, 0])
    for s in (-0.5, 0.2):
        found = acted(actor, np.full((4, 1), s, np.float32), beta)
        np.testing.assert_allclose(found, (c * s + beta * 0.5) / (c + beta), atol=0.04)


def test_beyond_the_range_the_nearest_end_acts():
    policy = jax.jit(lambda: DialedPolicy(DialedActor(3, 2, (8,), jax.random.key(0), 0.02, 0.5), 0.1))()
    acted, obs = jax.jit(lambda policy, obs, beta: policy.act(obs, beta=beta)), np.float32([0.3, -1.0, 2.0])
    found = {beta: np.asarray(acted(policy, obs, beta)) for beta in (-1.0, 0.0, 0.02, 0.1, 0.3, 0.5, 3.0)}
    np.testing.assert_allclose(policy.actor.range, [0.02, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(jax.jit(lambda policy: policy.act(obs))(policy), found[0.1])
    np.testing.assert_allclose(found[3.0], found[0.5], atol=1e-6)
    for low in (-1.0, 0.0):
        np.testing.assert_allclose(found[low], found[0.02], atol=1e-6)
    assert np.abs(found[0.5] - found[0.02]).max() > 1e-3
    shifted = Normalized(Normalizer(np.ones(3, np.float32), np.full(3, 2, np.float32)), policy)
    np.testing.assert_allclose(acted(shifted, 2 * obs + 1, 0.3), found[0.3], atol=1e-6)


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"policy.low": 0.5, "policy.high": 0.1}, "policy.low: found 0.5, expected less than policy.high, 0.1"),
        ({"beta": 2}, "beta: found 2, expected a temperature from policy.low, 0.01, to policy.high, 0.5"),
    ],
)
def test_ranges_that_are_none(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        assign_all(SRPODial(), values)


@pytest.mark.parametrize("name", DIALED)
def test_every_exported_form_takes_the_temperature(name, tmp_path):
    policy = DIALED[name]
    contract = export_policy(policy, tmp_path / "robot", data=DATA, calls=200)
    low, high = policy.policy.actor.range if name.startswith("normalized") else policy.actor.range
    dial = contract["dial"]
    assert (dial["name"], dial["default"]) == ("beta", pytest.approx(0.3 if name.startswith("normalized") else 0.1))
    np.testing.assert_allclose([dial["low"], dial["high"]], [low, high], rtol=1e-5)
    assert {row["form"] for row in contract["latency"]} == {"onnx", "numpy", "c"}
    wanted, default = acted_at(policy), np.asarray(jax.jit(jax.vmap(policy.act))(FRESH))
    model = onnx.load(tmp_path / "robot/policy.onnx")
    ends = [(end.name, [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]) for end in model.graph.input]
    assert ends == [("obs", ["batch", OBS]), ("beta", ["batch", 1])]
    runtime = Policy(tmp_path / "robot/policy.safetensors")
    for found in (
        runtime.act(FRESH, BETA),
        onnx_file.act(tmp_path / "robot/policy.onnx")(AT_BETA),
        onnx_file.read(tmp_path / "robot/policy.onnx").forward(FRESH, BETA),
        CompiledPolicy(tmp_path / "robot/policy.c").act(AT_BETA),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(runtime.act(FRESH), default, atol=1e-5)
    at_0_05 = jax.jit(lambda obs: policy.act(obs, beta=0.05))(FRESH[0])
    np.testing.assert_allclose(runtime.act(FRESH[0], 0.05), at_0_05, atol=1e-5)
    assert runtime.self_test() < 1e-5 and SafePolicy(runtime).act(DATA[0], 0.05).shape == (ACT,)
    check = ["policy.c", "policy_check.c", "-lm", "-o", "check"]
    for command in (["gcc", "-std=c99"], ["g++", "-x", "c++"]):
        subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-pedantic", *check], cwd=tmp_path / "robot", check=True)
        assert subprocess.run([tmp_path / "robot/check"], capture_output=True).returncode == 0
    for beta in (0.0, np.nan, [0.1, -1.0], "warm", [[0.1], [0.1, 0.2]]):
        with pytest.raises(DeployError, match="expected a number above zero, from 0.0"):
            runtime.act(FRESH[:2], beta)
    for shape in ((2, 1), (3,), (1, 2)):
        with pytest.raises(DeployError, match=r"found beta of shape .*, expected one number or one per observation, \(2,\)"):
            runtime.act(FRESH[:2], np.full(shape, 0.1))
    for act in (runtime.act, SafePolicy(runtime).act):
        with pytest.raises(DeployError, match=r"found beta of shape \(1,\), expected one number$"):
            act(DATA[0], np.full(1, 0.1))


def test_a_policy_without_a_dial_refuses_a_temperature(tmp_path):
    export_policy(POLICIES["bc"], tmp_path / "policy.safetensors", calls=0)
    with pytest.raises(DeployError, match="the policy has no dial; train one with --algo srpo-dial"):
        Policy(tmp_path / "policy.safetensors").act(FRESH, beta=0.1)
