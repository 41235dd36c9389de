"""Rows as training sees them, gathered by number from a recording in memory or on disk: what every view is made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from srpo.core import Batch
from srpo.data.mapped import advise_random, merged, release
from srpo.data.recording import Dataset, Kept
from srpo.data.treatments import Change

ROWS_AT_ONCE = 1 << 16  # of a pass over all of them


@dataclass(frozen=True, eq=False)
class Table:
    """Numbered rows of a recording after their treatment, as NumPy arrays.

    kept: which rows it has. into_next: whether the row after a time-out, which begins another episode, counts as what
    follows it; if not, the row itself does, or what was recorded as its next observation.
    """

    data: Dataset
    kept: Kept
    into_next: bool = True
    change: Change = np.asarray  # of rewards
    bound: float = 1.0  # of actions
    next_action: bool = False  # whether a row comes with the action of the row after it
    frame: tuple[np.ndarray, np.ndarray] | None = None  # mean and standard deviation that observations are normalized by

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def obs_size(self) -> int:
        return self.data.obs_size

    @property
    def action_size(self) -> int:
        return self.data.action_size

    def take(self, numbers: np.ndarray) -> Batch:
        """The rows with these numbers."""
        rows = self.kept(numbers)
        mask = 1 - self.data.terminal[rows].astype(np.float32)
        reward = self.change(self.data.reward[rows])
        index, next_action = np.asarray(numbers, np.int32), self.action(self._after(rows)) if self.next_action else None
        columns: Any = (self.obs(rows), self.action(rows), reward, self._next_obs(rows), mask, index, next_action)
        return Batch(*columns)

    def obs(self, rows: np.ndarray) -> np.ndarray:
        """Observations of rows of the recording."""
        return self._normalized(self.data.obs[rows])

    def action(self, rows: np.ndarray) -> np.ndarray:
        """Actions of rows of the recording."""
        action = self.data.action[rows]
        return np.clip(action, -self.bound, self.bound) if self.bound < 1 or self.data.on_disk else action

    def _after(self, rows: np.ndarray) -> np.ndarray:
        return np.minimum(rows + 1, len(self.data) - 1)

    def _next_obs(self, rows: np.ndarray) -> np.ndarray:
        after = self._after(rows)
        cut = self.data.timeout[rows]
        if not self.into_next:
            return self._normalized(self.data.obs[np.where(cut & ~self.data.terminal[rows], rows, after)])
        following = self.data.obs[after]
        if self.data.next_obs is not None and cut.any():
            following[cut] = self.data.next_obs[rows[cut]]
        return self._normalized(following)

    def _normalized(self, obs: np.ndarray) -> np.ndarray:
        if self.frame is None:
            return obs
        mean, std = self.frame
        return (obs - mean) / std

    def expect_draws(self) -> None:
        """From now on rows are taken at random."""
        advise_random(self.data.obs, self.data.action, self.data.next_obs)

    def release(self) -> None:
        """Give back the memory of what was read of a recording on disk."""
        release(self.data.obs, self.data.action, self.data.next_obs, self.data.reward)

    @cached_property
    def _moments(self):
        return cache(self._count)

    def moments(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each column of "obs" or "action" over all rows, float64; found in one pass."""
        return self._moments(field)

    def _count(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        column = {"obs": self.obs, "action": self.action}[field]
        count, mean, spread = 0, np.float64(0.0), np.float64(0.0)
        for start in range(0, len(self), ROWS_AT_ONCE):
            piece = column(self.kept(np.arange(start, min(start + ROWS_AT_ONCE, len(self)))))
            count, mean, spread = merged(count, mean, spread, piece)
            self.release()
        return np.asarray(mean), np.sqrt(spread / count)
