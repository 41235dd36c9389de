"""Policies: pytrees with one `act(obs, key)`, of one observation (obs,) or of any leading axes (..., obs).

What draws at random draws for every observation independently. A policy that fills a processor with one observation says
`in_turn = True`: an evaluation on a CPU then acts for one episode after the other, and for none that is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from srpo.diffusion.parametrization import NoiseModel
from srpo.diffusion.samplers import Sampler, posterior
from srpo.networks.actors import DeterministicActor, DialedActor, GaussianActor, SquashedGaussianActor
from srpo.networks.layers import MLP, Normalizer
from srpo.system.surroundings import in_float32


def each(act: Callable[[Array, PRNGKeyArray], Array], obs: Any, key: PRNGKeyArray) -> Float[Array, "... act"]:
    """`act(obs (obs,), key) -> (act,)` for every observation of `obs` (..., obs), each with a key of its own."""
    obs = jnp.asarray(obs)
    if obs.ndim == 1:
        return act(obs, key)
    rows = obs.reshape(math.prod(obs.shape[:-1]), obs.shape[-1])
    actions = jax.vmap(act)(rows, jax.random.split(key, len(rows)))
    return actions.reshape(*obs.shape[:-1], actions.shape[-1])


@runtime_checkable
class ActionSampler(Protocol):
    """What `BestOf` draws its candidates from."""

    def sample(self, obs: Float[Array, "... obs"], key: PRNGKeyArray, n: int) -> Float[Array, "n ... act"]: ...


@runtime_checkable
class Score(Protocol):
    """What `BestOf` chooses by: values of actions, from one or more heads."""

    def __call__(self, obs: Float[Array, "n obs"], action: Float[Array, "n act"], /) -> Float[Array, "heads n"]: ...


class Chain(NamedTuple):
    """One network from observation to action: what a policy gives as `chain` can be exported."""

    net: MLP
    normalizer: Normalizer | None = None  # of the observations
    squash: Literal["tanh", "clip"] = "tanh"  # of the last layer, to [-1, 1]
    dial: tuple[Array, Array, ScalarLike] | None = (
        None  # center and half-width of log beta, an input after the others; default beta
    )
    note: str = ""  # what whoever uses the file should know


class DeterministicPolicy(eqx.Module):
    """One forward pass of an actor network."""

    actor: DeterministicActor

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        return self.actor(jnp.asarray(obs))

    @property
    def chain(self) -> Chain:
        return Chain(self.actor.net, self.actor.normalizer)


class DialedPolicy(eqx.Module):
    """One forward pass of an actor network that knows a range of temperatures."""

    actor: DialedActor
    beta: ScalarLike = eqx.field(converter=jnp.asarray)  # at which it acts unless told; larger: closer to argmax Q

    @in_float32
    def act(
        self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None, beta: ScalarLike | None = None
    ) -> Float[Array, "... act"]:
        """`beta`, one number or one for each observation (...), counts beyond the actor's range as its nearest end."""
        at = jnp.asarray(self.beta if beta is None else beta, jnp.float32)
        return self.actor(jnp.asarray(obs), jnp.maximum(at, 0.0))  # what is below has no logarithm

    @property
    def chain(self) -> Chain:
        dial = self.actor.dial.mean.value, self.actor.dial.std.value, self.beta
        return Chain(self.actor.net, getattr(self.actor, "normalizer", None), dial=dial)


class GaussianPolicy(eqx.Module):
    """Acts with the mean of a Gaussian actor, as IQL is evaluated; `sample` draws from it."""

    actor: GaussianActor | SquashedGaussianActor

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        mean, _ = self.actor(jnp.asarray(obs))
        return self.actor.bound(mean)

    @property
    def chain(self) -> Chain:
        """Of the mean; where the last layer gives the deviations too, its half."""
        net = self.actor.net
        if isinstance(self.actor, SquashedGaussianActor):
            last = jax.tree.map(lambda x: jnp.split(x, 2, -1)[0], net.layers[-1])
            net = eqx.tree_at(lambda net: net.layers, net, (*net.layers[:-1], last))
        return Chain(net, getattr(self.actor, "normalizer", None))

    def sample(self, obs: Float[Array, "... obs"], key: PRNGKeyArray, n: int) -> Float[Array, "n ... act"]:
        mean, log_std = self.actor(obs)
        return self.actor.bound(mean + jnp.exp(log_std) * jax.random.normal(key, (n, *mean.shape)))


class DiffusionPolicy(eqx.Module):
    """Actions drawn from a diffusion model of the action given the observation."""

    model: NoiseModel
    sampler: Sampler

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        """One draw for each observation. Raises ValueError without a key."""
        if key is None:
            raise ValueError("this policy draws its action at random; give a key, as in policy.act(obs, jax.random.key(0))")
        return jnp.clip(self.sample(jnp.asarray(obs), key, 1)[0], -1.0, 1.0)

    def sample(self, obs: Float[Array, "... obs"], key: PRNGKeyArray, n: int) -> Float[Array, "n ... act"]:
        return self.sample_each(jnp.broadcast_to(obs, (n, *obs.shape)), key)

    def sample_each(self, obs: Float[Array, "... obs"], key: PRNGKeyArray) -> Float[Array, "... act"]:
        """One action for each observation; differentiable in the model."""
        shape = (*obs.shape[:-1], self.model.action_size)
        return self.sampler(lambda x, t: self.model(x, t, obs), self.model.schedule, key, shape)


class BestOf(eqx.Module):
    """Draws `n` candidates from `sampler` and takes the one that `score` prefers.

    `choice` "argmax" takes the highest value, "softmax" draws with probability proportional to exp(sharpness
    value). With `average` > 1 that many are taken (drawn without replacement) and their mean is the action.
    """

    sampler: ActionSampler
    score: Score
    n: int = eqx.field(static=True)
    choice: Literal["argmax", "softmax"] = eqx.field(static=True, default="argmax")
    sharpness: ScalarLike = eqx.field(default=1.0, converter=jnp.asarray)  # larger: closer to argmax, 0: uniform
    heads: Literal["min", "mean", "first"] = eqx.field(static=True, default="min")  # how the heads make one value
    average: int = eqx.field(static=True, default=1)

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        """Raises ValueError without a key."""
        if key is None:
            raise ValueError(
                f"this policy draws {self.n} candidates at random; give a key, as in policy.act(obs, jax.random.key(0))"
            )
        return each(self._one, obs, key)

    def _one(self, obs: Float[Array, " obs"], key: PRNGKeyArray) -> Float[Array, " act"]:
        k_sample, k_choice = jax.random.split(key)
        action = self.sampler.sample(obs, k_sample, self.n)
        value = self._value(self.score(jnp.broadcast_to(obs, (self.n, *obs.shape)), action))
        if self.choice == "softmax":  # the largest of value + Gumbel noise is a draw from the softmax
            value = jnp.asarray(self.sharpness) * value + jax.random.gumbel(k_choice, value.shape)
        chosen = jax.lax.top_k(value, self.average)[1]
        return jnp.clip(jnp.mean(action[chosen], 0), -1.0, 1.0)

    def _value(self, q: Float[Array, "heads n"]) -> Float[Array, " n"]:
        return {"min": lambda: jnp.min(q, 0), "mean": lambda: jnp.mean(q, 0), "first": lambda: q[0]}[self.heads]()


class Planner(eqx.Module):
    """Draws `plans` trajectories from a diffusion model, each step pushed towards higher predicted returns, and takes the
    first action of the one with the highest; plans anew at every call (Diffuser, arXiv 2205.09991, algorithm 1).

    As in the authors' code: the push is scale * posterior variance * gradient, `pushes` times per diffusion step and
    not at the last `free_steps`; plans are compared by their return just before the last step.
    """

    model: Any  # (x, k) -> clean x; `frame`, `schedule`, `shape`
    value: Any  # (x, k) -> return
    in_turn: ClassVar = True
    plans: int = eqx.field(static=True)
    scale: ScalarLike = eqx.field(converter=jnp.asarray)
    pushes: int = eqx.field(static=True)
    free_steps: int = eqx.field(static=True)

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]:
        """Raises ValueError without a key."""
        if key is None:
            raise ValueError("this policy draws plans at random; give a key, as in policy.act(obs, jax.random.key(0))")
        return each(self._one, obs, key)

    def _one(self, obs: Float[Array, " obs"], key: PRNGKeyArray) -> Float[Array, " act"]:
        plan, value = self.plan(obs, key)
        return jnp.clip(self.model.frame.action_of(plan[jnp.argmax(value), 0]), -1.0, 1.0)

    def plan(
        self, obs: Float[Array, " obs"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "plans horizon row"], Float[Array, " plans"]]:
        """Normalized trajectories from `obs`, and their predicted returns."""
        schedule, fix = self.model.schedule, self.model.frame.starting_from(obs)
        k_start, k_steps = jax.random.split(key)

        def step(carry, inputs):
            k, key = inputs
            x, value = jax.lax.fori_loop(0, self.pushes, lambda _, carry: self._push(carry[0], k, fix), carry)
            mean, std = posterior(schedule, k, x, self.model(x, k))
            return (fix(mean + std * jax.random.normal(key, x.shape)), value), None

        x = jax.random.normal(k_start, (self.plans, *self.model.shape))
        steps = jnp.arange(schedule.steps)[::-1], jax.random.split(k_steps, schedule.steps)
        return jax.lax.scan(step, (fix(x), jnp.zeros(self.plans)), steps)[0]

    def _push(self, x, k, fix):
        value, pull = jax.vjp(lambda x: self.value(x, k), x)
        gradient = pull(jnp.ones_like(value))[0]
        std = posterior(self.model.schedule, k, x, x)[1]
        return fix(x + jnp.where(k < self.free_steps, 0.0, self.scale * std**2) * gradient), value
