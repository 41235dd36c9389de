"""Scores of a run: every episode kept in evals.csv, means over seeds with intervals."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from srpo.config import whole
from srpo.data.checks import check_env_id
from srpo.data.reference import MEASURED_IN, environment, normalized
from srpo.evaluation.rollouts import FIRST_SEED, Episodes, Limit, Progress, Rollouts
from srpo.runs.description import versions
from srpo.runs.run import Run, RunError, load_run
from srpo.runs.schema import EPISODES
from srpo.runs.tables import evals_table
from srpo.system.surroundings import in_float32
from srpo.worlds.environments import MissingEnvironment, check_env, import_its_module, time_limit


def rollouts_of(run: Run, env_id: str, episodes: int, max_steps: int | None = None) -> Rollouts:
    """For the policies of a run, which act in recorded units if the data have a range, else in [-1, 1]."""
    limit = limit_of(run, env_id, max_steps or run.info.get("max_steps"))
    shape = len(run.seeds), len(run.points)
    return Rollouts(env_id, shape, episodes, units=run.units, limit=limit)


def limit_of(run: Run, env_id: str, max_steps: int | None) -> Limit:
    """Where episodes are cut: as told; by the environment's own limit; else at the longest episode of the data.

    Raises MissingEnvironment if nothing says when to stop.
    """
    if max_steps is not None:
        return Limit(max_steps, "as told by --max-steps")
    if time_limit(env_id) is not None:
        return Limit()
    longest = run.info["data"].get("longest_episode")
    if longest is None:
        raise MissingEnvironment(f"{env_id} sets no time limit, so that an episode may never end; give one with --max-steps N")
    return Limit(longest, f"the longest episode of the data, as {env_id} sets no time limit; another one: --max-steps N")


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
    step: int  # of the last stage, whose policies they are
    notes: tuple[str, ...] = ()  # what must be said about the episodes: cut, or numbers that are not finite

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"summaries": [asdict(s) | {"point": dict(s.point)} for s in self.summaries]}

    def __str__(self) -> str:
        lines = [f"{self.unit} in {self.env_id}, step {self.step}, {self.episodes} episode{'s' * (self.episodes > 1)} per seed"]
        for s in self.summaries:
            where = ", ".join(f"{p}={v:g}" for p, v in s.point)
            spread = f"+- {s.std:.1f} over {len(s.seeds)} seeds" if len(s.seeds) > 1 else "(one seed)"
            alone = len(s.seeds) * self.episodes == 1  # which says nothing of an interval
            interval = "" if alone else f", 95 % interval {s.low:.1f} to {s.high:.1f}"
            lines.append(f"  {where + ': ' if where else ''}{s.mean:.1f} {spread}{interval}")
        return "\n".join([*lines, *(f"warning: {note}" for note in self.notes)])


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
    run: Run | str,
    episodes: int = 20,
    env_id: str | None = None,
    progress: Progress | None = None,
    curve: int = 0,
    max_steps: int | None = None,
    step: int | None = None,
) -> Evaluation:
    """Evaluate the last policy of every seed and swept value; episodes are kept in evals.csv (kind "final").

    curve: episodes of each earlier policy that was kept on the way (kind "training"); 0 leaves them out. env_id: another
    environment; the module of an id such as "module:Name-v0" is imported. max_steps: where episodes are cut; by default by
    the environment, or where it sets no limit at the longest episode of the data. step: one of `run.kept`, to evaluate what
    was kept then instead of the last (kind "kept"). Raises RunError if the run is not finished, all of it failed or it kept
    nothing at that step, or its evals.csv is damaged, ConfigError for numbers that make no sense, MissingEnvironment if there is
    nothing to act in, it fails, or nothing ends an episode.
    """
    run = run if isinstance(run, Run) else load_run(run)
    episodes = whole(episodes, "episodes", most=EPISODES)
    curve = whole(curve, "episodes of earlier policies", 0, EPISODES, none="zero (none) or more")
    max_steps = None if max_steps is None else whole(max_steps, "steps at most per episode")
    env_id = environment_of(run, env_id)
    _require_place(run)
    *earlier, last = run.kept
    at, kind = (last, "final") if step in (None, last) else (step, "kept")
    rows, notes = play(run, [at], rollouts_of(run, env_id, episodes, max_steps), kind, progress)
    before: list[dict[str, Any]] = []
    if curve and earlier:
        before, more = play(run, earlier, rollouts_of(run, env_id, curve, max_steps), "training", progress)
        notes += [note for note in more if note not in notes]
    table = evals_table(run)
    dropped = "training" if before else None
    known = [row for row in table.read() if row["kind"] != dropped and (row["kind"], int(row["step"])) != (kind, at)]
    table.rewrite(known + before + rows)  # at once: a kill leaves the episodes of before or those of now
    return replace(_evaluation(run, rows, env_id), notes=tuple(notes))


def play(
    run: Run, steps: Sequence[int], rollouts: Rollouts, kind: str, progress: Progress | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for evals.csv of the policies that were kept at these steps, and what must be said about them."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    with contextlib.closing(rollouts):
        for step in steps:
            played = rollouts(run.policies_at(step), progress=progress)
            rows += episode_rows(run, played, rollouts.env_id, kind, step)
            notes += [note for note in played.notes if note not in notes]
    return rows, notes


def _require_place(run: Run) -> None:
    """Raises RunError, before anything is played, if there is nothing to play or its episodes could not be kept."""
    if all(run.failed(seed, point) for seed in run.seeds for point in run.points):
        raise RunError(f"{run.path}: every run failed, so there is nothing to evaluate; train again with other settings")
    if not os.access(run.path, os.W_OK):
        raise RunError(f"{run.path} cannot be written, and episodes are kept in its evals.csv; evaluate a copy of it")
    if (run.path / "evals.csv").exists():
        evals_table(run).read()


def environment_of(run: Run, given: str | None = None) -> str:
    """The id of the environment that a run's policies act in: `given`, or that of its data. Raises DataError, MissingEnvironment if they cannot."""
    check_env_id(given, "--env")
    env_id = run.info["data"]["env_id"] if given is None else given
    if env_id is None:
        raise MissingEnvironment(f"{run.path}: its data name no environment; give one with --env, such as --env Hopper-v4")
    import_its_module(given or "")
    data = run.info["data"]
    check_env(env_id, data["obs_size"], data["action_size"], run.units.action_range is not None)
    return env_id


def training_scores(run: Run, step: int | None = None) -> Evaluation | None:
    """The evaluation during training at a step, by default the last one; None if there was none."""
    rows = [row for row in evals_table(run).read() if row["kind"] == "training"] if run.info["eval_every"] else []
    at = max((int(row["step"]) for row in rows), default=0) if step is None else step
    here = [row for row in rows if int(row["step"]) == at]
    return _evaluation(run, here, run.info["data"]["env_id"]) if here else None


def _evaluation(run: Run, rows: list[dict[str, Any]], env_id: str) -> Evaluation:
    """Of all rows of evals.csv of one step and kind. Raises RunError if they are not all there."""
    unit = "score" if reference_in(run, env_id) else "return"
    name = {"score": "normalized score", "return": "return"}[unit]
    episodes, step = (1 + max(int(r["episode"]) for r in rows)), int(rows[0]["step"])
    whose = [(r["seed"], *(r[path] for path in run.grid.sweep)) for r in rows]
    empty = any("" in (r[unit], *mine) for r, mine in zip(rows, whose, strict=True))
    if empty or set(Counter(whose).values()) != {episodes}:
        raise RunError(
            f"{run.path / 'evals.csv'} is damaged (it has not each of the {episodes} episodes of every run at step {step} once); "
            "restore it, or move it away to go on without its rows"
        )
    return Evaluation(str(run.path), env_id, episodes, name, summarize(run, rows, unit), step)
