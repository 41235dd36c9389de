"""Score Regularized Policy Optimization (Chen et al., ICLR 2024, arXiv 2310.07297).

Three independent stages: a critic (IQL), a diffusion model of the behavior, and a deterministic policy that
climbs the critic's gradient, regularized by the score of the behavior model (eq. 15).

Differences between the paper and the authors' code, each a setting:
- the baseline "- noise" is subtracted in the paper; the code's default does not (`policy.baseline`);
- on antmaze the paper divides the gradient of Q by its 2-norm, the code by its root mean square, which makes
  the same beta sqrt(8) = 2.83 times larger (`policy.normalize`);
- the paper scales the gradient as grad Q - (1/beta) w(...), the code as beta grad Q - w(...), as here: the
  direction is the same, only Adam's epsilon can tell;
- the code, and so this file, takes the mean of the two target heads as Q and decays the policy's learning rate
  to zero along a cosine; the paper is silent on both;
- the code cuts returns every 1000 rows to scale the rewards, which drifts across episodes (`data.reward`);
- the authors shuffle the data once per epoch; here each batch is drawn independently.
"""

from __future__ import annotations

from typing import ClassVar

from srpo.algorithms.tables.srpo import TRIAL, presets
from srpo.config import setting
from srpo.core import Algorithm, Trial
from srpo.data.treatments import Treatment
from srpo.networks.actors import DeterministicActor
from srpo.policies import DeterministicPolicy
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.stages.iql_critic import IQLCritic
from srpo.stages.score_regularized import ScoreRegularized


class ScoreRegularizedPolicy(ScoreRegularized):
    beta: float = setting(0.05, "temperature; larger: closer to argmax Q, smaller: closer to the behavior's mode")

    def actor(self, obs_size, action_size, key):
        return DeterministicActor(obs_size, action_size, self.hidden, key)

    def temperature(self, key, rows):
        return self.beta

    def act(self, actor, obs, beta):
        return actor(obs)


class SRPO(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment(reward="return-range")
    critic: IQLCritic = IQLCritic()
    behavior: DiffusionBehavior = DiffusionBehavior()
    policy: ScoreRegularizedPolicy = ScoreRegularizedPolicy()

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    title: ClassVar = "SRPO"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(TRIAL, ("policy.beta", 0.1, 0.5), ("critic.q_loss", "behavior.loss"))
    presets: ClassVar = presets("policy.beta")
