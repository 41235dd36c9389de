"""Mixed precision and blocks of steps: what they may change, and what not."""

import json

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
from srpo.networks.layers import MLP, LayerNorm
from srpo.networks.precision import computed_in
from srpo.networks.score import ScoreResNet
from srpo.networks.unet import TemporalUNet
from srpo.optim import adam
from srpo.steps import Log, advance


def networks():
    key = jax.random.key(0)
    x, t, obs = (jax.random.normal(k, s) for k, s in zip(jax.random.split(key, 3), ((5, 3), (5,), (5, 4)), strict=True))
    yield MLP((3, 32, 32, 2), key, norm="before"), (x,)
    yield ScoreResNet(4, 3, key, width=16, n_blocks=1), (x, jax.nn.sigmoid(t), obs)
    yield TemporalUNet(3, key, 32, (1,), attention=True), (jax.random.normal(key, (5, 16, 3)), jnp.arange(5))


@pytest.mark.parametrize("net, args", list(networks()), ids=["mlp", "score", "unet"])
def test_bfloat16_stays_near_float32_and_its_parameters_and_results_are_float32(net, args):
    def loss(net):
        return jnp.sum(net(*args) ** 2)

    plain, mixed = jax.jit(jax.value_and_grad(loss))(net), jax.jit(computed_in("bfloat16", jax.value_and_grad(loss)))(net)
    assert {x.dtype for x in jax.tree.leaves(mixed)} == {jnp.dtype("float32")}
    assert mixed[0] != plain[0]
    np.testing.assert_allclose(mixed[0], plain[0], rtol=0.03)
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (mixed[1], plain[1]))
    assert jnp.linalg.norm(a - b) < 0.06 * jnp.linalg.norm(b)
    again = jax.jit(jax.value_and_grad(loss))(net)  # the choice ends with its program
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True))


def test_statistics_of_normalization_are_taken_in_float32():
    x = jnp.asarray(1000.0 + jnp.arange(8.0), jnp.bfloat16)[None]
    exact = LayerNorm(8)(x.astype(jnp.float32))
    found = jax.jit(computed_in("bfloat16", LayerNorm(8)))(x)
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
    state = TrainState.create(jnp.float32(0.3), adam(1e-2))

    def run(block, *stops):
        program = jax.jit(lambda s, log, a, b: advance(Walk(), s, log, data, {}, jax.random.key(1), a, b, block))
        carry, start = (state, Log.create(["loss"])), 0
        for stop in stops:
            carry, start = program(*carry, np.int32(start), np.int32(stop)), stop
        return carry

    plain = jax.tree.leaves(run(1, 23))
    for stops in ((23,), (1, 9, 10, 23), (7, 23)):
        found = jax.tree.leaves(run(4, *stops))
        assert all(np.array_equal(x, y) for x, y in zip(found, plain, strict=True)), stops


def test_the_precision_of_a_run_is_kept_and_decides_what_may_be_shared(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {"obs": rng.normal(size=(40, 3)), "action": rng.uniform(-0.9, 0.9, (40, 2)), "reward": rng.normal(size=40)}
    data = from_arrays(**arrays, terminal=np.zeros(40, bool))
    algorithm = srpo.configure("bc-gaussian", data, **{"policy.steps": 6, "policy.batch_size": 4, "policy.hidden": (8, 8)})
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
