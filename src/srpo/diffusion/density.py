"""Log-density of a diffusion model by its probability-flow ODE (Song et al., ICLR 2021, arXiv 2011.13456, appendix D.2).

The flow is integrated over lambda = log(alpha / sigma) instead of t. For a variance-preserving schedule
d log alpha / d lambda = sigma^2, so that

    dx / d lambda = sigma^2 x - sigma eps(x, t),

which stays bounded at both ends. Needs diffrax, of the extra `paper`.
"""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.diffusion.schedules import VP


def log_density(
    model, schedule: VP, x: Float[Array, "n d"], obs: Float[Array, " obs"], *, mean=0.0, std=1.0, min_time=1e-3, tolerance=1e-4
) -> Float[Array, " n"]:
    """log p(x) in nats, noise up to `min_time` included, by the instantaneous change of variables, its divergence exact.

    `model(x, t, obs)` predicts the noise. `mean` and `std` of the data, per dimension, place the Gaussian in which the
    flow ends at t = 1: with a standard normal in its place the density is off by up to alpha(1) mean x. `tolerance` is
    the solver's per step, absolute and relative; the rows share their steps and the worst of them has to meet it.
    """
    start, stop = schedule.log_snr(jnp.float32(min_time)), schedule.log_snr(jnp.float32(1.0))
    units = jnp.eye(x.shape[-1])

    def field(log_snr, state, _):
        x, _ = state
        velocity, tangent = jax.linearize(lambda x: _velocity(model, schedule, x, log_snr, obs), x)
        divergence = sum(tangent(jnp.broadcast_to(e, x.shape))[:, i] for i, e in enumerate(units))
        return velocity, divergence

    end, volume = _solve(field, (x, jnp.zeros(len(x))), start, stop, tolerance)
    alpha, sigma = schedule(jnp.float32(1.0))
    scale = jnp.sqrt((alpha * jnp.asarray(std)) ** 2 + sigma**2)
    return jnp.sum(jax.scipy.stats.norm.logpdf(end, alpha * jnp.asarray(mean), scale), -1) + volume


def _velocity(model, schedule, x, log_snr, obs):
    t = schedule.time(log_snr)
    _, sigma = schedule(t)
    return sigma**2 * x - sigma * model(x, jnp.full(x.shape[:-1], t), obs)


def _solve(field, state, start, stop, tolerance):
    """The state at `stop`, by an explicit Runge-Kutta method of order 5 with adaptive steps."""

    def worst(error):
        return jnp.max(jnp.stack([jnp.max(jnp.abs(e)) for e in jax.tree.leaves(error)]))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        start,
        stop,
        None,
        state,
        max_steps=100_000,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=worst),
        adjoint=diffrax.DirectAdjoint(),
    )
    return jax.tree.map(lambda y: y[-1], solution.ys)
