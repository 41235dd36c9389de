"""What efficiency.py measured, as tables and as Figures 1 and 5 of the paper: score against time per action, costs side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.transforms import Bbox

from srpo.errors import ConfigError
from srpo.suite import published
from srpo.suite.pages import markdown, number

BATCH = 256  # the larger of the two batch sizes
COLUMNS = ("algorithm", "kind", "quantity", "stage", "value", "unit", "ratio")

COLOR = {"one pass": "#1b6ca8", "candidates": "#7a9a3a", "diffusion": "#c8643c", "other": "0.5"}
MARKER = {"one pass": "o", "candidates": "s", "diffusion": "D", "other": "x"}
MEANING = {"one pass": "one forward pass", "candidates": "many candidates, no diffusion", "diffusion": "diffusion sampling"}

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
}

# Where a label may stand: offset from its point, and how it is aligned there
SIDES = (
    ((6, 0), "left", "center"),
    ((-6, 0), "right", "center"),
    ((0, 4), "center", "bottom"),
    ((0, -5), "center", "top"),
    ((3, 3), "right", "bottom"),
    ((-3, 3), "left", "bottom"),
)

Row = dict[str, Any]


def draw(rows: Sequence[Row], folder: Path, scores: Path | None = None) -> None:
    """Write figure1.png and figure5.png. Raises ConfigError if `scores` cannot be read."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = published.MEAN if scores is None else measured(scores)
    label = "published score, D4RL locomotion" if scores is None else "measured score, mean of the suite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot write to {folder}: {e.strerror}; choose another --png") from None
    with plt.rc_context(STYLE):
        for name, figure in (("figure1", figure1(plt, rows, found, label)), ("figure5", figure5(plt, rows))):
            figure.savefig(folder / f"{name}.png")
            plt.close(figure)


def measured(path: Path) -> dict[str, float]:
    """Means over the suite from a scores.csv of srpo suite."""
    try:
        with open(path, newline="") as file:
            return {
                r["algorithm"]: float(r["mean"]) for r in csv.DictReader(file) if r["data"] == "mean of the suite" and r["mean"]
            }
    except (OSError, KeyError) as e:
        raise ConfigError(f"cannot read scores from {path} ({e}); give one that srpo suite wrote") from None


def figure1(plt, rows: Sequence[Row], scores: Mapping[str, float], label: str):
    """Score against time per action."""
    figure, ax = plt.subplots(figsize=(4.6, 3.0))
    shown = sorted((r for r in rows if r["algorithm"] in scores), key=lambda r: r["batch_1"]["seconds"])
    for kind, group in by_kind(shown).items():
        x, y = [1e3 * r["batch_1"]["seconds"] for r in group], [scores[r["algorithm"]] for r in group]
        ax.scatter(x, y, s=26, color=COLOR[kind], marker=MARKER[kind], label=MEANING.get(kind, kind), zorder=3, lw=0)
    ax.set(xscale="log", xlabel="time per action at batch 1 (ms)", ylabel=label)
    ax.margins(x=0.2, y=0.1)
    ax.grid(color="0.9", lw=0.5)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.draw_without_rendering()  # the layout is final, so that labels can be placed
    points = ax.transData.transform([(1e3 * r["batch_1"]["seconds"], scores[r["algorithm"]]) for r in shown])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for row in shown:
        place(ax, row, scores[row["algorithm"]], taken)
    return figure


def place(ax, row: Row, y: float, taken: list) -> None:
    """A point's label beside it, on the first of `SIDES` where it covers no point and no label (`taken`, in pixels)."""
    name = row["algorithm"]
    text = ax.annotate(
        row.get("title", name),
        (1e3 * row["batch_1"]["seconds"], y),
        (0, 0),
        textcoords="offset points",
        fontsize=7,
        weight="bold" if name == "srpo" else "normal",
    )
    for position, ha, va in SIDES:
        text.set(position=position, ha=ha, va=va)
        box = text.get_window_extent()
        if not box.count_overlaps(taken):
            break
    taken.append(box)


def by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {kind: group for kind in COLOR if (group := [r for r in rows if r["kind"] == kind])}


def figure5(plt, rows: Sequence[Row]):
    """Time per action, operations per action and training time, as bars on logarithmic axes."""
    rows = sorted(rows, key=lambda r: -r["batch_1"]["seconds"])
    panels = [
        ("time per action, batch 1 (ms)", [1e3 * r["batch_1"]["seconds"] for r in rows]),
        ("operations per action (MFLOP)", [r["flops"] / 1e6 for r in rows]),
    ]
    if all(r["stages"] for r in rows):
        panels.append(("training at the paper's steps (h)", [r["hours"] for r in rows]))
    figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 0.6 + 0.21 * len(rows)), sharey=True)
    names = [r.get("title", r["algorithm"]) for r in rows]
    for ax, (label, values) in zip(axes, panels, strict=True):
        ax.barh(names, values, color=[COLOR[r["kind"]] for r in rows], height=0.72, lw=0)
        ax.set(xscale="log", xlabel=label, xlim=(min(values) / 2.5, max(values) * 8))
        for i, value in enumerate(values):
            ax.text(value * 1.15, i, f"{value:.2g}" if value < 100 else f"{value:,.0f}", va="center", fontsize=6.5)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_minor_formatter("")
    for tick, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        tick.set_weight("bold" if row["algorithm"] == "srpo" else "normal")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOR[kind]) for kind in by_kind(rows)]
    labels = [MEANING.get(kind, kind) for kind in by_kind(rows)]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def tables(rows: list[Row], device: str) -> str:
    """The figures as Markdown."""
    shown = [acting(rows, batch) for batch in (1, BATCH)]
    operations = [[r["algorithm"], number(r["flops"] / 1e6), number(r["flops_ratio"])] for r in rows]
    shown.append(markdown(["algorithm", "MFLOP per action", "x SRPO"], operations))
    timed = [r for r in rows if r["stages"]]
    if timed:

        def steps(r, key):
            return ", ".join(f"{name} {number(s[key])}" for name, s in r["stages"].items())

        cells = [
            [r["algorithm"], steps(r, "ms_per_step"), steps(r, "cpu_ms_per_step"), number(r["hours"]), number(r["hours_ratio"])]
            for r in timed
        ]
        header = [
            "algorithm",
            "s per 1000 steps of each stage",
            "core s per 1000 steps",
            "hours at the paper's steps",
            "x SRPO",
        ]
        shown.append(markdown(header, cells, text=3))
    return "\n\n".join([f"Device: {device}.", *shown])


def acting(rows: list[Row], batch: int) -> str:
    """Times per action at one batch size."""
    cells = []
    for r in rows:
        f = r[f"batch_{batch}"]
        name = r["algorithm"] + ("" if f["measured_at"] == batch else f" (batch {f['measured_at']})")
        times = [number(1e6 * f["seconds"]), number(f["ratio"]), number(1e6 * f["cpu_seconds"]), number(f["cpu_ratio"])]
        cells.append([name, r["kind"], *times])
    header = [f"batch {batch}", "kind", "µs per action", "x SRPO", "core µs per action", "x SRPO"]
    return markdown(header, cells, text=2)


def tidy(rows: list[Row]) -> list[Row]:
    """One measured number per row, for the CSV file."""
    out = []
    for r in rows:

        def add(quantity, value, unit, ratio="", stage="", r=r):
            return out.append(
                {
                    "algorithm": r["algorithm"],
                    "kind": r["kind"],
                    "quantity": quantity,
                    "stage": stage,
                    "value": value,
                    "unit": unit,
                    "ratio": ratio,
                }
            )

        for batch in (1, BATCH):
            found = r[f"batch_{batch}"]
            at = f"per action, batch {batch}, measured at {found['measured_at']}"
            add(f"time {at}", found["seconds"], "s", found["ratio"])
            add(f"core time {at}", found["cpu_seconds"], "s", found["cpu_ratio"])
        add("operations per action", r["flops"], "FLOP", r["flops_ratio"])
        for name, s in r["stages"].items():
            add("time of 1000 training steps", s["ms_per_step"], "s", stage=name)
            add("core time of 1000 training steps", s["cpu_ms_per_step"], "s", stage=name)
        if r["stages"]:
            add("training at the paper's steps", r["hours"], "h", r["hours_ratio"])
    return out
