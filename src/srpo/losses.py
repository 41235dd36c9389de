"""Formulas that several algorithms share: arrays in, per-row arrays out."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, "..."]


def expectile(u: Rows, level) -> Rows:
    """Asymmetric square; level > 1/2 weighs u > 0 more (IQL, arXiv 2110.06169, eq. 5)."""
    return jnp.abs(level - (u < 0)) * u**2


def backup(reward: Rows, mask: Rows, next_value: Rows, discount) -> Rows:
    """One-step target r + discount * mask * V(s')."""
    return reward + discount * mask * next_value
