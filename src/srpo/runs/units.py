"""Between what was recorded and what networks are trained on: normalized observations, offsets, the range of actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from srpo.core import Frozen
from srpo.data.ranges import ActionRange
from srpo.networks.layers import Normalizer
from srpo.system.surroundings import in_float32


class Normalized(eqx.Module):
    """A policy that was trained on normalized observations, given recorded ones."""

    normalizer: Normalizer
    policy: Any  # a Policy, with or without a dial

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None, **dial: ScalarLike) -> Float[Array, "... act"]:
        """`dial`: beta, for a policy that has one. Observations that are no JAX array are normalized in double precision."""
        if isinstance(obs, jax.Array) or isinstance(self.normalizer.mean.value, jax.core.Tracer):
            return self.policy.act(self.normalizer(jnp.asarray(obs)), key, **dial)
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), self.normalizer)
        return self.policy.act(exact(np.asarray(obs, np.float64)), key, **dial)


class InUnits(eqx.Module):
    """A policy that was trained on actions in [-1, 1], acting in the units that were recorded, within [low, high]."""

    low: Frozen  # (act,)
    high: Frozen
    policy: Any

    @in_float32
    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None, **dial: ScalarLike) -> Float[Array, "... act"]:
        """`dial`: beta, for a policy that has one."""
        low, high = self.low.value, self.high.value
        action = low + (self.policy.act(obs, key, **dial) + 1.0) * ((high - low) / 2)
        return jnp.clip(action, low, high)


@dataclass(frozen=True)
class Units:
    """Of a data set, as an algorithm saw it. A part that is None changes nothing."""

    normalizer: Normalizer | None  # of the observations, for the networks
    offset: Normalizer | None  # what recorded observations are less in the data set
    action_range: ActionRange | None  # the recorded actions that are -1 and 1 in training

    @classmethod
    @in_float32
    def of(cls, data: Mapping[str, Any], normalize_obs: bool) -> Units:
        """`data`: what run.json says of it; `normalize_obs`: whether networks were trained on normalized observations."""
        offset, bounds = data.get("obs_offset"), data.get("action_range")
        with jax.ensure_compile_time_eval():  # also for who asks while shapes alone are worked out
            return cls(
                Normalizer(*jnp.asarray(data["obs_statistics"], jnp.float32)) if normalize_obs else None,
                Normalizer(*jnp.asarray([offset, [1.0] * len(offset)], jnp.float32)) if offset else None,
                None if bounds is None else ActionRange.from_dict(bounds),
            )

    def around(self, policies: Any, lead: tuple[int, ...]) -> Any:
        """Policies with leading axes `lead`, as they act on recorded observations and in recorded actions."""

        def every(x):
            return jnp.broadcast_to(x, (*lead, *x.shape))

        for normalizer in (self.normalizer, self.offset):
            if normalizer is not None:
                policies = Normalized(jax.tree.map(every, normalizer), policies)
        if self.action_range is not None:
            low, high = (Frozen(every(jnp.asarray(bound))) for bound in self.action_range[:2])
            policies = InUnits(low, high, policies)
        return policies

    @property
    def exact_offset(self) -> np.ndarray | None:
        """What recorded observations (..., obs) are less in the data set, to be taken off in double precision; None: nothing."""
        return None if self.offset is None else np.asarray(self.offset.mean.value, np.float64)

    def centered(self, policies: Any) -> Any:
        """What `around` gave, acting on recorded observations less `exact_offset`: float32 would round them before it is taken off."""
        if self.offset is None:
            return policies

        def offset(policies):
            return (policies if self.action_range is None else policies.policy).normalizer.mean.value

        return eqx.tree_at(offset, policies, replace_fn=jnp.zeros_like)

    def inside(self, policies: Any) -> Any:
        """What `around` gave, acting on observations and in actions as a `Dataset` holds them: less offsets, in [-1, 1]."""
        policies = policies.policy if self.action_range is not None else policies
        return policies.policy if self.offset is not None else policies
