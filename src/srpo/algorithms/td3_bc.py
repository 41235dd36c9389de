"""TD3+BC, a minimalist approach to offline reinforcement learning (Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860).

TD3 with a cloning term in the actor's loss and normalized observations; one stage, Q and actor jointly.

Differences between the paper and the authors' code:
- the paper's lambda divides by the mean |Q| of the data's actions, the code's by that of the policy's actions
  (`policy.q_scale`: presets `paper` and `authors-code`);
- the paper writes the cloning term as a squared norm; the code takes the mean over dimensions, and so does this
  file, as alpha = 2.5 was chosen with it.
Rewards on antmaze are r - 1, as in CORL; the authors did not run it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from srpo.config import Tasks, setting, static
from srpo.core import Algorithm, Batch, Followed, Metrics, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.losses import backup, improvement
from srpo.networks.actors import DeterministicActor
from srpo.networks.layers import Normalizer, QEnsemble
from srpo.optim import adam
from srpo.policies import DeterministicPolicy


class TD3BCState(eqx.Module):
    q: Followed[QEnsemble]  # of normalized observations
    actor: Followed[DeterministicActor]
    logged: Metrics  # of the last step of the actor


class TD3BCPolicy(Stage[TD3BCState, Batch, DeterministicActor]):
    steps: int = static(1_000_000, "gradient steps of the critic")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the hidden layers of Q and policy")
    q_scale: Literal["data", "policy"] = static(
        "data", "whose actions set the scale of Q in lambda: the data's or the policy's"
    )
    actor_every: int = static(2, "the actor and both targets move at every n-th step")
    alpha: float = setting(2.5, "weight of Q against cloning; larger: closer to argmax Q")
    lr: float = setting(3e-4, "learning rate of Q and policy (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the targets follow", "[0, 1]")
    noise: float = setting(0.2, "standard deviation of the noise on the target's action")
    max_noise: float = setting(0.5, "the noise is clipped here")

    def init(self, data, given, key) -> TD3BCState:
        k_q, k_actor = jax.random.split(key)
        obs, act = data.obs_size, data.action_size
        q = QEnsemble(obs, act, self.hidden, k_q)
        actor = DeterministicActor(obs, act, self.hidden, k_actor, Normalizer.of(data.moments("obs")))
        logged = {"actor_loss": jnp.zeros(()), "cloning_error": jnp.zeros(())}
        optimizer = adam(self.lr)
        return TD3BCState(
            TrainState.create(q, optimizer, target=True), TrainState.create(actor, optimizer, target=True), logged
        )

    def update(self, state: TD3BCState, batch: Batch, given, key, step) -> Updated[TD3BCState]:
        q_state, metrics = self._critic_step(state, batch, key)
        state = TD3BCState(q_state, state.actor, state.logged)
        turn = (step + 1) % self.actor_every == 0
        state = lax.cond(turn, lambda: self.actor_step(state, batch), lambda: state)
        return state, metrics | state.logged

    def _critic_step(self, state: TD3BCState, batch: Batch, key) -> Updated[Followed[QEnsemble]]:
        see = state.actor.model.normalizer
        noise = jnp.clip(self.noise * jax.random.normal(key, batch.action.shape), -self.max_noise, self.max_noise)
        next_action = jnp.clip(state.actor.target(batch.next_obs) + noise, -1.0, 1.0)
        next_q = jnp.min(state.q.target(see(batch.next_obs), next_action), 0)
        y = backup(batch.reward, batch.mask, next_q, self.discount)

        def loss(q):
            value = q(see(batch.obs), batch.action)
            loss = jnp.sum(jnp.mean((value - y) ** 2, -1))  # over the heads
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state.q, adam(self.lr), loss)

    def actor_step(self, state: TD3BCState, batch: Batch) -> TD3BCState:
        obs = state.actor.model.normalizer(batch.obs)

        def q(action):
            return state.q.model(obs, action)[0]

        recorded = q(batch.action) if self.q_scale == "data" else None

        def loss(actor):
            action = actor(batch.obs)
            value = q(action)
            cloning = jnp.mean((action - batch.action) ** 2)
            loss = cloning - self.alpha * improvement(value, value if recorded is None else recorded)
            return loss, {"actor_loss": loss, "cloning_error": cloning}

        actor, logged = descend(state.actor, adam(self.lr), loss, ema=self.ema)
        return TD3BCState(state.q.follow(self.ema), actor, logged)

    def result(self, state: TD3BCState) -> DeterministicActor:
        return state.actor.model


TASKS: Tasks = {"antmaze-*|pointmaze-*": {"data.reward": "minus-one"}}


class TD3BC(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: TD3BCPolicy = TD3BCPolicy()

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    title: ClassVar = "TD3+BC"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,), "policy.lr": 1e-2},
        ("policy.alpha", 0.05, 0.5),
        ("policy.q_loss", "policy.cloning_error"),
    )
    presets: ClassVar = {
        "paper": TASKS,
        "authors-code": {"*": {"policy.q_scale": "policy"}} | TASKS,
        "quick": {"*": {"policy.steps": 100_000, "policy.q_scale": "policy", "policy.lr": 1e-3}} | TASKS,
    }
