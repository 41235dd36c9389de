"""What a network's output means. Each model answers with the predicted noise, and knows its own training error.

`NoisePrediction` is the papers'. `Preconditioned` predicts the clean action through EDM preconditioning
(Karras et al., arXiv 2206.00364) in the variables y = x_t / alpha, s = sigma / alpha: its error in the noise
is scaled by alpha, which keeps SRPO's gradient clean at large t (docs/algorithms/srpo.md).
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.diffusion.edm import precondition
from srpo.diffusion.schedules import VP, Discrete, Schedule, Times, perturb

Action = Float[Array, "... act"]
Obs = Float[Array, "... obs"]


S = TypeVar("S", bound=Schedule)


@runtime_checkable
class ScoreNetwork(Protocol):
    """A network of a noised action, a time and an observation; `key` is for dropout."""

    @property
    def action_size(self) -> int: ...

    def __call__(self, x: Action, t: Times, obs: Obs, key: PRNGKeyArray | None = None) -> Action: ...


@runtime_checkable
class NoiseModel(Protocol):
    """What samplers draw from: it predicts the noise of actions, and says how they were noised."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def action_size(self) -> int: ...

    def __call__(self, x: Action, t: Times, obs: Obs) -> Action: ...


class NoisePrediction(eqx.Module, Generic[S]):
    """The network's output is the noise."""

    net: ScoreNetwork
    schedule: S = eqx.field(static=True)

    @property
    def action_size(self) -> int:
        return self.net.action_size

    def __call__(self, x: Action, t: Times, obs: Obs, key: PRNGKeyArray | None = None) -> Action:
        """Predicted noise at x_t. `key`: for dropout."""
        return self.net(x, t, obs, key)

    def error(self, action: Action, t: Times, noise: Action, obs: Obs, key: PRNGKeyArray | None = None) -> Action:
        """What training squares: eps_hat - eps (SRPO eq. 13)."""
        return self(perturb(action, noise, *self.schedule(t)), t, obs, key) - noise


class Preconditioned(eqx.Module):
    """The network's output F gives the denoised action D = c_skip y + c_out F(c_in y)."""

    net: ScoreNetwork
    schedule: Schedule = eqx.field(static=True, default=VP())
    data_std: float = eqx.field(static=True, default=0.5)

    @property
    def action_size(self) -> int:
        return self.net.action_size

    def _coefficients(self, t):
        """alpha, sigma, c_in, c_skip, c_out."""
        alpha, sigma = (a[..., None] for a in self.schedule(t))
        return alpha, sigma, *precondition(alpha, sigma, self.data_std)

    def denoise(self, x: Action, t: Times, obs: Obs, key: PRNGKeyArray | None = None) -> Action:
        """D(x_t, s, t), the expected clean action."""
        _, _, c_in, c_skip, c_out = self._coefficients(t)
        return c_skip * x + c_out * self.net(c_in * x, t, obs, key)

    def __call__(self, x: Action, t: Times, obs: Obs, key: PRNGKeyArray | None = None) -> Action:
        """Predicted noise at x_t: (x_t - alpha D) / sigma."""
        alpha, sigma, c_in, _, _ = self._coefficients(t)
        # (1 - alpha c_skip) / sigma = sigma / total^2 and alpha c_out / sigma = alpha data_std / total, free of cancellation
        return c_in * (sigma * c_in * x - alpha * self.data_std * self.net(c_in * x, t, obs, key))

    def error(self, action: Action, t: Times, noise: Action, obs: Obs, key: PRNGKeyArray | None = None) -> Action:
        """What training squares: (D - a) / c_out, of unit size at every t."""
        x = perturb(action, noise, *self.schedule(t))
        _, _, c_in, c_skip, c_out = self._coefficients(t)
        return self.net(c_in * x, t, obs, key) - (action - c_skip * x) / c_out


def discrete_error(
    model: NoisePrediction[Discrete], action: Float[Array, "B act"], obs: Float[Array, "B obs"], key: PRNGKeyArray
) -> Action:
    """`model.error` at steps drawn uniformly from its discrete schedule, with dropout."""
    k_step, k_noise, k_dropout = jax.random.split(key, 3)
    step = jax.random.randint(k_step, action.shape[:-1], 0, model.schedule.steps)
    return model.error(action, step, jax.random.normal(k_noise, action.shape), obs, k_dropout)
