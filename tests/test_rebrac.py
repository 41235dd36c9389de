"""ReBRAC: losses and targets against NumPy, the start of its networks, both penalties, and the authors' table."""

import equinox as eqx
import jax
import numpy as np
import pytest
from bandits import start
from jax import random

from srpo import config
from srpo.algorithms.rebrac import BETAS, PenalizedPolicy, ReBRAC
from srpo.core import Batch
from srpo.data import from_arrays
from srpo.data.treated import treat

ROWS, OBS, ACT, KEY = 7, 3, 2, random.key(4)
STAGE = PenalizedPolicy(batch_size=ROWS, hidden=(6,), actor_penalty=0.3, critic_penalty=0.7, discount=0.9)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    obs, next_obs, action, after = (rng.uniform(-1, 1, (ROWS, n)) for n in (OBS, OBS, ACT, ACT))
    columns = (np.asarray(x, np.float32) for x in (obs, action, rng.normal(size=ROWS), next_obs, np.arange(ROWS) % 3 > 0))
    return Batch(*columns, np.arange(ROWS, dtype=np.int32), after.astype(np.float32))


@pytest.fixture(scope="module")
def state(batch):
    """Away from the start, and with targets of their own."""
    rng = np.random.default_rng(2)

    def stir(model):
        return jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.standard_normal(x.shape, np.float32), model)

    def places(s):
        return s.q.model, s.q.target, s.actor.model.net, s.actor.target.net

    made = start(STAGE, batch, {}, KEY)
    return eqx.tree_at(places, made, tuple(map(stir, places(made))))


@jax.jit
def updated(state, batch, step):
    return STAGE.update(state, batch, {}, KEY, step)


def network(net, x):
    """A network in NumPy: ReLU, then LayerNorm where there is one."""
    for i, layer in enumerate(net.layers):
        x = x @ np.asarray(layer.weight) + np.asarray(layer.bias)
        if i + 1 < len(net.layers):
            x = np.maximum(x, 0)
            if net.norms:
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
                x = x * np.asarray(net.norms[i].scale) + np.asarray(net.norms[i].bias)
    return x


def values(q, obs, action):
    return np.stack([network(member, np.concatenate([obs, action], -1))[:, 0] for member in q.members])


def test_losses_against_numpy(batch, state):
    after, found = jax.tree.map(np.asarray, updated(state, batch, 0))
    obs, action, reward, next_obs, mask, _, next_action = (np.asarray(x, np.float64) for x in batch)
    noise = np.clip(0.2 * np.asarray(random.normal(KEY, (ROWS, ACT))), -0.5, 0.5)
    taken = np.clip(np.tanh(network(state.actor.target.net, next_obs)) + noise, -1, 1)
    next_value = values(state.q.target, next_obs, taken).min(0) - 0.7 * ((taken - next_action) ** 2).sum(-1)
    y = reward + 0.9 * mask * next_value
    expected = ((values(state.q.model, obs, action) - y) ** 2).mean(1).sum()
    np.testing.assert_allclose(found["q_loss"], expected, rtol=1e-4)

    pi = np.tanh(network(state.actor.model.net, obs))
    q, cloning = values(after.q.model, obs, pi).min(0), ((pi - action) ** 2).sum(-1).mean()  # the critic after its step
    np.testing.assert_allclose(found["cloning_error"], cloning, rtol=1e-4)
    np.testing.assert_allclose(found["actor_loss"], 0.3 * cloning - q.mean() / np.abs(q).mean(), rtol=1e-4)
    for now, old, target in zip(*map(jax.tree.leaves, (after.q.model, state.q.target, after.q.target)), strict=True):
        np.testing.assert_allclose(target, old + 0.005 * (now - old), atol=1e-6)


def test_actor_and_targets_move_at_every_second_step_from_the_first(batch, state):
    first, second = (updated(state, batch, step)[0] for step in (0, 1))
    assert not np.array_equal(first.actor.model.net.layers[0].weight, state.actor.model.net.layers[0].weight)
    for still, was in zip(
        jax.tree.leaves((second.actor, second.q.target)), jax.tree.leaves((state.actor, state.q.target)), strict=True
    ):
        np.testing.assert_array_equal(still, was)
    np.testing.assert_array_equal(first.q.model.members[0].layers[0].weight, second.q.model.members[0].layers[0].weight)


def test_networks_start_as_edacs(batch):
    made = jax.tree.map(np.asarray, start(STAGE, batch, {}, KEY))
    for net, last in ((made.actor.model.net, 1e-3), (made.q.model.members[0], 3e-3), (made.q.model.members[1], 3e-3)):
        assert all((layer.bias == np.float32(0.1)).all() for layer in net.layers[:-1])
        assert 0 < np.abs(net.layers[-1].weight).max() <= last and 0 < np.abs(net.layers[-1].bias).max() <= last
        assert np.abs(net.layers[0].weight).max() <= net.layers[0].weight.shape[0] ** -0.5
    assert not np.array_equal(made.q.model.members[0].layers[-1].weight, made.q.model.members[1].layers[-1].weight)


def test_next_actions_come_from_the_recording():
    rng = np.random.default_rng(0)
    action, end = rng.uniform(-1, 1, (20, ACT)), np.arange(20) % 10 == 9
    data = from_arrays(rng.normal(size=(20, OBS)), action, np.zeros(20), np.zeros(20, bool), end)
    view = STAGE.view(treat(data, ReBRAC().data))
    drawn = jax.tree.map(np.asarray, jax.jit(lambda view: view.take(view.rows(KEY, 64)))(view))
    rows = np.delete(np.arange(20), [9, 19])[drawn.index]
    np.testing.assert_array_equal(drawn.next_action, action.astype(np.float32)[rows + 1])


def test_the_authors_table_reaches_its_tasks():
    def of(name, preset="paper"):
        algorithm = config.assign_all(ReBRAC(), config.preset(ReBRAC.presets, preset, name))
        return algorithm.policy, algorithm.data

    policy, data = of("hopper-medium-replay-v2")
    assert (policy.actor_penalty, policy.critic_penalty, policy.batch_size, policy.lr_q) == (0.05, 0.5, 1024, 1e-3)
    policy, data = of("antmaze-medium-diverse-v2")
    assert (policy.actor_penalty, policy.critic_penalty, policy.batch_size, policy.lr_q) == (0.001, 0.0, 256, 5e-5)
    assert (policy.discount, policy.lr_actor, data.reward) == (0.999, 3e-4, "times-100")
    assert of("pen-human-v1")[0].lr_q == of("pen-human-v1")[0].lr_actor == 3e-4 and of("robot")[0].batch_size == 256
    assert of("hopper-medium-v2", "quick")[0].batch_size == 256 and len(BETAS) == 36
    one = treat(from_arrays(np.ones((4, OBS)), np.zeros((4, ACT)), [1, 2, 0, 3], np.zeros(4, bool)), data)
    np.testing.assert_array_equal(one.transitions.held.reward, [100, 200, 0])
