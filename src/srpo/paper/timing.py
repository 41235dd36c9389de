"""Times what an action and a training cost, for every algorithm, in one run on one device.

Networks, samplers, numbers of candidates and batch sizes are those of each algorithm's preset `paper` for
hopper-medium-replay-v2 (11 observations, 3 actions); the data are random numbers of that shape and the networks
are new, as no time here depends on what was learned.

- Time per action: the whole of `act`, compiled, from an observation on the device to an action there, on the thread that
  waits for it: JAX otherwise hands a program to another thread, whose waking alone takes several times as long as one pass of
  a small network. Calls are interleaved, a few of each algorithm in turn, round after round; a figure is the median over
  rounds, a ratio one of medians. A policy whose call takes over a second has its turn in three rounds: first, middle, last.
- Core time per action: what all cores of this process worked for it. Where other programs run it says more than the time that
  passed, which favors short calls there: they fit between two interruptions.
- A policy too slow for a batch of 256 is timed at a smaller one (`measured_at`); at that size time grows with the batch.
- Operations per action: XLA's cost analysis of the compiled program, with bodies of loops counted at every trip (flops.py).
- Training: seconds of 1000 steps, one seed, in the compiled loop of `srpo train`; hours for the preset's steps. SfBC's
  planning of returns between its steps is left out; drawing tables of actions (`support`) is for 402,000 rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import srpo
from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.data.treated import treat
from srpo.paper import costs
from srpo.paper.costs import Asked, Costs, Row
from srpo.paper.flops import flops
from srpo.paper.job import Job
from srpo.runs.grid import Grid
from srpo.suite.jobs import cores
from srpo.training.dry_run import expected
from srpo.training.progress import Bars

TASK, OBS, ACT, ROWS, EPISODE = "hopper-medium-replay-v2", 11, 3, 402_000, 1000
ROUND_SECONDS = 0.05  # of calls of one policy in one round
SLOW_SECONDS = 1.0  # beyond this a call is repeated in three rounds only
LONGEST_CALL = 8.0  # seconds; batches are made smaller to stay below
REFERENCE = "srpo"


@dataclass(frozen=True)
class Effort:
    """How much is timed. batches: of observations acted on at once, the first is one."""

    rounds: int = 25
    batches: tuple[int, ...] = (1, 256)
    training: bool = True


FULL, ACTING, QUICK = Effort(), Effort(batches=(1,), training=False), Effort(3, (1,), False)


def costs_of(job: Job, names: Sequence[str], effort: Effort) -> Costs:
    """Those of an earlier run if its file was given, else measured now and written to costs.csv. Raises ConfigError."""
    asked = job.asked or Asked()
    if asked.earlier is not None:
        return costs.read(asked.earlier)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # before JAX starts its device
    classes = {name: algorithms.find(name) for name in dict.fromkeys([REFERENCE, *(asked.names or names)])}
    chosen = {
        name: config.assign_all(cls.default(), config.preset(cls.presets, "paper", TASK)) for name, cls in classes.items()
    }
    found = Costs(measure(chosen, random_data(), QUICK if asked.quick else effort, job.bars))
    job.table("costs", found.rows, costs.COLUMNS)
    return found


def random_data(rows: int = ROWS) -> Dataset:
    rng = np.random.default_rng(0)
    timeout = np.arange(rows) % EPISODE == EPISODE - 1
    return srpo.from_arrays(
        obs=rng.normal(size=(rows, OBS)),
        action=rng.uniform(-1, 1, (rows, ACT)),
        reward=rng.normal(size=rows),
        terminal=np.zeros(rows, bool),
        timeout=timeout,
        name=TASK,
    )


def measure(chosen: Mapping[str, Algorithm], data: Dataset, effort: Effort, bars: Bars) -> list[Row]:
    """Rows of costs of each algorithm (name -> configured); the reference must be among them."""
    policies, rows, where = {}, [], device()

    def add(name: str, quantity: str, value: float, unit: str, **more: Any) -> None:
        about = {"algorithm": name, "kind": chosen[name].acts_by, "quantity": quantity, "value": value, "unit": unit}
        rows.append({"stage": "", "batch": "", "measured_at": "", "device": where} | about | more)

    for name, algorithm in chosen.items():
        bars.say(f"{name}: counting operations per action")
        policies[name] = untrained(algorithm, data)
        key = jax.random.key(0)
        add(name, costs.OPERATIONS, flops(act, policies[name], np.zeros(OBS, np.float32), key), "FLOP")
    for name, batch, measured_at, seconds, core_seconds in acting(policies, effort, bars):
        more = {"batch": batch, "measured_at": measured_at}
        add(name, costs.TIME, seconds, "s", **more)
        add(name, costs.CORE_TIME, core_seconds, "s", **more)
    for name, algorithm in chosen.items() if effort.training else ():
        jax.clear_caches()
        bars.say(f"{name}: timing its training")
        stages = expected(Grid.create(algorithm, 1, None), treat(data, algorithm.data), quiet=True)
        for stage, s in stages.items():
            add(name, costs.STEPS, s["ms_per_step"], "s", stage=stage)
            add(name, costs.CORE_STEPS, s["cpu_ms_per_step"], "s", stage=stage)
        add(name, costs.TRAINING, sum(s["hours"] for s in stages.values()), "h")
    return list(costs.with_ratios(rows, REFERENCE))


def untrained(algorithm: Algorithm, data: Dataset) -> Any:
    """A policy of the algorithm before its first step."""
    treated = treat(data, algorithm.data)
    results: dict[str, Any] = {}
    for name, stage in algorithm.stages.items():
        given = {need: results[need] for need in stage.needs}
        results[name] = _begun(stage, stage.view(treated), given, jax.random.key(0))
    return algorithm.make_policy(results)


@jax.jit
def _begun(stage, view, given, key):
    return stage.result(stage.init(view, given, key))


def act(policy, obs, key):
    return policy.act(obs, key)


class Call:
    """One compiled policy with an observation, or a batch of them."""

    def __init__(self, policy, batch: int):
        k_obs, k_act = jax.random.split(jax.random.key(0))
        obs, keys = jax.random.normal(k_obs, (batch, OBS)), jax.random.split(k_act, batch)
        leaves, structure = jax.tree.flatten(policy)  # arrays alone: what a call costs is the program's time, not Python's
        fn = act if batch == 1 else jax.vmap(act, (None, 0, 0))
        self.act = jax.jit(lambda leaves, obs, key: fn(jax.tree.unflatten(structure, leaves), obs, key))
        self.batch, self.args = batch, (leaves, obs[0], keys[0]) if batch == 1 else (leaves, obs, keys)
        self.times(1)  # compiles
        self.seconds = float(self.times(1)[0, 0])

    def times(self, n: int) -> np.ndarray:
        """Seconds passed and seconds worked by all cores, of shape (n, 2)."""
        out = np.empty((n, 2))
        for i in range(n):
            begin, worked = time.perf_counter(), time.process_time()
            jax.block_until_ready(self.act(*self.args))
            out[i] = time.perf_counter() - begin, time.process_time() - worked
        return out

    def round(self) -> np.ndarray:
        """Median times per action."""
        calls = int(np.clip(ROUND_SECONDS / self.seconds, 1, 500))
        return np.median(self.times(calls), 0) / self.batch

    def turns(self, rounds: int) -> set[int]:
        """The rounds in which it is timed: all of them, or for a slow policy three that cover the same time."""
        return {0, rounds // 2, rounds - 1} if self.seconds > SLOW_SECONDS else set(range(rounds))


def acting(policies: Mapping[str, Any], effort: Effort, bars: Bars) -> Iterator[tuple[str, int, int, float, float]]:
    """Name, batch, the batch it was timed at, seconds and core seconds per action, of every policy and batch."""
    calls: dict[str, Call] = {}
    for batch in effort.batches:
        for name, policy in policies.items():
            bars.say(f"acting, batch {batch}: compiling {name}")
            calls[name] = Call(policy, batch if batch == 1 else fitting(calls[name].seconds, batch))
        bars.say(f"acting, batch {batch}: {effort.rounds} rounds")
        for name, times in interleaved(calls, effort.rounds).items():
            seconds, core_seconds = np.nanmedian(times, 0).tolist()
            yield name, batch, calls[name].batch, seconds, core_seconds


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Times per action (round, 2) by algorithm: A B C, A B C, ...; NaN in the rounds that a slow policy sits out."""
    found = {name: np.full((rounds, 2), np.nan) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            if i in call.turns(rounds):
                found[name][i] = call.round()
    return found


def fitting(seconds: float, batch: int) -> int:
    """The largest batch, halved from `batch`, whose call stays short if time grows with it."""
    while batch > 1 and seconds * batch > LONGEST_CALL:
        batch //= 2
    return batch


def device() -> str:
    found = jax.devices()[0]
    return found.device_kind + (f", {len(cores())} cores" if found.platform == "cpu" else "")
