"""A diffusion model of the logged behavior in continuous time (SRPO, arXiv 2310.07297, eq. 13).

Differences from the paper's text, as in the authors' code: times are drawn from U(1e-3, 1), not U(0, 1), and
AdamW's weight decay is PyTorch's default 0.01. `parametrization = "preconditioned"` is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from srpo.config import WIDTHS, setting, static
from srpo.core import Alone, Batch, Stage, TrainState, Updated, descend
from srpo.diffusion.parametrization import NoisePrediction, Preconditioned, ScoreNetwork
from srpo.diffusion.schedules import VP
from srpo.networks.score import ScoreResNet
from srpo.optim import adamw

Parametrization = Literal["noise", "preconditioned"]
PARAMETRIZATIONS: dict[Parametrization, Callable[[ScoreNetwork, VP], Model]] = {
    "noise": NoisePrediction,
    "preconditioned": Preconditioned,
}


Model = NoisePrediction[VP] | Preconditioned


class DiffusionBehavior(Stage[Alone[Model], Batch, Model]):
    steps: int = static(2_000_000, "gradient steps")
    batch_size: int = static(2048, "transitions per step")
    width: int = static(256, "width of the residual network; its blocks expand it four times", WIDTHS)
    blocks: int = static(3, "residual blocks", "[1, 1000]")
    dropout: float = static(0.1, "dropout rate during training", "[0, 1)")
    parametrization: Parametrization = static(
        "noise", "what the network predicts: the noise (papers) or the denoised action (EDM preconditioning)"
    )
    lr: float = setting(3e-4, "learning rate (AdamW)")
    weight_decay: float = setting(0.01, "AdamW's decay, of every parameter")
    min_time: float = setting(1e-3, "training draws t from U(min_time, 1)", "(0, 1)")

    def init(self, data, given, key) -> Alone[Model]:
        net = ScoreResNet(data.obs_size, data.action_size, key, self.width, self.blocks, self.dropout)
        return TrainState.create(PARAMETRIZATIONS[self.parametrization](net, VP()), adamw(self.lr, self.weight_decay))

    def update(self, state: Alone[Model], batch: Batch, given, key, step) -> Updated[Alone[Model]]:
        k_time, k_noise, k_dropout = jax.random.split(key, 3)
        t = jax.random.uniform(k_time, batch.reward.shape, minval=self.min_time, maxval=1.0)
        noise = jax.random.normal(k_noise, batch.action.shape)

        def loss(model):
            error = model.error(batch.action, t, noise, batch.obs, k_dropout)
            value = jnp.mean(jnp.sum(error**2, -1))
            return value, {"loss": value}

        return descend(state, adamw(self.lr, self.weight_decay), loss)

    def result(self, state: Alone[Model]) -> Model:
        return state.model
