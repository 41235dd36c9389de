"""The policies that are judged together: of one or several runs on the same data, each with where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.policies import DialedPolicy
from srpo.runs.grid import Point
from srpo.runs.mapping import entry
from srpo.runs.run import Run, RunError
from srpo.text import exact

ROWS = 4096  # observations that a policy meets at once
TURNS = 5  # temperatures at which a dial is judged, unless they were swept


@dataclass(frozen=True)
class Candidate:
    """One policy, by what chooses it: `run.policy(seed, step, **point)`, one with a dial at `beta`."""

    run: str
    algorithm: str
    seed: int
    step: int
    point: Point
    beta: float | None = None

    @property
    def recipe(self) -> str:
        """What it is but for its seed."""
        return " ".join([self.algorithm, *self.values, f"@{self.step}"])

    @property
    def values(self) -> list[str]:
        """What was swept, and where its dial is turned to; by the last parts of the paths where these differ."""
        lasts = [path.rpartition(".")[2] for path, _ in self.point]
        named = [path if lasts.count(last) > 1 else last for (path, _), last in zip(self.point, lasts, strict=True)]
        turned = [] if self.beta is None else [f"beta={self.beta:.3g}"]
        return [*(f"{name}={exact(value)}" for name, (_, value) in zip(named, self.point, strict=True)), *turned]


def labels(candidates: Sequence[Candidate]) -> list[str]:
    """The recipe of each, with its run where several runs have the same recipe."""
    runs = list(dict.fromkeys(c.run for c in candidates))
    names = [Path(run).name for run in runs]
    short = dict(zip(runs, names if len(set(names)) == len(names) else runs, strict=True))
    found = {recipe: {c.run for c in candidates if c.recipe == recipe} for recipe in {c.recipe for c in candidates}}
    return [c.recipe if len(found[c.recipe]) == 1 else f"{c.recipe} ({short[c.run]})" for c in candidates]


@dataclass(frozen=True)
class Panel:
    candidates: tuple[Candidate, ...]
    groups: tuple[Any, ...]  # policies that are alike, as pytrees with a leading axis; in the order of the candidates

    @classmethod
    def of(cls, runs: Sequence[Run], step: int | None = None) -> Panel:
        """Every policy that the runs kept, or kept at `step`, and that did not fail. Raises RunError if there is none."""
        parts = [part for run in runs for at in (run.kept if step is None else [step]) for part in _at(run, at)]
        if not parts:
            raise RunError(f"{', '.join(str(run.path) for run in runs)}: every run failed, so there is nothing to judge")
        candidates, groups = zip(*parts, strict=True)
        return cls(tuple(c for some in candidates for c in some), groups)

    def act(self, obs: np.ndarray, key: PRNGKeyArray) -> Float[np.ndarray, "policies N act"]:
        """The action of every policy at every observation (N, obs); those that draw draw once."""
        rows = -(-len(obs) // ROWS)
        padded = (
            np.resize(obs, (rows, min(ROWS, len(obs)), obs.shape[-1]))
            if rows == 1
            else np.resize(obs, (rows, ROWS, obs.shape[-1]))
        )
        actions = [np.asarray(_act(group, padded, jax.random.split(key, rows))) for group in self.groups]
        return np.concatenate([a.reshape(len(a), -1, a.shape[-1])[:, : len(obs)] for a in actions])


@jax.jit
def _act(policies: Any, obs: Float[Array, "chunks rows obs"], keys: PRNGKeyArray) -> Float[Array, "policies chunks rows act"]:
    def one(policy):
        return lax.map(lambda chunk: policy.act(*chunk), (obs, keys))

    return lax.map(one, policies)


def _at(run: Run, step: int) -> Iterator[tuple[list[Candidate], Any]]:
    """The policies of one step, and of a dial that was not swept those at several temperatures."""
    alive = [(s, p) for s, seed in enumerate(run.seeds) for p, point in enumerate(run.points) if not run.failed(seed, point)]
    if not alive:
        return
    at = tuple(np.transpose(alive))
    group = entry(run.units.inside(run.policies_at(step)), at)
    named = [Candidate(str(run.path), run.info["algorithm"], run.seeds[s], step, run.points[p]) for s, p in alive]
    dials = [x for x in jax.tree.leaves(group, is_leaf=_has_dial) if _has_dial(x)]
    if not dials or "beta" in run.grid.sweep:
        yield named, group
        return
    low, high = np.exp(np.asarray(dials[0].actor.dial.undo(jnp.array([-1.0, 1.0])))[0])
    for beta in np.geomspace(low, high, TURNS).tolist():
        turned = jax.tree.map(lambda x, beta=beta: _turn(x, beta) if _has_dial(x) else x, group, is_leaf=_has_dial)
        yield [replace(c, beta=beta) for c in named], turned


def _has_dial(x: Any) -> bool:
    return isinstance(x, DialedPolicy)


def _turn(policy: DialedPolicy, beta: float) -> DialedPolicy:
    return eqx.tree_at(lambda p: p.beta, policy, jnp.full_like(policy.beta, beta))
