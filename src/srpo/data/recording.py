"""One recorded data set: raw rows as they were logged, and the views that algorithms train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo.data import treatments
from srpo.data.checks import FIELDS, DataError
from srpo.data.reference import normalized

if TYPE_CHECKING:
    from srpo.core import Batch, Treatment
    from srpo.data.views import Windows


@dataclass(frozen=True, eq=False)
class Dataset:
    """Logged steps. Row i: in `obs[i]` the action `action[i]` gave `reward[i]`; the rows of an episode follow each other.

    The arrays are what was recorded; what a `Treatment` changes is seen in `transitions`, `steps` and `windows`.
    """

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
    treatment: Treatment | None = None
    timeouts_from: str = "recorded"  # "recorded", "counted" (as D4RL does without the field) or "none"

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def n_rows(self) -> int:
        return len(self.obs)

    @property
    def n_transitions(self) -> int:
        return len(self.transition_rows)

    @property
    def obs_size(self) -> int:
        return self.obs.shape[1]

    @property
    def action_size(self) -> int:
        return self.action.shape[1]

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
        return np.add.reduceat(self.reward.astype(np.float64), self.episodes[:, 0])[self.complete]

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

    def summary(self) -> dict[str, Any]:
        """Figures and warnings, as JSON can hold them; `srpo data info` prints them."""
        from srpo.data.info import summary

        return summary(self)

    # --- what training sees

    def treated(self, treatment: Treatment) -> Dataset:
        """A copy whose views follow `treatment`. Raises DataError if the data cannot be treated so."""
        chosen = self.split(treatment.holdout)[0]
        if treatment.best_fraction < 1:
            chosen.require_episodes("best_fraction")
            best = treatments.best_episodes(chosen.reward, chosen.episodes[chosen.complete], treatment.best_fraction)
            chosen = chosen._only(best)
        if treatment.reward == "beyond-19":
            wrong = treatments.mislabeled(chosen.reward, chosen.obs[:, :2])
            chosen = replace(chosen, reward=np.where(wrong, np.float32(0), chosen.reward), terminal=chosen.terminal & ~wrong)
        if treatment.episodes == "trimmed":
            rows, last = treatments.trimmed(chosen.episodes, chosen.terminal)
            if len(rows) == 0:
                raise DataError(f"{self.source}: no episode has five rows; use data.episodes=all")
            chosen = chosen._only(rows)
            chosen = replace(chosen, timeout=last & ~chosen.terminal)
        chosen = replace(chosen, treatment=treatment)
        _ = chosen.transition_rows, chosen._reward  # refuse now, not in the middle of training
        return chosen

    def split(self, holdout: float) -> tuple[Dataset, Dataset | None]:
        """The episodes that are trained on and, with a fraction above zero, those that are set aside. Raises DataError."""
        if holdout == 0:
            return self, None
        self.require_episodes("data.holdout")
        if len(self.episodes) < 2:
            raise DataError(f"{self.source}: found one episode, expected two or more to set some aside; use data.holdout=0")
        aside = np.repeat(treatments.held_out(self.episodes, holdout), np.diff(self.episodes)[:, 0])
        return self._only(~aside), self._only(aside)

    def _only(self, rows: np.ndarray) -> Dataset:
        arrays = {key: getattr(self, key) for key in FIELDS}
        return replace(self, **{key: None if x is None else x[rows] for key, x in arrays.items()})

    @cached_property
    def transition_rows(self) -> np.ndarray:
        """Rows that are transitions: those of `d4rl.qlearning_dataset`, and time-outs if they are asked for."""
        rows = treatments.qlearning_rows(self.timeout)
        if self.treatment is not None and self.treatment.keep_timeouts:
            self._require_next_obs()
            rows = np.union1d(rows, np.flatnonzero(self.timeout))
        if len(rows) == 0:
            raise DataError(
                f"{self.source}: no transition is left, as every row but the last is a time-out; record longer episodes"
            )
        return rows

    def _require_next_obs(self) -> None:
        if self.next_obs is None:
            raise DataError(
                f"{self.source}: keep_timeouts needs the field 'next_observations', which was not recorded; leave keep_timeouts off"
            )
        last = np.flatnonzero(self.timeout)
        following = self.obs[np.minimum(last + 1, len(self) - 1)]
        copied = (self.next_obs[last] == self.obs[last]).all(axis=1) | (self.next_obs[last] == following).all(axis=1)
        if copied.any():
            raise DataError(
                f"{self.source}: next_observations[{last[np.argmax(copied)]}] at a time-out is a copy of another row, "
                "not what was observed; leave keep_timeouts off"
            )

    @cached_property
    def _reward(self) -> np.ndarray:
        """(N,) float32 rewards after the treatment."""
        option = "none" if self.treatment is None else self.treatment.reward
        reward, rows, what = self.reward, treatments.qlearning_rows(self.timeout), self.source
        if option == "return-range":
            return treatments.scaled(reward, self.returns, what)
        if option == "return-range-authors":
            return treatments.scaled(reward, treatments.authors_returns(reward[rows], self.terminal[rows]), what)
        if option == "standardize":
            return treatments.standardized(reward, rows, what)
        affine = {
            "minus-one": (1, -1),
            "four-centered": (4, -0.5),
        }  # "none", and "beyond-19", which changed the rows: as they are
        scale, shift = map(np.float32, affine.get(option, (1, 0)))
        return scale * (reward + shift) if option in affine else reward

    @cached_property
    def _action(self) -> np.ndarray:
        bound = 1.0 if self.treatment is None else self.treatment.clip_action
        return self.action if bound >= 1 else np.clip(self.action, -bound, bound)

    @cached_property
    def obs_statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation (obs,) by which training sees observations normalized, or None if it sees them as recorded."""
        if self.treatment is None or not self.treatment.normalize_obs:
            return None
        return treatments.statistics(self.obs[self.transition_rows])

    @cached_property
    def transitions(self) -> Batch:
        """The rows of `d4rl.qlearning_dataset`, bit for bit, as arrays on the device; then the treatment."""
        rows = self.transition_rows
        following = self.obs[np.minimum(rows + 1, len(self) - 1)]
        kept = self.timeout[rows]
        if kept.any():
            following[kept] = self.next_obs[rows[kept]]
        return self._batch(rows, following)

    @cached_property
    def steps(self) -> Batch:
        """Every row, as arrays on the device; `next_obs` is the next row, or the row itself where the data breaks off."""
        following = np.arange(1, len(self) + 1)
        cut = self.episodes[~self.ended, 1] - 1
        following[cut] = cut
        following[-1] = len(self) - 1
        return self._batch(np.arange(len(self)), self.obs[following])

    @cached_property
    def last(self):
        """(N,) bool, on the device: the last row of each episode, by its end, a time-out or the end of the data."""
        import jax.numpy as jnp

        return jnp.zeros(len(self), bool).at[self.episodes[:, 1] - 1].set(True)

    def windows(self, horizon: int, discount: float = 0.997, penalty: float = 100.0, max_length: int = 1000) -> Windows:
        """Pieces of `horizon` rows of complete episodes; see `srpo.data.views`. Raises DataError."""
        from srpo.data.views import Windows

        return Windows.create(self, horizon, discount, penalty, max_length)

    def _batch(self, rows: np.ndarray, following: np.ndarray) -> Batch:
        import jax.numpy as jnp

        from srpo.core import Batch

        obs, following = map(self._normalized, (self.obs[rows], following))
        mask = 1 - self.terminal[rows].astype(np.float32)
        return Batch(*map(jnp.asarray, (obs, self._action[rows], self._reward[rows], following, mask)), jnp.arange(len(rows)))

    def _normalized(self, obs: np.ndarray) -> np.ndarray:
        if self.obs_statistics is None:
            return obs
        mean, std = self.obs_statistics
        return (obs - mean) / std
