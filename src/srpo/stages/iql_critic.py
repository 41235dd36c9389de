"""Implicit Q-learning's critic (Kostrikov et al., arXiv 2110.06169): the stage of SRPO and IQL; its step serves IDQL too.

Order within a step: V, then Q, then the target. SRPO's code takes V(s') before the V step of the same
iteration, IQL's and IDQL's after it: `next_value`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from srpo.config import setting, static
from srpo.core import Alone, Batch, Followed, Stage, TrainState, Updated, descend
from srpo.losses import backup, expectile
from srpo.networks.layers import Init, QEnsemble, ValueNet
from srpo.optim import adam

NextValue = Literal["before", "after"]

V = TypeVar("V", bound=Callable[[Array], Array])  # a ValueNet, or one that scales its input


class Critic(eqx.Module, Generic[V]):
    """Trained value functions: `q(obs, action)` and `q_target(obs, action)` of shape (n, ...), `v(obs)` of shape (...)."""

    q: QEnsemble
    q_target: QEnsemble
    v: V


class CriticState(eqx.Module, Generic[V]):
    q: Followed[QEnsemble]
    v: Alone[V]

    @classmethod
    def create(cls, q: QEnsemble, v: V, lr) -> CriticState[V]:
        return CriticState(TrainState.create(q, adam(lr), target=True), TrainState.create(v, adam(lr)))

    @property
    def trained(self) -> Critic[V]:
        return Critic(self.q.model, self.q.target, self.v.model)


def iql_step(
    state: CriticState[V],
    batch: Batch,
    value_loss: Callable[[Array], Array],
    lr,
    discount,
    ema,
    next_value: NextValue = "after",
) -> Updated[CriticState[V]]:
    """V down `value_loss(min target Q - V)`, then Q to r + discount V(s') (eqs. 5 and 6), then the target."""
    q = jnp.min(state.q.target(batch.obs, batch.action), 0)

    def v_loss(v):
        value = v(batch.obs)
        loss = jnp.mean(value_loss(q - value))
        return loss, {"v_loss": loss, "v": jnp.mean(value)}

    v_state, metrics = descend(state.v, adam(lr), v_loss)
    v = state.v.model if next_value == "before" else v_state.model
    y = backup(batch.reward, batch.mask, v(batch.next_obs), discount)

    def q_loss(q):
        loss = jnp.mean((q(batch.obs, batch.action) - y) ** 2)  # (2, B) against (B,)
        return loss, {"q_loss": loss}

    q_state, more = descend(state.q, adam(lr), q_loss, ema=ema)
    return CriticState(q_state, v_state), metrics | more


class IQLCritic(Stage[CriticState[ValueNet], Batch, Critic[ValueNet]]):
    steps: int = static(1_500_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the hidden layers of Q and V")
    layer_init: Init = static("torch", "initialization of the layers")
    next_value: NextValue = static("before", "V(s') before (SRPO) or after (IQL, IDQL) the V step of the same iteration")
    lr: float = setting(3e-4, "learning rate of Q and V (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q", "[0, 1]")
    expectile: float = setting(0.7, "level of the expectile; larger: closer to the maximum over the data's actions", "(0, 1)")

    def init(self, data, given, key) -> CriticState[ValueNet]:
        k_q, k_v = jax.random.split(key)
        obs, act = data.obs_size, data.action_size
        q = QEnsemble(obs, act, self.hidden, k_q, init=self.layer_init)
        return CriticState.create(q, ValueNet(obs, self.hidden, k_v, init=self.layer_init), self.lr)

    def update(self, state: CriticState[ValueNet], batch: Batch, given, key, step) -> Updated[CriticState[ValueNet]]:
        def loss(u):
            return expectile(u, self.expectile)

        return iql_step(state, batch, loss, self.lr, self.discount, self.ema, self.next_value)

    def result(self, state: CriticState[ValueNet]) -> Critic[ValueNet]:
        return state.trained
