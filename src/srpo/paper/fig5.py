"""Figure 5: time and operations per action and time of training, of every algorithm; and the table of all that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srpo import algorithms
from srpo.paper import costs, panels, timing
from srpo.paper.costs import Costs
from srpo.paper.fig1 import title
from srpo.paper.job import Job
from srpo.suite.pages import check_place, insert, markdown, number

PLACE = "efficiency"  # of the table in a page


def make(job: Job) -> list[dict]:
    """Draws fig5.png, writes fig5.md and, where it measured, costs.csv; returns a row per algorithm. Raises ConfigError."""
    into = job.asked.into if job.asked else None
    if into is not None:
        check_place(into, PLACE)
    found = timing.costs_of(job, list(algorithms.ALGORITHMS), timing.FULL)
    text = page(found)
    job.text("fig5.md", text + "\n")
    with panels.style():
        job.picture("fig5", draw(found))
    if into is not None:
        insert(into, PLACE, text)
    micro, ratio = _scaled(found, costs.TIME, 1e6), found.of(costs.TIME)
    shown = {
        "µs per action": micro,
        "MFLOP": _scaled(found, costs.OPERATIONS, 1e-6),
        "training, h": found.values(costs.TRAINING),
    }
    return [
        {"algorithm": n, "x SRPO": number(ratio[n]["ratio"])} | {k: number(v[n]) for k, v in shown.items() if n in v}
        for n in found.names
    ]


def _scaled(found: Costs, quantity: str, factor: float) -> dict[str, float]:
    return {name: factor * value for name, value in found.values(quantity).items()}


def draw(found: Costs):
    """Bars on logarithmic axes, the fastest above; what was not measured of an algorithm has none."""
    names, kinds = found.names[::-1], found.kinds
    everything = [
        ("time per action, batch 1 (ms)", _scaled(found, costs.TIME, 1e3)),
        ("operations per action (MFLOP)", _scaled(found, costs.OPERATIONS, 1e-6)),
        ("training at the paper's steps (h)", found.values(costs.TRAINING)),
    ]
    shown = [(label, values) for label, values in everything if set(names) & set(values)]
    figure = panels.page(panels.TEXT_WIDTH, 0.6 + 0.17 * len(names))
    (axes,) = figure.subplots(1, len(shown), sharey=True, squeeze=False)
    for axis, (label, by_name) in zip(axes, shown, strict=True):
        here = [n for n in names if n in by_name]  # all of them in the first panel, whose order the others share
        values = [by_name[n] for n in here]
        axis.barh(list(map(title, here)), values, color=[panels.KINDS[kinds[n]][0] for n in here], height=0.72, lw=0)
        axis.set(xscale="log", xlabel=label, xlim=(min(values) / 2.5, max(values) * 8))
        for name, value in zip(here, values, strict=True):
            axis.text(
                value * 1.15, names.index(name), f"{value:.2g}" if value < 100 else f"{value:,.0f}", va="center", fontsize=5.5
            )
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_minor_formatter("")
        axis.spines[["top", "right"]].set_visible(False)
    for tick, name in zip(axes[0].get_yticklabels(), names, strict=True):
        tick.set_weight("bold" if name == timing.REFERENCE else "normal")
    there = [kind for kind in panels.KINDS if kind in kinds.values()]
    handles = [axes[0].bar(0, 0, color=panels.KINDS[kind][0]) for kind in there]
    figure.legend(handles, [panels.KINDS[k][2] for k in there], loc="outside upper center", ncols=len(there))
    return figure


def page(found: Costs) -> str:
    """All that was measured, as Markdown."""
    operations = [
        [n, number(v / 1e6), number(found.of(costs.OPERATIONS)[n]["ratio"])] for n, v in _ordered(found, costs.OPERATIONS)
    ]
    shown = [acting(found, batch) for batch in found.batches]
    if operations:
        shown.append(markdown(["algorithm", "MFLOP per action", "x SRPO"], operations))
    timed = _ordered(found, costs.TRAINING)
    if timed:
        cells = [[n, *steps(found, n), number(hours), number(found.of(costs.TRAINING)[n]["ratio"])] for n, hours in timed]
        header = ["s per 1000 steps of each stage", "core s per 1000 steps", "hours at the paper's steps", "x SRPO"]
        shown.append(markdown(["algorithm", *header], cells, text=3))
    return "\n\n".join([f"Device: {found.device}.", *shown])


def _ordered(found: Costs, quantity: str) -> Sequence[tuple[str, float]]:
    values = found.values(quantity)
    return [(name, values[name]) for name in found.names if name in values]


def steps(found: Costs, name: str) -> list[str]:
    """Seconds, and core seconds, of every stage."""
    both = [found.by_stage(quantity, name) for quantity in (costs.STEPS, costs.CORE_STEPS)]
    return [", ".join(f"{stage} {number(value)}" for stage, value in one.items()) for one in both]


def acting(found: Costs, batch: float) -> str:
    """Times per action at one batch size."""
    seconds, core, cells = found.of(costs.TIME, batch), found.of(costs.CORE_TIME, batch), []
    for name in (n for n in found.names if n in seconds):
        at = seconds[name]["measured_at"]
        cells.append(
            [
                name + ("" if at == batch else f" (batch {at:g})"),
                seconds[name]["kind"],
                *_both(seconds[name]),
                *_both(core.get(name)),
            ]
        )
    header = [f"batch {batch:g}", "kind", "µs per action", "x SRPO", "core µs per action", "x SRPO"]
    return markdown(header, cells, text=2)


def _both(row: dict[str, Any] | None) -> tuple[str, str]:
    """A time and how many times SRPO's it is, where it was measured."""
    if row is None:
        return "-", "-"
    return number(1e6 * row["value"]), number(row["ratio"])
