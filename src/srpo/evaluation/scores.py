"""Scores of a run: every episode kept in evals.csv, means over seeds with intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from srpo.data.reference import MEASURED_IN, environment, normalized
from srpo.environments import MissingEnvironment, check_env, import_its_module
from srpo.evaluation.rollouts import FIRST_SEED, Episodes, Progress, Rollouts
from srpo.runs.run import Run, RunError, load_run, versions
from srpo.runs.tables import Table
from srpo.surroundings import in_float32


def evals_table(run: Run) -> Table:
    """One row per episode. `kind`: "training" during it, "final" for `srpo eval`."""
    identity = ["kind", "step", "seed", *run.grid.sweep, "episode", "env_seed"]
    return Table(run.path / "evals.csv", [*identity, "return", "length", "score", "env_id", "gymnasium", "mujoco"])


class Evaluator:
    """Evaluates all runs of one training, and keeps every episode in evals.csv."""

    def __init__(self, run: Run, results: dict[str, Any], progress: Progress | None = None):
        """`results`: of the stages that are finished, filled as training goes on."""
        self.results, self.progress = results, progress
        self.every, self.table = run.info["eval_every"], evals_table(run)
        self.rollouts: Rollouts | None = None

    def forget_after(self, step: int) -> None:
        self.table.keep(lambda row: row["kind"] == "training" and int(row["step"]) <= step)

    def at(self, run: Run, step: int, stage: str, result: Any) -> list[dict[str, Any]]:
        """Evaluate the policies of this step, with the last stage's present `result`; `run` knows which have failed.

        Returns the new rows of evals.csv."""
        env_id = run.info["data"]["env_id"]
        if self.rollouts is None:
            self.rollouts = rollouts_of(run, env_id, run.info["eval_episodes"])
        policies = run.assemble(self.results | {stage: result})
        episodes = self.rollouts(policies, progress=self.progress)
        rows = episode_rows(run, episodes, env_id, "training", step)
        self.table.append(rows)
        return rows

    def close(self) -> None:
        if self.rollouts is not None:
            self.rollouts.close()


def rollouts_of(run: Run, env_id: str, episodes: int) -> Rollouts:
    """For the policies of a run, which act in recorded units if the data have a range, else in [-1, 1]."""
    return Rollouts(env_id, (len(run.seeds), len(run.points)), episodes, in_units=run.action_range is not None)


def reference_in(run: Run, env_id: str) -> Sequence[float] | None:
    """The reference returns of the run's data, where they hold in an environment: in their own, or another version of it."""
    mine, home = run.info["data"]["reference"], run.info["data"]["env_id"]
    if mine is None or env_id == home:
        return mine
    return mine if {env_id, home} <= MEASURED_IN and environment("", env_id) == environment("", home) else None


def episode_rows(run: Run, episodes: Episodes, env_id: str, kind: str, step: int) -> list[dict[str, Any]]:
    """Rows for evals.csv; runs that failed have none."""
    reference = reference_in(run, env_id)
    found = versions()
    made_with = {name: found[name] for name in ("gymnasium", "mujoco")}
    rows = []
    for (s, p, e), value in np.ndenumerate(episodes.returns):
        if run.failed(run.seeds[s], run.points[p]):
            continue
        score = normalized(value, reference) if reference else ""
        row = {
            "kind": kind,
            "step": step,
            "seed": run.seeds[s],
            **dict(run.points[p]),
            "episode": e,
            "env_seed": FIRST_SEED + e,
        }
        row |= {"return": value, "length": episodes.lengths[s, p, e], "score": score, "env_id": env_id}
        rows.append(row | made_with)
    return rows


@dataclass(frozen=True)
class Summary:
    """Scores of one point of the sweep: over seeds, with a bootstrap interval of the mean."""

    point: tuple
    seeds: tuple[int, ...]
    means: tuple[float, ...]  # of the episodes, one per seed
    mean: float
    std: float  # over seeds, population
    low: float  # 95 % interval, seeds and then episodes drawn with replacement
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns; printing it shows the table."""

    run: str
    env_id: str
    episodes: int
    unit: str  # "normalized score" or "return"
    summaries: tuple[Summary, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"summaries": [asdict(s) | {"point": dict(s.point)} for s in self.summaries]}

    def __str__(self) -> str:
        lines = [f"{self.unit} in {self.env_id}, {self.episodes} episodes per seed"]
        for s in self.summaries:
            where = ", ".join(f"{p}={v:g}" for p, v in s.point)
            spread = f"+- {s.std:.1f} over {len(s.seeds)} seeds" if len(s.seeds) > 1 else "(one seed)"
            lines.append(f"  {where + ': ' if where else ''}{s.mean:.1f} {spread}, 95 % interval {s.low:.1f} to {s.high:.1f}")
        return "\n".join(lines)


def bootstrap(values: np.ndarray, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of `values` (seed, episode): seeds, then their episodes, are drawn with replacement."""
    rng = np.random.default_rng(0)
    n, m = values.shape
    seeds = rng.integers(0, n, (draws, n, 1))
    means = values[seeds, rng.integers(0, m, (draws, n, m))].mean((1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(run: Run, rows: list[dict[str, Any]], unit: str) -> tuple[Summary, ...]:
    """One summary per point from rows of evals.csv. `unit`: the column to use."""
    out = []
    for point in run.points:
        here = [r for r in rows if all(float(r[p]) == v for p, v in point)]
        seeds = [s for s in run.seeds if any(int(r["seed"]) == s for r in here)]
        if seeds:
            values = np.array([[float(r[unit]) for r in here if int(r["seed"]) == s] for s in seeds])
            means = values.mean(1)
            out.append(
                Summary(
                    point, tuple(seeds), tuple(map(float, means)), float(means.mean()), float(means.std()), *bootstrap(values)
                )
            )
    return tuple(out)


@in_float32
def evaluate(
    run: Run | str, episodes: int = 20, env_id: str | None = None, progress: Progress | None = None, curve: int = 0
) -> Evaluation:
    """Evaluate the last policy of every seed and swept value; episodes are kept in evals.csv (kind "final").

    curve: episodes of each earlier policy that was kept on the way (kind "training"); 0 leaves them out. env_id: another environment; the module of an id such as "module:Name-v0" is imported. Raises RunError if the run is
    not finished or all of it failed, MissingEnvironment if there is nothing to act in.
    """
    run = run if isinstance(run, Run) else load_run(run)
    env_id = environment_of(run, env_id)
    if all(run.failed(seed, point) for seed in run.seeds for point in run.points):
        raise RunError(f"{run.path}: every run failed, so there is nothing to evaluate; train again with other settings")
    *earlier, last = run.kept
    rows = play(run, [last], episodes, env_id, "final", progress)
    before = play(run, earlier, curve, env_id, "training", progress) if curve and earlier else []
    table = evals_table(run)
    table.keep(lambda row: row["kind"] == "training" and not before)
    table.append(before + rows)
    return _evaluation(run, rows, env_id)


def play(
    run: Run, steps: Sequence[int], episodes: int, env_id: str, kind: str, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Rows for evals.csv of the policies that were kept at these steps."""
    rows: list[dict[str, Any]] = []
    with contextlib.closing(rollouts_of(run, env_id, episodes)) as rollouts:
        for step in steps:
            played = rollouts(run.policies_at(step), progress=progress)
            rows += episode_rows(run, played, env_id, kind, step)
    return rows


def environment_of(run: Run, given: str | None = None) -> str:
    """The id of the environment that a run's policies act in: `given`, or that of its data. Raises MissingEnvironment if they cannot."""
    env_id = given or run.info["data"]["env_id"]
    if env_id is None:
        raise MissingEnvironment(f"{run.path}: its data name no environment; give one with --env, such as --env Hopper-v4")
    import_its_module(given or "")
    check_env(env_id, run.info["data"]["obs_size"], run.info["data"]["action_size"])
    return env_id


def last_training_scores(run: Run) -> Evaluation | None:
    """The last evaluation during training, if there was any."""
    rows = [row for row in evals_table(run).read() if row["kind"] == "training"] if run.info["eval_every"] else []
    last = max((int(row["step"]) for row in rows), default=0)
    return _evaluation(run, [row for row in rows if int(row["step"]) == last], run.info["data"]["env_id"]) if rows else None


def _evaluation(run: Run, rows: list[dict[str, Any]], env_id: str) -> Evaluation:
    unit = "score" if reference_in(run, env_id) else "return"
    name = {"score": "normalized score", "return": "return"}[unit]
    return Evaluation(str(run.path), env_id, 1 + max(int(r["episode"]) for r in rows), name, summarize(run, rows, unit))
