"""Flow Q-learning (Park, Li and Levine, ICML 2025, arXiv 2502.02538).

A flow model of the behavior is trained by flow matching. Beside it, a one-step policy from noise to action is distilled
from the flow and climbs Q, so that no gradient passes through the flow's steps. One stage; it acts with one pass.

Differences between the paper and the authors' code (seohongpark/fql), and what this file does:
- the code has one Adam for all networks and one gradient of the sum of the losses; the losses share no parameter that they
  train, so separate optimizers, as here, are the same;
- the code's target Q follows Q as it was before the step, the paper's and this file's as it is after it;
- in the code `q_agg` counts for the target alone: the policy climbs the mean of the heads in both (as here);
- the code's Q loss is the mean over rows and heads, half of the sum over heads that most codes take; as here;
- the code clips the flow's result and, in Q, the policy's action, but not the action that is distilled; as here;
- `normalize_q_loss` came with the code after the paper, which recommends it for new tasks: `policy.normalize_q`, here the
  default of data sets that no table names.
Its batches are drawn as here. Acting, the code ignores its temperature and always draws noise, as here; without a key
`act` takes the middle of the noise, zero, which is also what an exported file does.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import Overrides, Tasks, setting, static
from srpo.core import Algorithm, Alone, Batch, Followed, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.losses import backup, improvement
from srpo.networks.layers import MLP, QEnsemble
from srpo.optim import adam
from srpo.policies import Chain
from srpo.system.surroundings import in_float32


class Flow(eqx.Module):
    """The velocity v(s, x, t) that carries noise, at t = 0, to the behavior's actions, at t = 1."""

    net: MLP

    def __call__(
        self, obs: Float[Array, "... obs"], x: Float[Array, "... act"], t: Float[Array, "... 1"]
    ) -> Float[Array, "... act"]:
        return self.net(jnp.concatenate([obs, x, t], -1))

    def carry(self, obs: Float[Array, "... obs"], noise: Float[Array, "... act"], steps: int) -> Float[Array, "... act"]:
        """Actions from noise by `steps` steps of Euler's method, clipped to +- 1."""

        def step(i, x):
            return x + self(obs, x, jnp.full((*x.shape[:-1], 1), i / steps)) / steps

        return jnp.clip(lax.fori_loop(0, steps, step, noise), -1.0, 1.0)


class OneStep(eqx.Module):
    """mu(s, z): an action from an observation and noise by one pass; not clipped."""

    net: MLP

    def __call__(self, obs: Float[Array, "... obs"], noise: Float[Array, "... act"]) -> Float[Array, "... act"]:
        return self.net(jnp.concatenate([obs, noise], -1))


class OneStepPolicy(eqx.Module):
    """Draws the noise of a one-step actor and clips its action to +- 1."""

    actor: OneStep

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        """One draw for each observation; without a key the action of noise zero."""
        obs = jnp.asarray(obs)
        shape = (*obs.shape[:-1], self.actor.net.n_out)
        noise = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
        return jnp.clip(self.actor(obs, noise), -1.0, 1.0)

    @property
    def chain(self) -> Chain:
        """At noise zero, which the first layer's weights of the noise do not see."""
        net = self.actor.net
        seen = net.layers[0].weight[..., : -net.n_out, :]
        net = eqx.tree_at(lambda net: net.layers[0].weight, net, seen)
        return Chain(net, squash="clip", note="the trained policy draws noise; the file acts at noise zero, the middle of it")


class FQLState(eqx.Module):
    q: Followed[QEnsemble]
    flow: Alone[Flow]
    actor: Alone[OneStep]


class FlowPolicy(Stage[FQLState, Batch, OneStep]):
    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((512, 512, 512, 512), "widths of the hidden layers of flow, policy and Q; Q has LayerNorm")
    flow_steps: int = static(10, "steps of Euler's method from noise to the flow's action")
    heads: Literal["mean", "min"] = static("mean", "how the two target heads make one value")
    normalize_q: bool = static(
        False, "divide Q by its mean |Q| in the policy's loss, so that alpha does not depend on the rewards' unit"
    )
    alpha: float = setting(10.0, "weight of distillation against Q; larger: closer to the behavior")
    lr: float = setting(3e-4, "learning rate of flow, policy and Q (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q", "[0, 1]")

    def init(self, data, given, key) -> FQLState:
        k_q, k_flow, k_actor = jax.random.split(key, 3)
        obs, act, gelu = data.obs_size, data.action_size, jax.nn.gelu
        q = QEnsemble(obs, act, self.hidden, k_q, activation=gelu, init="xavier", norm="after", eps=1e-6)
        flow = Flow(MLP((obs + act + 1, *self.hidden, act), k_flow, gelu, "xavier"))
        actor = OneStep(MLP((obs + act, *self.hidden, act), k_actor, gelu, "xavier"))
        optimizer = adam(self.lr)
        return FQLState(
            TrainState.create(q, optimizer, target=True),
            TrainState.create(flow, optimizer),
            TrainState.create(actor, optimizer),
        )

    def update(self, state: FQLState, batch: Batch, given, key, step) -> Updated[FQLState]:
        """All three networks step from the same state."""
        k_next, k_flow, k_actor = jax.random.split(key, 3)
        q, of_q = self.critic_step(state, batch, k_next)
        flow, of_flow = self.flow_step(state.flow, batch, k_flow)
        actor, of_actor = self.actor_step(state, batch, k_actor)
        return FQLState(q, flow, actor), of_q | of_flow | of_actor

    def critic_step(self, state: FQLState, batch: Batch, key: PRNGKeyArray) -> Updated[Followed[QEnsemble]]:
        next_action = OneStepPolicy(state.actor.model).act(batch.next_obs, key)
        next_q = state.q.target(batch.next_obs, next_action)
        next_value = jnp.mean(next_q, 0) if self.heads == "mean" else jnp.min(next_q, 0)
        y = backup(batch.reward, batch.mask, next_value, self.discount)

        def loss(q):
            value = q(batch.obs, batch.action)
            loss = jnp.mean((value - y) ** 2)  # (2, B) against (B,)
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state.q, adam(self.lr), loss, ema=self.ema)

    def flow_step(self, state: Alone[Flow], batch: Batch, key: PRNGKeyArray) -> Updated[Alone[Flow]]:
        """Flow matching on straight lines from noise to the data's actions (eq. 5)."""
        k_noise, k_time = jax.random.split(key)
        noise = jax.random.normal(k_noise, batch.action.shape)
        t = jax.random.uniform(k_time, (*batch.reward.shape, 1))
        x = (1 - t) * noise + t * batch.action

        def loss(flow):
            loss = jnp.mean((flow(batch.obs, x, t) - (batch.action - noise)) ** 2)
            return loss, {"flow_loss": loss}

        return descend(state, adam(self.lr), loss)

    def actor_step(self, state: FQLState, batch: Batch, key: PRNGKeyArray) -> Updated[Alone[OneStep]]:
        """Distillation from the flow and ascent of Q (eqs. 7 and 8)."""
        noise = jax.random.normal(key, batch.action.shape)
        carried = state.flow.model.carry(batch.obs, noise, self.flow_steps)

        def loss(actor):
            action = actor(batch.obs, noise)
            distillation = jnp.mean((action - carried) ** 2)
            q = jnp.mean(state.q.model(batch.obs, jnp.clip(action, -1.0, 1.0)), 0)
            gain = improvement(q, q) if self.normalize_q else jnp.mean(q)
            return self.alpha * distillation - gain, {"distillation": distillation, "policy_q": jnp.mean(q)}

        return descend(state.actor, adam(self.lr), loss)

    def result(self, state: FQLState) -> OneStep:
        return state.actor.model


LEAST: Overrides = {"policy.heads": "min"}
LONG: Overrides = {"policy.discount": 0.995}
OGBENCH: dict[str, tuple[float, Overrides]] = {  # alpha and further settings, the same for all five tasks of an environment
    "antmaze-large-navigate": (10.0, LEAST),
    "antmaze-giant-navigate": (10.0, LEAST | LONG),
    "humanoidmaze-medium-navigate": (30.0, LONG),
    "humanoidmaze-large-navigate": (30.0, LONG),
    "antsoccer-arena-navigate": (10.0, LONG),
    "cube-single-play": (300.0, {}),
    "cube-double-play": (300.0, {}),
    "scene-play": (300.0, {}),
    "puzzle-3x3-play": (1000.0, {}),
    "puzzle-4x4-play": (1000.0, {}),
}
MAZES = {
    "antmaze-umaze": 10.0,
    "antmaze-umaze-diverse": 10.0,
    "antmaze-medium-play": 10.0,
    "antmaze-medium-diverse": 10.0,
    "antmaze-large-play": 3.0,
    "antmaze-large-diverse": 3.0,
}
HANDS = {
    "pen-human": 10_000.0,
    "pen-cloned": 10_000.0,
    "pen-expert": 3_000.0,
    "door-human": 30_000.0,
    "door-cloned": 30_000.0,
    "door-expert": 30_000.0,
    "hammer-human": 30_000.0,
    "hammer-cloned": 10_000.0,
    "hammer-expert": 30_000.0,
    "relocate-human": 10_000.0,
    "relocate-cloned": 30_000.0,
    "relocate-expert": 30_000.0,
}
MINUS_ONE: Overrides = {"data.reward": "minus-one"}
IN_TABLE: Overrides = {"policy.normalize_q": False, "data.reward": "none"}
UNKNOWN: Overrides = {"policy.normalize_q": True, "policy.alpha": 1.0}  # the authors' range for new tasks: 0.03 to 10
TASKS: Tasks = {"*": UNKNOWN, "antmaze-*|pointmaze-*": MINUS_ONE}
TASKS |= {f"*{name}-singletask-*": IN_TABLE | {"policy.alpha": alpha} | more for name, (alpha, more) in OGBENCH.items()}
for table, of_all in ((MAZES, MINUS_ONE), (HANDS, LEAST)):
    TASKS |= {
        f"{name}-v*": IN_TABLE | of_all | {"policy.alpha": alpha, "policy.steps": 500_000} for name, alpha in table.items()
    }
QUICK: Overrides = {"policy.steps": 50_000, "policy.hidden": (256, 256), "policy.lr": 1e-3}


class FQL(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment()
    policy: FlowPolicy = FlowPolicy()

    def make_policy(self, trained):
        return OneStepPolicy(trained["policy"])

    title: ClassVar = "FQL"
    acts_by: ClassVar = "one pass"
    trial: ClassVar = Trial(
        {"policy.steps": 30, "policy.batch_size": 32, "policy.hidden": (12,), "policy.flow_steps": 3, "policy.lr": 1e-2},
        ("policy.alpha", 1.0, 10.0),
        ("policy.q_loss", "policy.flow_loss"),
    )
    presets: ClassVar = {"paper": TASKS, "quick": {pattern: values | QUICK for pattern, values in TASKS.items()}}
