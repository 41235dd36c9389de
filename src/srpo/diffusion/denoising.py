"""DTQL's denoiser and its losses (Chen et al., NeurIPS 2024, arXiv 2405.19690), in EDM's variables x = a + sigma noise.

The same per-row loss trains the behavior model on the data's actions and, as trust region, pulls a policy's
actions to where the frozen model denoises them to themselves.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from srpo.diffusion.edm import precondition

Action = Float[Array, "... act"]
Obs = Float[Array, "... obs"]
Level = Float[Array, "..."]


class Denoiser(eqx.Module):
    """D(x, sigma, s) = c_skip x + c_out F(c_in x, ln(sigma) / 4, s), the expected clean action."""

    net: Any  # (x, time, obs)

    def __call__(self, x: Action, sigma: Level, obs: Obs) -> Action:
        c_in, c_skip, c_out = (c[..., None] for c in precondition(1.0, sigma))
        return c_skip * x + c_out * self.net(c_in * x, jnp.log(sigma) / 4, obs)


def denoising_loss(denoiser, obs: Obs, action: Action, sigma: Level, noise: Action, bound: float = 1.0) -> Float[Array, "..."]:
    """Mean over dimensions of ((D(a + sigma noise) - a) / c_out)^2, D clipped to +- `bound`.

    Its gradient in the action flows through the noised input and through the target.
    """
    denoised = jnp.clip(denoiser(action + sigma[..., None] * noise, sigma, obs), -bound, bound)
    c_out = precondition(1.0, sigma)[2][..., None]
    return jnp.mean(((denoised - action) / c_out) ** 2, -1)


def matching_direction(real, fake, obs: Obs, action: Action, sigma: Level, noise: Action, bound: float = 1.0) -> Action:
    """(D_fake - D_real) / mean |a - D_real|: down which the action descends KL(policy || behavior).

    `fake` denoises the policy's own actions. The estimator of DMD (arXiv 2311.18828); no gradient flows
    through it.
    """
    x = action + sigma[..., None] * noise
    d_real, d_fake = (jnp.clip(model(x, sigma, obs), -bound, bound) for model in (real, fake))
    return lax.stop_gradient((d_fake - d_real) / jnp.mean(jnp.abs(action - d_real), -1, keepdims=True))
