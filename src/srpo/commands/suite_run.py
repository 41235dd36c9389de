"""`srpo suite run`: the cells worked through by this process, by several side by side, or by a Ray cluster.

Imports no JAX: each process keeps to its cores before it does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from srpo.errors import ConfigError, UserError
from srpo.text import command, plain, tell

if TYPE_CHECKING:
    from srpo.runs.elsewhere import Known
    from srpo.suite.cells import Cell
    from srpo.suite.findings import Findings
    from srpo.suite.work import Work
    from srpo.system.clock import Clock


def work_through(args: argparse.Namespace) -> tuple[Findings, int]:
    """What is found in the end, and how many cells or processes failed. Raises UserError for what cannot be done."""
    from srpo.suite import jobs
    from srpo.suite.schema import LONGEST
    from srpo.system.clock import Clock

    work, cells = planned(args, plain(command("srpo", *sys.argv[1:]), LONGEST), Clock(args.minutes))
    work.check(cells)
    try:
        if args.on == "ray":
            failed = on_ray(args, work)
        else:
            count = args.jobs or jobs.fitting(len(cells), work.data.values())
            failed = work.through(cells) if count == 1 else several(args, work, cells, count)
    finally:
        if (work.keep.folder / "suite.json").exists():
            found = work.keep.update(work.results(cells))
    tell(f"results: {work.keep.folder}")
    return found, failed


def on_ray(args: argparse.Namespace, work: Work) -> int:
    """Every cell as a task of a Ray cluster. Returns how many failed."""
    from srpo.runs.storage import Storage
    from srpo.suite.on_ray import through
    from srpo.system.cluster import Resources

    if args.jobs is not None:
        raise ConfigError("--jobs counts processes of this machine; with --on ray say what each cell needs: --cores, --gpus")
    resources = Resources(1 if args.cores is None else args.cores, args.gpus or 0.0)
    storage = None if args.storage is None else Storage(args.storage)
    return through(work, args.data_dir, resources, args.address, storage)


def several(args: argparse.Namespace, work: Work, cells: Sequence[Cell], count: int) -> int:
    """Work through the cells in so many processes. Returns how many cells, or processes, failed."""
    from srpo.suite import jobs
    from srpo.system.clock import Clock, stopping

    tell(f"{count} processes side by side on {len(jobs.cores())} cores")
    with stopping(Clock()):
        codes = jobs.side_by_side(partial(beside, args, work.command, work.clock.began, work.known), count)
    for code in (code for code in codes if code):
        tell(f"a process ended with code {code}; the same command goes on")
    return sum(cell.log["error"] is not None for cell in cells) + sum(code != 0 for code in codes)


def planned(args: argparse.Namespace, command: str, clock: Clock) -> tuple[Work, list[Cell]]:
    """What is to be done. Raises UserError for what cannot be."""
    from srpo.commands.reading import parse_seeds
    from srpo.suite.keep import Keep
    from srpo.suite.plan import load_data, load_suite
    from srpo.suite.work import Work
    from srpo.training.saving import Saving

    seeds = parse_seeds(args.seeds) if args.seeds is not None else None
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    data, algos = (names.split(",") if names is not None else None for names in (args.data, args.algos))
    suite = load_suite(args.suite).chosen(data, algos, seeds, args.iterations)
    given = {key: value for key in ("episodes", "precision") if (value := getattr(args, key)) is not None}
    suite = replace(suite, **given)
    if not args.no_eval:
        require_simulator()
    out = args.out or Path("runs", "suite", suite.name)
    work = Work(
        suite,
        {s.name: load_data(s.name, args.data_dir) for s in suite.data},
        out,
        Keep(args.keep or out / "results"),
        command,
        clock,
        not args.no_eval,
        args.quiet,
        Saving(args.checkpoint_every),
    )
    return work, work.cells()


def beside(args: argparse.Namespace, command: str, began: float, known: Known, cores: list[int]) -> None:
    """One of several processes on the same suite, on these cores."""
    from srpo.suite.jobs import keep_to

    keep_to(cores)
    from srpo.runs.elsewhere import know
    from srpo.system.clock import Clock

    args.quiet = True  # bars of several processes would overwrite each other
    try:
        know(known)
        work, cells = planned(args, command, Clock(args.minutes, began))
        work.through(cells)
    except UserError as e:
        sys.exit(f"srpo: error: {e}")
    except KeyboardInterrupt as e:
        sys.exit(128 + getattr(e, "signum", 2))


def require_simulator() -> None:
    """Raises ConfigError where nothing can be evaluated."""
    try:
        importlib.import_module("mujoco")
        importlib.import_module("gymnasium")
    except ImportError as e:
        raise ConfigError(f"policies cannot be evaluated here ({e}); install it, or train with --no-eval") from None
