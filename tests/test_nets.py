"""Networks: formulas against JAX's own and against hand computation, and the rewritten derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import network

from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, LayerNorm, Linear, dropout, linears
from srpo.networks.score import ScoreResNet

KEY = jax.random.key(0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@jax.jit
def derived(x, dx):
    """Of our mish and of JAX's: the values, their gradients, their tangents along dx and their second derivatives."""
    first = {f: jax.grad(f) for f in (mish, jax.nn.mish)}
    return [(f(x), jax.vmap(d)(x), jax.jvp(f, (x,), (dx,))[1], jax.vmap(jax.grad(d))(x)) for f, d in first.items()]


def test_mish_and_its_gradient_are_those_of_jax():
    x = np.concatenate([np.linspace(-30, 30, 2001), [-1e4, -100.0, 0.0, 100.0, 1e4]]).astype(np.float32)
    (ours, our_gradient, *_), (theirs, their_gradient, *_) = derived(x, x)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(our_gradient, their_gradient, rtol=1e-5, atol=2e-6)


def test_mish_differentiates_forwards_and_twice():
    x, dx = normal(1, 2006), normal(2, 2006)
    (_, gradient, tangent, second), (_, _, _, expected) = derived(x, dx)
    np.testing.assert_allclose(tangent, dx * np.asarray(gradient), rtol=1e-6)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-5)


dropped = jax.jit(lambda x, rate: dropout(x, rate, KEY))


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(501, 401), (200_001,)])
def test_dropout_keeps_its_rate_and_the_mean(rate, shape):
    y = np.asarray(dropped(np.ones(shape, np.float32), rate))
    assert abs(np.mean(y == 0) - rate) < 5 * (rate * (1 - rate) / y.size) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_without_a_key_or_rate_is_the_identity():
    x = normal(1, 501, 401)
    assert dropout(x, 0.5, None) is x
    np.testing.assert_array_equal(dropped(x, 0.0), x)


def test_dropout_of_neighbors_is_independent():
    flat = (np.asarray(dropped(np.ones((501, 401), np.float32), 0.5)) == 0).ravel() - 0.5
    half = -(-flat.size // 2)
    for other in (flat[1:], flat[half:]):  # the next element; the one that shares its 32 bits
        assert abs(4 * np.mean(flat[: other.size] * other)) < 5 / other.size**0.5


@pytest.mark.parametrize("n_in", [4, 400])
def test_linear_starts_like_pytorch(n_in):
    layer, bound = jax.jit(lambda key: Linear.create(n_in, 300, key))(KEY), n_in**-0.5
    for values in map(np.asarray, (layer.weight, layer.bias)):
        assert 0.95 * bound < np.max(np.abs(values)) <= bound
        np.testing.assert_allclose(np.std(values), bound / 3**0.5, rtol=0.1)


def test_layers_drawn_together_are_those_drawn_alone():
    """Of lengths that are drawn together, and of others."""
    sizes, keys = [(3, 5), (1024, 5), (1, 5)], jax.random.split(KEY, 3)
    together = jax.jit(lambda keys: linears(sizes, keys))(keys)
    alone = jax.jit(lambda key, shape, b: jax.random.uniform(key, shape, minval=-b, maxval=b), static_argnums=1)
    for (n_in, n_out), (k_weight, k_bias), layer in zip(sizes, jax.vmap(jax.random.split)(keys), together, strict=True):
        np.testing.assert_array_equal(layer.weight, alone(k_weight, (n_in, n_out), n_in**-0.5))
        np.testing.assert_array_equal(layer.bias, alone(k_bias, (n_out,), n_in**-0.5))


@pytest.mark.parametrize(("init", "gain"), [("orthogonal", 1.0), ("orthogonal sqrt2", 2.0)])
def test_orthogonal_initialization(init, gain):
    layer = jax.jit(lambda key: Linear.create(64, 32, key, init))(KEY)
    weight = np.asarray(layer.weight)
    np.testing.assert_allclose(weight.T @ weight, gain * np.eye(32), atol=1e-5)
    np.testing.assert_array_equal(layer.bias, 0)


@pytest.mark.parametrize(("init", "deviation"), [("xavier", (2 / (256 + 128)) ** 0.5), ("lecun", 256**-0.5)])
def test_scaled_initializations(init, deviation):
    layer = jax.jit(lambda key: Linear.create(256, 128, key, init))(KEY)
    np.testing.assert_allclose(np.std(np.asarray(layer.weight)), deviation, rtol=0.02)
    np.testing.assert_array_equal(layer.bias, 0)


@pytest.mark.parametrize("lead", [(), (1,), (6,), (3, 5), (0,)])
def test_linear_and_its_gradients_on_any_leading_axes(lead):
    def ours(w, b, x):
        return Linear(w, b)(x)

    def plain(w, b, x):
        return x @ w + b

    @jax.jit
    def values_and_gradients(*args):
        return [(f(*args), *jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))(*args)) for f in (ours, plain)]  # noqa: B023

    found, expected = values_and_gradients(normal(1, 7, 4), normal(2, 4), normal(3, *lead, 7))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for a, b in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_linear_differentiates_forwards_and_under_vmap():
    weight, x, dx = normal(1, 2, 7, 4), normal(2, 2, 5, 7), normal(3, 2, 5, 7)

    @jax.jit
    @jax.vmap
    def derivatives(w, x, dx):
        def run(w, x):
            return Linear(w, jnp.zeros(4))(x)

        return jax.jvp(lambda x: run(w, x), (x,), (dx,))[1], jax.grad(lambda w: jnp.sum(run(w, x) ** 2))(w)

    tangent, gradient = derivatives(weight, x, dx)
    np.testing.assert_allclose(tangent, dx @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, 2 * x.swapaxes(1, 2) @ (x @ weight), rtol=1e-4, atol=1e-5)


def normalized(x):
    """What LayerNorm does, in NumPy."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_layer_norm_by_hand():
    norm, x = jax.jit(lambda x: LayerNorm(4)(x)), normal(1, 3, 5, 4)
    x[0, 0] = [1, 2, 3, 4]  # mean 2.5, variance 1.25
    y = np.asarray(norm(x))
    np.testing.assert_allclose(y[0, 0], np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(y, normalized(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm(100 + 7 * x), y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", [None, "before", "after"])
def test_mlp_by_hand_acts_on_the_last_axis(norm):
    net, x = network(MLP, (3, 8, 2), KEY, norm=norm), normal(1, 4, 5, 3)
    first, last = [(np.asarray(layer.weight), np.asarray(layer.bias)) for layer in net.layers]
    scale, shift = (np.asarray(net.norms[0].scale), np.asarray(net.norms[0].bias)) if norm else (1, 0)
    hidden = x @ first[0] + first[1]
    hidden = np.maximum(normalized(hidden) * scale + shift if norm == "before" else hidden, 0)
    hidden = normalized(hidden) * scale + shift if norm == "after" else hidden
    np.testing.assert_allclose(jax.jit(MLP.__call__)(net, x), hidden @ last[0] + last[1], rtol=1e-4, atol=1e-5)


def score_by_hand(net, x, t, obs):
    """The LayerNorm residual network in NumPy, in double precision."""

    def array(a):
        return np.asarray(a, np.float64)

    def apply(layer, h):
        return h @ array(layer.weight) + array(layer.bias)

    def soft(h):
        return h * np.tanh(np.logaddexp(h, 0))

    angle = 2 * np.pi * array(t) * array(net.fourier.frequency.value)
    e = np.concatenate([np.sin(angle), np.cos(angle)])
    e = apply(net.embed.layers[1], soft(apply(net.embed.layers[0], e)))
    h = apply(net.first, np.concatenate([array(x), array(obs), e]))
    for block in net.blocks:
        y = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * array(block.norm.scale) + array(block.norm.bias)
        h = h + apply(block.contract, soft(apply(block.expand, y)))
    return apply(net.last, soft(h))


def test_score_network_by_hand_and_on_any_leading_axes():
    @jax.jit
    def found(net, x, t, obs):
        return net(x, t, obs), net(x[0], t[0], obs[0]), net(jnp.stack([x, -x, x]), t, obs)[2], net(x, t, obs, KEY)

    net = network(ScoreResNet, 5, 2, KEY, width=16, n_blocks=2)
    x, t, obs = normal(1, 3, 2), np.float32([0.1, 0.5, 0.9]), normal(2, 3, 5)
    y, alone, repeated, dropped = map(np.asarray, found(net, x, t, obs))
    expected = np.stack([score_by_hand(net, x[i], t[i], obs[i]) for i in range(3)])
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(alone, y[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(repeated, y, rtol=1e-4, atol=1e-5)
    assert not np.allclose(dropped, y)
