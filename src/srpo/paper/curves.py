"""Learning curves of all systems from the kept results of a suite: figures 4 and 11.

A point is the mean over seeds of the mean over episodes; the band is one standard deviation over seeds, as in the paper.
"""

from __future__ import annotations

import numpy as np

from srpo.errors import ConfigError
from srpo.paper import panels
from srpo.paper.job import Job
from srpo.suite.findings import Findings, short
from srpo.suite.scoring import curves
from srpo.suite.tables import RECORDED, Row

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # system -> steps, scores (seed, step)
COLUMNS = ("data", "system", "step", "mean", "std", "seeds")
ACROSS = 4


def draw_curves(job: Job, name: str, most: int | None = None) -> list[dict]:
    """Writes `name`.png and `name`.csv of the first `most` data sets that have curves; returns a row per curve."""
    asked = job.of_suite
    found = asked.findings()
    data = asked.chosen([d["name"] for d in found.about["data"]])
    all_curves = {d: c for d in data if (c := curves(d, found.results))}
    if not all_curves:
        raise ConfigError(f"{asked.keep} holds no learning curve of {', '.join(data)}; a suite with curve = 5 keeps them")
    shown = dict(list(all_curves.items())[:most])
    job.table(name, [row for d, c in shown.items() for row in long_rows(d, c)], COLUMNS)
    with panels.style():
        job.picture(name, draw(found, shown))
    return [
        {
            "data": short(d),
            "system": n,
            "points": len(steps),
            "seeds": len(scores),
            **{what: round(float(scores[:, i].mean()), 1) for what, i in (("first", 0), ("last", -1))},
        }
        for d, c in shown.items()
        for n, (steps, scores) in c.items()
    ]


def long_rows(data: str, found: Curves) -> list[Row]:
    return [
        {"data": data, "system": name, "step": int(step), "mean": at.mean(), "std": at.std(), "seeds": len(at)}
        for name, (steps, scores) in found.items()
        for step, at in zip(steps, scores.T, strict=True)
    ]


def draw(found: Findings, shown: dict[str, Curves]):
    """A panel per data set; a system has the same color in all of them."""
    names = [n for n in found.names if any(n in c for c in shown.values())]
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = panels.page(panels.TEXT_WIDTH * max(across, 2) / ACROSS, 0.35 + 1.6 * down)
    axes = figure.subplots(down, across, squeeze=False)
    handles = {}
    for axis, (d, here) in zip(axes.flat, shown.items(), strict=False):
        axis.set(title=short(d), xlabel="steps of the last stage")
        axis.spines[["top", "right"]].set_visible(False)
        for name, (steps, scores) in here.items():
            color, line = panels.system(names.index(name))
            mean, std = scores.mean(0), scores.std(0)
            axis.fill_between(steps, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)
            (handles[name],) = axis.plot(steps, mean, line, color=color, label=name)
        recorded = found.at.get((RECORDED, d), {}).get("mean")
        if recorded is not None:
            handles["the data"] = axis.axhline(recorded, color=panels.GRAY, linestyle=":", linewidth=0.8)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("normalized score")
    labels = [n for n in (*names, "the data") if n in handles]
    figure.legend([handles[n] for n in labels], labels, loc="outside lower center", ncols=min(len(labels), 8))
    return figure
