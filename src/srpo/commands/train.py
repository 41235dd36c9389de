"""Train a policy from logged data; all seeds and swept values at once.

DATA is a built-in name (srpo data list), a D4RL-layout .hdf5, an .npz, or a D4RL id such as hopper-medium-v2.

  srpo train logs.hdf5                                       SRPO, at the paper's sizes
  srpo train logs.hdf5 --preset quick                        for a small machine
  srpo train logs.hdf5 --dry-run                             every setting, its meaning, the expected time
  srpo train hopper-medium-v2 --seeds 6 --sweep policy.beta=0.01,0.05,0.2
  srpo train logs.hdf5 --algo idql --set critic.expectile=0.9
  srpo train --resume runs/logs/srpo/RUN                     go on after Ctrl-C, a crash or a kill
  srpo train logs.hdf5 --from RUN --set policy.beta=0.1      another policy from RUN's critic and behavior
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.commands import (
    COLUMNS,
    PRECISIONS,
    add_checkpoints,
    add_columns,
    add_source,
    add_units,
    located,
    open_data,
    open_run,
    reward_function,
    same_environment,
)
from srpo.commands.outcome import report
from srpo.commands.reading import changes_of, parse_seeds, refuse_one_seed, sweep_of
from srpo.errors import ConfigError
from srpo.text import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", nargs="?", metavar="DATA", help="what to train on; with --resume only if it was moved")
    add(
        "--algo",
        default="srpo",
        help="algorithm: srpo (default) or another name (a wrong one lists them), or package.module:Class",
    )
    add(
        "--preset",
        default="paper",
        help="values for this data set: paper (default), quick, or another of the algorithm's, such as authors-code",
    )
    add_units(add)
    add_columns(add)
    add_source(add)
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting (repeatable); --dry-run lists them")
    add("--sweep", action="append", default=[], metavar="PATH=V1,V2,...", help="train for several values (repeatable)")
    add("--seed", help=argparse.SUPPRESS)  # other tools' word for something else: refused with the right one
    add("--seeds", default="1", metavar="N or S1,S2,...", help="how many seeds (0, 1, ...) or which ones; default 1")
    add("--out", type=Path, metavar="DIR", help="folder of the run; default runs/DATA/ALGO/TIME")
    add("--resume", type=Path, metavar="RUN", help="continue a run that was stopped")
    add("--from", dest="start_from", type=Path, metavar="RUN", help="reuse the finished stages of a run that fit the settings")
    _add_evaluations(add)
    add_checkpoints(add)
    _add_places(add)
    add("--tensorboard", action="append_const", dest="sinks", const="tensorboard", help="losses and scores also to TensorBoard")
    add("--wandb", action="append_const", dest="sinks", const="wandb", help="losses and scores also to Weights & Biases")
    add("--dry-run", action="store_true", help="print all settings and the time it takes, estimated in seconds; write nothing")
    add("--measure", action="store_true", help="with --dry-run: compile and time a few real steps, instead of an estimate")
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="no progress")


def _add_evaluations(add: Callable[..., Any]) -> None:
    """How policies are scored on the way, and how many are kept."""
    add("--no-eval", action="store_true", help="never act in an environment (data without one needs no flag)")
    add(
        "--eval-every", type=int, metavar="STEPS", help="steps of the last stage between evaluations; default a twentieth of it"
    )
    add(
        "--max-steps", type=int, metavar="N", help="cut episodes of evaluations after N steps; for environments without a limit"
    )
    add("--eval-episodes", type=int, default=10, metavar="N", help="episodes per evaluation and run; default 10")
    add(
        "--keep",
        type=int,
        default=1,
        metavar="N",
        help="keep N policies at even intervals of the last stage, for srpo judge to choose from; default 1, the last",
    )


def _add_places(add: Callable[..., Any]) -> None:
    """Where and how it is computed; the results are the same but for the precision."""
    add(
        "--devices",
        type=int,
        metavar="N",
        help="how many GPUs (or forced host devices) share the runs; default all; same numbers",
    )
    add(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="in training; bfloat16 is faster on a GPU, and on a CPU with such products of its own (AMX); policies always act in float32",
    )
    add(
        "--data-in",
        default="auto",
        choices=("auto", "device", "memory", "disk"),
        help="where the rows are that training draws from; auto: on the device if they fit, else where the file's size "
        "leaves them. Results are the same bit for bit",
    )


def _refuse_changes(args: argparse.Namespace) -> None:
    """Raises ConfigError if `--resume` comes with an option that would change the run, or says how DATA is read and names none."""
    computed = ":" in (args.column_reward or "")  # rewards, by a function that is named again
    read = [name for name in COLUMNS if args.data is not None or (name == "reward" and computed)]
    free = (
        "data",
        *(f"column_{name}" for name in read),
        "data_in",
        "env",
        "resume",
        "source",
        "devices",
        "checkpoint_every",
        "sinks",
        "json",
        "quiet",
        *(("algo",) if ":" in args.algo else ()),
    )
    changed = [name for name in vars(args) if name in args.given and name not in free]
    if changed:
        what = "--" + changed[0].replace("start_from", "from").removeprefix("column_").replace("_", "-")
        raise ConfigError(
            f"--resume continues a run with its own settings, found {what}; for other settings use {command('--from', args.resume)}"
        )


def main(args: argparse.Namespace) -> int:
    refuse_one_seed(args.seed)
    return _train(args) if args.resume is None else _resume(args)


def _resume(args: argparse.Namespace) -> int:
    from srpo.data.again import reload
    from srpo.training import train as training
    from srpo.training.saving import Saving

    _refuse_changes(args)
    known = open_run(args.resume, args.algo if ":" in args.algo else None).info["data"]
    if args.env is not None:
        same_environment(args.env, known["env_id"])
    where = located(args.data, args) if args.data else None  # where it is now, if it was moved
    computes = reward_function(args)
    data = reload(known, where, computes) if where or computes else None
    run = training.resume(
        args.resume,
        data,
        quiet=args.quiet,
        sinks=args.sinks or (),
        data_in=args.data_in,
        devices=args.devices,
        saving=Saving(args.checkpoint_every),
    )
    return report(run, args.json)


def _train(args: argparse.Namespace) -> int:
    if args.measure and not args.dry_run:
        raise ConfigError("--measure times what --dry-run tells; add --dry-run")
    asked = _asked(args)
    if args.data is None:
        raise ConfigError(
            "no DATA given: name a file, a built-in data set (srpo data list) or a D4RL id; --resume RUN needs none"
        )
    from srpo import algorithms
    from srpo.runs.folder import require_free
    from srpo.runs.grid import Grid
    from srpo.training import train as training
    from srpo.training.progress import check_sinks
    from srpo.training.saving import Saving

    cls = algorithms.named(args.algo)  # before the data, which may be large
    data = open_data(args.data, args)
    algorithm, sweep, sources = _configured(args, cls, data.task or "")
    seeds = parse_seeds(args.seeds)
    saving = Saving(args.checkpoint_every)
    if args.dry_run:
        training.meant(algorithm, data, **asked)  # what training would refuse
        check_sinks(args.sinks or ())
        if args.out is not None:
            require_free(args.out)
        return _dry_run(args, Grid.create(algorithm, seeds, sweep), data, sources)
    run = training.train(
        algorithm,
        data,
        seeds=seeds,
        sweep=sweep,
        out=args.out,
        start_from=args.start_from,
        **asked,
        data_in=args.data_in,
        devices=args.devices,
        quiet=args.quiet,
        sources=sources,
        sinks=args.sinks or (),
        saving=saving,
    )
    return report(run, args.json)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What is asked of evaluations, kept policies and precision. Raises ConfigError for evaluations that are wanted and not."""
    if args.no_eval and args.eval_every:
        raise ConfigError(f"--eval-every {args.eval_every} asks for evaluations, --no-eval for none; leave one of them out")
    names = ("eval_episodes", "max_steps", "keep", "precision")
    return {"eval_every": 0 if args.no_eval else args.eval_every} | {name: getattr(args, name) for name in names}


def _configured(args: argparse.Namespace, cls: Any, task: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
    """The algorithm as preset and options have it, what is swept, and where each value is from."""
    from srpo import config

    chosen = config.preset(cls.presets, args.preset, task)
    changes, sweep = changes_of(args.set), sweep_of(args.sweep)
    algorithm = config.assign_all(cls.default(), chosen | changes)
    for path in {config.present(algorithm, path) for path in changes} & {config.present(algorithm, path) for path in sweep}:
        raise ConfigError(f"{path} is both in --set and in --sweep; leave one of them out")
    sources = dict.fromkeys(chosen, f"preset {args.preset}")
    for paths, origin in ((changes, "--set"), (sweep, "--sweep")):
        sources |= {config.present(algorithm, path): origin for path in paths}
    return algorithm, sweep, sources


def _dry_run(args: argparse.Namespace, grid: Any, data: Any, sources: dict[str, str]) -> int:
    from srpo.training.dry_run import dry_run

    return dry_run(
        grid,
        data,
        sources,
        as_json=args.json,
        quiet=args.quiet,
        data_in=args.data_in,
        devices=args.devices,
        precision=args.precision,
        measure=args.measure,
        start_from=args.start_from,
        keep=args.keep,
    )
