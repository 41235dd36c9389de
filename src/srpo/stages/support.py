"""Actions that the behavior model proposes at every recorded state, drawn once: the tables of SfBC and QGPO.

They are a stage of their own so that drawing them shows its progress, resumes, and is shared by all that follows.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import static
from srpo.core import Batch, Stage, Updated
from srpo.diffusion.solver import Solver
from srpo.stages.score_behavior import Rows


class Whole(NamedTuple):
    """All rows of a data set at every step, for a stage that works through them in order."""

    rows: Batch

    def sample(self, key, size) -> Batch:
        return self.rows


class Support(eqx.Module):
    """Proposed actions by row of the data, at its state and, if they were asked for, at its next state."""

    here: Float[Array, "N M act"]
    after: Float[Array, "N M act"] | None


class SupportActions(Stage[Support, Batch, Support]):
    needs: ClassVar = ("behavior",)
    trains: ClassVar = False
    batch_size: int = eqx.field(
        default=1, init=False, static=True
    )  # no setting: every step sees all rows and fills its own share of the table

    steps: int = static(1000, "parts in which the table is drawn; more parts need less memory at once")
    count: int = static(16, "actions per state")
    next_states: bool = static(False, "draw actions at next states too")
    rows: Rows = static("transitions", "rows of the table: those of d4rl.qlearning_dataset (QGPO) or all recorded steps (SfBC)")
    solver: Solver = Solver()

    def view(self, dataset):
        return Whole(getattr(dataset, self.rows))

    def init(self, data, given, key) -> Support:
        def empty():
            return jnp.zeros((data.rows.obs.shape[0], self.count, data.rows.action.shape[-1]))

        return Support(empty(), empty() if self.next_states else None)

    def update(self, state: Support, batch: Batch, given, key, step) -> Updated[Support]:
        n = batch.obs.shape[0]
        size = -(-n // self.steps)
        at = step * size + jnp.arange(size)  # beyond the end: read at the last row, not written
        behavior, shape = given["behavior"], (size, self.count, batch.action.shape[-1])

        def draw(obs, key):
            obs = obs[jnp.minimum(at, n - 1), None]  # (size, 1, obs)
            return self.solver(lambda x, t: behavior(x, t, obs), behavior.schedule, key, shape)

        k_here, k_after = jax.random.split(key)
        here = draw(batch.obs, k_here)
        after = None if state.after is None else state.after.at[at].set(draw(batch.next_obs, k_after), mode="drop")
        return Support(state.here.at[at].set(here, mode="drop"), after), {"action": jnp.mean(jnp.abs(here))}

    def result(self, state: Support) -> Support:
        return state
