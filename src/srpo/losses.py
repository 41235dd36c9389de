"""Formulas that several algorithms share: arrays in, an array with one value per row out unless said otherwise."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Rows = Float[Array, "..."]


def expectile(u: Rows, level) -> Rows:
    """Asymmetric square; level > 1/2 weighs u > 0 more (IQL, arXiv 2110.06169, eq. 5)."""
    return jnp.abs(level - (u < 0)) * u**2


def backup(reward: Rows, mask: Rows, next_value: Rows, discount) -> Rows:
    """One-step target r + discount * mask * V(s')."""
    return reward + discount * mask * next_value


def improvement(q: Float[Array, " B"], scale: Float[Array, " B"]) -> Float[Array, ""]:
    """Mean Q in units of the mean |scale|, which passes no gradient: a scalar (lambda Q of TD3+BC, arXiv 2106.06860)."""
    return jnp.mean(q) / lax.stop_gradient(jnp.mean(jnp.abs(scale)))


def softmax_mean(q: Float[Array, "... M"], sharpness) -> Rows:
    """sum_j softmax_j(sharpness q) q: between the mean (0) and the maximum (large) of the last axis (SfBC, arXiv 2209.14548, eq. 9)."""
    return jnp.sum(jax.nn.softmax(sharpness * q, -1) * q, -1)


def contrastive_energy(energy: Float[Array, "... M"], q: Float[Array, "... M"], beta) -> Rows:
    """-sum_j softmax_j(beta q) log softmax_j(energy): least where energy = beta q + constant (QGPO, arXiv 2304.12824, eq. 12)."""
    return -jnp.sum(jax.nn.softmax(beta * q, -1) * jax.nn.log_softmax(energy, -1), -1)


def gaussian_log_prob(x: Float[Array, "... d"], mean: Float[Array, "... d"], log_std: Float[Array, "... d"]) -> Rows:
    """log N(x; mean, diag std^2), summed over the last axis."""
    z = (x - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * z**2 + log_std + 0.5 * jnp.log(2 * jnp.pi), -1)


def advantage_weight(advantage: Rows, beta, largest=100.0) -> Rows:
    """min(exp(beta advantage), largest): the weight of advantage-weighted regression (IQL, arXiv 2110.06169, eq. 7)."""
    return jnp.minimum(jnp.exp(beta * advantage), largest)


def mmd(x: Float[Array, "... n d"], y: Float[Array, "... m d"], sigma, kernel: Literal["laplacian", "gaussian"]) -> Rows:
    """Maximum mean discrepancy of two sets of samples, all pairs counted (BEAR, arXiv 1906.00949, section 5; 1e-6 under the root).

    The kernel is exp(-d / (2 sigma)), d the 1-norm (laplacian) or the squared 2-norm (gaussian) of the difference.
    """

    def mean_kernel(a, b):
        difference = a[..., :, None, :] - b[..., None, :, :]
        distance = jnp.abs(difference) if kernel == "laplacian" else difference**2
        return jnp.mean(jnp.exp(-jnp.sum(distance, -1) / (2 * sigma)), (-2, -1))

    return jnp.sqrt(jnp.maximum(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y), 0.0) + 1e-6)
