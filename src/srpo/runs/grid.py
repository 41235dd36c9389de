"""The runs of one training: seeds times swept values.

A sweep gives values for paths such as `policy.beta`. The full grid is their product; a stage trains once per
seed and per point of those paths that it, or a stage it needs, can see, so earlier stages are shared.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo import config
from srpo.core import Algorithm
from srpo.errors import ConfigError
from srpo.runs.schema import RUNS, SEEDS, require_few

Point = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Grid:
    algorithm: Algorithm
    seeds: tuple[int, ...]
    sweep: Mapping[str, tuple[float, ...]]

    @classmethod
    def create(cls, algorithm: Algorithm, seeds: int | Sequence[int], sweep: Mapping[str, Sequence[Any]] | None) -> Grid:
        """Raises ConfigError for seeds that are none or the same, paths that cannot be swept, values that do not fit together, and
        too many runs."""
        try:
            seeds = _seeds(seeds)
        except TypeError:
            raise ConfigError(f"seeds: found {seeds!r}, expected how many, or which ones as whole numbers") from None
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= SEEDS:
            raise ConfigError(
                f"seeds {', '.join(map(str, seeds)) or '(none)'}: expected one or more different whole numbers from 0 to {SEEDS - 1}"
            )
        axes = {}
        for path, values in _swept(sweep).items():
            found = config.lookup(algorithm, path)
            if not found.sweepable:
                raise ConfigError(
                    f"{path} is a size or a choice and cannot be swept; train one run per value with --set {path}=..."
                )
            axis = axes[found.path] = tuple(found.read(v) for v in values)
            if len(set(axis)) < len(axis):
                raise ConfigError(f"{path}: expected one or more different values to sweep, found {values}")
        runs = len(seeds) * math.prod(map(len, axes.values()))
        if runs > RUNS:
            raise ConfigError(f"found {runs} runs, seeds times swept values, expected at most {RUNS}")
        grid = cls(algorithm, seeds, axes)
        for point in grid.points if axes else ():
            grid.at(point)  # what does not fit together is refused here, not when it has been trained
        return grid

    @property
    def points(self) -> list[Point]:
        """The full grid."""
        return self._product(self.sweep)

    def _product(self, paths) -> list[Point]:
        return [tuple(zip(paths, values, strict=True)) for values in itertools.product(*(self.sweep[p] for p in paths))]

    def _paths(self, stage: str) -> list[str]:
        seen = {stage} | {a for need in self.algorithm.stages[stage].needs for a in self._ancestors(need)}
        return [path for path in self.sweep if path.split(".")[0] in seen]

    def _ancestors(self, stage: str) -> set[str]:
        return {stage}.union(*(self._ancestors(n) for n in self.algorithm.stages[stage].needs))

    def stage_points(self, stage: str) -> list[Point]:
        """The points at which `stage` trains."""
        return self._product(self._paths(stage))

    def where(self, stage: str, point: Point) -> int:
        """Which of the stage's points the (finer) `point` belongs to."""
        paths = self._paths(stage)
        return self.stage_points(stage).index(tuple((p, v) for p, v in point if p in paths))

    def at(self, point: Point) -> Algorithm:
        """The algorithm with the values of one point."""
        return config.assign_all(self.algorithm, dict(point))

    def stacked_stage(self, stage: str) -> Any:
        """The stage with every float as an array over its points."""
        stages = [self.at(point).stages[stage] for point in self.stage_points(stage)]
        return jax.tree.map(lambda *xs: jnp.asarray(xs, jnp.float32), *stages)

    def given(self, stage: str, results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `stage` needs of `results` (leading axes: seed, point): the ones shared by all its points, without a
        point axis, and its own, with one."""
        shared, own = {}, {}
        points = self.stage_points(stage)
        for need in self.algorithm.stages[stage].needs:
            if len(self.stage_points(need)) == 1:
                shared[need] = _of_points(results[need], 0)
            else:
                own[need] = _of_points(results[need], np.array([self.where(need, point) for point in points]))
        return shared, own

    def policies(self, results: Mapping[str, Any]) -> Any:
        """The policies of all runs as one pytree with leading axes (seed, point), from the results of the stages they hold."""
        made = []
        for point in self.points:
            trained = {n: _of_points(results[n], self.where(n, point)) for n in self.acting}
            made.append(jax.vmap(self.at(point).make_policy)(trained))
        return _stacked(made)

    def result_shapes(self, data: Any) -> dict[str, Any]:
        """The shapes of the results of all stages, with leading axes (seed, point); `data` gives views, of which only sizes are used."""
        out: dict[str, Any] = {}
        for name, stage in self.algorithm.stages.items():
            given = {need: without(2, out[need]) for need in stage.needs}

            def init(view, given, key, stage=stage):
                return stage.result(stage.init(view, given, key))

            one = jax.eval_shape(init, stage.view(data), given, jax.random.key(0))
            lead = len(self.seeds), len(self.stage_points(name))
            out[name] = jax.tree.map(lambda x, lead=lead: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), one)
        return out

    @property
    def acting(self) -> tuple[str, ...]:
        """The stages whose results the policies are made of: the others', which may be tables over all data, are not needed to act."""
        return self.algorithm.acts_with or tuple(self.algorithm.stages)


def _seeds(asked: int | Sequence[int]) -> tuple[int, ...]:
    """How many, or which ones, of whatever type. Raises TypeError for what are no whole numbers, ConfigError for too many."""
    if isinstance(asked, bool):  # a truth would pass for one seed
        raise TypeError
    try:
        count = operator.index(asked)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, asked))  # type: ignore[arg-type]
    require_few(count)
    return tuple(range(count))


def _swept(sweep: Mapping[str, Sequence[Any]] | None) -> dict[str, list[Any]]:
    """The values to sweep by path. Raises ConfigError for what is no list of them."""
    if sweep is not None and not isinstance(sweep, Mapping):
        raise ConfigError(f"sweep: found {sweep!r}, expected values by path, such as {{'policy.lr': [1e-3, 3e-4]}}")
    axes = {}
    for path, values in (sweep or {}).items():
        try:
            axes[path] = list(() if isinstance(values, str) else values)
        except TypeError:
            axes[path] = []
        if not axes[path]:
            raise ConfigError(f"{path}: found {values!r}, expected one or more different values to sweep, such as [0.1, 0.2]")
    return axes


def without(axes: int, tree: Any) -> Any:
    """The shapes of arrays, or of shapes, without so many leading axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes:], x.dtype), tree)


# each one program for all arrays, not one for each of their shapes


@jax.jit
def _of_points(result: Any, at: int | np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[:, at], result)


@jax.jit
def _stacked(policies: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs, 1), *policies)
