"""Policies: what is chosen among candidates, and what a Gaussian actor's policy draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import layers

from srpo.networks.actors import GaussianActor, SquashedGaussianActor
from srpo.networks.layers import MLP
from srpo.policies import BestOf, GaussianPolicy

OBS = np.float32([0.2, -0.4])


@jax.jit
def acted(policy, obs=OBS, seed=0):
    return policy.act(obs, jax.random.key(seed))


class Candidates(eqx.Module):
    """A sampler that always draws the same actions."""

    action: jax.Array  # (n, 1)

    def sample(self, obs, key, n):
        return self.action[:n]


class Heads(eqx.Module):
    """Two heads that disagree: a and -a + 0.2."""

    def __call__(self, obs, action):
        assert obs.shape == (len(action), 2)
        return jnp.stack([action[:, 0], 0.2 - action[:, 0]])


class Linear(eqx.Module):
    slope: jax.Array

    def __call__(self, obs, action):
        return (self.slope * action[:, 0])[None]


GRID = Candidates(np.linspace(-1, 1, 21, dtype=np.float32)[:, None])
ONE = np.float32(1)


@pytest.mark.parametrize("heads, best", [("min", 0.1), ("first", 1.0)])
def test_argmax_of_the_chosen_heads(heads, best):
    policy = BestOf(GRID, Heads(), n=21, heads=heads)
    assert acted(policy) == pytest.approx(best, abs=1e-6)


def test_mean_of_heads_and_number_of_candidates():
    action = np.float32([[-0.5], [0.9], [0.4], [1.0]])

    class Uneven(eqx.Module):
        def __call__(self, obs, action):
            return jnp.stack([action[:, 0], -3 * action[:, 0]])

    assert acted(BestOf(Candidates(action), Uneven(), n=4, heads="mean")) == pytest.approx(-0.5)
    assert acted(BestOf(Candidates(action), Linear(ONE), n=2)) == pytest.approx(0.9)


@pytest.mark.parametrize(("sharpness", "expected"), [(4.0, [1 / 6, 2 / 6, 3 / 6]), (0.0, [1 / 3, 1 / 3, 1 / 3])])
def test_softmax_draws_in_proportion_to_exp_of_sharpness_times_value(sharpness, expected):
    """Four times the values are log 1, log 2, log 3."""
    action = np.log(np.float32([[1], [2], [3]])) / 2
    policy = BestOf(Candidates(action), Linear(np.float32(0.5)), n=3, choice="softmax", sharpness=sharpness)
    drawn = np.asarray(acted(policy, np.broadcast_to(OBS, (20_000, 2)), 1))
    share = [np.mean(np.isclose(drawn, a)) for a in action[:, 0]]
    np.testing.assert_allclose(share, expected, atol=0.012)  # 3.4 standard errors


def test_the_action_is_the_clipped_mean_of_candidates_drawn_without_replacement():
    best_two = BestOf(GRID, Linear(ONE), n=21, average=2)
    assert acted(best_two) == pytest.approx(0.95)
    outside = BestOf(Candidates(3 * GRID.action), Linear(ONE), n=21)
    assert acted(outside) == pytest.approx(1.0)  # clipped to the bounds of actions
    everyone = BestOf(GRID, Linear(ONE), n=21, choice="softmax", average=21)
    assert acted(everyone) == pytest.approx(0.0, abs=1e-6)


def test_a_batch_is_acted_on_row_by_row():
    """Each observation has candidates and values of its own: the value of an action is how close it is to the observation."""

    class Draw(eqx.Module):
        def sample(self, obs, key, n):
            return jax.random.uniform(key, (n, 1), minval=-1, maxval=1)

    class Closeness(eqx.Module):
        def __call__(self, obs, action):
            return -((action[:, 0] - obs[:, 0]) ** 2)[None]

    policy = BestOf(Draw(), Closeness(), n=500)
    obs = np.linspace(-0.9, 0.9, 12, dtype=np.float32).reshape(3, 4, 1)
    np.testing.assert_allclose(acted(policy, obs), obs, atol=0.05)
    assert jax.eval_shape(acted, policy, obs[0, 0]).shape == (1,)


def test_a_policy_that_draws_needs_a_key():
    with pytest.raises(ValueError, match="give a key"):
        BestOf(GRID, Heads(), n=21).act(OBS)


def test_best_of_a_trained_result_is_made_under_vmap():
    @jax.jit
    def made(scores):
        policies = jax.vmap(lambda score: BestOf(GRID, score, 21, sharpness=2.0))(scores)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(policies))
        return jax.vmap(acted)(policies)

    np.testing.assert_allclose(made(Linear(np.float32([1, -1]))), [[1.0], [-1.0]])


@pytest.mark.parametrize("kind", [GaussianActor, SquashedGaussianActor])
def test_gaussian_policy_acts_with_the_mean_and_samples_in_bounds(kind):
    @jax.jit
    def found(layers, keys):
        policy = GaussianPolicy(kind(2, 3, (8,), keys[0], layers=layers))
        return *policy.actor(OBS), policy.act(OBS), policy.act(OBS, keys[0]), policy.sample(OBS, keys[1], 20_000)

    made = layers(2, 8, 3 if kind is GaussianActor else 6)
    mean, log_std, *acts, drawn = map(np.asarray, found(made, jax.random.split(jax.random.key(1))))
    for act in acts:
        np.testing.assert_allclose(act, mean if kind is GaussianActor else np.tanh(mean), rtol=1e-6)
    assert drawn.shape == (20_000, 3) and np.max(np.abs(drawn)) <= 1.0
    raw = np.arctanh(np.where(np.abs(drawn) < 1, drawn, 0)) if kind is SquashedGaussianActor else drawn
    # quantiles are not moved by clipping, nor by a monotone map: the median is the mean, the 69.1 % point half a deviation above
    np.testing.assert_allclose(np.median(raw, 0), mean, atol=0.04)
    half = mean + 0.5 * np.exp(log_std)
    np.testing.assert_allclose(
        np.quantile(raw, 0.69146, axis=0), np.clip(half, -1, 1) if kind is GaussianActor else half, atol=0.05
    )


def test_log_std_is_clipped():
    @jax.jit
    def log_std(layers, trained):
        actor = GaussianActor(2, 3, (8,), jax.random.key(0), layers=layers)
        return eqx.tree_at(lambda a: a.log_std, actor, trained)(OBS)[1]

    np.testing.assert_allclose(log_std(layers(2, 8, 3), np.float32([-9, 0.5, 9])), [-5.0, 0.5, 2.0])


def test_dropout_of_an_actor_needs_a_key_and_keeps_the_mean_of_the_layer():
    @jax.jit
    def found(layers, x, keys):
        net = MLP((4, 512, 1), keys[0], layers=layers)
        return net(x), net(x, 0.5), jax.vmap(lambda key: net(x, 0.5, key))(keys)

    keys = jax.random.split(jax.random.key(1), 2000)
    plain, without_key, dropped = map(np.asarray, found(layers(4, 512, 1), np.ones(4, np.float32), keys))
    np.testing.assert_array_equal(plain, without_key)
    assert np.std(dropped) > 0
    assert np.mean(dropped) == pytest.approx(plain.item(), abs=4 * float(np.std(dropped)) / 2000**0.5)
