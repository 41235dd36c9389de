"""What `authors.py` keeps of both codes, and their scores and curves side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
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
HOW = {"ours": "compare RUN", "authors": "train"}
TABLES = {
    "runs.csv": (*WHOSE, "settings", "made_with", "source"),
    "curves.csv": (*WHOSE, "stage", "step", "metric", "value"),
    "episodes.csv": (*WHOSE, "episode", "env_seed", "return", "length", "score", "env_id", "gymnasium", "mujoco"),
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
    theirs = [r for r in read(folder, "runs.csv") if [r[k] for k in WHOSE[:3]] == [data, name, "authors"]]
    if not theirs:
        raise ConfigError(
            f"{folder} has nothing of {name} on {data} by the authors' code; begin with: authors.py train {run.path}"
        )
    settings = {path: s.value for path, s in config.settings(run.algorithm).items() if path in FREE[name]}
    if any(settings != json.loads(r["settings"]) for r in theirs):
        raise ConfigError(f"{run.path} has {settings}, theirs {theirs[0]['settings']}; expected the same")
    for seed in run.seeds:
        about: dict[str, Any] = {"data": data, "algorithm": name, "code": "ours", "seed": seed}
        episodes = [row for row in rows_of(run) if int(row["seed"]) == seed]
        if len(episodes) != EPISODES:
            raise ConfigError(
                f"{run.path} has {len(episodes)} episodes of seed {seed}; srpo eval {run.path} --episodes {EPISODES}"
            )
        about |= {
            "settings": json.dumps(settings),
            "made_with": f"JAX {run.info['versions']['jax']}",
            "source": "this repository",
        }
        rows = [row for row in metrics_table(run).read() if int(row["seed"]) == seed]
        keep(folder, about, episodes, [row for stage, metric in METRICS.items() for row in evenly(rows, stage, metric)])


def evenly(rows: Sequence[dict[str, str]], stage: str, metric: str) -> list[dict[str, Any]]:
    """Of one metric of ours, which is logged at other steps, the rows nearest to the steps of theirs."""
    here = [row for row in rows if (row["stage"], row["metric"]) == (stage, metric)]
    wanted = range(EVERY, max((int(row["step"]) for row in here), default=0) + 1, EVERY)
    return [min(here, key=lambda row, step=step: abs(int(row["step"]) - step)) for step in wanted]


def table(folder: Path) -> str:
    """Scores of both codes side by side: mean, 95 % interval over seeds and episodes, and each seed's mean."""
    episodes = read(folder, "episodes.csv")
    if not episodes:
        raise ConfigError(f"{folder} has no episodes; begin with authors.py train")
    lines = []
    for data, name in dict.fromkeys((r["data"], r["algorithm"]) for r in episodes):
        cells, means = [], []
        for who in WHO:
            here = [r for r in episodes if (r["data"], r["algorithm"], r["code"]) == (data, name, who)]
            if not here:
                raise ConfigError(f"{folder} has nothing of {name} on {data} by {WHO[who]}; add it with authors.py {HOW[who]}")
            scores = np.array([float(r["score"]) for r in here]).reshape(-1, EPISODES)
            means.append(scores.mean())
            low, high = bootstrap(scores)
            seeds = ", ".join(f"{x:.1f} ± {s:.1f}" for x, s in zip(scores.mean(1), scores.std(1), strict=True))
            cells += [f"{means[-1]:.1f} [{low:.1f}, {high:.1f}]", seeds]
        lines.append([data, name, *cells, f"{means[0] - means[1]:+.1f}"])
    header = ["data", "system", "ours", "by seed", "authors' code", "by seed", "difference"]
    return markdown(header, lines, text=2)


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
