"""What an action and a training cost, for every algorithm, in one run on one device (Figures 1 and 5 of the paper).

  python benchmarks/efficiency.py                                    the table, on standard output
  python benchmarks/efficiency.py --json e.json --csv e.csv --png docs/images
  python benchmarks/efficiency.py --algos srpo,idql,diffusion-ql
  python benchmarks/efficiency.py --from e.json --scores docs/scores/scores.csv --png docs/images     draw again

Networks, samplers, numbers of candidates and batch sizes are those of each algorithm's preset `paper` for
hopper-medium-replay-v2 (11 observations, 3 actions); the data are random numbers of that shape and the networks
are new, as no time here depends on what was learned.

- Time per action: the whole of `act`, compiled, from an observation on the device to an action there, on the thread that
  waits for it: JAX otherwise hands a program to another thread, whose waking alone takes several times as long as one pass of
  a small network. Calls are interleaved, a few of each algorithm in turn, round after round; a figure is the median over
  rounds, a ratio one of medians. A policy whose call takes over a second has its turn in three rounds: first, middle, last.
- Core time per action: what all cores of this process worked for it. Where other programs run it says more than the time that
  passed, which favors short calls there: they fit between two interruptions.
- A policy too slow for a batch of 256 is timed at a smaller one, named in the table; at that size time grows with the batch.
- Operations per action: XLA's cost analysis of the compiled program, with bodies of loops counted at every trip (flops.py).
- Training: milliseconds of a step, one seed, in the compiled loop of `srpo train`; hours for the preset's steps. SfBC's
  planning of returns between its steps is left out; drawing tables of actions (`support`) is for 402,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from efficiency_report import BATCH, COLUMNS, draw, tables, tidy
from flops import flops

import srpo
from srpo import algorithms, config
from srpo.cli import guarded
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.runs.checkpoint import write_json
from srpo.runs.grid import Grid
from srpo.runs.run import versions
from srpo.suite.pages import check_place, insert, write_csv
from srpo.training.dry_run import expected

TASK, OBS, ACT, ROWS, EPISODE = "hopper-medium-replay-v2", 11, 3, 402_000, 1000
ROUND_SECONDS = 0.05  # of calls of one policy in one round
SLOW_SECONDS = 1.0  # beyond this a call is repeated in three rounds only
LONGEST_CALL = 8.0  # seconds; batches are made smaller to stay below
REFERENCE = "srpo"

Row = dict[str, Any]


def random_data(rows: int = ROWS) -> srpo.Dataset:
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


def untrained(algorithm, data: srpo.Dataset) -> Any:
    """A policy of the algorithm before its first step."""
    data, results = treat(data, algorithm.data), {}
    for name, stage in algorithm.stages.items():
        given = {need: results[need] for need in stage.needs}
        results[name] = stage.result(stage.init(stage.view(data), given, jax.random.key(0)))
    return algorithm.make_policy(results)


def act(policy, obs, key):
    return policy.act(obs, key)


class Call:
    """One compiled policy with an observation, or a batch of them."""

    def __init__(self, policy, batch: int):
        k_obs, k_act = jax.random.split(jax.random.key(0))
        obs, keys = jax.random.normal(k_obs, (batch, OBS)), jax.random.split(k_act, batch)
        leaves, structure = jax.tree.flatten(policy)  # arrays alone: what a call costs is the program's time, not Python's
        fn = act if batch == 1 else jax.vmap(act, (None, 0, 0))
        self.act = jax.jit(lambda leaves, obs, key: fn(structure.unflatten(leaves), obs, key))
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


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Times per action (round, 2) by algorithm: A B C, A B C, ...; NaN in the rounds that a slow policy sits out."""
    found = {name: np.full((rounds, 2), np.nan) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            if i in call.turns(rounds):
                found[name][i] = call.round()
    return found


def acting(policies: dict[str, Any], rounds: int) -> dict[str, Row]:
    """Times per action and ratios, at both batch sizes."""
    out: dict[str, Row] = {name: {} for name in policies}
    calls: dict[str, Call] = {}
    for batch in (1, BATCH):
        for name, policy in policies.items():
            tell(f"acting, batch {batch}: compiling {name}")
            calls[name] = Call(policy, batch if batch == 1 else fitting(calls[name].seconds, batch))
        tell(f"acting, batch {batch}: {rounds} rounds")
        times = interleaved(calls, rounds)
        medians = {name: np.nanmedian(t, 0) for name, t in times.items()}
        for name, t in times.items():
            seconds, cpu_seconds = medians[name]
            ratio, cpu_ratio = medians[name] / medians[REFERENCE]
            out[name][f"batch_{batch}"] = {
                "seconds": seconds,
                "ratio": ratio,
                "cpu_seconds": cpu_seconds,
                "cpu_ratio": cpu_ratio,
                "quartiles": np.nanquantile(t[:, 0], [0.25, 0.75]).tolist(),
                "measured_at": calls[name].batch,
            }
    return out


def fitting(seconds: float, batch: int) -> int:
    """The largest batch, halved from `batch`, whose call stays short if time grows with it."""
    while batch > 1 and seconds * batch > LONGEST_CALL:
        batch //= 2
    return batch


def measure(chosen: dict[str, Any], data: srpo.Dataset, rounds: int, training: bool = True) -> list[Row]:
    """A row for each algorithm (name -> configured algorithm); SRPO must be among them."""
    policies, rows = {}, {}
    for name, algorithm in chosen.items():
        tell(f"{name}: counting operations per action")
        policies[name] = untrained(algorithm, data)
        count = flops(act, policies[name], np.zeros(OBS, np.float32), jax.random.key(0))
        about = {"kind": algorithm.acts_by, "title": algorithm.title or name}
        rows[name] = {"algorithm": name, **about, "flops": count, "stages": {}}
    for name, row in acting(policies, rounds).items():
        rows[name] |= row
    for name, algorithm in chosen.items() if training else ():
        jax.clear_caches()
        tell(f"{name}: timing its training")
        stages = expected(Grid.create(algorithm, 1, None), treat(data, algorithm.data))
        rows[name] |= {"stages": stages, "hours": sum(s["hours"] for s in stages.values())}
    for row in rows.values():
        row["flops_ratio"] = row["flops"] / rows[REFERENCE]["flops"]
        if training:
            row["hours_ratio"] = row["hours"] / rows[REFERENCE]["hours"]
    return sorted(rows.values(), key=lambda row: row["batch_1"]["seconds"])


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def device() -> str:
    found = jax.devices()[0]
    return found.device_kind + (f", {len(os.sched_getaffinity(0))} cores" if found.platform == "cpu" else "")


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Everything measured now, or by an earlier run if its file is given."""
    if args.earlier is not None:
        try:
            return json.loads(args.earlier.read_text())
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read {args.earlier} ({e}); give a file that --json wrote") from None
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # before JAX starts its device
    names = list(algorithms.ALGORITHMS) if args.algos == "all" else args.algos.split(",")
    classes = {name: algorithms.find(name) for name in dict.fromkeys([REFERENCE, *names])}
    chosen = {name: config.assign_all(cls(), config.preset(cls.presets, "paper", TASK)) for name, cls in classes.items()}
    rows = measure(chosen, random_data(), args.rounds, not args.no_training)
    return {"device": device(), "task": TASK, "versions": versions(), "rows": rows}


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds}: expected one or more")
    if args.into is not None:
        check_place(args.into, "efficiency")
    found = measured(args)
    rows, text = found["rows"], tables(found["rows"], found["device"])
    if args.json is not None:
        write_json(args.json, found)
    if args.csv is not None:
        write_csv(args.csv, tidy(rows), COLUMNS)
    if args.png is not None:
        draw(rows, args.png, args.scores)
    if args.into is not None:
        insert(args.into, "efficiency", text)
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--algos", default="all", help="all (default), or names separated by commas; SRPO is always measured")
    add("--rounds", type=int, default=25, metavar="N", help="interleaved rounds; default 25")
    add("--no-training", action="store_true", help="leave the times of training out")
    add("--json", type=Path, metavar="OUT", help="write everything measured")
    add("--csv", type=Path, metavar="OUT", help="write one number per row")
    add("--png", type=Path, metavar="DIR", help="draw figure1.png and figure5.png there")
    add("--from", dest="earlier", type=Path, metavar="JSON", help="measure nothing: tables and figures of an earlier --json")
    add("--scores", type=Path, metavar="CSV", help="scores.csv of srpo suite for Figure 1 (default: published scores)")
    add("--into", type=Path, metavar="PAGE", help="replace the table in this page, such as docs/results.md")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
