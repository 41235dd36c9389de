"""One module per command, and what several of them share: the options that name data or a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from srpo.errors import ConfigError
from srpo.system.surroundings import named

PRECISIONS = ("float32", "bfloat16")  # `srpo.networks.precision.Precision`, which imports JAX


def add_algo(add: Any) -> None:
    """The option `--algo` of a command that reads a run; `add` is `parser.add_argument`."""
    add("--algo", metavar="MODULE:CLASS", help="the class of the run's algorithm, if it is not of this package")


def add_step(add: Any) -> None:
    """The option `--step` of a command that reads the policies of a run."""
    add("--step", type=int, metavar="N", help="an earlier policy that was kept (srpo train --keep); default the last")


def add_units(add: Any) -> None:
    """The options that say in which environment and units data were recorded."""
    add("--env", metavar="ID", help="Gymnasium id of the environment that was recorded, if the data name another one or none")
    add(
        "--action-range",
        metavar="RANGE",
        help="the recorded actions that are -1 and 1 in training: LOW,HIGH (LOW,HIGH/LOW,HIGH/... per column; write "
        "--action-range=-2,2), env, or recorded: what the file states, else what the data span",
    )


def add_checkpoints(add: Any) -> None:
    """The option that says how often a training's state is written."""
    add(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between checkpoints: what a kill loses at most; default 60",
    )


COLUMNS = {
    "obs": "columns of a table (CSV, Parquet) that are observed: names, or patterns with * and ?, such as 'joint_*,temp'",
    "action": "columns that are the action, such as 'cmd_*'",
    "reward": "column of the reward, or module:function that computes it from (obs, action, next_obs)",
    "terminal": "column that says where an episode ended by itself",
    "episode": "column of which another value is another episode; without it each file is one",
    "time": "column of the time, checked for its order",
    "gap": "seconds: a longer step in time cuts the episode",
    "missing": "values that are not there: refuse (default), drop their episode, hold the value before",
    "files": "pattern of the files in a folder",
}


def add_source(add: Any) -> None:
    """The option `--source` of a command that reads data."""
    add("--source", metavar="MODULE", help="a module (or module:object) of your own that reads DATA; see docs/extending.md")


def use_source(args: Any) -> None:
    """Imports and registers the data source that `--source` names, if the command has it and it names one. Raises ConfigError."""
    place = getattr(args, "source", None)
    if place is None:
        return
    from srpo.data.sources import register

    register(named(place, "a module with the functions matches and read"))


def add_columns(add: Any) -> None:
    """The options that say which columns of a table are what."""
    for name, meaning in COLUMNS.items():
        add(f"--{name}", metavar=name.upper(), help=meaning, dest=f"column_{name}")


def reward_function(args: Any) -> Any:
    """The function that `--reward module:function` names, imported; None if it names none. Raises ConfigError."""
    place = getattr(args, "column_reward", None) or ""
    if ":" not in place:
        return None
    expected = "module:function, a function of (obs, action, next_obs)"
    found = named(place, expected)
    if not callable(found):
        raise ConfigError(f"--reward {place} is no function; expected {expected}")
    return found


def located(source: str, args: Any) -> str:
    """A source with what the options say of its columns."""
    told = {name: value for name in COLUMNS if (value := getattr(args, f"column_{name}", None)) is not None}
    if ":" in told.get("reward", "") and len(told) == 1:
        from srpo.data.sources.table import matches

        told = told if matches(source) else {}  # the source of a table says that its reward is computed
    if not told:
        return source
    if "files" in told and os.path.isfile(source) and not source.lower().endswith(".toml"):
        raise ConfigError(f"--files {told['files']}: chooses files of a folder, found the file {source}; leave it out")
    from srpo.data.sources.spec import encoded

    return f"{source}{'&' if '?' in source else '?'}{encoded(told)}"


def open_data(source: str, args: Any) -> Any:
    """The data set that a command names, in the units that its options say. Raises DataError, MissingEnvironment."""
    from srpo.data import load_dataset
    from srpo.worlds.environments import import_its_module

    if args.env is not None:
        import_its_module(args.env)
    return load_dataset(located(source, args), env_id=args.env, action_range=args.action_range, reward=reward_function(args))


def same_environment(given: str, known: str | None) -> None:
    """A run has its own environment; naming it again allows its module to be imported. Raises ConfigError."""
    from srpo.worlds.environments import import_its_module

    if given != known:
        raise ConfigError(f"found --env {given}, expected the run's own environment, {known}")
    import_its_module(given)


def open_run(path: Path, algo: str | None = None) -> Any:
    """The run in a folder, whose algorithm `algo` names if it is of another package. Raises RunError, ConfigError."""
    from srpo import algorithms
    from srpo.runs.run import load_run

    cls = None if algo is None else algorithms.named(algo)
    run = load_run(path)
    if cls not in (None, type(run.algorithm)):
        raise ConfigError(f"{path} was trained by {run.info['algorithm']!r}, found --algo {algo}; leave it out")
    return run
