"""Figure 6: the weight w(t) of eq. 14, single diffusion times, and the subtracted noise of eq. 15.

A single time has w = alpha/sigma, with which eq. 15 at t near 0 is eq. 10: the same beta means the same there.
"""

from __future__ import annotations

from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.paper.ablated import report
from srpo.paper.ablation import Variant, study
from srpo.paper.job import Job

TIMES = (0.02, 0.98)


def variants(base: Algorithm, data: Dataset) -> list[Variant]:
    """With the noise subtracted unless the label says otherwise."""

    def one(label: str, weight: str, **more):
        return Variant(label, {"policy.weight": weight, "policy.baseline": True} | {f"policy.{k}": v for k, v in more.items()})

    return [
        *(one(f"w = {weight}", weight) for weight in ("sigma^2", "1", "alpha/sigma")),
        *(one(f"t = {time}", "alpha/sigma", min_time=time, max_time=time) for time in TIMES),
        one("no baseline", "sigma^2", baseline=False),
    ]


def make(job: Job) -> list[dict]:
    """Draws fig6.png, writes fig6.csv; returns a row per variant."""
    return report(job, "fig6", "w(t) and baseline", study(job, variants))
