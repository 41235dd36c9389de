"""Blocks of batches, taken before the loop trains on them: by a compiled gather on the device, or on the host, ahead of time.

The rows of a step are a pure function of the stage's key and the step, so nothing of a feed needs to be kept to resume.
Whoever takes the batches, they are the same, and the same program trains on them: the results are equal bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from srpo.core import Stage
from srpo.data.sizes import sized
from srpo.data.views import TableView
from srpo.errors import ConfigError
from srpo.steps import Taken, block_length, step_keys
from srpo.system.files import amount, free_memory

BLOCK_BYTES, DEVICE_BYTES = 32 << 20, 256 << 20  # of batches handed over at once: by a CPU, whose caches are small, by others
BLOCK_STEPS = 1024  # on the device, where a block is one call
HOST_STEPS = 256  # so that the first block does not keep the loop waiting
AHEAD = 2  # blocks gathered on the host while one is trained on
READERS = (
    1 if hasattr(os, "posix_fadvise") else 8
)  # one is enough where the disk can be told of all rows before the first is waited for
ROWS_PER_READER = 2048


@runtime_checkable
class Feed(Protocol):
    """Blocks of batches of a stage, with leading axes (seed, step)."""

    def at(self, step: int) -> tuple[Taken, int]:
        """The block that holds a step, and the step after its last."""

    def close(self) -> None:
        """Gather no more."""


def feed(stage: Stage, view: TableView, keys: jax.Array) -> Feed:
    """Of a stage for seeds that have these keys. Raises ConfigError if the memory does not hold a step's batches."""
    rows = jax.eval_shape(lambda key: stage.draw(view, key, jnp.int32(0)), keys[0])
    one = jax.eval_shape(view.take, jnp.zeros(1, jnp.int32))
    bytes_per_step = len(keys) * rows.size * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one))
    needed, free = bytes_per_step * (1 + AHEAD if view.on_host else 1), free_memory()
    if needed > free and (view.on_host or jax.default_backend() == "cpu"):
        raise ConfigError(f"batches of {rows.size} rows take {amount(needed)}, {amount(free)} are free; choose smaller ones")
    most = min(HOST_STEPS, stage.steps) if view.on_host else BLOCK_STEPS
    room = BLOCK_BYTES if jax.default_backend() == "cpu" else DEVICE_BYTES
    length = max(min(room // bytes_per_step, most), 1)
    length -= length % block_length() if length > block_length() else 0  # whole loops of known length
    return (HostFeed if view.on_host else DeviceFeed)(stage, view, keys, length)


class Drawing(Protocol):
    """What says which rows a step takes: a stage, or what is left of one that draws at random, as most do."""

    def draw(self, view: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> Int[Array, " B"]: ...


class _AtRandom(eqx.Module):
    batch_size: int = eqx.field(static=True)
    draw = Stage.draw


def _drawing(stage: Stage) -> Drawing:
    """All stages that draw at random, and as many rows, are one: they share their programs."""
    return _AtRandom(stage.batch_size) if type(stage).draw is Stage.draw else stage


def drawn(stage: Drawing, view: TableView, keys: jax.Array, steps: Int[Array, " steps"]) -> Int[Array, "seed steps B"]:
    """The rows that each step takes, for each seed."""

    def one(key, step):
        return stage.draw(view, step_keys(key, step)[0], step)

    return jax.vmap(lambda key: jax.vmap(lambda step: one(key, step))(steps))(keys)


def blocked(take: Callable[[Any], Any], rows: Any) -> Any:
    """What `take` gives for rows of any shape."""
    return jax.tree.map(lambda x: x.reshape(*rows.shape, *x.shape[1:]), take(rows.ravel()))


@partial(jax.jit, static_argnums=4)
def _taken(stage: Drawing, view: TableView, keys: jax.Array, first, length: int) -> Taken:
    """The batches of `length` steps from `first` on; one program for all loops of stages that draw alike from views alike."""
    rows = drawn(stage, view, keys, first + jnp.arange(length))
    return Taken(blocked(view.take, rows), jnp.full(len(keys), first))


class DeviceFeed:
    """From rows that are on the device, in its queue."""

    def __init__(self, stage: Stage, view: TableView, keys: jax.Array, length: int):
        self._drawing, self._view, self._keys, self._length = _drawing(stage), sized(view), keys, length
        self._number = -1
        self._block: Any = None

    def at(self, step: int) -> tuple[Taken, int]:
        number = step // self._length
        if number != self._number:
            self._block = None  # its memory first
            self._number, self._block = (
                number,
                _taken(self._drawing, self._view, self._keys, np.int32(number * self._length), self._length),
            )
        return self._block, (number + 1) * self._length

    def close(self) -> None:
        self._number, self._block = -1, None


@partial(jax.jit, static_argnames="impl")
def _rows(stage: Drawing, view: TableView, keys: Any, steps: Any, *, impl: Any) -> Int[Array, "seed steps B"]:
    """`drawn` for the data of keys; one program for all loops of stages that draw alike from views of the same sizes."""
    return drawn(stage, view, jax.random.wrap_key_data(keys, impl=impl), steps)


class HostFeed:
    """From rows in the host's memory or on disk, by threads that run beside the compiled loop."""

    def __init__(self, stage: Stage, view: TableView, keys: jax.Array, length: int):
        self._table, self._length, self._steps = view.table, length, stage.steps
        self._device, impl = _host(), jax.random.key_impl(keys)
        self._draw = partial(_rows, _drawing(stage), sized(view), jax.device_get(jax.random.key_data(keys)), impl=impl)
        self._coming: dict[int, Future] = {}
        self._ahead, self._readers = ThreadPoolExecutor(1, "srpo-feed"), ThreadPoolExecutor(READERS, "srpo-read")

    def at(self, step: int) -> tuple[Taken, int]:
        number = step // self._length
        wanted = [n for n in range(number, number + AHEAD + 1) if n * self._length < self._steps]
        self._coming = {n: self._coming.get(n) or self._ahead.submit(self.block, n) for n in wanted}
        return self._coming[number].result(), (number + 1) * self._length

    def block(self, number: int) -> Taken:
        """The block of this number, gathered now."""
        first = number * self._length
        with jax.default_device(self._device):
            rows = np.asarray(self._draw(np.arange(first, first + self._length, dtype=np.int32)))
        batches = jax.device_put(blocked(self._gather, rows))
        return Taken(batches, jnp.full(len(rows), first, jnp.int32))

    def _gather(self, rows: np.ndarray) -> Any:
        parts = np.array_split(rows, -(-len(rows) // ROWS_PER_READER))
        taken = list(self._readers.map(self._table.take, parts))
        return jax.tree.map(lambda *xs: np.concatenate(xs), *taken)

    def close(self) -> None:
        self._coming = {}
        for pool in (self._ahead, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)


def _host() -> jax.Device:
    """Where rows are drawn: not in the queue of an accelerator, if that can be helped."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told of the accelerator alone
        return jax.local_devices()[0]
