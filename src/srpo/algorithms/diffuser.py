"""Diffuser: planning with diffusion (Janner et al., ICML 2022, arXiv 2205.09991).

A diffusion model of windows of (action, observation) rows, and a model of the return that follows a noisy window,
whose gradient guides the sampling of plans. Every environment step plans anew and takes the first action.

As in the authors' code, where the paper is silent or differs: the model predicts the clean window, with weight 10 on
the first action; the gradient is scaled by the posterior variance and applied twice per step; halfcheetah plans 4
rows with attention. Their training script sets the value's discount to 0.99, planning needs 0.997, as here.
Differences from their code: two accumulated batches of 32 are one of 64; windows are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from srpo.config import FROM_ZERO, WIDTHS, Overrides, Tasks, setting, static
from srpo.core import Algorithm, Followed, Stage, Step, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.data.views import Window
from srpo.diffusion.schedules import Discrete, perturb
from srpo.networks.layers import Normalizer
from srpo.networks.unet import ReturnNet, TemporalUNet, check_sizes
from srpo.optim import adam
from srpo.policies import Planner

M = TypeVar("M")
X = Float[Array, "... horizon row"]


class WindowTreatment(Treatment):
    """The recorded data, and the windows that are cut from it."""

    horizon: int = static(32, "rows in a window and in a plan")
    discount: float = static(0.997, "discount per step of the returns that the value model predicts", "[0, 1]")
    penalty: float = static(100.0, "by how much the reward that ends an episode is lowered")


class Frame(eqx.Module):
    """Rows of a trajectory: normalized action, then normalized observation."""

    action: Normalizer
    obs: Normalizer

    def rows(self, action: Float[Array, "... act"], obs: Float[Array, "... obs"]) -> Float[Array, "... act+obs"]:
        return jnp.concatenate([self.action(action), self.obs(obs)], -1)

    def action_of(self, row: Float[Array, "... row"]) -> Float[Array, "... act"]:
        return self.action.undo(row[..., : self.action.mean.value.shape[-1]])

    def starting_from(self, obs: Float[Array, "... obs"]) -> Callable[[X], X]:
        """What writes `obs` into the first row of trajectories."""
        first, act = self.obs(obs), self.action.mean.value.shape[-1]
        return lambda x: x.at[..., 0, act:].set(first)


class TrajectoryModel(eqx.Module):
    """Predicts the clean trajectory from a noisy one at diffusion step k."""

    net: TemporalUNet
    frame: Frame
    schedule: Discrete = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)  # horizon, act + obs

    def __call__(self, x: X, k: Int[Array, "..."]) -> X:
        return self.net(x, k)

    def noised(self, window: Window, key) -> tuple[X, X, Int[Array, " B"], Callable[[X], X]]:
        """Clean and noisy trajectories of a minibatch, their random steps, and what fixes their first observations."""
        k_step, k_noise = jax.random.split(key)
        fix, clean = self.frame.starting_from(window.obs[:, 0]), self.frame.rows(window.action, window.obs)
        k = jax.random.randint(k_step, clean.shape[:1], 0, self.schedule.steps)
        noise = jax.random.normal(k_noise, clean.shape)
        return clean, fix(perturb(clean, noise, *self.schedule(k[:, None]))), k, fix


class Average(eqx.Module):
    """The moving average of the weights that plans."""

    rate: float = setting(0.005, "rate at which it follows the trained weights", "[0, 1]")
    every: int = static(10, "steps between two updates", scales=True)
    start: int = static(2000, "until this step it copies the trained weights", FROM_ZERO, scales=True)

    def __call__(self, state: Followed[M], step: Step) -> Followed[M]:
        rate = jnp.where(step < self.start, 1.0, self.rate)
        return state.follow(rate, due=step % self.every == 0)


def windows(dataset, width: int, multipliers: tuple[int, ...]):
    """The windows that a network of these sizes learns from. Raises DataError, ConfigError if there are none, or they do not fit."""
    dataset.require_episodes("Diffuser")
    cut = dataset.treatment
    check_sizes(cut.horizon, width, multipliers)
    return dataset.windows(cut.horizon, discount=cut.discount, penalty=cut.penalty)


class TrajectoryDiffusion(Stage[Followed[TrajectoryModel], Window, TrajectoryModel]):
    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(64, "windows per step")
    width: int = static(32, "channels of the U-Net's first level", WIDTHS)
    multipliers: tuple[int, ...] = static(
        (1, 2, 4, 8), "channels of each level, in widths; every level has half the rows of the one before"
    )
    attention: bool = static(False, "linear attention over the rows after every level")
    diffusion_steps: int = static(20, "K of the cosine schedule")
    action_weight: float = setting(10.0, "weight of the first action in the loss")
    lr: float = setting(2e-4, "learning rate (Adam)")
    average: Average = Average()

    def view(self, dataset):
        return windows(dataset, self.width, self.multipliers)

    def init(self, data, given, key) -> Followed[TrajectoryModel]:
        rows = data.table.horizon, data.action_size + data.obs_size
        net = TemporalUNet(rows[1], key, self.width, self.multipliers, self.attention)
        frame = Frame(*(Normalizer.of(data.moments(field), eps=1e-6) for field in ("action", "obs")))
        model = TrajectoryModel(net, frame, Discrete.cosine(self.diffusion_steps), rows)
        return TrainState.create(model, adam(self.lr), target=True)

    def update(self, state: Followed[TrajectoryModel], batch: Window, given, key, step) -> Updated[Followed[TrajectoryModel]]:
        clean, x, k, fix = state.model.noised(batch, key)
        weight = jnp.ones(clean.shape[1:]).at[0, : batch.action.shape[-1]].set(self.action_weight)

        def loss(model):
            value = jnp.mean(weight * (fix(model(x, k)) - clean) ** 2)
            return value, {"loss": value}

        state, metrics = descend(state, adam(self.lr), loss)
        return self.average(state, step), metrics

    def result(self, state: Followed[TrajectoryModel]) -> TrajectoryModel:
        return state.target


class ReturnModel(Stage[Followed[ReturnNet], Window, ReturnNet]):
    """Regression of the return on the noisy window."""

    needs: ClassVar = ("trajectories",)  # for its schedule and normalization

    steps: int = static(200_000, "gradient steps")
    batch_size: int = static(64, "windows per step")
    width: int = static(32, "channels of the network's first level", WIDTHS)
    multipliers: tuple[int, ...] = static((1, 2, 4, 8), "channels of each level, in widths")
    lr: float = setting(2e-4, "learning rate (Adam)")
    average: Average = Average()

    def view(self, dataset):
        return windows(dataset, self.width, self.multipliers)

    def init(self, data, given, key) -> Followed[ReturnNet]:
        horizon, channels = given["trajectories"].shape
        return TrainState.create(ReturnNet(channels, horizon, key, self.width, self.multipliers), adam(self.lr), target=True)

    def update(self, state: Followed[ReturnNet], batch: Window, given, key, step) -> Updated[Followed[ReturnNet]]:
        _, x, k, _ = given["trajectories"].noised(batch, key)

        def loss(net):
            error = net(x, k) - batch.value
            value = jnp.mean(error**2)
            return value, {"loss": value, "return": jnp.mean(batch.value)}

        state, metrics = descend(state, adam(self.lr), loss)
        return self.average(state, step), metrics

    def result(self, state: Followed[ReturnNet]) -> ReturnNet:
        return state.target


class Planning(eqx.Module):
    """How the trained models act."""

    plans: int = static(64, "plans drawn at every step, of which the best is followed")
    pushes: int = static(
        2, "pushes along the gradient of the return per diffusion step; to plan without any, set the scale to 0"
    )
    free_steps: int = static(2, "last diffusion steps without a push", FROM_ZERO)
    scale: float = setting(
        0.1, "size of a push, times the posterior variance; larger: higher predicted returns, less likely plans"
    )


CHEETAH: Overrides = {
    "data.horizon": 4,
    "trajectories.multipliers": (1, 4, 8),
    "trajectories.attention": True,
    "value.multipliers": (1, 4, 8),
    "planning.scale": 1e-3,
    "planning.free_steps": 4,
}
TASKS: Tasks = {"halfcheetah*": CHEETAH, "hopper-medium-expert*": {"planning.scale": 1e-4, "planning.free_steps": 4}}
QUICK: Overrides = {
    "trajectories.steps": 10_000,
    "trajectories.width": 16,
    "value.steps": 5_000,
    "value.width": 16,
    "planning.plans": 16,
}


class Diffuser(Algorithm):
    acts_with: ClassVar = ("trajectories", "value")

    data: WindowTreatment = WindowTreatment()
    trajectories: TrajectoryDiffusion = TrajectoryDiffusion()
    value: ReturnModel = ReturnModel()
    planning: Planning = Planning()

    def make_policy(self, trained):
        p = self.planning
        return Planner(trained["trajectories"], trained["value"], p.plans, p.scale, p.pushes, p.free_steps)

    title: ClassVar = "Diffuser"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        {
            "trajectories.steps": 30,
            "trajectories.batch_size": 32,
            "trajectories.width": 8,
            "trajectories.multipliers": (4,),
            "trajectories.diffusion_steps": 3,
            "trajectories.lr": 1e-3,
            "value.steps": 30,
            "value.batch_size": 32,
            "value.width": 8,
            "value.multipliers": (4,),
            "value.lr": 3e-3,
            "data.horizon": 4,
            "data.penalty": 1.0,
            "planning.plans": 4,
        },
        ("planning.scale", 0.0, 1.0),
        ("trajectories.loss", "value.loss"),
    )
    presets: ClassVar = {"paper": TASKS, "quick": {"*": QUICK} | TASKS}
