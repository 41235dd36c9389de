"""DTQL and its KL variant: the trust region's gradient, the estimator of the KL, the critic, and a bandit."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import BEST, acts, advanced, bandit, fit, start
from jax import random

from srpo import config
from srpo.algorithms.dtql import DTQL
from srpo.algorithms.dtql_kl import DTQLKL
from srpo.diffusion.denoising import Denoiser, denoising_loss, matching_direction
from srpo.diffusion.edm import draw_sigma, precondition
from srpo.networks.layers import QEnsemble, ValueNet
from srpo.networks.score import ScoreMLP
from srpo.stages.trust_region import JointCritic, Values, WarmUp, levels_and_noise
from srpo.steps import Log, metric_names, step_keys

OBS = np.zeros((1, 1), np.float32)


def gaussian_denoiser(mean, var):
    """The exact D for N(mean, var) data: k x + (1 - k) mean with k = var / (var + sigma^2)."""
    return lambda x, sigma, obs: (var * x + sigma[..., None] ** 2 * mean) / (var + sigma[..., None] ** 2)


def test_denoiser_is_preconditioned_by_hand():
    @jax.jit
    def both(x, sigma, obs):
        net = ScoreMLP(1, 1, (4,), random.key(0), time_size=4, linear_input=True)
        return Denoiser(net)(x, sigma, obs), net(x / np.sqrt(4.25), jnp.asarray([np.log(2.0) / 4]), obs)

    found, raw = both(jnp.asarray([[0.8]]), jnp.asarray([2.0]), jnp.asarray([[0.3]]))
    np.testing.assert_allclose(found, 0.25 / 4.25 * 0.8 + 1 / np.sqrt(4.25) * np.asarray(raw), rtol=1e-5)


@partial(jax.jit, static_argnums=0)
def trust_region(denoiser, action, sigma, noise):
    """The loss of one action, and its slope."""
    return jax.value_and_grad(lambda a: denoising_loss(denoiser, OBS, a[None, None], sigma[None], noise[None, None])[0])(action)


def test_trust_region_gradient_flows_through_input_and_target():
    """D = k (a + s n) + (1 - k) m: the derivative of the squared error has the factor k - 1, input and target together."""
    mean, var, a, s, n = 0.2, 0.09, 0.7, 0.6, -0.4
    k = var / (var + s**2)
    c_out2 = 0.5**2 * s**2 / (0.5**2 + s**2)
    error = k * (a + s * n) + (1 - k) * mean - a
    loss, slope = trust_region(gaussian_denoiser(mean, var), a, np.float32(s), np.float32(n))
    np.testing.assert_allclose(loss, error**2 / c_out2, rtol=1e-5)
    np.testing.assert_allclose(slope, 2 * error * (k - 1) / c_out2, rtol=1e-5)


def test_trust_region_where_the_denoised_action_is_clipped_pulls_through_the_target_alone():
    slope = trust_region(gaussian_denoiser(3.0, 0.01), 0.7, np.float32(0.6), np.float32(0.0))[1]
    np.testing.assert_allclose(slope, -2 * (1 - 0.7) / precondition(1.0, 0.6)[2] ** 2, rtol=1e-5)


def test_trust_region_is_least_at_the_mode_of_a_gaussian():
    """Its expected gradient is E[2 (1 - k)^2 / c_out^2] (a - mean); noise of both signs makes an average the expectation."""
    mean, var, n = 0.2, 0.04, 1000

    @jax.jit
    def both(actions):
        k_sigma, k_noise = random.split(random.key(0))
        sigma, half = jnp.tile(draw_sigma(k_sigma, (n,)), 2), random.normal(k_noise, (n, 1))
        noise, denoiser = jnp.concatenate([half, -half]), gaussian_denoiser(mean, var)

        def loss(a):
            return jnp.mean(denoising_loss(denoiser, OBS, jnp.full((2 * n, 1), a), sigma, noise, jnp.inf))

        return jax.vmap(jax.grad(loss))(actions), jnp.mean(
            2 * (1 - var / (var + sigma**2)) ** 2 / precondition(1.0, sigma)[2] ** 2
        )

    actions = np.float32([-0.5, 0.2, 0.6])
    gradient, slope = both(actions)
    np.testing.assert_allclose(gradient, slope * (actions - mean), atol=1e-3 * slope)


def test_matching_direction_by_hand():
    """Two Gaussians of one variance: D_fake - D_real = (1 - k) (mean_fake - mean_real)."""
    var, s, x = 0.09, 0.5, np.float32([[0.4, -0.2]])
    k = var / (var + s**2)
    real, fake = gaussian_denoiser(0.1, var), gaussian_denoiser(0.3, var)
    direction = jax.jit(lambda x, sigma, noise: matching_direction(real, fake, OBS, x, sigma, noise))(x, np.float32([s]), 0 * x)
    d_real = k * x + (1 - k) * 0.1
    np.testing.assert_allclose(direction, np.full((1, 2), (1 - k) * 0.2 / np.mean(np.abs(x - d_real))), rtol=1e-5)


def test_descending_the_matching_direction_makes_the_policy_the_behavior():
    """A Gaussian generator mean + std n with its own exact denoiser ends at the behavior's mean and deviation."""

    def descend(params, key):
        k_start, k_sigma, k_noise = random.split(key, 3)
        start, noise = random.normal(k_start, (512, 1)), random.normal(k_noise, (512, 1))

        def generate(p):
            return p[0] + p[1] * start

        fake, real = gaussian_denoiser(params[0], params[1] ** 2), gaussian_denoiser(0.3, 0.04)
        g = matching_direction(real, fake, OBS, generate(params), draw_sigma(k_sigma, (512,)), noise)
        return params - 0.04 * jax.grad(lambda p: jnp.mean(g * generate(p)))(params), params

    @jax.jit
    def path(params, key):
        return jax.lax.scan(descend, params, random.split(key, 600))[1]

    found = np.asarray(path(np.float32([-0.4, 0.5]), random.key(0)))
    np.testing.assert_allclose(found[-200:].mean(0), [0.3, 0.2], atol=0.03)


def test_critic_regresses_v_on_the_chosen_q_and_both_before_their_step():
    """One step of plain arithmetic: the losses reported are those of the initial networks."""
    data = bandit(64)._replace(mask=np.ones(64, np.float32))

    @jax.jit
    def stepped(data):
        state = JointCritic(hidden=(8,)).init(data, random.key(0))
        state = eqx.tree_at(lambda s: s.target, state, jax.tree.map(lambda x: 0.1 * x, state.model))
        q, v = state.model.q(data.obs, data.action), state.model.v(data.obs)
        after = {}
        for v_from in ("target", "online"):
            critic = JointCritic(hidden=(8,), expectile=0.9, discount=0.5, v_from=v_from)
            u = jnp.min(q if v_from == "online" else state.target.q(data.obs, data.action), 0) - v
            after[v_from] = *critic.update(state, data, 1e-3), u
        return state, q, v, after

    state, q, v, after = stepped(data)
    q, y = np.asarray(q), np.asarray(data.reward) + 0.5 * np.asarray(v)

    def weight(of):
        return np.asarray(of.layers[0].weight)

    for new, metrics, u in after.values():
        np.testing.assert_allclose(metrics["v_loss"], np.mean(np.where(u > 0, 0.9, 0.1) * np.asarray(u) ** 2), rtol=1e-5)
        np.testing.assert_allclose(metrics["q_loss"], np.mean((q[0] - y) ** 2) + np.mean((q[1] - y) ** 2), rtol=1e-5)
        assert weight(new.model.v.net).shape == (1, 8) and not np.array_equal(
            weight(new.model.v.net), weight(state.model.v.net)
        )
        follows = 0.995 * weight(state.target.q.members[0]) + 0.005 * weight(new.model.q.members[0])
        np.testing.assert_allclose(weight(new.target.q.members[0]), follows, rtol=1e-5)
        assert isinstance(new.model, Values) and isinstance(new.model.q, QEnsemble) and isinstance(new.model.v, ValueNet)
    assert after["target"][1]["v_loss"] != after["online"][1]["v_loss"]


def test_presets_differ_where_paper_and_code_do():
    for algorithm in (DTQL, DTQLKL):
        of = {
            name: config.assign_all(algorithm(), config.preset(algorithm.presets, name, "hopper-medium-v2"))
            for name in algorithm.presets
        }
        assert {name: a.warm_up.critic.v_from for name, a in of.items()} == {
            "paper": "target",
            "authors-code": "online",
            "quick": "target",
        }


SMALL = {
    "warm_up.steps": 800,
    "warm_up.batch_size": 128,
    "warm_up.critic.hidden": (24, 24),
    "warm_up.critic.lr": 5e-3,
    "warm_up.critic.ema": 0.05,
    "warm_up.behavior.hidden": (24, 24),
    "warm_up.behavior.lr": 5e-3,
    "policy.steps": 500,
    "policy.batch_size": 128,
    "policy.lr": 8e-3,
    "policy.lr_decay": True,
}


def small(algorithm, values):
    """With stages that compile once, whatever they are used for."""
    if isinstance(algorithm, DTQL):
        values = {"policy.hidden": (8,)} | values
    return config.assign_all(algorithm, SMALL | {"candidates": 64} | values)


@pytest.fixture(scope="module")
def warm():
    return fit(small(DTQL(), {}).warm_up, bandit())[0]


def trained(algorithm, values, warm):
    algorithm = small(algorithm, values)
    return algorithm.make_policy({"policy": fit(algorithm.policy, bandit(), {"warm_up": warm})[0]})


@jax.jit
def predicted(denoiser, x, sigma):
    return denoiser(x, sigma, jnp.ones_like(x))


def test_the_warm_up_learns_the_behavior_and_hands_over_its_settings(warm):
    assert isinstance(WarmUp().result(jax.eval_shape(WarmUp().init, bandit(64), {}, random.key(0))).critic, JointCritic)
    x, sigma = np.linspace(-1.2, 1.2, 9, dtype=np.float32)[:, None], np.full(9, 0.5, np.float32)
    learned = predicted(warm.state.behavior.model, x, sigma)
    np.testing.assert_allclose(learned, jax.jit(exact_denoiser)(x, sigma, None), atol=0.12)


def exact_denoiser(x, sigma, obs):
    """Of the bandit's behavior, N(-0.6, 0.1^2) and N(0.6, 0.1^2) in equal parts."""
    square = sigma[..., None] ** 2
    upper = jax.nn.sigmoid(2 * 0.6 * x / (square + 0.01))  # share of the upper mode at x
    return sum(p * (0.01 * x + square * m) / (square + 0.01) for p, m in ((upper, 0.6), (1 - upper, -0.6)))


def test_dtql_moves_from_the_trust_region_s_optimum_to_argmax_q_as_alpha_falls(warm):
    @jax.jit
    def trust(actions, n=4000):
        sigma, noise = draw_sigma(random.key(4), (n,)), random.normal(random.key(5), (n, 1))
        return jax.lax.map(lambda a: jnp.mean(denoising_loss(exact_denoiser, OBS, jnp.full((n, 1), a), sigma, noise)), actions)

    grid = np.linspace(0.3, 0.9, 61, dtype=np.float32)
    optimum = float(grid[np.argmin(trust(grid))])
    assert 0.5 < optimum < 0.6  # large noise mixes the modes and pulls it inwards from 0.6
    for alpha, expected in ((0.02, BEST), (50.0, optimum)):
        assert acts(trained(DTQL(), {"policy.alpha": alpha}, warm)).mean() == pytest.approx(expected, abs=0.035)


def test_likelihood_pulls_towards_the_data(warm):
    """With the likelihood alone the Gaussian covers both modes: mean 0, deviation atanh of about 0.6."""
    policy = trained(DTQL(), {"policy.alpha": 0.0, "policy.likelihood": 100.0}, warm)
    mean, log_std = jax.jit(policy.sampler.actor.__call__)(np.ones(1, np.float32))
    assert abs(mean[0]) < 0.15 and np.exp(log_std[0]) == pytest.approx(0.72, abs=0.12)


def test_the_kl_variant_finds_the_best_action(warm):
    assert acts(trained(DTQLKL(), {"policy.alpha": 0.05}, warm)).mean() == pytest.approx(BEST, abs=0.08)


def stepped(stage, state, warm, step):
    """After one step of the program that trains it."""
    log = Log.create(metric_names(stage, state, bandit(), {"warm_up": warm}, random.key(0)))
    return advanced(stage, state, log, bandit(), {"warm_up": warm}, random.key(0), step, step + 1)[0]


def test_the_kl_variant_s_first_step_goes_down_the_matching_direction(warm):
    """With Q out of the way, Adam's first step is against the sign of the estimated gradient; the fake denoiser is another one."""
    stage = small(DTQLKL(), {"policy.alpha": 1e6}).policy
    state = start(stage, bandit(), {"warm_up": warm}, random.key(0))
    state = eqx.tree_at(lambda s: s.fake.model, state, jax.tree.map(lambda x: 0.5 * np.asarray(x), state.fake.model))
    new = stepped(stage, state, warm, 0)

    @jax.jit
    def slopes(generator, real, fake):
        k_rows, k_update = step_keys(random.key(0), 0)
        batch = bandit().take(stage.draw(bandit(), k_rows, 0))
        _, k_action, k_match, _ = random.split(k_update, 4)
        first, (sigma, noise) = random.normal(k_action, batch.action.shape), levels_and_noise(k_match, batch.action)
        g = matching_direction(real, fake, batch.obs, generator(batch.obs, first), sigma, noise)
        return jax.grad(lambda generator: jnp.mean(g * generator(batch.obs, first)))(generator)

    generator = state.generator.model
    gradient = slopes(generator, new.warm.behavior.model, state.fake.model)
    for slope, before, after in zip(*map(jax.tree.leaves, (gradient, generator, new.generator.model)), strict=True):
        slope, change = np.asarray(slope), np.asarray(after) - before
        clear = np.abs(slope) > 1e-2 * np.abs(slope).max()
        assert clear.any() and np.array_equal(np.sign(change)[clear], -np.sign(slope)[clear])


@pytest.mark.parametrize("algorithm", [DTQL, DTQLKL])
def test_decayed_learning_rates_end_at_zero(algorithm, warm):
    stage = small(algorithm(), {}).policy
    state = start(stage, bandit(), {"warm_up": warm}, random.key(0))

    def models(state):
        parts = [
            state.warm.critic,
            state.warm.behavior,
            *([state.actor] if algorithm is DTQL else [state.generator, state.fake]),
        ]
        return [jax.tree.leaves(part.model) for part in parts]

    for step, moves in ((stage.steps // 2, True), (stage.steps, False)):
        for before, after in zip(models(state), models(stepped(stage, state, warm, step)), strict=True):
            assert any(not np.array_equal(x, y) for x, y in zip(before, after, strict=True)) == moves
