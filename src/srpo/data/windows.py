"""Windows of consecutive rows, for algorithms that model trajectories (Diffuser, arXiv 2205.09991, its code's rules)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from srpo.data.checks import DataError
from srpo.data.mapped import PIECE
from srpo.data.table import Table
from srpo.data.views import Window, Windows


@dataclass(frozen=True, eq=False)
class WindowTable:
    """Windows of a table of all recorded rows, on the host. They start at any row i < min(length - 1, max_length - horizon)
    of a complete episode; what is held is a few numbers per episode and one per row, its value."""

    steps: Table
    horizon: int
    first: np.ndarray  # (episodes,) first row of each complete episode
    stop: np.ndarray  # (episodes,) the row after its last
    before: np.ndarray  # (episodes + 1,) windows in the episodes before it
    value: np.ndarray  # (N,) float32

    @classmethod
    def create(cls, steps: Table, horizon: int, discount: float, penalty: float, max_length: int) -> WindowTable:
        """Raises DataError if no window fits."""
        data = steps.data
        data.require_episodes("training on windows")
        value = values_to_go(steps.change(data.reward), data.episodes, data.ended, discount, penalty)
        first, stop = data.episodes[data.complete].T
        count = np.clip(np.minimum(stop - first - 1, max_length - horizon), 0, None)
        if count.sum() == 0:
            raise DataError(
                f"{data.source}: no window of {horizon} rows starts in episodes of at most "
                f"{int(np.diff(data.episodes).max())} rows (counted up to {max_length}); use a shorter horizon"
            )
        return cls(steps, horizon, first, stop, np.insert(np.cumsum(count), 0, 0), value)

    def __len__(self) -> int:
        return int(self.before[-1])

    @property
    def obs_size(self) -> int:
        return self.steps.obs_size

    @property
    def action_size(self) -> int:
        return self.steps.action_size

    def moments(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a column over all rows of the data."""
        return self.steps.moments(field)

    def bounds(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first row of each window, and the row after the last of its episode."""
        episode = np.searchsorted(self.before, numbers, "right") - 1
        return self.first[episode] + np.asarray(numbers, np.int64) - self.before[episode], self.stop[episode]

    def take(self, numbers: np.ndarray) -> Window:
        """The windows with these numbers."""
        start, stop = self.bounds(numbers)
        rows = start[:, None] + np.arange(self.horizon)  # (B, horizon)
        inside = rows < stop[:, None]
        flat = np.minimum(rows, len(self.steps) - 1).ravel()

        def zero_past(x):
            return np.where(inside[..., None], x.reshape(*rows.shape, -1), np.float32(0))

        obs, action = zero_past(self.steps.obs(flat)), zero_past(self.steps.action(flat))
        columns: Any = (obs, action, self.value[start], inside, start.astype(np.int32))
        return Window(*columns)

    def on_device(self, obs, action) -> Windows:
        """The same windows there, given the rows they are cut from."""
        start, stop = self.bounds(np.arange(len(self)))
        value, first, after = jax.device_put((self.value, start.astype(np.int32), stop.astype(np.int32)))
        return Windows(obs, action, value, first, after, self.horizon)


def values_to_go(reward: np.ndarray, episodes: np.ndarray, ended: np.ndarray, discount: float, penalty: float) -> np.ndarray:
    """(N,) discounted sum of rewards from each row to the end of its episode; a terminal row's reward is lowered by `penalty`."""
    out = np.empty(len(reward), np.float32)
    at_once = np.searchsorted(episodes[:, 1], np.arange(0, len(reward), PIECE // 8), "right")
    for part in np.split(np.arange(len(episodes)), np.unique(at_once)):
        if len(part):
            first, stop = episodes[part[0], 0], episodes[part[-1], 1]
            out[first:stop] = _values(reward[first:stop], episodes[part] - first, ended[part], discount, penalty)
    return out


def _values(reward, episodes, ended, discount, penalty):
    value = reward.astype(np.float64)
    value[episodes[ended, 1] - 1] -= penalty
    length = np.diff(episodes)[:, 0]
    for back in range(2, int(length.max()) + 1):  # all episodes at once, from their ends backward
        row = episodes[length >= back, 1] - back
        value[row] += discount * value[row + 1]
    return value
