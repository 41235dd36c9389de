"""DTQL's table: score, time per action and time of training of the systems that it compares with, SRPO among them.

Scores are the published ones of D4RL's locomotion tasks or, with --keep, those of a suite's kept results; times are measured
here (`timing.py`), or those of an earlier run.
"""

from __future__ import annotations

from srpo.errors import ConfigError
from srpo.paper import costs, timing
from srpo.paper.fig1 import title
from srpo.paper.job import Job
from srpo.paper.table1 import score
from srpo.suite import published
from srpo.suite.findings import short
from srpo.suite.pages import markdown, number
from srpo.suite.tables import RECORDED, SUITE, Row

SYSTEMS = ("bc", "td3-bc", "iql", "diffuser", "diffusion-ql", "idql", "qgpo", "srpo", "dtql", "dtql-kl")
TRAINED = timing.Effort(batches=(1,))


def make(job: Job) -> list[dict]:
    """Writes dtql-table.md, dtql-table.csv and, where it measured, costs.csv; returns a row per system. Raises ConfigError."""
    scores = scores_of(job)
    found = timing.costs_of(job, SYSTEMS, TRAINED)
    rows = []
    for name in (n for n in SYSTEMS if n in found.names):
        time, hours = found.of(costs.TIME)[name], found.of(costs.TRAINING).get(name)
        row: Row = {"system": title(name)} | {short(d): by.get(name, "-") for d, by in scores.items()}
        row |= {"µs per action": number(1e6 * time["value"]), "x SRPO": number(time["ratio"])}
        rows.append(row | {"training, h": number(hours["value"]) if hours else "-"})
    if not rows:
        raise ConfigError(f"none of {', '.join(SYSTEMS)} was timed; leave --algos out, or give other --costs")
    job.table("dtql-table", rows, list(rows[0]))
    whose = "Published scores" if job.suite is None else f"Scores measured in the suite {job.suite.suite.name}"
    table = markdown(list(rows[0]), [list(r.values()) for r in rows])
    job.text("dtql-table.md", f"{whose}; times measured on {found.device}.\n\n{table}\n")
    return rows


def scores_of(job: Job) -> dict[str, dict[str, str]]:
    """By data set, the mean of all last, and system."""
    if job.suite is None:
        by_task = {t: {n: f"{s[t]:.1f}" for n, s in published.SCORES.items() if t in s} for t in published.TASKS}
        return by_task | {"mean": {n: f"{m:.1f}" for n, m in published.MEAN.items()}}
    found = job.suite.findings()
    data = job.suite.chosen([d["name"] for d in found.about["data"]])
    names = [n for n in found.names if n != RECORDED]
    return {d: {n: score(found.at.get((n, d))) for n in names} for d in (*data, SUITE)}
