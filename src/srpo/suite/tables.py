"""What the cells of a suite came to, and the folder of results that keeps it.

A folder of results holds
  episodes.csv   every evaluated episode
  curves.csv     every episode of the policies that were kept on the way
  cells.csv      every cell: seeds, seconds, error, settings, budget, versions, device and the command that made it
  scores.csv     mean, deviation over seeds, bootstrap interval and time by data set and algorithm, and the means of the suite
  measures.csv   interquartile means, performance profiles and probabilities of improvement over the suite
  scores.md, report.html   the same for people
  suite.json     the suite, and what its data sets are
  policies/      compact runs of what was trained and not evaluated (`srpo suite evaluate`)
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srpo.errors import ConfigError, UserError
from srpo.evaluation.scores import evals_table
from srpo.runs.run import Run
from srpo.runs.tables import write_csv
from srpo.suite.cells import Cell
from srpo.suite.schema import MOST_RETURN, MOST_SCORE, ROWS, check_rows
from srpo.system.files import read_bytes
from srpo.text import plain

LARGEST = 1 << 30  # bytes of a table
SUITE = "mean of the suite"
RECORDED = "(the data)"
ABOUT = ("settings", "preset", "task", "iterations", "batch_factor", "shared", "device", "created", "command", "run")
VERSIONS = ("python", "srpo", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
SPENT = ("train_seconds", "eval_seconds", "time_incomplete", "error")
CELL_COLUMNS = ("data", "algorithm", "seeds", "status", *SPENT, *ABOUT, *VERSIONS)
CURVE_COLUMNS = ("data", "algorithm", "seed", "step", "episode", "score")
PLAYED = ("env_seed", "return", "length", "score", "env_id", "gymnasium", "mujoco")
EPISODE_COLUMNS = ("data", "algorithm", "seed", "step", "episode", *PLAYED)
SCORE_COLUMNS = ("data", "algorithm", "status", "seeds", "episodes", "mean", "std", "low", "high", *SPENT)

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one cell came to: its row of cells.csv, and the episodes of its last policies (none as long as it is not finished)."""

    about: Row
    episodes: Sequence[Row]
    curve: Sequence[Row] = ()  # episodes of earlier policies

    @property
    def where(self) -> tuple[str, str]:
        return self.about["data"], self.about["algorithm"]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(int(s) for s in str(self.about["seeds"]).split())

    @property
    def finished(self) -> bool:
        return self.about["status"] == "finished"

    @property
    def settled(self) -> bool:
        """Whether its training is over: evaluated, or waiting for it."""
        return self.about["status"] in ("finished", "trained")

    def of(self, seeds: Sequence[int]) -> Result:
        """What some of its seeds came to, if it is finished; its seconds stay those of all."""
        if not self.finished or tuple(seeds) == self.seeds:
            return self
        episodes, curve = ([e for e in rows if int(e["seed"]) in seeds] for rows in (self.episodes, self.curve))
        return replace(self, about=self.about | {"seeds": " ".join(map(str, seeds))}, episodes=episodes, curve=curve)


def rows_of(run: Run, kind: str = "final") -> list[Row]:
    """The episodes of the last policies ("final"), or of those before ("training")."""
    if not (run.path / "evals.csv").exists():
        return []
    return [row for row in evals_table(run).read() if row["kind"] == kind]


def alive(run: Run) -> list[int]:
    """The seeds that did not fail."""
    return [seed for seed in run.seeds if not run.failed(seed, ())]


def evaluated(run: Run | None, episodes: int) -> bool:
    """Whether the last policies played so many episodes, with scores that tables hold."""
    if run is None or not run.complete:
        return False
    rows = rows_of(run)
    return len(rows) == episodes * len(alive(run)) > 0 and all(map(_counts, [*rows, *rows_of(run, "training")]))


def require_scores(run: Run) -> None:
    """Raises UserError for an episode without a score that tables hold, such as one with a reward of NaN."""
    for row in (row for kind in ("final", "training") for row in rows_of(run, kind) if not _counts(row)):
        raise UserError(
            f"episode {row['episode']} of seed {row['seed']} (environment seed {row['env_seed']}) at step {row['step']} has the return "
            f"{row['return']} and the score {row['score'] or '(none)'}, expected a score from -{MOST_SCORE:,.0f} to {MOST_SCORE:,.0f}; "
            "mend the environment, or the attribute reference of the data"
        )


def _counts(row: Row) -> bool:
    return row["score"] != "" and abs(float(row["return"])) <= MOST_RETURN and abs(float(row["score"])) <= MOST_SCORE


def from_cell(cell: Cell, command: str, folder: Path) -> Result | None:
    """What a cell has come to; None if it was never begun. folder: of the results, from which its run is named."""
    if not cell.record.exists():
        return None
    run, log = cell.run, cell.log
    done = evaluated(run, cell.suite.episodes) and not log["error"]
    status = (
        "finished" if done else "failed" if log["error"] else "trained" if run is not None and run.complete else "unfinished"
    )
    about: Row = {"data": cell.data, "algorithm": cell.algorithm, "seeds": " ".join(map(str, cell.seeds)), "status": status}
    about |= {key: log[key] for key in ("train_seconds", "eval_seconds")}
    about["time_incomplete"] = log["incomplete"] or log["busy"] is not None
    about["error"] = log["error"] or "; ".join(describe_failure(f) for f in (run.failures if run else []))
    about |= {"settings": cell.settings, "preset": cell.recipe.preset, "task": cell.task, "shared": " ".join(log["shared"])}
    about |= {"iterations": cell.suite.budget.iterations or "", "batch_factor": cell.suite.budget.batch_factor}
    about |= {"command": log["command"] or command, "run": plain(os.path.relpath(cell.folder, folder))}
    if run is not None:
        about |= {"device": run.info["device"], "created": run.info["created"]}
        about |= {name: run.info["versions"].get(name, "") for name in VERSIONS}
    return played(run, about) if done and run is not None else Result(about, [])


def played(run: Run, about: Row) -> Result:
    """The result with the episodes that are in the run's evals.csv."""

    def rows(kind: str, columns: Sequence[str]) -> list[Row]:
        return [{column: (about | row)[column] for column in columns} for row in rows_of(run, kind)]

    return Result(about, rows("final", EPISODE_COLUMNS), rows("training", CURVE_COLUMNS))


def describe_failure(failure: Row) -> str:
    return f"seed {failure['seed']}: {failure['metric']} is not finite at step {failure['step']} of {failure['stage']}"


def read(folder: Path) -> list[Result]:
    """The results that were kept in a folder. Raises ConfigError for a folder that cannot be read."""
    if not (folder / "cells.csv").exists():
        if (folder / "scores.csv").exists():
            raise ConfigError(f"{folder} holds scores.csv without cells.csv, which `srpo suite` writes; choose another --keep")
        return []
    try:
        cells, *played = (_rows(folder, name) for name in ROWS)
        tables = [_by_run(table) for table in played]
        out = []
        for row in cells:
            seeds = row["seeds"].split()
            about = row | {key: float(row[key] or 0) for key in ("train_seconds", "eval_seconds")}
            about |= {"time_incomplete": row["time_incomplete"] == "True"}
            places = [(row["data"], row["algorithm"], seed) for seed in dict.fromkeys(seeds)]
            mine, before = ([e for place in places for e in table.get(place, ())] for table in tables)
            if row["status"] == "finished":
                _require_episodes(row, {e["seed"] for e in mine})
            out.append(Result(about, mine, before) if row["status"] == "finished" else Result(about, []))
        return out
    except (OSError, ValueError, csv.Error) as e:
        raise ConfigError(f"{folder} cannot be read ({plain(e, 300)}); mend it, or choose another --keep") from None


def _by_run(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    out: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        out.setdefault((row["data"], row["algorithm"], row["seed"]), []).append(row)
    return out


def _rows(folder: Path, name: str) -> list[Row]:
    """The lines of a table, as text. Raises OSError, ValueError."""
    text = read_bytes(folder / f"{name}.csv", LARGEST).decode()
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows: list[Row] = list(reader)
    if not reader.fieldnames:
        raise ValueError(f"{name}.csv is empty, expected a line of names")
    if not text.endswith("\n"):
        raise ValueError(f"{name}.csv has no end of its last line, {len(rows) + 1}: it was cut off there")
    check_rows(name, rows)
    return rows


def _require_episodes(cell: Row, seeds: set[str]) -> None:
    """Raises ValueError for a finished cell one of whose seeds has no episode, unless it failed."""
    for seed in cell["seeds"].split():
        if seed not in seeds and f"seed {seed}:" not in cell["error"]:
            raise ValueError(
                f"episodes.csv has no episode of seed {seed} of {cell['algorithm']} on {cell['data']}, which cells.csv calls finished"
            )


def merged(mine: Sequence[Result], kept: Sequence[Result]) -> list[Result]:
    """Every seed once: what is finished before what is trained before anything else. What was kept as finished stays; else new comes first.

    Of a cell some of whose seeds are there already, such as the first of three, the others are added.
    """
    order = {"finished": 0, "trained": 1, "unfinished": 2, "failed": 2}
    taken: set[tuple[str, str, int]] = set()
    out = []
    done, rest = [r for r in kept if r.finished], [r for r in kept if not r.finished]
    for result in sorted([*done, *mine, *rest], key=lambda r: order[r.about["status"]]):
        new = [seed for seed in result.seeds if (*result.where, seed) not in taken]
        if new:
            out.append(result.of(new))
            taken |= {(*result.where, seed) for seed in new}
    return out


def by_place(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    out: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        out.setdefault(result.where, []).append(result)
    return out


def save(folder: Path, results: Sequence[Result], rows: Sequence[Row]) -> None:
    """Write the tables. Raises CheckpointError."""
    write_csv(folder / "episodes.csv", [e for r in results for e in r.episodes], EPISODE_COLUMNS)
    write_csv(folder / "curves.csv", [e for r in results for e in r.curve], CURVE_COLUMNS)
    write_csv(folder / "cells.csv", [r.about for r in results], CELL_COLUMNS)
    write_csv(folder / "scores.csv", rows, SCORE_COLUMNS)
