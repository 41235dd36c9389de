"""Actions that the behavior model proposes at every recorded state, drawn once: the tables of SfBC and QGPO.

They are a stage of their own so that drawing them shows its progress, resumes, and is shared by all that follows.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import static
from srpo.core import Batch, Stage, Updated
from srpo.diffusion.solver import Solver
from srpo.stages.score_behavior import Rows


class Proposals(eqx.Module):
    """Proposed actions by row of the data, at its state and, if they were asked for, at its next state."""

    here: Float[Array, "N M act"]
    after: Float[Array, "N M act"] | None


class SupportActions(Stage[Proposals, Batch, Proposals]):
    needs: ClassVar = ("behavior",)
    trains: ClassVar = False
    batch_size: int = eqx.field(
        default=1, init=False, static=True
    )  # no setting: every step takes its own share of the rows, in order

    steps: int = static(1000, "parts in which the table is drawn; more parts need less memory at once")
    count: int = static(16, "actions per state")
    next_states: bool = static(False, "draw actions at next states too")
    rows: Rows = static("transitions", "rows of the table: those of d4rl.qlearning_dataset (QGPO) or all recorded steps (SfBC)")
    solver: Solver = Solver()

    def view(self, dataset):
        view = getattr(dataset, self.rows)
        size = 4 * view.n_rows * self.count * view.action_size * (1 + self.next_states)
        dataset.require_device_room(size, f"the table of {self.count} proposed actions per state")
        return view

    def _share(self, n_rows, step):
        size = -(-n_rows // self.steps)
        return step * size + jnp.arange(size)

    def draw(self, view, key, step):
        return jnp.minimum(self._share(view.n_rows, step), view.n_rows - 1)

    def init(self, data, given, key) -> Proposals:
        def empty():
            return jnp.zeros((data.n_rows, self.count, data.action_size))

        return Proposals(empty(), empty() if self.next_states else None)

    def update(self, state: Proposals, batch: Batch, given, key, step) -> Updated[Proposals]:
        at = self._share(state.here.shape[0], step)  # beyond the end: the last row was taken, and nothing is written
        behavior, shape = given["behavior"], (len(at), *state.here.shape[1:])

        def draw(obs, key):
            return self.solver(lambda x, t: behavior(x, t, obs[:, None]), behavior.schedule, key, shape)

        k_here, k_after = jax.random.split(key)
        here = draw(batch.obs, k_here)
        after = None if state.after is None else state.after.at[at].set(draw(batch.next_obs, k_after), mode="drop")
        return Proposals(state.here.at[at].set(here, mode="drop"), after), {"action": jnp.mean(jnp.abs(here))}

    def result(self, state: Proposals) -> Proposals:
        return state
