"""Figure 11: learning curves of all systems on all data sets of a suite."""

from __future__ import annotations

from srpo.paper.curves import draw_curves
from srpo.paper.job import Job


def make(job: Job) -> list[dict]:
    """Draws fig11.png, writes fig11.csv; returns a row per curve."""
    return draw_curves(job, "fig11")
