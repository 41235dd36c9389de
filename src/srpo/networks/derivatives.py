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
