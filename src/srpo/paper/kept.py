"""What a figure takes from a suite: the suite itself, and the results that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srpo.errors import ConfigError, closest
from srpo.suite import tables
from srpo.suite.findings import Findings, findings
from srpo.suite.keep import Keep
from srpo.suite.plan import Suite, load_suite


@dataclass(frozen=True)
class FromSuite:
    """Which suite, and where things are. `keep`: its results. `runs`: its cells. `data`: the chosen sets, none: all."""

    suite: Suite
    name: str  # as it was asked for: a shipped name or a file
    keep: Path
    runs: Path
    data_dir: Path | None = None
    data: tuple[str, ...] = ()
    quick: bool = False

    @classmethod
    def create(cls, name: str, keep: Path | None, runs: Path | None, data_dir: Path | None, data: tuple[str, ...], quick: bool):
        """With the folders that `srpo suite run` uses where none is named. Raises ConfigError for an unknown suite."""
        suite = load_suite(name)
        runs = runs or Path("runs", "suite", suite.name)
        return cls(suite, name, keep or runs / "results", runs, data_dir, data, quick)

    def command(self, *more: str) -> str:
        """What makes the results that are asked for."""
        where = f"--data-dir {self.data_dir or 'DIR'}"
        return " ".join(["srpo suite run", self.name, *more, where, f"--out {self.runs} --keep {self.keep}"])

    def findings(self) -> Findings:
        """What is kept. Raises ConfigError where there is nothing, or another suite's, saying which command makes it."""
        if not (self.keep / "suite.json").exists():
            raise ConfigError(f"{self.keep} holds no results of the suite {self.suite.name}; {self.command()} makes them")
        about = Keep(self.keep).about
        if about["name"] != self.suite.name:
            raise ConfigError(
                f"{self.keep} holds results of the suite {about['name']}; name it with --suite, or another --keep"
            )
        results = tables.read(self.keep)
        if not any(result.finished for result in results):
            raise ConfigError(f"{self.keep} holds no finished result; {self.command()} goes on")
        return findings(about, results)

    def chosen(self, known: list[str]) -> list[str]:
        """The data sets that are asked for, of those that are known. Raises ConfigError."""
        for name in self.data:
            if name not in known:
                raise ConfigError(f"suite {self.suite.name}: {closest(name, known, 'data set')}")
        return list(self.data) or known
