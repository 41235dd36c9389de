"""How a function runs for all runs (seeds x points).

Which mapping runs the axes is a measured choice made here: `vmap` on an accelerator; on a CPU one run after the
other inside the compiled program, because batched products of small matrices run at less than half the rate of
single ones there (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax


def sequential(fn: Callable, n: int) -> Callable:
    """`fn` mapped over its first `n` arguments, one run after the other."""
    return lambda *args: lax.map(lambda moving: fn(*moving, *args[n:]), args[:n])


def vectorized(fn: Callable, n: int) -> Callable:
    """`fn` mapped over its first `n` arguments, all runs at once."""
    return lambda *args: jax.vmap(lambda *moving: fn(*moving, *args[n:]))(*args[:n])


def mapping() -> Callable:
    return sequential if jax.default_backend() == "cpu" else vectorized


def over_runs(fn: Callable) -> Callable:
    """`fn(stage, carry, own, key, shared, *rest)` mapped over points (stage, carry, own) and seeds (carry, own, key, shared)."""
    over = mapping()

    def over_points(carry, own, key, shared, stage, *rest):
        def inner(stage, carry, own, *rest):
            return fn(stage, carry, own, key, shared, *rest)

        return over(inner, 3)(stage, carry, own, *rest)

    outer = over(over_points, 4)
    return lambda stage, carry, own, key, shared, *rest: outer(carry, own, key, shared, stage, *rest)
