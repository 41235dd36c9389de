"""Evaluations on the way: the policies of the present step of a training, each episode kept in evals.csv."""

from __future__ import annotations

from typing import Any

from srpo.evaluation.rollouts import Progress, Rollouts
from srpo.evaluation.scores import episode_rows, rollouts_of
from srpo.runs.run import Run
from srpo.runs.tables import evals_table


class Evaluator:
    """Evaluates all runs of one training, and keeps every episode in evals.csv."""

    def __init__(self, run: Run, results: dict[str, Any]):
        """`results`: of the stages that are finished, filled as training goes on."""
        self.results = results
        self.every, self.table = run.info["eval_every"], evals_table(run)
        self.rollouts: Rollouts | None = None
        self.said: list[str] = []

    def forget_after(self, step: int) -> None:
        """Drop the episodes of later steps; those of `srpo eval --step` stay, as what was kept is made again bit for bit."""
        self.table.keep(lambda row: row["kind"] == "kept" or (row["kind"] == "training" and int(row["step"]) <= step))

    def knows(self, run: Run, step: int) -> bool:
        """Whether all episodes of this step, if it is one to be evaluated at, are in the table; what is there of others is dropped."""
        alive = sum(not run.failed(seed, point) for seed in run.seeds for point in run.points)
        found = sum(row["kind"] == "training" and int(row["step"]) == step for row in self.table.read())
        if 0 < found < alive * run.info["eval_episodes"]:
            self.forget_after(step - 1)
        return found >= alive * run.info["eval_episodes"]

    def at(
        self, run: Run, step: int, stage: str, result: Any, progress: Progress | None = None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Evaluate the policies of this step, with the last stage's present `result`; `run` knows which have failed.

        Returns the new rows of evals.csv, and what must be said about the episodes.
        """
        env_id = run.info["data"]["env_id"]
        if self.rollouts is None:
            self.rollouts = rollouts_of(run, env_id, run.info["eval_episodes"])
        policies = run.assemble(self.results | {stage: result})
        episodes = self.rollouts(policies, progress=progress)
        rows = episode_rows(run, episodes, env_id, "training", step)
        self.table.append(rows)
        new = [note for note in episodes.notes if note not in self.said]
        self.said += new
        return rows, new

    def close(self) -> None:
        if self.rollouts is not None:
            self.rollouts.close()
