"""Functions whose derivatives are written out, as those that are derived automatically cost more (docs/performance.md)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


def _soft_parts(x: Array) -> tuple[Array, Array]:
    """e = exp(x) and n = e (e + 2), of which tanh(softplus(x)) = n / (n + 2)."""
    e = jnp.exp(jnp.minimum(x, 20.0))
    return e, e * (e + 2.0)


@jax.custom_jvp
def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (arXiv 1908.08681), with one exponential: tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)."""
    _, n = _soft_parts(x)
    return x * (n / (n + 2.0))


@mish.defjvp
def mish_jvp(primals, tangents):
    # The derivative from x alone: derived automatically, it keeps four arrays of the size of x from the forward pass,
    # whose traffic to memory costs more than it saves (docs/performance.md).
    (x,), (dx,) = primals, tangents
    e, n = _soft_parts(x)
    r = 1.0 / (n + 2.0)
    return mish(x), dx * (r * n + 4.0 * x * e * (1.0 + e) * r * r)


@jax.custom_jvp
def product(x: Float[Array, "... i"], weight: Float[Array, "i o"]) -> Float[Array, "... o"]:
    return x @ weight


@partial(product.defjvp, symbolic_zeros=True)
def product_jvp(primals, tangents):
    # The same derivative, written so that the weight's gradient x^T dy is computed from a transposed copy of x: XLA's
    # CPU kernels contract the last axis of the left operand, anything else falls back to slower ones (docs/performance.md).
    (x, weight), (dx, dweight) = primals, tangents
    out = x @ weight
    along_x = 0.0 if isinstance(dx, SymbolicZero) else dx @ weight
    if isinstance(dweight, SymbolicZero):
        return out, along_x + jnp.zeros_like(out)
    rows = x.reshape(-1, x.shape[-1])
    if jax.default_backend() == "cpu" and rows.shape[0] > 1:
        columns = jax.lax.optimization_barrier(rows.T)
        along_weight = jax.lax.dot_general(columns, dweight, (((0,), (0,)), ((), ())))
    else:
        along_weight = rows @ dweight
    return out, along_x + along_weight.reshape(out.shape)


@jax.custom_vjp
def rounded_product(x: Float[Array, "... i"], weight: Float[Array, "i o"]) -> Float[Array, "... o"]:
    """x @ weight of both in bfloat16, with a result in float32; its derivatives likewise, from rounded operands.

    XLA's CPU kernels use a processor's own products in bfloat16 for results in float32 alone (docs/performance.md). Not for
    `jax.jvp`.
    """
    return _rounded_product_fwd(x, weight)[0]


def _rounded(x: Array) -> Array:
    return x.astype(jnp.bfloat16)


def _added_up(a: Float[Array, "... k"], b: Float[Array, "..."], axis: int) -> Float[Array, "... n"]:
    """Products along the last axis of `a` and this one of `b`, in float32."""
    return jax.lax.dot_general(a, b, (((a.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _rounded_product_fwd(x, weight):
    kept = _rounded(x), _rounded(weight)
    return _added_up(*kept, 0), kept


def _rounded_product_bwd(kept, dy):
    x, weight = kept
    rows, dy = x.reshape(-1, x.shape[-1]), _rounded(dy)
    if jax.default_backend() == "cpu":
        # The transposed copy of `product_jvp`. Behind a mere barrier XLA would see the transpose of a rounded array and leave
        # its fast kernels again; it does not look into a branch that it cannot foresee.
        columns = jax.lax.cond(jax.lax.optimization_barrier(True), lambda: rows.T, lambda: jnp.zeros_like(rows.T))
    else:
        columns = rows.T
    return _added_up(dy, weight, 1), _added_up(columns, dy.reshape(-1, dy.shape[-1]), 0)


rounded_product.defvjp(_rounded_product_fwd, _rounded_product_bwd)
