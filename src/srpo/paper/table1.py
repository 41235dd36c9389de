"""Table 1: normalized scores of all systems at the end of training, and the published ones.

Published scores are those of D4RL's data. Where a data set is D4RL's they stand beside the measured ones; where it is
another they stand apart, as no score on one is a claim about the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from srpo.paper.job import Job
from srpo.suite import published
from srpo.suite.findings import Findings
from srpo.suite.page import summary, told
from srpo.suite.pages import markdown
from srpo.suite.tables import RECORDED, SUITE, Row

NEAR = 0.95  # the paper highlights what is within 5 % of a task's best
TASKS = (*published.TASKS, *published.ANTMAZE_TASKS)
COLUMNS = ("data", "system", "mean", "std", "seeds", "episodes", "published", "published_std")


def make(job: Job) -> list[dict]:
    """Writes table1.md and table1.csv; returns a row per system."""
    found = job.of_suite.findings()
    data = job.of_suite.chosen([d["name"] for d in found.about["data"]])
    names = order(found)
    job.table("table1", long_rows(found, names, data), COLUMNS)
    job.text("table1.md", page(found, names, data))
    columns = [*data, *mean_of(data, found)]
    return [{"system": n, **{found.labels[d]: score(found.at.get((n, d))) for d in columns}} for n in (*names, RECORDED)]


def order(found: Findings) -> list[str]:
    """The systems with a result: those of the paper's table as it has them, then the others."""
    measured = {name for name, data in found.at if name != RECORDED and data != SUITE}
    return [*(n for n in published.ROWS if n in measured), *sorted(measured - set(published.ROWS))]


def long_rows(found: Findings, names: Sequence[str], data: Sequence[str]) -> list[Row]:
    """A row per data set and system; the published columns are filled where the data are D4RL's."""
    out = []
    for d in data:
        for n in names:
            row = {"data": d, "system": n} | {key: found.at.get((n, d), {}).get(key, "") for key in COLUMNS[2:6]}
            row["published"] = published.SCORES.get(n, {}).get(d, "")
            row["published_std"] = published.SRPO_SPREAD.get(d, "") if n == "srpo" else ""
            out.append(row)
    return out


def page(found: Findings, names: Sequence[str], data: Sequence[str]) -> str:
    """Measured scores, with the published ones beside or after them."""
    same = [d for d in data if d in TASKS]
    lines = [
        "Normalized score of the last policies: mean over seeds and episodes ± (population) standard deviation over seeds; in bold what is"
        " within 5 % of the row's best.",
        f"Seeds x episodes: {found.counts}. Budget: {summary(found)}.",
        *([found.partly] if found.partly else []),
        *told(found),
        "",
        measured(found, names, data),
    ]
    if same:
        lines += ["", "Published for the same data:", "", known(list(published.ROWS), same)]
    else:
        lines += [
            "",
            "Published, **for D4RL's data**: other recordings, so no cell here compares with one above.",
            "",
            known(list(published.ROWS), TASKS),
        ]
    return "\n".join(lines) + "\n"


def measured(found: Findings, names: Sequence[str], data: Sequence[str]) -> str:
    rows = []
    for d in (*data, *mean_of(data, found)):
        here = [found.at.get((n, d)) for n in names]
        best = max((r["mean"] for r in here if r and "mean" in r), default=0.0)
        cells = [f"**{score(r)}**" if r and best > 0 and r.get("mean", 0.0) >= NEAR * best else score(r) for r in here]
        rows.append([found.labels[d], score(found.at.get((RECORDED, d))), *cells])
    return markdown(["data", "recorded", *names], rows)


def mean_of(data: Sequence[str], found: Findings) -> list[str]:
    """The row of means, where all data sets are shown."""
    return [SUITE] if len(data) == len(found.about["data"]) > 1 else []


def known(names: Sequence[str], tasks: Sequence[str]) -> str:
    """Published scores by task."""
    rows = []
    for task in tasks:
        values = [published.SCORES.get(n, {}).get(task) for n in names]
        spread = [f" ± {published.SRPO_SPREAD[task]}" if n == "srpo" else "" for n in names]
        rows.append([task, *("-" if v is None else f"{v}{s}" for v, s in zip(values, spread, strict=True))])
    return markdown(["D4RL task", *names], rows)


def score(row: Row | None) -> str:
    """Mean and deviation, or the cell's status; "-" where there is none."""
    if row is None:
        return "-"
    if "mean" not in row:
        return str(row["status"])
    return f"{row['mean']:.1f}" + (f" ± {row['std']:.1f}" if "std" in row else "")
