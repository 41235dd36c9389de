"""Diffusion Trusted Q-Learning (Chen et al., NeurIPS 2024, arXiv 2405.19690).

A warm-up trains a critic and a diffusion model of the behavior; then they go on beside a one-step Gaussian policy,
whose loss is alpha times the trust-region loss, the denoising loss of its own actions under the frozen behavior
model, minus min Q. To act, many actions are drawn and one is taken with probability softmax(min target Q).

Where paper and authors' code differ is listed in `srpo.stages.trust_region`. What the paper calls entropy is the
log-likelihood of the data's actions, used on antmaze alone; as in the code it lacks the Jacobian of tanh, which does
not depend on the policy. Their moving averages of the policy are never used, and left out here.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from srpo.algorithms.tables.dtql import TRIAL, presets
from srpo.config import setting, static
from srpo.core import Algorithm, Alone, Batch, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.denoising import denoising_loss
from srpo.losses import gaussian_log_prob
from srpo.networks.actors import SquashedGaussianActor
from srpo.networks.layers import QEnsemble
from srpo.optim import adam, cosine
from srpo.policies import BestOf, GaussianPolicy
from srpo.stages.trust_region import InTraining, WarmUp, levels_and_noise


class State(eqx.Module):
    warm: InTraining
    actor: Alone[SquashedGaussianActor]


class ActorCritic(eqx.Module):
    actor: SquashedGaussianActor
    q_target: QEnsemble


class TrustRegionPolicy(Stage[State, Batch, ActorCritic]):
    needs: ClassVar = ("warm_up",)

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the policy's hidden layers")
    lr_decay: bool = static(False, "decay all learning rates to 0 along a cosine")
    alpha: float = setting(1.0, "weight of the trust region; larger: closer to the behavior's modes")
    likelihood: float = setting(0.0, "weight of the log-likelihood of the data's actions (gamma in the paper)")
    lr: float = setting(3e-4, "learning rate (Adam)")

    def init(self, data, given, key) -> State:
        actor = SquashedGaussianActor(data.obs_size, data.action_size, self.hidden, key, init="orthogonal")
        return State(given["warm_up"].state, TrainState.create(actor, adam(self.lr)))

    def update(self, state: State, batch: Batch, given, key, step) -> Updated[State]:
        k_warm, k_action, k_trust = jax.random.split(key, 3)
        decay = cosine(1.0, self.steps)(step) if self.lr_decay else 1.0
        warm, metrics = given["warm_up"].update(state.warm, batch, k_warm, decay)
        q, behavior = warm.critic.model.q, warm.behavior.model
        sigma, noise = levels_and_noise(k_trust, batch.action)
        recorded = jnp.arctanh(batch.action / 1.001)

        def loss(actor):
            mean, log_std = actor(batch.obs)
            action = actor.bound(mean + jnp.exp(log_std) * jax.random.normal(k_action, mean.shape))
            trust = jnp.mean(denoising_loss(behavior, batch.obs, action, sigma, noise))
            value = jnp.mean(jnp.min(q(batch.obs, action), 0))
            likelihood = jnp.mean(gaussian_log_prob(recorded, mean, log_std))
            return self.alpha * trust - value - self.likelihood * likelihood, {
                "trust": trust,
                "q": value,
                "likelihood": likelihood,
            }

        actor, more = descend(state.actor, adam(decay * self.lr), loss)
        return State(warm, actor), metrics | more

    def result(self, state: State) -> ActorCritic:
        return ActorCritic(state.actor.model, state.warm.critic.target.q)


class DTQL(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    warm_up: WarmUp = WarmUp()
    policy: TrustRegionPolicy = TrustRegionPolicy()
    candidates: int = static(1024, "actions drawn to act, of which one is taken with probability softmax(min target Q)")

    def make_policy(self, trained):
        policy = trained["policy"]
        return BestOf(GaussianPolicy(policy.actor), policy.q_target, self.candidates, "softmax")

    title: ClassVar = "DTQL"
    acts_by: ClassVar = "candidates"
    trial: ClassVar = Trial(
        TRIAL | {"policy.hidden": (12,)}, ("policy.alpha", 0.5, 5.0), ("warm_up.behavior_loss", "warm_up.q_loss")
    )
    presets: ClassVar = presets(antmaze={"policy.likelihood": 1.0})
