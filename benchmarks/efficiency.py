"""What an action and a training cost, for every algorithm, in one run on one device (Figures 1 and 5 of the paper).

  python benchmarks/efficiency.py                                    the table, on standard output
  python benchmarks/efficiency.py --json e.json --csv e.csv --png docs/images
  python benchmarks/efficiency.py --algos srpo,idql,diffusion-ql
  python benchmarks/efficiency.py --from e.json --scores runs/scores/small/scores.csv --png docs/images     draw again

Networks, samplers, numbers of candidates and batch sizes are those of each algorithm's preset `paper` for
hopper-medium-replay-v2 (11 observations, 3 actions); the data are random numbers of that shape and the networks
have seen a few steps of them, as no time here depends on what was learned.

- Time per action: the whole of `act`, compiled (weights inside the program), from an observation on the device to an
  action there. Calls are interleaved, a few of each algorithm in turn, round after round; a figure is the median over
  rounds, a ratio the median over rounds of the ratio within the round, so that other load falls on all alike.
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

import srpo
from efficiency_report import BATCH, COLUMNS, draw, tables, tidy
from flops import flops
from report import check_place, insert, write_csv
from srpo import algorithms, config
from srpo.checkpoint import write_json
from srpo.cli import guarded
from srpo.dry_run import expected
from srpo.grid import Grid
from srpo.runs import versions

TASK, OBS, ACT, ROWS, EPISODE = "hopper-medium-replay-v2", 11, 3, 402_000, 1000
ROUND_SECONDS = 0.05  # of calls of one policy in one round
SLOW_SECONDS = 1.0  # beyond this a call is repeated in a few rounds only
LONGEST_CALL = 8.0  # seconds; batches are made smaller to stay below
REFERENCE = "srpo"
KIND = {  # what an action costs is mostly a matter of this
    "one pass": ("bc", "bc-gaussian", "iql", "td3-bc", "srpo"),
    "candidates": ("bear", "dtql", "dtql-kl"),
    "diffusion": ("bc-diffusion", "idql", "sfbc", "qgpo", "diffusion-ql", "diffuser"),
}

Row = dict[str, Any]


def random_data(rows: int = ROWS) -> srpo.Dataset:
    rng = np.random.default_rng(0)
    timeout = np.arange(rows) % EPISODE == EPISODE - 1
    return srpo.from_arrays(
        obs=rng.normal(size=(rows, OBS)), action=rng.uniform(-1, 1, (rows, ACT)), reward=rng.normal(size=rows),
        terminal=np.zeros(rows, bool), timeout=timeout, name=TASK,
    )  # fmt: skip


def build(algorithm, data: srpo.Dataset) -> tuple[Any, dict[str, Any]]:
    """A policy of the algorithm after a few steps of training, and what these cost by stage."""
    grid, results = Grid.create(algorithm, 1, None), {}
    stages = expected(grid, data.treated(algorithm.data), results)
    policy = jax.tree.map(lambda x: x[0, 0], grid.policies(results))
    jax.clear_caches()
    return policy, stages


def action_of(policy):
    """`act` as a plain function, the weights its constants."""
    return lambda obs, key: policy.act(obs, key)


class Call:
    """One compiled policy with an observation, or a batch of them."""

    def __init__(self, policy, batch: int):
        k_obs, k_act = jax.random.split(jax.random.key(0))
        obs, keys = jax.random.normal(k_obs, (batch, OBS)), jax.random.split(k_act, batch)
        self.batch, self.args = batch, (obs[0], keys[0]) if batch == 1 else (obs, keys)
        self.act = jax.jit(action_of(policy) if batch == 1 else jax.vmap(action_of(policy)))
        self.times(2)  # compiles
        self.seconds = float(self.times(1)[0])

    def times(self, n: int) -> np.ndarray:
        out = np.empty(n)
        for i in range(n):
            begin = time.perf_counter()
            jax.block_until_ready(self.act(*self.args))
            out[i] = time.perf_counter() - begin
        return out

    def round(self, number: int) -> float:
        """Median seconds per action, NaN in the rounds that a slow policy sits out."""
        if self.seconds > SLOW_SECONDS and number >= 3:
            return np.nan
        calls = int(np.clip(ROUND_SECONDS / self.seconds, 1, 500))
        return float(np.median(self.times(calls))) / self.batch


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, np.ndarray]:
    """Seconds per action by algorithm and round: A B C, A B C, ..."""
    found = {name: np.full(rounds, np.nan) for name in calls}
    for i in range(rounds):
        for name, call in calls.items():
            found[name][i] = call.round(i)
    return found


def acting(policies: dict[str, Any], rounds: int) -> dict[str, Row]:
    """Seconds per action and ratios, at both batch sizes."""
    out: dict[str, Row] = {name: {} for name in policies}
    tell("acting: compiling, batch 1")
    calls = {name: Call(policy, 1) for name, policy in policies.items()}
    for batch in (1, BATCH):
        if batch > 1:
            tell(f"acting: compiling, batch {batch}")
            calls = {name: Call(p, fitting(calls[name].seconds, batch)) for name, p in policies.items()}
        tell(f"acting: {rounds} rounds of {len(calls)} policies")
        times = interleaved(calls, rounds)
        for name, t in times.items():
            ratio = np.nanmedian(t / times[REFERENCE])
            low, median, high = np.nanquantile(t, [0.25, 0.5, 0.75])
            out[name][f"batch_{batch}"] = {
                "seconds": median, "quartiles": [low, high], "ratio": ratio, "measured_at": calls[name].batch,
            }  # fmt: skip
    return out


def fitting(seconds: float, batch: int) -> int:
    """The largest batch, halved from `batch`, whose call stays short if time grows with it."""
    while batch > 1 and seconds * batch > LONGEST_CALL:
        batch //= 2
    return batch


def measure(chosen: dict[str, Any], data: srpo.Dataset, rounds: int) -> list[Row]:
    """A row for each algorithm (name -> configured algorithm); SRPO must be among them."""
    policies, rows = {}, {}
    for name, algorithm in chosen.items():
        tell(f"{name}: building the policy and timing its training")
        policies[name], stages = build(algorithm, data)
        hours = sum(s["hours"] for s in stages.values())
        tell(f"{name}: counting operations per action")
        count = flops(action_of(policies[name]), np.zeros(OBS, np.float32), jax.random.key(0))
        rows[name] = {"algorithm": name, "kind": kind(name), "stages": stages, "hours": hours, "flops": count}
    for name, row in acting(policies, rounds).items():
        rows[name] |= row
    for row in rows.values():
        row["flops_ratio"] = row["flops"] / rows[REFERENCE]["flops"]
        row["hours_ratio"] = row["hours"] / rows[REFERENCE]["hours"]
    return sorted(rows.values(), key=lambda row: row["batch_1"]["seconds"])


def kind(name: str) -> str:
    return next((k for k, names in KIND.items() if name in names), "other")


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
            raise config.ConfigError(f"cannot read {args.earlier} ({e}); give a file that --json wrote") from None
    names = list(algorithms.ALGORITHMS) if args.algos == "all" else args.algos.split(",")
    classes = {name: algorithms.find(name) for name in dict.fromkeys([REFERENCE, *names])}
    chosen = {name: config.assign_all(cls(), config.preset(cls.presets, "paper", TASK)) for name, cls in classes.items()}
    rows = measure(chosen, random_data(), args.rounds)
    return {"device": device(), "task": TASK, "versions": versions(), "rows": rows}


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise config.ConfigError(f"--rounds {args.rounds}: expected one or more")
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
    add("--json", type=Path, metavar="OUT", help="write everything measured")
    add("--csv", type=Path, metavar="OUT", help="write one number per row")
    add("--png", type=Path, metavar="DIR", help="draw figure1.png and figure5.png there")
    add("--from", dest="earlier", type=Path, metavar="JSON", help="measure nothing: tables and figures of an earlier --json")
    add("--scores", type=Path, metavar="CSV", help="scores.csv of scores.py for Figure 1 (default: published scores)")
    add("--into", type=Path, metavar="PAGE", help="replace the table in this page, such as docs/results.md")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
