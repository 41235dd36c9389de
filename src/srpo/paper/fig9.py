"""Figure 9: the depth of the policy, on mazes."""

from __future__ import annotations

from srpo import config
from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.paper.ablated import report
from srpo.paper.ablation import Variant, study
from srpo.paper.job import Job

DEFAULT_SUITE = "mazes"
DEPTHS = (2, 3, 4)


def variants(base: Algorithm, data: Dataset) -> list[Variant]:
    """The base's width in so many hidden layers."""
    width = config.settings(base)["policy.hidden"].value[0]
    return [Variant(f"{depth} layers", {"policy.hidden": (width,) * depth}) for depth in DEPTHS]


def make(job: Job) -> list[dict]:
    """Draws fig9.png, writes fig9.csv; returns a row per variant."""
    return report(job, "fig9", "hidden layers of the policy", study(job, variants))
