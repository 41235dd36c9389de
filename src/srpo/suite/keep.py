"""The folder in which the results of a suite are kept, on whichever machine they were made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from srpo.data import Dataset
from srpo.errors import ConfigError, closest
from srpo.runs.checkpoint import write_atomically, write_json
from srpo.runs.description import versions
from srpo.runs.folder import held
from srpo.runs.run import Run, RunError, load_run
from srpo.runs.tables import write_csv
from srpo.suite import measures, tables
from srpo.suite.budget import Budget
from srpo.suite.findings import Findings, findings
from srpo.suite.html_page import html_page
from srpo.suite.page import page
from srpo.suite.plan import LARGEST, Suite
from srpo.suite.schema import MOST_SCORE, About
from srpo.suite.tables import Result
from srpo.system.files import read_bytes
from srpo.text import plain

ALIKE = ("preset", "budget", "precision", "episodes", "curve")  # the same for all results of a folder


@dataclass(frozen=True)
class Keep:
    """Tables, the suite they are of, and the policies that wait for their evaluation."""

    folder: Path

    @property
    def about(self) -> dict[str, Any]:
        """The suite, with what its data sets are. Raises ConfigError if there is none."""
        file = self.folder / "suite.json"
        try:
            found = json.loads(read_bytes(file, LARGEST))
            checked = msgspec.convert(found, About)
            return found | {"budget": asdict(checked.budget), "precision": checked.precision}
        except OSError as e:
            raise ConfigError(
                f"{self.folder} holds no results of a suite (suite.json: {e.strerror}); srpo suite run --keep makes them"
            ) from None
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"{file} is damaged ({plain(e, 200)}); restore it") from None

    def policies(self, data: str, algorithm: str, seeds: Sequence[int]) -> Path:
        return self.folder / "policies" / data / algorithm / "-".join(map(str, seeds))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time reads and rewrites the tables."""
        with held(self.folder / ".lock", "choose another --keep", wait=True):
            yield

    def check(self, about: Mapping[str, Any]) -> None:
        """Raises ConfigError if what is kept was trained or played in another way than the suite `about` says, which is said once for all."""
        kept = self.about if (self.folder / "suite.json").exists() else about
        for key in ALIKE:
            if about[key] != kept[key]:
                theirs, mine = (Budget(**each[key]) if key == "budget" else each[key] for each in (kept, about))
                raise ConfigError(
                    f"{self.folder} holds results with {key} {theirs}, this suite has {mine}; choose another --keep"
                )

    def describe(self, suite: Suite, data: dict[str, Dataset]) -> None:
        """Say which suite it is and what its data are; those of earlier commands stay."""
        entries = []
        for source in suite.data:
            d = data[source.name]
            facts = {"rows": len(d), "sha256": d.sha256, "env_id": d.env_id, "mean_score": mean_score(d)}
            entries.append({"name": source.name, "task": source.task, "settings": dict(source.settings), **facts})
        self._remember(suite.as_dict() | {"data": entries})

    def _remember(self, about: dict[str, Any]) -> None:
        file = self.folder / "suite.json"
        before = self.about if file.exists() else {"data": [], "algorithms": [], "seeds": [], "settings": {}}
        variants = before.get("variants", {}) | about.get("variants", {})
        earlier = {d["name"]: d.get("settings", {}) for d in before["data"]}
        new = [d | {"settings": earlier.get(d["name"], {}) | d.get("settings", {})} for d in about["data"]]
        data = {d["name"]: d for d in (*before["data"], *new)}
        names = dict.fromkeys([*before["algorithms"], *about["algorithms"]])
        seeds = sorted({*before["seeds"], *about["seeds"]})
        settings = before["settings"] | about["settings"]  # of an algorithm each
        compared = {"compared": before["compared"]} if before.get("compared") else {}
        union = {"algorithms": list(names), "data": list(data.values()), "seeds": seeds, "settings": settings}
        write_json(file, about | compared | union | {"variants": variants})

    def compare(self, names: Sequence[str]) -> None:
        """Means and comparisons are over these data sets from here on. Raises ConfigError for one that is not there."""
        with self.locked():
            about = self.about
            known = [d["name"] for d in about["data"]]
            for name in names:
                if name not in known:
                    raise ConfigError(f"{self.folder}: {closest(name, known, 'data set')}")
            write_json(self.folder / "suite.json", about | {"compared": list(names)})

    def check_other(self, other: Keep) -> None:
        """Raises ConfigError if the results of another folder, of another suite or other settings, cannot be put beside those in this one."""
        self.check(other.about)
        mine, theirs = (tables.by_place([r for r in tables.read(k.folder) if r.settled]) for k in (self, other))
        for where in mine.keys() & theirs.keys():
            if len({r.about["settings"] for r in (*mine[where], *theirs[where])}) > 1:
                raise ConfigError(
                    f"{other.folder} and {self.folder} hold results of {where[1]} on {where[0]} with different settings or data; "
                    "choose another --keep"
                )

    def adopt(self, other: Keep) -> None:
        """Put the results of another folder beside those in this one. Raises ConfigError as `check_other` does."""
        self.check_other(other)
        with self.locked():
            self._remember(other.about)
        self.update(tables.read(other.folder))

    def update(self, mine: Sequence[Result]) -> Findings:
        """Put new results beside the kept ones and write all tables and pages."""
        with self.locked():
            found = findings(self.about, tables.merged(mine, tables.read(self.folder)))
            tables.save(self.folder, found.results, found.rows)
            write_csv(self.folder / "measures.csv", found.comparison.rows(), measures.COLUMNS)
            write_atomically(self.folder / "scores.md", (page(found) + "\n").encode())
            write_atomically(self.folder / "report.html", html_page(found, self.folder).encode())
        return found

    def waiting(self) -> list[Result]:
        """What was trained and not evaluated."""
        return [r for r in tables.read(self.folder) if not r.finished and (r.settled or self.has_policies(r))]

    def trained(self, result: Result) -> Run:
        """Its policies. Raises RunError if they are not there, or damaged."""
        folder = self.policies(*result.where, result.seeds)
        if not self.has_policies(result):
            raise RunError(f"{folder} is not there; put it back, or train it again")
        return load_run(folder)

    def has_policies(self, result: Result) -> bool:
        return (self.policies(*result.where, result.seeds) / "run.json").exists()


def mean_score(data: Dataset) -> float | None:
    """Of the recorded episodes, None without any or a reference. Raises ConfigError for one that no table holds."""
    if not data.reference or not len(data.returns):
        return None
    mean = float(data.score(data.returns).mean())
    if not abs(mean) <= MOST_SCORE:
        raise ConfigError(
            f"{data.source}: its episodes score {mean:g} in the mean, expected -{MOST_SCORE:,.0f} to {MOST_SCORE:,.0f}; mend the "
            "attribute reference, the mean returns of a random and of a good policy"
        )
    return mean


def scored(result: Result, run: Run, seconds: float) -> Result:
    """A result with the episodes that are in the run's evals.csv by now, played with the versions that are installed here."""
    found = versions()
    about = result.about | {"status": "finished", "eval_seconds": result.about["eval_seconds"] + seconds}
    about |= {name: found[name] for name in ("gymnasium", "mujoco")}
    return tables.played(run, about)
