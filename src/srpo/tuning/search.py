"""The search on Ray Tune: asynchronous successive halving (ASHA, Li et al., arXiv 1810.05934) over the trials of a job.

Ray places the trials, starts one again if its node or process died, and stops those that do worse than most at the same
report. What it writes for itself is removed and never read: trials that ended tell the scheduler their scores from our own files.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from srpo.errors import ConfigError
from srpo.runs.folder import LOCK, held
from srpo.system.clock import Clock, stopping
from srpo.system.cluster import Resources, connected, require_room
from srpo.text import tell
from srpo.tuning.job import FINISHED, STOPPED, Job, Trial
from srpo.tuning.trial import run_trial

NOTES = ".ray"  # the folder for what Ray writes for itself
RETRIES = 5  # of a trial whose node or process died; errors of training are recorded and not tried again
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints a banner to whom wants none
}


def through(job: Job, resources: Resources, address: str | None, reduction: int, clock: Clock) -> None:
    """Work through the trials that have not ended. reduction: of so many trials at a report one goes on. Raises ConfigError."""
    os.environ.update(QUIET)
    with connected(address, resources.surroundings) as ray:
        tune = _tune()
        require_room(ray, resources, wait=address is not None)
        with held(job.out / LOCK, "choose another --out") as mine:
            if not mine:
                raise ConfigError(f"{job.out} is being searched by another process; wait for it, or choose another --out")
            _search(tune, job, resources, reduction, clock)


def _search(tune: Any, job: Job, resources: Resources, reduction: int, clock: Clock) -> None:
    job.describe()
    left = [trial for trial in job.trials if trial.outcome not in (FINISHED, STOPPED)]
    tell(f"{len(left)} of {len(job.trials)} trials, each with {resources}")
    try:
        with stopping(clock):
            if left:
                _tuner(tune, job, left, resources, reduction).fit()
    except KeyboardInterrupt as e:
        raise e if str(e) else KeyboardInterrupt("stopped; the same command goes on") from None
    finally:
        shutil.rmtree(job.out / NOTES, ignore_errors=True)


def _tune() -> Any:
    """Raises ConfigError if it is not installed."""
    try:
        from ray import tune
    except ImportError as e:
        raise ConfigError(f"this needs Ray Tune ({e}); install srpo[ray]") from None
    return tune


def _tuner(tune: Any, job: Job, left: list[Trial], resources: Resources, reduction: int) -> Any:
    scheduler = tune.schedulers.ASHAScheduler("report", "objective", "max", job.last_report, 1, reduction)
    remember(scheduler, job)
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), {"cpu": resources.cores, "gpu": resources.gpus})
    return tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search([trial.number for trial in left])},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(
            storage_path=str(job.out / NOTES),
            verbose=0,
            failure_config=tune.FailureConfig(RETRIES),
            callbacks=[_callback(tune, job)],
        ),
    )


def remember(scheduler: Any, job: Job) -> None:
    """Tell a scheduler the scores of the trials that ended before this command, so that it compares with them."""
    for trial in job.trials:
        if trial.outcome in (FINISHED, STOPPED):
            past = SimpleNamespace(trial_id=f"before-{trial.name}")
            scheduler.on_trial_add(None, past)
            for number, score in enumerate(trial.scores):
                scheduler.on_trial_result(None, past, {"report": number + 1, "objective": score.value})


def _callback(tune: Any, job: Job) -> Any:
    mine = replace(job, data=None).trials  # Ray writes callbacks down, and data may be large

    class Ends(tune.Callback):
        """Writes down and says how each trial ended."""

        def on_trial_complete(self, iteration, trials, trial, **info):
            ended(mine[trial.config["trial"]])

        def on_trial_error(self, iteration, trials, trial, **info):
            dead = mine[trial.config["trial"]]
            dead.note(error=f"its process died {RETRIES + 1} times")
            ended(dead)

    return Ends()


def ended(trial: Trial) -> None:
    """Of a trial that Ray is done with."""
    record, scores = trial.record, trial.scores
    values = ", ".join(f"{path}={value}" for path, value in trial.values.items())
    if record["error"] is not None:
        tell(f"trial {trial.name} ({values}): failed: {record['error']}; the same command tries it again")
        return
    outcome = FINISHED if len(scores) == trial.job.last_report else STOPPED
    trial.end(outcome)
    last = scores[-1]
    said = f"{outcome} at report {len(scores)} of {trial.job.last_report}"
    tell(f"trial {trial.name} ({values}): {said}, {last.note or f'{last.value:.4g}'}; {record['seconds']:.0f} s")
