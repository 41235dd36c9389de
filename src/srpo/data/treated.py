"""What training sees of a recording: its rows, chosen and changed as a `Treatment` says, and the views on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from srpo.core import Batch
from srpo.data import treatments
from srpo.data.checks import DataError
from srpo.data.recording import Dataset
from srpo.data.treatments import Treatment
from srpo.data.views import Windows


def treat(recording: Dataset, treatment: Treatment | None = None) -> Treated:
    """What training sees of `recording`; without a treatment, as it was recorded. Raises DataError, ConfigError if it cannot be treated so."""
    treatment = Treatment() if treatment is None else treatment
    reward = treatments.reward_treatment(treatment.reward)
    chosen = recording.split(treatment.holdout)[0]
    if treatment.best_fraction < 1:
        chosen.require_episodes("best_fraction")
        chosen = chosen.only(treatments.best_episodes(chosen.reward, chosen.episodes[chosen.complete], treatment.best_fraction))
    if reward.mend is not None:
        chosen = reward.mend(chosen)
    if treatment.episodes == "trimmed":
        chosen = treatments.trimmed(chosen)
    treated = Treated(chosen, treatment)
    _ = treated.rows, treated.reward  # refuse now, not in the middle of training
    return treated


@dataclass(frozen=True, eq=False)
class Treated:
    """A recording with the rows that its treatment leaves, and the views that algorithms train on; made by `treat`."""

    recording: Dataset
    treatment: Treatment

    @property
    def n_transitions(self) -> int:
        return len(self.rows)

    def require_episodes(self, who: str) -> None:
        """Raises DataError, naming the algorithm `who`, if no episode boundary was recorded."""
        self.recording.require_episodes(who)

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows that are transitions: those of `d4rl.qlearning_dataset`, and time-outs if they are asked for."""
        if not self.treatment.keep_timeouts:
            return self.recording.transition_rows
        treatments.require_next_obs(self.recording)
        return np.union1d(self.recording.transition_rows, np.flatnonzero(self.recording.timeout))

    @cached_property
    def reward(self) -> np.ndarray:
        """(N,) float32 rewards after the treatment."""
        return treatments.reward_treatment(self.treatment.reward).learn(self.recording)(self.recording.reward)

    @cached_property
    def obs_statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation (obs,) by which training sees observations normalized, or None if it sees them as recorded."""
        return treatments.statistics(self.recording.obs[self.rows]) if self.treatment.normalize_obs else None

    @cached_property
    def transitions(self) -> Batch:
        """The rows of `d4rl.qlearning_dataset`, bit for bit, as arrays on the device; then the treatment."""
        data, rows = self.recording, self.rows
        following = data.obs[np.minimum(rows + 1, len(data) - 1)]
        kept = data.timeout[rows]
        if data.next_obs is not None and kept.any():
            following[kept] = data.next_obs[rows[kept]]
        return self._batch(rows, following)

    @cached_property
    def sarsa(self) -> Batch:
        """The transitions, each with the action that was recorded after it. Raises DataError with kept time-outs, which have none."""
        if self.treatment.keep_timeouts:
            raise DataError(f"{self.recording.source}: no action was recorded after a time-out; use data.keep_timeouts=false")
        return self.transitions._replace(
            next_action=jnp.asarray(self._action(np.minimum(self.rows + 1, len(self.recording) - 1)))
        )

    @cached_property
    def steps(self) -> Batch:
        """Every row, as arrays on the device; `next_obs` is the next row, or the row itself where the data breaks off."""
        data = self.recording
        following = np.arange(1, len(data) + 1)
        cut = data.episodes[~data.ended, 1] - 1
        following[cut] = cut
        following[-1] = len(data) - 1
        return self._batch(np.arange(len(data)), data.obs[following])

    @cached_property
    def last(self) -> Bool[Array, " N"]:
        """The last row of each episode, by its end, a time-out or the end of the data."""
        return jnp.zeros(len(self.recording), bool).at[self.recording.episodes[:, 1] - 1].set(True)

    def windows(self, horizon: int, discount: float = 0.997, penalty: float = 100.0, max_length: int = 1000) -> Windows:
        """Pieces of `horizon` rows of complete episodes; see `srpo.data.views`. Raises DataError."""
        return Windows.create(self.recording, self.steps, horizon, discount, penalty, max_length)

    def _batch(self, rows: np.ndarray, following: np.ndarray) -> Batch:
        data = self.recording
        obs, next_obs = (jnp.asarray(self._normalized(x)) for x in (data.obs[rows], following))
        mask = 1 - data.terminal[rows].astype(np.float32)
        reward = jnp.asarray(self.reward[rows])
        return Batch(obs, jnp.asarray(self._action(rows)), reward, next_obs, jnp.asarray(mask), jnp.arange(len(rows)))

    def _action(self, rows: np.ndarray) -> np.ndarray:
        action, bound = self.recording.action[rows], self.treatment.clip_action
        return action if bound >= 1 else np.clip(action, -bound, bound)

    def _normalized(self, obs: np.ndarray) -> np.ndarray:
        if self.obs_statistics is None:
            return obs
        mean, std = self.obs_statistics
        return (obs - mean) / std
