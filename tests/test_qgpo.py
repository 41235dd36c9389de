"""QGPO: contrastive energy, in-support Q-learning and guided sampling against closed forms, and all of it on a bandit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import acts, bandit, fit
from exact import GaussianBehavior, TwoModes

from srpo.algorithms.qgpo import QGPO, ContrastiveEnergy, Guided, InSupportCritic
from srpo.config import assign_all
from srpo.core import Batch
from srpo.diffusion.schedules import VP
from srpo.diffusion.solver import Solver
from srpo.losses import contrastive_energy
from srpo.policies import DiffusionPolicy
from srpo.stages.score_behavior import ScoreBehavior
from srpo.stages.support import Proposals


def test_contrastive_energy_by_hand():
    q, both = np.log(np.float32([1.0, 3.0])), jax.jit(jax.value_and_grad(contrastive_energy))
    assert both(0 * q, q, 1.0)[0] == pytest.approx(np.log(2))
    assert both(q + 7, q, 1.0)[0] == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75), rel=1e-5)  # least: the entropy
    np.testing.assert_allclose(both(2 * q - 5, q, 2.0)[1], 0, atol=1e-6)


class Line(eqx.Module):
    """Two heads of Q = 2a and 2a + 1."""

    slope: float = 2.0

    def __call__(self, obs, action):
        return jnp.stack([self.slope * action[..., 0], self.slope * action[..., 0] + 1])


def test_with_few_actions_the_energy_is_beta_q_up_to_a_constant():
    """f(x, t) = log sum_j p(a_j | x, t) exp(beta q_j): beta q itself where there is little noise, blurred where there is more."""
    n, beta, proposed = 64, 1.5, np.float32([-0.8, -0.2, 0.3, 0.9])
    rows, zeros = np.zeros((n, 1), np.float32), np.zeros(n, np.float32)
    data = Batch(rows, rows, zeros, rows, zeros, np.arange(n))
    here = np.tile(proposed[:, None], (n, 1, 1))
    given = {"behavior": TwoModes(), "critic": Line(), "support": Proposals(here, None)}
    stage = ContrastiveEnergy(steps=1200, batch_size=64, hidden=(32, 32), beta=beta, lr=3e-3)
    energy, _ = fit(stage, data, given)

    @jax.jit
    def both(energy):
        t = jnp.linspace(0.01, 0.99, 50)[:, None]
        alpha, sigma = VP()(t)
        x = alpha * proposed  # (50, 4)
        likely = jax.nn.log_softmax(-((x[..., None] - alpha[..., None] * proposed) ** 2) / (2 * sigma[..., None] ** 2), -1)
        return jax.nn.logsumexp(likely + beta * 2 * proposed, -1), energy(x[..., None], t, jnp.zeros(1))

    exact, f = map(np.asarray, both(energy))
    error = (f - f.mean(1, keepdims=True)) - (exact - exact.mean(1, keepdims=True))
    np.testing.assert_allclose(exact[0] - exact[0, 0], beta * 2 * (proposed - proposed[0]), atol=1e-3)
    assert np.sqrt(np.mean(error**2)) < 0.15 * np.std(exact[0])


def test_the_behavior_model_learns_a_gaussian():
    """Its noise is the known one of N(0.4, 0.3^2), where a sample may be."""
    n = 4096
    action = np.clip(0.4 + 0.3 * np.random.default_rng(0).standard_normal((n, 1), np.float32), -1, 1)
    zeros = np.zeros((n, 1), np.float32)
    data = Batch(zeros, action, zeros[:, 0], zeros, zeros[:, 0], np.arange(n))
    model, _ = fit(ScoreBehavior(steps=1000, batch_size=64, widths=(32,), lr=4e-3), data)

    @jax.jit
    def both(model):
        t = jnp.linspace(0.02, 0.98, 60)[:, None] * jnp.ones(40)
        alpha, sigma = VP()(t)
        x = (alpha * 0.4 + jnp.sqrt(alpha**2 * 0.09 + sigma**2) * jnp.linspace(-1.5, 1.5, 40))[..., None]
        exact = sigma[..., None] * (x - alpha[..., None] * 0.4) / (alpha**2 * 0.09 + sigma**2)[..., None]
        return exact, model(x, t, jnp.zeros((60, 40, 1)))

    exact, found = map(np.asarray, both(model))
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.15 * np.std(exact)


def test_in_support_values_on_a_loop():
    """One state that returns to itself, reward a: Q(a) = a + discount V, V the softmax mean of Q over the proposals."""
    n, proposed, discount, beta = 256, np.float32([-0.5, 0.0, 0.5]), 0.5, 2.0
    action, rows = np.linspace(-1, 1, n, dtype=np.float32), np.zeros((n, 1), np.float32)
    data = Batch(rows, action[:, None], action, rows, np.ones(n, np.float32), np.arange(n))
    table = np.tile(proposed[:, None], (n, 1, 1))
    stage = InSupportCritic(steps=1500, batch_size=64, hidden=(32,), beta=beta, discount=discount, ema=0.05, lr=3e-3)
    q, _ = fit(stage, data, {"support": Proposals(table, table)})
    weight = np.exp(beta * proposed) / np.exp(beta * proposed).sum()  # adding a constant to Q does not change it
    value = float((weight * proposed).sum()) / (1 - discount)
    found = jax.jit(lambda q: q(jnp.zeros((3, 1)), proposed[:, None]))(q)
    np.testing.assert_allclose(found, np.tile(proposed + discount * value, (2, 1)), atol=0.05)


class Quadratic(eqx.Module):
    """log E[exp(b a - k a^2 / 2) | a_t] for clean actions N(mean, var): what a perfect energy would be."""

    mean: float
    var: float
    b: float
    k: float

    def __call__(self, x, t, obs):
        alpha, sigma = VP()(t)
        total = alpha**2 * self.var + sigma**2
        m, s = (self.var * alpha * x[..., 0] + sigma**2 * self.mean) / total, self.var * sigma**2 / total
        return (2 * self.b * m + self.b**2 * s - self.k * m**2) / (2 * (1 + self.k * s)) - 0.5 * jnp.log1p(self.k * s)


@jax.jit
def drawn(policy):
    return policy.sample(jnp.zeros(1), jax.random.key(0), 20_000)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guided_sampling_of_a_gaussian(scale):
    """N(0.3, 0.25) times exp(2 a - 3 a^2) is a Gaussian of precision 4 + 6 and mean (4 * 0.3 + 2) / 10."""
    mean, var, b, k = 0.3, 0.25, 2.0, 6.0
    solver = Solver("data", 2, 100)
    policy = DiffusionPolicy(Guided(GaussianBehavior(np.float32([mean]), var), Quadratic(mean, var, b, k), scale), solver)
    action = np.asarray(drawn(policy))
    precision = 1 / var + scale * k
    assert float(action.mean()) == pytest.approx((mean / var + scale * b) / precision, abs=0.01)
    assert float(action.std()) == pytest.approx(precision**-0.5, abs=0.01)


def test_on_a_bandit_it_samples_behavior_times_exp_beta_q():
    """mu exp(beta Q) with Q = -4 (a - 0.45)^2 and beta = 3: nearly all of it N((60 + 10.8) / 124, 1 / 124)."""
    rows, behavior = bandit(), TwoModes()
    n = len(rows.obs)
    here = np.asarray(rows.action)[np.random.default_rng(5).integers(0, n, (n, 16))]  # exact draws of the behavior
    critic = {"hidden": (32,), "lr": 1e-2, "steps": 1500, "batch_size": 64, "ema": 0.05}
    energy = {"hidden": (32, 32), "lr": 3e-3, "steps": 2500, "batch_size": 64, "beta": 3.0}
    small = {f"{stage}.{k}": v for stage, own in (("critic", critic), ("energy", energy)) for k, v in own.items()}
    algorithm = assign_all(QGPO(), small)
    given = {"behavior": behavior, "support": Proposals(here, here[:, :2])}  # nothing is asked of a next state: all steps end
    given["critic"], _ = fit(algorithm.critic, rows, given)
    given["energy"], _ = fit(algorithm.energy, rows, given, long=True)
    action = acts(algorithm.make_policy(given), n=500)
    unguided = acts(algorithm.set("guidance.scale", 0.0).make_policy(given), n=500)
    assert np.mean(action > 0) > 0.95
    assert action[action > 0].mean() == pytest.approx(70.8 / 124, abs=0.03)
    assert np.mean(unguided > 0) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="give a key"):
        algorithm.make_policy(given).act(jnp.zeros(1))
