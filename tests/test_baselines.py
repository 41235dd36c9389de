"""BC, IQL, TD3+BC and BEAR: formulas against hand-worked numbers, policies on a bandit; and everybody's critic on a chain.

All stages of a kind train on data of one shape, so that each is compiled once.
"""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import start as init

from srpo import algorithms, config
from srpo.algorithms.bc import LikelihoodCloning, Regression
from srpo.algorithms.bear import BEAR, BEARPolicy, BehaviorVAE, pessimistic
from srpo.algorithms.diffusion_ql import DiffusionPolicyQ
from srpo.algorithms.idql import ImplicitCritic
from srpo.algorithms.iql import IQL, AdvantageWeightedPolicy
from srpo.algorithms.td3_bc import TD3BCPolicy
from srpo.core import Batch, TrainState
from srpo.losses import advantage_weight, gaussian_log_prob, mmd
from srpo.optim import adam
from srpo.stages.iql_critic import IQLCritic
from srpo.stages.trust_region import DenoisedBehavior, JointCritic, WarmUp
from srpo.steps import Log, advance, metric_names

N, SMALL = 512, {"hidden": (32, 32), "batch_size": 64}
KEY = jax.random.key(0)
ACTION = np.linspace(-1, 1, N, dtype=np.float32)
STATE = np.eye(3, dtype=np.float32)


def transitions(obs, action, reward, next_obs, mask) -> Batch:
    arrays = (jnp.asarray(x, jnp.float32) for x in (obs, action[:, None], reward, next_obs, mask))
    return Batch(*arrays, jnp.arange(len(reward)))


def bandit(action, reward) -> Batch:
    """One step from a state drawn from two, which do not matter to the reward."""
    obs = STATE[np.arange(N) % 2]
    return transitions(obs, action, reward, obs, np.zeros(N))


def chain() -> Batch:
    """Three states in a row, any action; the last step ends with reward 1. Values: discount^2, discount, 1."""
    at = np.arange(N) % 3
    action = np.random.default_rng(0).uniform(-1, 1, N)
    return transitions(STATE[at], action, at == 2, STATE[(at + 1) % 3], at < 2)


@cache
def compiled(long=False):
    """`long`: runs longer than it compiles."""
    return jax.jit(advance, compiler_options={"xla_backend_optimization_level": int(long)})


def train(stage, data, given=None, steps=1500, state=None, long=False):
    given = given or {}
    state = init(stage, data, given, KEY) if state is None else state
    log = Log.create(metric_names(stage, state, data, given, KEY))
    state, log = compiled(long)(stage, state, log, data, given, KEY, jnp.int32(0), jnp.int32(steps))
    assert all(int(step) == -1 for step in log.bad_step.values())
    return state


CRITIC = IQLCritic(**SMALL, layer_init="orthogonal sqrt2", next_value="after", lr=3e-3, ema=0.05)
TD3BC = TD3BCPolicy(**SMALL, lr=3e-3, ema=0.05)
BEAR_STAGE = BEARPolicy(
    **SMALL,
    vae_hidden=(32, 32),
    next_actions=4,
    kernel="gaussian",
    sigma=20.0,
    random_multiplier=False,
    warmup=0.0,
    lr_dual=0.01,
    lr_q=3e-3,
    ema=0.05,
)

CRITICS = {  # stage, the path of its discount, where its Q and V are
    "iql": (CRITIC, "discount", lambda s: s.q.model, lambda s: s.v.model),
    "srpo": (config.assign(CRITIC, "next_value", "before"), "discount", lambda s: s.q.model, lambda s: s.v.model),
    "idql": (ImplicitCritic(**SMALL, lr=3e-3, ema=0.05), "discount", lambda s: s.q.model, lambda s: s.v.model),
    "td3-bc": (TD3BC, "discount", lambda s: lambda obs, action: s.q.model(s.actor.model.normalizer(obs), action), None),
    "bear": (BEAR_STAGE, "discount", lambda s: s.q.model, None),
    "diffusion-ql": (
        DiffusionPolicyQ(**SMALL, diffusion_steps=2, lr=3e-3, lr_q=3e-3, ema=0.05, ema_start=0, ema_every=1),
        "discount",
        lambda s: s.q.model,
        None,
    ),
    "dtql": (
        WarmUp(batch_size=64, critic=JointCritic(hidden=(32, 32), lr=3e-3, ema=0.05), behavior=DenoisedBehavior(hidden=(8,))),
        "critic.discount",
        lambda s: s.critic.model.q,
        lambda s: s.critic.model.v,
    ),
}

# --- formulas

MMD = jax.jit(mmd, static_argnames="kernel")


def test_gaussian_log_prob():
    # dimension 1: -(0.5 + 0 + 0.918939), dimension 2: -(0 + log 2 + 0.918939)
    found = gaussian_log_prob(jnp.array([1.0, 0.5]), jnp.array([0.0, 0.5]), jnp.array([0.0, np.log(2)]))
    assert found == pytest.approx(-3.031024, abs=1e-5)


def test_advantage_weight():
    np.testing.assert_allclose(
        advantage_weight(jnp.array([0.5, 10.0, -1.0, 1e6]), 2.0), [2.718282, 100, 0.135335, 100], rtol=1e-5
    )


@pytest.mark.parametrize(
    "x, y, sigma, kernel, expected",
    [
        ([[0.0]], [[1.0]], 0.5, "laplacian", 1.124385),  # sqrt(2 - 2/e)
        ([[0.0]], [[2.0]], 2.0, "gaussian", 1.124385),  # the same: exp(-4 / 4)
        ([[0.0], [1.0]], [[0.0]], 0.5, "laplacian", 0.562193),  # sqrt((2 + 2/e)/4 + 1 - (1 + 1/e)) = sqrt(1/2 - 1/(2e))
        ([[0.0, 0.0]], [[1.0, 2.0]], 1.5, "laplacian", 1.124385),  # the 1-norm is 3
        ([[0.0, 0.0]], [[1.0, 2.0]], 2.5, "gaussian", 1.124385),  # the squared norm is 5
        ([[0.3], [0.4]], [[0.4], [0.3]], 1.0, "gaussian", 1e-3),  # equal sets: the root of 1e-6
    ],
)
def test_mmd(x, y, sigma, kernel, expected):
    assert MMD(np.array(x), np.array(y), sigma, kernel) == pytest.approx(expected, rel=2e-4)


def test_mmd_acts_on_the_last_two_axes():
    x, y = jax.random.normal(KEY, (2, 4, 3, 2))  # 4 rows of 3 samples
    rows = [MMD(a, b, 1.0, "gaussian") for a, b in zip(np.asarray(x), np.asarray(y), strict=True)]
    np.testing.assert_allclose(MMD(x, y, 1.0, "gaussian"), rows, rtol=1e-5)


def test_pessimistic_value():
    np.testing.assert_allclose(pessimistic(jnp.array([[1.0, 5.0], [3.0, 1.0]])), [1.5, 2.0])


def test_vae_loss():
    shapes = jax.eval_shape(lambda: BehaviorVAE(3, 1, (8,), KEY))
    vae = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)

    def biases(v):
        return (v.encoder.layers[-1].bias, v.decoder.layers[-1].bias)

    vae = eqx.tree_at(biases, vae, (np.float32([1.0, 0.0, np.log(2), 0.0]), np.float32([np.arctanh(0.5)])))
    loss, metrics = jax.jit(BehaviorVAE.loss)(vae, np.ones((2, 3)), np.array([[0.0], [1.0]]), np.ones((2, 2)))
    assert metrics["vae_error"] == pytest.approx(0.25)  # the decoder says 0.5 to both
    assert metrics["vae_kl"] == pytest.approx(0.653426, abs=1e-5)  # -(1 + log 4 - 1 - 4) / 2 and 0, averaged
    assert loss == pytest.approx(0.25 + 0.653426 / 2, abs=1e-5)


# --- critics


@pytest.mark.parametrize("name", CRITICS)
def test_critic_finds_the_values_of_a_chain(name):
    stage, discount, q_of, v_of = CRITICS[name]
    state = train(config.assign(stage, discount, 0.8), chain(), steps=600, long=name == "bear")  # as below: one program
    q = q_of(state)(jnp.asarray(STATE), jnp.zeros((3, 1)))
    np.testing.assert_allclose(q, np.tile([0.64, 0.8, 1.0], (2, 1)), atol=0.03)
    if v_of is not None:
        np.testing.assert_allclose(v_of(state)(jnp.asarray(STATE)), [0.64, 0.8, 1.0], atol=0.03)


@pytest.mark.parametrize("next_value", ["before", "after"])
def test_q_regresses_on_v_before_or_after_its_step(next_value):
    data, stage = chain(), config.assign(CRITIC, "next_value", next_value)
    start = init(stage, data, {}, KEY)
    after, metrics = jax.jit(stage.update)(start, data, {}, KEY, jnp.int32(0))
    v = (start if next_value == "before" else after).v.model(data.next_obs)
    y = data.reward + 0.99 * data.mask * v
    np.testing.assert_allclose(metrics["q_loss"], jnp.mean((start.q.model(data.obs, data.action) - y) ** 2), rtol=1e-5)
    other = data.reward + 0.99 * data.mask * (after if next_value == "before" else start).v.model(data.next_obs)
    assert float(jnp.mean(jnp.abs(y - other))) > 1e-3  # the two can be told apart


@pytest.mark.parametrize("level, expected", [(0.5, 0.0), (0.9, 0.5)])
def test_iql_value_is_the_expectile_of_q_under_the_data(level, expected):
    # rewards uniform on (-1, 1): level (1 - m)^2 = (1 - level) (1 + m)^2
    critic = CRITIC.result(train(eqx.tree_at(lambda s: s.expectile, CRITIC, level), bandit(ACTION, ACTION)))
    np.testing.assert_allclose(critic.v(jnp.asarray(STATE[:2])), expected, atol=0.06)


def test_td3_bc_takes_the_papers_critic_step_and_delays_the_actor():
    data, stage = chain(), eqx.tree_at(lambda s: s.noise, TD3BC, 0.0)
    start = init(stage, data, {}, KEY)
    batch = data.take(data.rows(jax.random.split(jax.random.fold_in(KEY, 0))[0], 64))  # what the first step sees

    def see(obs):
        return (obs - np.mean(data.obs, 0)) / (np.std(data.obs, 0) + 1e-3)

    q_next = start.q.target(see(batch.next_obs), start.actor.target(batch.next_obs))
    y = batch.reward + 0.99 * batch.mask * np.minimum(q_next[0], q_next[1])
    q1, q2 = start.q.model(see(batch.obs), batch.action)

    log = Log.create(metric_names(stage, start, data, {}, KEY))
    once, log = compiled()(stage, start, log, data, {}, KEY, jnp.int32(0), jnp.int32(1))
    assert log.total["q_loss"] == pytest.approx(float(np.mean((q1 - y) ** 2) + np.mean((q2 - y) ** 2)), rel=1e-5)
    assert not same(once.q.model, start.q.model)
    assert same(once.actor, start.actor) and same(once.q.target, start.q.target)
    twice, _ = compiled()(stage, once, log, data, {}, KEY, jnp.int32(1), jnp.int32(2))
    assert not same(twice.actor.model, start.actor.model)
    for after, before in ((twice.q, once.q), (twice.actor, once.actor)):
        moved = jax.tree.map(lambda t, m: t + 0.05 * (m - t), before.target, after.model)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.target, moved)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


# --- policies


def two_gaussians():
    """Actions N(-0.4, 0.2^2) in one state, N(0.4, 0.2^2) in the other."""
    noise = np.random.default_rng(1).standard_normal(N // 2).repeat(2)
    action = np.where(np.arange(N) % 2 == 0, -0.4, 0.4) + 0.2 * (noise - noise.mean()) / noise.std()
    return bandit(action.astype(np.float32), np.zeros(N))


def test_deterministic_cloning_finds_the_mean_action_of_each_state():
    stage = Regression(**SMALL, lr=3e-3)
    actor = stage.result(train(stage, two_gaussians()))
    np.testing.assert_allclose(actor(jnp.asarray(STATE[:2]))[:, 0], [-0.4, 0.4], atol=0.05)


def test_gaussian_cloning_finds_mean_and_standard_deviation():
    stage = LikelihoodCloning(**SMALL, lr=3e-3)
    mean, log_std = stage.result(train(stage, two_gaussians()))(jnp.asarray(STATE[:2]))
    np.testing.assert_allclose(mean[:, 0], [-0.4, 0.4], atol=0.03)
    np.testing.assert_allclose(jnp.exp(log_std), 0.2, atol=0.02)


class KnownCritic(eqx.Module):
    """Q = a in the smaller head, V = 0."""

    def q_target(self, obs, action):
        return jnp.stack([action[..., 0], action[..., 0] + 1])

    def v(self, obs):
        return jnp.zeros(obs.shape[:-1])


@pytest.mark.parametrize("beta, limit", [(0.0, 100.0), (3.0, 100.0), (3.0, 2.0)])
def test_iql_policy_is_the_weighted_mean_of_the_data(beta, limit):
    stage = AdvantageWeightedPolicy(**SMALL, lr=3e-3, beta=beta, max_weight=limit)
    mean, _ = stage.result(train(stage, bandit(ACTION, ACTION), {"critic": KnownCritic()}))(jnp.asarray(STATE[:2]))
    weight = np.minimum(np.exp(beta * ACTION), limit)
    np.testing.assert_allclose(mean[:, 0], np.sum(weight * ACTION) / np.sum(weight), atol=0.05)
    if (beta, limit) == (3.0, 100.0):  # the closed form, for actions uniform on (-1, 1): coth 3 - 1/3
        np.testing.assert_allclose(mean[:, 0], 0.671636, atol=0.05)


@pytest.mark.parametrize("action, expected", [([0.3, 0.3], 1.0), ([0.0, np.log(3) / 2], (2 * 2) / 5), ([-300.0, -300.0], 0.0)])
def test_effective_share_of_the_rows(action, expected):
    """Weights exp(2 a): alike, 1 and 3, and both too small for a float."""
    action = np.array(action, np.float32)
    batch = jax.tree.map(lambda x: x[:2], bandit(action, action))
    stage = AdvantageWeightedPolicy(**SMALL, beta=2.0)
    metrics = jax.jit(stage.update)(init(stage, batch, {}, KEY), batch, {"critic": KnownCritic()}, KEY, jnp.int32(0))[1]
    np.testing.assert_allclose(metrics["effective_share"], expected, rtol=1e-5)


@pytest.mark.parametrize("q_scale, alpha, expected", [("data", 0.0, 0.0), ("data", 1.5, 0.6), ("policy", 1.5, 0.443)])
def test_td3_bc_balances_cloning_against_q(q_scale, alpha, expected):
    """Q = 1 + g a, g = 0.8, actions uniform: the optimum p solves 2 p = alpha g / scale.

    The scale is 1 + g mean(a) = 1 of the data (so p = alpha g / 2), or 1 + g p of the policy (so p is the positive
    root of g p^2 + p - alpha g / 2).
    """
    stage = TD3BCPolicy(**SMALL, lr=3e-3, ema=0.05, q_scale=q_scale, alpha=alpha)
    actor = stage.result(train(stage, bandit(ACTION, 1 + 0.8 * ACTION)))
    np.testing.assert_allclose(actor(jnp.asarray(STATE[:2]))[:, 0], expected, atol=0.06)
    np.testing.assert_allclose(actor.normalizer.mean.value, [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(actor.normalizer.std.value, [0.501, 0.501, 0.001], atol=1e-6)


def test_bear_multiplier_follows_the_constraint():
    start = TrainState.create(jnp.zeros(()), adam(0.01))
    assert float(BEAR_STAGE.dual_step(start, jnp.asarray(0.06))[0].model) == pytest.approx(0.01, rel=1e-3)  # Adam's first step
    assert float(BEAR_STAGE.dual_step(start, jnp.asarray(0.04))[0].model) == pytest.approx(-0.01, rel=1e-3)
    for value, distance, bound in ((10.0, 1.0, 10.0), (-5.0, 0.0, -5.0)):
        assert (
            float(BEAR_STAGE.dual_step(TrainState.create(jnp.asarray(value), adam(1.0)), jnp.asarray(distance))[0].model)
            == bound
        )


def test_bear_climbs_q_within_the_support_of_the_data():
    """Data in (-0.5, 0.5), Q = a: without Q the policy is the behavior, a loose constraint lets it go further than a tight one."""
    data = bandit(ACTION / 2, ACTION / 2)
    acted = {}
    for name, warmup, threshold in (("warm-up", 1e9, 0.05), ("tight", 0.0, 0.05), ("loose", 0.0, 1.0)):
        stage = eqx.tree_at(lambda s: (s.warmup, s.threshold), BEAR_STAGE, (warmup, threshold))
        policy = BEAR(policy=stage).make_policy({"policy": stage.result(train(stage, data, steps=1000, long=True))})
        mean, _ = policy.sampler.actor(jnp.asarray(STATE[0]))
        acted[name] = float(jnp.tanh(mean)[0])
        if name == "tight":
            assert float(policy.act(jnp.asarray(STATE[0]), KEY)[0]) > acted[name]  # the best of ten
    assert abs(acted["warm-up"]) < 0.1
    assert 0.12 < acted["tight"] < 0.4  # this kernel's MMD is shift / sqrt(sigma) for a small shift: about 0.22 before the tanh
    assert acted["loose"] > 0.9


# --- presets


@pytest.mark.parametrize("name", ["bc", "bc-gaussian", "iql", "td3-bc", "bear"])
def test_presets_name_settings_that_exist(name):
    algorithm = algorithms.find(name)
    assert algorithms.name_of(algorithm()) == name
    assert {"paper", "quick"} <= set(algorithm.presets)
    for preset in algorithm.presets:
        for data in ("hopper-medium-v2", "antmaze-umaze-v2", "pen-human-v1", "halfcheetah-random-v2", "mine"):
            config.assign_all(algorithm(), config.preset(algorithm.presets, preset, data))


def test_presets_of_a_domain():
    def chosen(name, preset, data):
        return config.preset(algorithms.find(name).presets, preset, data)

    maze = config.assign_all(IQL(), chosen("iql", "paper", "antmaze-large-play-v2"))
    assert (maze.critic.expectile, maze.policy.beta, maze.data.reward) == (0.9, 10.0, "minus-one")
    pen = config.assign_all(IQL(), chosen("iql", "quick", "pen-human-v1"))
    assert (pen.critic.steps, pen.policy.beta, pen.policy.dropout, pen.data.reward) == (50_000, 0.5, 0.1, "none")
    hopper = config.assign_all(BEAR(), chosen("bear", "d4rl", "hopper-medium-v2"))
    assert (hopper.policy.kernel, hopper.policy.sigma, hopper.candidates) == ("laplacian", 20.0, 100)
