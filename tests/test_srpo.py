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

OBS = np.zeros((2, 1), np.float32)


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
    critic = LinearCritic(np.float32([[1.0, 0.0], [3.0, 8.0]]))  # mean gradient (2, 4)
    action, noise = np.float32([[0.5, -0.5], [0.0, 1.0]]), np.float32([[1.0, 0.0], [-1.0, 2.0]])
    x = 0.281183 * action + 0.959654 * noise
    gap = 2 * x - noise
    kinds = {
        "sigma^2": (dict(), 0.959654**2 * gap),
        "1": (dict(weight="1"), gap),
        "alpha/sigma": (dict(weight="alpha/sigma"), 0.281183 / 0.959654 * gap),
        "no baseline": (dict(baseline=False), 0.959654**2 * 2 * x),
    }

    def twice(x, t, obs):
        return 2.0 * x

    def still(x, t, obs):
        return noise  # the score term vanishes

    @jax.jit
    def directions(action, noise):
        def direction(behavior, **options):
            return policy_direction(critic, behavior, VP(), OBS, action, jnp.full(2, 0.5), noise, **options)

        weighed = [direction(twice, beta=0.1, **options) for options, _ in kinds.values()]
        return weighed, [direction(still, beta=1.0, weight="1", normalize=kind) for kind in ("2-norm", "rms")]

    weighed, normalized = directions(action, noise)
    for found, (_, score) in zip(weighed, kinds.values(), strict=True):
        np.testing.assert_allclose(found, score - 0.1 * np.array([2.0, 4.0]), rtol=2e-5, atol=1e-6)
    for found, norm in zip(normalized, (20**0.5, 10**0.5), strict=True):
        np.testing.assert_allclose(found, -np.array([[2.0, 4.0]] * 2) / norm, rtol=1e-6)


def test_a_zero_gradient_stays_zero_when_normalized():
    @jax.jit
    def directions(action, t):
        flat = LinearCritic(jnp.zeros((2, 2)))
        args = flat, lambda x, t, obs: x, VP(), OBS, action, t, 0 * action
        return [policy_direction(*args, beta=1.0, normalize=kind) for kind in ("2-norm", "rms")]

    assert not np.any(directions(np.zeros((2, 2), np.float32), np.full(2, 0.5, np.float32)))


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
    obs, ones = np.zeros((n, 1), np.float32), np.ones(n, np.float32)
    return Batch(obs, action.astype(np.float32), 0 * ones, obs, ones, np.arange(n))


@pytest.mark.parametrize("parametrization", ["noise", "preconditioned"])
def test_the_behavior_model_learns_a_gaussian(parametrization):
    """Its noise must be the known one of N(mean, 0.3^2) at all times where SRPO asks for it."""
    mean = np.array([0.4, -0.2])
    data = bandit(mean + 0.3 * np.random.default_rng(0).normal(size=(4096, 2)))
    stage = DiffusionBehavior(
        steps=1000, batch_size=64, width=24, blocks=1, dropout=0.0, parametrization=parametrization, lr=4e-3, weight_decay=0.0
    )
    model, _ = fit(stage, data)
    exact = GaussianBehavior(mean.astype(np.float32), 0.09)

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

    @jax.jit
    def both():
        exact, key = GaussianBehavior(jnp.array([0.3, -0.1]), 0.05), jax.random.key(1)
        t, x, noise = (
            jnp.linspace(0.001, 1.0, 64),
            jax.random.normal(key, (64, 2)),
            jax.random.normal(jax.random.key(2), (64, 2)),
        )
        alpha, sigma = (a[:, None] for a in VP()(t))
        total = jnp.sqrt(sigma**2 + 0.25 * alpha**2)
        c_skip, c_out = 0.25 * alpha / total**2, 0.5 * sigma / total
        denoised, action = (x - sigma * exact(x, t, None)) / alpha, 0.1 * x

        def inverse(scaled, times, obs, key=None):
            """F such that c_skip y + c_out F = the denoised action."""
            return (denoised - c_skip * x) / c_out

        def zero(scaled, times, obs, key=None):
            return jnp.zeros_like(scaled)

        model, error = Preconditioned(inverse), Preconditioned(zero).error(action, t, noise, jnp.zeros(0))
        return [
            (model(x, t, None), exact(x, t, None), 2e-4, 0),
            (model.denoise(x, t, None)[:20], denoised[:20], 1e-4, 0),
            (error, (c_skip * (alpha * action + sigma * noise) - action) / c_out, 2e-3, 2e-3),
            (NoisePrediction(zero, VP()).error(action, t, noise, jnp.zeros(0)), -noise, 0, 1e-6),
        ]

    for found, expected, atol, rtol in both():
        np.testing.assert_allclose(found, expected, atol=atol, rtol=rtol)


def test_the_policy_moves_from_the_mode_to_argmax_q_as_beta_grows():
    """Gaussian behavior N(m, v), Q = -|a - b|^2 / 2. The expected direction is E[w sigma alpha / (alpha^2 v + sigma^2)] (a - m)
    + beta (a - b), so the optimum is (c m + beta b) / (c + beta) with that expectation c."""
    m, b, v = np.float32([-0.5, 0.2]), np.float32([0.6, -0.3]), 0.1
    alpha, sigma = map(np.asarray, jax.jit(VP().__call__)(np.linspace(0.02, 0.98, 4001)))
    c = float(np.mean(sigma**2 * sigma * alpha / (alpha**2 * v + sigma**2)))
    given = {"critic": Quadratic(b), "behavior": GaussianBehavior(m, v)}
    data = bandit(np.zeros((8, 2)))
    stage = ScoreRegularizedPolicy(steps=1200, batch_size=64, hidden=(8,), lr=1e-2)
    found, acted = {}, jax.jit(lambda actor: actor(jnp.zeros(1)))
    for beta in (0.01, 0.2, 5.0):
        actor, _ = fit(eqx.tree_at(lambda s: s.beta, stage, beta), data, given)
        found[beta] = np.array(acted(actor))
        np.testing.assert_allclose(found[beta], (c * m + beta * b) / (c + beta), atol=0.02)
    np.testing.assert_allclose(found[0.01], m, atol=0.08)
    np.testing.assert_allclose(found[5.0], b, atol=0.08)
