"""The one loop: steps of any stage, on the device."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from srpo.core import Given, Metrics, Stage, Updated, View
from srpo.networks.precision import Precision, current_precision

S = TypeVar("S")
B = TypeVar("B")


class Log(eqx.Module):
    """What the loop remembers of the metrics: their sums, and the first step at which one was not finite."""

    total: dict[str, Float[Array, "..."]]  # of one run, or of the runs that are trained together
    bad_step: dict[str, Int[Array, "..."]]  # -1: none

    @classmethod
    def create(cls, names: Iterable[str], shape: tuple[int, ...] = ()) -> Log:
        """Of runs of this shape."""
        zeros = {n: np.zeros(shape, np.float32) for n in names}
        return cls(*jax.device_put((zeros, {n: np.full(shape, -1, np.int32) for n in zeros})))

    def add(self, metrics: Metrics, step) -> Log:
        total = {n: self.total[n] + metrics[n] for n in self.total}

        def first(n):
            return jnp.where((self.bad_step[n] < 0) & ~jnp.isfinite(metrics[n]), step, self.bad_step[n])

        return Log(total, {n: first(n) for n in self.bad_step})


class Taken(eqx.Module):
    """Batches that were taken before: those of the steps from `first` on, with a leading axis of steps."""

    batches: Any
    first: Int[Array, ""]

    def at(self, step: Int[Array, ""]) -> Any:
        return jax.tree.map(lambda x: x[step - self.first], self.batches)


def step_keys(key: PRNGKeyArray, step) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of one step: for its rows, and for all else that is random in it."""
    k_rows, k_update = jax.random.split(jax.random.fold_in(key, step))
    return k_rows, k_update


BLOCK = 64  # steps per loop of known length on an accelerator


def block_length() -> int:
    """Steps per loop of known length, by measurement (docs/performance.md): a CPU gains nothing and compiles twice as much."""
    return 1 if jax.default_backend() == "cpu" else BLOCK


def advance(
    stage: Stage[S, B, Any],
    state: S,
    log: Log,
    data: View[B] | Taken,
    given: Given,
    key: PRNGKeyArray,
    start,
    stop,
    block: int | None = None,
) -> tuple[S, Log]:
    """Steps `start` to `stop` (exclusive) of a stage, as one loop on the device.

    Step i draws everything from `fold_in(key, i)`, so that neither the length of a call nor resuming changes
    anything; both bounds are arguments of the compiled program, so that one compilation serves every length.
    `block`: an accelerator waits for the host after each trip of a loop whose length is not known when it is compiled;
    steps then run in blocks of this many (None: the measured choice), and what is left over one by one.
    """
    block = block_length() if block is None else block

    def body(i, carry):
        state, log = carry
        k_rows, k_update = step_keys(key, i)
        batch = data.at(i) if isinstance(data, Taken) else data.take(stage.draw(data, k_rows, i))
        state, metrics = _updated(current_precision(), stage, state, batch, given, k_update, i)
        return state, log.add(metrics, i)

    if block == 1:
        return lax.fori_loop(start, stop, body, (state, log))

    def whole(n, carry):
        first = start + n * block
        return lax.fori_loop(0, block, lambda i, carry: body(first + i, carry), carry)

    blocks = (stop - start) // block
    carry = lax.fori_loop(0, blocks, whole, (state, log))
    return lax.fori_loop(start + blocks * block, stop, body, carry)


def metric_names(stage: Stage[S, B, Any], state: S, data: View[B], given: Given, key: PRNGKeyArray) -> tuple[str, ...]:
    """The names of the metrics that a stage reports, found without computing anything."""

    def drawn(stage, data, key):
        return data.take(stage.draw(data, key, jnp.zeros((), jnp.int32)))

    batch = jax.eval_shape(drawn, stage, data, key)
    _, metrics = _updated.eval_shape(current_precision(), stage, state, batch, given, key, jnp.zeros((), jnp.int32))
    return tuple(sorted(metrics))


@partial(jax.jit, static_argnums=0, inline=True)
def _updated(precision: Precision, stage: Stage[S, B, Any], state: S, batch: B, given: Given, key, step) -> Updated[S]:
    """One step, which is traced once for all who ask for the same one in the same `precision`."""
    return stage.update(state, batch, given, key, step)
