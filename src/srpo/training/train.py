"""Training: every stage of an algorithm in order, for all seeds and swept values, kept on disk as it goes.

A run killed at any moment continues from its last checkpoint and ends bit for bit as one that never stopped;
finished stages are never trained again.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data import Dataset, load_dataset
from srpo.data.doubts import warnings_about
from srpo.data.load import reload
from srpo.data.placing import DataIn, placed
from srpo.data.treated import Treated, treat
from srpo.environments import check_environment
from srpo.errors import ConfigError, closest
from srpo.evaluation.scores import Evaluator
from srpo.networks.precision import Precision
from srpo.runs.checkpoint import CheckpointError, NotWritten, save_tree, sweep_parts
from srpo.runs.devices import local_devices
from srpo.runs.folder import claimed, locked, next_free
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, describe, load_run, save_info
from srpo.surroundings import in_float32, require_devices
from srpo.text import command
from srpo.training.inherit import inherited_from, require_same_units
from srpo.training.loop import StageLoop
from srpo.training.progress import Reporter, check_sinks

CHECKPOINT_SECONDS = 60.0


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved its state; the message says how to resume."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class TrainingFailed(FloatingPointError):
    """Every run met a value that is not finite."""


def configure(algorithm: str | type[Algorithm], data: Dataset, preset: str = "paper", **changes: Any) -> Algorithm:
    """An algorithm with the preset's values for a data set, then `changes` by path, as the command line does it."""
    cls = algorithms.find(algorithm) if isinstance(algorithm, str) else algorithm
    return config.assign_all(cls.default(), config.preset(cls.presets, preset, data.task or "") | changes)


@in_float32
def train(
    algorithm: Algorithm,
    data: Dataset | str | Path,
    *,
    seeds: int | Sequence[int] = 1,
    out: str | Path | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    start_from: str | Path | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 10,
    max_steps: int | None = None,
    keep: int = 1,
    precision: Precision = "float32",
    data_in: DataIn = "auto",
    devices: int | None = None,
    quiet: bool = False,
    sources: Mapping[str, str] | None = None,
    sinks: Sequence[str] = (),
) -> Run:
    """Train all stages and return the finished run.

    seeds: how many (0, 1, ...), or which. sweep: path -> values; the grid is their product. out: a new folder,
    `runs/<data>/<algorithm>/<time>` if none is given. start_from: a run whose finished stages are used where their
    settings are the same. eval_every: steps of the last stage between evaluations in the environment (a twentieth of
    it by default; 0: never). max_steps: where its episodes are cut (by default by the environment, or where it sets no
    limit at the longest episode of the data). keep: how many policies of the last stage to keep, at even intervals up to its end.
    precision: of products and activations in training ("bfloat16": faster on a GPU); policies act in float32. data_in: where the
    rows are that training draws from ("auto": on the device if they fit); results are the same bit for bit. devices: how
    many of this machine's the runs are shared out to; all by default, with the same numbers. Raises ConfigError, DataError,
    RunError for what cannot be done, before anything is written; TrainingFailed if no run is left;
    Interrupted, after saving, on SIGINT or SIGTERM.
    """
    require_devices()
    data = data if isinstance(data, Dataset) else load_dataset(data)
    grid = Grid.create(algorithm, seeds, sweep)
    eval_every = _asked(algorithm, data, eval_every, eval_episodes, keep)
    if max_steps is not None and max_steps < 1:
        raise ConfigError(f"found {max_steps} steps at most per episode, expected one or more")
    if precision not in get_args(Precision):
        raise ConfigError(closest(str(precision), get_args(Precision), "precision"))
    local_devices(devices, 1)  # refuse now
    data, on_device, _ = placed(data, data_in)
    treated = treat(data, algorithm.data, on_device)
    for stage in algorithm.stages.values():
        stage.view(treated)  # refuse now what a later stage cannot learn from
    if eval_every:
        check_environment(data)
    check_sinks(sinks)
    inherited, failures = inherited_from(start_from, grid, data, precision) if start_from is not None else ({}, [])
    more: dict[str, Any] = {"eval_every": eval_every, "eval_episodes": eval_episodes, "keep": keep, "precision": precision}
    more |= {"max_steps": max_steps, "start_from": str(start_from or ""), "failures": failures}
    info = describe(grid, treated, dict(sources or {}), **more)
    folder = Path(out) if out is not None else next_free(_default_folder(data, algorithm))
    run = new_run(Run(folder, info, grid), inherited)
    return _continue(run, treated, quiet, sinks, devices)


def _asked(algorithm: Algorithm, data: Dataset, eval_every: int | None, eval_episodes: int, keep: int) -> int:
    """Steps between evaluations. Raises ConfigError for numbers that cannot be meant."""
    last = list(algorithm.stages.values())[-1]
    if eval_every is not None and eval_every < 0:
        raise ConfigError(f"found {eval_every} steps between evaluations, expected zero (never) or more")
    if eval_episodes < 1:
        raise ConfigError(f"found {eval_episodes} episodes per evaluation, expected one or more")
    if eval_every and data.env_id is None:
        raise ConfigError(
            f"{data.source} names no environment to evaluate in; set its attribute env_id, or leave evaluation out"
        )
    if not 1 <= keep <= last.steps:
        raise ConfigError(f"found {keep} policies to keep, expected 1 to {last.steps}, the steps of the last stage")
    return (max(last.steps // 20, 1) if data.env_id else 0) if eval_every is None else eval_every


@in_float32
def resume(
    path: str | Path,
    data: Dataset | None = None,
    quiet: bool = False,
    sinks: Sequence[str] = (),
    data_in: DataIn = "auto",
    devices: int | None = None,
) -> Run:
    """Continue a run that was stopped; its rows and devices may be others than before. Raises RunError, DataError if the run or its data are not what they were, ConfigError for
    a logger that is not installed."""
    check_sinks(sinks)
    require_devices()
    local_devices(devices, 1)
    run = load_run(path)
    if run.complete:
        return run
    if data is None and run.info["data"]["source"] == "arrays":
        raise RunError(f"{path} was trained on arrays in memory; continue it from Python with srpo.resume({str(path)!r}, data)")
    data = reload(run.info["data"]) if data is None else data
    if data.sha256 != run.info["data"]["sha256"]:
        raise RunError(f"{data.source} is not the data that {path} was trained on (its hash differs); restore it to resume")
    require_same_units(run, data)
    data, on_device, _ = placed(data, data_in)
    return _continue(run, treat(data, run.algorithm.data, on_device), quiet, sinks, devices)


def new_run(run: Run, results: Mapping[str, Any]) -> Run:
    """Make the folder of a run of which `results` are finished already; all of it or nothing. Raises RunError, CheckpointError."""
    with claimed(run.path):
        try:
            hashes = {name: save_tree(run.stage_file(name), result, run=run.identity(name)) for name, result in results.items()}
            return save_info(run, stages=hashes)  # last: run.json makes it a run
        except CheckpointError:
            shutil.rmtree(run.stage_file("").parent, ignore_errors=True)
            raise


def _default_folder(data: Dataset, algorithm: Algorithm) -> Path:
    return Path("runs", data.name, algorithms.name_of(algorithm).replace(":", "."), time.strftime("%Y%m%d-%H%M%S"))


def _continue(run: Run, data: Treated, quiet: bool, sinks: Sequence[str], devices: int | None) -> Run:
    with locked(run.path), _signals() as stopped, Reporter(run, quiet, sinks) as report, contextlib.ExitStack() as at_end:
        for line in warnings_about(data.recording, data.treatment.normalize_obs):
            report.warn(line)
        sweep_parts(run.path)
        results = dict(run.results)
        evaluator = Evaluator(run, results) if run.info["eval_every"] else None
        if evaluator is not None:
            at_end.callback(evaluator.close)
        for name, stage in run.algorithm.stages.items():
            if name in results:
                report.skipped(name)
                continue
            last = name == list(run.algorithm.stages)[-1]
            file, whose = run.state_file(name), run.identity(name)
            options: dict[str, Any] = {"precision": run.precision, "run": whose, "devices": devices}
            loop = StageLoop(name, run.grid, stage.view(data), results, file, **options)
            try:
                run = _train_stage(run, loop, evaluator if last else None, report, stopped, run.kept if last else ())
            except NotWritten as e:  # a full disk: keep what can be kept
                with contextlib.suppress(CheckpointError):
                    loop.save()
                raise NotWritten(f"{e}; make room, then continue with: {_resume(run)}") from e
            results[name] = loop.result()
            run = run.save_stage(name, results[name])
            run.state_file(name).unlink(missing_ok=True)
        run = load_run(run.path)
        report.finished(run)
        return run


def _train_stage(
    run: Run, loop: StageLoop, evaluator: Evaluator | None, report: Reporter, stopped: list[int], kept: Sequence[int]
) -> Run:
    report.compiling(loop.name)
    loop.start()
    report.stage(loop)
    every = 0 if evaluator is None else evaluator.every

    def evaluate() -> None:
        """Of the present step, if it is due; the state is on disk before, as it may take long and can be stopped."""
        if evaluator is None or not (loop.step % every == 0 or loop.step == loop.stage.steps):
            return
        loop.save()
        rows, notes = evaluator.at(run, loop.step, loop.name, loop.result(), watch)
        report.scored(rows)
        for line in notes:
            report.warn(line)

    def watch(step: int) -> None:
        report.evaluating(step)
        if stopped:
            raise _interrupted(run, loop, stopped)

    if evaluator is not None:
        evaluator.forget_after(loop.step)
        if loop.step and not evaluator.knows(run, loop.step):
            evaluate()  # it was stopped there
    saved, others = time.monotonic(), [f for f in run.failures if f["stage"] != loop.name]
    known, rounds = len(loop.failures), loop.rounds
    for means in loop.calls(every, kept[0] if kept else 0):
        report.step(loop, means)
        if loop.rounds != rounds:
            rounds = loop.rounds
            report.warn(f"{loop.name}: the device's memory does not hold all runs at once; they take turns in {rounds} rounds")
        for failure in loop.failures[known:]:
            report.warn(str(failure))
            known += 1
            run = save_info(run, failures=others + [vars(f) for f in loop.failures])
        if loop.all_failed:
            raise TrainingFailed(f"no run is left ({loop.failures[-1]})")
        if loop.step in kept[:-1]:
            run = run.save_stage(loop.name, loop.result(), loop.step)
        evaluate()
        if stopped or time.monotonic() - saved > CHECKPOINT_SECONDS:
            loop.save()
            saved = time.monotonic()
        if stopped:
            raise _interrupted(run, loop, stopped)
    return run


def _interrupted(run: Run, loop: StageLoop, stopped: Sequence[int]) -> Interrupted:
    return Interrupted(f"stopped at step {loop.step} of stage {loop.name}; continue with: {_resume(run)}", stopped[0])


def _resume(run: Run) -> str:
    return command("srpo", "train", "--resume", run.path) + run.algo


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
