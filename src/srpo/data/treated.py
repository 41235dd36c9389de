"""What training sees of a recording: its rows, chosen and changed as a `Treatment` says, and the views on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Array, Bool

from srpo.core import Batch
from srpo.data import treatments
from srpo.data.checks import DataError
from srpo.data.placing import require_device_room
from srpo.data.recording import Dataset, Kept
from srpo.data.table import Table
from srpo.data.treatments import Treatment
from srpo.data.views import TableView
from srpo.data.windows import WindowTable


def treat(recording: Dataset, treatment: Treatment | None = None, on_device: bool = True) -> Treated:
    """What training sees of `recording`; without a treatment, as it was recorded.

    on_device: whether its views hold their rows there, or leave them where they are. Raises DataError, ConfigError if it
    cannot be treated so.
    """
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
    treated = Treated(chosen, treatment, on_device)
    treated.check()  # now, not in the middle of training
    return treated


@dataclass(frozen=True, eq=False)
class Treated:
    """A recording with the rows that its treatment leaves, and the views that algorithms train on; made by `treat`."""

    recording: Dataset
    treatment: Treatment
    on_device: bool = True

    @property
    def n_transitions(self) -> int:
        return len(self.rows)

    def check(self) -> None:
        """Raises DataError, ConfigError if no row is left, or rewards or observations cannot be changed so."""
        assert len(self.rows) and len(self.all_steps)  # each raises for itself

    def require_episodes(self, who: str) -> None:
        """Raises DataError, naming the algorithm `who`, if no episode boundary was recorded."""
        self.recording.require_episodes(who)

    def require_device_room(self, size: int, what: str) -> None:
        """Raises DataError if `what`, of so many bytes, does not fit on the device."""
        require_device_room(size, f"{self.recording.source}: {what}")

    # --- on the host

    @cached_property
    def rows(self) -> Kept:
        """Rows that are transitions: those of `d4rl.qlearning_dataset`, and time-outs if they are asked for."""
        data = self.recording
        if not self.treatment.keep_timeouts:
            return data.transition_rows
        treatments.require_next_obs(data)
        return Kept(len(data) - (not (data.timeout[-1] or data.ends_itself)))

    @cached_property
    def obs_statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation (obs,) by which training sees observations normalized, or None if it sees them as recorded."""
        if not self.treatment.normalize_obs:
            return None
        return treatments.frame(*Table(self.recording, self.rows).moments("obs"))

    def _table(self, rows: Kept, into_next: bool) -> Table:
        change = treatments.reward_treatment(self.treatment.reward).learn(self.recording)
        return Table(self.recording, rows, into_next, change, self.treatment.clip_action, frame=self.obs_statistics)

    @cached_property
    def all_transitions(self) -> Table:
        """The rows of `d4rl.qlearning_dataset`, bit for bit; then the treatment."""
        return self._table(self.rows, into_next=True)

    @cached_property
    def all_steps(self) -> Table:
        """Every row; `next_obs` is the next row, or the row itself where the data breaks off."""
        return self._table(Kept(len(self.recording)), into_next=False)

    # --- views

    @cached_property
    def transitions(self) -> TableView:
        """The transitions to draw from."""
        return TableView(self.all_transitions, self._held(self.all_transitions) if self.on_device else None)

    @cached_property
    def sarsa(self) -> TableView:
        """The transitions, each with the action that was recorded after it. Raises DataError with kept time-outs, which have none."""
        if self.treatment.keep_timeouts:
            raise DataError(f"{self.recording.source}: no action was recorded after a time-out; use data.keep_timeouts=false")
        table = replace(self.all_transitions, next_action=True)
        return TableView(table, self._held(table) if self.on_device else None)

    @cached_property
    def held_steps(self) -> Batch:
        """Every row, on the device."""
        return self._held(self.all_steps)

    @cached_property
    def steps(self) -> TableView:
        """Every row to draw from."""
        return TableView(self.all_steps, self.held_steps if self.on_device else None)

    @cached_property
    def last(self) -> Bool[Array, " N"]:
        """The last row of each episode, by its end, a time-out or the end of the data; on the device."""
        last = np.zeros(len(self.recording), bool)
        last[self.recording.episodes[:, 1] - 1] = True
        return jax.device_put(last)

    def windows(self, horizon: int, discount: float = 0.997, penalty: float = 100.0, max_length: int = 1000) -> TableView:
        """Pieces of `horizon` rows of complete episodes to draw from; see `srpo.data.windows`. Raises DataError."""
        table = WindowTable.create(self.all_steps, horizon, discount, penalty, max_length)
        held = table.on_device(self.held_steps.obs, self.held_steps.action) if self.on_device else None
        return TableView(table, held)

    def _held(self, table: Table) -> Batch:
        return jax.device_put(table.take(np.arange(len(table))))
