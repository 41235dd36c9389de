"""Diffusion-QL: a diffusion policy that climbs Q (Wang et al., ICLR 2023, arXiv 2208.06193).

One stage. The policy is a five-step DDPM; its loss is the denoising loss minus eta times a normalized Q of an action
drawn with gradients through all five steps. The critic's targets act with the policy's moving average.
To act, candidates are drawn from the policy itself and one is taken with probability softmax(min target Q).

Differences between the paper and the authors' code:
- the paper normalizes Q by the mean |Q| of the data's actions, the code by that of the other head on the policy's actions
  (`policy.q_scale`: presets `paper` and `authors-code`).
Of what the paper leaves open, this follows the code:
- the policy acts, not its moving average, which serves the critic's targets;
- the moving average stays at the initial weights until step 1000 and then follows every fifth step;
- their cosine decay of the learning rate advances once per 50 epochs and so changes it by 0.1 %: constant here;
- their headline scores are the best evaluation of a training; here, as everywhere, the last policy counts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import FROM_ZERO, Overrides, Tasks, setting, static
from srpo.core import Algorithm, Batch, Followed, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.parametrization import NoisePrediction, discrete_error
from srpo.diffusion.samplers import Ancestral
from srpo.diffusion.schedules import Discrete
from srpo.losses import backup, improvement
from srpo.networks.derivatives import mish
from srpo.networks.layers import QEnsemble
from srpo.networks.score import ScoreMLP
from srpo.optim import adam, clipped
from srpo.policies import BestOf, DiffusionPolicy


def sample_actions(actor, obs: Float[Array, "... obs"], key) -> Float[Array, "... act"]:
    """One action for each observation, differentiable in the actor."""
    return DiffusionPolicy(actor, Ancestral("x0")).sample_each(obs, key)


def next_value(q: Float[Array, "2 B n"]) -> Float[Array, " B"]:
    """Of n actions per next state each head takes its best; then the lower head counts (max-Q backup for n > 1)."""
    return jnp.min(jnp.max(q, -1), 0)


Model = NoisePrediction[Discrete]


class ActorCritic(eqx.Module):
    actor: Model
    q_target: QEnsemble


class State(eqx.Module):
    actor: Followed[Model]
    q: Followed[QEnsemble]


class DiffusionPolicyQ(Stage[State, Batch, ActorCritic]):
    steps: int = static(2_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers of policy and Q")
    diffusion_steps: int = static(5, "diffusion steps K")
    backup_actions: int = static(
        1, "actions per next state; each target head takes its best (max-Q backup), then the lower head counts"
    )
    q_scale: Literal["data", "policy"] = static(
        "data", "whose actions set the scale of Q: the data's, or the policy's by the other head"
    )
    ema_start: int = static(1000, "step at which the policy's moving average starts to follow", FROM_ZERO, scales=True)
    ema_every: int = static(5, "steps between updates of the policy's moving average")
    eta: float = setting(1.0, "weight of Q; larger: closer to argmax Q")
    lr: float = setting(3e-4, "learning rate of the policy (Adam)")
    lr_q: float = setting(3e-4, "learning rate of Q (Adam)")
    clip_norm: float = setting(5.0, "largest 2-norm of the gradients of policy and Q, each", "(0, inf)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q, and the policy's moving average the policy", "[0, 1]")

    def _optimizer(self, lr):
        return clipped(adam(lr), self.clip_norm)

    def init(self, data, given, key) -> State:
        k_actor, k_q = jax.random.split(key)
        obs, act = data.obs_size, data.action_size
        actor = NoisePrediction(ScoreMLP(obs, act, self.hidden, k_actor), Discrete.vp(self.diffusion_steps))
        q = QEnsemble(obs, act, self.hidden, k_q, activation=mish)
        optimize = self._optimizer
        return State(
            TrainState.create(actor, optimize(self.lr), target=True),
            TrainState.create(q, optimize(self.lr_q), target=True),
        )

    def update(self, state: State, batch: Batch, given, key, step) -> Updated[State]:
        k_critic, k_actor = jax.random.split(key)
        q, metrics = self._critic_step(state, batch, k_critic)
        actor, more = self.actor_step(state.actor, q.model, batch, k_actor)
        due = (step >= self.ema_start) & (step % self.ema_every == 0)
        return State(actor.follow(self.ema, due), q.follow(self.ema)), metrics | more

    def _critic_step(self, state: State, batch: Batch, key) -> Updated[Followed[QEnsemble]]:
        next_obs = jnp.repeat(batch.next_obs[:, None], self.backup_actions, 1)  # (B, n, obs)
        next_q = state.q.target(next_obs, sample_actions(state.actor.target, next_obs, key))  # (2, B, n)
        y = backup(batch.reward, batch.mask, next_value(next_q), self.discount)

        def loss(q):
            value = q(batch.obs, batch.action)
            loss = jnp.sum(jnp.mean((value - y) ** 2, -1))
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state.q, self._optimizer(self.lr_q), loss)

    def actor_step(self, actor: Followed[Model], q: QEnsemble, batch: Batch, key) -> Updated[Followed[Model]]:
        k_bc, k_act, k_head = jax.random.split(key, 3)
        head = jax.random.randint(k_head, (), 0, 2)
        recorded = q(batch.obs, batch.action) if self.q_scale == "data" else None

        def loss(actor):
            bc = jnp.mean(discrete_error(actor, batch.action, batch.obs, k_bc) ** 2)
            value = q(batch.obs, sample_actions(actor, batch.obs, k_act))  # (2, B)
            gain = improvement(value[head], value[1 - head] if recorded is None else recorded[head])
            return bc - self.eta * gain, {"bc_loss": bc, "improvement": gain}

        return descend(actor, self._optimizer(self.lr), loss)

    def result(self, state: State) -> ActorCritic:
        return ActorCritic(state.actor.model, state.q.target)


# eta, 2-norm of the clipped gradients, further settings (authors' main.py)
BACKUP: Overrides = {"policy.backup_actions": 10}
TABLE: dict[str, tuple[float, float, Overrides]] = {
    "halfcheetah-medium": (1.0, 9.0, {}),
    "hopper-medium": (1.0, 9.0, {}),
    "walker2d-medium": (1.0, 1.0, {}),
    "halfcheetah-medium-replay": (1.0, 2.0, {}),
    "hopper-medium-replay": (1.0, 4.0, {}),
    "walker2d-medium-replay": (1.0, 4.0, {}),
    "halfcheetah-medium-expert": (1.0, 7.0, {}),
    "hopper-medium-expert": (1.0, 5.0, {}),
    "walker2d-medium-expert": (1.0, 5.0, {}),
    "antmaze-umaze": (0.5, 2.0, {}),
    "antmaze-umaze-diverse": (2.0, 3.0, BACKUP),
    "antmaze-medium-play": (2.0, 2.0, BACKUP | {"policy.lr": 1e-3}),
    "antmaze-medium-diverse": (3.0, 1.0, BACKUP),
    "antmaze-large-play": (4.5, 10.0, BACKUP),
    "antmaze-large-diverse": (3.5, 7.0, BACKUP),
    "pen-human": (0.15, 7.0, {"policy.lr": 3e-5}),
    "pen-cloned": (0.1, 8.0, {"policy.lr": 3e-5}),
    "kitchen-complete": (0.005, 9.0, {"policy.steps": 250_000}),
    "kitchen-partial": (0.005, 10.0, {}),
    "kitchen-mixed": (0.005, 10.0, {}),
}
FAMILIES: Tasks = {
    "antmaze-*|pointmaze-*": {"data.reward": "four-centered", "policy.steps": 1_000_000},
    "pen-*": {"data.reward": "standardize", "policy.steps": 1_000_000},
    "kitchen-*": {"policy.steps": 1_000_000},
}
TASKS: Tasks = {f"{name}-v*": {"policy.eta": eta, "policy.clip_norm": norm} | more for name, (eta, norm, more) in TABLE.items()}
PAPER: Tasks = {"*": {}} | FAMILIES | TASKS
QUICK: Overrides = {"policy.steps": 30_000, "policy.lr": 1e-3, "policy.lr_q": 1e-3}


class DiffusionQL(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: DiffusionPolicyQ = DiffusionPolicyQ()
    candidates: int = static(50, "actions drawn to act, of which one is taken with probability softmax(min target Q)")

    def make_policy(self, trained):
        policy = trained["policy"]
        sampler = DiffusionPolicy(policy.actor, Ancestral("x0"))
        return BestOf(sampler, policy.q_target, self.candidates, "softmax")

    title: ClassVar = "Diffusion-QL"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        {
            "policy.steps": 30,
            "policy.batch_size": 32,
            "policy.hidden": (12,),
            "policy.diffusion_steps": 2,
            "policy.lr_q": 1e-2,
            "policy.lr": 1e-2,
            "candidates": 4,
        },
        ("policy.eta", 0.1, 1.0),
        ("policy.q_loss", "policy.bc_loss"),
    )
    renamed: ClassVar = {"policy.critic_lr": "policy.lr_q"}
    presets: ClassVar = {
        "paper": PAPER,
        "authors-code": PAPER | {"*": {"policy.q_scale": "policy"}},
        "quick": {pattern: values | {"policy.steps": 30_000} for pattern, values in PAPER.items()} | {"*": QUICK},
    }
