"""Policies in Gymnasium environments: all seeds and swept values in step, one compiled call per time step.

Episode i starts from environment seed 1001 + i in every run, as in the authors' code, so that all runs are
judged on the same start states; episodes end at termination or truncation and are not restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from srpo.environments import make_env, scale_action
from srpo.runs.mapping import Axes, Mapping, over_runs

FIRST_SEED = 1001
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Episodes:
    """Undiscounted returns and lengths, of shape (seed, point, episode)."""

    returns: np.ndarray
    lengths: np.ndarray


class Rollouts:
    """Environments, and the compiled actions, that are kept from one evaluation to the next."""

    def __init__(
        self, env_id: str, shape: tuple[int, int], episodes: int, mapping: Mapping | None = None, in_units: bool = False
    ):
        """`shape`: how many seeds and points. `in_units`: the policies act in the environment's units, not in [-1, 1]."""
        self.in_units = in_units
        self.shape = (*shape, episodes)
        self.envs = [make_env(env_id) for _ in range(int(np.prod(self.shape)))]
        self._act = jax.jit(over_runs(_act, (Axes.RUN, Axes.RUN, Axes.SHARED, Axes.SHARED), mapping))

    def __call__(self, policies: Any, key: int = 0, progress: Progress | None = None) -> Episodes:
        """`policies`: a pytree with leading axes (seed, point). `progress` is told each time step."""
        n = len(self.envs)
        first = self.envs[0].observation_space.shape[0]
        obs = np.zeros((n, first), np.float32)
        for i, env in enumerate(self.envs):
            obs[i] = env.reset(seed=FIRST_SEED + i % self.shape[-1])[0]
        returns, lengths, alive, step = np.zeros(n), np.zeros(n, int), np.ones(n, bool), 0
        while alive.any():
            action = self._actions(policies, obs, key, step)
            for i in np.flatnonzero(alive).tolist():
                obs[i], reward, terminated, truncated, _ = self.envs[i].step(action[i])
                returns[i] += float(reward)
                lengths[i] += 1
                alive[i] = not (terminated or truncated)
            step += 1
            if progress is not None:
                progress(step)
        return Episodes(returns.reshape(self.shape), lengths.reshape(self.shape))

    def _actions(self, policies, obs, key, step) -> np.ndarray:
        """In the environment's own bounds, of shape (n, act)."""
        a = self._act(policies, obs.reshape(*self.shape, -1), np.uint32(key), np.uint32(step))
        return scale_action(self.envs[0].action_space, np.asarray(a).reshape(len(self.envs), -1), self.in_units)


def _act(policy, obs, seed, step):
    """Actions (episode, act) of one policy for the observations (episode, obs)."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), obs.shape[0])
    return jax.vmap(policy.act)(obs, keys)
