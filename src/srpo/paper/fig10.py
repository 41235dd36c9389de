"""Figure 10: the temperature, all of the paper's values in one training; critic and behavior model are those of the base."""

from __future__ import annotations

from srpo import config
from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.paper.ablated import report
from srpo.paper.ablation import Variant, study
from srpo.paper.job import Job

BETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
NORMALIZED = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)  # the paper's for mazes, whose gradient of Q has length one


def variants(base: Algorithm, data: Dataset) -> list[Variant]:
    """One sweep."""
    values = BETAS if config.settings(base)["policy.normalize"].value is None else NORMALIZED
    return [Variant("beta", sweep={"policy.beta": values})]


def make(job: Job) -> list[dict]:
    """Draws fig10.png, writes fig10.csv; returns a row per temperature."""
    return report(job, "fig10", r"$\beta$", study(job, variants))
