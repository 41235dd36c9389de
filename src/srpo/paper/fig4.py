"""Figure 4: learning curves of all systems on the suite's first four data sets."""

from __future__ import annotations

from srpo.paper.curves import draw_curves
from srpo.paper.job import Job


def make(job: Job) -> list[dict]:
    """Draws fig4.png, writes fig4.csv; returns a row per curve."""
    return draw_curves(job, "fig4", most=4)
