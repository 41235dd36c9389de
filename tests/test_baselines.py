"""BC, IQL, TD3+BC and BEAR: formulas against hand-worked numbers, policies on a bandit; and everybody's critic on a chain.

All stages of a kind train on data of one shape, so that each is compiled once.
"""

import itertools
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bandits import advanced
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
from srpo.steps import Log, metric_names, step_keys

N, SMALL = 512, {"hidden": (32,), "batch_size": 128}
KEY = jax.random.key(0)
ACTION = np.linspace(-1, 1, N, dtype=np.float32)
STATE = np.eye(3, dtype=np.float32)


def transitions(obs, action, reward, next_obs, mask) -> Batch:
    columns = (np.asarray(x, np.float32) for x in (obs, action[:, None], reward, next_obs, mask))
    return jax.device_put(Batch(*columns, np.arange(len(reward), dtype=np.int32)))


def bandit(action, reward) -> Batch:
    """One step from a state drawn from two, which do not matter to the reward."""
    obs = STATE[np.arange(len(action)) % 2]
    return transitions(obs, action, reward, obs, np.zeros(len(action)))


CHAIN = STATE[np.arange(N) % 3]


@cache
def chain() -> Batch:
    """Three states in a row, any action; the last step ends with reward 1. Values: discount^2, discount, 1."""
    at = np.arange(N) % 3
    action = np.random.default_rng(0).uniform(-1, 1, N)
    return transitions(CHAIN, action, at == 2, STATE[(at + 1) % 3], at < 2)


def train(stage, data, given=None, steps=1500, state=None, start=0):
    given = given or {}
    state = init(stage, data, given, KEY) if state is None else state
    log = Log.create(metric_names(stage, state, data, given, KEY))
    state, log = advanced(stage, state, log, data, given, KEY, start, steps)
    assert all(int(step) == -1 for step in log.bad_step.values())
    return state


@partial(jax.jit, static_argnums=0)
def seen(of, state):
    """What `of` makes of it."""
    return of(state)


CRITIC = IQLCritic(**SMALL, layer_init="orthogonal sqrt2", next_value="after", lr=3e-3, ema=0.05)
TD3BC = TD3BCPolicy(**SMALL, lr=3e-3, ema=0.05)
BEAR_STAGE = BEARPolicy(
    **SMALL | {"batch_size": 64},
    vae_hidden=(16,),
    next_actions=2,
    kernel="gaussian",
    sigma=20.0,
    random_multiplier=False,
    warmup=0.0,
    lr_dual=0.03,
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
        WarmUp(batch_size=64, critic=JointCritic(hidden=(32,), lr=3e-3, ema=0.05), behavior=DenoisedBehavior(hidden=(8,))),
        "critic.discount",
        lambda s: s.critic.model.q,
        lambda s: s.critic.model.v,
    ),
}

# --- formulas

MMD = jax.jit(mmd, static_argnames="kernel")


def test_gaussian_log_prob():
    # dimension 1: -(0.5 + 0 + 0.918939), dimension 2: -(0 + log 2 + 0.918939)
    found = jax.jit(gaussian_log_prob)(np.array([1.0, 0.5]), np.array([0.0, 0.5]), np.array([0.0, np.log(2)]))
    assert found == pytest.approx(-3.031024, abs=1e-5)


def test_advantage_weight():
    found = jax.jit(advantage_weight)(np.array([0.5, 10.0, -1.0, 1e6]), 2.0)
    np.testing.assert_allclose(found, [2.718282, 100, 0.135335, 100], rtol=1e-5)


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
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3, 2), np.float32)  # 4 rows of 3 samples
    rows = [MMD(a, b, 1.0, "gaussian") for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(MMD(x, y, 1.0, "gaussian"), rows, rtol=1e-5)


def test_pessimistic_value():
    np.testing.assert_allclose(jax.jit(pessimistic)(np.array([[1.0, 5.0], [3.0, 1.0]])), [1.5, 2.0])


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
    first = init(CRITIC if name == "srpo" else stage, chain(), {}, KEY)  # SRPO's starts as IQL's: one program
    state = train(config.assign(stage, discount, 0.8), chain(), steps=600, state=first)
    q, v = seen(lambda s: (q_of(s)(STATE, np.zeros((3, 1), np.float32)), v_of and v_of(s)(STATE)), state)
    np.testing.assert_allclose(q, np.tile([0.64, 0.8, 1.0], (2, 1)), atol=0.03)
    if v is not None:
        np.testing.assert_allclose(v, [0.64, 0.8, 1.0], atol=0.03)


@pytest.mark.parametrize("next_value", ["before", "after"])
def test_q_regresses_on_v_before_or_after_its_step(next_value):
    stage = config.assign(CRITIC, "next_value", next_value)

    @jax.jit
    def stepped(data):
        start = stage.init(data, {}, KEY)
        after, metrics = stage.update(start, data, {}, KEY, 0)
        targets = [data.reward + 0.99 * data.mask * state.v.model(data.next_obs) for state in (start, after)]
        return start.q.model(data.obs, data.action), targets, metrics["q_loss"]

    q, (y, other), loss = jax.tree.map(np.asarray, stepped(chain()))
    y, other = (y, other) if next_value == "before" else (other, y)
    np.testing.assert_allclose(loss, np.mean((q - y) ** 2), rtol=1e-5)
    assert np.mean(np.abs(y - other)) > 1e-3  # the two can be told apart


@pytest.mark.parametrize("level, expected", [(0.5, 0.0), (0.9, 0.5)])
def test_iql_value_is_the_expectile_of_q_under_the_data(level, expected):
    # rewards uniform on (-1, 1): level (1 - m)^2 = (1 - level) (1 + m)^2
    state = train(eqx.tree_at(lambda s: s.expectile, CRITIC, level), bandit(ACTION, ACTION))
    np.testing.assert_allclose(seen(value_of_iql, state), expected, atol=0.06)


def value_of_iql(state):
    return CRITIC.result(state).v(STATE[:2])


def test_td3_bc_takes_the_papers_critic_step_and_delays_the_actor():
    data, stage = chain(), eqx.tree_at(lambda s: s.noise, TD3BC, 0.0)
    start = init(stage, data, {}, KEY)

    @jax.jit
    def expected(start, data):
        batch = data.take(data.rows(step_keys(KEY, 0)[0], TD3BC.batch_size))  # what the first step sees

        def see(obs):
            return (obs - np.mean(CHAIN, 0)) / (np.std(CHAIN, 0) + 1e-3)

        q_next = start.q.target(see(batch.next_obs), start.actor.target(batch.next_obs))
        y = batch.reward + 0.99 * batch.mask * jnp.minimum(q_next[0], q_next[1])
        q1, q2 = start.q.model(see(batch.obs), batch.action)
        return jnp.mean((q1 - y) ** 2) + jnp.mean((q2 - y) ** 2)

    log = Log.create(metric_names(stage, start, data, {}, KEY))
    once, log = advanced(stage, start, log, data, {}, KEY, 0, 1)
    assert log.total["q_loss"] == pytest.approx(float(expected(start, data)), rel=1e-5)
    assert not same(once.q.model, start.q.model)
    assert same(once.actor, start.actor) and same(once.q.target, start.q.target)
    twice, _ = advanced(stage, once, log, data, {}, KEY, 1, 2)
    assert not same(twice.actor.model, start.actor.model)
    for after, before in ((twice.q, once.q), (twice.actor, once.actor)):
        for new, old, model in zip(*map(jax.tree.leaves, (after.target, before.target, after.model)), strict=True):
            old = np.asarray(old)
            np.testing.assert_allclose(new, old + 0.05 * (model - old), rtol=1e-5, atol=1e-6)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


# --- policies


def two_gaussians():
    """Actions N(-0.4, 0.2^2) in one state, N(0.4, 0.2^2) in the other."""
    noise = np.random.default_rng(1).standard_normal(N // 2).repeat(2)
    action = np.where(np.arange(N) % 2 == 0, -0.4, 0.4) + 0.2 * (noise - noise.mean()) / noise.std()
    return bandit(action.astype(np.float32), np.zeros(N))


def in_both_states(actor):
    return actor(STATE[:2])


def test_deterministic_cloning_finds_the_mean_action_of_each_state():
    stage = Regression(**SMALL, lr=3e-3)
    actor = stage.result(train(stage, two_gaussians()))
    np.testing.assert_allclose(seen(in_both_states, actor)[:, 0], [-0.4, 0.4], atol=0.05)


def test_gaussian_cloning_finds_mean_and_standard_deviation():
    stage = LikelihoodCloning(**SMALL, lr=3e-3)
    mean, log_std = seen(in_both_states, stage.result(train(stage, two_gaussians())))
    np.testing.assert_allclose(mean[:, 0], [-0.4, 0.4], atol=0.03)
    np.testing.assert_allclose(np.exp(log_std), 0.2, atol=0.02)


class KnownCritic(eqx.Module):
    """Q = a in the smaller head, V = 0."""

    def q_target(self, obs, action):
        return jnp.stack([action[..., 0], action[..., 0] + 1])

    def v(self, obs):
        return jnp.zeros(obs.shape[:-1])


@pytest.mark.parametrize("beta, limit", [(0.0, 100.0), (3.0, 100.0), (3.0, 2.0)])
def test_iql_policy_is_the_weighted_mean_of_the_data(beta, limit):
    stage = AdvantageWeightedPolicy(**SMALL, lr=3e-3, beta=beta, max_weight=limit)
    mean, _ = seen(in_both_states, stage.result(train(stage, bandit(ACTION, ACTION), {"critic": KnownCritic()})))
    weight = np.minimum(np.exp(beta * ACTION), limit)
    np.testing.assert_allclose(mean[:, 0], np.sum(weight * ACTION) / np.sum(weight), atol=0.05)
    if (beta, limit) == (3.0, 100.0):  # the closed form, for actions uniform on (-1, 1): coth 3 - 1/3
        np.testing.assert_allclose(mean[:, 0], 0.671636, atol=0.05)


@pytest.mark.parametrize("action, expected", [([0.3, 0.3], 1.0), ([0.0, np.log(3) / 2], (2 * 2) / 5), ([-300.0, -300.0], 0.0)])
def test_effective_share_of_the_rows(action, expected):
    """Weights exp(2 a): alike, 1 and 3, and both too small for a float."""
    np.testing.assert_allclose(share(bandit(np.array(action), np.array(action))), expected, rtol=1e-5)


@jax.jit
def share(batch):
    stage = AdvantageWeightedPolicy(**SMALL, beta=2.0)
    return stage.update(stage.init(batch, {}, KEY), batch, {"critic": KnownCritic()}, KEY, 0)[1]["effective_share"]


@pytest.mark.parametrize("q_scale, alpha, expected", [("data", 0.0, 0.0), ("data", 1.5, 0.6), ("policy", 1.5, 0.443)])
def test_td3_bc_balances_cloning_against_q(q_scale, alpha, expected):
    """Q = 1 + g a, g = 0.8, actions uniform: the optimum p solves 2 p = alpha g / scale.

    The scale is 1 + g mean(a) = 1 of the data (so p = alpha g / 2), or 1 + g p of the policy (so p is the positive
    root of g p^2 + p - alpha g / 2).
    """
    data = bandit(ACTION, 1 + 0.8 * ACTION)
    stage = config.assign_all(TD3BC, {"q_scale": q_scale, "alpha": alpha})
    actor = stage.result(train(stage, data, state=init(TD3BC, data, {}, KEY)))  # either scale starts alike: one program
    np.testing.assert_allclose(seen(in_both_states, actor)[:, 0], expected, atol=0.06)
    np.testing.assert_allclose(actor.normalizer.mean.value, [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(actor.normalizer.std.value, [0.501, 0.501, 0.001], atol=1e-6)


def test_bear_multiplier_follows_the_constraint():
    @jax.jit
    def stepped(value, distance, lr):
        stage = eqx.tree_at(lambda s: s.lr_dual, BEAR_STAGE, lr)
        return stage.dual_step(TrainState.create(value, adam(lr)), distance)[0].model

    assert float(stepped(0.0, 0.06, 0.01)) == pytest.approx(0.01, rel=1e-3)  # Adam's first step
    assert float(stepped(0.0, 0.04, 0.01)) == pytest.approx(-0.01, rel=1e-3)
    assert float(stepped(10.0, 1.0, 0.01)) == 10.0 and float(stepped(-5.0, 0.0, 0.01)) == -5.0  # its bounds


def mean_and_best(policy):
    return jnp.tanh(policy.sampler.actor(STATE[0])[0]), policy.act(STATE[0], KEY)


def test_bear_climbs_q_within_the_support_of_the_data():
    """Data in (-0.5, 0.5), Q = a: without Q the policy is the behavior, a loose constraint lets it go further than a tight one.

    Dual ascent swings about the constraint: its mean over ten stops of the second half counts.
    """
    data = bandit(ACTION / 2, ACTION / 2)

    def acted(stops, warmup=0.0, threshold=0.05):
        stage, state, seen_at = eqx.tree_at(lambda s: (s.warmup, s.threshold), BEAR_STAGE, (warmup, threshold)), None, []
        for before, stop in itertools.pairwise((0, *stops)):
            state = train(stage, data, state=state, start=before, steps=stop)
            seen_at.append(seen(mean_and_best, BEAR(policy=stage).make_policy({"policy": stage.result(state)})))
        return np.mean(seen_at, 0)[:, 0]

    mean, best = acted(range(550, 1050, 50))
    assert 0.12 < mean < 0.4  # this kernel's MMD is shift / sqrt(sigma) for a small shift: about 0.22 before the tanh
    assert best > mean  # the best of ten
    assert abs(acted([500], warmup=1e9)[0]) < 0.1
    assert acted([500], threshold=1.0)[0] > 0.9


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
