"""The look of the figures, and the panels that several of them share. Sizes are those of a printed page."""

from __future__ import annotations

from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

Layout = Literal["constrained", "compressed", "tight"]
TEXT_WIDTH = 6.75  # inches
STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "axes.titlepad": 3,
    "axes.labelpad": 1.5,
    "lines.linewidth": 1.0,
    "mathtext.fontset": "cm",
    "legend.frameon": False,
    "legend.handlelength": 1.5,
}
TEMPERATURE, DENSITY, VALUE = "winter", "magma", "viridis"  # winter runs from the paper's blue to its spring green
BLUE, GREEN, RED, DARK, ORANGE, GRAY = (0, 0, 1), (0, 1, 0.5), "#d62728", "#1f4e79", "#ff7f0e", "#777777"

KINDS = {  # how a system acts: color, mark, meaning
    "one pass": ("#1b6ca8", "o", "one forward pass"),
    "candidates": ("#7a9a3a", "s", "many candidates, no diffusion"),
    "diffusion": ("#c8643c", "D", "diffusion sampling"),
    "other": ("0.5", "x", "other"),
}
SYSTEMS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")


def system(index: int) -> tuple[str, str]:
    """Color and line of the index-th system: past the last color the lines are dashed, then dotted."""
    return SYSTEMS[index % len(SYSTEMS)], ("-", "--", ":")[index // len(SYSTEMS) % 3]


def style():
    return matplotlib.rc_context(STYLE)


def page(width: float, height: float, layout: Layout | None = "constrained") -> Figure:
    """An empty figure of this size in inches. Draw and save it within `style()`."""
    return Figure(figsize=(width, height), layout=layout)


def from_zero(axis: Axes) -> None:
    """Scores with zero in sight, and room above the highest."""
    low, high = axis.get_ylim()
    axis.set_ylim(min(0.0, low), high + 0.05 * (high - min(0.0, low)))


def square(axis: Axes, extent: float) -> None:
    """Equal axes over [-extent, extent]^2, labeled at multiples of 4."""
    ticks = np.floor(extent / 4) * 4
    axis.set(
        xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[-ticks, 0, ticks], yticks=[-ticks, 0, ticks]
    )


def image(axis: Axes, values: np.ndarray, extent: float, cmap: str, **options):
    """Values on the cells of the square, as (y, x)."""
    box = (-extent, extent, -extent, extent)
    return axis.imshow(values, origin="lower", extent=box, cmap=cmap, interpolation="bilinear", rasterized=True, **options)


def samples(axis: Axes, actions: np.ndarray, n: int = 4000, **options: Any) -> None:
    """The first `n` actions as dots."""
    dots(axis, actions[:n], **{"s": 0.4, "color": DARK, "linewidths": 0, "rasterized": True} | options)


def dots(axis: Axes, points: np.ndarray, **options: Any) -> PathCollection:
    """Points (n, 2) as marks without edges, unless the options say otherwise."""
    return axis.scatter(points[:, 0], points[:, 1], **{"linewidths": 0} | options)


def stacked_values(axis: Axes, targets: np.ndarray, extent: float):
    """All quadratic Q-functions in one picture: at each point that of the nearest target."""
    line = np.linspace(-extent, extent, 240)
    points = np.stack(np.meshgrid(line, line), -1)
    nearest = np.full(points.shape[:2], np.inf)
    for target in targets:
        nearest = np.minimum(nearest, ((points - target) ** 2).sum(-1))
    shown = image(axis, -nearest, extent, VALUE, vmax=0)
    dots(axis, targets, s=1.2, color="white")
    return shown


def regularization(axis: Axes, inverse_beta: np.ndarray, policies: np.ndarray) -> list:
    """From the greedy policy (blue) along its path (red) to the regularized one (green); returns both marks with their labels."""
    axis.add_collection(LineCollection(list(np.swapaxes(policies, 0, 1)), colors="red", linewidths=0.4, alpha=0.7))
    first = dots(axis, policies[0], s=2.2, color=BLUE, zorder=3)
    last = dots(axis, policies[-1], s=3.0, color=GREEN, edgecolors="#006633", linewidths=0.2, zorder=4)
    return [(mark, rf"$1/\beta={value:g}$") for mark, value in ((first, inverse_beta[0]), (last, inverse_beta[-1]))]


def policy_shift(axis: Axes, inverse_beta: np.ndarray, policies: np.ndarray):
    """Every policy, colored by its 1/beta."""
    color = np.repeat(inverse_beta, policies.shape[1])
    return dots(axis, policies.reshape(-1, 2), s=1.3, c=color, cmap=TEMPERATURE, vmin=0, vmax=float(inverse_beta[-1]))
