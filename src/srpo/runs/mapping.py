"""How a function of one run becomes a function of all runs (seeds x points).

Which mapping runs the axes is a measured choice, a parameter wherever runs are mapped, and made by default here: `vmap`
on an accelerator; on a CPU one run after the other inside the compiled program, because batched products of small
matrices run at less than half the rate of single ones there (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import jax
from jax import lax


class Axes(Enum):
    """The leading axes of an argument."""

    SHARED = frozenset[str]()  # by all runs
    SEED = frozenset({"seed"})
    POINT = frozenset({"point"})
    RUN = frozenset({"seed", "point"})  # (seed, point, ...)


@runtime_checkable
class Mapping(Protocol):
    """`fn` mapped over the leading axis of those arguments that `moves` says; of the result, all leaves have it."""

    def __call__(self, fn: Callable[..., Any], moves: Sequence[bool], /) -> Callable[..., Any]: ...


def vectorized(fn: Callable[..., Any], moves: Sequence[bool]) -> Callable[..., Any]:
    """All runs at once."""
    return jax.vmap(fn, tuple(0 if move else None for move in moves))


def in_rounds(size: int) -> Mapping:
    """`size` runs at once, one such round after the other."""

    def mapping(fn: Callable[..., Any], moves: Sequence[bool]) -> Callable[..., Any]:
        def mapped(*args: Any) -> Any:
            def one(moving: tuple[Any, ...]) -> Any:
                rest = iter(moving)
                return fn(*(next(rest) if move else arg for arg, move in zip(args, moves, strict=True)))

            return lax.map(
                one, tuple(arg for arg, move in zip(args, moves, strict=True) if move), batch_size=size if size > 1 else None
            )

        return mapped

    return mapping


def sequential(fn: Callable[..., Any], moves: Sequence[bool]) -> Callable[..., Any]:
    """One run after the other."""
    return in_rounds(1)(fn, moves)


def default_mapping() -> Mapping:
    """The measured choice for this machine."""
    return sequential if jax.default_backend() == "cpu" else vectorized


@jax.jit
def entry(tree: Any, at: Any) -> Any:
    """Each array `at` a place of its leading axes, or at several: by one program, not by one for each of their shapes."""
    return jax.tree.map(lambda x: x[at], tree)


def over_runs(fn: Callable[..., Any], axes: Sequence[Axes], mapping: Mapping | None = None) -> Callable[..., Any]:
    """`fn`, a function of one run, for all of them: argument i has the leading axes `axes[i]`, the result (seed, point)."""
    mapping = mapping or default_mapping()
    points = mapping(fn, ["point" in of.value for of in axes])
    return mapping(points, ["seed" in of.value for of in axes])
