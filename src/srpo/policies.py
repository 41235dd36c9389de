"""Policies: pytrees with one `act(obs, key)`. Batches of observations go through `jax.vmap`."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.nets import DeterministicActor


class DeterministicPolicy(eqx.Module):
    """One forward pass of an actor network."""

    actor: DeterministicActor

    def act(self, obs: Float[Array, " obs"], key: PRNGKeyArray | None = None) -> Float[Array, " act"]:
        return self.actor(obs)
