"""Windows of consecutive rows, for algorithms that model trajectories (Diffuser, arXiv 2205.09991, its code's rules)."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from srpo.core import Batch
from srpo.data.checks import DataError
from srpo.data.recording import Dataset


class Window(NamedTuple):
    """A minibatch of windows; rows past the end of the episode are zero."""

    obs: Float[Array, "B horizon obs"]
    action: Float[Array, "B horizon act"]
    value: Float[Array, " B"]  # discounted sum of rewards from the first row to the end of the episode
    inside: Bool[Array, "B horizon"]  # false past the end of the episode
    index: Int[Array, " B"]  # type: ignore[assignment]  # first row in the data set (hides a tuple's method)


class Windows(eqx.Module):
    """All windows of a data set, kept as its rows and gathered when they are sampled."""

    obs: Float[Array, "N obs"]
    action: Float[Array, "N act"]
    value: Float[Array, " N"]
    start: Int[Array, " M"]  # first row of each window
    stop: Int[Array, " M"]  # row after the last of its episode
    horizon: int = eqx.field(static=True)

    @classmethod
    def create(cls, data: Dataset, steps: Batch, horizon: int, discount: float, penalty: float, max_length: int) -> Windows:
        """`steps` are all rows of `data` after their treatment. Windows start at any row i < min(length - 1, max_length - horizon) of a complete episode. Raises DataError."""
        data.require_episodes("training on windows")
        value = values_to_go(np.asarray(steps.reward), data.episodes, data.ended, discount, penalty)
        starts, stops = [], []
        for first, stop in data.episodes[data.complete].tolist():
            count = max(0, min(stop - first - 1, max_length - horizon))
            starts.append(np.arange(first, first + count))
            stops.append(np.full(count, stop))
        start, stop = np.concatenate(starts), np.concatenate(stops)
        if len(start) == 0:
            raise DataError(
                f"{data.source}: no window of {horizon} rows starts in episodes of at most "
                f"{int(np.diff(data.episodes).max())} rows (counted up to {max_length}); use a shorter horizon"
            )
        first, after = jnp.asarray(start.astype(np.int32)), jnp.asarray(stop.astype(np.int32))
        return cls(steps.obs, steps.action, jnp.asarray(value), first, after, horizon)

    def __len__(self) -> int:
        return self.start.shape[0]

    def sample(self, key: PRNGKeyArray, size: int) -> Window:
        """`size` windows, drawn independently and uniformly."""
        return self.take(jax.random.randint(key, (size,), 0, self.start.shape[0]))

    def take(self, which: Int[Array | np.ndarray, " B"]) -> Window:
        """The windows with the given numbers."""
        start = self.start[which]
        rows = start[:, None] + jnp.arange(self.horizon)  # (B, horizon)
        inside = rows < self.stop[which][:, None]
        rows = jnp.minimum(rows, self.obs.shape[0] - 1)

        def zero_past(x):
            return jnp.where(inside[..., None], x[rows], 0)

        return Window(zero_past(self.obs), zero_past(self.action), self.value[start], inside, start)


def values_to_go(reward: np.ndarray, episodes: np.ndarray, ended: np.ndarray, discount: float, penalty: float) -> np.ndarray:
    """(N,) discounted sum of rewards from each row to the end of its episode; a terminal row's reward is lowered by `penalty`."""
    value = reward.astype(np.float64)
    value[episodes[ended, 1] - 1] -= penalty
    length = np.diff(episodes)[:, 0]
    for back in range(2, int(length.max()) + 1):  # all episodes at once, from their ends backward
        row = episodes[length >= back, 1] - back
        value[row] += discount * value[row + 1]
    return value.astype(np.float32)
