"""BEAR, bootstrapping error accumulation reduction (Kumar et al., NeurIPS 2019, arXiv 1906.00949).

Maximizes Q under the constraint that the policy's samples match the behavior's in MMD; the behavior is a
conditional VAE, fitted on the fly; the constraint is held by dual ascent. One stage, everything jointly.

There are two recipes, and both are presets. `paper` is that of the paper's authors (their release; kernels from the
commands of its README, for halfcheetah from the comment beside the kernels). `d4rl` is their later port for D4RL's
benchmark (d4rl_evaluations): it made the scores that D4RL's and all later tables quote, on the v0 data sets.
The paper's ensemble-variance penalty is off in both, and not here.

Differences from both codes: the transitions are those of `qlearning_dataset` (the release takes the first
observation of the next episode after a time-out, a plain bug; the port skips every 1000th row). Layers start as the
release's, the port has rlkit's initialization.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import Overrides, Tasks, setting, static
from srpo.core import Algorithm, Alone, Batch, Followed, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.losses import backup, mmd
from srpo.networks.actors import SquashedGaussianActor
from srpo.networks.layers import MLP, QEnsemble
from srpo.optim import adam
from srpo.policies import BestOf, GaussianPolicy


class BehaviorVAE(eqx.Module):
    """A conditional VAE of the data's actions; its latent has twice their size. Decodes to actions before the tanh."""

    encoder: MLP
    decoder: MLP

    def __init__(self, obs, act, hidden, key):
        k_encoder, k_decoder = jax.random.split(key)
        self.encoder = MLP((obs + act, *hidden, 4 * act), k_encoder)
        self.decoder = MLP((obs + 2 * act, *hidden, act), k_decoder)

    def encode(self, obs, action):
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([obs, action], -1)), 2, -1)
        return mean, jnp.clip(log_std, -4.0, 15.0)

    def decode(self, obs, z):
        return self.decoder(jnp.concatenate([obs, z], -1))

    def loss(self, obs, action, noise):
        """Mean squared error of the reconstruction plus half the mean KL divergence per latent dimension."""
        mean, log_std = self.encode(obs, action)
        error = jnp.mean((jnp.tanh(self.decode(obs, mean + jnp.exp(log_std) * noise)) - action) ** 2)
        kl = -0.5 * jnp.mean(1 + 2 * log_std - mean**2 - jnp.exp(2 * log_std))
        return error + 0.5 * kl, {"vae_error": error, "vae_kl": kl}


class ActorCritic(eqx.Module):
    actor: SquashedGaussianActor
    q: QEnsemble


class BEARState(eqx.Module):
    vae: Alone[BehaviorVAE]
    q: Followed[QEnsemble]
    actor: TrainState[SquashedGaussianActor, SquashedGaussianActor | None]
    log_multiplier: Alone[Array]


def repeat(obs: Float[Array, "B obs"], n: int) -> Float[Array, "n B obs"]:
    return jnp.broadcast_to(obs, (n, *obs.shape))


def pessimistic(q: Float[Array, "heads ..."]) -> Float[Array, "..."]:
    """0.75 min + 0.25 max over the heads."""
    return 0.75 * jnp.min(q, 0) + 0.25 * jnp.max(q, 0)


LOG_STD = {"free": (-math.inf, math.inf), "-5 to 2": (-5.0, 2.0)}


class BEARPolicy(Stage[BEARState, Batch, ActorCritic]):
    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(100, "transitions per step")
    hidden: tuple[int, ...] = static((400, 300), "widths of the hidden layers of Q and policy")
    vae_hidden: tuple[int, ...] = static((750, 750), "widths of the VAE's hidden layers")
    target_actor: bool = static(True, "next actions from a moving average of the actor, not from the actor")
    next_actions: int = static(10, "next actions per state; the best one is backed up")
    match_actions: int = static(5, "samples of policy and VAE from which their MMD is estimated")
    kernel: Literal["laplacian", "gaussian"] = static("laplacian", "kernel of the MMD")
    q_samples: Literal["all", "first"] = static("all", "samples over which the actor's loss averages Q")
    actor_q: Literal["after", "before"] = static("after", "the actor climbs Q after (release) or before (port) Q's own step")
    log_std: Literal["free", "-5 to 2"] = static("free", "bounds of the policy's log standard deviation, before the tanh")
    random_multiplier: bool = static(True, "start the log multiplier from N(0, 1), not 0")
    sigma: float = setting(10.0, "width of the kernel", "(0, inf)")
    threshold: float = setting(0.05, "MMD that the constraint allows; larger: further from the behavior")
    warmup: float = setting(20_000.0, "first steps of the actor without Q, to match the behavior only", scales=True)
    max_noise: float = setting(0.5, "clips the noise of the policy's samples in the actor's loss (100: not at all)")
    lr_actor: float = setting(1e-3, "learning rate of the policy (Adam)")
    lr_q: float = setting(1e-3, "learning rate of Q (Adam)")
    lr_vae: float = setting(1e-3, "learning rate of the VAE (Adam)")
    lr_dual: float = setting(1e-3, "learning rate of the log multiplier (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the targets follow", "[0, 1]")

    def init(self, data, given, key) -> BEARState:
        k_vae, k_q, k_actor, k_dual = jax.random.split(key, 4)
        obs, act = data.obs_size, data.action_size
        log_multiplier = jax.random.normal(k_dual) if self.random_multiplier else jnp.zeros(())
        actor = SquashedGaussianActor(obs, act, self.hidden, k_actor, log_std_range=LOG_STD[self.log_std])
        return BEARState(
            TrainState.create(BehaviorVAE(obs, act, self.vae_hidden, k_vae), adam(self.lr_vae)),
            TrainState.create(QEnsemble(obs, act, self.hidden, k_q), adam(self.lr_q), target=True),
            TrainState.create(actor, adam(self.lr_actor), target=self.target_actor),
            TrainState.create(log_multiplier, adam(self.lr_dual)),
        )

    def update(self, state: BEARState, batch: Batch, given, key, step) -> Updated[BEARState]:
        k_vae, k_next, k_actor = jax.random.split(key, 3)
        noise = jax.random.normal(k_vae, (*batch.reward.shape, 2 * batch.action.shape[-1]))
        vae, of_vae = descend(state.vae, adam(self.lr_vae), lambda vae: vae.loss(batch.obs, batch.action, noise))
        q, of_q = self._critic_step(state, batch, k_next)
        climbed = q.model if self.actor_q == "after" else state.q.model
        actor, of_actor = self.actor_step(state.actor, vae.model, climbed, state.log_multiplier.model, batch, k_actor, step)
        dual, of_dual = self.dual_step(state.log_multiplier, of_actor["mmd"])
        return BEARState(vae, q, actor, dual), of_vae | of_q | of_actor | of_dual

    def _critic_step(self, state: BEARState, batch: Batch, key) -> Updated[Followed[QEnsemble]]:
        actor = state.actor.model if state.actor.target is None else state.actor.target
        mean, log_std = actor(batch.next_obs)
        next_action = jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, (self.next_actions, *mean.shape)))
        next_q = pessimistic(state.q.target(repeat(batch.next_obs, self.next_actions), next_action))  # (n, B)
        y = backup(batch.reward, batch.mask, jnp.max(next_q, 0), self.discount)

        def loss(q):
            value = q(batch.obs, batch.action)
            loss = jnp.sum(jnp.mean((value - y) ** 2, -1))  # over the heads
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state.q, adam(self.lr_q), loss, ema=self.ema)

    def actor_step(self, state, vae, q, log_multiplier, batch, key, step):
        k_vae, k_actor = jax.random.split(key)
        shape = (self.match_actions, *batch.action.shape)
        z = jnp.clip(jax.random.normal(k_vae, (*shape[:-1], 2 * shape[-1])), -0.5, 0.5)
        behavior = vae.decode(repeat(batch.obs, self.match_actions), z)  # (n, B, act) before the tanh
        noise = jnp.clip(jax.random.normal(k_actor, shape), -self.max_noise, self.max_noise)
        n_valued = self.match_actions if self.q_samples == "all" else 1

        def loss(actor):
            mean, log_std = actor(batch.obs)
            raw = mean + jnp.exp(log_std) * noise
            distance = jnp.mean(mmd(jnp.moveaxis(behavior, 0, 1), jnp.moveaxis(raw, 0, 1), self.sigma, self.kernel))
            value = jnp.mean(q(repeat(batch.obs, n_valued), jnp.tanh(raw[:n_valued])), 1)  # (heads, B)
            gain = jnp.where(step < self.warmup, 0.0, jnp.mean(jnp.min(value, 0)))
            return jnp.exp(log_multiplier) * distance - gain, {"mmd": distance}

        return descend(state, adam(self.lr_actor), loss, ema=self.ema if self.target_actor else None)

    def dual_step(self, state: Alone[Array], distance) -> Updated[Alone[Array]]:
        def loss(log_multiplier):
            return -jnp.exp(log_multiplier) * (distance - self.threshold), {"multiplier": jnp.exp(log_multiplier)}

        state, metrics = descend(state, adam(self.lr_dual), loss)
        return TrainState(jnp.clip(state.model, -5.0, 10.0), None, state.opt_state), metrics

    def result(self, state: BEARState) -> ActorCritic:
        return ActorCritic(state.actor.model, state.q.model)


RELEASE: Tasks = {"walker2d-*": {"policy.kernel": "gaussian", "policy.sigma": 20.0}}
PORT: Overrides = {
    "policy.steps": 3_000_000,
    "policy.batch_size": 256,
    "policy.hidden": (256, 256),
    "policy.target_actor": False,
    "policy.match_actions": 4,
    "policy.q_samples": "first",
    "policy.actor_q": "before",
    "policy.log_std": "-5 to 2",
    "policy.random_multiplier": False,
    "policy.warmup": 40_000.0,
    "policy.max_noise": 100.0,
    "policy.lr_actor": 1e-4,
    "policy.lr_q": 3e-4,
    "policy.lr_vae": 3e-4,
    "policy.kernel": "gaussian",
    "policy.sigma": 50.0,
    "candidates": 100,
}
PORT_TASKS: Tasks = {
    "halfcheetah-*": {"policy.sigma": 20.0},
    "hopper-*": {"policy.kernel": "laplacian", "policy.sigma": 20.0},
    "walker2d-*": {"policy.kernel": "laplacian", "policy.sigma": 20.0},
}
QUICK: Overrides = {  # rates by experiment, three times the port's: docs/quick.md
    "policy.steps": 50_000,
    "policy.warmup": 5_000.0,
    "policy.vae_hidden": (256, 256),  # the wide one is most of a step
    "policy.lr_actor": 3e-4,
    "policy.lr_q": 1e-3,
    "policy.lr_vae": 1e-3,
    "policy.lr_dual": 3e-3,
}


class BEAR(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: BEARPolicy = BEARPolicy()
    candidates: int = static(10, "actions drawn to act; the one with the highest first head of Q is taken")

    def make_policy(self, trained):
        actor, q = trained["policy"].actor, trained["policy"].q
        return BestOf(GaussianPolicy(actor), q, self.candidates, heads="first")

    title: ClassVar = "BEAR"
    acts_by: ClassVar = "candidates"
    trial: ClassVar = Trial(
        {
            "policy.steps": 30,
            "policy.batch_size": 32,
            "policy.hidden": (12,),
            "policy.vae_hidden": (12,),
            "policy.next_actions": 3,
            "policy.match_actions": 3,
            "policy.warmup": 20,
            "policy.lr_vae": 1e-2,
            "policy.lr_q": 1e-2,
            "candidates": 3,
        },
        ("policy.threshold", 0.05, 0.5),
        ("policy.vae_error", "policy.q_loss"),
    )
    presets: ClassVar = {
        "paper": RELEASE,
        "d4rl": {"*": PORT} | PORT_TASKS,
        "quick": {"*": PORT | QUICK} | PORT_TASKS,
    }
