"""Where score regularization takes a deterministic policy as 1/beta grows (Figures 3 and 7, panels d and e).

A policy at the one observation of a bandit is a free vector a. It descends minus the gradient of eq. 10,

    dQ/da + (1/beta) d log mu(a)/da,   the score being that of the behavior model at a small t ("eq10", the paper's choice),

or of eq. 15, which averages over t ~ U(0.02, 0.98) and noise ("eq15"). Both are `policy_direction`: eq. 10 is its
value without noise and with the weight alpha / sigma.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from srpo.optim import adam, cosine
from srpo.stages.score_regularized import policy_direction

Gradient = Literal["eq10", "eq15"]
LEAST = 1e-6  # 1/beta = 0 is taken as this
MOST = {"eq10": 1.0, "eq15": 40.0}  # the largest 1/beta drawn: w(t) = sigma^2 makes the score term of eq. 15 that much smaller


def shift(
    behavior,
    critic,
    start: Float[Array, "n 2"],
    inverse_beta: Float[Array, " k"],
    key: PRNGKeyArray,
    *,
    steps: int,
    lr: float = 0.05,
    gradient: Gradient = "eq10",
    time: ScalarLike = 0.02,
    draws: int = 16,
) -> Float[Array, "k n 2"]:
    """The policies at every temperature, each of the n started at the one before, the first at `start`.

    `critic.q_target(obs, action)` may have another Q for each of the n. `steps` of Adam per temperature, its rate `lr` (in
    units of the action) falling to 0. `time` is the t of eq. 10; `draws` are the samples per step of eq. 15, t stratified.
    """
    optimizer = adam(cosine(lr, steps))
    descent = _eq10(behavior, critic, time) if gradient == "eq10" else _eq15(behavior, critic, draws)

    def at_temperature(action, inputs):
        key, beta = inputs

        def step(i, carry):
            action, opt_state = carry
            update, opt_state = optimizer.update(descent(action, beta, jax.random.fold_in(key, i)), opt_state)
            return optax.apply_updates(action, update), opt_state

        action, _ = jax.lax.fori_loop(0, steps, step, (action, optimizer.init(action)))
        return action, action

    keys = jax.random.split(key, len(inverse_beta))
    return jax.lax.scan(at_temperature, start, (keys, 1 / jnp.maximum(inverse_beta, LEAST)))[1]


def _eq10(behavior, critic, time):
    def descent(action, beta, _):
        obs, t, zero = jnp.zeros((len(action), 0)), jnp.full(len(action), time), jnp.zeros_like(action)
        return policy_direction(
            critic, behavior, behavior.schedule, obs, action, t, zero, beta=beta, weight="alpha/sigma", baseline=False
        )

    return descent


def _eq15(behavior, critic, draws):
    def descent(action, beta, key):
        k_time, k_noise = jax.random.split(key)
        n = len(action)
        t = 0.02 + 0.96 * (jnp.arange(draws)[:, None] + jax.random.uniform(k_time, (draws, n))) / draws

        def one(t, noise):
            return policy_direction(critic, behavior, behavior.schedule, jnp.zeros((n, 0)), action, t, noise, beta=beta)

        return jnp.mean(jax.vmap(one)(t, jax.random.normal(k_noise, (draws, n, 2))), 0)

    return descent


def target_grid(extent: float, n: int) -> Float[np.ndarray, "{n}*{n} 2"]:
    """The crossings of `n` by `n` equally spaced lines over 0.9 of the square."""
    line = np.linspace(-0.9 * extent, 0.9 * extent, n, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
