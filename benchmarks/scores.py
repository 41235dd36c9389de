"""Trains and evaluates every algorithm on recorded data, at a budget of gradient steps that is the same for all.

  python benchmarks/scores.py --suite zoo --data-dir DIR --algos all --seeds 3 --budget small
  python benchmarks/scores.py --suite zoo --data-dir DIR --algos srpo,iql,bc --budget tiny --out scores     to try it
  python benchmarks/scores.py --suite zoo --data-dir DIR --report          tables of what is there; trains nothing

It may be stopped at any time: the same command goes on where it stopped, skips what is finished and tries again what
failed. DIR holds the files NAME.hdf5 of the suite. In --out are the runs, in --keep (the same folder unless told) the
results, which are enough to go on on another machine:

  NAME/ALGO/         the run of one data set and one algorithm with all seeds (`srpo eval` and `srpo export` work on it);
                     its evals.csv holds the return of every episode
  NAME/ALGO.json     how it went: seconds, or the error
  KEEP/episodes.csv  every episode of every run
  KEEP/scores.csv    mean, deviation over seeds, bootstrap interval and time of every run, and the means of the suite
  KEEP/scores.md     the same for people, with the budget in words
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from budgets import BUDGETS, KIN, Budget, configured, explain
from report import check_place, has_place, insert
from score_table import Result, Row, data_rows, final_rows, from_run, one, page, read, save, suite_rows

import srpo
from srpo import algorithms, config
from srpo.cli import guarded
from srpo.commands.train import parse_seeds
from srpo.config import ConfigError
from srpo.runs.checkpoint import write_json
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, load_run
from srpo.training.progress import Bars

SUITES = {
    "zoo": ("hopper-medium-replay-zoo-v0", "halfcheetah-medium-replay-zoo-v0", "halfcheetah-medium-expert-zoo-v0"),
    "zoo-all": (
        "hopper-medium-zoo-v0", "hopper-medium-replay-zoo-v0", "hopper-medium-expert-zoo-v0", "hopper-mixed-zoo-v0",
        "halfcheetah-medium-zoo-v0", "halfcheetah-medium-replay-zoo-v0", "halfcheetah-medium-expert-zoo-v0",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One data set, one algorithm, all seeds. `settings`: a digest of what it is to be trained with."""

    data: str
    algorithm: str
    settings: str
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / self.data / self.algorithm

    @property
    def file(self) -> Path:
        return self.folder.with_name(self.algorithm + ".json")

    @property
    def log(self) -> dict[str, Any]:
        """Seconds of training and evaluation so far, whether some of them are missing, and the error if it failed."""
        empty = {"train_seconds": 0.0, "eval_seconds": 0.0, "incomplete": False, "busy": None, "error": None}
        return json.loads(self.file.read_text()) if self.file.exists() else empty

    @property
    def run(self) -> Run | None:
        return load_run(self.folder) if (self.folder / "run.json").exists() else None

    @property
    def result(self) -> Result | None:
        """What its run has come to; None if there is none in `out`."""
        return from_run(self.data, self.algorithm, self.settings, self.run, self.log) if self.file.exists() else None

    def best(self, kept: Mapping[tuple[str, str], Result]) -> Result | None:
        """What its run has come to, or, as long as that is not finished, what was kept of another one with the same settings."""
        mine = self.result
        return mine if mine is not None and mine.finished else kept.get((self.data, self.algorithm), mine)

    def done(self, episodes: int) -> bool:
        """Whether its run in `out` is finished."""
        run = self.run
        if run is None or not run.complete:
            return False
        alive = [s for s in run.seeds if not run.failed(s, ())]
        return len(final_rows(run)) == episodes * len(alive)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds spent to the log; a process that was killed meanwhile leaves the mark `busy`, and its time is missing."""
        before = self.log
        log = before | {"busy": what, "incomplete": before["incomplete"] or before["busy"] is not None, "error": None}
        write_json(self.file, log)
        begin = time.monotonic()
        try:
            yield
        finally:
            key = f"{what}_seconds"
            write_json(self.file, log | {"busy": None, key: log[key] + time.monotonic() - begin})


def digest(algorithm: str, data: srpo.Dataset, budget: Budget, seeds: tuple[int, ...], episodes: int) -> str:
    """Of everything that decides a result but the machine and the library's version."""
    values = {path: repr(s.value) for path, s in config.settings(configured(algorithm, data.name, budget)).items()}
    return hashlib.sha256(json.dumps([algorithm, data.name, data.sha256, values, seeds, episodes]).encode()).hexdigest()[:12]


def check_cell(cell: Cell, seeds: tuple[int, ...], budget: Budget, kept: Mapping[tuple[str, str], Result], keep: Path) -> None:
    """Raises ConfigError for seeds that cannot be used and where a kept result, RunError where a run, is one of other settings."""
    wanted, run = Grid.create(configured(cell.algorithm, cell.data, budget), seeds, None).algorithm, cell.run
    if run is not None:
        wanted, found = config.settings(wanted), config.settings(run.algorithm)
        changed = [path for path in wanted if wanted[path].value != found[path].value]
        if run.seeds != seeds or changed:
            what = f"{changed[0]} {found[changed[0]].value}" if changed else f"seeds {', '.join(map(str, run.seeds))}"
            raise RunError(f"{cell.folder} holds a run with {what}, not what this command would train; choose another --out")
    there = kept.get((cell.data, cell.algorithm))
    if there is not None and there.settings != cell.settings:
        raise ConfigError(
            f"{keep} holds a result of {cell.algorithm} on {cell.data} with other settings, seeds, episodes or data, which would be lost; "
            "choose another --keep"
        )


def work(cell: Cell, data: srpo.Dataset, seeds: tuple[int, ...], budget: Budget, episodes: int, quiet: bool) -> None:
    """Train, from where it stopped, then evaluate."""
    with cell.timed("train"):
        if cell.run is None:
            run = srpo.train(
                configured(cell.algorithm, cell.data, budget), data, seeds=seeds, out=cell.folder, eval_every=0, quiet=quiet
            )
        else:
            run = srpo.resume(cell.folder, data, quiet=quiet)
    with cell.timed("eval"), Bars(quiet) as bars:
        bars.open("time steps", 1000)
        srpo.evaluate(run, episodes, progress=bars.update)


def work_through(cells: list[Cell], sources: dict[str, srpo.Dataset], args: argparse.Namespace, seeds: tuple[int, ...]) -> int:
    """The number of cells that failed; the others go on."""
    failed, kept = 0, read(args.keep)
    for i, cell in enumerate(cells):
        where = f"[{i + 1}/{len(cells)}] {cell.data} {cell.algorithm}"
        if cell.done(args.episodes) or (not cell.file.exists() and cell.best(kept)):
            tell(f"{where}: finished before")
            continue
        tell(f"{where}: {'goes on' if cell.run else 'begins'}")
        try:
            work(cell, sources[cell.data], seeds, BUDGETS[args.budget], args.episodes, args.quiet)
        except Exception as e:  # whatever it is, the other cells must go on; the next command tries this one again
            failed += 1
            error = f"{type(e).__name__}: {e}".splitlines()[0]
            write_json(cell.file, cell.log | {"error": error})
            tell(f"{where}: failed: {error}")
        jax.clear_caches()
        write_report(cells, sources, args)
    return failed


def write_report(cells: list[Cell], sources: dict[str, srpo.Dataset], args: argparse.Namespace) -> tuple[list[Row], str]:
    """Write the tables of what is there, and return rows and page."""
    suite, kept = list(sources), read(args.keep)
    mine = {(cell.data, cell.algorithm): cell.best(kept) for cell in cells}
    others = {where: result for where, result in kept.items() if where not in mine}  # stay, for the next command
    results = others | {where: result for where, result in mine.items() if result is not None}
    rows = data_rows(sources) + [r.row for r in results.values()] + suite_rows(sources, results)
    names = [name for name in algorithms.ALGORITHMS if any(name == algorithm for _, algorithm in results)]
    text = page(rows, suite) + "\n\n" + explain(names, suite, args.budget)
    save(args.keep, rows, results, text)
    return rows, text


def pages(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The page of each algorithm in a folder: the one with a place `scores NAME`. Raises ConfigError if there is none."""
    found = {name: page for page in sorted(folder.glob("*.md")) for name in names if has_place(page, f"scores {name}")}
    missing = [name for name in names if name not in found]
    if missing:
        mark = f"<!-- scores {missing[0]} -->"
        raise ConfigError(f"no page in {folder} has a place for {missing[0]}: expected a line {mark} and its end; add them")
    return found


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    names = list(algorithms.ALGORITHMS) if args.algos == "all" else args.algos.split(",")
    for name in names:
        algorithms.find(name)
    if args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected one or more")
    if args.into is not None:
        check_place(args.into, "scores")
    own_pages = pages(args.pages, names) if args.pages is not None else {}
    seeds = parse_seeds(args.seeds)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    args.out = args.out or Path("runs", "scores", args.budget)
    args.keep = args.keep or args.out
    budget, suite = BUDGETS[args.budget], SUITES.get(args.suite) or args.suite.split(",")
    sources = {name: srpo.load_dataset(args.data_dir / f"{name}.hdf5") for name in suite}
    cells = [
        Cell(name, algorithm, digest(algorithm, data, budget, seeds, args.episodes), args.out)
        for name, data in sources.items()
        for algorithm in dict.fromkeys(names)
    ]
    kept = read(args.keep)  # refuses what it cannot read before anything is trained
    for cell in cells:
        check_cell(cell, seeds, budget, kept, args.keep)
    failed = 0 if args.report else work_through(cells, sources, args, seeds)
    rows, text = write_report(cells, sources, args)
    for name, its_page in own_pages.items():
        insert(its_page, f"scores {name}", one(name, rows, {data: KIN.get(data, data) for data in sources}))
    if args.into is not None:
        insert(args.into, "scores", text)
    print(text)
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--suite",
        default="zoo",
        help="zoo: three data sets (default); zoo-all: seven; or names of files, without .hdf5, and commas",
    )
    add("--data-dir", type=Path, required=True, metavar="DIR", help="where the files of the suite are")
    add("--algos", default="all", help="all (default), or names separated by commas")
    add("--seeds", default="3", metavar="N or S1,S2,...", help="how many seeds or which ones; default 3")
    add("--budget", choices=list(BUDGETS), default="small", help="gradient steps; default small")
    add("--episodes", type=int, default=20, metavar="N", help="episodes per seed; default 20")
    add("--out", type=Path, metavar="DIR", help="default runs/scores/BUDGET")
    add("--keep", type=Path, metavar="DIR", help="where results are kept and looked for; default --out")
    add("--report", action="store_true", help="only write the tables of what is there")
    add("--into", type=Path, metavar="PAGE", help="also replace the table in this page, such as docs/results.md")
    add(
        "--pages",
        type=Path,
        metavar="DIR",
        help="also put each algorithm's scores into its page there, such as docs/algorithms",
    )
    add("--quiet", action="store_true", help="one line for each run, no more")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
