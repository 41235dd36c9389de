"""Behavior cloning: what the data's own behavior scores when a network imitates it.

Two forms. Deterministic: mean squared error with normalized observations, as in CORL's any_percent_bc.py;
`data.best_fraction` (preset `best-10%`) clones only the episodes of the highest discounted return. Gaussian: IQL's
actor with unit weights, for a comparison with IQL in which only the weights differ.

Differences from CORL: batches are drawn independently; for `best-10%` episodes are cut where they ended or timed
out, not at terminals or every 1000 rows.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from srpo.config import Overrides, setting, static
from srpo.core import Algorithm, Alone, Batch, Given, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.networks.actors import DeterministicActor
from srpo.networks.layers import Normalizer
from srpo.optim import adam
from srpo.policies import DeterministicPolicy, GaussianPolicy
from srpo.stages.weighted_cloning import WeightedCloning


class Regression(Stage[Alone[DeterministicActor], Batch, DeterministicActor]):
    """Minimizes the mean of (pi(s) - a)^2 over rows and dimensions."""

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the policy's hidden layers")
    lr: float = setting(3e-4, "learning rate (Adam)")

    def init(self, data, given, key) -> Alone[DeterministicActor]:
        actor = DeterministicActor(data.obs_size, data.action_size, self.hidden, key, Normalizer.of(data.moments("obs")))
        return TrainState.create(actor, adam(self.lr))

    def update(self, state: Alone[DeterministicActor], batch: Batch, given, key, step) -> Updated[Alone[DeterministicActor]]:
        def loss(actor):
            value = jnp.mean((actor(batch.obs) - batch.action) ** 2)
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss)

    def result(self, state: Alone[DeterministicActor]) -> DeterministicActor:
        return state.model


class LikelihoodCloning(WeightedCloning):
    """Maximizes the likelihood of the data's actions."""

    def weight(self, given: Given, batch: Batch):
        return jnp.ones_like(batch.reward)


QUICK: Overrides = {"policy.steps": 30_000}


class BC(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: Regression = Regression()

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    title: ClassVar = "BC"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,)}, ("policy.lr", 3e-3, 1e-2), ("policy.loss",)
    )
    presets: ClassVar = {
        "paper": {},
        "best-10%": {"*": {"data.best_fraction": 0.1}},
        "quick": {"*": QUICK | {"policy.lr": 1e-3}},
    }


class GaussianBC(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment(clip_action=1 - 1e-5)
    policy: LikelihoodCloning = LikelihoodCloning()

    def make_policy(self, trained):
        return GaussianPolicy(trained["policy"])

    title: ClassVar = "BC (Gaussian)"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,)}, ("policy.lr", 1e-2, 5e-2), ("policy.loss",)
    )
    presets: ClassVar = {"paper": {}, "quick": {"*": QUICK}}
