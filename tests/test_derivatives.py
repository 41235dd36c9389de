"""Functions with derivatives of their own: what they give, in which precision and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srpo.networks.derivatives import affine, mish, rounded_product


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """What the formulas take the machine for."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


def affine_cases():
    """Which arguments have an axis of runs, and where: none, all, some, and two axes."""
    yield "one", lambda f: f, ((5, 3), (3, 4), (4,), (5, 4))
    yield "three rows", lambda f: f, ((2, 5, 3), (3, 4), (4,), (2, 5, 4))
    yield "runs", jax.vmap, ((6, 5, 3), (6, 3, 4), (6, 4), (6, 5, 4))
    yield "shared weights", lambda f: jax.vmap(f, (0, None, None, 0)), ((6, 5, 3), (3, 4), (4,), (6, 5, 4))
    yield "shared rows", lambda f: jax.vmap(f, (None, 2, 0, 1)), ((5, 3), (3, 4, 6), (6, 4), (5, 6, 4))
    yield (
        "seeds and points",
        lambda f: jax.vmap(jax.vmap(f, (None, 0, 0, 0))),
        ((2, 5, 3), (2, 6, 3, 4), (2, 6, 4), (2, 6, 5, 4)),
    )


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("mapped", "shapes"), [pytest.param(*rest, id=name) for name, *rest in affine_cases()])
def test_derivatives_of_a_layer_are_those_that_jax_derives(mapped, shapes):
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]

    def found(layer):
        def one(x, w, b, dy):
            y, back = jax.vjp(layer, x, w, b)
            along = jax.jvp(layer, (x, w, b), (2 * x, w - 1, b + 1))[1]
            twice = jax.grad(lambda w: jnp.sum(jax.grad(lambda w: jnp.sum(layer(x, w, b) ** 2))(w) ** 2))(w)
            return y, *back(dy), along, twice, jax.linearize(lambda x: layer(x, w, b), x)[1](x)

        return mapped(one)(*args)

    got, want = jax.jit(lambda: [found(f) for f in (affine, lambda x, w, b: x @ w + b)])()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4)


def test_a_gradient_has_its_weights_order_on_a_gpu(monkeypatch):
    """Turned where it is used, it costs more than the product (docs/performance.md)."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = (6, 5, 3), (6, 3, 4), (6, 4)
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    gradient = jax.vmap(jax.grad(lambda w, x, b: jnp.sum(affine(x, w, b) ** 2)))
    program = jax.jit(lambda x, w, b: gradient(w, x, b)).lower(*args).as_text()
    assert "transpose" not in program
    assert "transpose" in jax.jit(jax.vmap(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)))).lower(args[1], args[0]).as_text()


@pytest.mark.usefixtures("backend")
def test_in_bfloat16_the_gradient_of_a_bias_is_added_up_in_float32():
    """Ones that are added up one by one in bfloat16 stop at 256."""
    x, w, b = jnp.ones((1024, 3), jnp.bfloat16), jnp.ones((3, 2)), jnp.zeros(2)
    y, back = jax.vjp(affine, x, w, b)
    assert y.dtype == jnp.bfloat16
    dx, dw, db = back(jnp.ones_like(y))
    assert (dx.dtype, dw.dtype, db.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_array_equal(db, 1024)
    np.testing.assert_array_equal(dw, 1024)


def test_mish_in_bfloat16_is_rounded_once_as_is_its_derivative():
    x = jnp.linspace(-6, 6, 400).astype(jnp.bfloat16)
    found, exact = (jax.jit(jax.vmap(jax.value_and_grad(mish)))(a) for a in (x, x.astype(jnp.float32)))
    for got, want in zip(found, exact, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (7, 1), (3, 33)])
def test_a_rounded_product_and_its_derivatives_are_those_of_rounded_operands(lead, n_in, n_out):
    rng = np.random.default_rng(0)
    x, weight, dy = (rng.normal(size=s).astype(np.float32) for s in ((*lead, n_in), (n_in, n_out), (*lead, n_out)))

    def found(x, weight, dy):
        y, back = jax.vjp(rounded_product, x, weight)
        return y, *back(dy)

    def exact(x, weight, dy):
        x, weight, dy = (a.astype(jnp.bfloat16).astype(np.float64) for a in (x, weight, dy))
        return x @ weight, dy @ weight.T, x.reshape(-1, n_in).T @ dy.reshape(-1, n_out)

    for got, want in zip(jax.jit(found)(x, weight, dy), exact(x, weight, dy), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    several = jax.jit(jax.vmap(found))(*(np.stack([a, a]) for a in (x, weight, dy)))
    for got, want in zip(several, exact(x, weight, dy), strict=True):
        np.testing.assert_allclose(got[1], want, rtol=1e-5, atol=1e-5)
