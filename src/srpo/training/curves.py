"""curves.png: the metrics of every stage and the score, over seeds."""

from __future__ import annotations

import io
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from srpo.data.reference import normalized
from srpo.runs.checkpoint import write_atomically
from srpo.runs.run import Run
from srpo.runs.tables import evals_table, metrics_table

CURVES = "curves.png"


def _series(rows: Iterable[dict[str, Any]], run: Run, value: str) -> dict[tuple, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Point -> (steps, mean over seeds, standard deviation over seeds) of rows with a seed, a step and a value."""
    cells: dict[tuple, dict[int, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        point = tuple((path, float(row[path])) for path in run.grid.sweep if row[path] != "")
        cells[point][int(row["step"])][int(row["seed"])].append(float(row[value]))
    out = {}
    for point, by_step in cells.items():
        steps = np.array(sorted(by_step))
        per_seed = [[np.mean(v) for v in by_step[s].values()] for s in steps]
        out[point] = steps, np.array([np.mean(v) for v in per_seed]), np.array([np.std(v) for v in per_seed])
    return out


def _plot(ax, series, colors) -> None:
    for point, (steps, mean, std) in series.items():
        label = ", ".join(f"{path.rpartition('.')[2]} {v:g}" for path, v in point) or None
        (line,) = ax.plot(steps, mean, lw=1.2, label=label, color=colors.get(point, "C0"))
        ax.fill_between(steps, mean - std, mean + std, color=line.get_color(), alpha=0.2, lw=0)


def _draw_data(ax, data: dict[str, Any], unit: str) -> None:
    """The mean of the recorded episodes, where policies are judged."""
    mean = data.get("mean_return")
    if mean is not None:
        ax.axhline(
            normalized(mean, data["reference"]) if unit == "score" else mean,
            color="0.5",
            lw=1,
            ls="--",
            label="mean of the data",
        )


def _finish(ax) -> None:
    from matplotlib.ticker import EngFormatter

    ax.set_visible(bool(ax.lines))
    ax.set_xlabel("gradient step", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.spines[["top", "right"]].set_visible(False)


def draw_curves(run: Run) -> None:
    """Write curves.png beside the tables it is drawn from: lines are means over seeds, bands standard deviations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = metrics_table(run).read()
    panels = sorted({(r["stage"], r["metric"]) for r in rows}, key=lambda p: (list(run.algorithm.stages).index(p[0]), p[1]))
    known = evals_table(run).read() if (run.path / "evals.csv").exists() else []
    evals = [row for row in known if row["kind"] == "training"]
    columns = min(4, len(panels) + bool(evals))
    if columns == 0:
        return
    height = -(-(len(panels) + bool(evals)) // columns)
    fig, grid = plt.subplots(height, columns, figsize=(3.2 * columns, 2.4 * height), squeeze=False, layout="constrained")
    axes = list(grid.flat)
    swept = run.points if len(run.points) > 1 else []
    colors = {point: plt.cm.viridis(i / (len(swept) - 1) * 0.9) for i, point in enumerate(swept)}
    if evals:
        unit = "score" if evals[0]["score"] != "" else "return"
        _plot(axes[0], _series(evals, run, unit), colors)
        axes[0].set_title("normalized score" if unit == "score" else "return", fontsize=9, fontweight="bold")
        _draw_data(axes[0], run.info["data"], unit)
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(fontsize=7, frameon=False)
    for ax, (stage, metric) in zip(axes[bool(evals) :], panels, strict=False):
        _plot(ax, _series([r for r in rows if (r["stage"], r["metric"]) == (stage, metric)], run, "value"), colors)
        ax.set_title(f"{stage}: {metric}", fontsize=9)
    for ax in axes:
        _finish(ax)
    title = f"{run.info['algorithm']} on {run.info['data']['name']}, {len(run.seeds)} seed{'s' * (len(run.seeds) > 1)}"
    fig.suptitle(
        textwrap.fill(title, 38 * columns, break_on_hyphens=False), fontsize=10, parse_math=False
    )  # `wrap` would parse math
    content = io.BytesIO()
    fig.savefig(content, dpi=130, format="png")
    plt.close(fig)
    write_atomically(run.path / CURVES, content.getvalue())
