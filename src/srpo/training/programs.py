"""The compiled programs of a stage, for all its runs (seeds x points), and the keys from which they draw."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from srpo.core import Given, Moments, Stage
from srpo.data.sizes import sized
from srpo.data.views import NotFound, TableView
from srpo.networks.precision import Precision, computed_in
from srpo.runs.devices import over_devices
from srpo.runs.mapping import Axes, Mapping, in_rounds, over_runs
from srpo.steps import advance

KEPT = 16  # programs, for later loops

# of the arguments of a beginning and of an advance; batches that were taken before have an axis of seeds
BEGIN_AXES = (Axes.POINT, Axes.POINT, Axes.RUN, Axes.SEED, Axes.SEED, Axes.SHARED)
ADVANCE_AXES = (Axes.POINT, Axes.RUN, Axes.RUN, Axes.RUN, Axes.SEED, Axes.SEED)
VIEW_AXES, TAKEN_AXES = (Axes.SHARED,) * 3, (Axes.SEED, Axes.SHARED, Axes.SHARED)


@dataclass(frozen=True)
class Layout:
    """How a function of one run is computed for all of them; `per_round` at once if not all are."""

    mapping: Mapping
    on: tuple[jax.Device, ...]
    per_round: int | None

    def mapped(self, fn: Callable[..., Any], axes: Sequence[Axes]) -> Callable[..., Any]:
        mapping = self.mapping if self.per_round is None else in_rounds(self.per_round)
        if len(self.on) > 1 or self.per_round is not None:
            return over_devices(fn, axes, mapping, self.on)
        return over_runs(fn, axes, mapping)


@dataclass(frozen=True)
class Beginning:
    """What makes the states of all runs before the first step; `shapes` of what it makes."""

    program: Callable[..., Any]
    args: tuple[Any, ...]
    shapes: Any

    @classmethod
    def of(cls, program: Callable[..., Any], *args: Any) -> Beginning:
        return cls(program, args, jax.eval_shape(program, *args))

    def __call__(self) -> Any:
        return self.program(*self.args)


def beginning(layout: Layout, stage: Stage, points: Any, own: Given, keys: Any, shared: Given, data: Any) -> Beginning:
    """Of all runs of a stage. Its program is shared by loops of stages alike on data of the same sizes, whose moments are among its
    arguments, unless the stage looks at the rows of a table."""
    program, found = beginning_program(jax.tree.structure(stage), layout), dict[str, Moments]()
    while isinstance(data, TableView):
        try:
            return Beginning.of(program, stage, points, own, keys, shared, sized(data, found))
        except NotFound as e:
            found[e.field] = data.moments(e.field)
        except NotImplementedError:  # of sizes, which have no rows
            program = jax.jit(layout.mapped(_begin, BEGIN_AXES))
            break
    return Beginning.of(program, stage, points, own, keys, shared, data)


@lru_cache(KEPT)
def beginning_program(structure: Any, layout: Layout) -> Callable[..., Any]:
    """What makes the first states of stages of this (tree) structure."""
    return jax.jit(layout.mapped(_begin, BEGIN_AXES))


@lru_cache(KEPT)
def advancing(structure: Any, taken: bool, layout: Layout, precision: Precision) -> Callable[..., Any]:
    """What advances all runs of stages of this (tree) structure, on batches that were `taken` before or on views: traced and
    compiled once for all loops of a process that train alike. The buffers of state and log that it is given are gone with it."""
    axes = ADVANCE_AXES + (TAKEN_AXES if taken else VIEW_AXES)
    return jax.jit(
        computed_in(precision, layout.mapped(_advance, axes)), donate_argnums=(1, 2), compiler_options=compiler_options()
    )


SIDE_BY_SIDE = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}


@lru_cache(1)
def compiler_options() -> dict[str, Any]:
    """On a GPU, kernels that do not wait for each other run side by side, as one alone is too small to fill it
    (docs/performance.md); a JAX that does not know that runs them one after the other."""
    if jax.default_backend() != "gpu":
        return {}
    try:
        jax.block_until_ready(jax.jit(lambda x: -x, compiler_options=SIDE_BY_SIDE)(np.float32(0)))
    except jax.errors.JaxRuntimeError:
        return {}
    return SIDE_BY_SIDE


def _begin(stage, _, own, key, shared, data):
    return stage.init(data, {**shared, **own}, key)


def _advance(stage, state, log, own, key, shared, data, start, stop):
    return advance(stage, state, log, data, {**shared, **own}, key, start, stop)


def stage_keys(name: str, seeds: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Keys of initialization and of steps, one per seed each; the same wherever a stage of this name is trained."""
    salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
    return _keys(np.array(seeds, np.uint32), np.uint32(salt))


@jax.jit
def _keys(seeds, salt):
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), salt))(seeds)
    return tuple(jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in (0, 1))
