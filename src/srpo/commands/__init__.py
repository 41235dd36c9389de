"""One module per command; what several share of the options that name a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srpo.errors import ConfigError


def add_algo(add: Any) -> None:
    """The option `--algo` of a command that reads a run; `add` is `parser.add_argument`."""
    add("--algo", metavar="MODULE:CLASS", help="the class of the run's algorithm, if it is not of this package")


def add_units(add: Any) -> None:
    """The options that say in which environment and units data were recorded."""
    add("--env", metavar="ID", help="Gymnasium id of the environment that was recorded, if the data name another one or none")
    add(
        "--action-range",
        metavar="RANGE",
        help="the recorded actions that are -1 and 1 in training: LOW,HIGH (LOW,HIGH/LOW,HIGH/... per column; write "
        "--action-range=-2,2), env, or recorded: what the file states, else what the data span",
    )


def open_data(source: str, args: Any) -> Any:
    """The data set that a command names, in the units that its options say. Raises DataError, MissingEnvironment."""
    from srpo.data import load_dataset
    from srpo.environments import import_its_module

    if args.env is not None:
        import_its_module(args.env)
    return load_dataset(source, env_id=args.env, action_range=args.action_range)


def open_run(path: Path, algo: str | None = None) -> Any:
    """The run in a folder, whose algorithm `algo` names if it is of another package. Raises RunError, ConfigError."""
    from srpo import algorithms
    from srpo.runs.run import load_run

    cls = None if algo is None else algorithms.named(algo)
    run = load_run(path)
    if cls not in (None, type(run.algorithm)):
        raise ConfigError(f"{path} was trained by {run.info['algorithm']!r}, found --algo {algo}; leave it out")
    return run
