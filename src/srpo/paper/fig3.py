"""Figure 3: SRPO on one 2-D bandit: samples, learned density, Q-functions, behavior regularization, policy shift."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from srpo.paper import panels
from srpo.paper.job import Job
from srpo.paper.study import Study, study, write_numbers

DATA = ("swissroll",)  # unless asked for another


def make(job: Job) -> list[dict]:
    """Trains, draws fig3.png and writes fig3_policies.csv and fig3_density.csv; returns the row to report."""
    one = study(job, (job.data or DATA)[0])
    write_numbers(job, "fig3", [one])
    with panels.style():
        job.picture("fig3", draw(one))
    return [one.report()]


def draw(s: Study):
    """The figure, as wide as the text: five squares, below them their scales."""
    side, gap, left, bottom, height = 1.14, 0.13, 0.32, 0.56, 1.9  # inches
    figure = panels.page(panels.TEXT_WIDTH, height, layout=None)

    def box(i, x, y, w, h):
        return ((left + i * (side + gap) + x) / panels.TEXT_WIDTH, y / height, w / panels.TEXT_WIDTH, h / height)

    axes = [figure.add_axes(box(i, 0, bottom, side, side)) for i in range(5)]
    extent = s.bandit.extent
    panels.samples(axes[0], s.actions)
    density = panels.image(axes[1], np.exp(s.log_density), extent, panels.DENSITY, vmin=0)
    value = panels.stacked_values(axes[2], s.targets, extent)
    ends = panels.regularization(axes[3], s.inverse_beta, s.policies)
    shifted = panels.policy_shift(axes[4], s.inverse_beta, s.policies)
    titles = ["(a) Data samples", r"(b) Density $\hat\mu(a)$", "(c) $Q$-functions", "(d) Regularization", "(e) Policy shift"]
    for axis, title in zip(axes, titles, strict=True):
        panels.square(axis, extent)
        axis.set_title(title)
        axis.tick_params(labelleft=axis is axes[0])
    axes[0].set(xlabel="$a_1$", ylabel="$a_2$")
    for i, shown, label in ((1, density, r"$\hat\mu(a)$"), (2, value, "$Q(a)$"), (4, shifted, r"$1/\beta$")):
        bar = figure.colorbar(shown, cax=figure.add_axes(box(i, 0.06, 0.33, side - 0.12, 0.05)), orientation="horizontal")
        bar.set_label(label)
        bar.locator = MaxNLocator(2)
    legend = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "handletextpad": 0.1, "labelspacing": 0.15}
    axes[3].legend(*zip(*ends, strict=True), **legend)
    return figure
