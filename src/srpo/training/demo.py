"""The whole way on a small data set: SRPO, and beside it IQL's policy from the same critic and plain cloning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import srpo
from srpo.errors import ConfigError
from srpo.evaluation.scores import Summary
from srpo.runs.run import Run
from srpo.text import command, plain
from srpo.training.progress import Bars
from srpo.training.train import configure

DATA = "halfcheetah-medium-replay-mini"
EPISODES = 20


@dataclass(frozen=True)
class Row:
    """One line of the final table: normalized scores, of the data's episodes or of a policy's."""

    name: str
    what: str
    mean: float
    std: float
    low: float | None = None
    high: float | None = None
    run: Run | None = None


def demo(out: Path, data: str = DATA, seeds: int | Sequence[int] = 1, quiet: bool = False) -> list[Row]:
    """Train and evaluate SRPO, IQL and BC with their `quick` presets in folders below `out`; returns the table's rows."""
    dataset = srpo.load_dataset(data)
    if dataset.env_id is None or dataset.reference is None:
        raise ConfigError(
            f"{dataset.source}: no environment with reference returns is known for it, so nothing can be scored; use srpo train"
        )
    options: dict[str, Any] = {"seeds": seeds, "eval_every": 0, "quiet": quiet}
    algorithm = configure("srpo", dataset, "quick")
    eval_every = {"eval_every": max(algorithm.stages["policy"].steps // 5, 1), "eval_episodes": 5}
    main = srpo.train(algorithm, dataset, out=out / "srpo", **options | eval_every)
    same = {"data": algorithm.data, "critic": algorithm.stages["critic"]}  # on the same data the critic is the same
    iql = configure("iql", dataset, "quick", **{f"{part}.{k}": v for part, own in same.items() for k, v in vars(own).items()})
    runs = {
        "BC": (
            "plain cloning of the data's actions",
            srpo.train(configure("bc", dataset, "quick"), dataset, out=out / "bc", **options),
        ),
        "IQL": (
            "advantage-weighted cloning, same critic",
            srpo.train(iql, dataset, out=out / "iql", start_from=main.path, **options),
        ),
        "SRPO": ("score-regularized policy", main),
    }
    scores = dataset.score(dataset.returns)
    rows = [Row("data", "the episodes it was trained on", float(np.mean(scores)), float(np.std(scores)))]
    with Bars(quiet) as bars:
        for name, (what, run) in runs.items():
            bars.open(f"evaluate {name}", 1000)
            (s,) = srpo.evaluate(run, EPISODES, progress=bars.update).summaries
            rows.append(Row(name, what, s.mean, spread(s), s.low, s.high, run))
    return rows


def spread(summary: Summary) -> float:
    """Over seeds; nan for one seed."""
    return summary.std if len(summary.seeds) > 1 else float("nan")


def show(rows: list[Row], data: str, began: float) -> None:
    main = rows[-1].run
    assert main is not None  # that row is of a policy
    seeds = len(main.seeds)
    same = [] if main.seeds == (0,) else ["--seeds", "".join(f"{seed}," for seed in main.seeds)]
    one = ["--seed", main.seeds[0]] if seeds > 1 else []
    table = Table(title=f"normalized score, {EPISODES} episodes x {seeds} seed{'s' * (seeds > 1)}", title_justify="left")
    for name in ("", "what", "mean", "95 % interval"):
        table.add_column(name, justify="left" if name in ("", "what") else "right")
    for row in rows:
        interval = f"{row.low:.1f} to {row.high:.1f}" if row.low is not None else ""
        table.add_row(row.name, row.what, f"{row.mean:.1f}", interval, style="bold" if row.name == "SRPO" else None)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    path = main.path
    again = command("srpo", "train", data, "--from", path, "--preset", "quick", *same, "--sweep", "policy.beta=0.02,0.05,0.2")
    export = command("srpo", "export", path, *one, "--to", "policy.safetensors")
    for line in (
        f"{(time.monotonic() - began) / 60:.1f} minutes; the run: {plain(path)} (look at {plain(path / 'curves.png')})",
        "what to try next:",
        f"  {again}    # other temperatures, same critic",
        f"  {export}       # a file that acts without JAX",
        "  srpo data info YOUR_LOGS.hdf5             # then: srpo train YOUR_LOGS.hdf5 --preset quick",
    ):
        console.print(line, markup=False)
