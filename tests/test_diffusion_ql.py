"""Diffusion-QL: the gradient through the denoising chain, the max-Q backup, the moving average, and a bandit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import BEST, acts, advanced, bandit, fit, start
from jax import random

from srpo.algorithms.diffusion_ql import DiffusionPolicyQ, DiffusionQL, next_value, sample_actions
from srpo.diffusion.parametrization import NoisePrediction
from srpo.diffusion.schedules import Discrete
from srpo.losses import improvement
from srpo.networks.derivatives import mish
from srpo.networks.layers import QEnsemble
from srpo.networks.score import ScoreMLP
from srpo.steps import Log, metric_names

double = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
STAGE = DiffusionPolicyQ(
    steps=1000, batch_size=64, hidden=(32,), diffusion_steps=4, lr=5e-3, lr_q=5e-3, ema=0.05, ema_start=100, clip_norm=5.0
)


@pytest.fixture(scope="module")
def state():
    return start(STAGE, bandit(), {}, random.key(1))


def update(stage, state, step):
    """The state after one step, by the program that trains."""
    log = Log.create(metric_names(stage, state, bandit(), {}, random.key(1)))
    return jax.tree.map(np.asarray, advanced(stage, state, log, bandit(), {}, random.key(1), step, step + 1)[0])


def test_improvement_counts_in_units_that_pass_no_gradient():
    q = np.float32([1.0, 3.0])
    assert jax.jit(improvement)(q, np.float32([-2.0, 4.0])) == pytest.approx(2 / 3)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda q: improvement(q, q)))(q), [1 / 4, 1 / 4], rtol=1e-6)


@pytest.mark.parametrize(("q_scale", "expected"), [("data", 2.0), ("policy", 1.0)])
def test_scale_of_q_is_of_the_datas_actions_by_the_same_head_or_of_the_policys_by_the_other(q_scale, expected, state):
    """A Q of 4 on the recorded actions and of 8 on all others, by both heads."""
    stage, batch = replace(STAGE, q_scale=q_scale), bandit(16)

    def q(obs, action):
        value = jnp.where(jnp.all(action == batch.action, -1), 4.0, 8.0)
        return jnp.stack([value, value])

    metrics = jax.jit(lambda actor: stage.actor_step(actor, q, batch, random.key(1))[1])(state.actor)
    assert metrics["improvement"] == pytest.approx(expected)


def test_max_q_backup_takes_the_best_per_head_then_the_lower_head():
    q, best = np.float32([[[1.0, 5.0, 2.0]], [[4.0, 0.0, 3.0]]]), jax.jit(next_value)
    np.testing.assert_allclose(best(q), [4.0])  # not 3, the best of the lower head's values
    np.testing.assert_allclose(best(q[..., :1]), [1.0])


def test_gradient_through_all_denoising_steps_against_finite_differences():
    def mean_q(actor, key):
        k_q, k_obs, k_step = random.split(key, 3)
        q, obs = QEnsemble(2, 2, (8,), k_q, activation=mish), random.normal(k_obs, (4, 2))
        return jnp.mean(q(obs, sample_actions(actor, obs, k_step))[0])

    @jax.jit
    def made(key):
        actor = NoisePrediction(ScoreMLP(2, 2, (8,), key, time_size=4), Discrete.vp(5))
        direction = jax.tree.map(lambda x: random.normal(random.key(x.size), x.shape), actor)
        return jax.tree.map(lambda x: 0.3 * x, actor), direction  # most of the chain inside the clip

    with double(True):
        k_actor, key = random.split(random.key(0))
        actor, direction = jax.tree.map(np.asarray, made(k_actor))
        slopes = jax.jit(jax.value_and_grad(mean_q))
        _, gradient = slopes(actor, key)
        up, down = (float(slopes(jax.tree.map(lambda a, d, h=h: a + h * d, actor, direction), key)[0]) for h in (1e-5, -1e-5))
    numeric = (up - down) / 2e-5
    exact = sum(np.sum(np.asarray(g) * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(exact, numeric, rtol=1e-4)


def test_the_moving_average_starts_late_and_follows_every_fifth_step(state):
    stage = replace(STAGE, ema=0.1)
    for step, follows in ((99, False), (100, True), (101, False), (105, True)):
        new = update(stage, state, step)
        for part, rate in (("actor", 0.1 if follows else 0.0), ("q", 0.1)):  # the critic's follows at every step
            was, now, model = (
                jax.tree.leaves(x) for x in (getattr(state, part).target, getattr(new, part).target, getattr(new, part).model)
            )
            for t, found, m in zip(was, now, model, strict=True):
                np.testing.assert_allclose(found, np.asarray(t) + rate * (m - t), rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped(state):
    def moments(norm):
        return update(replace(STAGE, clip_norm=norm), state, 0).q.opt_state[1][0].mu

    def norm(tree):
        return sum(np.sum(x**2) for x in jax.tree.leaves(tree)) ** 0.5

    assert norm(moments(1e-2)) == pytest.approx(0.1 * 1e-2, rel=1e-3)  # Adam's first moment is 0.1 of the gradient
    assert norm(moments(1e3)) > 0.1 * 1e-2


def test_larger_eta_moves_the_policy_from_the_behavior_to_argmax_q():
    algorithm = DiffusionQL()
    draw = jax.jit(lambda policy: policy.sampler.sample(jnp.ones(1), random.key(3), 500))
    cloned, greedy = (algorithm.make_policy({"policy": fit(replace(STAGE, eta=eta), bandit())[0]}) for eta in (0.0, 5.0))
    sample, best, chosen = np.asarray(draw(cloned)), np.asarray(draw(greedy)), acts(cloned)
    assert 0.35 < (sample > 0).mean() < 0.65
    assert (chosen > 0).mean() > 0.7  # softmax of Q in [-5, 0] over 50 candidates prefers the upper mode
    assert abs(best - BEST).mean() < 0.12
