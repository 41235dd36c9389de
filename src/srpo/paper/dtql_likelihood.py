"""DTQL's likelihood term (which its paper calls entropy), on mazes: without it, and with the weight that the paper has there, 1."""

from __future__ import annotations

from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.paper.ablated import report
from srpo.paper.ablation import Variant, study
from srpo.paper.job import Job

DEFAULT_SUITE = "mazes"
WEIGHTS = (0.0, 0.1, 1.0)


def variants(base: Algorithm, data: Dataset) -> list[Variant]:
    """One sweep: critic and behavior model, which train on beside the policy, start at the same warm-up."""
    return [Variant("likelihood", sweep={"policy.likelihood": WEIGHTS})]


def make(job: Job) -> list[dict]:
    """Draws dtql-likelihood.png, writes dtql-likelihood.csv; returns a row per weight."""
    return report(job, "dtql-likelihood", "weight of the likelihood term", study(job, variants, system="dtql"))
