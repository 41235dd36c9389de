"""One stage for all its runs (seeds x points): the compiled program and the Python loop around it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo.core import Log, Stage, advance, metric_names
from srpo.runs.checkpoint import load_info, load_tree, save_tree
from srpo.runs.grid import Grid
from srpo.runs.mapping import over_runs

CALL_SECONDS = 0.7  # between two looks at signals and the progress bar
LOGS = 200  # rows per metric and run in metrics.csv


def _advance(stage, carry, own, key, shared, data, start, stop):
    state, log = carry
    return advance(stage, state, log, data, {**shared, **own}, key, start, stop)


def _init(stage, _, own, key, shared, data):
    return stage.init(data, {**shared, **own}, key)


def stage_keys(name: str, seeds) -> jax.Array:
    """One key per seed, for initialization and steps; the same wherever a stage of this name is trained."""
    salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), salt))(jnp.array(seeds, jnp.uint32))


@dataclass(frozen=True)
class Failure:
    """A run that met a value that is not finite."""

    stage: str
    step: int
    metric: str
    seed: int
    point: tuple

    def __str__(self):
        where = ", ".join([f"seed {self.seed}", *(f"{p}={v:g}" for p, v in self.point)])
        return f"{where}: {self.metric} is not finite at step {self.step} of stage {self.stage}; the state before is kept, the other runs go on"


@dataclass
class StageLoop:
    """A stage in training. `carry` is (state, log) with leading axes (seed, point); `step` steps are done."""

    name: str
    grid: Grid
    data: Any
    results: dict[str, Any]
    file: Path
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self):
        self.stage = self.grid.stacked_stage(self.name)
        self.points = self.grid.stage_points(self.name)
        self.shared, self.own = self.grid.given(self.name, self.results)
        keys = stage_keys(self.name, self.grid.seeds)
        self.init_keys, self.keys = (jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in (0, 1))
        self._advance = jax.jit(over_runs(_advance), donate_argnums=1)
        self.log_every = -(-self.stage.steps // LOGS)
        self.step = 0
        self.shape = len(self.grid.seeds), len(self.points)
        self._frozen: dict[tuple[int, int], Any] = {}
        self._safe: Any = None  # the last good state, on the host

    def _runs(self, seed: int, point: int) -> tuple[Stage, dict[str, Any]]:
        one = {n: jax.tree.map(lambda x: x[seed], r) for n, r in self.shared.items()}
        one |= {n: jax.tree.map(lambda x: x[seed, point], r) for n, r in self.own.items()}
        return jax.tree.map(lambda x: x[point], self.stage), one

    def start(self) -> None:
        """The state before the first step, or the one in the checkpoint."""
        axes = jnp.zeros(self.shape)
        init = over_runs(_init)
        args = (self.stage, axes, self.own, self.init_keys, self.shared, self.data)
        shapes = jax.eval_shape(init, *args)
        stage, given = self._runs(0, 0)
        one = jax.eval_shape(lambda *a: stage.init(*a), self.data, given, self.init_keys[0])
        log = Log.create(metric_names(stage, one, self.data, given, self.keys[0]))
        logs = jax.tree.map(lambda x: jnp.broadcast_to(x, (*axes.shape, *x.shape)) + 0, log)
        if self.file.exists():
            info = load_info(self.file)
            self.step = info["step"]
            self.carry = jax.device_put(load_tree(self.file, (shapes, logs)))
            self.failures = [Failure(**f | {"point": tuple(map(tuple, f["point"]))}) for f in info["failures"]]
        else:
            self.carry = (jax.jit(init)(*args), logs)
        self._keep()
        for failure in self.failures:
            at = self.grid.seeds.index(failure.seed), self.points.index(failure.point)
            self._frozen[at] = self._kept(at)

    def _keep(self) -> None:
        """Remember the present state as the last good one; a run whose state is not finite is frozen at the one before."""
        state = jax.tree.map(lambda x: np.array(x, copy=True), self.carry[0])  # a view would be donated under our feet
        finite = np.ones(self.shape, bool)
        for leaf in jax.tree.leaves(state):
            if np.issubdtype(leaf.dtype, np.floating):
                finite &= np.isfinite(leaf).all(tuple(range(2, leaf.ndim)))
        for at in zip(*np.nonzero(~finite), strict=True):
            if self._safe is None:
                raise FloatingPointError(
                    f"the state of stage {self.name} is not finite before its first step; look at the data with srpo data info"
                )
            self._fail(at, "a parameter", self.step)
            for leaf, good in zip(jax.tree.leaves(state), jax.tree.leaves(self._frozen[at]), strict=True):
                leaf[at] = good
        self._safe = state

    def _kept(self, at) -> Any:
        return jax.tree.map(lambda x: x[at], self._safe)

    def save(self) -> None:
        """Write a checkpoint, from which training continues bit for bit."""
        self._keep()
        failures = [vars(f) for f in self.failures]
        save_tree(self.file, (self._safe, self.carry[1]), step=self.step, failures=failures)

    def calls(self, stop_every: int = 0) -> Iterator[dict | None]:
        """Train to the end in short calls that also stop at every multiple of `stop_every`; after each, yields None or,
        where a row of metrics is due, their means of shape (seed, point)."""
        length, done = 1, self.step
        while self.step < self.stage.steps:
            log_at, stop_at = (
                min((self.step // n + 1) * n, self.stage.steps) for n in (self.log_every, stop_every or self.stage.steps)
            )
            stop = min(self.step + length, log_at, stop_at)
            begin = time.perf_counter()
            self.carry = self._advance(
                self.stage, self.carry, self.own, self.keys, self.shared, self.data, np.int32(self.step), np.int32(stop)
            )
            jax.block_until_ready(self.carry)
            if self.step > done and time.perf_counter() - begin < CALL_SECONDS / 2:  # the first call compiled
                length *= 2
            self.step = stop
            self._check()
            if stop == self.stage.steps:
                self._keep()  # finds what the last step left
                self._restore()
            yield self._metrics() if stop == log_at else None

    def _fail(self, at, metric: str, step: int) -> None:
        if at not in self._frozen:
            self._frozen[at] = self._kept(at)
            self.failures.append(Failure(self.name, step, metric, self.grid.seeds[at[0]], self.points[at[1]]))

    def _check(self) -> None:
        """Freeze runs whose metrics are no longer finite at their last good state."""
        for metric, steps in jax.device_get(self.carry[1].bad_step).items():
            for at in zip(*np.nonzero(steps >= 0), strict=True):
                self._fail(at, metric, int(steps[at]))
        self._restore()

    def _restore(self) -> None:
        """Put the last good state of the runs that failed in the place of the present one."""
        state, log = self.carry
        for at, good in self._frozen.items():
            state = jax.tree.map(lambda x, g, at=at: x.at[at].set(g), state, good)
        self.carry = (state, log)

    def _metrics(self) -> dict[str, np.ndarray]:
        """Means since the last row, of shape (seed, point); the log starts anew."""
        state, log = self.carry
        count = (self.step - 1) % self.log_every + 1
        means = {name: np.array(total) / count for name, total in sorted(log.total.items())}
        for at in self._frozen:
            for values in means.values():
                values[at] = np.nan  # it is no longer trained
        self.carry = (state, Log(jax.tree.map(jnp.zeros_like, log.total), log.bad_step))
        return means

    def result(self) -> Any:
        """What later stages and the policy see, with leading axes (seed, point)."""
        over_points = jax.vmap(lambda stage, state: stage.result(state))
        return jax.vmap(over_points, (None, 0))(self.stage, self.carry[0])

    @property
    def all_failed(self) -> bool:
        return len(self._frozen) == self.shape[0] * self.shape[1]
