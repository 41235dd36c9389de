"""What a trial does where Ray puts it: it trains from its last checkpoint on, and reports its scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srpo.runs.elsewhere import know
from srpo.runs.run import Run, load_run
from srpo.system.files import alone
from srpo.text import said
from srpo.training.saving import Saving
from srpo.training.train import resume, train
from srpo.tuning.job import Job, Trial

Report = Callable[[dict[str, Any]], None]


class Enough(Exception):
    """The stages that are shared are finished; what follows is for each trial alone."""


def run_trial(config: dict[str, Any], job: Job) -> None:
    """The function that Ray calls, as often as it takes: after a death it goes on where its files are."""
    from ray import tune

    if job.known:
        know(job.known)
    work = Work(job.trials[config["trial"]], tune.report)
    try:
        work.through()
    except Exception as e:  # the other trials must go on
        work.trial.note(error=said(e))


@dataclass
class Work:
    trial: Trial
    report: Report
    began: float = field(default_factory=time.monotonic)

    def through(self) -> None:
        """Report what is known already, then train to the end, reporting on the way. Waits for one that was lost from sight."""
        lock = self.trial.folder.with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with alone(lock, wait=True):
            self._alone()

    def _alone(self) -> None:
        trial, job = self.trial, self.trial.job
        trial.note(error=None)
        for number in range(len(trial.scores)):
            self._tell(number)
        saving = Saving(job.checkpoint_every, self._saved)
        if (trial.folder / "run.json").exists():
            self._catch_up(load_run(trial.folder))
            run = resume(trial.folder, job.dataset, quiet=True, saving=saving)
        else:
            run = train(trial.algorithm, job.dataset, **self._options(), out=trial.folder, saving=saving)
        self._catch_up(run)

    def _options(self) -> dict[str, Any]:
        job, stages = self.trial.job, list(self.trial.algorithm.stages.values())
        every = -(-stages[-1].steps // job.reports) if job.objective.kind == "score" else 0
        evaluation = {"eval_every": every, "eval_episodes": job.episodes, "max_steps": job.max_steps}
        start = shared(self.trial, len(stages) - 1, [self.trial])
        return {"seeds": job.seeds, "keep": job.reports, "start_from": start, "quiet": True, **evaluation}

    def _saved(self, run: Run, stage: str, step: int) -> None:
        if not run.complete:  # after the last report Ray ends the process, and curves.png is yet to be drawn
            self._catch_up(run)

    def _catch_up(self, run: Run) -> None:
        """Score and report the policies that were kept since the last report."""
        for number, step in enumerate(run.kept):
            if number < len(self.trial.record["reports"]):
                continue
            if not run.has_policies(step):
                break
            self._score(run, step)
            self._tell(number)

    def _score(self, run: Run, step: int) -> None:
        if run.failures:
            failure = run.failures[0]
            raise FloatingPointError(
                f"seed {failure['seed']}: {failure['metric']} not finite at step {failure['step']} of {failure['stage']}"
            )
        score = self.trial.job.objective(run, self.trial.job.dataset, step)
        now, before = time.monotonic(), self.trial.record
        reports = [*before["reports"], {"step": step, **asdict(score)}]
        self.trial.note(reports=reports, seconds=before["seconds"] + now - self.began)
        self.began = now

    def _tell(self, number: int) -> None:
        score = self.trial.scores[number]
        self.report({"report": number + 1, "objective": score.value})


def shared(trial: Trial, stages: int, users: list[Trial]) -> Path | None:
    """A run in which as many of the first `stages` stages are finished as others than `users` have in common with `trial`.

    It trains, once, while the others wait; None if nothing is in common.
    """
    while stages and len(trial.alike(stages)) <= len(users):
        stages -= 1
    if stages == 0:
        return None
    name, job = trial.digest(stages), trial.job
    folder = job.out / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock"), wait=True):
        _train_shared(trial, stages, folder)
    return folder


def _train_shared(trial: Trial, stages: int, folder: Path) -> None:
    """The first stages of a trial, unless they are finished."""
    job, names = trial.job, list(trial.algorithm.stages)[:stages]

    def enough(run: Run, stage: str, step: int) -> None:
        if names[-1] in run.finished:
            raise Enough

    saving = Saving(job.checkpoint_every, enough)
    try:
        if not (folder / "run.json").exists():
            start = shared(trial, stages - 1, trial.alike(stages))
            train(
                trial.algorithm,
                job.dataset,
                seeds=job.seeds,
                out=folder,
                start_from=start,
                eval_every=0,
                quiet=True,
                saving=saving,
            )
        elif names[-1] not in load_run(folder).finished:
            resume(folder, job.dataset, quiet=True, saving=saving)
    except Enough:
        pass
