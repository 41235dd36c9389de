"""Noise schedules: t -> (alpha, sigma) with x_t = alpha x_0 + sigma noise.

A schedule is a constant of a model, not a part of its parameters: a hashable plain object, no pytree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

Times = Real[Array, "..."]  # in (0, 1], or the steps of a discrete diffusion


@runtime_checkable
class Schedule(Protocol):
    def __call__(self, t: Times, /) -> tuple[Times, Times]:
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


@dataclass(frozen=True)
class EDM:
    """Noise of standard deviation t added to the data itself (Karras et al., arXiv 2206.00364)."""

    def __call__(self, t: Times) -> tuple[Times, Times]:
        return jnp.ones_like(t), t


@dataclass(frozen=True)
class Discrete:
    """Steps k = 0 .. K-1 of a discrete diffusion: alpha = sqrt(abar_k), sigma = sqrt(1 - abar_k)."""

    beta: tuple[float, ...]

    @classmethod
    def vp(cls, steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Discrete:
        """The VP schedule of Diffusion-QL and IDQL."""
        i = np.arange(1, steps + 1)
        return cls(tuple(-np.expm1(-beta_min / steps - (beta_max - beta_min) * (2 * i - 1) / (2 * steps**2))))

    @classmethod
    def cosine(cls, steps: int, offset: float = 0.008) -> Discrete:
        """Nichol and Dhariwal's cosine schedule (arXiv 2102.09672, eq. 17) as in Diffuser; the last beta saturates at 0.999."""
        cumulative = np.cos(np.pi / 2 * (np.linspace(0, 1, steps + 1) + offset) / (1 + offset)) ** 2
        return cls(tuple(np.clip(1 - cumulative[1:] / cumulative[:-1], 0, 0.999)))

    @property
    def steps(self) -> int:
        return len(self.beta)

    @property
    def alpha_bar(self) -> Float[np.ndarray, " K"]:
        """Products of 1 - beta up to and including each step."""
        return np.cumprod(1 - np.array(self.beta))

    def __call__(self, k: Int[Array, "..."] | int) -> tuple[Times, Times]:
        """(alpha, sigma) at integer steps k."""
        alpha_bar = jnp.asarray(self.alpha_bar)[k]
        return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
