"""Functions whose derivatives are written out, as those that are derived automatically cost more (docs/performance.md)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import core
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from srpo.networks.precision import full


def _soft_parts(x: Array) -> tuple[Array, Array]:
    """e = exp(x) and n = e (e + 2), of which tanh(softplus(x)) = n / (n + 2)."""
    e = jnp.exp(jnp.minimum(x, 20.0))
    return e, e * (e + 2.0)


@jax.custom_jvp
def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (arXiv 1908.08681), with one exponential: tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2).

    Computed in float32 in any precision, as is its derivative: in bfloat16 a GPU rounds after each operation.
    """
    kind, x = x.dtype, full(x)
    _, n = _soft_parts(x)
    return (x * (n / (n + 2.0))).astype(kind)


@mish.defjvp
def mish_jvp(primals, tangents):
    # The derivative from x alone: derived automatically, it keeps four arrays of the size of x from the forward pass,
    # whose traffic to memory costs more than it saves (docs/performance.md).
    (x,), (dx,) = primals, tangents
    y, x, dx = mish(x), full(_stored(x)), full(dx)  # or XLA keeps the exponential of the forward pass, in float32
    e, n = _soft_parts(x)
    r = 1.0 / (n + 2.0)
    return y, (dx * (r * n + 4.0 * x * e * (1.0 + e) * r * r)).astype(y.dtype)


def _like(x: Array, a: Array) -> Array:
    """a, rounded to bfloat16 if x is in it."""
    return a.astype(x.dtype) if x.dtype == jnp.bfloat16 else a


@jax.custom_jvp
def affine(x: Float[Array, "... i"], weight: Float[Array, "i o"], bias: Float[Array, " o"]) -> Float[Array, "... o"]:
    """x @ weight + bias; for x in bfloat16 so is the result, of a rounded weight, and the bias is added in float32."""
    return _like(x, full(x @ _like(x, weight)) + bias)


@partial(affine.defjvp, symbolic_zeros=True)
def affine_jvp(primals, tangents):
    (x, weight, bias), (dx, dweight, dbias) = primals, tangents
    out = affine(x, weight, bias)
    change = jnp.zeros_like(out) if isinstance(dx, SymbolicZero) else dx @ _like(x, weight)
    if not isinstance(dweight, SymbolicZero):
        change = change + _along_weight(x.reshape(-1, x.shape[-1]), dweight).reshape(out.shape)
    if not isinstance(dbias, SymbolicZero):
        change = _like(x, full(change) + dbias)
    return out, _stored(change)


def _stored(x: Array) -> Array:
    """x and its cotangent, if in bfloat16, as those who need them read them from memory. XLA would hand them what was not rounded, in
    float32, as it takes rounding for a loss of precision: twice as much to write and to read (docs/performance.md)."""
    return jax.lax.optimization_barrier(x) if x.dtype == jnp.bfloat16 else x


def _along_weight(rows: Float[Array, "b i"], dweight: Float[Array, "i o"]) -> Float[Array, "b o"]:
    """rows @ dweight, so that its transpose, the weight's gradient rows^T dy, is fast."""
    if jax.default_backend() == "cpu" and rows.shape[0] > 1:
        # From a transposed copy: XLA's CPU kernels contract the last axis of the left operand, anything else falls back to slower
        # ones (docs/performance.md).
        columns = jax.lax.optimization_barrier(rows.T)
        return jax.lax.dot_general(columns, _like(rows, dweight), (((0,), (0,)), ((), ())))
    return along_weight.bind(rows, dweight)


# What JAX makes of rows @ dweight is the gradient's mirror image, dy^T rows, turned. XLA turns it where it is used, in the update of
# weights and moments, which then takes four times as long on a GPU and cannot be done in place (docs/performance.md).
along_weight = Primitive("along_weight")


def _product(rows: Float[Array, "*runs b i"], dweight: Float[Array, "*runs i o"]) -> Float[Array, "*runs b o"]:
    return jnp.matmul(rows, _like(rows, dweight))


def _along_rows(dy: Float[Array, "*runs b o"], rows: Any, dweight: Float[Array, "*runs i o"]) -> Float[Array, "*runs b i"]:
    return jnp.matmul(dy, _like(dy, dweight.mT))


def _weight_gradient(dy: Float[Array, "*runs b o"], rows: Float[Array, "*runs b i"], dweight: Any) -> Float[Array, "*runs i o"]:
    runs = tuple(range(rows.ndim - 2))
    contract = (rows.ndim - 2,), (rows.ndim - 2,)
    return jax.lax.dot_general(rows, dy, (contract, (runs, runs))).astype(dweight.aval.dtype)


def _of_runs(args, axes):
    """For arguments with an axis of runs, or some with none."""
    size = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)

    def first(arg, axis):
        return jnp.broadcast_to(arg, (size, *arg.shape)) if axis is None else jnp.moveaxis(arg, axis, 0)

    return along_weight.bind(*map(first, args, axes)), 0


along_weight.def_impl(jax.jit(_product))
along_weight.def_abstract_eval(lambda rows, dweight: core.ShapedArray((*rows.shape[:-1], dweight.shape[-1]), rows.dtype))
mlir.register_lowering(along_weight, mlir.lower_fun(_product, multiple_results=False))
ad.defbilinear(along_weight, _along_rows, _weight_gradient)
batching.primitive_batchers[along_weight] = _of_runs


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
        # The transposed copy of `_along_weight`. Behind a mere barrier XLA would see the transpose of a rounded array and leave
        # its fast kernels again; it does not look into a branch that it cannot foresee.
        columns = jax.lax.cond(jax.lax.optimization_barrier(True), lambda: rows.T, lambda: jnp.zeros_like(rows.T))
    else:
        columns = rows.T
    return _added_up(dy, weight, 1), _added_up(columns, dy.reshape(-1, dy.shape[-1]), 0)


rounded_product.defvjp(_rounded_product_fwd, _rounded_product_bwd)
