"""Actor networks: from an observation to an action in [-1, 1], or to a Gaussian over actions."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from srpo.networks.layers import MLP, Normalizer


class DeterministicActor(eqx.Module):
    """tanh of a ReLU network: an action in (-1, 1)."""

    normalizer: Normalizer
    net: MLP

    def __init__(
        self, obs: int, act: int, hidden: Sequence[int], key: PRNGKeyArray, normalizer: Normalizer | None = None, **options
    ):
        self.normalizer = Normalizer.identity(obs) if normalizer is None else normalizer
        self.net = MLP((obs, *hidden, act), key, **options)

    def __call__(self, obs: Float[Array, "... obs"]) -> Float[Array, "... act"]:
        return jnp.tanh(self.net(self.normalizer(obs)))


class DialedActor(eqx.Module):
    """A deterministic actor whose last input is log beta, scaled from the range of the dial to [-1, 1]."""

    normalizer: Normalizer
    dial: Normalizer  # of log beta, one number
    net: MLP

    def __init__(
        self, obs: int, act: int, hidden: Sequence[int], key: PRNGKeyArray, low: ScalarLike, high: ScalarLike, **options
    ):
        """`low` and `high`: the range of beta; `options` go to MLP."""
        ends = jnp.log(jnp.asarray([low, high], jnp.float32))
        self.normalizer = Normalizer.identity(obs)
        self.dial = Normalizer(jnp.mean(ends)[None], (ends[1] - ends[0])[None] / 2)
        self.net = MLP((obs + 1, *hidden, act), key, **options)

    @property
    def range(self) -> Float[Array, "2 ..."]:
        """The smallest and the largest beta."""
        return jnp.exp(self.dial.undo(jnp.asarray([-1.0, 1.0])))

    def __call__(self, obs: Float[Array, "... obs"], beta: Float[Array, "..."]) -> Float[Array, "... act"]:
        """`beta` broadcasts against the rows of `obs`; beyond the range it counts as the nearest end."""
        turn = jnp.clip(self.dial(jnp.log(beta)[..., None]), -1.0, 1.0)
        turn = jnp.broadcast_to(turn, (*obs.shape[:-1], 1))
        return jnp.tanh(self.net(jnp.concatenate([self.normalizer(obs), turn], -1)))


class GaussianActor(eqx.Module):
    """N(tanh of a ReLU network, std), the standard deviation independent of the state (IQL); actions are clipped to +-1."""

    normalizer: Normalizer
    net: MLP
    log_std: Float[Array, " act"]  # as trained; `__call__` clips it
    log_std_range: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        obs: int,
        act: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        normalizer: Normalizer | None = None,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        **options,
    ):
        """`options` go to MLP; the logarithm of the standard deviation starts at 0."""
        self.normalizer = Normalizer.identity(obs) if normalizer is None else normalizer
        self.net = MLP((obs, *hidden, act), key, **options)
        self.log_std, self.log_std_range = jnp.zeros(act), log_std_range

    def __call__(
        self, obs: Float[Array, "... obs"], rate: float = 0.0, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "... act"], Float[Array, " act"]]:
        """Mean, in (-1, 1), and log standard deviation; `key` and `rate` are for dropout."""
        mean = jnp.tanh(self.net(self.normalizer(obs), rate, key))
        return mean, jnp.clip(self.log_std, *self.log_std_range)

    def bound(self, x: Float[Array, "... act"]) -> Float[Array, "... act"]:
        """The action of a draw `x` of the Gaussian."""
        return jnp.clip(x, -1.0, 1.0)


class SquashedGaussianActor(eqx.Module):
    """tanh of N(mean, std), both from a ReLU network (BEAR, DTQL)."""

    net: MLP
    log_std_range: tuple[float, float] = eqx.field(static=True)

    def __init__(
        self,
        obs: int,
        act: int,
        hidden: Sequence[int],
        key: PRNGKeyArray,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        **options,
    ):
        """`options` go to MLP."""
        self.net, self.log_std_range = MLP((obs, *hidden, 2 * act), key, **options), log_std_range

    def __call__(self, obs: Float[Array, "... obs"]) -> tuple[Float[Array, "... act"], Float[Array, "... act"]]:
        """Mean and log standard deviation before the tanh."""
        mean, log_std = jnp.split(self.net(obs), 2, -1)
        return mean, jnp.clip(log_std, *self.log_std_range)

    def bound(self, x: Float[Array, "... act"]) -> Float[Array, "... act"]:
        """The action of a draw `x` of the Gaussian."""
        return jnp.tanh(x)
