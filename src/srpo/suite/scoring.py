"""Scores of a suite: mean, spread and time by data set and algorithm, and what is finished everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from srpo.evaluation.scores import bootstrap
from srpo.suite.tables import RECORDED, SUITE, Result, Row, by_place


def scores_of(results: Sequence[Result]) -> dict[int, np.ndarray]:
    """Normalized scores of the episodes by seed, of one data set and algorithm."""
    found: dict[int, list[float]] = {}
    for e in (e for r in results for e in r.episodes):
        found.setdefault(int(e["seed"]), []).append(float(e["score"]))
    return {seed: np.array(values) for seed, values in sorted(found.items())}


def figures(values: np.ndarray) -> Row:
    """Mean, deviation over seeds and 95 % bootstrap interval of scores (seed, episode); one episode alone has no interval."""
    low, high = bootstrap(values) if values.size > 1 else ("", "")
    return {
        "seeds": values.shape[0],
        "episodes": values.shape[1],
        "mean": values.mean(),
        "std": values.mean(1).std(),
        "low": low,
        "high": high,
    }


def score_rows(data: Mapping[str, float | None], results: Sequence[Result], compared: Sequence[str]) -> list[Row]:
    """Rows of scores.csv: the data's own, every algorithm on every data set, and the means of those `compared`.

    data: name -> mean score."""
    out: list[Row] = [
        {"data": name, "algorithm": RECORDED, "status": "recorded", "mean": mean}
        for name, mean in data.items()
        if mean is not None
    ]
    for (name, algorithm), here in by_place(results).items():
        found = scores_of(here)
        statuses = {r.about["status"] for r in here}
        status = "finished" if found else sorted(statuses)[0]
        row = {"data": name, "algorithm": algorithm, "status": status, **times(here)}
        row["error"] = "; ".join(r.about["error"] for r in here if r.about["error"])
        out.append(row | (figures(same_length(found)) if found else {}))
    return out + suite_rows({name: data[name] for name in compared}, results)


def same_length(found: Mapping[int, np.ndarray]) -> np.ndarray:
    """Scores (seed, episode); of seeds with more episodes the first ones count."""
    least = min(map(len, found.values()))
    return np.stack([values[:least] for values in found.values()])


def times(results: Sequence[Result]) -> Row:
    total = {key: sum(r.about[key] for r in results) for key in ("train_seconds", "eval_seconds")}
    return total | {"time_incomplete": any(r.about["time_incomplete"] for r in results)}


def everywhere(data: Sequence[str], results: Sequence[Result]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The data sets that anything is finished on, and the scores (data set, seed, episode) of what is finished on all of them.

    Seed i of one data set goes with seed i of the others; a seed that failed on one is left out of all.
    """
    places = {where: scores for where, here in by_place(results).items() if (scores := scores_of(here))}
    used = [name for name in data if any(name == where[0] for where in places)]
    out: dict[str, np.ndarray] = {}
    for algorithm in dict.fromkeys(where[1] for where in places):
        found = [places[name, algorithm] for name in used if (name, algorithm) in places]
        common = [s for s in found[0] if all(s in other for other in found)] if len(found) == len(used) else []
        if common:
            least = min(len(by_seed[s]) for by_seed in found for s in common)
            out[algorithm] = np.array([[by_seed[s][:least] for s in common] for by_seed in found])
    return used, out


def suite_rows(data: Mapping[str, float | None], results: Sequence[Result]) -> list[Row]:
    """Means over the suite of what is finished on all its data sets that anything is finished on."""
    used, scores = everywhere(list(data), results)
    known = [mean for name in used if (mean := data[name]) is not None]
    out: list[Row] = []
    if known and len(known) == len(used):
        out.append({"data": SUITE, "algorithm": RECORDED, "status": "recorded", "mean": float(np.mean(known))})
    places = by_place(results)
    for algorithm, values in scores.items():
        here = [r for name in used for r in places[name, algorithm]]
        out.append({"data": SUITE, "algorithm": algorithm, "status": "finished", **figures(values.mean(0)), **times(here)})
    return out


def curves(name: str, results: Sequence[Result]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Learning curves on a data set: algorithm -> steps of the last stage, and mean scores (seed, step)."""
    out = {}
    for (data, algorithm), here in by_place(results).items():
        found: dict[int, dict[int, list[float]]] = {}
        for e in (e for r in here for e in (*r.curve, *r.episodes) if data == name and r.curve and e.get("step")):
            found.setdefault(int(e["seed"]), {}).setdefault(int(e["step"]), []).append(float(e["score"]))
        steps = sorted(set.intersection(*map(set, found.values()))) if found else []
        if len(steps) > 1:
            out[algorithm] = np.array(steps), np.array([[np.mean(s[step]) for step in steps] for s in found.values()])
    return out
