"""Figure 3: SRPO on one 2-D bandit: samples, learned density, Q-functions, behavior regularization, policy shift."""

from __future__ import annotations

import numpy as np

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
    """The figure, as wide as the text."""
    figure = panels.page(panels.TEXT_WIDTH, 1.72)
    axes = figure.subplots(1, 5, sharey=True)
    extent = s.bandit.extent
    panels.samples(axes[0], s.actions)
    density = panels.image(axes[1], np.exp(s.log_density), extent, panels.DENSITY, vmin=0)
    value = panels.stacked_values(axes[2], s.targets, extent)
    panels.regularization(axes[3], s.targets, s.policies)
    shifted = panels.policy_shift(axes[4], s.inverse_beta, s.policies)
    titles = ["(a) Data samples", r"(b) Density $\hat\mu(a)$", "(c) Q-functions (stacked)", "(d) Regularization", "(e) Policy shift"]
    for axis, title in zip(axes, titles, strict=True):
        panels.square(axis, extent, np.floor(extent / 4) * 4)
        axis.set_title(title)
        axis.set_xlabel("$a_1$")
    axes[0].set_ylabel("$a_2$")
    handles = [
        axes[3].scatter([], [], s=4, color=panels.BLUE, label=r"$1/\beta=0$"),
        axes[3].scatter([], [], s=4, color=panels.GREEN, label=rf"$1/\beta={s.inverse_beta[-1]:g}$"),
    ]
    for axis, shown, label in ((axes[1], density, "density"), (axes[2], value, "$Q$"), (axes[4], shifted, r"$1/\beta$")):
        figure.colorbar(shown, ax=axis, location="bottom", label=label, shrink=0.9, aspect=18, pad=0.02)
    axes[3].legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, handletextpad=0, columnspacing=0.8)
    return figure
