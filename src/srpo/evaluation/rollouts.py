"""Policies in Gymnasium environments: all seeds and swept values in step, one compiled call per time step.

Episode i starts from environment seed 1001 + i in every run, as in the authors' code, so that all runs are
judged on the same start states; episodes end at termination or truncation and are not restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srpo.runs.mapping import Axes, Mapping, default_mapping, entry, over_runs, vectorized
from srpo.runs.units import Units
from srpo.worlds.environments import answering, make_env, scale_action

FIRST_SEED = 1001
MOST = 200  # environments at once
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Episodes:
    """Undiscounted returns and lengths, of shape (seed, point, episode), and what must be said about them."""

    returns: np.ndarray
    lengths: np.ndarray
    notes: tuple[str, ...] = ()


class Limit(NamedTuple):
    """After how many steps an episode is cut, at most, and who says so; `steps` None: only by the environment itself."""

    steps: int | None = None
    why: str = ""


@partial(jax.jit, static_argnums=1)
def _in_a_row(policies: Any, runs: int) -> Any:
    """Policies with leading axes (seed, point) as ones with (run, 1)."""
    return jax.tree.map(lambda x: x.reshape(runs, 1, *x.shape[2:]), policies)


class Rollouts:
    """Environments, and the compiled actions, that are kept from one evaluation to the next; `close` ends them.

    The runs act block by block, so that no more than `MOST` environments exist at once (or the episodes of one run).
    """

    def __init__(
        self,
        env_id: str,
        shape: tuple[int, int],
        episodes: int,
        mapping: Mapping | None = None,
        units: Units | None = None,
        limit: Limit = Limit(),
    ):
        """`shape`: how many seeds and points. `units`: of the run whose policies act; None: they act in [-1, 1] on what they see."""
        self.env_id, self.limit = env_id, limit
        self.units = Units(None, None, None) if units is None else units
        self.offset = self.units.exact_offset
        self.notes: list[str] = []  # about the present episodes
        self.cut = 0
        self.shape, self.runs = (*shape, episodes), shape[0] * shape[1]
        self.blocks = -(-self.runs // max(1, MOST // episodes))
        self.envs: list[Any] = []
        self.mapping = mapping or default_mapping()
        self._act = _acting(self.mapping)  # type: ignore[arg-type]  # a function: it has a hash

    def __call__(self, policies: Any, key: int = 0, progress: Progress | None = None) -> Episodes:
        """`policies`: a pytree with leading axes (seed, point). `progress` is told each time step, of all blocks on average.

        It may raise, to stop."""
        self.notes, self.cut = [], 0
        flat = _in_a_row(self.units.centered(policies), self.runs)
        returns, lengths, done = np.zeros(self.shape), np.zeros(self.shape, int), 0

        def told(step: int) -> None:
            if progress is not None:
                progress((done + step) // self.blocks)

        for block in np.array_split(np.arange(self.runs), self.blocks):
            here = slice(block[0], block[-1] + 1)
            found = self._play(flat if self.blocks == 1 else entry(flat, block), len(block), key, told)
            for into, out in zip((returns, lengths), found, strict=True):
                into.reshape(self.runs, -1)[here] = out.reshape(len(block), -1)
            done += int(found[1].max())
        if self.cut:
            self.notes.append(f"{self.cut} episodes were cut after {self.limit.steps} steps, {self.limit.why}")
        return Episodes(returns, lengths, tuple(self.notes))

    def _play(self, policies: Any, runs: int, key: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths (run * episode,) of one block."""
        n, episodes = runs * self.shape[-1], self.shape[-1]
        self.envs += [make_env(self.env_id) for _ in range(n - len(self.envs))]
        obs = np.zeros((n, self.envs[0].observation_space.shape[0]), np.float32)
        in_turn = getattr(policies, "in_turn", False) and self.mapping is not vectorized
        returns, lengths, alive, step, i = np.zeros(n), np.zeros(n, int), np.ones(n, bool), 0, 0

        def when() -> str:
            return f"at {place(step, i % episodes)}"

        with answering(self.env_id, when):
            for i in range(n):
                obs[i] = seen(self.envs[i].reset(seed=FIRST_SEED + i % episodes)[0], obs.shape[1:], self.offset)
        while alive.any() and (self.limit.steps is None or step < self.limit.steps):
            left = alive.reshape(runs, 1, episodes) if in_turn else None
            action = np.asarray(self._act(policies, obs.reshape(runs, 1, episodes, -1), np.uint32(key), np.uint32(step), left))
            action = scale_action(self.envs[0].action_space, action.reshape(n, -1), self.units.action_range is not None)
            with answering(self.env_id, when):
                for i in np.flatnonzero(alive).tolist():
                    found, reward, terminated, truncated, _ = self.envs[i].step(action[i])
                    obs[i] = seen(found, obs.shape[1:], self.offset)
                    returns[i] += float(reward)
                    lengths[i] += 1
                    alive[i] = not (terminated or truncated)
                    if not self.notes and not (np.isfinite(float(reward)) and np.isfinite(obs[i]).all()):
                        self.notes.append(self._not_finite(i % episodes, step, float(reward)))
            step += 1
            progress(step)
        self.cut += int(alive.sum())
        return returns, lengths

    def _not_finite(self, episode: int, step: int, reward: float) -> str:
        what = "an observation that is not finite" if np.isfinite(reward) else f"a reward of {reward}"
        return f"{self.env_id} gave {what} at {place(step, episode)}: its return says nothing"

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []


@cache
def _acting(mapping: Mapping) -> Callable[..., Any]:
    """What acts for all runs: evaluations of policies alike share what is compiled of it."""
    return jax.jit(over_runs(act, (Axes.RUN, Axes.RUN, Axes.SHARED, Axes.SHARED, Axes.RUN), mapping))


def place(step: int, episode: int) -> str:
    """Which step, and how to come to it again."""
    return f"step {step} of episode {episode} (environment seed {FIRST_SEED + episode})"


def seen(obs: Any, shape: tuple[int, ...], offset: np.ndarray | None) -> np.ndarray:
    """What policies of `Units.centered` are given for an observation: less `Units.exact_offset`. Raises ValueError for one of another shape."""
    found = np.asarray(obs)
    if found.shape != shape:  # it would be broadcast in silence
        raise ValueError(f"it gave an observation of shape {found.shape}, expected {shape}")
    return found if offset is None else found - offset


def act(policy, obs, seed, step, alive=None):
    """Actions (episode, act) of one policy for the observations (episode, obs).

    With `alive` (episode,) one episode after the other, and zeros for those that are over: of a policy that fills a processor
    with one observation, one long episode among short ones would cost as much as if all were as long.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), obs.shape[0])
    if alive is None:
        return jax.vmap(policy.act)(obs, keys)
    none = jnp.zeros_like(jax.eval_shape(policy.act, obs[0], keys[0]))

    def one(episode):
        obs, key, alive = episode
        return jax.lax.cond(alive, lambda: policy.act(obs, key), lambda: none)

    return jax.lax.map(one, (obs, keys, alive))
