"""A bound on the log-likelihood of a diffusion model that costs a few of its evaluations and no solver.

The bound of variational diffusion models in continuous time (Kingma et al., arXiv 2107.00630, eqs. 11 and 16):

    -log p(x) <= KL(q(x_1 | x) || N(0, I)) + E[-log p(x | x_0)] + integral E |eps - eps_hat(x_t, t)|^2 d lambda,

lambda = log(alpha / sigma). It is tight for a perfect model. The integrand is SRPO's regularizer (arXiv 2310.07297,
eq. 12) under another weight, so that this is the meter of what a score-regularized policy is held back by.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.diffusion.schedules import VP, perturb


def likelihood_bound(
    model,
    schedule: VP,
    x: Float[Array, "n d"],
    obs: Float[Array, "n obs"],
    key: PRNGKeyArray,
    *,
    draws: int = 16,
    min_time=1e-3,
) -> Float[Array, " n"]:
    """At most log p(x | obs) in nats, noise up to `min_time` included; `model(x, t, obs)` predicts the noise.

    A mean over `draws` noise levels, stratified in lambda. With the same `key` two sets of x meet the same noise.
    """
    k_level, k_noise = jax.random.split(key)
    low, high = schedule.log_snr(jnp.float32(1.0)), schedule.log_snr(jnp.float32(min_time))
    within = jax.random.uniform(k_level, (draws, len(x)))
    t = schedule.time(low + (high - low) * (jnp.arange(draws)[:, None] + within) / draws)

    def error(t, noise):
        return jnp.sum((model(perturb(x, noise, *schedule(t)), t, obs) - noise) ** 2, -1)

    errors = jax.vmap(error)(t, jax.random.normal(k_noise, (draws, *x.shape)))
    alpha, sigma = schedule(jnp.float32(1.0))
    prior = 0.5 * jnp.sum(alpha**2 * x**2 + sigma**2 - 1 - 2 * jnp.log(sigma), -1)
    alpha, sigma = schedule(jnp.float32(min_time))
    last = 0.5 * x.shape[-1] * (1 + jnp.log(2 * jnp.pi * (sigma / alpha) ** 2))
    return -(prior + last + (high - low) * jnp.mean(errors, 0))
