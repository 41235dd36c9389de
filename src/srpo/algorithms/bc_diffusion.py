"""Diffusion behavior cloning: the baseline of Diffusion-QL (Wang et al., ICLR 2023, arXiv 2208.06193).

Diffusion-QL's five-step policy trained by its denoising loss alone; it acts with one draw. No difference from
the authors' code is known but the independent draws of rows, which are theirs too.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from srpo.config import Tasks, setting, static
from srpo.core import Algorithm, Alone, Batch, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.parametrization import NoisePrediction, discrete_error
from srpo.diffusion.samplers import Ancestral
from srpo.diffusion.schedules import Discrete
from srpo.networks.score import ScoreMLP
from srpo.optim import adam
from srpo.policies import DiffusionPolicy

Model = NoisePrediction[Discrete]


class DiffusionCloning(Stage[Alone[Model], Batch, Model]):
    steps: int = static(2_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers")
    diffusion_steps: int = static(5, "diffusion steps K")
    lr: float = setting(3e-4, "learning rate (Adam)")

    def init(self, data, given, key) -> Alone[Model]:
        net = ScoreMLP(data.obs_size, data.action_size, self.hidden, key)
        return TrainState.create(NoisePrediction(net, Discrete.vp(self.diffusion_steps)), adam(self.lr))

    def update(self, state: Alone[Model], batch: Batch, given, key, step) -> Updated[Alone[Model]]:
        def loss(model):
            value = jnp.mean(discrete_error(model, batch.action, batch.obs, key) ** 2)
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss)

    def result(self, state: Alone[Model]) -> Model:
        return state.model


TASKS: Tasks = {
    "*": {},
    "antmaze-*|pointmaze-*": {"policy.steps": 1_000_000},
    "antmaze-medium-play-*": {"policy.lr": 1e-3},
    "pen-*": {"policy.steps": 1_000_000, "policy.lr": 3e-5},
    "kitchen-*": {"policy.steps": 1_000_000},
    "kitchen-complete-*": {"policy.steps": 250_000},
}


class DiffusionBC(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: DiffusionCloning = DiffusionCloning()

    def make_policy(self, trained):
        return DiffusionPolicy(trained["policy"], Ancestral("x0"))

    title: ClassVar = "BC (diffusion)"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,), "policy.diffusion_steps": 2},
        ("policy.lr", 3e-3, 1e-2),
        ("policy.loss",),
    )
    presets: ClassVar = {
        "paper": TASKS,
        "quick": {pattern: values | {"policy.steps": 30_000} for pattern, values in TASKS.items()},
    }
