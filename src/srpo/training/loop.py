"""One stage for all its runs (seeds x points): the compiled program and the Python loop around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo.core import Stage
from srpo.data.views import TableView
from srpo.errors import ConfigError
from srpo.networks.precision import Precision, computed_in
from srpo.runs.checkpoint import CheckpointError, load_info, load_tree, require_finite, save_tree
from srpo.runs.devices import local_devices
from srpo.runs.grid import Grid, without
from srpo.runs.mapping import Mapping, default_mapping
from srpo.runs.schema import Checkpoint, convert, require_metrics
from srpo.runs.trust import check_failure, require_mine
from srpo.steps import Log, metric_names
from srpo.system.files import amount, free_memory
from srpo.training.feed import feed
from srpo.training.programs import Layout, advancing, beginning, stage_keys
from srpo.training.survivors import Failure, Survivors

CALL_SECONDS = 0.7  # between two looks at signals and the progress bar
NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # in JAX's words, those of a CPU last
LOGS = 200  # rows per metric and run in metrics.csv


@dataclass(frozen=True)
class SingleRun:
    """What one run of a stage trains with: the arguments of `init` and `update`, without leading axes."""

    stage: Stage
    given: dict[str, Any]
    init_key: jax.Array
    key: jax.Array  # step i draws everything from fold_in(key, i)


@dataclass
class StageLoop:
    """A stage in training. `state` and `log` have leading axes (seed, point); `step` steps are done."""

    name: str
    grid: Grid
    data: Any
    results: dict[str, Any]
    file: Path
    mapping: Mapping = field(default_factory=default_mapping)
    precision: Precision = "float32"
    run: dict[str, Any] | None = None  # whose checkpoints are taken; None: anybody's
    devices: int | None = None  # local ones, for the runs to share; None: all there are

    def __post_init__(self):
        self.stage = self.grid.stacked_stage(self.name)
        self.points = self.grid.stage_points(self.name)
        self.shape = len(self.grid.seeds), len(self.points)
        self.shared, self.own = self.grid.given(self.name, self.results)
        self.init_keys, self.keys = stage_keys(self.name, self.grid.seeds)
        self.log_every = -(-self.stage.steps // LOGS)
        self.step = 0
        self.survivors = Survivors(self.name, self.grid.seeds, self.points)
        self._feed = feed(self._one_stage(0), self.data, self.keys) if isinstance(self.data, TableView) else None
        self.on = local_devices(self.devices, self.shape[0] * self.shape[1])
        self._fits = False  # not known before the first call
        self.rounds = 1  # in which the runs of a device are computed, so that they fit into its memory
        self._program = self.compiled()

    @property
    def _layout(self) -> Layout:
        per_round = None if self.rounds == 1 else -(-self._runs_per_device // self.rounds)
        return Layout(self.mapping, self.on, per_round)

    @property
    def _runs_per_device(self) -> int:
        return -(-self.shape[0] * self.shape[1] // len(self.on))

    def compiled(self) -> Callable[..., Any]:
        """The program that advances all runs; the buffers of state and log that it is given are gone with it."""
        return advancing(jax.tree.structure(self.stage), self._feed is not None, self._layout, self.precision)

    def single(self, seed: int, point: int) -> SingleRun:
        """What the run at these places in `grid.seeds` and `points` trains with."""
        given = {n: jax.tree.map(lambda x: x[seed], r) for n, r in self.shared.items()}
        given |= {n: jax.tree.map(lambda x: x[seed, point], r) for n, r in self.own.items()}
        return SingleRun(self._one_stage(point), given, self.init_keys[seed], self.keys[seed])

    def _one_stage(self, point: int) -> Stage:
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[point]), self.stage)

    def _metric_names(self, states: Any) -> tuple[str, ...]:
        """From the shapes of the states of all runs. Raises ConfigError for names that no table of metrics could hold."""
        given = {n: without(1, r) for n, r in self.shared.items()} | {n: without(2, r) for n, r in self.own.items()}
        args = without(1, self.stage), without(2, states), self.data, given, without(1, self.keys)
        return require_metrics(f"stage {self.name}", computed_in(self.precision, metric_names)(*args))

    def start(self) -> None:
        """The state before the first step, or the one in the checkpoint."""
        points = jnp.arange(len(self.points))
        begun = beginning(self._layout, self.stage, points, self.own, self.init_keys, self.shared, self.data)
        self._require_room(begun.shapes)
        self.log = Log.create(self._metric_names(begun.shapes), self.shape)
        failures: list[dict[str, Any]] = []
        if self.file.exists():
            self.step, failures = self._checkpoint()
            state, log = load_tree(self.file, (begun.shapes, self.log))
            require_finite(self.file, state)
            self.state, self.log = jax.device_put((state, log))
        else:
            state = begun()
            self.state = jax.tree.map(self._own_copy, state)
            if len(self.on) > 1:  # beside the state, as after every call: or the second one would be compiled anew
                self.log = jax.device_put(self.log, jax.tree.leaves(state)[0].sharding)
        self.survivors.keep(self.state, self.step)
        self.survivors.again(failures)

    def _require_room(self, states: Any) -> None:
        """Raises ConfigError if this machine cannot hold the states of all runs; accelerators say so themselves."""
        needed, free = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states)), free_memory()
        if jax.default_backend() == "cpu" and needed > free:
            raise self._too_large(f"networks, averages and optimizers take {amount(needed)}, {amount(free)} are free")

    def _too_large(self, why: str) -> ConfigError:
        runs = self.shape[0] * self.shape[1]
        what = f"stage {self.name}, {runs} run{'s' * (runs > 1)}"
        return ConfigError(f"{what}: {why}; choose narrower networks, smaller batches or fewer runs")

    def _own_copy(self, x: jax.Array) -> jax.Array:
        """Its buffer will be donated: it is shared with no other one, and with no result."""
        return jax.device_put(np.array(x), None if len(self.on) == 1 else x.sharding)

    def settle(self) -> None:
        """Take the present state as the last good one; a run whose state is not finite goes back to the one before."""
        self.survivors.keep(self.state, self.step)
        self.state = self.survivors.restore(self.state)

    def save(self) -> None:
        """Write a checkpoint, from which training continues bit for bit."""
        self.settle()
        failures = [f.as_dict() for f in self.failures]
        save_tree(self.file, (self.survivors.safe, self.log), step=self.step, failures=failures, run=self.run)

    def _checkpoint(self) -> tuple[int, list[dict[str, Any]]]:
        """The step of the checkpoint and what failed by then. Raises CheckpointError if it cannot be this run's."""
        found = load_info(self.file)
        try:
            info = convert(found, Checkpoint)
            if info.step > self.stage.steps:
                raise ValueError(f"step {info.step} of {self.stage.steps}")
            for failure in found["failures"]:
                check_failure(failure, self.grid)
        except ValueError as e:
            raise CheckpointError(f"{self.file} is damaged ({e}); delete it to train this stage anew") from None
        if self.run is not None:
            require_mine(self.file, info.run, self.run, self.grid.algorithm)
        return info.step, found["failures"]

    def calls(self, *stop_every: int) -> Iterator[dict | None]:
        """Train to the end in short calls that also stop at every multiple of each `stop_every` (0: none); after each, yields
        None or, where a row of metrics is due, their means of shape (seed, point)."""
        try:
            yield from self._calls(stop_every)
        finally:
            self.close()

    def _calls(self, stop_every: tuple[int, ...]) -> Iterator[dict | None]:
        length, done = 1, self.step
        while self.step < self.stage.steps:
            log_at, *stop_at = (
                min((self.step // n + 1) * n, self.stage.steps) for n in (self.log_every, *filter(None, stop_every))
            )
            begin, compiles = time.perf_counter(), self.step == done
            self.advance(min(self.step + length, log_at, *stop_at))
            if not compiles and time.perf_counter() - begin < CALL_SECONDS / 2:
                length *= 2
            self.state = self.survivors.check(self.log.bad_step, self.state)
            if self.step in stop_at or self.step == self.stage.steps:
                self.settle()  # who reads the state here finds no number that the last step spoiled
            yield self._metrics() if self.step == log_at else None

    def advance(self, stop: int) -> None:
        """Train up to step `stop` (exclusive), in one call of the compiled program per block of batches."""
        while self.step < stop:
            data, end = (self.data, stop) if self._feed is None else self._feed.at(self.step)
            self._call(data, min(end, stop))
        jax.block_until_ready(self.state)

    def _call(self, data: Any, stop: int) -> None:
        """Up to step `stop` with one call; the first one finds how many runs fit into the memory at once."""
        log = None if self._fits else jax.tree.map(np.array, self.log)  # what is given to the program is gone with it
        shared = self.own, self.keys, self.shared, data, np.int32(self.step), np.int32(stop)
        try:
            self.state, self.log = self._program(self.stage, self.state, self.log, *shared)
            if not self._fits:
                jax.block_until_ready(self.state)
        except jax.errors.JaxRuntimeError as e:
            if log is None or not any(words in str(e) for words in NO_MEMORY):
                raise
            if self.rounds >= self._runs_per_device:
                raise self._too_large("the memory does not hold what one of them needs") from e
            self._in_more_rounds(log)
            return self._call(data, stop)
        self._fits, self.step = True, stop

    def _in_more_rounds(self, log: Log) -> None:
        """Half as many runs at once, from the last good state: the memory did not hold what they need together."""
        self.rounds = min(2 * self.rounds, self._runs_per_device)
        self._program = self.compiled()
        self.state, self.log = jax.tree.map(jnp.array, (self.survivors.safe, log))

    def close(self) -> None:
        """Gather no more batches ahead."""
        if self._feed is not None:
            self._feed.close()

    def _metrics(self) -> dict[str, np.ndarray]:
        """Means since the last row, of shape (seed, point); the log starts anew."""
        count = (self.step - 1) % self.log_every + 1
        means = {name: np.array(total) / count for name, total in sorted(self.log.total.items())}
        for at in self.survivors.frozen:
            for values in means.values():
                values[at] = np.nan  # it is no longer trained
        self.log = Log(jax.tree.map(jnp.zeros_like, self.log.total), self.log.bad_step)
        return means

    def result(self) -> Any:
        """What later stages and the policy see, with leading axes (seed, point)."""
        over_points = jax.vmap(lambda stage, state: stage.result(state))
        found = jax.vmap(over_points, (None, 0))(self.stage, self.state)
        # what lies on several devices belongs to them; what follows may run on others
        return found if len(self.on) == 1 else jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found)

    @property
    def failures(self) -> list[Failure]:
        return self.survivors.failures

    @property
    def all_failed(self) -> bool:
        return self.survivors.none_left
