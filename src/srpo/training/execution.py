"""A run through its stages: each trained call by call, watched, evaluated and saved, until it ends or is stopped."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from srpo.data.doubts import warnings_about
from srpo.data.treated import Treated
from srpo.evaluation.evaluator import Evaluator
from srpo.runs import options
from srpo.runs.checkpoint import CheckpointError, NotWritten, sweep_parts
from srpo.runs.folder import locked
from srpo.runs.run import Run, load_run, save_info
from srpo.training.loop import StageLoop
from srpo.training.progress import Reporter
from srpo.training.saving import Saving
from srpo.worlds.environments import MissingEnvironment


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved its state; the message says how to resume."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class TrainingFailed(FloatingPointError):
    """Every run met a value that is not finite."""


def execute(run: Run, data: Treated, quiet: bool, sinks: Sequence[str], devices: int | None, saving: Saving) -> Run:
    """Train the stages of a run that are not finished. Raises Interrupted, TrainingFailed, CheckpointError, RunError."""
    with locked(run.path), _signals() as stopped, Reporter(run, quiet, sinks) as report, contextlib.ExitStack() as at_end:
        run = load_run(run.path)  # another process may have gone on with it until now
        for line in warnings_about(data.recording, data.treatment.normalize_obs):
            report.warn(line)
        sweep_parts(run.path)
        go_on = options.resume(run, sinks)
        results = dict(run.results)
        evaluator = Evaluator(run, results) if run.info["eval_every"] else None
        if evaluator is not None:
            at_end.callback(evaluator.close)
        for name, stage in run.algorithm.stages.items():
            last = name == list(run.algorithm.stages)[-1]
            if name in results:
                report.skipped(name)
                if last and evaluator is not None:
                    report.warn(f"{name} is not trained anew, so that no policy on the way is evaluated")
                run.state_file(name).unlink(missing_ok=True)  # a kill may have left it
                continue
            file, whose = run.state_file(name), run.identity(name)
            loop = StageLoop(
                name, run.grid, stage.view(data), results, file, precision=run.precision, run=whose, devices=devices
            )
            mine = (evaluator, run.kept) if last else (None, ())
            training = StageTraining(run, loop, report, stopped, saving, go_on, *mine)
            run, results[name] = training.finish()
            run.state_file(name).unlink(missing_ok=True)
            saving.then(run, name, stage.steps)
        run = load_run(run.path)
        report.finished(run)
        return run


@dataclass
class StageTraining:
    """One stage of a run in training, and what happens between two calls of its loop."""

    run: Run
    loop: StageLoop
    report: Reporter
    stopped: Sequence[int]  # the signals that arrived
    saving: Saving
    go_on: str  # the command that does
    evaluator: Evaluator | None = None
    kept: Sequence[int] = ()  # the steps whose results are kept, the last one among them

    def __post_init__(self):
        self.every = 0 if self.evaluator is None else self.evaluator.every
        self.rounds, self.failures = self.loop.rounds, 0  # that were told

    def finish(self) -> tuple[Run, Any]:
        """Train to the end and write the result; the run, which knows of it and of what failed, and the result. On a full disk,
        keeps what can be kept."""
        try:
            self._begin()
            self._calls()
            result = self.loop.result()
            return self.run.save_stage(self.loop.name, result), result
        except NotWritten as e:
            with contextlib.suppress(CheckpointError):
                self.loop.save()
            raise NotWritten(f"{e}; make room, then continue with: {self.go_on}") from e

    def _begin(self) -> None:
        self.report.compiling(self.loop.name)
        self.loop.start()
        self.report.stage(self.loop)
        self.rounds = self.loop.rounds
        self._tell()  # of failures in the checkpoint run.json may know nothing yet
        if self.evaluator is not None:
            self.evaluator.forget_after(self.loop.step)
            if self.loop.step and not self.evaluator.knows(self.run, self.loop.step):
                self._evaluate()  # it was stopped there

    def _calls(self) -> None:
        loop, saved = self.loop, time.monotonic()
        for means in loop.calls(self.every, self.kept[0] if self.kept else 0):
            self.report.step(loop, means)
            self._tell()
            if keeps := loop.step in self.kept[:-1]:
                self.run = self.run.save_stage(loop.name, loop.result(), loop.step)
            self._evaluate()
            if self.stopped or keeps or time.monotonic() - saved >= self.saving.seconds:
                loop.save()
                self._tell()  # what was found in the state
                self.saving.then(self.run, loop.name, loop.step)
                saved = time.monotonic()
            self._stop_if_asked()

    def _tell(self) -> None:
        """Say and record what is new of memory and failures. Raises TrainingFailed."""
        loop = self.loop
        if loop.rounds != self.rounds:
            self.rounds = loop.rounds
            self.report.warn(
                f"{loop.name}: the device's memory does not hold all runs at once; they take turns in {loop.rounds} rounds"
            )
        for failure in loop.failures[self.failures :]:
            self.report.warn(f"{failure}; the state before is kept" + ("" if loop.all_failed else ", the other runs go on"))
        self.failures = len(loop.failures)
        others = [f for f in self.run.failures if f["stage"] != loop.name]
        known = others + [f.as_dict() for f in loop.failures]
        if known != self.run.failures:
            self.run = save_info(self.run, failures=known)
        if loop.all_failed:
            raise TrainingFailed(
                f"no run is left ({loop.failures[-1]}); lower the learning rate, or see what srpo data info says"
            )

    def _evaluate(self) -> None:
        """Of the present step, if it is due; the state is on disk before, as it may take long and can be stopped."""
        loop = self.loop
        if self.evaluator is None or not (loop.step % self.every == 0 or loop.step == loop.stage.steps):
            return
        loop.save()
        try:
            rows, notes = self.evaluator.at(self.run, loop.step, loop.name, loop.result(), self._watch)
        except MissingEnvironment as e:
            raise MissingEnvironment(f"{e}; nothing is lost, continue with: {self.go_on}") from e
        self.report.scored(rows)
        for line in notes:
            self.report.warn(line)

    def _watch(self, step: int) -> None:
        """A time step of an evaluation was done."""
        self.report.evaluating(step)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stopped:
            name, step = self.loop.name, self.loop.step
            raise Interrupted(f"stopped at step {step} of stage {name}; continue with: {self.go_on}", self.stopped[0])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM arrives, so that the loop can stop between two calls."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {s: signal.signal(s, lambda signum, _: seen.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
