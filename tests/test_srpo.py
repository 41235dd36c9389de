"""SRPO: its formula by hand, its presets by the paper's tables, and what the whole does on problems with known answers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import fit

from srpo import config
from srpo.algorithms.srpo import SRPO, ScoreRegularizedPolicy
from srpo.core import Batch
from srpo.diffusion.parametrization import NoisePrediction, Preconditioned
from srpo.diffusion.schedules import VP
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.stages.score_regularized import policy_direction

OBS = jnp.zeros((2, 1))


class LinearCritic(eqx.Module):
    """Two target heads with gradients g1, g2 everywhere; the mean is what SRPO climbs."""

    g: jax.Array  # (2, act)

    def q_target(self, obs, action):
        return self.g @ action.T

    def q(self, obs, action):
        raise AssertionError("SRPO uses the target heads")


class Quadratic(eqx.Module):
    """Q(a) = -|a - best|^2 / 2 in both heads."""

    best: jax.Array

    def q_target(self, obs, action):
        return -0.5 * jnp.sum((action - self.best) ** 2, -1) * jnp.ones((2, *action.shape[:-1]))


class GaussianBehavior(eqx.Module):
    """The exact noise of N(mean, var): sigma (x - alpha mean) / (alpha^2 var + sigma^2)."""

    mean: jax.Array
    var: float
    schedule: VP = eqx.field(static=True, default=VP())

    def __call__(self, x, t, obs, key=None):
        alpha, sigma = (a[..., None] for a in self.schedule(t))
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.var + sigma**2)


def test_the_direction_by_hand():
    """At t = 0.5: alpha = 0.281183, sigma = 0.959654 (known values of the VP schedule)."""
    critic = LinearCritic(jnp.array([[1.0, 0.0], [3.0, 8.0]]))  # mean gradient (2, 4)

    def behavior(x, t, obs):
        return 2.0 * x

    action, noise = jnp.array([[0.5, -0.5], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [-1.0, 2.0]])
    t = jnp.array([0.5, 0.5])
    x = 0.281183 * np.array(action) + 0.959654 * np.array(noise)
    gap = 2 * x - np.array(noise)
    kinds = {
        "sigma^2": (dict(), 0.959654**2 * gap),
        "1": (dict(weight="1"), gap),
        "alpha/sigma": (dict(weight="alpha/sigma"), 0.281183 / 0.959654 * gap),
        "no baseline": (dict(baseline=False), 0.959654**2 * 2 * x),
    }
    for options, score in kinds.values():
        found = policy_direction(critic, behavior, VP(), OBS, action, t, noise, beta=0.1, **options)
        np.testing.assert_allclose(found, score - 0.1 * np.array([2.0, 4.0]), rtol=2e-5, atol=1e-6)
    q_only = dict(beta=1.0, weight="1")

    def still(x, t, obs):
        return noise  # the score term vanishes

    for normalize, norm in (("2-norm", 20**0.5), ("rms", 10**0.5)):
        found = policy_direction(critic, still, VP(), OBS, action, t, noise, normalize=normalize, **q_only)
        np.testing.assert_allclose(found, -np.array([[2.0, 4.0]] * 2) / norm, rtol=1e-6)


def test_a_zero_gradient_stays_zero_when_normalized():
    flat = LinearCritic(jnp.zeros((2, 2)))
    args = (lambda x, t, obs: x, VP(), OBS, jnp.zeros((2, 2)), jnp.full(2, 0.5), jnp.zeros((2, 2)))
    for normalize in ("2-norm", "rms"):
        assert not np.any(policy_direction(flat, *args, beta=1.0, normalize=normalize))


TABLE_2 = [
    "halfcheetah-medium-expert",
    "0.01",
    "halfcheetah-medium",
    "0.2",
    "halfcheetah-medium-replay",
    "0.2",
    "hopper-medium-expert",
    "0.01",
    "hopper-medium",
    "0.05",
    "hopper-medium-replay",
    "0.2",
    "walker2d-medium-expert",
    "0.1",
    "walker2d-medium",
    "0.05",
    "walker2d-medium-replay",
    "0.5",
    "antmaze-umaze",
    "0.02",
    "antmaze-umaze-diverse",
    "0.04",
    "antmaze-medium-play",
    "0.08",
    "antmaze-medium-diverse",
    "0.05",
    "antmaze-large-play",
    "0.06",
    "antmaze-large-diverse",
    "0.05",
]


@pytest.mark.parametrize("task", range(15))
def test_presets_are_the_papers(task):
    name, beta = TABLE_2[2 * task] + "-v2", float(TABLE_2[2 * task + 1])
    maze = name.startswith("antmaze")
    for preset in ("paper", "authors-code"):
        a = config.assign_all(SRPO(), config.preset(SRPO.presets, preset, name))
        assert (a.critic.steps, a.behavior.steps, a.policy.steps) == (1_500_000, 2_000_000, 1_000_000)
        assert (a.critic.batch_size, a.behavior.batch_size, a.policy.batch_size) == (256, 2048, 256)
        assert a.policy.beta == beta and a.critic.expectile == (0.9 if maze else 0.7)
        assert a.policy.hidden == (256,) * (4 if maze else 2)
        assert a.policy.weight == "sigma^2" and a.behavior.parametrization == "noise" and a.behavior.weight_decay == 0.01
        assert a.policy.baseline == (preset == "paper")
        norm = {"paper": "2-norm", "authors-code": "rms"}[preset] if maze else None
        reward = "minus-one" if maze else {"paper": "return-range", "authors-code": "return-range-authors"}[preset]
        assert a.policy.normalize == norm and a.data.reward == reward


def bandit(action):
    n = len(action)
    obs = jnp.zeros((n, 1))
    return Batch(obs, jnp.asarray(action, jnp.float32), jnp.zeros(n), obs, jnp.ones(n), jnp.arange(n))


@pytest.mark.parametrize("parametrization", ["noise", "preconditioned"])
def test_the_behavior_model_learns_a_gaussian(parametrization):
    """Its noise must be the known one of N(mean, 0.3^2) at all times where SRPO asks for it."""
    mean = np.array([0.4, -0.2])
    data = bandit(mean + 0.3 * np.random.default_rng(0).normal(size=(4096, 2)))
    stage = DiffusionBehavior(
        steps=1000, batch_size=64, width=24, blocks=1, dropout=0.0, parametrization=parametrization, lr=4e-3, weight_decay=0.0
    )
    model, _ = fit(stage, data)
    exact = GaussianBehavior(jnp.array(mean), 0.09)

    @jax.jit
    def error(model, t):
        times = jnp.full(512, t)
        alpha, sigma = VP()(times)
        x_t = alpha[:, None] * mean + jnp.sqrt(alpha**2 * 0.09 + sigma**2)[:, None] * jax.random.normal(
            jax.random.key(7), (512, 2)
        )
        return jnp.sqrt(jnp.mean((model(x_t, times, jnp.zeros((512, 1))) - exact(x_t, times, None)) ** 2))

    for t in (0.05, 0.3, 0.8):
        assert error(model, t) < 0.2, t  # of a noise of unit size


def test_parametrizations_are_one_model_in_two_guises():
    """With the network's output that a perfect denoiser needs, both give the exact noise; their errors are proportional."""
    exact = GaussianBehavior(jnp.array([0.3, -0.1]), 0.05)
    key = jax.random.key(1)
    t = jnp.linspace(0.001, 1.0, 64)
    x = jax.random.normal(key, (64, 2))
    alpha, sigma = (a[:, None] for a in VP()(t))
    denoised = (x - sigma * exact(x, t, None)) / alpha

    class Inverse(eqx.Module):
        """F such that c_skip y + c_out F = the denoised action."""

        def __call__(self, scaled, times, obs, key=None):
            total = jnp.sqrt(sigma**2 + 0.25 * alpha**2)
            return (denoised - 0.25 * alpha / total**2 * x) * total / (0.5 * sigma)

    model = Preconditioned(Inverse())
    np.testing.assert_allclose(model(x, t, None), exact(x, t, None), atol=2e-4)
    np.testing.assert_allclose(model.denoise(x, t, None)[:20], denoised[:20], atol=1e-4)
    action, noise = 0.1 * x, jax.random.normal(jax.random.key(2), (64, 2))

    class Zero(eqx.Module):
        def __call__(self, scaled, times, obs, key=None):
            return jnp.zeros_like(scaled)

    f_error = Preconditioned(Zero()).error(action, t, noise, jnp.zeros(0))
    x_t = alpha * action + sigma * noise
    total = jnp.sqrt(sigma**2 + 0.25 * alpha**2)
    c_skip, c_out = 0.25 * alpha / total**2, 0.5 * sigma / total
    np.testing.assert_allclose(f_error, (c_skip * x_t - action) / c_out, rtol=2e-3, atol=2e-3)
    assert NoisePrediction(Zero(), VP()).error(action, t, noise, jnp.zeros(0)) == pytest.approx(-np.array(noise))


def test_the_policy_moves_from_the_mode_to_argmax_q_as_beta_grows():
    """Gaussian behavior N(m, v), Q = -|a - b|^2 / 2. The expected direction is E[w sigma alpha / (alpha^2 v + sigma^2)] (a - m)
    + beta (a - b), so the optimum is (c m + beta b) / (c + beta) with that expectation c."""
    m, b, v = jnp.array([-0.5, 0.2]), jnp.array([0.6, -0.3]), 0.1
    alpha, sigma = VP()(jnp.linspace(0.02, 0.98, 4001))
    c = float(jnp.mean(sigma**2 * sigma * alpha / (alpha**2 * v + sigma**2)))
    given = {"critic": Quadratic(b), "behavior": GaussianBehavior(m, v)}
    data = bandit(np.zeros((8, 2)))
    stage = ScoreRegularizedPolicy(steps=1200, batch_size=64, hidden=(8,), lr=1e-2)
    found = {}
    for beta in (0.01, 0.2, 5.0):
        actor, _ = fit(eqx.tree_at(lambda s: s.beta, stage, beta), data, given)
        found[beta] = np.array(actor(jnp.zeros(1)))
        np.testing.assert_allclose(found[beta], (c * m + beta * b) / (c + beta), atol=0.02)
    np.testing.assert_allclose(found[0.01], m, atol=0.08)
    np.testing.assert_allclose(found[5.0], b, atol=0.08)
