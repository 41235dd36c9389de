"""Implicit Q-Learning (Kostrikov, Nair and Levine, ICLR 2022, arXiv 2110.06169).

A critic that never asks for the value of an action outside the data, then a Gaussian policy by regression on the
data's actions, weighted by the exponential of their advantage.

Differences from the authors' code:
- theirs takes one step of V, policy, Q and target after another in one loop; here the policy trains after the
  critic, against its final V and target Q. The critic never sees the policy (section 4.3 of the paper), so the
  critic is the same; the weights come from a finished critic, not a moving one;
- returns for scaling rewards are cut where episodes ended or timed out; theirs are cut where consecutive
  observations differ, over D4RL's transitions: a timed-out episode lacks its last reward there, and an incomplete last
  one counts.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from srpo.algorithms.tables.critic import QUICK_CRITIC, TRIAL_CRITIC
from srpo.config import setting
from srpo.core import Algorithm, Batch, Given, Trial
from srpo.data.treatments import Treatment
from srpo.losses import advantage_weight
from srpo.networks.layers import ValueNet
from srpo.policies import GaussianPolicy
from srpo.stages.iql_critic import Critic, IQLCritic
from srpo.stages.weighted_cloning import WeightedCloning


class AdvantageWeightedPolicy(WeightedCloning):
    """Weights exp(beta (Q - V)), Q the smaller target head (eq. 7)."""

    needs: ClassVar = ("critic",)

    beta: float = setting(3.0, "inverse temperature; larger: closer to the best action of the data, 0: cloning")
    max_weight: float = setting(100.0, "weights are cut here")

    def weight(self, given: Given, batch: Batch):
        critic: Critic[ValueNet] = given["critic"]
        advantage = jnp.min(critic.q_target(batch.obs, batch.action), 0) - critic.v(batch.obs)
        return advantage_weight(advantage, self.beta, self.max_weight)


ANTMAZE = {"data.reward": "minus-one", "critic.expectile": 0.9, "policy.beta": 10.0}
SMALL_DATA = {"data.reward": "none", "policy.beta": 0.5, "policy.dropout": 0.1}  # human demonstrations
TASKS = {"antmaze-*|pointmaze-*": ANTMAZE} | {
    f"{name}-*": SMALL_DATA for name in ("kitchen", "pen", "door", "hammer", "relocate")
}


class IQL(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment(reward="return-range", clip_action=1 - 1e-5)
    critic: IQLCritic = IQLCritic(steps=1_000_000, layer_init="orthogonal sqrt2", next_value="after")
    policy: AdvantageWeightedPolicy = AdvantageWeightedPolicy()

    def make_policy(self, trained):
        return GaussianPolicy(trained["policy"])

    title: ClassVar = "IQL"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        TRIAL_CRITIC
        | {
            "critic.layer_init": "torch",  # compiled once with SRPO's
            "critic.next_value": "before",
            "policy.steps": 30,
            "policy.batch_size": 32,
            "policy.hidden": (12,),
            "policy.lr": 5e-2,
        },
        ("policy.beta", 0.5, 3.0),
        ("critic.q_loss", "policy.loss"),
    )
    presets: ClassVar = {
        "paper": TASKS,
        # docs/quick.md has what normalized observations and the rate do for a policy that regresses for so few steps
        "quick": {"*": QUICK_CRITIC | {"data.normalize_obs": True, "policy.steps": 40_000, "policy.lr": 1e-3}} | TASKS,
    }
