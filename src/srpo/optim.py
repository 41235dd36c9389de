"""Optimizers as the papers use them: PyTorch's defaults, every number written out."""

from __future__ import annotations

import optax


def adam(lr) -> optax.GradientTransformation:
    return optax.adam(lr, b1=0.9, b2=0.999, eps=1e-8)


def adamw(lr, weight_decay) -> optax.GradientTransformation:
    """Decay is applied to every trained array, biases and LayerNorm included, as PyTorch does."""
    return optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)


def cosine(lr, steps: int) -> optax.Schedule:
    """From `lr` to 0 over `steps` updates."""
    return optax.cosine_decay_schedule(lr, steps)


def clipped(tx: optax.GradientTransformation, norm) -> optax.GradientTransformation:
    """`tx` on gradients scaled down to a 2-norm of at most `norm`, all arrays together."""
    return optax.chain(optax.clip_by_global_norm(norm), tx)
