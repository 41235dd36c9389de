"""`srpo.judge`: the policies of several runs, ranked from held-out data alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from srpo.core import Batch
from srpo.data import Dataset
from srpo.data.again import reload, same_units
from srpo.errors import UserError
from srpo.judging.evidence import Judging, Progress, Split, gather
from srpo.judging.panel import Panel
from srpo.judging.verdict import Judgement, judgement
from srpo.runs.grid import Point
from srpo.runs.run import Run, load_run
from srpo.stages.weighted_cloning import WeightedCloning
from srpo.training.inherit import require_same_units


class JudgingError(UserError):
    """Runs that cannot be judged, or not together."""


def judge(
    runs: Run | str | Path | Sequence[Run | str | Path],
    data: Dataset | str | Path | None = None,
    judging: Judging | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Judgement:
    """Rank every policy that the runs kept (seeds, swept values, checkpoints, algorithms) by held-out episodes of their data.

    data: where the data set is now, if it was moved. Raises JudgingError for runs on different data or without held-out
    episodes, RunError for one that is not finished or was trained on actions in other units, DataError if the data are not what the
    runs were trained on.
    """
    given = [runs] if isinstance(runs, (Run, str, Path)) else runs
    loaded = [run if isinstance(run, Run) else load_run(run) for run in given]
    found = list({Path(run.path).resolve(): run for run in loaded}.values())
    holdout, judging = comparable(found), judging or Judging()
    recording = data if isinstance(data, Dataset) else reload(found[0].info["data"], data)
    if recording.sha256 != found[0].info["data"]["sha256"]:
        raise JudgingError(f"{recording.source} is not the data that {found[0].path} was trained on; name it with --data")
    require_same_units(found[0], recording)
    return judge_on(Split(recording, holdout, judging), found, judging, progress)


def judge_on(split: Split, runs: Sequence[Run], judging: Judging, progress: Progress, step: int | None = None) -> Judgement:
    """`judge` on a split of the data that keeps what is fitted to them alone for the next call. step: only the policies that were
    kept then, of runs that may still be in training."""
    panel = Panel.of(runs, step)
    evidence = gather(split, panel, runs, judging, progress)
    shares = {str(run.path): effective_shares(run, split.held) for run in runs}
    of_each = [shares[c.run].get((c.seed, c.point)) for c in panel.candidates]
    return judgement(split.name, float(judging.q.discount), panel.candidates, evidence, of_each)


def comparable(runs: Sequence[Run]) -> float:
    """The fraction of the episodes that none of the runs was trained on. Raises JudgingError, RunError."""
    if not runs:
        raise JudgingError("found no run to judge, expected one or more")
    first = runs[0]
    for run in runs:
        run.require_complete()
        if run.info["data"]["sha256"] != first.info["data"]["sha256"]:
            names = f"{run.path} was trained on {run.info['data']['name']}, {first.path} on {first.info['data']['name']}"
            raise JudgingError(f"{names}; judge them one by one")
        if not same_units(run.info["data"], first.info["data"]):
            raise JudgingError(f"{run.path} and {first.path} map the recorded actions in different ways; judge them one by one")
        if run.algorithm.data.holdout == 0:
            raise JudgingError(
                f"{run.path} was trained on all episodes, so none is left to judge by; train with --set data.holdout=0.1"
            )
    return min(
        run.algorithm.data.holdout for run in runs
    )  # of two fractions the smaller one's episodes are among the larger one's


def effective_shares(run: Run, held: Batch) -> dict[tuple, float]:
    """(E w)^2 / E w^2 on held-out transitions by seed and point, for a policy that was cloned with weights w."""
    name, stage = list(run.algorithm.stages.items())[-1]
    if not isinstance(stage, WeightedCloning) or any(not run.stage_file(need).exists() for need in stage.needs):
        return {}
    seen = (
        held
        if run.units.normalizer is None
        else held._replace(obs=run.units.normalizer(held.obs), next_obs=run.units.normalizer(held.next_obs))
    )

    def share(s: int, point: Point) -> float:
        given = {n: jax.tree.map(lambda x, i=run.grid.where(n, point): x[s, i], run.results[n]) for n in stage.needs}
        weighted = run.grid.at(point).stages[name]
        assert isinstance(weighted, WeightedCloning)  # as the grid's own is
        weight = weighted.weight(given, seen)
        return float(jnp.mean(weight) ** 2 / jnp.maximum(jnp.mean(weight**2), 1e-30))

    return {(seed, point): share(s, point) for s, seed in enumerate(run.seeds) for point in run.points}
