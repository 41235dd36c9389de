"""A learned model of what was recorded: where policies would lead if they were let loose, as far as the data can say.

An ensemble of networks predicts from observation and action how the observation changes, the reward, and whether the
episode ends. Each policy acts in it from the first states of held-out episodes for as long as an episode may last, and the
returns are not discounted: a fall that comes late counts. Where the networks disagree more than on any held-out
transition nothing is known, and nothing is promised from there on: the pessimistic model of MOReL (Kidambi et al.,
NeurIPS 2020, arXiv 2005.05951), used to evaluate. Models rank policies well where they hold (arXiv 2103.16596).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import setting, static
from srpo.core import Batch, Stage, TrainState, descend
from srpo.networks.layers import MLP, Normalizer, ensemble
from srpo.optim import adam, cosine
from srpo.runs.mapping import default_mapping


class Prediction(NamedTuple):
    """Of every member, the first axis; changes and rewards at unit scale."""

    change: Float[Array, "n ... obs"]
    reward: Float[Array, "n ..."]
    end: Float[Array, "n ..."]  # the logit of the probability that the episode ends here


class Dynamics(eqx.Module):
    """Independent networks of what one step does."""

    obs: Normalizer
    change: Normalizer
    reward: Normalizer
    members: tuple[MLP, ...]

    def __call__(self, obs: Float[Array, "... obs"], action: Float[Array, "... act"]) -> Prediction:
        x = jnp.concatenate([self.obs(obs), action], -1)
        out = jnp.stack([member(x) for member in self.members])
        return Prediction(out[..., :-2], out[..., -2], out[..., -1])

    def doubt(self, found: Prediction) -> Float[Array, "..."]:
        """How much the members disagree about the change: root mean square over its columns, in deviations of the data."""
        return jnp.sqrt(jnp.mean(jnp.var(found.change, 0), -1))


@partial(jax.jit, static_argnums=(0, 2))
def _networks(sizes: tuple[int, ...], key: PRNGKeyArray, n: int) -> tuple[MLP, ...]:
    return ensemble(sizes, key, n, activation=jax.nn.silu)


class FittedModel(Stage):
    needs: ClassVar = ("start",)  # a Dynamics

    steps: int = static(16_000, "gradient steps")
    batch_size: int = static(128, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers")
    members: int = static(5, "independent networks: where they disagree, nothing is known", "[2, 2147483647]")
    lr: float = setting(5e-3, "learning rate (Adam), decayed to 0 along a cosine")
    rows: int = static(300_000, "transitions that it is fitted to, drawn from those that were trained on if there are more")
    horizon: int = static(1000, "steps that a policy is let loose for; fewer if no episode was as long")
    starts: int = static(12, "held-out episodes from whose first states policies are let loose")

    def fresh(self, data: Batch, key: PRNGKeyArray) -> Dynamics:
        """One that has learned nothing but the scales of the data."""

        def normalizer(x, eps=1e-3):
            return Normalizer.of((jnp.mean(x, 0), jnp.std(x, 0)), eps)

        sizes = (data.obs_size + data.action_size, *self.hidden, data.obs_size + 2)
        members = _networks(sizes, key, self.members)
        change = jnp.where(data.mask[:, None] > 0, data.next_obs - data.obs, 0.0)  # what follows an end is another episode
        return Dynamics(normalizer(data.obs), normalizer(change, 1e-6), normalizer(data.reward[:, None]), members)

    def init(self, data, given, key):
        return TrainState.create(jax.tree.map(jnp.copy, given["start"]), self._optimizer(), target=True)

    def _optimizer(self):
        return adam(cosine(self.lr, self.steps))

    def update(self, state, batch, given, key, step):
        goes_on = batch.mask
        change = state.model.change(batch.next_obs - batch.obs)
        reward = state.model.reward(batch.reward[:, None])[..., 0]

        def loss(model):
            found = model(batch.obs, batch.action)
            error = goes_on * jnp.sum((found.change - change) ** 2, -1) + (found.reward - reward) ** 2
            value = jnp.sum(jnp.mean(error + optax.sigmoid_binary_cross_entropy(found.end, 1 - goes_on), -1))
            return value, {"loss": value}

        return descend(state, self._optimizer(), loss, ema=0.01)

    def result(self, state) -> Dynamics:
        return state.target


@jax.jit
def _doubts(model: Dynamics, batch: Batch) -> Float[Array, " N"]:
    return model.doubt(model(batch.obs, batch.action))


class Known(NamedTuple):
    """What was recorded, beyond which the model is not followed."""

    low: Float[Array, " obs"]
    high: Float[Array, " obs"]
    reward: Float[Array, " 2"]  # smallest and largest
    doubt: Float[Array, ""]  # the largest on held-out transitions
    unknown: Float[Array, ""]  # reward of a step of which nothing is known: none, or a bad one if there are such
    ends: Float[Array, ""]  # 1 if any episode ended by itself

    @classmethod
    def of(cls, model: Dynamics, train: Batch, held: Batch, margin: float = 0.1, bad: float = 0.05) -> Known:
        """`margin`: of its range, by which an observation may leave that of the data; `bad`: quantile of the rewards."""
        low, high = jnp.min(train.obs, 0), jnp.max(train.obs, 0)
        room = margin * (high - low)
        reward = jnp.stack([jnp.min(train.reward), jnp.max(train.reward)])
        doubt = jnp.max(_doubts(model, held))
        unknown = jnp.minimum(jnp.quantile(train.reward, bad), 0.0)
        return cls(low - room, high + room, reward, doubt, unknown, jnp.any(train.mask == 0).astype(jnp.float32))


class Imagined(NamedTuple):
    value: Float[Array, "policies n episodes"]  # return, not discounted
    known: Float[Array, "policies n episodes"]  # the steps of which it is known
    doubt: Float[Array, "policies n episodes"]  # mean over the steps before the end


@jax.jit(static_argnames="horizon")
def imagine(model: Dynamics, policies, start: Float[Array, "episodes obs"], known: Known, key: PRNGKeyArray, horizon: int):
    """What each of the policies (leading axis) comes to from each start, once in every member: `Imagined`."""
    n, size = len(model.members), len(start)

    def step(policy, carry, t):
        obs, alive, sure, total = carry
        action = policy.act(obs.reshape(n * size, -1), jax.random.fold_in(key, t)).reshape(n, size, -1)
        found = model(obs, jnp.clip(action, -1.0, 1.0))  # (n, n, episodes): what each member says of each member's episodes
        doubt = model.doubt(found)
        sure = sure * (doubt <= known.doubt)
        mine = jax.tree.map(lambda x: x[jnp.arange(n), jnp.arange(n)], found)
        reward = jnp.clip(model.reward.undo(mine.reward[..., None])[..., 0], *known.reward)
        promised = jnp.where(sure > 0, reward, known.unknown)
        total = total + alive * jnp.stack([promised, sure, doubt, jnp.ones_like(doubt)])
        obs = jnp.clip(obs + model.change.undo(mine.change), known.low, known.high)
        alive = alive * (1 - known.ends * jax.nn.sigmoid(mine.end))  # the probability that it has not ended
        return (obs, alive, sure, total), None

    def one(policy):
        ones = jnp.ones((n, size))
        first = (jnp.broadcast_to(start, (n, *start.shape)), ones, ones, jnp.zeros((4, n, size)))
        (*_, (value, steps, doubt, lived)), _ = lax.scan(lambda carry, t: step(policy, carry, t), first, jnp.arange(horizon))
        return Imagined(value, steps, doubt / lived)

    return default_mapping()(one, [True])(policies)
