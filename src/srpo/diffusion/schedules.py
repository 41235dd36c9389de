"""Noise schedules: t -> (alpha, sigma) with x_t = alpha x_0 + sigma noise.

A schedule is a constant of a model, not a part of its parameters: a hashable plain object, no pytree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

Times = Float[Array, "..."]


class Schedule(Protocol):
    def __call__(self, t: Times) -> tuple[Times, Times]:
        """(alpha, sigma) at time t."""


@dataclass(frozen=True)
class VP:
    """Variance-preserving SDE in continuous time, t in (0, 1] (arXiv 2011.13456); the linear schedule of SRPO, QGPO, SfBC."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Times) -> Times:
        return -(self.beta_max - self.beta_min) * t**2 / 4 - self.beta_min * t / 2

    def __call__(self, t: Times) -> tuple[Times, Times]:
        log_alpha = self.log_alpha(t)
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))

    def log_snr(self, t: Times) -> Times:
        """lambda = log(alpha / sigma)."""
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * jnp.log(-jnp.expm1(2 * log_alpha))

    def time(self, log_snr: Times) -> Times:
        """The inverse of `log_snr`."""
        m = 2 * (self.beta_max - self.beta_min) * jnp.logaddexp(-2 * log_snr, 0.0)
        return m / ((jnp.sqrt(self.beta_min**2 + m) + self.beta_min) * (self.beta_max - self.beta_min))

    def beta(self, t: Times) -> Times:
        """g(t)^2; the drift is -beta x / 2."""
        return self.beta_min + (self.beta_max - self.beta_min) * t


def perturb(x: Float[Array, "... d"], noise: Float[Array, "... d"], alpha: Times, sigma: Times) -> Float[Array, "... d"]:
    """x_t = alpha x_0 + sigma noise, with alpha and sigma of shape (...)."""
    return alpha[..., None] * x + sigma[..., None] * noise
