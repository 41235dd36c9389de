"""What a search came to: one table, printed and as CSV, and one picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from srpo.runs.checkpoint import write_atomically
from srpo.runs.tables import write_csv
from srpo.text import aligned
from srpo.tuning.job import FINISHED, Job, Trial, ranked
from srpo.tuning.space import Axis

COLUMNS = ("trial", "outcome", "step", "objective", "low", "high", "note", "seconds")


def rows(job: Job) -> list[dict[str, Any]]:
    """One for each trial, the best first."""
    return [_row(trial) for trial in ranked(job.trials)]


def _row(trial: Trial) -> dict[str, Any]:
    record = trial.record
    about = {
        "trial": trial.name,
        **trial.values,
        "outcome": trial.outcome or "unfinished",
        "seconds": round(record["seconds"], 1),
    }
    if record["reports"]:
        last = record["reports"][-1]
        trusted = not last["note"]
        about |= {"step": last["step"], "note": last["note"]}
        about |= {"objective": last["value"], "low": last["low"], "high": last["high"]} if trusted else {}
    if record["error"] is not None:
        about["note"] = record["error"]
    return about


def write(job: Job) -> list[dict[str, Any]]:
    """trials.csv; what is in it."""
    found = rows(job)
    paths = [axis.path for axis in job.space]
    write_csv(job.out / "trials.csv", found, [COLUMNS[0], *paths, *COLUMNS[1:]])
    return found


def best(job: Job) -> Trial | None:
    """The best trial that finished and is trusted."""
    return next((t for t in ranked(job.trials) if t.outcome == FINISHED and not t.scores[-1].note), None)


def text(job: Job, found: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    paths = [axis.path for axis in job.space]
    header = ["trial", *paths, "outcome", "step", "objective", "95 % interval", "seconds"]
    lines = [header, *([*_cells(row, paths)] for row in found)]
    printed = aligned(lines)
    notes = [f"  {row['note']}" if row.get("note") else "" for row in found]
    return "\n".join([printed[0], *(line + note for line, note in zip(printed[1:], notes, strict=True))])


def _cells(row: dict[str, Any], paths: list[str]) -> list[str]:
    scored = "objective" in row
    interval = f"{row['low']:.3g} to {row['high']:.3g}" if scored else ""
    values = [str(row[path]) for path in paths]
    return [
        row["trial"], *values, row["outcome"], str(row.get("step", "")), f"{row['objective']:.4g}" if scored else "", interval, f"{row['seconds']:.0f}"
    ]  # fmt: skip


def draw(job: Job) -> None:
    """tune.png: every trial's way, and its last objective against each setting. Raises CheckpointError."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [trial for trial in job.trials if any(not score.note for score in trial.scores)]
    first = best(job)
    columns = 1 + len(job.space)
    fig, grid = plt.subplots(1, columns, figsize=(3.4 * columns, 3), squeeze=False, layout="constrained")
    ways, *panels = grid[0]
    for trial in shown:
        steps = [r["step"] for r in trial.record["reports"] if not r["note"]]
        values = [score.value for score in trial.scores if not score.note]
        mine = {"color": "C1", "lw": 2, "zorder": 3} if trial is first else {"color": "0.6", "lw": 1}
        ways.plot(steps, values, marker=".", **mine)
    if not shown:
        ways.text(0.5, 0.5, "nothing that is trusted yet", ha="center", transform=ways.transAxes, fontsize=8)
    ways.set_xlabel("gradient step of the last stage", fontsize=8)
    ways.set_ylabel("score" if job.objective.kind == "score" else "judge: lower end of the return", fontsize=8)
    for axis, ax in zip(job.space, panels, strict=True):
        _panel(ax, axis, shown, first)
    for ax in (ways, *panels):
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{job.data and job.data.name}: {len(shown)} trials" + (f", best {first.name}" if first else ""), fontsize=10)
    content = io.BytesIO()
    fig.savefig(content, dpi=130, format="png")
    plt.close(fig)
    write_atomically(job.out / "tune.png", content.getvalue())


def _panel(ax: Any, axis: Axis, shown: list[Trial], first: Trial | None) -> None:
    """The last objective of each trial against one setting; pale: it did not come to the end."""
    for trial in shown:
        value = trial.values[axis.path]
        x = axis.values.index(value) if axis.kind == "choice" else value
        last = [score.value for score in trial.scores if not score.note][-1]
        color, alpha = "C1" if trial is first else "0.3", 0.9 if trial.outcome == FINISHED else 0.35
        ax.plot([x], [last], "o", ms=5, color=color, alpha=alpha)
    if axis.kind == "log":
        ax.set_xscale("log")
    if axis.kind == "choice":
        ax.set_xticks(np.arange(len(axis.values)), [str(value) for value in axis.values])
        ax.set_xlim(-0.5, len(axis.values) - 0.5)
    ax.set_xlabel(axis.path, fontsize=8)
