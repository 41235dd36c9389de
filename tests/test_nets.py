"""Networks: formulas against JAX's own and against hand computation, and the rewritten derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, LayerNorm, Linear, dropout, linears
from srpo.networks.score import ScoreResNet

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_mish_and_its_gradient_are_those_of_jax():
    x = jnp.concatenate([jnp.linspace(-30, 30, 2001), jnp.array([-1e4, -100.0, 0.0, 100.0, 1e4])])
    np.testing.assert_allclose(mish(x), jax.nn.mish(x), rtol=2e-6, atol=1e-6)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (mish, jax.nn.mish))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


def test_mish_differentiates_forwards_and_twice():
    x, dx = normal(1, 64), normal(2, 64)
    np.testing.assert_allclose(jax.jvp(mish, (x,), (dx,))[1], dx * jax.vmap(jax.grad(mish))(x), rtol=1e-6)
    second = jax.vmap(jax.grad(jax.grad(mish)))(x)
    np.testing.assert_allclose(second, jax.vmap(jax.grad(jax.grad(jax.nn.mish)))(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(501, 401), (200_001,)])
def test_dropout_keeps_its_rate_and_the_mean(rate, shape):
    y = dropout(jnp.ones(shape), rate, KEY)
    dropped = float(jnp.mean(y == 0))
    assert abs(dropped - rate) < 5 * (rate * (1 - rate) / y.size) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_without_a_key_or_rate_is_the_identity():
    x = normal(1, 7, 5)
    assert dropout(x, 0.5, None) is x
    np.testing.assert_array_equal(dropout(x, 0.0, KEY), x)


def test_dropout_of_neighbors_is_independent():
    zero = (dropout(jnp.ones((2000, 100)), 0.5, KEY) == 0).astype(float) - 0.5
    flat = zero.reshape(-1)
    half = flat.shape[0] // 2
    for other in (flat[1:], flat[half:]):  # the next element; the one that shares its 32 bits
        correlation = 4 * jnp.mean(flat[: other.shape[0]] * other)
        assert abs(float(correlation)) < 5 / other.shape[0] ** 0.5


@pytest.mark.parametrize("n_in", [4, 400])
def test_linear_starts_like_pytorch(n_in):
    layer = Linear.create(n_in, 300, KEY)
    for values in (layer.weight, layer.bias):
        bound = n_in**-0.5
        assert float(jnp.max(jnp.abs(values))) <= bound
        assert float(jnp.max(jnp.abs(values))) > 0.95 * bound
        np.testing.assert_allclose(jnp.std(values), bound / 3**0.5, rtol=0.1)


def test_layers_drawn_together_are_those_drawn_alone():
    """Of lengths that are drawn together, and of others."""
    sizes, keys = [(3, 5), (70, 70), (1, 1)], jax.random.split(KEY, 3)
    together = jax.jit(lambda keys: linears(sizes, keys))(keys)
    for (n_in, n_out), key, layer in zip(sizes, keys, together, strict=True):
        for name, k, shape in zip(("weight", "bias"), jax.random.split(key), ((n_in, n_out), (n_out,)), strict=True):
            alone = jax.jit(lambda k, shape=shape, b=n_in**-0.5: jax.random.uniform(k, shape, minval=-b, maxval=b))(k)
            np.testing.assert_array_equal(getattr(layer, name), alone)


@pytest.mark.parametrize(("init", "gain"), [("orthogonal", 1.0), ("orthogonal sqrt2", 2.0)])
def test_orthogonal_initialization(init, gain):
    layer = Linear.create(64, 32, KEY, init)
    np.testing.assert_allclose(layer.weight.T @ layer.weight, gain * jnp.eye(32), atol=1e-5)
    assert not layer.bias.any()


@pytest.mark.parametrize(("init", "deviation"), [("xavier", (2 / (256 + 128)) ** 0.5), ("lecun", 256**-0.5)])
def test_scaled_initializations(init, deviation):
    layer = Linear.create(256, 128, KEY, init)
    np.testing.assert_allclose(jnp.std(layer.weight), deviation, rtol=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("lead", [(), (1,), (6,), (3, 5), (0,)])
def test_linear_and_its_gradients_on_any_leading_axes(lead):
    layer, x = Linear.create(7, 4, KEY), normal(3, *lead, 7)

    def loss(f):
        return lambda w, b, x: jnp.sum(jnp.sin(f(w, b, x)))

    def ours(w, b, x):
        return Linear(w, b)(x)

    def plain(w, b, x):
        return x @ w + b

    args = (layer.weight, layer.bias, x)
    np.testing.assert_allclose(ours(*args), plain(*args), rtol=1e-6)
    for a, b in zip(*(jax.grad(loss(f), (0, 1, 2))(*args) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_linear_differentiates_forwards_and_under_vmap():
    weight, x, dx = normal(1, 2, 7, 4), normal(2, 2, 5, 7), normal(3, 2, 5, 7)

    def run(w, x):
        return Linear(w, jnp.zeros(4))(x)

    _, tangent = jax.vmap(lambda w, x, dx: jax.jvp(lambda x: run(w, x), (x,), (dx,)))(weight, x, dx)
    np.testing.assert_allclose(tangent, dx @ weight, rtol=1e-5, atol=1e-6)
    gradient = jax.vmap(jax.grad(lambda w, x: jnp.sum(run(w, x) ** 2)))(weight, x)
    expected = jnp.stack([2 * x[i].T @ (x[i] @ weight[i]) for i in range(2)])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_by_hand():
    norm = LayerNorm(4)
    # mean 2.5, variance 1.25
    expected = np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25 + 1e-5)
    np.testing.assert_allclose(norm(jnp.arange(1.0, 5.0)), expected, rtol=1e-6)
    x = normal(1, 3, 5, 4)
    np.testing.assert_allclose(norm(100 + 7 * x), norm(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_mlp_acts_on_the_last_axis(norm):
    net, x = MLP((3, 8, 2), KEY, norm=norm), normal(1, 4, 5, 3)
    rows = jnp.stack([jnp.stack([net(x[i, j]) for j in range(5)]) for i in range(4)])
    assert net(x).shape == (4, 5, 2)
    np.testing.assert_allclose(net(x), rows, rtol=1e-5, atol=1e-6)


def test_mlp_by_hand():
    net, x = MLP((3, 8, 2), KEY), normal(1, 3)
    first, last = net.layers
    hidden = np.maximum(np.asarray(x) @ np.asarray(first.weight) + np.asarray(first.bias), 0)
    np.testing.assert_allclose(net(x), hidden @ np.asarray(last.weight) + np.asarray(last.bias), rtol=1e-5)


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
    net = ScoreResNet(5, 2, KEY, width=16)
    x, t, obs = normal(1, 3, 2), jnp.array([0.1, 0.5, 0.9]), normal(2, 3, 5)
    y = net(x, t, obs)
    expected = np.stack([score_by_hand(net, x[i], t[i], obs[i]) for i in range(3)])
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(net(x[0], t[0], obs[0]), y[0], rtol=1e-4, atol=1e-5)
    many = net(jnp.stack([x, x]), t, obs)
    np.testing.assert_allclose(many[1], y, rtol=1e-4, atol=1e-5)
    assert not np.allclose(net(x, t, obs, KEY), y)
