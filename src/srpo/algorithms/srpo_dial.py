"""SRPO with a dial: one policy pi(s, beta) for all temperatures of a range, chosen when it acts.

Ours. SRPO (arXiv 2310.07297) trains a policy per temperature beta, which decides how far it may leave the data, and
which one is right is not known before. Here log beta is drawn per row, uniformly over the logarithm of a range, and is
one more input of the policy, scaled to [-1, 1]; everything else is SRPO's, row by row: eq. 15 with that row's beta.
At every beta its minimizer is that of the policy trained for this beta alone, as far as one network can hold them all.

`beta` is where the policy acts unless it is told; as no stage sees it, sweeping it trains nothing anew.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from srpo.algorithms.tables.srpo import TRIAL, presets
from srpo.config import setting
from srpo.core import Algorithm, Trial
from srpo.data.treatments import Treatment
from srpo.errors import ConfigError
from srpo.networks.actors import DialedActor
from srpo.policies import DialedPolicy
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.stages.iql_critic import IQLCritic
from srpo.stages.score_regularized import ScoreRegularized


class DialedPolicyStage(ScoreRegularized):
    low: float = setting(0.01, "smallest temperature: closest to the behavior's mode", "(0, inf)")
    high: float = setting(0.5, "largest temperature: closest to argmax Q", "(0, inf)")

    def actor(self, obs_size, action_size, key):
        return DialedActor(obs_size, action_size, self.hidden, key, self.low, self.high)

    def temperature(self, key, rows):
        return jnp.exp(jax.random.uniform(key, (rows, 1), minval=jnp.log(self.low), maxval=jnp.log(self.high)))

    def act(self, actor, obs, beta):
        return actor(obs, beta[:, 0])


class SRPODial(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment(reward="return-range")
    critic: IQLCritic = IQLCritic()
    behavior: DiffusionBehavior = DiffusionBehavior()
    policy: DialedPolicyStage = DialedPolicyStage()
    beta: float = setting(0.05, "temperature at which it acts unless told; within the policy's range", "(0, inf)")

    def __check_init__(self):
        low, high = self.policy.low, self.policy.high
        if isinstance(low, float) and isinstance(high, float) and not low < high:
            raise ConfigError(f"policy.low: found {low:g}, expected less than policy.high, {high:g}")
        if all(isinstance(x, float) for x in (low, high, self.beta)) and not low <= self.beta <= high:
            raise ConfigError(
                f"beta: found {self.beta:g}, expected a temperature from policy.low, {low:g}, to policy.high, {high:g}"
            )

    def make_policy(self, trained):
        return DialedPolicy(trained["policy"], self.beta)

    title: ClassVar = "SRPO (dial)"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(TRIAL, ("beta", 0.05, 0.3), ("critic.q_loss", "behavior.loss"))
    presets: ClassVar = {name: values for name, values in presets("beta").items() if name != "authors-code"}
