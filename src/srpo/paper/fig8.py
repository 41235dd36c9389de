"""Figure 8: how far the critics of several seeds are apart, and what SfBC's mended reward does.

Mean Q is that of the trained target heads on transitions of the data, a number per seed, beside the seed's score. The mended
reward (`data.reward=beyond-19`) is for antmaze-medium-play, where rows are rewarded that are not at the goal; it trains the critic and
the behavior model again. It is left out where no rewarded row is beyond 19 in both coordinates, as nothing would be left to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.data.treated import treat
from srpo.data.treatments import mend_mislabeled
from srpo.paper import panels
from srpo.paper.ablation import Trained, Variant, study
from srpo.paper.job import Job
from srpo.runs.mapping import entry
from srpo.runs.run import Run
from srpo.suite.findings import short
from srpo.suite.plan import load_data

DEFAULT_SUITE = "d4rl-antmaze"
ROWS = 4096
COLUMNS = ("data", "variant", "seed", "episodes", "score", "mean_q")
MENDED = Variant("mended reward", {"data.reward": "beyond-19"})


def variants(base: Algorithm, data: Dataset) -> list[Variant]:
    """The base, and the same with the mended reward where it leaves one."""
    some = data.obs.shape[1] > 1 and bool((mend_mislabeled(data).reward > 0).any())
    return [Variant("reward of the base"), *([MENDED] if some else [])]


def make(job: Job) -> list[dict]:
    """Draws fig8.png, writes fig8.csv; returns a row per seed and variant."""
    found = study(job, variants, quick_seeds=(0, 1))
    rows = [row | {"mean_q": q} for one in found for row, q in with_q(one, load_data(one.data, job.of_suite.data_dir))]
    job.table("fig8", rows, COLUMNS)
    with panels.style():
        job.picture("fig8", draw(rows))
    return [
        row | {"data": short(row["data"]), "score": round(row["score"], 1), "mean_q": f"{row['mean_q']:.4g}"} for row in rows
    ]


def with_q(one: Trained, data: Dataset) -> list[tuple[dict[str, Any], float]]:
    by_seed = dict(zip(one.run.seeds, mean_q(one.run, data), strict=True))
    return [(row, by_seed[row["seed"]]) for row in one.rows()]


def mean_q(run: Run, data: Dataset) -> list[float]:
    """Mean of the target heads over `ROWS` evenly spaced transitions, by seed."""
    seen = treat(data, run.algorithm.data)
    rows = np.linspace(0, seen.n_transitions - 1, min(ROWS, seen.n_transitions)).astype(int)
    batch, critics = jax.jit(lambda view: view.take(rows))(seen.transitions), run.results["critic"]
    own = (entry(critics, (i, 0)) for i in range(len(run.seeds)))
    return [float(critic.q_target(batch.obs, batch.action).mean()) for critic in own]


def draw(rows: Sequence[dict[str, Any]]):
    """Score against mean Q, a dot per seed."""
    names = list(dict.fromkeys(r["data"] for r in rows))
    figure = panels.page(panels.TEXT_WIDTH * min(len(names), 3) / 3, 1.9 * -(-len(names) // 3))
    axes = figure.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False)
    for axis, data in zip(axes.flat, names, strict=False):
        here = [r for r in rows if r["data"] == data]
        labels = list(dict.fromkeys(r["variant"] for r in here))
        for i, label in enumerate(labels):
            at = np.array([(r["mean_q"], r["score"]) for r in here if r["variant"] == label])
            axis.plot(*at.T, "o", color=panels.system(i)[0], label=label, ms=3)
        middle, reach = wide_enough([r["mean_q"] for r in here])
        axis.set(title=short(data), xlabel="mean Q on the data", xlim=(middle - reach, middle + reach))
        panels.from_zero(axis)
        axis.spines[["top", "right"]].set_visible(False)
        if len(labels) > 1:
            axis.legend()
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("normalized score")
    return figure


def wide_enough(values: Sequence[float]) -> tuple[float, float]:
    """Middle and half width of an axis on which seeds that agree within a tenth look as if they did."""
    low, high = min(values), max(values)
    return (low + high) / 2, max(0.6 * (high - low), 0.1 * abs(low + high) / 2, 1e-6)
