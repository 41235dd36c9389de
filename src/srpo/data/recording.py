"""What was recorded: rows as they were logged, their episodes and returns. What training sees of it: `treated.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo.data.checks import FIELDS, DataError
from srpo.data.mapped import Columns, columns, map_of
from srpo.data.ranges import ActionRange
from srpo.data.reference import normalized
from srpo.data.spilled import taken

if TYPE_CHECKING:
    from srpo.data.treated import Treated
    from srpo.data.treatments import Treatment


class Kept:
    """The rows 0 to n - 1 without some: number i is row `kept(i)`. Holds only those left out, whatever n."""

    def __init__(self, n: int, without: np.ndarray | None = None):
        without = np.zeros(0, np.int64) if without is None else without  # in ascending order
        self.size = n - len(without)
        self._before = without - np.arange(len(without))  # kept rows before each one left out

    def __len__(self) -> int:
        return self.size

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        numbers = np.asarray(numbers, np.int64)
        return numbers + np.searchsorted(self._before, numbers, "right") if len(self._before) else numbers

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, so that arrays can be indexed by it."""
        return self(np.arange(self.size)).astype(np.int64 if dtype is None else dtype, copy=False)

    def tolist(self) -> list[int]:
        return np.asarray(self).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.tolist())


AT_ONCE = 1 << 24  # rows summed in one go


@dataclass(frozen=True, eq=False)
class Dataset:
    """Logged steps. Row i: in `obs[i]` the action `action[i]` gave `reward[i]`; the rows of an episode follow each other."""

    name: str  # chooses presets: a D4RL id, a built-in name or the stem of the file
    obs: np.ndarray  # (N, obs) float32
    action: np.ndarray  # (N, act) float32 in [-1, 1]
    reward: np.ndarray  # (N,) float32
    terminal: np.ndarray  # (N,) bool: the episode ended here
    timeout: np.ndarray  # (N,) bool: the episode was cut here
    next_obs: np.ndarray | None = None  # (N, obs) float32, if recorded
    env_id: str | None = None  # of Gymnasium, if there is one
    reference: tuple[float, float] | None = None  # mean return of a random and of an expert policy
    source: str = "arrays"  # where it was read from
    sha256: str = ""  # of the file, or of the arrays
    timeouts_from: str = "recorded"  # "recorded", "counted" (as D4RL does without the field) or "none"
    task: str | None = None  # a name that presets and references know, if the data are of such a task
    d4rl: bool = False  # D4RL's rules hold: a time-out wins over a terminal, the last row is left out
    action_range: ActionRange | None = None  # the recorded actions that are -1 and 1 here; None: they are what was recorded
    obs_offset: np.ndarray | None = None  # (obs,) float32 taken off the recorded observations
    notes: tuple[str, ...] = ()  # what was done to the recording, to be said
    labels: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # names of the columns of obs and action, if they have any
    reward_by: str | None = None  # module:function that computed the rewards, if they are not recorded ones

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def obs_size(self) -> int:
        return self.obs.shape[1]

    @property
    def action_size(self) -> int:
        return self.action.shape[1]

    @property
    def on_disk(self) -> bool:
        """Whether the rows stay in their file and are read where they are looked at."""
        return map_of(self.obs) is not None

    @cached_property
    def columns(self) -> dict[str, Columns]:
        """Lowest, highest, mean and deviation of each column of "obs", "action" and "reward"."""
        return {key: columns(getattr(self, key)) for key in ("obs", "action", "reward")}

    # --- episodes

    @cached_property
    def episodes(self) -> np.ndarray:
        """(n, 2) first row and row after the last one of each episode; what follows the last end is one more."""
        stop = np.flatnonzero(self.terminal | self.timeout) + 1
        if len(stop) == 0 or stop[-1] != len(self):
            stop = np.append(stop, len(self))
        return np.stack([np.insert(stop[:-1], 0, 0), stop], axis=1)

    @cached_property
    def ended(self) -> np.ndarray:
        """(n,) whether each episode ended by itself (neither cut by a time limit nor by the end of the data)."""
        return self.terminal[self.episodes[:, 1] - 1]

    @cached_property
    def complete(self) -> np.ndarray:
        """(n,) whether each episode was recorded to its end or time-out."""
        last = self.episodes[:, 1] - 1
        return self.terminal[last] | self.timeout[last]

    @cached_property
    def returns(self) -> np.ndarray:
        """(complete episodes,) undiscounted sum of the recorded rewards, float64."""
        out = []
        for part in np.array_split(self.episodes, min(-(-len(self) // AT_ONCE), len(self.episodes))):
            first, stop = part[0, 0], part[-1, 1]
            out.append(np.add.reduceat(self.reward[first:stop].astype(np.float64), part[:, 0] - first))
        return np.concatenate(out)[self.complete]

    def require_episodes(self, who: str) -> None:
        """Raises DataError, naming the algorithm `who`, if no episode boundary was recorded."""
        if not self.complete.any():
            raise DataError(
                f"{self.source}: {who} needs whole trajectories, but terminals and timeouts mark no end of an episode; "
                "record timeouts or choose an algorithm that learns from single transitions"
            )

    def score(self, returns):
        """Normalized score(s): 0 for a random policy, 100 for an expert. Raises DataError without reference returns."""
        if self.reference is None:
            raise DataError(
                f"{self.source}: no reference returns are known for {self.env_id or self.name!r}; report raw returns"
            )
        return normalized(np.asarray(returns), self.reference)

    # --- rows

    @property
    def recorded_obs(self) -> np.ndarray:
        """(N, obs) observations as policies are given them."""
        return self.obs if self.obs_offset is None else self.obs + self.obs_offset

    @property
    def ends_itself(self) -> bool:
        """Whether the last row is a transition: it is terminal, and the data are not D4RL's."""
        return bool(self.terminal[-1] and not self.timeout[-1] and not self.d4rl)

    @cached_property
    def transition_rows(self) -> Kept:
        """Rows that are transitions: all but those that timed out, after which nothing was recorded. Raises DataError if none is.

        The last row is one if it is terminal; D4RL's own data leave it out, as `d4rl.qlearning_dataset` does.
        """
        rows = Kept(len(self) - (not self.ends_itself), np.flatnonzero(self.timeout[: None if self.ends_itself else -1]))
        if len(rows) == 0:
            kept = "" if self.next_obs is None else ", or train with --set data.keep_timeouts=true"
            raise DataError(
                f"{self.source}: no transition is left, as every row but the last is a time-out; record longer episodes{kept}"
            )
        return rows

    def only(self, rows: np.ndarray) -> Dataset:
        """The recording with these rows (numbers, or a mask) alone, in this order."""
        recorded = {key: getattr(self, key) for key in FIELDS}
        chosen: dict[str, Any] = {key: None if x is None else taken(x, rows) for key, x in recorded.items()}
        return replace(self, **chosen)

    def treated(self, treatment: Treatment | None = None) -> Treated:
        """What training sees of it: `srpo.data.treated.treat`, which is imported when it is asked for."""
        from srpo.data.treated import treat

        return treat(self, treatment)

    def split(self, holdout: float) -> tuple[Dataset, Dataset | None]:
        """The episodes that are trained on and, with a fraction above zero, those that are set aside. Raises DataError."""
        if holdout == 0:
            return self, None
        self.require_episodes("data.holdout")
        if len(self.episodes) < 2:
            raise DataError(f"{self.source}: found one episode, expected two or more to set some aside; use data.holdout=0")
        aside = np.repeat(held_out(self.episodes, holdout), np.diff(self.episodes)[:, 0])
        return self.only(~aside), self.only(aside)


def held_out(episodes: np.ndarray, fraction: float) -> np.ndarray:
    """(n,) which episodes are set aside: the same ones in every run on the same data, and among those of any larger fraction.

    The nearest whole number of them, but at least one and not all.
    """
    n = len(episodes)
    count = min(max(1, round(fraction * n)), n - 1)
    return np.isin(np.arange(n), np.random.default_rng(0).permutation(n)[:count])
