"""One module per command; what several share of the options that name a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srpo.errors import ConfigError


def add_algo(add: Any) -> None:
    """The option `--algo` of a command that reads a run; `add` is `parser.add_argument`."""
    add("--algo", metavar="MODULE:CLASS", help="the class of the run's algorithm, if it is not of this package")


def open_run(path: Path, algo: str | None = None) -> Any:
    """The run in a folder, whose algorithm `algo` names if it is of another package. Raises RunError, ConfigError."""
    from srpo import algorithms
    from srpo.runs.run import load_run

    cls = None if algo is None else algorithms.named(algo)
    run = load_run(path)
    if cls not in (None, type(run.algorithm)):
        raise ConfigError(f"{path} was trained by {run.info['algorithm']!r}, found --algo {algo}; leave it out")
    return run
