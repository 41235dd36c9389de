"""What a person sees of a training: a bar with time left, plain lines where there is no terminal, and metrics.csv."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srpo.errors import ConfigError, closest
from srpo.runs.checkpoint import NotWritten
from srpo.runs.run import Run
from srpo.runs.tables import metrics_table
from srpo.system.surroundings import missing
from srpo.text import MESSAGE, exact, plain, said
from srpo.training.curves import draw_curves
from srpo.training.loop import StageLoop

PLAIN_SECONDS = 15.0
EVALUATION = "evaluation"  # the group of scores where loggers group metrics by stage


class Bars:
    """rich bars on a terminal, a line now and then elsewhere; all on standard error."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self.bars = Progress(*columns, *left, console=self.console, disable=not self.console.is_terminal)
        self.task = TaskID(0)  # no bar before `open`

    def open(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total = name, total
        self.began = self.told = time.monotonic()
        self.since: tuple[float, int] | None = (
            None  # when the first call, most of it compilation, was done, and how far it came
        )
        self.task = self.bars.add_task(name, total=total, completed=done, note="")

    def update(self, done: int, note: str = "") -> None:
        self.bars.update(self.task, completed=done, note=note)
        now = time.monotonic()
        self.since = self.since or (now, done)
        if not self.console.is_terminal and (now - self.told > PLAIN_SECONDS or done == self.total):
            self.told = now
            start, first = self.since
            left = f", {(self.total - done) * (now - start) / (done - first):.0f} s left" if first < done < self.total else ""
            self.say(f"{self.name}: {done}/{self.total}, {now - self.began:.0f} s{left} {note}".rstrip())

    def say(self, text: str) -> None:
        self.console.print(plain(text, 2 * MESSAGE), markup=False)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def __enter__(self):
        self.bars.start()
        return self

    def __exit__(self, *_):
        self.bars.stop()


def draw(run: Run, bars: Bars) -> None:
    """curves.png of a finished run; where it cannot be drawn, that is said, and the run is finished all the same."""
    try:
        draw_curves(run)
    except ModuleNotFoundError as e:
        bars.warn(f"curves.png is not drawn: {missing(e)}")
    except NotWritten as e:
        bars.warn(f"curves.png is not drawn: {e}")


class Reporter:
    """The progress and the metrics of one training."""

    def __init__(self, run: Run, quiet: bool, sinks: Sequence[str] = ()):
        self.run = run
        self.bars = Bars(quiet)
        self.table = metrics_table(run)
        self.sinks = [SINKS[name](run) for name in sinks]
        self.note = ""

    def __enter__(self):
        self.bars.__enter__()
        return self

    def __exit__(self, *_):
        self.bars.__exit__()
        for sink in self.sinks:
            sink.close()

    def warn(self, text: str) -> None:
        self.bars.warn(text)

    def skipped(self, name: str) -> None:
        self.bars.say(f"{name}: finished before")

    def compiling(self, name: str) -> None:
        self.bars.say(f"{name}: compiling")

    def stage(self, loop: StageLoop) -> None:
        """A stage begins, or goes on after what is in its checkpoint."""
        order = list(self.run.algorithm.stages)
        earlier = set(order[: order.index(loop.name)])
        self.table.keep(lambda r: r["stage"] in earlier or (r["stage"] == loop.name and int(r["step"]) <= loop.step))
        runs = loop.shape[0] * loop.shape[1]
        self.bars.open(f"{loop.name} ({runs} run{'s' * (runs > 1)})", loop.stage.steps, loop.step)

    def step(self, loop: StageLoop, means: dict[str, np.ndarray] | None) -> None:
        if means is not None:
            shown = min(means, key=lambda name: ("loss" not in name, name), default="")  # a loss, if there is one
            going = means[shown][np.isfinite(means[shown])] if shown else np.empty(0)
            self.note = f"{shown} {going.mean():.4g}" if going.size else ""
            self._record(loop, means)
        self.bars.update(loop.step, self.note)

    def _record(self, loop: StageLoop, means: dict[str, np.ndarray]) -> None:
        rows: list[dict[str, Any]] = []
        for metric, values in means.items():
            for (s, p), value in np.ndenumerate(values):
                if not np.isfinite(value):
                    continue  # this run has failed, which was said
                row = {"stage": loop.name, "step": loop.step, "seed": self.run.seeds[s], **dict(loop.points[p])}
                rows.append(row | {"metric": metric, "value": float(value)})
        self.table.append(rows)
        for sink in self.sinks:
            sink.write(rows)

    def evaluating(self, step: int) -> None:
        if step % 100 == 0:
            self.bars.bars.refresh()

    def scored(self, episodes: Sequence[dict[str, Any]]) -> None:
        """Tell the loggers what an evaluation, rows of evals.csv, came to."""
        rows = _scores(episodes, list(self.run.grid.sweep))
        for sink in self.sinks if rows else ():
            sink.write(rows)

    def finished(self, run: Run) -> None:
        draw(run, self.bars)


def _scores(episodes: Sequence[dict[str, Any]], sweep: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the episodes of each run: return, and normalized score where there is one."""
    by_run: dict[tuple, list[dict[str, Any]]] = {}
    for row in episodes:
        by_run.setdefault(tuple(row[name] for name in ("step", "seed", *sweep)), []).append(row)
    out: list[dict[str, Any]] = []
    for where, rows in by_run.items():
        identity = {"stage": EVALUATION, **dict(zip(("step", "seed", *sweep), where, strict=True))}
        for metric in ("return", "score"):
            values = [float(row[metric]) for row in rows if row[metric] != ""]
            out += [identity | {"metric": metric, "value": float(np.mean(values))}] if values else []
    return out


def _label(row: dict[str, Any]) -> str:
    """A name for the run a row belongs to."""
    fixed = ("stage", "step", "metric", "value")
    return ",".join(f"{k}={exact(v) if isinstance(v, float) else v}" for k, v in row.items() if k not in fixed)


@runtime_checkable
class Sink(Protocol):
    """Where metrics go besides metrics.csv, and scores besides evals.csv."""

    module: ClassVar[str]  # that must be installed

    def __init__(self, run: Run): ...

    def write(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Needs the extra `tensorboard`."""

    module: ClassVar[str] = "tensorboardX"

    def __init__(self, run: Run):
        from tensorboardX import SummaryWriter

        self.writers: dict[str, Any] = {}
        self.make = lambda name: SummaryWriter(str(run.path / "tensorboard" / name))

    def write(self, rows) -> None:
        for row in rows:
            label = _label(row)
            if label not in self.writers:
                self.writers[label] = self.make(label)
            self.writers[label].add_scalar(f"{row['stage']}/{row['metric']}", row["value"], row["step"])

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WandB:
    """Needs the extra `wandb`; one run there holds all seeds and points, each metric under its label. Raises ConfigError if it does
    not begin."""

    module: ClassVar[str] = "wandb"

    def __init__(self, run: Run):
        import wandb

        same = hashlib.sha256(f"{run.path.resolve()} {run.info['created']}".encode()).hexdigest()[
            :16
        ]  # the run that a resumed one goes on with
        where = {"project": "srpo", "id": same, "name": run.path.name, "dir": str(run.path)}
        try:
            self.log = wandb.init(**where, config=run.info, resume="allow")
        except Exception as e:  # of its own kinds: nobody is logged in, its server does not answer
            raise ConfigError(
                f"wandb does not begin ({plain(said(e), 200)}); run wandb login, or set WANDB_MODE=offline"
            ) from e
        for stage in (*run.algorithm.stages, EVALUATION):
            self.log.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def write(self, rows) -> None:
        """`rows` are of one stage, or of the evaluation, and one step."""
        values = {f"{row['stage']}/{row['metric']}/{_label(row)}": row["value"] for row in rows}
        self.log.log(values | {f"{row['stage']}/step": row["step"] for row in rows[:1]})

    def close(self) -> None:
        self.log.finish()


SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check_sinks(names: Sequence[str]) -> None:
    """Raises ConfigError, before anything is written, for a logger that is unknown or not installed."""
    if isinstance(names, str):
        raise ConfigError(f"sinks: found {names!r}, expected a list of {', '.join(SINKS)}, such as ['wandb']")
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"sinks: {closest(str(name), SINKS, 'logger')}")
        try:
            importlib.import_module(SINKS[name].module)
        except ImportError as e:
            raise ConfigError(f"{name} is not installed ({e}); pip install 'srpo[{name}]'") from e
