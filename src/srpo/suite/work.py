"""Works through the cells of a suite, the most informative first, as far as the time allows.

The same command may be stopped at any time and goes on where it was; it may run several times at once on the same folders,
also on machines that share them: each takes the next cell that nobody is at work on. A cell that fails is recorded and the
others go on. Stages whose settings agree train once and are shared (`sharing.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

import srpo
from srpo.data import Dataset
from srpo.errors import ConfigError, UserError
from srpo.runs.checkpoint import NotWritten
from srpo.runs.elsewhere import Known, known
from srpo.suite import tables
from srpo.suite.cells import Cell, seed_groups
from srpo.suite.keep import Keep, mean_score
from srpo.suite.plan import Suite
from srpo.suite.sharing import donor_of, must_wait
from srpo.system.clock import Clock, stopping
from srpo.text import plain, said, tell
from srpo.training.progress import Bars
from srpo.training.saving import Saving
from srpo.worlds.environments import check_environment

WAIT_SECONDS = 2.0  # between two looks at what another process is at work on


@dataclass(frozen=True)
class Work:
    """`evaluate`: act in the environments as soon as a cell is trained; else its policies are kept for later."""

    suite: Suite
    data: dict[str, Dataset]
    out: Path
    keep: Keep
    command: str
    clock: Clock
    evaluate: bool = True
    quiet: bool = False
    saving: Saving = field(default_factory=Saving)

    @property
    def known(self) -> Known:
        """What other processes at work on it must know of other packages."""
        return known(map(self.suite.algorithm_of, self.suite.algorithms), (each.env_id for each in self.data.values()))

    def cells(self, together: bool | None = None) -> list[Cell]:
        """In the order in which they are worked through. together: all seeds in one cell; None: if this machine has an accelerator."""
        groups = seed_groups(self.suite.seeds, jax.default_backend() != "cpu" if together is None else together)
        found = [
            (
                (i, *self.suite.rank(source.name, name)),
                Cell(self.suite, source.name, self.data[source.name].sha256, source.task, name, seeds, self.out),
            )
            for i, seeds in enumerate(groups)
            for source in self.suite.data
            for name in self.suite.algorithms
        ]
        return [cell for _, cell in sorted(found, key=lambda pair: pair[0])]

    def check(self, cells: Sequence[Cell]) -> None:
        """Raises what would keep a cell from being trained, or its result from being kept; nothing is written yet."""
        for folder, option in ((self.out, "--out"), (self.keep.folder, "--keep")):
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"{folder} is no folder; choose another {option}")
        for data in self.data.values():
            mean_score(data)
            if self.evaluate:
                require_scores(data)
        self.keep.check(self.suite.as_dict())
        kept = tables.by_place([r for r in tables.read(self.keep.folder) if r.settled])
        for cell in cells:
            cell.check()
            if any(r.about["settings"] != cell.settings for r in kept.get((cell.data, cell.algorithm), ())):
                raise UserError(
                    f"{self.keep.folder} holds a result of {cell.algorithm} on {cell.data} with other settings or data, which would be "
                    "lost; choose another --keep"
                )

    def results(self, cells: Sequence[Cell]) -> list[tables.Result]:
        return [r for cell in cells if (r := tables.from_cell(cell, self.command, self.keep.folder)) is not None]

    def through(self, cells: Sequence[Cell]) -> int:
        """The number of cells that failed."""
        failed, left = 0, list(cells)
        with self.keep.locked():
            self.keep.describe(self.suite, self.data)
        with stopping(self.clock):
            while left:
                kept, mine = tables.read(self.keep.folder), self.results(cells)
                left = [cell for cell in left if not self.settled(cell, tables.merged(mine, kept))]
                free = [cell for cell in left if time_for(self.clock, cell, mine)]
                if not free:
                    break
                taken, ok = self.next(free, cells)
                if taken is None:
                    time.sleep(min(WAIT_SECONDS, max(self.clock.left, 0.0)))
                    continue
                left.remove(taken)
                failed += not ok
                self.keep.update(self.results(cells))
        if left:
            tell(
                f"{len(left)} cells are left: {', '.join(f'{c.data} {c.algorithm}' for c in left[:3])}{', ...' if left[3:] else ''}"
            )
        return failed

    def settled(self, cell: Cell, results: Sequence[tables.Result]) -> bool:
        """Whether nothing is left to do for its seeds here: evaluated, or trained where nothing is evaluated."""
        here = [r for r in results if r.where == (cell.data, cell.algorithm) and (r.finished or self._waits(r))]
        return set(cell.seeds) <= {seed for r in here for seed in r.seeds}

    def _waits(self, result: tables.Result) -> bool:
        """Whether its policies are kept for an evaluation elsewhere."""
        return not self.evaluate and self.keep.has_policies(result)

    def next(self, free: Sequence[Cell], cells: Sequence[Cell]) -> tuple[Cell | None, bool]:
        """Work on the first cell that nobody is at work on and that need not wait for what another process trains."""
        for cell in free:
            with cell.claimed() as mine:
                if mine and not must_wait(cell, cells):
                    return cell, self.one(cell, cells)
        return None, True

    def one(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """Train, from where it stopped, then evaluate or keep the policies; False if it failed."""
        where = f"{cell.data} {cell.algorithm} {'-'.join(map(str, cell.seeds))}"
        left = "" if self.clock.minutes is None else f", {self.clock.left / 60:.1f} minutes left"
        tell(f"{where}: {'goes on' if cell.run else 'begins'}{left}")
        try:
            run = self._trained(cell, cells)
            if self.evaluate:
                with cell.timed("eval"), Bars(self.quiet) as bars:
                    bars.open("time steps", 1000)
                    srpo.evaluate(run, self.suite.episodes, progress=bars.update, curve=self.suite.curve_episodes)
                    tables.require_scores(run)
            else:
                run.save_compact(self.keep.policies(cell.data, cell.algorithm, cell.seeds))
        except NotWritten:
            raise  # the disk is full, or something like it: the others would fail as well
        except Exception as e:  # whatever it is, the other cells must go on; the next command tries this one again
            error = plain(said(e))
            cell.note(error=error)
            tell(f"{where}: failed: {error}")
            return False
        finally:
            jax.clear_caches()
        log = cell.log
        tell(f"{where}: {log['train_seconds']:.0f} s of training, {log['eval_seconds']:.0f} s of evaluation")
        return True

    def _trained(self, cell: Cell, cells: Sequence[Cell]) -> srpo.Run:
        data = self.data[cell.data]
        with cell.timed("train"):
            if cell.run is not None:
                return srpo.resume(cell.folder, data, quiet=self.quiet, saving=self.saving)
            donor, shared = donor_of(cell, cells)
            cell.note(shared=shared, command=self.command)
            return srpo.train(
                cell.configured,
                data,
                seeds=cell.seeds,
                out=cell.folder,
                start_from=donor,
                eval_every=0,
                keep=self.suite.curve,
                quiet=self.quiet,
                precision=self.suite.precision,
                saving=self.saving,
            )


def require_scores(data: Dataset) -> None:
    """Raises ConfigError, MissingEnvironment where nothing can be scored in an environment on one scale with other data."""
    if data.env_id is None:
        raise ConfigError(
            f"{data.source} names no environment to be scored in; set the file's attribute env_id, or train with --no-eval"
        )
    check_environment(data)
    require_reference(data.source, data.env_id, data.reference)


def require_reference(source: str, env_id: str | None, reference: Sequence[float] | None) -> None:
    """Raises ConfigError where no scores are known."""
    if reference is None:
        raise ConfigError(
            f"{source}: no returns are known that stand for the scores 0 and 100 in {env_id}; set the file's attribute reference "
            "(a source's: Attributes.reference) to the mean returns of a random and of a good policy, then train"
        )


def time_for(clock: Clock, cell: Cell, results: Sequence[tables.Result]) -> bool:
    """Whether a cell can end in time: as long as the longest of the same algorithm; the shortest of all if it was never done."""
    spent = [(r.about["algorithm"], r.about["train_seconds"] + r.about["eval_seconds"]) for r in results if r.settled]
    same = [seconds for name, seconds in spent if name == cell.algorithm]
    expected = max(same) if same else min((seconds for _, seconds in spent), default=0.0)
    return expected - cell.log["train_seconds"] < clock.left
