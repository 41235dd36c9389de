"""ReBRAC (Tarasov et al., NeurIPS 2023, arXiv 2305.09836): TD3+BC with what later work found to matter.

A cloning penalty in the actor's loss and another one in the critic's target, each with its own weight; LayerNorm in the
critic, three hidden layers, large batches, and on antmaze a discount of 0.999. One stage, Q and actor jointly.

Of what the paper's equations leave open, this follows the authors' code (tinkoff-ai/ReBRAC; CORL's is the same): the actor
climbs the lower head, divided by its mean absolute value, where TD3+BC takes the first; penalties are squared norms, where
TD3+BC's is a mean over dimensions; the critic's is of the target's action with its noise; LayerNorm follows the activation;
hidden biases start at 0.1 and last layers within +- 0.001 (actor) and +- 0.003 (Q), as EDAC's.
Differences from the code:
- the code's target actor follows the actor as it was before the step, this one as it is after it (TD3's);
- the code's schedule of the actor's steps starts anew every 1000 steps, which is the same for a period of 2.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import Overrides, Tasks, setting, static
from srpo.core import Algorithm, Batch, Followed, Metrics, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import RewardTreatment, Treatment, affine, register_reward
from srpo.losses import backup, improvement
from srpo.networks.actors import DeterministicActor
from srpo.networks.layers import MLP, QEnsemble
from srpo.optim import adam
from srpo.policies import DeterministicPolicy

register_reward("times-100", RewardTreatment("100 r (ReBRAC on antmaze)", affine(100)))


def as_edac(net: MLP, last: float, key: PRNGKeyArray) -> MLP:
    """`net` with hidden biases of 0.1 and its last layer drawn from U(-last, last)."""
    layers = [eqx.tree_at(lambda layer: layer.bias, layer, jnp.full_like(layer.bias, 0.1)) for layer in net.layers]
    k_weight, k_bias = jax.random.split(key)
    weight = jax.random.uniform(k_weight, net.layers[-1].weight.shape, minval=-last, maxval=last)
    bias = jax.random.uniform(k_bias, net.layers[-1].bias.shape, minval=-last, maxval=last)
    layers[-1] = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layers[-1], (weight, bias))
    return eqx.tree_at(lambda net: net.layers, net, tuple(layers))


def distance(a: Float[Array, "B act"], b: Float[Array, "B act"]) -> Float[Array, " B"]:
    """Squared 2-norm of the difference of two actions."""
    return jnp.sum((a - b) ** 2, -1)


class ReBRACState(eqx.Module):
    q: Followed[QEnsemble]
    actor: Followed[DeterministicActor]
    logged: Metrics  # of the last step of the actor


class PenalizedPolicy(Stage[ReBRACState, Batch, DeterministicActor]):
    steps: int = static(1_000_000, "gradient steps of the critic")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers of Q and policy; Q has LayerNorm")
    actor_every: int = static(2, "the actor and both targets move at every n-th step, beginning with the first")
    actor_penalty: float = setting(0.01, "beta_1: weight of cloning in the actor's loss; larger: closer to the data's actions")
    critic_penalty: float = setting(0.01, "beta_2: what the next action's distance from the data's takes from its value")
    lr_actor: float = setting(1e-3, "learning rate of the policy (Adam)")
    lr_q: float = setting(1e-3, "learning rate of Q (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the targets follow", "[0, 1]")
    noise: float = setting(0.2, "standard deviation of the noise on the target's action")
    max_noise: float = setting(0.5, "the noise is clipped here")

    def view(self, dataset):
        return dataset.sarsa

    def init(self, data, given, key) -> ReBRACState:
        k_q, k_actor, *k_last = jax.random.split(key, 5)
        obs, act = data.obs_size, data.action_size
        q = QEnsemble(obs, act, self.hidden, k_q, norm="after", eps=1e-6)
        members = tuple(as_edac(member, 3e-3, k) for member, k in zip(q.members, k_last[:2], strict=True))
        q = eqx.tree_at(lambda q: q.members, q, members)
        actor = DeterministicActor(obs, act, self.hidden, k_actor)
        actor = eqx.tree_at(lambda actor: actor.net, actor, as_edac(actor.net, 1e-3, k_last[2]))
        logged = {"actor_loss": jnp.zeros(()), "cloning_error": jnp.zeros(())}
        return ReBRACState(
            TrainState.create(q, adam(self.lr_q), target=True),
            TrainState.create(actor, adam(self.lr_actor), target=True),
            logged,
        )

    def update(self, state: ReBRACState, batch: Batch, given, key, step) -> Updated[ReBRACState]:
        q, metrics = self.critic_step(state, batch, key)
        state = ReBRACState(q, state.actor, state.logged)
        state = lax.cond(step % self.actor_every == 0, lambda: self.actor_step(state, batch), lambda: state)
        return state, metrics | state.logged

    def critic_step(self, state: ReBRACState, batch: Batch, key: PRNGKeyArray) -> Updated[Followed[QEnsemble]]:
        assert batch.next_action is not None  # the view has it
        noise = jnp.clip(self.noise * jax.random.normal(key, batch.action.shape), -self.max_noise, self.max_noise)
        next_action = jnp.clip(state.actor.target(batch.next_obs) + noise, -1.0, 1.0)
        next_q = jnp.min(state.q.target(batch.next_obs, next_action), 0)
        next_value = next_q - self.critic_penalty * distance(next_action, batch.next_action)
        y = backup(batch.reward, batch.mask, next_value, self.discount)

        def loss(q):
            value = q(batch.obs, batch.action)
            loss = jnp.sum(jnp.mean((value - y) ** 2, -1))  # over the heads
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state.q, adam(self.lr_q), loss)

    def actor_step(self, state: ReBRACState, batch: Batch) -> ReBRACState:
        def loss(actor):
            action = actor(batch.obs)
            value = jnp.min(state.q.model(batch.obs, action), 0)
            cloning = jnp.mean(distance(action, batch.action))
            loss = self.actor_penalty * cloning - improvement(value, value)
            return loss, {"actor_loss": loss, "cloning_error": cloning}

        actor, logged = descend(state.actor, adam(self.lr_actor), loss, ema=self.ema)
        return ReBRACState(state.q.follow(self.ema), actor, logged)

    def result(self, state: ReBRACState) -> DeterministicActor:
        return state.actor.model


BETAS = {  # beta_1 (actor), beta_2 (critic): the authors' configurations
    "halfcheetah-random": (0.001, 0.1),
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-expert": (0.01, 0.01),
    "halfcheetah-medium-expert": (0.01, 0.1),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-full-replay": (0.001, 0.1),
    "hopper-random": (0.001, 0.01),
    "hopper-medium": (0.01, 0.01),
    "hopper-expert": (0.1, 0.1),
    "hopper-medium-expert": (0.1, 0.01),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-full-replay": (0.01, 0.01),
    "walker2d-random": (0.01, 0.0),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-expert": (0.01, 0.5),
    "walker2d-medium-expert": (0.01, 0.01),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-full-replay": (0.01, 0.01),
    "antmaze-umaze": (0.003, 0.002),
    "antmaze-umaze-diverse": (0.003, 0.001),
    "antmaze-medium-play": (0.001, 0.0005),
    "antmaze-medium-diverse": (0.001, 0.0),
    "antmaze-large-play": (0.002, 0.001),
    "antmaze-large-diverse": (0.002, 0.002),
    "pen-human": (0.1, 0.5),
    "pen-cloned": (0.05, 0.5),
    "pen-expert": (0.01, 0.01),
    "door-human": (0.1, 0.1),
    "door-cloned": (0.01, 0.1),
    "door-expert": (0.05, 0.01),
    "hammer-human": (0.01, 0.5),
    "hammer-cloned": (0.1, 0.5),
    "hammer-expert": (0.01, 0.01),
    "relocate-human": (0.1, 0.01),
    "relocate-cloned": (0.1, 0.01),
    "relocate-expert": (0.05, 0.01),
}
LARGE: Overrides = {"policy.batch_size": 1024}
MAZE: Overrides = {
    "data.reward": "times-100",
    "policy.discount": 0.999,
    "policy.lr_actor": 3e-4,
    "policy.lr_q": 5e-5,
    "policy.actor_penalty": 0.002,
    "policy.critic_penalty": 0.001,
}
SLOW: Overrides = {"policy.lr_actor": 3e-4, "policy.lr_q": 3e-4}
TASKS: Tasks = {
    "halfcheetah-*|hopper-*|walker2d-*": LARGE,
    "antmaze-*|pointmaze-*": MAZE,
    "pen-*|door-*|hammer-*|relocate-*": SLOW,
}
TASKS |= {f"{name}-v*": {"policy.actor_penalty": one, "policy.critic_penalty": two} for name, (one, two) in BETAS.items()}
QUICK: Overrides = {"policy.steps": 50_000, "policy.batch_size": 256}


class ReBRAC(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: PenalizedPolicy = PenalizedPolicy()

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    title: ClassVar = "ReBRAC"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,), "policy.lr_actor": 1e-2, "policy.lr_q": 1e-2},
        ("policy.actor_penalty", 1.0, 10.0),
        ("policy.q_loss", "policy.cloning_error"),
    )
    presets: ClassVar = {"paper": TASKS, "quick": {"*": QUICK} | {pattern: values | QUICK for pattern, values in TASKS.items()}}
