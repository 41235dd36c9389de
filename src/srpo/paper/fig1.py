"""Figure 1: score against time per action.

Scores are the published means over D4RL's locomotion tasks or, with --keep, the means of a suite's kept results; times are
measured here (`timing.py`), or those of an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.transforms import Bbox

from srpo import algorithms
from srpo.errors import ConfigError
from srpo.paper import costs, panels, timing
from srpo.paper.job import Job
from srpo.suite import published
from srpo.suite.findings import SUITE
from srpo.suite.tables import Row

COLUMNS = ("system", "kind", "ms", "score")
SIDES = (  # where a label may stand: offset from its point, and how it is aligned there
    ((5, 0), "left", "center"),
    ((-5, 0), "right", "center"),
    ((0, 3), "center", "bottom"),
    ((0, -4), "center", "top"),
    ((2, 2), "right", "bottom"),
    ((-2, 2), "left", "bottom"),
)


def make(job: Job) -> list[dict]:
    """Draws fig1.png, writes fig1.csv and, where it measured, costs.csv; returns a row per system."""
    scores = dict(published.MEAN)
    if job.suite is not None:
        means = job.suite.findings().means
        scores = {name: means[name] for name in algorithms.names() if name in means}  # a variant has no time of its own
    found = timing.costs_of(job, list(scores), timing.ACTING)
    kinds, seconds = found.kinds, found.values(costs.TIME)
    rows: list[Row] = [
        {"system": n, "kind": kinds[n], "ms": 1e3 * seconds[n], "score": scores[n]} for n in found.names if n in scores
    ]
    if not rows:
        raise ConfigError(
            f"no system has both a time and a score; times: {', '.join(found.names)}; scores: {', '.join(scores)}"
        )
    job.table("fig1", rows, COLUMNS)
    label = "published score, D4RL locomotion" if job.suite is None else f"measured score, {SUITE}"
    with panels.style():
        job.picture("fig1", draw(rows, label))
    return [row | {"ms": f"{row['ms']:.3g}", "score": round(row["score"], 1)} for row in rows]


def draw(rows: Sequence[dict], label: str):
    """A point per system, its name beside it."""
    figure = panels.page(0.65 * panels.TEXT_WIDTH, 2.8)
    axis = figure.subplots()
    for kind, (color, marker, meaning) in panels.KINDS.items():
        here = [r for r in rows if r["kind"] == kind]
        if here:
            axis.scatter(
                [r["ms"] for r in here],
                [r["score"] for r in here],
                s=20,
                color=color,
                marker=marker,
                label=meaning,
                zorder=3,
                lw=0,
            )
    axis.set(xscale="log", xlabel="time per action at batch 1 (ms)", ylabel=label)
    axis.margins(x=0.2, y=0.1)
    axis.grid(color="0.9", lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3)
    figure.draw_without_rendering()  # the layout is final, so that labels can be placed
    points = axis.transData.transform([(r["ms"], r["score"]) for r in rows])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for row in rows:
        place(axis, row, taken)
    return figure


def place(axis, row: dict, taken: list) -> None:
    """A point's label beside it, on the first of `SIDES` where it covers no point and no label (`taken`, in pixels)."""
    text = axis.annotate(
        title(row["system"]),
        (row["ms"], row["score"]),
        (0, 0),
        textcoords="offset points",
        fontsize=6,
        weight="bold" if row["system"] == timing.REFERENCE else "normal",
    )
    for position, ha, va in SIDES:
        text.set(position=position, ha=ha, va=va)
        box = text.get_window_extent()
        if not box.count_overlaps(taken):
            break
    taken.append(box)


def title(name: str) -> str:
    """An algorithm as papers print it."""
    return algorithms.find(name).title or name
