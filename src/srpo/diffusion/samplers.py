"""Ancestral (DDPM) sampling of discrete diffusions, in the two forms that the papers' codes use.

Diffusion-QL and Diffuser go through the posterior of x_{k-1} given x_k and a predicted x_0, and may clip x_0;
IDQL takes a larger variance and clips x itself. Steps are counted k = K-1 .. 0; no noise is added at k = 0.
Everything is differentiable; a clip passes no gradient where it saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from srpo.config import static
from srpo.diffusion.schedules import Discrete

X = Float[Array, "..."]
Step = Int[Array, ""] | int


def clean(schedule: Discrete, k: Step, x: X, noise: X) -> X:
    """x_0 from the predicted noise: (x_k - sigma noise) / alpha."""
    alpha, sigma = schedule(k)
    return (x - sigma * noise) / alpha


def posterior(schedule: Discrete, k: Step, x: X, x0: X) -> tuple[X, Float[Array, ""]]:
    """Mean and standard deviation of x_{k-1} given x_k and x_0 (Ho et al., arXiv 2006.11239, eq. 7); the deviation is 0 at k = 0."""
    beta, bar = np.array(schedule.beta), schedule.alpha_bar
    before = np.concatenate([[1.0], bar[:-1]])
    of_x0, of_x = beta * np.sqrt(before) / (1 - bar), (1 - before) * np.sqrt(1 - beta) / (1 - bar)
    std = np.sqrt(beta * (1 - before) / (1 - bar))
    return jnp.asarray(of_x0)[k] * x0 + jnp.asarray(of_x)[k] * x, jnp.asarray(std)[k]


def ddpm(denoise: Callable[[X, Step], X], schedule: Discrete, x: X, key: PRNGKeyArray) -> X:
    """From x ~ N(0, 1) to a sample, through the posterior (Diffusion-QL, Diffuser); `denoise(x, k)` predicts x_0."""

    def step(x, k, noise):
        mean, std = posterior(schedule, k, x, denoise(x, k))
        return mean + std * noise

    return _ancestral(step, schedule, x, key)


def ddpm_clipped(predict_noise: Callable[[X, Step], X], schedule: Discrete, x: X, key: PRNGKeyArray, clip: float = 1.0) -> X:
    """From x ~ N(0, 1) to a sample with variance beta_k and x clipped to +- `clip` after every step (IDQL)."""

    def step(x, k, noise):
        beta = jnp.asarray(schedule.beta)[k]
        mean = (x - beta / schedule(k)[1] * predict_noise(x, k)) / jnp.sqrt(1 - beta)
        return jnp.clip(mean + jnp.where(k > 0, jnp.sqrt(beta), 0.0) * noise, -clip, clip)

    return _ancestral(step, schedule, x, key)


def _ancestral(step, schedule, x, key):
    def body(x, inputs):
        k, key = inputs
        return step(x, k, jax.random.normal(key, x.shape, x.dtype)), None

    steps = jnp.arange(schedule.steps)[::-1], jax.random.split(key, schedule.steps)
    return jax.lax.scan(body, x, steps)[0]


@runtime_checkable
class Sampler(Protocol):
    """Draws actions of a shape from predict_noise(x, t) and the schedule by which they were noised."""

    def __call__(
        self, predict_noise: Callable[..., X], schedule: Any, key: PRNGKeyArray, shape: tuple[int, ...], /
    ) -> Float[Array, "..."]: ...


class Ancestral(eqx.Module):
    """The DDPM sampler of actions in [-1, 1]: with the predicted x_0 clipped (Diffusion-QL) or with x clipped (IDQL)."""

    clip: Literal["x0", "x"] = static("x0", "what is clipped to [-1, 1] at every step")

    def __call__(
        self, predict_noise: Callable[[X, Step], X], schedule: Discrete, key: PRNGKeyArray, shape: tuple[int, ...]
    ) -> Float[Array, "..."]:
        """Actions of the given shape from predict_noise(x, k)."""
        k_start, k_steps = jax.random.split(key)
        x = jax.random.normal(k_start, shape)
        if self.clip == "x":
            return ddpm_clipped(predict_noise, schedule, x, k_steps)
        return ddpm(lambda x, k: jnp.clip(clean(schedule, k, x, predict_noise(x, k)), -1.0, 1.0), schedule, x, k_steps)
