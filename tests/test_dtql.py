"""DTQL and its KL variant: the trust region's gradient, the estimator of the KL, the critic, and a bandit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import BEST, acts, bandit, fit, start
from jax import random

from srpo import config
from srpo.algorithms.dtql import DTQL
from srpo.algorithms.dtql_kl import DTQLKL
from srpo.diffusion.denoising import Denoiser, denoising_loss, matching_direction
from srpo.diffusion.edm import draw_sigma, precondition
from srpo.networks.layers import QEnsemble, ValueNet
from srpo.networks.score import ScoreMLP
from srpo.stages.trust_region import JointCritic, Values, WarmUp, levels_and_noise

OBS = jnp.zeros((1, 1))


def gaussian_denoiser(mean, var):
    """The exact D for N(mean, var) data: k x + (1 - k) mean with k = var / (var + sigma^2)."""
    return lambda x, sigma, obs: (var * x + sigma[..., None] ** 2 * mean) / (var + sigma[..., None] ** 2)


def test_denoiser_is_preconditioned_by_hand():
    net = ScoreMLP(1, 1, (4,), random.key(0), time_size=4, linear_input=True)
    x, sigma, obs = jnp.asarray([[0.8]]), jnp.asarray([2.0]), jnp.asarray([[0.3]])
    raw = net(x / np.sqrt(4.25), jnp.asarray([np.log(2.0) / 4]), obs)
    np.testing.assert_allclose(Denoiser(net)(x, sigma, obs), 0.25 / 4.25 * x + 1 / np.sqrt(4.25) * raw, rtol=1e-5)


def test_trust_region_gradient_flows_through_input_and_target():
    """D = k (a + s n) + (1 - k) m: the derivative of the squared error has the factor k - 1, input and target together."""
    mean, var, a, s, n = 0.2, 0.09, 0.7, 0.6, -0.4
    k = var / (var + s**2)
    c_out2 = 0.5**2 * s**2 / (0.5**2 + s**2)
    error = k * (a + s * n) + (1 - k) * mean - a

    def loss(a):
        return denoising_loss(gaussian_denoiser(mean, var), OBS, a, jnp.asarray([s]), jnp.asarray([[n]]))[0]

    action = jnp.asarray([[a]])
    np.testing.assert_allclose(loss(action), error**2 / c_out2, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(action)[0, 0], 2 * error * (k - 1) / c_out2, rtol=1e-5)


def test_trust_region_where_the_denoised_action_is_clipped_pulls_through_the_target_alone():
    far = gaussian_denoiser(3.0, 0.01)

    def loss(a):
        return denoising_loss(far, OBS, a, jnp.asarray([0.6]), jnp.asarray([[0.0]]))[0]

    c_out = precondition(1.0, 0.6)[2]
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray([[0.7]]))[0, 0], -2 * (1 - 0.7) / c_out**2, rtol=1e-5)


def test_trust_region_is_least_at_the_mode_of_a_gaussian():
    """Its expected gradient is E[2 (1 - k)^2 / c_out^2] (a - mean)."""
    mean, var, n = 0.2, 0.04, 200_000
    k_sigma, k_noise = random.split(random.key(0))
    sigma, noise = draw_sigma(k_sigma, (n,)), random.normal(k_noise, (n, 1))
    k = var / (var + sigma**2)
    slope = jnp.mean(2 * (1 - k) ** 2 / precondition(1.0, sigma)[2] ** 2)
    obs, denoiser = jnp.zeros((n, 1)), gaussian_denoiser(mean, var)
    gradient = jax.jit(jax.grad(lambda a: jnp.mean(denoising_loss(denoiser, obs, a, sigma, noise, jnp.inf))))
    for a in (-0.5, 0.2, 0.6):
        np.testing.assert_allclose(jnp.sum(gradient(jnp.full((n, 1), a))), slope * (a - mean), atol=0.02 * float(slope))


def test_matching_direction_by_hand():
    """Two Gaussians of one variance: D_fake - D_real = (1 - k) (mean_fake - mean_real)."""
    var, s, x = 0.09, 0.5, jnp.asarray([[0.4, -0.2]])
    k = var / (var + s**2)
    real, fake = gaussian_denoiser(0.1, var), gaussian_denoiser(0.3, var)
    direction = matching_direction(real, fake, OBS, x, jnp.asarray([s]), jnp.zeros((1, 2)))
    d_real = k * x + (1 - k) * 0.1
    np.testing.assert_allclose(direction, jnp.full((1, 2), (1 - k) * 0.2 / jnp.mean(jnp.abs(x - d_real))), rtol=1e-5)


def test_descending_the_matching_direction_makes_the_policy_the_behavior():
    """A Gaussian generator mean + std n with its own exact denoiser ends at the behavior's mean and deviation."""

    @jax.jit
    def descend(params, key):
        k_start, k_sigma, k_noise = random.split(key, 3)
        start, noise = random.normal(k_start, (512, 1)), random.normal(k_noise, (512, 1))

        def generate(p):
            return p[0] + p[1] * start

        fake, real = gaussian_denoiser(params[0], params[1] ** 2), gaussian_denoiser(0.3, 0.04)
        g = matching_direction(real, fake, OBS, generate(params), draw_sigma(k_sigma, (512,)), noise)
        return params - 0.02 * jax.grad(lambda p: jnp.mean(g * generate(p)))(params), params

    _, path = jax.lax.scan(descend, jnp.asarray([-0.4, 0.5]), random.split(random.key(0), 1500))
    np.testing.assert_allclose(path[-500:].mean(0), [0.3, 0.2], atol=0.03)


@pytest.mark.parametrize("v_from", ["target", "online"])
def test_critic_regresses_v_on_the_chosen_q_and_both_before_their_step(v_from):
    """One step of plain arithmetic: the losses reported are those of the initial networks."""
    data = bandit(64)._replace(mask=jnp.ones(64))
    critic = JointCritic(hidden=(8,), expectile=0.9, discount=0.5, v_from=v_from)
    state = jax.jit(critic.init)(data, random.key(0))
    state = eqx.tree_at(lambda s: s.target, state, jax.tree.map(lambda x: 0.1 * x, state.model))
    new, metrics = jax.jit(critic.update)(state, data, 1e-3)
    q, v = state.model.q(data.obs, data.action), state.model.v(data.obs)
    u = jnp.min(q if v_from == "online" else state.target.q(data.obs, data.action), 0) - v
    np.testing.assert_allclose(metrics["v_loss"], jnp.mean(jnp.where(u > 0, 0.9, 0.1) * u**2), rtol=1e-5)
    y = data.reward + 0.5 * v
    np.testing.assert_allclose(metrics["q_loss"], jnp.mean((q[0] - y) ** 2) + jnp.mean((q[1] - y) ** 2), rtol=1e-5)

    def moved(net):
        return float(jnp.max(jnp.abs(net.layers[0].weight)))

    assert new.model.v.net.layers[0].weight.shape == (1, 8) and moved(new.model.v.net) != moved(state.model.v.net)
    follows = 0.995 * state.target.q.members[0].layers[0].weight + 0.005 * new.model.q.members[0].layers[0].weight
    np.testing.assert_allclose(new.target.q.members[0].layers[0].weight, follows, rtol=1e-5)
    assert isinstance(new.model, Values) and isinstance(new.model.q, QEnsemble) and isinstance(new.model.v, ValueNet)


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
    "warm_up.critic.hidden": (32, 32),
    "warm_up.critic.lr": 3e-3,
    "warm_up.behavior.hidden": (32, 32),
    "warm_up.behavior.lr": 3e-3,
    "policy.steps": 600,
    "policy.batch_size": 128,
    "policy.lr": 3e-3,
}


@pytest.fixture(scope="module")
def warm():
    stage = DTQL()
    for path, value in SMALL.items():
        stage = stage.set(path, value)
    return fit(stage.warm_up, bandit())[0]


def trained(algorithm, values, warm):
    for path, value in (SMALL | values).items():
        algorithm = algorithm.set(path, value)
    result, _ = fit(algorithm.policy, bandit(), {"warm_up": warm}, long=isinstance(algorithm, DTQL))  # three times
    return algorithm.make_policy({"policy": result})


def test_the_warm_up_learns_the_behavior_and_hands_over_its_settings(warm):
    assert isinstance(WarmUp().result(jax.eval_shape(WarmUp().init, bandit(8), {}, random.key(0))).critic, JointCritic)
    x, sigma = jnp.linspace(-1.2, 1.2, 9)[:, None], jnp.full(9, 0.5)
    learned = warm.state.behavior.model(x, sigma, jnp.ones((9, 1)))
    np.testing.assert_allclose(learned, exact_denoiser(x, sigma, None), atol=0.12)


def exact_denoiser(x, sigma, obs):
    """Of the bandit's behavior, N(-0.6, 0.1^2) and N(0.6, 0.1^2) in equal parts."""
    square = sigma[..., None] ** 2
    upper = jax.nn.sigmoid(2 * 0.6 * x / (square + 0.01))  # share of the upper mode at x
    return sum(p * (0.01 * x + square * m) / (square + 0.01) for p, m in ((upper, 0.6), (1 - upper, -0.6)))


def test_dtql_moves_from_the_trust_region_s_optimum_to_argmax_q_as_alpha_falls(warm):
    n = 20_000
    sigma, noise = draw_sigma(random.key(4), (n,)), random.normal(random.key(5), (n, 1))
    trust = jax.jit(lambda a: jnp.mean(denoising_loss(exact_denoiser, jnp.zeros((n, 1)), jnp.full((n, 1), a), sigma, noise)))
    grid = np.linspace(0.3, 0.9, 61, dtype=np.float32)
    optimum = float(grid[np.argmin([trust(a) for a in grid])])
    assert 0.5 < optimum < 0.6  # large noise mixes the modes and pulls it inwards from 0.6
    for alpha, expected in ((0.02, BEST), (50.0, optimum)):
        policy = trained(DTQL(), {"policy.alpha": alpha, "policy.hidden": (32, 32)}, warm)
        assert acts(policy).mean() == pytest.approx(expected, abs=0.035)


def test_likelihood_pulls_towards_the_data(warm):
    """With the likelihood alone the Gaussian covers both modes: mean 0, deviation atanh of about 0.6."""
    likely = {"policy.alpha": 0.0, "policy.likelihood": 100.0, "policy.hidden": (32, 32)}
    policy = trained(DTQL(), likely, warm)
    mean, log_std = policy.sampler.actor(jnp.ones(1))
    assert abs(mean[0]) < 0.15 and np.exp(log_std[0]) == pytest.approx(0.72, abs=0.12)


def test_the_kl_variant_finds_the_best_action(warm):
    policy = trained(DTQLKL(), {"policy.alpha": 0.05, "policy.batch_size": 64}, warm)
    assert acts(policy).mean() == pytest.approx(BEST, abs=0.08)


def test_the_kl_variant_s_first_step_goes_down_the_matching_direction(warm):
    """With Q out of the way, Adam's first step is against the sign of the estimated gradient; the fake denoiser is another one."""
    stage, batch, key = type(DTQLKL().policy)(batch_size=64, alpha=1e6, lr=1e-3), bandit(64), random.key(3)
    state = start(stage, batch, {"warm_up": warm}, random.key(0))
    state = eqx.tree_at(lambda s: s.fake.model, state, jax.tree.map(lambda x: 0.5 * x, state.fake.model))
    new = jax.jit(lambda state, warm: stage.update(state, batch, {"warm_up": warm}, key, jnp.int32(0))[0])(state, warm)
    _, k_action, k_match, _ = random.split(key, 4)
    first, (sigma, noise) = random.normal(k_action, batch.action.shape), levels_and_noise(k_match, batch.action)

    @jax.jit
    def slopes(generator, real, fake):
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
    stage = type(algorithm().policy)(steps=100, batch_size=16, lr_decay=True)
    state = start(stage, bandit(32), {"warm_up": warm}, random.key(0))
    batch = bandit(32)
    update = jax.jit(lambda state, warm, step: stage.update(state, batch, {"warm_up": warm}, random.key(1), step)[0])
    states = [state.warm.critic, state.warm.behavior, *([state.actor] if algorithm is DTQL else [state.generator, state.fake])]
    for step, moves in ((50, True), (100, False)):
        last = update(state, warm, jnp.asarray(step))
        now = [last.warm.critic, last.warm.behavior, *([last.actor] if algorithm is DTQL else [last.generator, last.fake])]
        for before, after in zip(states, now, strict=True):
            pairs = zip(jax.tree.leaves(before.model), jax.tree.leaves(after.model), strict=True)
            assert any(not np.array_equal(x, y) for x, y in pairs) == moves
