"""What scores.py found, as rows and as a page: score and its spread by run, means over the suite, times, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from report import markdown, write_csv
from srpo import Dataset
from srpo.checkpoint import write_atomically
from srpo.evaluation import bootstrap, evals_table
from srpo.runs import Run

SUITE = "mean of the suite"
RECORDED = "(the data)"
CLONING = "bc"
COLUMNS = (
    "data", "algorithm", "status", "seeds", "episodes", "mean", "std", "low", "high", "train_seconds", "eval_seconds", "time_incomplete", "error",
)  # fmt: skip
EPISODE_COLUMNS = ("data", "algorithm", "seed", "episode", "env_seed", "return", "length", "score", "env_id", "gymnasium", "mujoco")

Row = dict[str, Any]


def final_rows(run: Run) -> list[dict[str, str]]:
    """The episodes of the last policies."""
    if not (run.path / "evals.csv").exists():
        return []
    return [row for row in evals_table(run).read() if row["kind"] == "final"]


def scores(run: Run) -> dict[int, np.ndarray]:
    """Normalized scores of the last policies' episodes by seed; empty as long as there are none."""
    rows = final_rows(run)
    seeds = {int(r["seed"]): None for r in rows}
    return {s: np.array([float(r["score"]) for r in rows if int(r["seed"]) == s]) for s in seeds}


def figures(values: np.ndarray) -> Row:
    """Mean, deviation over seeds and 95 % bootstrap interval of scores (seed, episode)."""
    low, high = bootstrap(values)
    return {
        "seeds": values.shape[0], "episodes": values.shape[1], "mean": values.mean(), "std": values.mean(1).std(), "low": low, "high": high,
    }  # fmt: skip


def cell_rows(data: str, algorithm: str, run: Run | None, log: Row) -> list[Row]:
    """One row about a run, finished or not."""
    found = scores(run) if run is not None and run.complete else {}
    status = "failed" if log["error"] else "finished" if found else "unfinished"
    errors = [log["error"]] if log["error"] else [str(f) for f in (run.failures if run else [])]
    row = {"data": data, "algorithm": algorithm, "status": status, "error": "; ".join(errors)}
    row |= {"train_seconds": log["train_seconds"], "eval_seconds": log["eval_seconds"]}
    row["time_incomplete"] = log["incomplete"] or log["busy"] is not None
    return [row | (figures(np.stack(list(found.values()))) if found else {})]


def data_rows(sources: Mapping[str, Dataset]) -> list[Row]:
    """The mean score of the recorded episodes."""
    return [{"data": name, "algorithm": RECORDED, "status": "recorded", "mean": d.score(d.returns).mean()} for name, d in sources.items()]


def suite_rows(rows: Sequence[Row], runs: Mapping[tuple[str, str], Run], suite: Sequence[str]) -> list[Row]:
    """Means over the suite of what is finished on all its data sets; `runs` by data set and algorithm.

    Seed i of one data set goes with seed i of the others; a seed that failed on one is left out of all.
    """
    recorded = [r["mean"] for r in rows if r["algorithm"] == RECORDED]
    out = [{"data": SUITE, "algorithm": RECORDED, "status": "recorded", "mean": float(np.mean(recorded))}]
    for name in dict.fromkeys(r["algorithm"] for r in rows if r["algorithm"] != RECORDED):
        mine = [r for r in rows if r["algorithm"] == name]
        if {r["data"] for r in mine if r["status"] == "finished"} != set(suite):
            continue
        found = [scores(runs[data, name]) for data in suite]
        common = [s for s in found[0] if all(s in other for other in found)]
        if not common:
            continue
        values = np.mean([[by_seed[s] for s in common] for by_seed in found], 0)  # (seed, episode)
        times = {key: sum(r[key] for r in mine) for key in ("train_seconds", "eval_seconds")}
        incomplete = any(r["time_incomplete"] for r in mine)
        out.append({"data": SUITE, "algorithm": name, "status": "finished", **figures(values), **times, "time_incomplete": incomplete})
    return out


def save(out: Path, rows: Sequence[Row], runs: Mapping[tuple[str, str], Run], text: str) -> None:
    write_csv(out / "scores.csv", rows, COLUMNS)
    episodes = []
    for (data, algorithm), run in runs.items():
        for row in final_rows(run):
            about = {"data": data, "algorithm": algorithm} | row
            episodes.append({column: about[column] for column in EPISODE_COLUMNS})
    write_csv(out / "episodes.csv", episodes, EPISODE_COLUMNS)
    write_atomically(out / "scores.md", (text + "\n").encode())


def page(rows: Sequence[Row], suite: Sequence[str]) -> str:
    """Tables and what must be said beside them, as Markdown; the best mean of the suite first."""
    at = {(r["algorithm"], r["data"]): r for r in rows}
    mean = {r["algorithm"]: r["mean"] for r in rows if r["data"] == SUITE}
    names = sorted(dict.fromkeys(r["algorithm"] for r in rows), key=lambda n: (n == RECORDED, -mean.get(n, -np.inf)))
    columns = [*suite, SUITE]
    table = [[n, *(cell(at.get((n, c))) for c in columns), hours([at[n, d] for d in suite if (n, d) in at])] for n in names]
    header = ["algorithm", *(c.removesuffix("-zoo-v0") for c in columns), "training + evaluation, h"]
    lines = [
        "Normalized score of the last policies: mean over seeds and episodes ± standard deviation over seeds [95 % bootstrap interval of the"
        " mean, seeds and then episodes drawn with replacement]. The data are no D4RL data: these scores compare with nothing published.",
        "",
        markdown(header, table),
    ]
    counts = sorted({(r["seeds"], r["episodes"]) for r in rows if "seeds" in r and r["data"] != SUITE})
    lines += ["", "Seeds x episodes: " + ", ".join(f"{s} x {e}" for s, e in counts) + "."] if counts else []
    if CLONING in mean:
        below = [n for n in names if n not in (CLONING, RECORDED) and n in mean and mean[n] <= mean[CLONING]]
        lines += ["", f"Not above `{CLONING}` on the mean of the suite: {', '.join(f'`{n}`' for n in below) or 'none'}."]
    troubles = [f"- `{r['algorithm']}` on {r['data']}: {r['error']}" for r in rows if r.get("error")]
    return "\n".join(lines + (["", "Failures:", "", *troubles] if troubles else []))


def cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if "mean" not in row:
        return row["status"]
    if "std" not in row:
        return f"{row['mean']:.1f}"
    return f"{row['mean']:.1f} ± {row['std']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def hours(rows: Sequence[Row]) -> str:
    """Hours of training and evaluation, a bound from below where a killed process took its count along."""
    if not any("train_seconds" in r for r in rows):
        return "-"
    least = "> " if any(r["time_incomplete"] for r in rows) else ""
    total = {key: sum(r[key] for r in rows) / 3600 for key in ("train_seconds", "eval_seconds")}
    return f"{least}{total['train_seconds']:.2f} + {total['eval_seconds']:.2f}"
