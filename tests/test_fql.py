"""FQL: losses against NumPy, steps against the authors' one gradient of one sum, the flow, and the policy as a file."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bandits import BEST, acts, bandit, fit, start
from jax import random

from srpo import config
from srpo.algorithms.fql import FQL, TASKS, Flow, FlowPolicy, OneStep, OneStepPolicy
from srpo.core import Batch
from srpo.deploy.describe import describe, notes
from srpo.networks.layers import MLP

ROWS, OBS, ACT = 7, 3, 2
STAGE = FlowPolicy(batch_size=ROWS, hidden=(6,), flow_steps=3, alpha=3.0, discount=0.9)
KEY = random.key(4)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    obs, next_obs, action = rng.normal(size=(ROWS, OBS)), rng.normal(size=(ROWS, OBS)), rng.uniform(-1, 1, (ROWS, ACT))
    mask = np.arange(ROWS) % 3 > 0
    columns = (np.asarray(x, np.float32) for x in (obs, action, rng.normal(size=ROWS), next_obs, mask))
    return Batch(*columns, np.arange(ROWS, dtype=np.int32))


@pytest.fixture(scope="module")
def state(batch):
    made = start(STAGE, batch, {}, KEY)
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), made.q.target)
    return eqx.tree_at(lambda s: s.q.target, made, moved)  # a target of its own


def total(stage, state, models, batch, draws):
    """The authors' one sum; whatever a loss must not train has no gradient."""
    (q, flow, actor), stop = models, jax.lax.stop_gradient
    after = jnp.clip(stop(actor)(batch.next_obs, draws["next"]), -1, 1)
    next_q = state.q.target(batch.next_obs, after)
    y = batch.reward + 0.9 * batch.mask * (jnp.mean(next_q, 0) if stage.heads == "mean" else jnp.min(next_q, 0))
    critic = jnp.square(q(batch.obs, batch.action) - y).mean()
    z, t = draws["flow"], draws["time"]
    matching = jnp.mean((flow(batch.obs, (1 - t) * z + t * batch.action, t) - (batch.action - z)) ** 2)
    z = x = draws["actor"]
    for i in range(3):
        x = x + stop(flow)(batch.obs, x, jnp.full((ROWS, 1), i / 3)) / 3
    taken = actor(batch.obs, z)
    value = stop(q)(batch.obs, jnp.clip(taken, -1, 1)).mean(0)
    scale = stop(1 / jnp.abs(value).mean()) if stage.normalize_q else 1.0
    return critic + matching + 3.0 * jnp.mean((taken - jnp.clip(x, -1, 1)) ** 2) - scale * value.mean()


@jax.jit
def both(stage, state, batch):
    """One step, the authors' (one Adam for all networks), and what is drawn in it."""
    k_next, k_flow, k_actor = random.split(KEY, 3)
    k_noise, k_time = random.split(k_flow)
    draws = {"next": k_next, "flow": k_noise, "actor": k_actor}
    draws = {name: random.normal(key, (ROWS, ACT)) for name, key in draws.items()} | {"time": random.uniform(k_time, (ROWS, 1))}
    models, tx = (state.q.model, state.flow.model, state.actor.model), optax.adam(3e-4)
    moves, _ = tx.update(jax.grad(lambda models: total(stage, state, models, batch, draws))(models), tx.init(models))
    return stage.update(state, batch, {}, KEY, 0), optax.apply_updates(models, moves), draws


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def network(net, *parts):
    """A network in NumPy: gelu, then LayerNorm where there is one."""
    x = np.concatenate(parts, -1)
    for i, layer in enumerate(net.layers):
        x = x @ np.asarray(layer.weight) + np.asarray(layer.bias)
        if i + 1 < len(net.layers):
            x = gelu(x)
            if net.norms:
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * np.asarray(net.norms[i].scale) + np.asarray(net.norms[i].bias)
    return x


KINDS = [replace(STAGE, heads="mean", normalize_q=False), replace(STAGE, heads="min", normalize_q=True)]


@pytest.mark.parametrize("stage", KINDS, ids=["mean", "min, normalized"])
def test_losses_against_numpy(stage, batch, state):
    (_, found), _, draws = jax.tree.map(np.asarray, both(stage, state, batch))
    obs, action, reward, next_obs, mask = (np.asarray(x, np.float64) for x in batch[:5])
    actor, flow = state.actor.model.net, state.flow.model.net

    after = np.clip(network(actor, next_obs, draws["next"]), -1, 1)
    q_next = np.stack([network(m, next_obs, after)[:, 0] for m in state.q.target.members])
    y = reward + 0.9 * mask * (q_next.mean(0) if stage.heads == "mean" else q_next.min(0))
    q = np.stack([network(m, obs, action)[:, 0] for m in state.q.model.members])
    np.testing.assert_allclose(found["q_loss"], ((q - y) ** 2).mean(), rtol=1e-4)

    z, t = draws["flow"], draws["time"]
    velocity = network(flow, obs, (1 - t) * z + t * action, t)
    np.testing.assert_allclose(found["flow_loss"], ((velocity - (action - z)) ** 2).mean(), rtol=1e-4)

    z = x = draws["actor"]
    for i in range(3):
        x = x + network(flow, obs, x, np.full((ROWS, 1), i / 3)) / 3
    taken = network(actor, obs, z)
    np.testing.assert_allclose(found["distillation"], ((taken - np.clip(x, -1, 1)) ** 2).mean(), rtol=1e-4)
    climbed = np.mean([network(m, obs, np.clip(taken, -1, 1))[:, 0] for m in state.q.model.members], 0)
    np.testing.assert_allclose(found["policy_q"], climbed.mean(), rtol=1e-4)


@pytest.mark.parametrize("stage", KINDS, ids=["mean", "min, normalized"])
def test_a_step_is_that_of_the_authors_one_gradient_of_one_sum(stage, batch, state):
    (after, _), wanted, _ = jax.tree.map(np.asarray, both(stage, state, batch))
    found = after.q.model, after.flow.model, after.actor.model
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    for old, new, t in zip(*map(jax.tree.leaves, (state.q.target, after.q.model, after.q.target)), strict=True):
        old = np.asarray(old)
        np.testing.assert_allclose(t, old + 0.005 * (new - old), atol=1e-6)


def test_a_constant_velocity_carries_noise_by_its_length_and_stays_in_bounds():
    shapes = jax.eval_shape(lambda: MLP((1 + 2 + 1, 2), KEY))
    net = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    flow = Flow(eqx.tree_at(lambda n: n.layers[0].bias, net, np.float32([0.5, -3.0])))
    carried = jax.jit(lambda obs, noise: flow.carry(obs, noise, 10))(np.zeros((1, 1)), np.float32([[0.1, 0.2]]))
    np.testing.assert_allclose(carried, [[0.6, -1.0]], rtol=1e-5)


def test_the_middle_of_the_noise_is_what_a_file_does(batch):
    @jax.jit
    def acted(obs):
        policy = OneStepPolicy(OneStep(MLP((OBS + ACT, 8, ACT), KEY, jax.nn.gelu)))
        return policy, policy.act(5 * obs), policy.act(jnp.broadcast_to(obs[0], (4, 5, OBS)), KEY)

    policy, middle, drawn = acted(batch.obs)
    network = describe(policy)
    assert (network.activation, network.squash, network.obs_size) == ("gelu", "clip", OBS)
    np.testing.assert_allclose(network.forward(5 * batch.obs), middle, atol=1e-5)
    assert notes(policy) == ["the trained policy draws noise; the file acts at noise zero, the middle of it"]
    assert drawn.shape == (4, 5, ACT) and len(np.unique(drawn[..., 0])) > 10  # a draw for every observation


def test_alpha_moves_the_policy_from_the_best_action_to_the_behaviors_modes():
    stage = FlowPolicy(steps=600, batch_size=64, hidden=(32, 32), flow_steps=5, lr=5e-3, ema=0.05)
    greedy, cloned = (acts(OneStepPolicy(fit(replace(stage, alpha=alpha), bandit())[0])) for alpha in (0.05, 100.0))
    assert abs(greedy.mean() - BEST) < 0.12 and greedy.std() < 0.05  # between the data's modes, and the same for any noise
    assert np.mean(np.abs(np.abs(cloned) - 0.6) < 0.25) > 0.6 and 0.3 < np.mean(cloned > 0) < 0.7


def test_the_authors_tables_reach_their_tasks():
    def of(name):
        return config.assign_all(FQL(), config.preset(FQL.presets, "paper", name))

    maze, giant = of("antmaze-large-play-v2"), of("antmaze-giant-navigate-singletask-task3-v0")
    assert (maze.policy.alpha, maze.policy.heads, maze.data.reward, maze.policy.steps) == (3.0, "mean", "minus-one", 500_000)
    assert (giant.policy.alpha, giant.policy.heads, giant.data.reward, giant.policy.discount) == (10.0, "min", "none", 0.995)
    assert of("door-human-v1").policy.alpha == 30_000 and of("puzzle-4x4-play-singletask-v0").policy.alpha == 1000
    robot = of("robot")
    assert robot.policy.normalize_q and robot.policy.alpha == 1.0 and not maze.policy.normalize_q
    assert len(TASKS) == 2 + 10 + 18
