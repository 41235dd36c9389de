"""Diffusion-QL: the gradient through the denoising chain, the max-Q backup, the moving average, and a bandit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import BEST, acts, bandit, fit, start
from jax import random

from srpo.algorithms.diffusion_ql import DiffusionPolicyQ, DiffusionQL, next_value, sample_actions
from srpo.core import average
from srpo.diffusion.parametrization import NoisePrediction
from srpo.diffusion.schedules import Discrete
from srpo.losses import improvement
from srpo.networks.derivatives import mish
from srpo.networks.layers import QEnsemble
from srpo.networks.score import ScoreMLP

double = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
TINY = DiffusionPolicyQ(batch_size=16, hidden=(8,), backup_actions=3)
SMALL = DiffusionPolicyQ(steps=1500, batch_size=64, hidden=(32, 32), lr=3e-3, lr_q=3e-3, ema=0.05, ema_start=100)


@jax.jit
def updated(stage, state, batch, step):
    return stage.update(state, batch, {}, random.key(1), step)[0]


def update(stage, state, step):
    """The state after one step on the same 16 rows."""
    return updated(stage, state, bandit(16), step)


def test_improvement_counts_in_units_that_pass_no_gradient():
    q = jnp.asarray([1.0, 3.0])
    assert improvement(q, jnp.asarray([-2.0, 4.0])) == pytest.approx(2 / 3)
    np.testing.assert_allclose(jax.grad(lambda q: improvement(q, q))(q), [1 / 4, 1 / 4], rtol=1e-6)


@pytest.mark.parametrize(("q_scale", "expected"), [("data", 2.0), ("policy", 1.0)])
def test_scale_of_q_is_of_the_datas_actions_by_the_same_head_or_of_the_policys_by_the_other(q_scale, expected):
    """A Q of 4 on the recorded actions and of 8 on all others, by both heads."""
    stage, batch = replace(TINY, q_scale=q_scale), bandit(16)
    state = start(TINY, batch, {}, random.key(0))

    def value(action):
        return jnp.where(jnp.all(action == batch.action, -1), 4.0, 8.0)

    def q(obs, action):
        return jnp.stack([value(action), value(action)])

    metrics = jax.jit(lambda actor: stage.actor_step(actor, q, batch, random.key(1))[1])(state.actor)
    assert metrics["improvement"] == pytest.approx(expected)


def test_max_q_backup_takes_the_best_per_head_then_the_lower_head():
    q = jnp.asarray([[[1.0, 5.0, 2.0]], [[4.0, 0.0, 3.0]]])
    np.testing.assert_allclose(next_value(q), [4.0])  # not 3, the best of the lower head's values
    np.testing.assert_allclose(next_value(q[..., :1]), [1.0])


def test_gradient_through_all_denoising_steps_against_finite_differences():
    with double(True):
        k_actor, k_q, k_obs, k_step = random.split(random.key(0), 4)
        actor = NoisePrediction(ScoreMLP(2, 2, (8, 8), k_actor, time_size=4), Discrete.vp(5))
        actor = jax.tree.map(lambda x: 0.3 * x, actor)  # most of the chain inside the clip
        q, obs = QEnsemble(2, 2, (8,), k_q, activation=mish), random.normal(k_obs, (4, 2))

        def mean_q(actor):
            return jnp.mean(q(obs, sample_actions(actor, obs, k_step))[0])

        gradient = jax.jit(jax.grad(mean_q))(actor)
        direction = jax.tree.map(lambda x: random.normal(random.key(x.size), x.shape), actor)
        move = jax.jit(lambda h: mean_q(jax.tree.map(lambda a, d: a + h * d, actor, direction)))
        numeric = (move(1e-5) - move(-1e-5)) / 2e-5
        exact = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        assert abs(numeric) > 1e-3
        np.testing.assert_allclose(exact, numeric, rtol=1e-4)


def test_the_moving_average_starts_late_and_follows_every_fifth_step():
    stage = replace(TINY, ema=0.1)
    state = start(stage, bandit(16), {}, random.key(1))
    for step, follows in ((999, False), (1000, True), (1001, False), (1005, True)):
        new = update(stage, state, jnp.asarray(step))
        expected = average(state.actor.target, new.actor.model, 0.1 if follows else 0.0)
        np.testing.assert_allclose(new.actor.target.net.body.layers[-1].bias, expected.net.body.layers[-1].bias, rtol=1e-5)
        np.testing.assert_allclose(  # the critic's follows at every step
            new.q.target.members[0].layers[0].bias,
            average(state.q.target, new.q.model, 0.1).members[0].layers[0].bias,
            rtol=1e-5,
        )


def test_gradients_are_clipped():
    state = start(TINY, bandit(16), {}, random.key(2))

    def moments(norm):
        return update(replace(TINY, clip_norm=norm), state, jnp.asarray(0)).q.opt_state[1][0].mu

    def square(tree):
        return sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))

    assert square(moments(1e-2)) ** 0.5 == pytest.approx(0.1 * 1e-2, rel=1e-3)  # Adam's first moment is 0.1 of the gradient
    assert square(moments(1e3)) ** 0.5 > 0.1 * 1e-2


def test_larger_eta_moves_the_policy_from_the_behavior_to_argmax_q():
    data, algorithm = bandit(), DiffusionQL()
    draw = jax.jit(lambda policy: policy.sampler.sample(jnp.ones(1), random.key(3), 500))

    def policy(eta):
        return algorithm.make_policy({"policy": fit(replace(SMALL, eta=eta), data, long=True)[0]})

    cloned = policy(0.0)
    sample = draw(cloned)
    assert 0.35 < (sample > 0).mean() < 0.65
    chosen = acts(cloned)  # softmax of Q in [-5, 0] over 50 candidates prefers the upper mode
    assert (chosen > 0).mean() > 0.7
    greedy = policy(5.0)
    sample = draw(greedy)
    assert abs(sample - BEST).mean() < 0.12
