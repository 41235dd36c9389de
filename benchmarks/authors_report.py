"""What `authors.py` keeps of both codes, and their scores and curves side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from authors_code import FREE

import srpo
from srpo import config
from srpo.errors import ConfigError
from srpo.evaluation.scores import bootstrap
from srpo.runs.tables import metrics_table, write_csv
from srpo.suite.pages import markdown
from srpo.suite.tables import rows_of

EPISODES = 20
EVERY = 1000  # steps between two rows of curves.csv
WHOSE = ("data", "algorithm", "code", "seed")
WHO = {"ours": "our code", "authors": "the authors' code"}
METRICS = {"critic": "v", "behavior": "loss", "policy": "q"}  # what both codes tell of a batch of the data; q: TD3+BC's alone
MEANING = {"v": "mean V", "loss": "loss of the behavior model", "q": "mean Q"}
SIDES = ("ours", "by seed", "authors' code", "by seed", "difference")
HOW = {"ours": "compare RUN", "authors": "train"}
TABLES = {
    "runs.csv": (*WHOSE, "settings", "made_with", "source"),
    "curves.csv": (*WHOSE, "stage", "step", "metric", "value"),
    "episodes.csv": (*WHOSE, "step", "episode", "env_seed", "return", "length", "score", "env_id", "gymnasium", "mujoco"),
}


def read(folder: Path, name: str) -> list[dict[str, str]]:
    path = folder / name
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def keep(folder: Path, about: dict[str, Any], episodes: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]]) -> None:
    """Writes one training, in the place of an earlier one of the same data, system, code and seed."""
    where = [str(about[key]) for key in WHOSE]
    for name, rows in (("runs.csv", [{}]), ("curves.csv", curves), ("episodes.csv", episodes)):
        others = [row for row in read(folder, name) if [row[key] for key in WHOSE] != where]
        mine = [{column: (row | about).get(column, "") for column in TABLES[name]} for row in rows]
        both = [*others, *mine]
        both.sort(key=lambda row: ([row[key] for key in WHOSE[:3]], int(row["seed"])))  # within them the order stays
        write_csv(folder / name, both, TABLES[name])


def ours(run: srpo.Run, folder: Path) -> None:
    """Keeps our side: a run that theirs was trained as, or one of more seeds. Raises RunError, ConfigError."""
    name, data = run.info["algorithm"], run.info["data"]["name"]
    where = [data, name, "authors"]
    theirs = [row for row in read(folder, "runs.csv") if whose(row) == where]
    if not theirs:
        raise ConfigError(
            f"{folder} has nothing of {name} on {data} by the authors' code; begin with: authors.py train {run.path}"
        )
    settings = {path: s.value for path, s in config.settings(run.algorithm).items() if path in FREE[name]}
    if any(settings != json.loads(r["settings"]) for r in theirs):
        raise ConfigError(f"{run.path} has {settings}, theirs {theirs[0]['settings']}; expected the same")
    for seed in run.seeds:
        about: dict[str, Any] = {"data": data, "algorithm": name, "code": "ours", "seed": seed}
        episodes = episodes_of(run, seed, {row["step"] for row in read(folder, "episodes.csv") if whose(row) == where})
        about |= {
            "settings": json.dumps(settings),
            "made_with": f"JAX {run.info['versions']['jax']}",
            "source": "this repository",
        }
        rows = [row for row in metrics_table(run).read() if int(row["seed"]) == seed]
        keep(folder, about, episodes, [row for stage, metric in METRICS.items() for row in evenly(rows, stage, metric)])


def whose(row: dict[str, str]) -> list[str]:
    """Data, system and code."""
    return [row[key] for key in WHOSE[:3]]


def episodes_of(run: srpo.Run, seed: int, steps: Collection[str]) -> list[dict[str, Any]]:
    """Of the last policy, and of those after other steps. Raises ConfigError."""
    last = [row for row in rows_of(run) if int(row["seed"]) == seed]
    if len(last) != EPISODES:
        raise ConfigError(f"{run.path} has {len(last)} episodes of seed {seed}; srpo eval {run.path} --episodes {EPISODES}")
    way = [row for row in rows_of(run, "training") if int(row["seed"]) == seed and row["step"] in steps]
    way = [row for row in way if row["step"] != last[0]["step"]]
    for step in sorted(steps - {last[0]["step"]}, key=int):
        if sum(row["step"] == step for row in way) != EPISODES:
            every = f"--eval-every STEPS --eval-episodes {EPISODES}"
            raise ConfigError(f"{run.path} has no {EPISODES} episodes after {step} steps, theirs has; train it with {every}")
    return [*way, *last]


def evenly(rows: Sequence[dict[str, str]], stage: str, metric: str) -> list[dict[str, Any]]:
    """Of one metric of ours, which is logged at other steps, the rows nearest to the steps of theirs."""
    here = [row for row in rows if (row["stage"], row["metric"]) == (stage, metric)]
    wanted = range(EVERY, max((int(row["step"]) for row in here), default=0) + 1, EVERY)
    return [min(here, key=lambda row, step=step: abs(int(row["step"]) - step)) for step in wanted]


def table(folder: Path) -> str:
    """Scores of the last policies of both codes side by side: mean, 95 % interval over seeds and episodes, and each seed's mean."""
    if not (systems := systems_of(folder)):
        raise ConfigError(f"{folder} has no episodes; begin with authors.py train")
    lines = []
    for (data, name), rows in systems.items():
        last = [row for row in rows if row["step"] == last_step(rows)]
        lines.append([data, name, *side_by_side(last, f"{name} on {data}", folder)])
    return markdown(["data", "system", *SIDES], lines, text=2)


def way_table(folder: Path) -> str:
    """The same of all policies of the later half of the steps. Nothing of systems whose policies did not act on the way."""
    lines = []
    for (data, name), rows in systems_of(folder).items():
        acted: dict[tuple[str, str], set[int]] = {}  # by code and seed, after which steps
        for row in rows:
            if 2 * row["step"] > last_step(rows):
                acted.setdefault((row["code"], row["seed"]), set()).add(row["step"])
        acted = {who: steps for who, steps in acted.items() if len(steps) > 1}
        if acted:
            steps = sorted(set.intersection(*acted.values()))
            here = [row for row in rows if (row["code"], row["seed"]) in acted and row["step"] in steps]
            policies = f"{len(steps)}, after {steps[0]:,} to {steps[-1]:,} steps"
            lines.append([data, name, policies, *side_by_side(here, f"{name} on {data} on the way", folder)])
    return markdown(["data", "system", "policies of a seed", *SIDES], lines, text=3) if lines else ""


def systems_of(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The kept episodes by data and system."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read(folder, "episodes.csv"):
        found.setdefault((row["data"], row["algorithm"]), []).append(row | {"step": int(row["step"])})
    return found


def last_step(rows: Sequence[dict[str, Any]]) -> int:
    return max(row["step"] for row in rows)


def side_by_side(rows: Sequence[dict[str, Any]], what: str, folder: Path) -> list[str]:
    """Cells of SIDES. A seed has the deviation of its policies' means, or of its episodes if it has one policy."""
    cells, means = [], []
    for who in WHO:
        here = [row for row in rows if row["code"] == who]
        if not here:
            raise ConfigError(f"{folder} has nothing of {what} by {WHO[who]}; add it with authors.py {HOW[who]}")
        by_seed = [np.reshape([float(r["score"]) for r in of], (-1, EPISODES)) for _, of in groupby(here, lambda r: r["seed"])]
        scores = np.stack(by_seed)  # (seed, policy, episode)
        means.append(scores.mean())
        low, high = bootstrap(scores.reshape(len(scores), -1))
        spread = scores.std((1, 2)) if scores.shape[1] == 1 else scores.mean(2).std(1)
        seeds = ", ".join(f"{x:.1f} ± {s:.1f}" for x, s in zip(scores.mean((1, 2)), spread, strict=True))
        cells += [f"{means[-1]:.1f} [{low:.1f}, {high:.1f}]", seeds]
    return [*cells, f"{means[0] - means[1]:+.1f}"]


def curve_table(folder: Path) -> str:
    """What the critics and behavior models of both codes had come to, at five steps on the way; every seed. Nothing of systems without them."""
    rows = read(folder, "curves.csv")
    if not rows:
        return ""
    lines = []
    for data, name, stage in dict.fromkeys((r["data"], r["algorithm"], r["stage"]) for r in rows):
        here = {
            (r["code"], r["seed"], round(int(r["step"]), -3)): r
            for r in rows
            if (r["data"], r["algorithm"], r["stage"]) == (data, name, stage)
        }
        steps = sorted({step for _, _, step in here})
        for step in steps[:: -max(1, len(steps) // 5)][::-1]:
            cells = [[f"{float(r['value']):.3g}" for (by, _, at), r in here.items() if (by, at) == (who, step)] for who in WHO]
            lines.append([data, MEANING[METRICS[stage]], f"{step:,}", *(", ".join(cell) for cell in cells)])
    return markdown(["data", "of one batch", "step", "ours, by seed", "authors' code, by seed"], lines, text=2)
