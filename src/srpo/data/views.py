"""What algorithms draw their batches from: rows, or windows of consecutive rows, on the device or on the host.

A view says which rows a step draws (`rows`) and gathers them (`take`). Where its rows are held on the device, the
compiled loop takes them. Where they stay in the host's memory or on disk, whoever trains gathers ahead and hands blocks
of batches to the loop (`srpo.training.feed`). Both draw the same rows and gather the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from srpo.core import Moments, uniform_rows


@runtime_checkable
class Numbered(Protocol):
    """Rows, or windows of them, on the host. What `take` gives is a named tuple of arrays with a leading axis."""

    def __len__(self) -> int: ...
    @property
    def obs_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    def take(self, numbers: np.ndarray) -> Any: ...
    def moments(self, field: str) -> tuple[np.ndarray, np.ndarray]: ...


@runtime_checkable
class Held(Protocol):
    """The same rows, on the device."""

    def take(self, rows: Int[Array, " B"]) -> Any: ...


class NotFound(LookupError):
    """Moments that were not found before they were asked for."""

    def __init__(self, field: str):
        super().__init__(f"the moments of {field} were not found before")
        self.field = field


class TableView(eqx.Module):
    """The rows of a table to draw from."""

    table: Numbered = eqx.field(static=True)
    held: Held | None = None  # None: they stay on the host
    found: dict[str, Moments] | None = None  # moments that were found before; None: the table finds them

    @property
    def on_host(self) -> bool:
        return self.held is None

    @property
    def n_rows(self) -> int:
        return len(self.table)

    @property
    def obs_size(self) -> int:
        return self.table.obs_size

    @property
    def action_size(self) -> int:
        return self.table.action_size

    @property
    def reward(self) -> np.ndarray:
        """(N,) rewards as training sees them, of all rows of transitions, on the host."""
        return np.asarray(self.table.take(np.arange(self.n_rows)).reward)

    def moments(self, field: str) -> Moments:
        """Mean and standard deviation of each column of "obs" or "action" over all rows, found on the host.

        Raises NotFound if only some were found before, and not these.
        """
        if self.found is not None:
            if field not in self.found:
                raise NotFound(field)
            return self.found[field]
        mean, std = self.table.moments(field)
        return jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def rows(self, key: PRNGKeyArray, size: int) -> Int[Array, " size"]:
        """`size` rows, drawn independently and uniformly."""
        return uniform_rows(key, size, self.n_rows)

    def take(self, rows: Int[Array, " B"]) -> Any:
        """The batch of these rows. From the host it comes by a call out of the program: `srpo.training.feed` gathers ahead instead."""
        if self.held is not None:
            return self.held.take(rows)
        one = self.table.take(np.zeros(1, np.int32))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*rows.shape, *x.shape[1:]), x.dtype), one)
        return jax.pure_callback(lambda rows: self.table.take(np.asarray(rows)), shapes, rows)


class Window(NamedTuple):
    """A minibatch of windows; rows past the end of the episode are zero."""

    obs: Float[Array, "B horizon obs"]
    action: Float[Array, "B horizon act"]
    value: Float[Array, " B"]  # discounted sum of rewards from the first row to the end of the episode
    inside: Bool[Array, "B horizon"]  # false past the end of the episode
    index: Int[Array, " B"]  # type: ignore[assignment]  # first row in the data set (hides a tuple's method)


class Windows(eqx.Module):
    """All windows of a data set on the device, kept as its rows and gathered when they are taken."""

    obs: Float[Array, "N obs"]
    action: Float[Array, "N act"]
    value: Float[Array, " N"]
    start: Int[Array, " M"]  # first row of each window
    stop: Int[Array, " M"]  # row after the last of its episode
    horizon: int = eqx.field(static=True)

    def take(self, rows: Int[Array | np.ndarray, " B"]) -> Window:
        """The windows with the given numbers."""
        start = self.start[rows]
        inside_rows = start[:, None] + jnp.arange(self.horizon)  # (B, horizon)
        inside = inside_rows < self.stop[rows][:, None]
        inside_rows = jnp.minimum(inside_rows, self.obs.shape[0] - 1)

        def zero_past(x):
            return jnp.where(inside[..., None], x[inside_rows], 0)

        return Window(zero_past(self.obs), zero_past(self.action), self.value[start], inside, start)
