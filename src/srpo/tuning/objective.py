"""What trials are compared by: the environment's score, or, where there is no simulator, the judge's lower end of the return."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srpo.data import Dataset
from srpo.errors import ConfigError
from srpo.evaluation.scores import training_scores
from srpo.judging.evidence import Judging, Split
from srpo.judging.judge import judge_on
from srpo.judging.ranking import Judged
from srpo.runs.run import Run

NOT_TRUSTED = -1e9  # below whatever is trusted, and a number that Ray can compare


@dataclass(frozen=True)
class Score:
    """Larger is better: a mean over the seeds, with its 95 % interval. `note`: why it is not trusted."""

    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Objective:
    """kind: "score" (normalized, or the return where there is no reference), or "judge"."""

    kind: str
    judging: Judging
    # by what is held out, with what is fitted to the data alone
    _splits: dict[float, Split] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, run: Run, data: Dataset, step: int) -> Score:
        """Of the policies that a run, perhaps still in training, kept at `step`; of a dial its best temperature."""
        if self.kind == "judge":
            return judged(judge_on(self._split(run, data), [run], self.judging, quietly, step).ranking)
        found = training_scores(run, step)
        if found is None:
            raise ConfigError(f"{run.path}: evals.csv has no episode of step {step}; restore it, or remove the folder")
        (summary,) = found.summaries
        return Score(summary.mean, summary.low, summary.high)

    def _split(self, run: Run, data: Dataset) -> Split:
        holdout = run.algorithm.data.holdout
        if holdout not in self._splits:
            self._splits[holdout] = Split(data, holdout, self.judging)
        return self._splits[holdout]


def quietly(what: str, done: int, of: int) -> None:
    """A trial shows no progress of its own."""


def judged(ranking: Any) -> Score:
    """The mean over seeds of the lower ends of the returns; not trusted if one of the seeds is not."""
    groups: dict[Any, list[Judged]] = defaultdict(list)
    for one in ranking:
        groups[one.candidate.point, one.candidate.beta].append(one)
    return max((_together(group) for group in groups.values()), key=lambda score: score.value)


def _together(group: list[Judged]) -> Score:
    objections = [one.objection for one in group if not one.trusted]
    if objections:
        return Score(NOT_TRUSTED, NOT_TRUSTED, NOT_TRUSTED, objections[0])
    low, high = (float(np.mean([getattr(one, name) for one in group])) for name in ("low", "high"))
    return Score(low, low, high)
