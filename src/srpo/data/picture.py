"""The histograms of `srpo data info --png`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from srpo.data import extent
from srpo.data.mapped import few
from srpo.data.recording import Dataset
from srpo.system.files import unfinished
from srpo.text import plain

BLUE, GRAY = "#2b6cb0", "#555555"
MOST = 32  # action columns drawn
TICKS = (-1, 0, 1)  # of actions as training sees them


def draw(data: Dataset, path: Path) -> None:
    """Writes the histogram of the returns, and one per action column, to a PNG."""
    shown = min(data.action_size, MOST)
    columns = min(shown, 3 if shown % 3 == 0 and shown < 12 else 4)
    rows = -(-shown // columns)
    figure = Figure(figsize=(9, 3.4 + 1.7 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4, 1.7 * rows]).ravel()
    _returns(top.subplots(), data)
    bottom.supylabel("share of rows", fontsize=10)
    bottom.supxlabel("action", fontsize=10)
    axes = bottom.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    action, ticks = few(data.action), _ticks(data)
    for column, axis in enumerate(axes):
        if column >= shown:
            axis.set_visible(False)
        else:
            name = f"column {column}" if data.labels is None else plain(data.labels[1][column], 24)
            _action(axis, action[:, column], name, ticks[column])
    with unfinished(path) as part:
        figure.savefig(part, format="png")
        os.replace(part, path)


def _returns(axis, data: Dataset) -> None:
    axis.set_title(f"{data.name}: {len(data)} rows, {len(data.returns)} complete episodes", fontsize=11, parse_math=False)
    axis.set_ylabel("episodes")
    axis.set_xlabel("return of an episode")
    axis.spines[["top", "right"]].set_visible(False)
    if len(data.returns) == 0:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "no complete episode", ha="center", va="center", transform=axis.transAxes, color=GRAY)
        return
    axis.hist(data.returns, bins=min(60, max(10, len(data.returns) // 4)), color=BLUE)
    mean = data.returns.mean()
    axis.axvline(mean, color=GRAY, linestyle="--", linewidth=1.2, label=f"mean {mean:.4g}")
    axis.legend(frameon=False, fontsize=9)
    if data.reference:
        low, high = data.reference
        score = axis.secondary_xaxis("top", functions=(data.score, lambda s: low + np.asarray(s) * (high - low) / 100))
        score.set_xlabel("normalized score", fontsize=9)
        score.tick_params(labelsize=8)
        score.spines["top"].set_color(GRAY)


def _ticks(data: Dataset) -> list[list[str]]:
    """What the actions that are -1, 0 and 1 in training are in recorded units, column by column."""
    at = np.repeat(np.array(TICKS)[:, None], data.action_size, 1)
    recorded = at if data.action_range is None else data.action_range.recorded(at)
    digits = extent.digits(recorded[0], recorded[-1])
    return [[f"{x:.{n}g}" for x in column] for column, n in zip(recorded.T, digits, strict=True)]


def _action(axis, values: np.ndarray, name: str, ticks: list[str]) -> None:
    axis.hist(values, bins=np.linspace(-1, 1, 51), weights=np.full(len(values), 1 / len(values)), color=BLUE)
    axis.set_title(name, fontsize=9, parse_math=False)
    axis.set_xlim(-1.04, 1.04)
    axis.set_xticks(TICKS, ticks)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
