"""Runs that meet a value that is not finite are frozen at their last good state; the others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from srpo.runs.grid import Point
from srpo.text import exact

At = tuple[int, int]  # of seed and point


@dataclass(frozen=True)
class Failure:
    """A run that met a value that is not finite."""

    stage: str
    step: int
    metric: str
    seed: int
    point: Point

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return vars(self) | {"point": [list(value) for value in self.point]}

    def __str__(self) -> str:
        where = ", ".join([f"seed {self.seed}", *(f"{p}={exact(v)}" for p, v in self.point)])
        return f"{where}: {self.metric} is not finite at step {self.step} of stage {self.stage}"


class Survivors:
    """Which runs of a stage still train. States have leading axes (seed, point).

    `safe` is the last state, on the host, of which every run is good: what a checkpoint holds.
    """

    def __init__(self, stage: str, seeds: Sequence[int], points: Sequence[Point]):
        self.stage, self.seeds, self.points = stage, seeds, points
        self.failures: list[Failure] = []
        self.frozen: dict[At, Any] = {}  # at the state that each was frozen in
        self.safe: Any = None

    def again(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Freeze the runs that had failed by the checkpoint, of which the state is `safe`; `failures` as in its file."""
        for found in failures:
            values = [value for _, value in found["point"]]  # its paths may have other names now
            point = next(p for p in self.points if [value for _, value in p] == values)
            failure = Failure(**dict(found) | {"point": point})
            self.failures.append(failure)
            at = self.seeds.index(failure.seed), self.points.index(failure.point)
            self.frozen[at] = self._safe_at(at)

    def keep(self, state: Any, step: int) -> None:
        """Remember a state as the last good one; a run whose state is not finite is frozen at the one before.

        Raises FloatingPointError if there is none before.
        """
        state = jax.tree.map(lambda x: np.array(x, copy=True), state)  # a view would be donated under our feet
        for at in _places(~self._finite(state)):
            if self.safe is None:
                raise FloatingPointError(
                    f"the state of stage {self.stage} is not finite before its first step; look at the data with srpo data info"
                )
            self._fail(at, "a parameter", step)
            for leaf, good in zip(jax.tree.leaves(state), jax.tree.leaves(self.frozen[at]), strict=True):
                leaf[at] = good
        self.safe = state

    def check(self, bad_step: Mapping[str, Any], state: Any) -> Any:
        """`state` with the runs frozen of which a metric has a first step that was not finite (-1: none)."""
        for metric, steps in jax.device_get(bad_step).items():
            for at in _places(steps >= 0):
                self._fail(at, metric, int(steps[at]))
        return self.restore(state)

    def restore(self, state: Any) -> Any:
        """`state` with the last good one of each frozen run in the place of the present one."""
        for at, good in self.frozen.items():
            state = _with(state, at, good)
        return state

    @property
    def none_left(self) -> bool:
        return len(self.frozen) == len(self.seeds) * len(self.points)

    def _finite(self, state: Any) -> np.ndarray:
        """Whether all of a run's numbers are, of shape (seed, point)."""
        finite = np.ones((len(self.seeds), len(self.points)), bool)
        for leaf in jax.tree.leaves(state):
            if np.issubdtype(leaf.dtype, np.floating):
                finite &= np.isfinite(leaf).all(tuple(range(2, leaf.ndim)))
        return finite

    def _fail(self, at: At, metric: str, step: int) -> None:
        if at not in self.frozen:
            self.frozen[at] = self._safe_at(at)
            self.failures.append(Failure(self.stage, step, metric, self.seeds[at[0]], self.points[at[1]]))

    def _safe_at(self, at: At) -> Any:
        return jax.tree.map(lambda x: x[at], self.safe)


@jax.jit
def _with(state: Any, at: At, good: Any) -> Any:
    """A state with that of one run replaced: one program for all its arrays."""
    return jax.tree.map(lambda x, g: x.at[at].set(g), state, good)


def _places(which: np.ndarray) -> list[At]:
    return [(int(s), int(p)) for s, p in zip(*np.nonzero(which), strict=True)]
