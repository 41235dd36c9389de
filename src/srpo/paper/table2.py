"""Table 2: SRPO's temperature by task, as the presets have it beside the paper's, and all else that depends on the task."""

from __future__ import annotations

from typing import Any

from srpo import config
from srpo.algorithms.srpo import SRPO
from srpo.paper.job import Job
from srpo.suite import published
from srpo.suite.pages import markdown
from srpo.suite.presets import one

PRESETS = ("paper", "authors-code", "quick")
TASKS = (*published.TASKS, *published.ANTMAZE_TASKS)
PRINTED = dict(  # the paper's table; its "fixed" mazes are D4RL's umaze and "play" sets
    zip(TASKS, (0.01, 0.01, 0.1, 0.2, 0.05, 0.05, 0.2, 0.2, 0.5, 0.02, 0.04, 0.08, 0.05, 0.06, 0.05), strict=True)
)


def make(job: Job) -> list[dict]:
    """Writes table2.csv and table2.md, with every setting that differs between tasks; returns the temperatures, a row per task."""
    values = {(preset, task): settings(preset, task) for preset in PRESETS for task in TASKS}
    paths = [p for p in values[PRESETS[0], TASKS[0]] if any(differs(values, preset, p) for preset in PRESETS)]
    rows = []
    for task in TASKS:
        row: dict[str, Any] = {"task": task, "beta, paper's table": f"{PRINTED[task]:g}"}
        for path in paths:
            row[f"{path}, paper"] = one(values["paper", task][path])
            row |= {f"{path}, {p}": one(values[p, task][path]) for p in PRESETS[1:] if other(values, p, path)}
        rows.append(row)
    job.table("table2", rows, list(rows[0]))
    job.text("table2.md", markdown(list(rows[0]), [list(row.values()) for row in rows]) + "\n")
    return [
        {"task": task, "paper's table": f"{PRINTED[task]:g}"} | {p: one(values[p, task]["policy.beta"]) for p in PRESETS}
        for task in TASKS
    ]


def settings(preset: str, task: str) -> dict[str, Any]:
    """By path, as training would have them."""
    algorithm = config.assign_all(SRPO.default(), config.preset(SRPO.presets, preset, task))
    return {path: s.value for path, s in config.settings(algorithm).items()}


def differs(values, preset: str, path: str) -> bool:
    """Whether the tasks have several values in this preset."""
    return len({repr(values[preset, task][path]) for task in TASKS}) > 1


def other(values, preset: str, path: str) -> bool:
    """Whether this preset has, for a task, another value than the paper's."""
    return any(values[preset, task][path] != values["paper", task][path] for task in TASKS)
