"""IDQL and diffusion cloning: value losses, implicit policies, and both on a bandit with a known optimum."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import BEST, acts, bandit, fit, fit_all

from srpo.algorithms.bc_diffusion import DiffusionBC
from srpo.algorithms.idql import IDQL, LOSSES, ImplicitCritic, ImplicitWeight
from srpo.diffusion.samplers import Ancestral
from srpo.diffusion.schedules import Discrete

CRITIC = ImplicitCritic(steps=1200, batch_size=64, hidden=(32,), lr=5e-3, ema=0.05, value_norm=True)
SMALL_BEHAVIOR = {
    "behavior.steps": 800,
    "behavior.batch_size": 64,
    "behavior.width": 32,
    "behavior.blocks": 1,
    "behavior.time_size": 16,
    "behavior.dropout": 0.0,
    "behavior.lr": 3e-3,
    "behavior.ema": 0.01,
}


def small(algorithm, values):
    for path, value in values.items():
        algorithm = algorithm.set(path, value)
    return algorithm


QUANTILES = np.array([0.1, 0.25, 0.75, 0.9])


@partial(jax.jit, static_argnums=0)
def exact_sampler(clip):
    """Quantiles of the five-step sampler with the exact noise prediction of the bandit's behavior: it blurs the modes."""
    schedule = Discrete.vp(5)

    def noise(x, k, std=0.1):
        alpha, sigma = schedule(k)
        var = alpha**2 * std**2 + sigma**2
        share = jax.nn.sigmoid(2 * alpha * 0.6 * x / var)  # of the upper mode
        clean = [(mode * sigma**2 + alpha * std**2 * x) / var for mode in (0.6, -0.6)]
        return (x - alpha * (share * clean[0] + (1 - share) * clean[1])) / sigma

    return jnp.quantile(Ancestral(clip)(noise, schedule, jax.random.key(7), (20_000,)), QUANTILES)


@partial(jax.jit, static_argnums=0)
def value_and_slope(loss, u, level):
    return jax.value_and_grad(LOSSES[loss])(u, level)


@pytest.mark.parametrize(
    "loss, level, u, value",
    [
        ("expectile", 0.7, 2.0, 0.7 * 4),
        ("expectile", 0.7, -2.0, 0.3 * 4),
        ("quantile", 0.7, 2.0, 0.7 * 2),
        ("quantile", 0.7, -2.0, 0.3 * 2),
        ("exponential", 2.0, 0.5, (np.e - 2) / 2),
        ("exponential", 2.0, -1.0, (np.exp(-2) + 1) / 2),
        ("exponential", 1.0, 3.0, 5 - np.log(6) + 5 * (3 - np.log(6))),  # a line of slope 5 from exp(z) = 6
    ],
)
def test_value_losses_by_hand(loss, level, u, value):
    assert value_and_slope(loss, u, level)[0] == pytest.approx(value, rel=1e-5)


def test_the_exponential_loss_has_the_authors_gradient():
    for u in np.linspace(-3, 3, 50):
        slope = value_and_slope("exponential", u, 1.5)[1]
        np.testing.assert_allclose(slope, np.exp(np.minimum(1.5 * u, np.log(6.0))) - 1, atol=1e-5)


class Table(eqx.Module):
    """A critic whose Q is the action itself."""

    value: jax.Array

    def q_target(self, obs, action):
        return jnp.stack([action[:, 0], action[:, 0] + 1])

    def v(self, obs):
        return jnp.full(obs.shape[:-1], self.value)


@partial(jax.jit, static_argnames="loss")
def implicit_value(q, loss, level):
    """argmin of the mean loss by brute force."""
    v = jnp.linspace(q.min(), q.max(), 20_001)
    return v[jnp.argmin(jnp.mean(LOSSES[loss](q[:, None] - v, level), 0))]


@pytest.mark.parametrize("loss, level", [("expectile", 0.8), ("quantile", 0.8), ("exponential", 2.0)])
def test_the_value_is_the_mean_of_q_under_the_implicit_policy(loss, level):
    """The defining property of the implicit policy (sec. 4); exact up to the grid of V, for the quantile up to one sample."""
    q = np.random.default_rng(1).standard_normal(500, np.float32)

    @jax.jit
    def both(q):
        v = implicit_value(q, loss, level)
        return v, ImplicitWeight(Table(v), level, loss)(jnp.zeros((500, 1)), q[:, None])[0]

    v, weight = map(np.asarray, both(q))
    distance = np.abs(q - v) > (0.05 if loss == "quantile" else 0.0)  # |f'| / |u| = 1 / |u| has its pole at V
    balance = np.sum(np.where(distance, np.exp(weight) * (q - v), 0.0)) / np.sum(np.abs(np.exp(weight) * (q - v)))
    assert abs(balance) < (0.03 if loss == "quantile" else 2e-3)


@pytest.mark.parametrize("loss, level", [("expectile", 0.8), ("exponential", 2.0)])
def test_the_critic_learns_the_implicit_value_of_the_bandit(loss, level):
    critic, _ = fit(replace(CRITIC, loss=loss, level=level), bandit())
    expected = implicit_value(bandit().reward, loss, level)
    x = np.float32([[-0.6], [0.6]])
    v, q = jax.jit(lambda critic: (critic.v(jnp.ones(1)), critic.q(jnp.ones((2, 1)), x)))(critic)
    assert float(v) == pytest.approx(float(expected), abs=0.15)
    np.testing.assert_allclose(q, [[-4.41, -0.09]] * 2, atol=0.15)


def test_the_median_splits_the_data():
    u = np.float32([-3.0, -1.0, 0.5, 2.0, 9.0])
    assert implicit_value(u, "quantile", 0.5) == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose([value_and_slope("quantile", x, 0.5)[0] for x in u], np.abs(u) / 2)


class Known(eqx.Module):
    """The bandit's Q, in both heads, and a value."""

    value: jax.Array

    def q_target(self, obs, action):
        return jnp.stack([-4 * (action[:, 0] - BEST) ** 2] * 2)

    def v(self, obs):
        return jnp.full(obs.shape[:-1], self.value)


def test_idql_takes_the_best_of_what_the_behavior_does():
    """With the critic of the test above as it should be: between the modes, where no data are, a trained one says anything."""
    algorithm = small(IDQL(), SMALL_BEHAVIOR)
    trained = {
        "critic": Known(implicit_value(bandit().reward, "expectile", 0.7)),
        "behavior": fit(algorithm.behavior, bandit())[0],
    }
    best = acts(algorithm.make_policy(trained))
    one = acts(algorithm.set("candidates", 1).make_policy(trained), n=500)
    implicit = acts(algorithm.set("choice", "implicit").make_policy(trained))
    share = 0.7 / (0.7 + 0.3)  # weight 0.7 above V, 0.3 below: the lower mode is below
    assert abs(best - BEST).mean() < 0.05
    np.testing.assert_allclose(np.quantile(one, QUANTILES), exact_sampler("x"), atol=0.12)  # the behavior itself
    assert (implicit > 0).mean() == pytest.approx(share, abs=0.12)


def test_diffusion_cloning_is_the_sampler_with_the_exact_noise():
    stage = {"policy.steps": 1500, "policy.batch_size": 128, "policy.hidden": (64, 64, 64), "policy.lr": 3e-3}
    action = acts(fit_all(small(DiffusionBC(), stage), bandit()), n=500)
    np.testing.assert_allclose(np.quantile(action, QUANTILES), exact_sampler("x0"), atol=0.12)


def test_a_policy_that_draws_needs_a_key():
    stage = DiffusionBC().policy
    untrained = stage.result(jax.eval_shape(stage.init, bandit(32), {}, jax.random.key(0)))
    with pytest.raises(ValueError, match="give a key"):
        DiffusionBC().make_policy({"policy": untrained}).act(jnp.zeros(1))
