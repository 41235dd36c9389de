"""One-step policies on the plane, each climbing a reward under a regularizer: DTQL's trust region, its KL variant, SRPO's score.

The first and the last are many policies, one from each random start: a Gaussian with a free mean and deviation, and a free
vector. The second is one implicit policy, as in `dtql-kl`: a network that maps noise to actions, beside a denoiser that
learns these actions. Noise levels, losses and directions are the algorithms' own, in the units of the toy, unclipped.
"""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, ScalarLike

from srpo.algorithms.dtql_kl import Generator
from srpo.config import setting, static
from srpo.core import Alone, Stage, TrainState, Updated, descend
from srpo.diffusion.denoising import Denoiser, denoising_loss, matching_direction
from srpo.networks.score import ScoreMLP
from srpo.optim import adam, cosine
from srpo.stages.trust_region import levels_and_noise

REWARDS = ("far", "near", "hard", "same")
ALPHA = 1.0
KL_ALPHA = (
    4.0  # far from the data KL pulls with a force of at most half its weight in each dimension, the rewards push with one
)
DRAWS = 8  # actions, noise levels and noises per Gaussian policy and step
HIDDEN = (128, 128, 128, 128)


class Reward(eqx.Module):
    """The reward of this index in REWARDS, as a critic with one head; the corner of "hard" is the square's upper left."""

    index: ScalarLike = eqx.field(converter=jnp.asarray)
    extent: float

    def __call__(self, action: Float[Array, "... 2"]) -> Float[Array, "..."]:
        norm = jnp.sqrt(jnp.sum(action**2, -1) + 1e-12)
        corner = (action[..., 0] < -0.625 * self.extent) & (action[..., 1] > 0.625 * self.extent)
        return jnp.stack([norm, -norm, norm * jnp.where(corner, 2.0, 1.0), 0 * norm], -1)[..., self.index]

    def q_target(self, obs, action: Float[Array, "... 2"]) -> Float[Array, "1 ..."]:
        return self(action)[None]


class Denoising(Stage):
    """DTQL's behavior model, alone and without bounds on the action."""

    steps: int = static(5000, "gradient steps")
    batch_size: int = static(512, "actions per step")
    lr: float = setting(3e-3, "learning rate (Adam)")

    def init(self, data, given, key):
        return TrainState.create(Denoiser(ScoreMLP(0, 2, HIDDEN, key, linear_input=True)), adam(self.lr))

    def update(self, state, batch, given, key, step):
        return denoise(state, batch.action, key, self.lr)

    def result(self, state):
        return state.model


def denoise(state: Alone[Denoiser], action: Float[Array, "B 2"], key, lr) -> Updated[Alone[Denoiser]]:
    """One step of a denoiser on these actions."""
    sigma, noise = levels_and_noise(key, action)

    def loss(denoiser):
        value = jnp.mean(denoising_loss(denoiser, no_obs(action), action, sigma, noise, jnp.inf))
        return value, {"loss": value}

    return descend(state, adam(lr), loss)


def no_obs(action: Float[Array, "n 2"]) -> Float[Array, "n 0"]:
    return jnp.zeros((len(action), 0))


@partial(jax.jit, static_argnames="steps")
def gaussians(denoiser, reward, start, key, *, steps: int, lr: float):
    """An action of each Gaussian policy N(mean, std^2) after descending alpha E[L_TR] - E[Q]; mean from `start`, std from 1."""
    optimizer = adam(cosine(lr, steps))
    shape = (DRAWS, *start.shape)

    def loss(policy, key):
        mean, log_std = policy
        k_action, k_trust = jax.random.split(key)
        action = (mean + jnp.exp(log_std) * jax.random.normal(k_action, shape)).reshape(-1, 2)
        sigma, noise = levels_and_noise(k_trust, action)
        trust = denoising_loss(denoiser, no_obs(action), action, sigma, noise, jnp.inf)
        return jnp.sum(ALPHA * trust - reward(action)) / DRAWS

    def step(i, carry):
        policy, opt_state = carry
        update, opt_state = optimizer.update(jax.grad(loss)(policy, jax.random.fold_in(key, i)), opt_state)
        return optax.apply_updates(policy, update), opt_state

    policy = (start, jnp.zeros_like(start))
    mean, log_std = jax.lax.fori_loop(0, steps, step, (policy, optimizer.init(policy)))[0]
    return mean + jnp.exp(log_std) * jax.random.normal(jax.random.fold_in(key, steps), start.shape)


@partial(jax.jit, static_argnames=("steps", "batch_size"))
def implicit(denoiser, reward, noise, key, *, steps: int, batch_size: int, lr: float):
    """The actions that an implicit policy makes of `noise` after descending alpha KL(policy || behavior) - E[Q].

    It and the denoiser of its own actions start at the behavior model, and take a step each in turn.
    """

    def step(i, carry):
        policy, fake = carry
        k_start, k_match, k_fake = jax.random.split(jax.random.fold_in(key, i), 3)
        start, rate = jax.random.normal(k_start, (batch_size, 2)), cosine(lr, steps)(i)

        def loss(generator):
            action = generator(no_obs(start), start)
            levels = levels_and_noise(k_match, action)
            direction = matching_direction(denoiser, fake.model, no_obs(start), jax.lax.stop_gradient(action), *levels, jnp.inf)
            return jnp.mean(KL_ALPHA * direction * action) - jnp.mean(reward(action)), {}

        policy, _ = descend(policy, adam(rate), loss)
        fake, _ = denoise(fake, policy.model(no_obs(start), start), k_fake, rate)
        return policy, fake

    first = TrainState.create(Generator(denoiser.net), adam(lr)), TrainState.create(denoiser, adam(lr))
    policy, _ = jax.lax.fori_loop(0, steps, step, first)
    return policy.model(no_obs(noise), noise)
