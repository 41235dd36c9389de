"""Karras et al.'s preconditioning, noise levels and Heun sampler (arXiv 2206.00364)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

X = Float[Array, "..."]
Level = Float[Array, "..."]


def precondition(alpha: Level | float, sigma: Level | float, data_std: float = 0.5) -> tuple[Level, Level, Level]:
    """c_in, c_skip, c_out of D(x_t) = c_skip x_t + c_out F(c_in x_t) for x_t = alpha x_0 + sigma noise.

    With alpha = 1 Table 1 of the paper; otherwise the same in y = x_t / alpha, s = sigma / alpha, written so
    that nothing overflows as alpha -> 0.
    """
    total = jnp.sqrt(sigma**2 + (alpha * data_std) ** 2)
    return 1 / total, data_std**2 * alpha / total**2, data_std * sigma / total


def draw_sigma(key: PRNGKeyArray, shape, data_std: float = 0.5, low: float = 0.002, high: float = 80.0) -> Level:
    """Noise levels from a log-logistic law of median and scale `data_std`, truncated to [low, high] (DTQL's training draw)."""

    def cdf(sigma):
        return jax.nn.sigmoid(jnp.log(sigma / data_std) / data_std)

    u = jax.random.uniform(key, shape, minval=cdf(low), maxval=cdf(high))
    return data_std * jnp.exp(data_std * jax.scipy.special.logit(u))


def karras_sigmas(steps: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Float[Array, " {steps}+1"]:
    """`steps` decreasing noise levels, then 0 (eq. 5)."""
    ramp = jnp.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho
    return jnp.append(ramp, 0.0)


def heun(denoise: Callable[[X, Level], X], x: X, sigmas: Float[Array, " levels"]) -> X:
    """Deterministic sampling from x at sigmas[0] down to sigmas[-1] (Algorithm 1); the step to 0 is Euler's.

    `denoise(x, sigma)` predicts x_0 and takes a scalar sigma.
    """

    def body(x, levels):
        s, t = levels
        slope = (x - denoise(x, s)) / s
        y = x + (t - s) * slope

        def correct():
            return x + (t - s) * (slope + (y - denoise(y, t)) / t) / 2

        return jax.lax.cond(t > 0, correct, lambda: y), None

    return jax.lax.scan(body, x, jnp.stack([sigmas[:-1], sigmas[1:]], 1))[0]
