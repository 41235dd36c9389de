"""Formulas that several algorithms share: arrays in, per-row arrays out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, "..."]


def expectile(u: Rows, level) -> Rows:
    """Asymmetric square; level > 1/2 weighs u > 0 more (IQL, arXiv 2110.06169, eq. 5)."""
    return jnp.abs(level - (u < 0)) * u**2


def backup(reward: Rows, mask: Rows, next_value: Rows, discount) -> Rows:
    """One-step target r + discount * mask * V(s')."""
    return reward + discount * mask * next_value


def softmax_mean(q: Float[Array, "... M"], sharpness) -> Rows:
    """sum_j softmax_j(sharpness q) q: between the mean (0) and the maximum (large) of the last axis (SfBC, arXiv 2209.14548, eq. 9)."""
    return jnp.sum(jax.nn.softmax(sharpness * q, -1) * q, -1)


def contrastive_energy(energy: Float[Array, "... M"], q: Float[Array, "... M"], beta) -> Rows:
    """-sum_j softmax_j(beta q) log softmax_j(energy): least where energy = beta q + constant (QGPO, arXiv 2304.12824, eq. 12)."""
    return -jnp.sum(jax.nn.softmax(beta * q, -1) * jax.nn.log_softmax(energy, -1), -1)
