"""What an ablation shows: a panel per data set, the variants side by side, every seed a dot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srpo.paper import panels
from srpo.paper.ablation import Trained
from srpo.paper.job import Job
from srpo.suite.findings import short

COLUMNS = ("data", "variant", "seed", "episodes", "score")
ACROSS = 3


def report(job: Job, name: str, title: str, found: Sequence[Trained]) -> list[dict[str, Any]]:
    """Writes `name`.png and `name`.csv; returns a row per data set and variant."""
    rows = [row for one in found for row in one.rows()]
    job.table(name, rows, COLUMNS)
    with panels.style():
        job.picture(name, draw(rows, title))
    out = []
    for data, variant in dict.fromkeys((r["data"], r["variant"]) for r in rows):
        scores = np.array([r["score"] for r in rows if (r["data"], r["variant"]) == (data, variant)])
        one = {"data": short(data), "variant": variant, "seeds": len(scores)}
        out.append(one | {"score": round(float(scores.mean()), 1), "std": round(float(scores.std()), 1)})
    return out


def draw(rows: Sequence[dict[str, Any]], title: str):
    """Mean and deviation over seeds of every variant."""
    names = list(dict.fromkeys(r["data"] for r in rows))
    across = min(ACROSS, len(names))
    figure = panels.page(panels.TEXT_WIDTH * across / ACROSS, 1.9 * -(-len(names) // across))
    axes = figure.subplots(-(-len(names) // across), across, squeeze=False)
    for axis, data in zip(axes.flat, names, strict=False):
        here = [r for r in rows if r["data"] == data]
        labels = list(dict.fromkeys(r["variant"] for r in here))
        scores = [np.array([r["score"] for r in here if r["variant"] == label]) for label in labels]
        at = np.arange(len(labels))
        axis.errorbar(at, [s.mean() for s in scores], [s.std() for s in scores], fmt="o", color=panels.DARK, ms=3, capsize=2)
        for i, values in enumerate(scores):
            axis.plot(np.full(len(values), i), values, ".", color=panels.ORANGE, ms=2, zorder=0)
        axis.set_xticks(at, labels, rotation=30, ha="right")
        axis.set(title=short(data), xlabel=title, xlim=(-0.5, len(labels) - 0.5))
        panels.from_zero(axis)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("normalized score")
    return figure
