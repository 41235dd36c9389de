"""Diffusion models whose predicted noise is known in closed form: a Gaussian, or an even mixture of two, in one or more dimensions."""

import equinox as eqx
import jax
import jax.numpy as jnp

from srpo.diffusion.schedules import VP, Schedule


class GaussianBehavior(eqx.Module):
    """mu(a|s) = N(shift + s, var I), the state being of the action's size."""

    shift: jax.Array
    var: float
    schedule: Schedule = eqx.field(static=True, default=VP())
    action_size = 1

    def __call__(self, x, t, obs):
        alpha, sigma = self.schedule(t)
        return sigma * (x - alpha * (self.shift + obs)) / (alpha**2 * self.var + sigma**2)


class TwoModes(eqx.Module):
    """mu(a|s) = even mixture of N(-0.6, 0.1^2) and N(0.6, 0.1^2), whatever the state: tests/bandits.py."""

    schedule: Schedule = eqx.field(static=True, default=VP())
    action_size = 1

    def __call__(self, x, t, obs):
        alpha, sigma = self.schedule(t)
        var = alpha**2 * 0.1**2 + sigma**2
        mode = 0.6 * jnp.tanh(alpha * 0.6 * x / var)  # expected mode
        return sigma * (x - alpha * mode) / var
