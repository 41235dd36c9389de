"""Policies: what is chosen among candidates, and what a Gaussian actor's policy draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srpo.networks.actors import GaussianActor, SquashedGaussianActor
from srpo.policies import BestOf, GaussianPolicy

OBS = jnp.array([0.2, -0.4])


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


GRID = Candidates(jnp.linspace(-1, 1, 21)[:, None])


@pytest.mark.parametrize("heads, best", [("min", 0.1), ("first", 1.0)])
def test_argmax_of_the_chosen_heads(heads, best):
    policy = BestOf(GRID, Heads(), n=21, heads=heads)
    assert policy.act(OBS, jax.random.key(0)) == pytest.approx(best, abs=1e-6)


def test_mean_of_heads_and_number_of_candidates():
    action = jnp.array([[-0.5], [0.9], [0.4], [1.0]])

    class Uneven(eqx.Module):
        def __call__(self, obs, action):
            return jnp.stack([action[:, 0], -3 * action[:, 0]])

    assert BestOf(Candidates(action), Uneven(), n=4, heads="mean").act(OBS, jax.random.key(0)) == pytest.approx(-0.5)
    assert BestOf(Candidates(action), Linear(jnp.ones(())), n=2).act(OBS, jax.random.key(0)) == pytest.approx(0.9)


@pytest.mark.parametrize(("sharpness", "expected"), [(4.0, [1 / 6, 2 / 6, 3 / 6]), (0.0, [1 / 3, 1 / 3, 1 / 3])])
def test_softmax_draws_in_proportion_to_exp_of_sharpness_times_value(sharpness, expected):
    """Four times the values are log 1, log 2, log 3."""
    action = jnp.log(jnp.array([[1.0], [2.0], [3.0]])) / 2
    policy = BestOf(Candidates(action), Linear(jnp.asarray(0.5)), n=3, choice="softmax", sharpness=sharpness)
    drawn = jax.jit(jax.vmap(lambda key: policy.act(OBS, key)))(jax.random.split(jax.random.key(1), 20_000))[:, 0]
    share = [float(jnp.mean(jnp.isclose(drawn, a))) for a in action[:, 0]]
    np.testing.assert_allclose(share, expected, atol=0.012)  # 3.4 standard errors


def test_the_action_is_the_clipped_mean_of_candidates_drawn_without_replacement():
    best_two = BestOf(GRID, Linear(jnp.ones(())), n=21, average=2)
    assert best_two.act(OBS, jax.random.key(0)) == pytest.approx(0.95)
    outside = BestOf(Candidates(3 * GRID.action), Linear(jnp.ones(())), n=21)
    assert outside.act(OBS, jax.random.key(0)) == pytest.approx(1.0)  # clipped to the bounds of actions
    everyone = BestOf(GRID, Linear(jnp.ones(())), n=21, choice="softmax", average=21)
    assert everyone.act(OBS, jax.random.key(0)) == pytest.approx(0.0, abs=1e-6)


def test_a_batch_is_acted_on_row_by_row():
    """Each observation has candidates and values of its own: the value of an action is how close it is to the observation."""

    class Draw(eqx.Module):
        def sample(self, obs, key, n):
            return jax.random.uniform(key, (n, 1), minval=-1, maxval=1)

    policy = BestOf(Draw(), lambda obs, action: -((action[:, 0] - obs[:, 0]) ** 2)[None], n=500)
    obs = jnp.linspace(-0.9, 0.9, 12).reshape(3, 4, 1)
    np.testing.assert_allclose(policy.act(obs, jax.random.key(0)), obs, atol=0.05)
    assert policy.act(obs[0, 0], jax.random.key(0)).shape == (1,)


def test_a_policy_that_draws_needs_a_key():
    with pytest.raises(ValueError, match="give a key"):
        BestOf(GRID, Heads(), n=21).act(OBS)


def test_best_of_a_trained_result_is_made_under_vmap():
    scores = Linear(jnp.array([1.0, -1.0]))
    policies = jax.vmap(lambda score: BestOf(GRID, score, 21, sharpness=2.0))(scores)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(policies))
    acted = jax.vmap(lambda p: p.act(OBS, jax.random.key(0)))(policies)
    np.testing.assert_allclose(acted, [[1.0], [-1.0]])


@pytest.mark.parametrize("kind", [GaussianActor, SquashedGaussianActor])
def test_gaussian_policy_acts_with_the_mean_and_samples_in_bounds(kind):
    actor = kind(2, 3, (8,), jax.random.key(0))
    policy = GaussianPolicy(actor)
    mean, log_std = actor(OBS)
    expected = mean if kind is GaussianActor else jnp.tanh(mean)
    for key in (None, jax.random.key(1)):
        np.testing.assert_allclose(policy.act(OBS, key), expected, rtol=1e-6)
    drawn = policy.sample(OBS, jax.random.key(2), 20_000)
    assert drawn.shape == (20_000, 3) and float(jnp.max(jnp.abs(drawn))) <= 1.0
    inside = jnp.abs(drawn) < 1
    raw = jnp.arctanh(jnp.where(inside, drawn, 0)) if kind is SquashedGaussianActor else drawn
    # quantiles are not moved by clipping, nor by a monotone map: the median is the mean, the 69.1 % point half a deviation above
    np.testing.assert_allclose(jnp.median(raw, 0), mean, atol=0.04)
    half = jnp.clip(mean + 0.5 * jnp.exp(log_std), -1, 1) if kind is GaussianActor else mean + 0.5 * jnp.exp(log_std)
    np.testing.assert_allclose(jnp.quantile(raw, 0.69146, axis=0), half, atol=0.05)


def test_log_std_is_clipped():
    actor = eqx.tree_at(lambda a: a.log_std, GaussianActor(2, 3, (8,), jax.random.key(0)), jnp.array([-9.0, 0.5, 9.0]))
    np.testing.assert_allclose(actor(OBS)[1], [-5.0, 0.5, 2.0])


def test_dropout_of_an_actor_needs_a_key_and_keeps_the_mean_of_the_layer():
    from srpo.networks.layers import MLP

    net = MLP((4, 512, 1), jax.random.key(0))
    x = jnp.ones(4)
    np.testing.assert_array_equal(net(x), net(x, 0.5))
    dropped = jax.vmap(lambda key: net(x, 0.5, key))(jax.random.split(jax.random.key(1), 2000))
    assert float(jnp.std(dropped)) > 0
    assert float(jnp.mean(dropped)) == pytest.approx(float(net(x)[0]), abs=4 * float(jnp.std(dropped)) / 2000**0.5)
