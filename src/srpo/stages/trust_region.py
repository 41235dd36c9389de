"""What DTQL (Chen et al., NeurIPS 2024, arXiv 2405.19690) and its KL variant share.

A critic by implicit Q-learning and a one-network diffusion model of the behavior, trained together on the same
batches: first alone (`WarmUp`), then beside the policy (`Continued`), as the stage of the policy calls them.

Difference between the paper and the authors' code: V regresses on the target Q in the paper, as in IQL, on the Q in
training in the code, where the target then serves to act only (`warm_up.critic.v_from`: presets `paper` and
`authors-code`). Of what the paper leaves open, this follows the code: one Adam trains Q and V together, from the same
state; the behavior model's denoised action is clipped in the loss, and its first layer has no activation.
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import setting, static
from srpo.core import Alone, Batch, Followed, Stage, TrainState, Updated, descend
from srpo.diffusion.denoising import Denoiser, denoising_loss
from srpo.diffusion.edm import draw_sigma
from srpo.errors import ConfigError
from srpo.losses import backup, expectile
from srpo.networks.derivatives import mish
from srpo.networks.layers import QEnsemble, ValueNet
from srpo.networks.score import ScoreMLP
from srpo.optim import adam


class Values(eqx.Module):
    q: QEnsemble
    v: ValueNet


class JointCritic(eqx.Module):
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers of Q and V; Q has LayerNorm")
    v_from: Literal["target", "online"] = static(
        "target", "which Q the expectile V is of: the moving average or the one in training"
    )
    lr: float = setting(3e-4, "learning rate of Q and V (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q", "[0, 1]")
    expectile: float = setting(0.7, "level of the expectile; larger: closer to the maximum over the data's actions", "(0, 1)")

    def init(self, data, key) -> Followed[Values]:
        k_q, k_v = jax.random.split(key)
        obs, act = data.obs_size, data.action_size
        q = QEnsemble(obs, act, self.hidden, k_q, activation=mish, norm="before")
        return TrainState.create(Values(q, ValueNet(obs, self.hidden, k_v, activation=mish)), adam(self.lr), target=True)

    def update(self, state: Followed[Values], batch: Batch, lr) -> Updated[Followed[Values]]:
        def loss(values):
            q, v = values.q(batch.obs, batch.action), values.v(batch.obs)
            least = jnp.min(state.target.q(batch.obs, batch.action) if self.v_from == "target" else lax.stop_gradient(q), 0)
            v_loss = jnp.mean(expectile(least - v, self.expectile))
            y = backup(batch.reward, batch.mask, lax.stop_gradient(values.v(batch.next_obs)), self.discount)
            q_loss = jnp.sum(jnp.mean((q - y) ** 2, -1))
            return v_loss + q_loss, {"v_loss": v_loss, "q_loss": q_loss, "v": jnp.mean(v)}

        return descend(state, adam(lr), loss, ema=self.ema)


class DenoisedBehavior(eqx.Module):
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers")
    lr: float = setting(3e-4, "learning rate (Adam)")

    def __check_init__(self):
        if not self.hidden:
            raise ConfigError("hidden: found none, expected one or more: the first one has no activation")

    def init(self, data, key) -> Alone[Denoiser]:
        net = ScoreMLP(data.obs_size, data.action_size, self.hidden, key, linear_input=True)
        return TrainState.create(Denoiser(net), adam(self.lr))

    def update(
        self, state: Alone[Denoiser], obs: Float[Array, "B obs"], action: Float[Array, "B act"], key: PRNGKeyArray, lr
    ) -> Updated[Alone[Denoiser]]:
        sigma, noise = levels_and_noise(key, action)

        def loss(denoiser):
            value = jnp.mean(denoising_loss(denoiser, obs, action, sigma, noise))
            return value, {"behavior_loss": value}

        return descend(state, adam(lr), loss)


def levels_and_noise(key: PRNGKeyArray, action: Float[Array, "B act"]) -> tuple[Float[Array, " B"], Float[Array, "B act"]]:
    """Noise levels of the training's law, one per row, and standard noise."""
    k_sigma, k_noise = jax.random.split(key)
    return draw_sigma(k_sigma, action.shape[:-1]), jax.random.normal(k_noise, action.shape)


class InTraining(eqx.Module):
    """Critic and behavior model in training."""

    critic: Followed[Values]
    behavior: Alone[Denoiser]


class Continued(eqx.Module):
    """What the warm-up leaves: how its parts are trained on, and their states."""

    critic: JointCritic
    behavior: DenoisedBehavior
    state: InTraining

    def update(self, state: InTraining, batch: Batch, key: PRNGKeyArray, decay=1.0) -> Updated[InTraining]:
        """One step of both; `decay` scales their learning rates."""
        critic, metrics = self.critic.update(state.critic, batch, decay * self.critic.lr)
        behavior, more = self.behavior.update(state.behavior, batch.obs, batch.action, key, decay * self.behavior.lr)
        return InTraining(critic, behavior), metrics | more


class WarmUp(Stage[InTraining, Batch, Continued]):
    steps: int = static(50_000, "gradient steps before the policy's, which go on training both", scales=True)
    batch_size: int = static(256, "transitions per step")
    critic: JointCritic = JointCritic()
    behavior: DenoisedBehavior = DenoisedBehavior()

    def init(self, data, given, key) -> InTraining:
        k_critic, k_behavior = jax.random.split(key)
        return InTraining(self.critic.init(data, k_critic), self.behavior.init(data, k_behavior))

    def update(self, state: InTraining, batch: Batch, given, key, step) -> Updated[InTraining]:
        return self.result(state).update(state, batch, key)

    def result(self, state: InTraining) -> Continued:
        return Continued(self.critic, self.behavior, state)
