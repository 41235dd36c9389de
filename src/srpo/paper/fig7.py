"""Figure 7: samples, learned density, behavior regularization and policy shift on six 2-D bandits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srpo.paper import panels
from srpo.paper.job import Job
from srpo.paper.study import Study, study, write_numbers

DATA = ("8gaussians", "swissroll", "checkerboard", "2spirals", "rings", "moons")


def make(job: Job) -> list[dict]:
    """Trains on each data set, draws fig7.png, writes fig7_policies.csv and fig7_density.csv; returns the rows to report."""
    names = job.data or DATA
    studies = [study(job, name, f"[{i}/{len(names)}] {name}") for i, name in enumerate(names, 1)]
    write_numbers(job, "fig7", studies)
    with panels.style():
        job.picture("fig7", draw(studies))
    return [s.report() for s in studies]


def draw(studies: Sequence[Study]):
    """A row of four panels per data set."""
    figure = panels.page(0.8 * panels.TEXT_WIDTH, 0.45 + 1.25 * len(studies))
    axes = figure.subplots(len(studies), 4, sharex="row", sharey="row", squeeze=False)
    for row, s in zip(axes, studies, strict=True):
        extent = s.bandit.extent
        panels.samples(row[0], s.actions)
        density = panels.image(row[1], np.exp(s.log_density), extent, panels.DENSITY, vmin=0)
        ends = panels.regularization(row[2], s.inverse_beta, s.policies)
        shifted = panels.policy_shift(row[3], s.inverse_beta, s.policies)
        for axis in row:
            panels.square(axis, extent)
        row[0].set_ylabel(f"{s.name}\n$a_2$")
        figure.colorbar(density, ax=row[1], fraction=0.05, aspect=22, pad=0.02)
    titles = ["Data samples", r"Density $\hat\mu(a)$", "Behavior regularization", "Policy shift"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("$a_1$")
    legend = axes[-1, 2].legend(*zip(*ends, strict=True), loc="upper center", bbox_to_anchor=(0.5, -0.27), handletextpad=0.1)
    legend.set_in_layout(False)
    figure.colorbar(shifted, ax=axes[-1, 3], location="bottom", label=r"$1/\beta$", aspect=22, pad=0.01)
    return figure
