"""Mixed precision: products and activations in bfloat16; parameters, their updates, sums over rows and losses in float32.

The choice is made where a program is traced (`computing_in`), so that no network and no algorithm carries it. Without it
nothing is cast. Layers cast what goes into their products and add their biases in float32; a network's first one takes and its
last one gives float32 (`Linear.entry`, `Linear.unrounded`), but for Diffuser's U-Net, whose first convolution casts as well. On
a CPU the products of `Linear` alone are in bfloat16 (`products_alone`): activations cost more there in bfloat16 than in float32.
Values (`QEnsemble`, `ValueNet`) are always in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16"]
_precision: ContextVar[Precision] = ContextVar("precision", default="float32")


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """What is traced inside computes its products and activations in `precision`."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def current_precision() -> Precision:
    """What is computed in where this is called."""
    return _precision.get()


def products_alone() -> bool:
    """Whether bfloat16 is for the operands of products here, and activations stay in float32."""
    return _precision.get() == "bfloat16" and jax.default_backend() == "cpu"


def computed_in(precision: Precision, fn: Callable) -> Callable:
    """`fn`, traced in `precision` whenever it is traced."""

    @wraps(fn)
    def traced(*args):
        with computing_in(precision):
            return fn(*args)

    return traced


def reduced(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` as products take it."""
    return x.astype(jnp.bfloat16) if _precision.get() == "bfloat16" else x


def full(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` as losses and statistics take it."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
