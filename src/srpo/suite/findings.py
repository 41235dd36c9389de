"""All that the pages of a suite show, worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from srpo.suite.measures import Comparison, compare
from srpo.suite.scoring import everywhere, score_rows
from srpo.suite.tables import RECORDED, SUITE, Result, Row

CLONING = "bc"


@dataclass(frozen=True)
class Findings:
    """`about`: suite.json. `rows`: of scores.csv."""

    about: Mapping[str, Any]
    results: Sequence[Result]
    rows: Sequence[Row]
    comparison: Comparison

    @cached_property
    def at(self) -> dict[tuple[str, str], Row]:
        """Rows by algorithm and data set."""
        return {(r["algorithm"], r["data"]): r for r in self.rows}

    @cached_property
    def means(self) -> dict[str, float]:
        """Of the suite, by algorithm."""
        return {r["algorithm"]: r["mean"] for r in self.rows if r["data"] == SUITE}

    @cached_property
    def names(self) -> list[str]:
        """Of the algorithms, the best mean of the suite first, and the data's own scores at the end."""
        found = dict.fromkeys(r["algorithm"] for r in self.rows)
        return sorted(found, key=lambda n: (n == RECORDED, -self.means.get(n, -np.inf)))

    @cached_property
    def used(self) -> list[str]:
        """The data sets that anything is finished on; all of them as long as there is none."""
        names = [d["name"] for d in self.about["data"]]
        return [d for d in names if any("std" in r for r in self.rows if r["data"] == d)] or names

    @cached_property
    def labels(self) -> dict[str, str]:
        """Of the data sets, and of their mean."""
        return short_names([*(d["name"] for d in self.about["data"]), SUITE])

    @property
    def partly(self) -> str:
        """The data sets of the means, where there are others as well."""
        inside = self.comparison.data
        left_out = bool(inside) and set(self.used) - set(inside)
        return f"Means and comparisons are over {' and '.join(self.labels[d] for d in inside)}." if left_out else ""

    @cached_property
    def counts(self) -> str:
        """Seeds x episodes of what is finished."""
        found = sorted({(r["seeds"], r["episodes"]) for r in self.rows if "seeds" in r and r["data"] != SUITE})
        return ", ".join(f"{s} x {e}" for s, e in found)

    @cached_property
    def below_cloning(self) -> list[str] | None:
        """What is not above it on the mean of the suite; None if cloning is not finished."""
        if CLONING not in self.means:
            return None
        others = (n for n in self.names if n not in (CLONING, RECORDED) and n in self.means)
        return [n for n in others if self.means[n] <= self.means[CLONING]]


def findings(about: Mapping[str, Any], results: Sequence[Result]) -> Findings:
    """What results of the suite `about` come to."""
    data = {d["name"]: d["mean_score"] for d in about["data"]}
    compared = [name for name in data if name in (about.get("compared") or data)]
    used, scores = everywhere(compared, results)
    comparison = compare(used, {name: values.mean(-1).T for name, values in scores.items()})
    return Findings(about, results, score_rows(data, results, compared), comparison)


def short(name: str) -> str:
    """A data set's name without what all of its kind have."""
    return name.removesuffix("-v0").removesuffix("-open")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names by what they are when shortened; as they are where two would be the same, such as door-v0 and door-open-v0."""
    found = {name: short(name) for name in names}
    return found if len(set(found.values())) == len(found) else {name: name for name in found}
