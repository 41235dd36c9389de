"""Rows as training sees them, gathered by number from a recording in memory or on disk: what every view is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from srpo.core import Batch
from srpo.data.mapped import gathered, merged
from srpo.data.recording import Dataset, Kept
from srpo.data.treatments import Change

ROWS_AT_ONCE = 1 << 16  # of a pass over all of them


@dataclass(frozen=True, eq=False)
class Table:
    """Numbered rows of a recording after their treatment, as NumPy arrays.

    kept: which rows it has. into_next: whether what was recorded as the next observation of a time-out counts as what follows it,
    or else the row after it, which begins another episode; if not, the row itself does.
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
        obs, next_obs = self._obs_and_next(rows)
        both = self._pair(self.action, rows, self._after(rows)) if self.next_action else (self.action(rows), None)
        columns: Any = (obs, both[0], reward, next_obs, mask, np.asarray(numbers, np.int32), both[1])
        return Batch(*columns)

    def obs(self, rows: np.ndarray) -> np.ndarray:
        """Observations of rows of the recording."""
        return self._normalized(gathered(self.data.obs, rows))

    def action(self, rows: np.ndarray) -> np.ndarray:
        """Actions of rows of the recording."""
        action = gathered(self.data.action, rows)
        return np.clip(action, -self.bound, self.bound) if self.bound < 1 or self.data.on_disk else action

    def _after(self, rows: np.ndarray) -> np.ndarray:
        return np.minimum(rows + 1, len(self.data) - 1)

    def _obs_and_next(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after, cut = self._after(rows), self.data.timeout[rows]
        if not self.into_next:
            after = np.where(cut & ~self.data.terminal[rows], rows, after)
        obs, following = self._pair(self.obs, rows, after)
        if self.into_next and self.data.next_obs is not None and cut.any():
            following[cut] = self._normalized(gathered(self.data.next_obs, rows[cut]))
        return obs, following

    def _pair(self, column: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, after: np.ndarray):
        """A column of rows and of those after them, which lie side by side in a file."""
        if not self.data.on_disk:
            return column(rows), column(after)
        both = column(np.stack([rows, after], axis=1))
        return both[:, 0], both[:, 1]

    def _normalized(self, obs: np.ndarray) -> np.ndarray:
        if self.frame is None:
            return obs
        mean, std = self.frame
        return (obs - mean) / std

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
        return np.asarray(mean), np.sqrt(spread / count)
