"""Selecting from Behavior Candidates (Chen et al., ICLR 2023, arXiv 2209.14548).

A diffusion model proposes actions, a critic chooses among them: pi(a|s) ~ mu(a|s) exp(alpha Q(s, a)). The critic
regresses on planned returns: those of the data, raised wherever the value of the proposals is higher, planned
anew from the critic a few times.

Differences between the paper and the authors' code, each a setting:
- the paper takes the maximum with the value of the next state, r + gamma max(R', V(s')); the code with that of the
  same state, max(r + gamma R', V(s)), which makes V(s) the target even of a bad action (`critic.maximum`);
- rows are drawn independently here, once per epoch there; their second, unused critic is left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from srpo.algorithms.tables.score import TRIAL_SUPPORT
from srpo.config import Overrides, Tasks, setting, static
from srpo.core import Algorithm, Alone, Batch, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.errors import ConfigError
from srpo.losses import softmax_mean
from srpo.networks.layers import QEnsemble
from srpo.optim import adam
from srpo.policies import BestOf, DiffusionPolicy
from srpo.stages.score_behavior import ScoreBehavior
from srpo.stages.support import SupportActions

Maximum = Literal["next state", "same state"]


class Recorded(NamedTuple):
    """All recorded steps with the ends of their episodes, on the device: the table of proposed actions beside them is larger.
    A batch comes together with the whole, to plan on it."""

    steps: Batch
    last: Bool[Array, " N"]  # the episode ended or was cut here

    @property
    def n_rows(self) -> int:
        return self.steps.n_rows

    @property
    def obs_size(self) -> int:
        return self.steps.obs_size

    @property
    def action_size(self) -> int:
        return self.steps.action_size

    def rows(self, key, size) -> Int[Array, " B"]:
        return self.steps.rows(key, size)

    def take(self, rows) -> tuple[Batch, Recorded]:
        return self.steps.take(rows), self

    def moments(self, field):
        return self.steps.moments(field)


def planned_returns(
    reward: Float[Array, " N"], last: Bool[Array, " N"], value: Float[Array, " N"], discount, maximum: Maximum
) -> Float[Array, " N"]:
    """R_n = r_n + gamma max(R_{n+1}, V(s_{n+1})) (eq. 8), or with the maximum at the same state, max(R_n, V(s_n)).

    Nothing follows the last row of an episode. With V = -inf both are the discounted returns of the data.
    """

    def back(following, row):
        r, last, v = row
        planned = r + discount * jnp.where(last, 0.0, following)
        best = jnp.maximum(planned, v)
        return best, planned if maximum == "next state" else best

    return lax.scan(back, jnp.zeros(()), (reward, last, value), reverse=True)[1]


class PlannedState(eqx.Module):
    q: Alone[QEnsemble]
    fresh: Alone[QEnsemble]  # as it was before the first step
    target: Float[Array, " N"]  # planned returns, by row
    mean: Float[Array, ""]  # of the planned returns: Q predicts them standardized
    std: Float[Array, ""]

    @classmethod
    def create(cls, fresh: Alone[QEnsemble], target: Float[Array, " N"]) -> PlannedState:
        return cls(fresh, fresh, target, jnp.mean(target), jnp.maximum(jnp.std(target), 0.1))


class PlannedCritic(Stage[PlannedState, tuple[Batch, Recorded], QEnsemble]):
    needs: ClassVar = ("support",)

    steps: int = static(48_755, "gradient steps")
    batch_size: int = static(4096, "rows per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the hidden layers of Q")
    replan_every: int = static(
        24_500, "steps after which the returns are planned anew and Q starts again from its first weights", scales=True
    )
    maximum: Maximum = static(
        "next state", "where the planned return is compared with V: at the next state (paper) or the same (code)"
    )
    sharpness: float = setting(
        20.0, "V(s) weighs its proposed actions by softmax(sharpness Q); larger: closer to their maximum"
    )
    lr: float = setting(1e-3, "learning rate (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")

    def view(self, dataset):
        dataset.require_episodes("SfBC")
        return Recorded(dataset.held_steps, dataset.last)

    def init(self, data, given, key) -> PlannedState:
        q = QEnsemble(data.obs_size, data.action_size, self.hidden, key, n=1, activation=jax.nn.silu)
        return PlannedState.create(TrainState.create(q, adam(self.lr)), self._plan(data, -jnp.inf))

    def _plan(self, data: Recorded, value):
        value = jnp.broadcast_to(value, data.last.shape)
        return planned_returns(data.steps.reward, data.last, value, self.discount, self.maximum)

    def _replan(self, state: PlannedState, data: Recorded, proposed) -> PlannedState:
        def normalized_value(row):
            obs, actions = row
            return softmax_mean(state.q.model(jnp.broadcast_to(obs, (len(actions), *obs.shape)), actions)[0], self.sharpness)

        value = lax.map(normalized_value, (data.steps.obs, proposed), batch_size=1024)
        return PlannedState.create(state.fresh, self._plan(data, state.mean + state.std * value))

    def update(self, state: PlannedState, batch: tuple[Batch, Recorded], given, key, step) -> Updated[PlannedState]:
        rows, data = batch
        due = (step > 0) & (step % self.replan_every == 0)
        state = lax.cond(due, lambda s: self._replan(s, data, given["support"].here), lambda s: s, state)
        y = (state.target[rows.index] - state.mean) / state.std

        def q_loss(q):
            loss = jnp.mean((q(rows.obs, rows.action)[0] - y) ** 2)
            return loss, {"q_loss": loss, "planned": state.mean}

        q, metrics = descend(state.q, adam(self.lr), q_loss)
        return PlannedState(q, state.fresh, state.target, state.mean, state.std), metrics

    def result(self, state: PlannedState) -> QEnsemble:
        """Q in units of the standard deviation of the planned returns, which is how actions are weighed."""
        return state.q.model


LOCOMOTION: Tasks = {f"{robot}*": {"average": 4} for robot in ("halfcheetah", "hopper", "walker2d")}
ANTMAZE: Tasks = {
    "antmaze-*|pointmaze-*": {"data.episodes": "trimmed"},
    "antmaze-medium-play-v2": {"data.reward": "beyond-19"},
    "antmaze-large-*|pointmaze-large": {"critic.hidden": (512, 256, 256)},
}
TASKS = LOCOMOTION | ANTMAZE
# The authors' 199 epochs, the returns planned anew after 100. Batches of an epoch, by D4RL's rows: 1M, or as many passes as come closest.
EPOCH = {
    "halfcheetah-medium-replay-v2": 247,
    "hopper-medium-replay-v2": 197,
    "walker2d-medium-replay-v2": 222,
    "*-medium-expert-v2": 489,
    "antmaze-*-v*": 488,
}
LENGTH: Tasks = {
    pattern: {"critic.steps": 199 * batches, "critic.replan_every": 100 * batches} for pattern, batches in EPOCH.items()
}
QUICK: Overrides = {
    "behavior.steps": 10_000,
    "behavior.batch_size": 512,
    "behavior.widths": (128, 64, 32),
    "behavior.lr": 3e-4,
    "critic.steps": 20_000,
    "critic.batch_size": 512,
    "critic.replan_every": 10_000,
    "critic.lr": 3e-3,
}


class SfBC(Algorithm):
    acts_with: ClassVar = ("behavior", "critic")

    data: Treatment = Treatment()
    behavior: ScoreBehavior = ScoreBehavior(steps=586_000, rows="steps", min_time=1e-5)
    support: SupportActions = SupportActions(rows="steps")
    critic: PlannedCritic = PlannedCritic()
    candidates: int = static(32, "actions drawn from the behavior model")
    average: int = static(1, "actions drawn among the candidates without replacement, and averaged")
    sharpness: float = setting(
        100.0, "alpha: candidates are drawn with probability ~ exp(sharpness Q); larger: closer to argmax Q"
    )

    def __check_init__(self):
        if self.average > self.candidates:
            raise ConfigError(f"average: found {self.average}, expected no more than candidates, {self.candidates}")

    def make_policy(self, trained):
        sampler = DiffusionPolicy(trained["behavior"], self.support.solver)
        return BestOf(
            sampler, trained["critic"], self.candidates, "softmax", self.sharpness, heads="first", average=self.average
        )

    title: ClassVar = "SfBC"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        TRIAL_SUPPORT
        | {
            "critic.steps": 60,
            "critic.batch_size": 32,
            "critic.hidden": (12,),
            "critic.replan_every": 25,
            "candidates": 6,
            "average": 2,
        },
        ("critic.lr", 3e-3, 1e-2),
        ("behavior.loss", "critic.q_loss"),
    )
    renamed: ClassVar = {f"acting.{name}": name for name in ("candidates", "average", "sharpness")}
    presets: ClassVar = {
        "paper": TASKS | LENGTH,
        "authors-code": {"*": {"critic.maximum": "same state"}} | TASKS | LENGTH,
        "quick": {"*": QUICK} | TASKS,
    }
