"""What scores.py found, as rows and as a page: score and its spread by run, means over the suite, times, failures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published
from report import markdown, write_csv

from srpo import Dataset
from srpo.errors import ConfigError
from srpo.evaluation.scores import bootstrap, evals_table
from srpo.runs.checkpoint import write_atomically
from srpo.runs.run import Run

SUITE = "mean of the suite"
RECORDED = "(the data)"
CLONING = "bc"
COLUMNS = (
    "data", "algorithm", "status", "seeds", "episodes", "mean", "std", "low", "high", "train_seconds", "eval_seconds", "time_incomplete",
    "error", "settings",
)  # fmt: skip
EPISODE_COLUMNS = (
    "data",
    "algorithm",
    "seed",
    "episode",
    "env_seed",
    "return",
    "length",
    "score",
    "env_id",
    "gymnasium",
    "mujoco",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What is known of one algorithm on one data set; `settings` is a digest of all that it was trained with."""

    data: str
    algorithm: str
    settings: str
    episodes: Sequence[Row]  # of the last policies; none as long as it is not finished
    train_seconds: float
    eval_seconds: float
    time_incomplete: bool
    error: str

    @property
    def scores(self) -> dict[int, np.ndarray]:
        """Normalized scores of the episodes by seed."""
        seeds = dict.fromkeys(int(e["seed"]) for e in self.episodes)
        return {s: np.array([float(e["score"]) for e in self.episodes if int(e["seed"]) == s]) for s in seeds}

    @property
    def finished(self) -> bool:
        return bool(self.episodes)

    @property
    def row(self) -> Row:
        """Its line of scores.csv."""
        status = "finished" if self.finished else "failed" if self.error else "unfinished"
        known = {name: value for name, value in vars(self).items() if name != "episodes"}
        return known | {"status": status} | (figures(np.stack(list(self.scores.values()))) if self.finished else {})


def final_rows(run: Run) -> list[Row]:
    """The episodes of the last policies."""
    if not (run.path / "evals.csv").exists():
        return []
    return [row for row in evals_table(run).read() if row["kind"] == "final"]


def from_run(data: str, algorithm: str, settings: str, run: Run | None, log: Row) -> Result:
    """What the run, if there is one, and its log say."""
    episodes: list[Row] = []
    if run is not None and run.complete and not log["error"]:
        about = {"data": data, "algorithm": algorithm}
        episodes = [{column: (about | row)[column] for column in EPISODE_COLUMNS} for row in final_rows(run)]
    error = log["error"] or "; ".join(str(f) for f in (run.failures if run else []))
    times = (log["train_seconds"], log["eval_seconds"], log["incomplete"] or log["busy"] is not None)
    return Result(data, algorithm, settings, episodes, *times, error)


def read(folder: Path) -> dict[tuple[str, str], Result]:
    """The finished results that `save` left in a folder, by data set and algorithm. Raises ConfigError."""
    if not (folder / "scores.csv").exists():
        return {}
    try:
        rows, episodes = (
            list(csv.DictReader((folder / name).read_text().splitlines())) for name in ("scores.csv", "episodes.csv")
        )
        out = {}
        for r in rows:
            if r["status"] == "finished" and r["data"] != SUITE:
                mine = [e for e in episodes if (e["data"], e["algorithm"]) == (r["data"], r["algorithm"])]
                times = (float(r["train_seconds"]), float(r["eval_seconds"]), r["time_incomplete"] == "True")
                out[r["data"], r["algorithm"]] = Result(r["data"], r["algorithm"], r["settings"], mine, *times, r["error"])
        return out
    except (OSError, KeyError, ValueError) as e:
        raise ConfigError(
            f"{folder}: scores.csv and episodes.csv cannot be read ({e!r}); mend them, or choose another --keep"
        ) from None


def figures(values: np.ndarray) -> Row:
    """Mean, deviation over seeds and 95 % bootstrap interval of scores (seed, episode)."""
    low, high = bootstrap(values)
    return {
        "seeds": values.shape[0], "episodes": values.shape[1], "mean": values.mean(), "std": values.mean(1).std(), "low": low, "high": high,
    }  # fmt: skip


def data_rows(sources: Mapping[str, Dataset]) -> list[Row]:
    """The mean score of the recorded episodes."""
    return [
        {"data": name, "algorithm": RECORDED, "status": "recorded", "mean": d.score(d.returns).mean()}
        for name, d in sources.items()
    ]


def suite_rows(sources: Mapping[str, Dataset], results: Mapping[tuple[str, str], Result]) -> list[Row]:
    """Means over the suite of what is finished on all its data sets.

    Seed i of one data set goes with seed i of the others; a seed that failed on one is left out of all.
    """
    recorded = [r["mean"] for r in data_rows(sources)]
    out = [{"data": SUITE, "algorithm": RECORDED, "status": "recorded", "mean": float(np.mean(recorded))}]
    for name in dict.fromkeys(algorithm for _, algorithm in results):
        mine = [results[data, name] for data in sources if (data, name) in results]
        if len(mine) < len(sources) or not all(r.finished for r in mine):
            continue
        found = [r.scores for r in mine]
        common = [s for s in found[0] if all(s in other for other in found)]
        if not common:
            continue
        values = np.mean([[by_seed[s] for s in common] for by_seed in found], 0)  # (seed, episode)
        times = {key: sum(getattr(r, key) for r in mine) for key in ("train_seconds", "eval_seconds")}
        incomplete = any(r.time_incomplete for r in mine)
        out.append(
            {"data": SUITE, "algorithm": name, "status": "finished", **figures(values), **times, "time_incomplete": incomplete}
        )
    return out


def save(folder: Path, rows: Sequence[Row], results: Mapping[tuple[str, str], Result], text: str) -> None:
    write_csv(folder / "episodes.csv", [e for r in results.values() for e in r.episodes], EPISODE_COLUMNS)
    write_csv(folder / "scores.csv", rows, COLUMNS)
    write_atomically(folder / "scores.md", (text + "\n").encode())


def page(rows: Sequence[Row], suite: Sequence[str]) -> str:
    """Tables and what must be said beside them, as Markdown; the best mean of the suite first."""
    at = {(r["algorithm"], r["data"]): r for r in rows}
    mean = {r["algorithm"]: r["mean"] for r in rows if r["data"] == SUITE}
    names = sorted(dict.fromkeys(r["algorithm"] for r in rows), key=lambda n: (n == RECORDED, -mean.get(n, -np.inf)))
    columns = [*suite, SUITE]
    table = [
        [
            n,
            *(cell(at.get((n, c))) for c in columns),
            published.MEAN.get(n, "-"),
            hours([at[n, d] for d in suite if (n, d) in at]),
        ]
        for n in names
    ]
    header = [
        "algorithm",
        *(c.removesuffix("-zoo-v0") for c in columns),
        "published, D4RL locomotion",
        "training + evaluation, h",
    ]
    lines = [
        "Normalized score of the last policies: mean over seeds and episodes ± (population) standard deviation over seeds [95 % bootstrap"
        " interval of the mean, seeds and then episodes drawn with replacement]. The data are no D4RL data: only the order compares with the published means.",
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


def one(name: str, rows: Sequence[Row], kin: Mapping[str, str]) -> str:
    """One algorithm's scores by data set beside cloning's, the data's own and the published ones, as Markdown. kin: data set -> D4RL task."""
    at, columns = {(r["algorithm"], r["data"]): r for r in rows}, [*kin, SUITE]
    measured = [[f"`{n}`, measured", *(cell(at.get((n, c))) for c in columns)] for n in dict.fromkeys((name, CLONING))]
    recorded = ["the recorded episodes", *(cell(at.get((RECORDED, c))) for c in columns)]
    scores = [published.SCORES.get(name, {}).get(task) for task in kin.values()]
    there = [] if None in scores else [[f"`{name}`, published for D4RL's task", *scores, f"{np.mean(scores):.1f}"]]
    return markdown(["", *(c.removesuffix("-zoo-v0") for c in columns)], [*measured, recorded, *there])


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
