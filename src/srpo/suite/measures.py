"""How algorithms compare over a whole suite: interquartile mean, performance profiles, probability of improvement.

As rliable defines them (Agarwal et al., NeurIPS 2021, arXiv 2108.13264). The score of a run is the mean of its episodes;
scores are (seed, data set). Intervals: 95 % of bootstrap draws, seeds drawn with replacement within each data set by itself.
All functions act on the last two axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
COLUMNS = ("measure", "algorithm", "other", "score", "value", "low", "high")


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), -1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def profile(scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Share of runs with a score above each value of `at` (m,): (..., m)."""
    return (scores[..., None] > at).mean((-3, -2))


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability that a run of x is above one of y on a data set drawn at random; half of it where they are equal."""
    ours, theirs = x[..., :, None, :], y[..., None, :, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((-3, -2, -1))


def drawn(scores: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Bootstrap draws (draw, seed, data set)."""
    rows = np.random.default_rng(seed).integers(0, scores.shape[0], (draws, *scores.shape))
    return np.take_along_axis(scores[None], rows, 1)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What 95 % of the draws lie between; the first axis is theirs."""
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return low, high


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; none where there is only one seed to draw from. Arrays along the axis of a profile."""

    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def estimate(measure: Callable[..., np.ndarray], *scores: np.ndarray) -> Estimate:
    """`measure` of scores, one array (seed, data set) for each of its arguments, drawn by themselves."""
    value = measure(*scores)
    if min(len(s) for s in scores) < 2:
        return Estimate(value)
    return Estimate(value, *interval(measure(*(drawn(s, seed) for seed, s in enumerate(scores)))))


@dataclass(frozen=True)
class Comparison:
    """Of the algorithms that are finished on all of `data`, the best interquartile mean first."""

    data: tuple[str, ...]
    scores: Mapping[str, np.ndarray]  # (seed, data set)
    middle: Mapping[str, Estimate]
    at: np.ndarray  # scores at which the profiles are
    profiles: Mapping[str, Estimate]
    improvements: Mapping[tuple[str, str], Estimate]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.scores)

    def rows(self) -> list[dict[str, Any]]:
        """Of measures.csv."""

        def row(measure: str, name: str, value, low, high, other="", score: Any = "") -> dict[str, Any]:
            return dict(zip(COLUMNS, (measure, name, other, score, value, low, high), strict=True))

        def ends(e: Estimate, i=()) -> tuple[Any, Any, Any]:
            value, low, high = ("" if x is None else float(x[i]) for x in (e.value, e.low, e.high))
            return value, low, high

        out = [row("interquartile mean", n, *ends(e)) for n, e in self.middle.items()]
        out += [row("probability of improvement", a, *ends(e), other=b) for (a, b), e in self.improvements.items()]
        out += [
            row("share of runs above a score", n, *ends(e, i), score=float(x))
            for n, e in self.profiles.items()
            for i, x in enumerate(self.at)
        ]
        return out


def compare(data: Sequence[str], scores: Mapping[str, np.ndarray]) -> Comparison:
    """scores: algorithm -> normalized scores (seed, data set)."""
    middle = {name: estimate(interquartile_mean, s) for name, s in scores.items()}
    names = sorted(scores, key=lambda name: -float(middle[name].value))
    highest = max((float(s.max()) for s in scores.values()), default=0.0)
    apart = 2.0 * max(1.0, np.ceil(highest / 200))  # a hundred places, whatever the reference
    at = np.arange(0.0, max(100.0, highest) + 1, apart)
    return Comparison(
        tuple(data),
        {n: scores[n] for n in names},
        {n: middle[n] for n in names},
        at,
        {n: estimate(lambda s: profile(s, at), scores[n]) for n in names},
        {(a, b): estimate(improvement, scores[a], scores[b]) for a in names for b in names if a != b},
    )
