"""One cell of a suite: a data set, an algorithm and the seeds that are trained together, as a run and a record beside it.

OUT/DATA/ALGORITHM/0-1-2/       the run, as `srpo train` leaves it
OUT/DATA/ALGORITHM/0-1-2.json   how it went: seconds, what was shared, the error if it failed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from srpo import config
from srpo.core import Algorithm
from srpo.runs.checkpoint import write_json
from srpo.runs.folder import held
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, kept_steps, load_run
from srpo.suite.budget import configured
from srpo.suite.plan import Recipe, Suite
from srpo.suite.schema import Log
from srpo.system.files import read_bytes
from srpo.text import plain

LARGEST = 1 << 20  # bytes of a record


@dataclass(frozen=True)
class Cell:
    """`task`: whose published settings the data set gets. `algorithm`: its name in the suite, that of a variant too."""

    suite: Suite
    data: str
    sha256: str
    task: str
    algorithm: str
    seeds: tuple[int, ...]
    out: Path

    @property
    def place(self) -> str:
        """Its folder inside `out`."""
        return f"{self.data}/{self.algorithm}/{'-'.join(map(str, self.seeds))}"

    @property
    def folder(self) -> Path:
        return self.out / self.place

    @property
    def record(self) -> Path:
        return self.folder.with_name(self.folder.name + ".json")

    @cached_property
    def recipe(self) -> Recipe:
        return self.suite.recipe(self.data, self.algorithm)

    @cached_property
    def configured(self) -> Algorithm:
        name, preset, more = self.recipe
        return configured(name, self.task, preset, self.suite.budget, more)

    @cached_property
    def grid(self) -> Grid:
        return Grid.create(self.configured, self.seeds, None)

    @cached_property
    def settings(self) -> str:
        """A digest of all that decides its result but seeds, machine and the library's version."""
        values = {path: repr(s.value) for path, s in config.settings(self.grid.algorithm).items()}
        return hashlib.sha256(json.dumps([self.recipe.algorithm, self.data, self.sha256, values]).encode()).hexdigest()[:12]

    @property
    def run(self) -> Run | None:
        return load_run(self.folder) if (self.folder / "run.json").exists() else None

    @property
    def log(self) -> dict[str, Any]:
        """Seconds of training and evaluation so far, whether some of them are missing, and the error if it failed."""
        if not self.record.exists():
            return msgspec.structs.asdict(Log())
        try:
            return msgspec.structs.asdict(msgspec.json.decode(read_bytes(self.record, LARGEST), type=Log))
        except (OSError, ValueError, RecursionError) as e:
            raise RunError(f"{self.record} is damaged ({plain(e, 200)}); remove it: only the times in it are lost") from None

    def note(self, **changes: Any) -> None:
        write_json(self.record, self.log | changes)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds spent to the log; a process that was killed meanwhile leaves the mark `busy`, and its time is missing."""
        before = self.log
        self.note(busy=what, incomplete=before["incomplete"] or before["busy"] is not None, error=None)
        begin = time.monotonic()
        try:
            yield
        finally:
            key = f"{what}_seconds"
            self.note(busy=None, **{key: before[key] + time.monotonic() - begin})

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether this process has the cell for itself while the context lasts; another one may be at work on it."""
        with held(self.folder.with_name(self.folder.name + ".lock"), "choose another --out") as mine:
            yield mine

    def check(self) -> None:
        """Raises ConfigError for settings or seeds that cannot be used, RunError where a run of other settings is in its folder."""
        wanted, run = config.settings(self.grid.algorithm), self.run
        if run is None:
            return
        if run.info["data"]["sha256"] != self.sha256:
            raise RunError(f"{self.folder} holds a run on other data: {self.data} was changed since; choose another --out")
        if len(run.kept) != len(kept_steps(self.grid.algorithm, self.suite.curve)):
            raise RunError(
                f"{self.folder} holds a run that kept {len(run.kept)} policies for its curve, this suite keeps {self.suite.curve}; choose "
                "another --out"
            )
        if run.precision != self.suite.precision:
            raise RunError(
                f"{self.folder} holds a run in {run.precision}, this suite is in {self.suite.precision}; choose another --out"
            )
        found = config.settings(run.algorithm)
        changed = [path for path in wanted if wanted[path].value != found[path].value]
        if changed:
            path = changed[0]
            raise RunError(
                f"{self.folder} holds a run with {path} {found[path].value}, this suite has {wanted[path].value}; choose another --out"
            )


def seed_groups(seeds: tuple[int, ...], together: bool) -> list[tuple[int, ...]]:
    """All at once on an accelerator; on a CPU, which trains them one after the other anyway, a cell for each."""
    return [seeds] if together else [(seed,) for seed in seeds]
