"""Mixed precision and blocks of steps: what they may change, and what not."""

import json
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo import steps
from srpo.core import TrainState, descend
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.errors import UserError
from srpo.networks import precision
from srpo.networks.layers import MLP, LayerNorm, Linear, QEnsemble, ValueNet
from srpo.networks.precision import computed_in
from srpo.networks.score import ScoreResNet
from srpo.networks.unet import TemporalUNet
from srpo.optim import adam
from srpo.stages.score_behavior import ScoreNet
from srpo.steps import Log, advance


def networks():
    """What makes each network, from a key, and what it is asked."""
    rng = np.random.default_rng(0)
    x, t, obs, rows = (rng.normal(size=s).astype(np.float32) for s in ((5, 3), (5,), (5, 4), (5, 16, 3)))
    yield "mlp", partial(MLP, (3, 32, 32, 2), norm="before"), (x,)
    yield (
        "score",
        partial(ScoreResNet, 4, 3, width=16, n_blocks=1),
        (x, 30 / (1 + np.exp(t)), obs),
    )  # angles of hundreds, as in training
    yield "unet", partial(TemporalUNet, 3, width=32, multipliers=(1,), attention=True), (rows, np.arange(5, dtype=np.int32))


@pytest.fixture(params=[True, False], ids=["products", "activations as well"])
def rounded(request, monkeypatch):
    """What is rounded: as on a CPU, then as on a GPU."""
    if not request.param:
        monkeypatch.setattr(precision, "products_alone", lambda: False)


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize(("make", "args"), [pytest.param(*rest, id=name) for name, *rest in networks()])
def test_bfloat16_stays_near_float32_and_its_parameters_and_results_are_float32(make, args):
    rng, key = np.random.default_rng(1), jax.random.key(0)

    def weights(x):
        return rng.normal(0, x.shape[0] ** -0.5 if x.ndim > 1 else 1.0, x.shape).astype(x.dtype)

    net = jax.tree.map(weights, jax.eval_shape(lambda: make(key=key)))

    def loss(net):
        return jnp.sum(net(*args) ** 2)

    found = jax.value_and_grad(loss)
    before = str(jax.make_jaxpr(lambda net: loss(net))(net))
    plain, mixed = jax.jit(lambda net: [each(net) for each in (found, computed_in("bfloat16", found))])(net)
    assert {x.dtype for x in jax.tree.leaves(mixed)} == {jnp.dtype("float32")}
    assert mixed[0] != plain[0]
    np.testing.assert_allclose(mixed[0], plain[0], rtol=0.03)
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (mixed[1], plain[1]))
    assert np.linalg.norm(a - b) < 0.06 * np.linalg.norm(b)
    after = str(jax.make_jaxpr(lambda net: loss(net))(net))
    assert before == after and "bf16" not in after  # the choice ends with its program


@pytest.mark.parametrize("make", [partial(MLP, (3, 32, 32, 2)), partial(ScoreResNet, 1, 2, width=64), partial(ScoreNet, 1, 2)])
def test_what_a_network_is_given_is_not_rounded(make):
    """Observations that bfloat16 cannot tell apart."""
    net, obs = make(key=jax.random.key(0)), jnp.array([[1.25], [1.253]])
    assert len(np.unique(obs.astype(jnp.bfloat16))) == 1
    args = (obs * jnp.ones(3),) if isinstance(net, MLP) else (jnp.full((2, 2), 0.7), jnp.full(2, 0.5), obs)
    plain, mixed = (jax.jit(f)(net) for f in (lambda net: net(*args), computed_in("bfloat16", lambda net: net(*args))))
    for found in (plain, mixed):
        assert np.all(found[0] != found[1])


@pytest.mark.usefixtures("rounded")
def test_what_a_network_gives_is_not_rounded():
    """Numbers near 70 that differ by less than the spacing of bfloat16 there, 0.5, stay apart."""
    net = MLP((3, 16, 1), jax.random.key(0))
    net = eqx.tree_at(lambda n: n.layers[-1].bias, net, jnp.full(1, 70.0))
    x = jax.random.normal(jax.random.key(1), (50, 3))
    plain, mixed = net(x), jax.jit(computed_in("bfloat16", lambda x: net(x)))(x)
    assert np.ptp(plain) > 0.1
    np.testing.assert_allclose(mixed, plain, atol=0.01 * np.ptp(plain))


def test_values_are_computed_in_float32():
    q, v, x, a = (
        QEnsemble(3, 2, (8,), jax.random.key(0)),
        ValueNet(3, (8,), jax.random.key(1)),
        jnp.ones((5, 3)),
        jnp.ones((5, 2)),
    )

    def found(a):
        return jax.grad(lambda a: q(x, a).sum() + v(x).sum())(a)

    text = str(jax.make_jaxpr(computed_in("bfloat16", found))(a))
    assert "bf16" not in text and text == str(jax.make_jaxpr(found)(a))


def test_on_a_cpu_products_alone_are_in_bfloat16():
    layer = Linear.create(4, 3, jax.random.key(0))
    text = str(jax.make_jaxpr(computed_in("bfloat16", lambda x: layer(x)))(jnp.ones((5, 4))))
    assert "bf16[5,4]" in text and "bf16[4,3]" in text  # operands
    assert "bf16[5,3]" not in text  # no result


def test_statistics_of_normalization_are_taken_in_float32():
    x, layer = np.asarray(1000 + np.arange(8.0), jnp.bfloat16)[None], LayerNorm(8)
    exact = jax.jit(lambda x: layer(x))(x.astype(np.float32))
    found = jax.jit(lambda x: computed_in("bfloat16", layer)(x))(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.01, atol=0.01)


class Walk(eqx.Module):
    """A stage whose state depends on every batch, key and step."""

    def draw(self, view, key, step):
        return view.rows(key, 4)

    def update(self, state, batch, given, key, step):
        def loss(w):
            value = jnp.mean((w * batch.obs[:, 0] - jax.random.normal(key)) ** 2) + 1e-3 * step
            return value, {"loss": value}

        return descend(state, adam(1e-2), loss)


def test_steps_in_blocks_are_the_same_steps():
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(30, 2)), "action": rng.uniform(-1, 1, (30, 1)), "reward": rng.normal(size=30)}
    data = treat(from_arrays(**arrays, terminal=np.zeros(30, bool))).transitions

    @jax.jit
    def begun():
        return TrainState.create(jnp.float32(0.3), adam(1e-2)), Log.create(["loss"])

    @partial(jax.jit, static_argnames="block")
    def advanced(state, log, start, stop, block):
        return advance(Walk(), state, log, data, {}, jax.random.key(1), start, stop, block)

    def run(block, *stops):
        carry, start = begun(), 0
        for stop in stops:
            carry, start = advanced(*carry, np.int32(start), np.int32(stop), block=block), stop
        return jax.tree.leaves(carry)

    plain = run(1, 23)
    for stops in ((23,), (1, 9, 10, 23), (7, 23)):
        found = run(4, *stops)
        assert all(np.array_equal(x, y) for x, y in zip(found, plain, strict=True)), stops


def test_the_precision_of_a_run_is_kept_and_decides_what_may_be_shared(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(40, 3)), "action": rng.uniform(-0.9, 0.9, (40, 2)), "reward": rng.normal(size=40)}
    data = from_arrays(**arrays, terminal=np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.steps": 6, "policy.batch_size": 4, "policy.hidden": (8,)})
    plain = srpo.train(algorithm, data, out=tmp_path / "plain", quiet=True)
    mixed = srpo.train(algorithm, data, out=tmp_path / "mixed", precision="bfloat16", quiet=True)
    assert json.loads((mixed.path / "run.json").read_text())["precision"] == "bfloat16"
    assert srpo.load_run(mixed.path).precision == "bfloat16" and srpo.load_run(plain.path).precision == "float32"
    a, b = (jax.tree.leaves(r.results) for r in (plain, mixed))
    assert {x.dtype for x in b} == {np.dtype("float32")}
    assert any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(UserError, match="was trained in bfloat16, not in float32; add --precision bfloat16"):
        srpo.train(algorithm, data, out=tmp_path / "other", start_from=mixed.path, quiet=True)
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        srpo.train(algorithm, data, out=tmp_path / "other", precision="bfloat61", quiet=True)
    monkeypatch.setattr(steps, "block_length", lambda: 4)  # as on an accelerator
    blocks = srpo.train(algorithm, data, out=tmp_path / "blocks", quiet=True)
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(blocks.results), a, strict=True))
