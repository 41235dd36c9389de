"""DTQL's KL variant: a one-step implicit policy regularized by the estimator of DMD, Diff-Instruct and VSD.

The alternative that DTQL (arXiv 2405.19690) compares with. The generator is the behavior model's network, which it
starts from, fed with noise of standard deviation 2.5; a second ("fake") denoiser is trained on its actions; the
difference of the two denoisers estimates the gradient of KL(policy || behavior). SRPO, for a deterministic policy,
needs no fake denoiser: the noise that it added is known.

The authors publish no table of alpha for this variant: DTQL's is used. The generator's output is not squashed; the
action that is chosen is clipped to [-1, 1], as theirs.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.algorithms.tables.dtql import TRIAL, presets
from srpo.config import setting, static
from srpo.core import Algorithm, Alone, Batch, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.denoising import Denoiser, matching_direction
from srpo.diffusion.parametrization import ScoreNetwork
from srpo.networks.layers import QEnsemble
from srpo.optim import adam, cosine
from srpo.policies import BestOf
from srpo.stages.trust_region import InTraining, WarmUp, levels_and_noise

SCALE = 2.5  # of the generator's noise, and the time that its network sees


class Generator(eqx.Module):
    """a = F(2.5 n, 2.5, s) with n ~ N(0, 1): the raw network, without preconditioning."""

    net: ScoreNetwork

    def __call__(self, obs: Float[Array, "... obs"], noise: Float[Array, "... act"]) -> Float[Array, "... act"]:
        return self.net(SCALE * noise, jnp.asarray(SCALE), obs)

    def sample(self, obs: Float[Array, "... obs"], key: PRNGKeyArray, n: int) -> Float[Array, "n ... act"]:
        return self(obs, jax.random.normal(key, (n, self.net.action_size)))


class State(eqx.Module):
    warm: InTraining
    generator: Alone[Generator]
    fake: Alone[Denoiser]


class ActorCritic(eqx.Module):
    generator: Generator
    q_target: QEnsemble


class KLPolicy(Stage[State, Batch, ActorCritic]):
    needs: ClassVar = ("warm_up",)

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    lr_decay: bool = static(False, "decay all learning rates to 0 along a cosine")
    alpha: float = setting(1.0, "weight of KL(policy || behavior); larger: closer to the behavior")
    lr: float = setting(3e-4, "learning rate of the policy and of the fake denoiser (Adam)")

    def init(self, data, given, key) -> State:
        warm: InTraining = given["warm_up"].state
        start, optimizer = warm.behavior.model, adam(self.lr)
        return State(warm, TrainState.create(Generator(start.net), optimizer), TrainState.create(start, optimizer))

    def update(self, state: State, batch: Batch, given, key, step) -> Updated[State]:
        k_warm, k_action, k_match, k_fake = jax.random.split(key, 4)
        decay = cosine(1.0, self.steps)(step) if self.lr_decay else 1.0
        warm, metrics = given["warm_up"].update(state.warm, batch, k_warm, decay)
        q, behavior = warm.critic.model.q, warm.behavior.model
        start = jax.random.normal(k_action, batch.action.shape)
        sigma, noise = levels_and_noise(k_match, batch.action)

        def loss(generator):
            action = generator(batch.obs, start)
            direction = matching_direction(behavior, state.fake.model, batch.obs, lax.stop_gradient(action), sigma, noise)
            value = jnp.mean(jnp.min(q(batch.obs, action), 0))
            kl = jnp.mean(direction * action)  # its gradient is the estimator's; its value means nothing
            return self.alpha * kl - value, {"direction": jnp.mean(jnp.abs(direction)), "q": value}

        generator, more = descend(state.generator, adam(decay * self.lr), loss)
        action = state.generator.model(batch.obs, start)
        fake, fakes = given["warm_up"].behavior.update(state.fake, batch.obs, action, k_fake, decay * self.lr)
        return State(warm, generator, fake), metrics | more | {"fake_loss": fakes["behavior_loss"]}

    def result(self, state: State) -> ActorCritic:
        return ActorCritic(state.generator.model, state.warm.critic.target.q)


class DTQLKL(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    warm_up: WarmUp = WarmUp()
    policy: KLPolicy = KLPolicy()
    candidates: int = static(1024, "actions drawn to act, of which one is taken with probability softmax(min target Q)")

    def make_policy(self, trained):
        policy = trained["policy"]
        return BestOf(policy.generator, policy.q_target, self.candidates, "softmax")

    title: ClassVar = "DTQL (KL)"
    acts_by: ClassVar = "candidates"
    trial: ClassVar = Trial(TRIAL, ("policy.alpha", 0.5, 5.0), ("warm_up.behavior_loss", "warm_up.q_loss"))
    presets: ClassVar = presets(antmaze={})
