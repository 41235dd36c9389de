"""Score regularization (SRPO, arXiv 2310.07297, eq. 15): shared by SRPO and the dial.

A policy that climbs a critic's gradient, held back by the score of a diffusion model of the behavior. What the paper
and the authors' code do differently is said in `srpo.algorithms.srpo`.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import setting, static
from srpo.core import Alone, Batch, Stage, TrainState, Updated, descend
from srpo.diffusion.schedules import Schedule, perturb
from srpo.errors import ConfigError
from srpo.optim import adam, cosine

A = TypeVar("A")  # the actor
Weight = Literal["sigma^2", "1", "alpha/sigma"]
Normalize = Literal["2-norm", "rms"] | None

WEIGHTS = {
    "sigma^2": lambda alpha, sigma: sigma**2,
    "1": lambda alpha, sigma: jnp.ones_like(sigma),
    "alpha/sigma": lambda alpha, sigma: alpha / sigma,
}


def policy_direction(
    critic,
    behavior,
    schedule: Schedule,
    obs: Float[Array, "B obs"],
    action: Float[Array, "B act"],
    t: Float[Array, " B"],
    noise: Float[Array, "B act"],
    *,
    beta,
    weight: Weight = "sigma^2",
    baseline: bool = True,
    normalize: Normalize = None,
) -> Float[Array, "B act"]:
    """The direction in which the policy's action descends: w(t) (noise_hat - noise) - beta dQ/da (eq. 15, times -beta).

    Q is the mean of the target heads; `beta` is one number or of shape (B, 1). `normalize` divides dQ/da per row by its
    "2-norm" (paper, antmaze) or its "rms" (authors' code); a zero gradient stays zero.
    """
    alpha, sigma = schedule(t)
    noise_hat = behavior(perturb(action, noise, alpha, sigma), t, obs)
    score_term = WEIGHTS[weight](alpha, sigma)[:, None] * (noise_hat - noise if baseline else noise_hat)
    q_gradient = jax.grad(lambda a: jnp.sum(jnp.mean(critic.q_target(obs, a), 0)))(action)
    if normalize is not None:
        q_gradient = _unit(q_gradient, normalize)
    return score_term - beta * q_gradient


def _unit(gradient, normalize):
    square = jnp.sum(gradient**2, -1, keepdims=True) / (gradient.shape[-1] if normalize == "rms" else 1)
    return jnp.where(square > 0, gradient * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


class ScoreRegularized(Stage[Alone[A], Batch, A]):
    """Trains an actor along `policy_direction`; a concrete stage says which actor, and at which temperatures."""

    needs: ClassVar = ("critic", "behavior")

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "observations per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the policy's hidden layers")
    weight: Weight = static("sigma^2", "w(t) in eq. 14")
    baseline: bool = static(True, "subtract the noise from the predicted noise (eq. 15): same mean, less variance")
    normalize: Normalize = static(None, "divide the gradient of Q per row by its 2-norm or rms")
    lr: float = setting(3e-4, "learning rate (Adam), decayed to 0 along a cosine")
    min_time: float = setting(0.02, "diffusion times are drawn from U(min_time, max_time)", "(0, 1)")
    max_time: float = setting(0.98, "diffusion times are drawn from U(min_time, max_time)", "(0, 1)")

    def __check_init__(self):
        low, high = self.min_time, self.max_time
        if isinstance(low, float) and isinstance(high, float) and low > high:
            raise ConfigError(f"min_time: found {low:g}, expected at most max_time, {high:g}")

    @abc.abstractmethod
    def actor(self, obs_size: int, action_size: int, key: PRNGKeyArray) -> A:
        """The actor before its first step."""

    @abc.abstractmethod
    def temperature(self, key: PRNGKeyArray, rows: int) -> Array | float:
        """beta, for all rows of a batch or for each: (rows, 1)."""

    @abc.abstractmethod
    def act(self, actor: A, obs: Float[Array, "B obs"], beta) -> Float[Array, "B act"]:
        """The actor's actions at what `temperature` gave."""

    def init(self, data, given, key) -> Alone[A]:
        return TrainState.create(self.actor(data.obs_size, data.action_size, key), self._optimizer())

    def _optimizer(self):
        return adam(cosine(self.lr, self.steps))

    def update(self, state: Alone[A], batch: Batch, given, key, step) -> Updated[Alone[A]]:
        k_time, k_noise = jax.random.split(key)
        t = jax.random.uniform(k_time, batch.reward.shape, minval=self.min_time, maxval=self.max_time)
        noise = jax.random.normal(k_noise, batch.action.shape)
        beta = self.temperature(jax.random.fold_in(key, 2), len(batch.reward))
        critic, behavior = given["critic"], given["behavior"]

        def loss(actor):
            action = self.act(actor, batch.obs, beta)
            direction = policy_direction(
                critic,
                behavior,
                behavior.schedule,
                batch.obs,
                jax.lax.stop_gradient(action),
                t,
                noise,
                beta=beta,
                weight=self.weight,
                baseline=self.baseline,
                normalize=self.normalize,
            )
            value = jnp.mean(jnp.sum(direction * action, -1))
            return value, {"direction": jnp.mean(jnp.linalg.norm(direction, axis=-1)), "action": jnp.mean(jnp.abs(action))}

        return descend(state, self._optimizer(), loss)

    def result(self, state: Alone[A]) -> A:
        return state.model
