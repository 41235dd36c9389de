"""What the commands on a run need besides its folder: nothing is imported because a file names it, so they are told again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from srpo.data import sources
from srpo.data.again import computed_by
from srpo.text import command, exact

if TYPE_CHECKING:
    from srpo.runs.grid import Point
    from srpo.runs.run import Run


def environment(run: Run) -> str:
    """The option that names an environment by its module."""
    env_id = run.info["data"]["env_id"] or ""
    return f" {command('--env', env_id)}" if ":" in env_id else ""


def source(run: Run) -> str:
    """The option that names the module of a data source of another package."""
    place = sources.place_of(run.info["data"]["source"])
    return f" {command('--source', place)}" if place else ""


def reward(run: Run) -> str:
    """The option that names the function by which rewards were computed."""
    known = run.info["data"]
    function = computed_by(known, known["source"])
    return f" {command('--reward', function)}" if function else ""


def resume(run: Run, loggers: Sequence[str] = ()) -> str:
    """The command that goes on with it, in the same loggers."""
    words = "".join(f" --{name}" for name in loggers)
    return command("srpo", "train", "--resume", run.path) + run.algo + source(run) + reward(run) + environment(run) + words


def evaluate(run: Run) -> str:
    """The command that scores its policies."""
    return command("srpo", "eval", run.path) + run.algo + environment(run)


def judge(run: Run) -> str:
    """The command that ranks its policies."""
    return command("srpo", "judge", run.path) + run.algo + source(run) + reward(run)


def at(point: Point) -> list[str]:
    """The words that choose a point of its sweep."""
    return [word for path, value in point for word in ("--set-point", f"{path}={exact(value)}")]


def export(run: Run, *more: object) -> str:
    """The command that makes files of a policy; `more` says of which one."""
    words = f" {command(*more)}" if more else ""
    return command("srpo", "export", run.path) + run.algo + source(run) + environment(run) + words
