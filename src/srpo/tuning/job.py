"""A search as a folder: what is searched, its trials, and how each of them went.

OUT/tune.json         what is searched
OUT/trials/003/       a trial's run, as `srpo train` leaves it
OUT/trials/003.json   its values and what it has reported so far
OUT/trials/003.end    how it ended: finished, or stopped as too poor; one that failed is tried again
OUT/shared/...        stages that several trials have in common
OUT/trials.csv, OUT/tune.png   the table and the picture

Everything is read from these files alone: the same command goes on after a kill, and with more --samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.runs.checkpoint import write_atomically, write_json
from srpo.runs.elsewhere import Known
from srpo.system.files import read_bytes
from srpo.text import plain
from srpo.tuning.objective import Objective, Score
from srpo.tuning.space import Axis, Values, drawn

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
LARGEST = 16 << 20  # bytes of a file that is read


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """How good a trial was at a step."""

    step: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    value: float
    low: float
    high: float
    note: str


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """What OUT/trials/003.json holds."""

    values: dict[str, Any]
    reports: list[Report]
    seconds: float
    error: str | None


@dataclass(frozen=True)
class Job:
    """What all trials have in common. `reports`: how often, at even intervals of the last stage, a trial says how good it is."""

    algorithm: Algorithm
    data: Dataset | None  # None: where only files are read; those who train ask for `dataset`
    space: tuple[Axis, ...]
    samples: int
    seeds: tuple[int, ...]
    objective: Objective
    out: Path
    reports: int = 9
    episodes: int = 10
    max_steps: int | None = None
    search_seed: int = 0
    checkpoint_every: float = 60.0
    known: Known | None = None  # what a person named of other packages: processes that train must know it, too

    @property
    def dataset(self) -> Dataset:
        assert self.data is not None
        return self.data

    @cached_property
    def points(self) -> list[Values]:
        return drawn(self.space, self.samples, self.search_seed)

    @property
    def last_report(self) -> int:
        """The number of the report at the end of training: fewer than asked for where steps cannot be divided so finely."""
        steps = list(self.algorithm.stages.values())[-1].steps
        return -(-steps // -(-steps // self.reports))

    @cached_property
    def trials(self) -> list[Trial]:
        return [Trial(self, number, values) for number, values in enumerate(self.points)]

    def check(self) -> None:
        """Raises ConfigError for values that do not fit together, or where another search is in the folder, and DataError for data
        that cannot be treated as a trial wants them; nothing is written."""
        name, last = list(self.algorithm.stages.items())[-1]
        if not 1 <= self.reports <= last.steps:
            raise ConfigError(f"found {self.reports} reports, expected 1 to {last.steps}, the steps of {name}")
        for trial in self.trials:
            config.settings(trial.algorithm)  # what does not fit together is judged when it is made
        for treatment in {repr(trial.algorithm.data): trial.algorithm.data for trial in self.trials}.values():
            treat(self.dataset, treatment, on_device=False)
        file = self.out / "tune.json"
        if not file.exists():
            return
        found, mine = _read(file), self.as_dict()
        if odd := _difference(found, mine):
            raise ConfigError(f"{self.out} holds another search ({odd}); choose another --out, or remove it")

    def describe(self) -> None:
        write_json(self.out / "tune.json", self.as_dict() | {"samples": self.samples})

    def as_dict(self) -> dict[str, Any]:
        """All that decides what a trial does, as JSON gives it back."""
        values = {path: setting.value for path, setting in config.settings(self.algorithm).items()}
        about: dict[str, Any] = {
            "algorithm": algorithms.name_of(self.algorithm),
            "data": self.dataset.sha256,
            "environment": self.dataset.env_id,
            "action_range": self.dataset.action_range and self.dataset.action_range.as_dict(),
            "settings": values,
        }
        about |= {"space": [asdict(axis) for axis in self.space], "search_seed": self.search_seed, "seeds": self.seeds}
        about |= {
            "objective": self.objective.kind,
            "reports": self.reports,
            "episodes": self.episodes,
            "max_steps": self.max_steps,
        }
        about |= {"judging": {path: setting.value for path, setting in config.settings(self.objective.judging).items()}}
        return json.loads(json.dumps(about))


@dataclass(frozen=True)
class Trial:
    job: Job
    number: int
    values: Values

    @cached_property
    def algorithm(self) -> Algorithm:
        return config.assign_all(self.job.algorithm, self.values)

    @property
    def name(self) -> str:
        return f"{self.number:03d}"

    @property
    def folder(self) -> Path:
        return self.job.out / "trials" / self.name

    @property
    def record(self) -> dict[str, Any]:
        """Its values, its reports in order, the seconds it took and its error."""
        file = self.folder.with_suffix(".json")
        if not file.exists():
            return {"values": dict(self.values), "reports": [], "seconds": 0.0, "error": None}
        found = _read(file)
        try:
            msgspec.convert(found, Record)
        except msgspec.ValidationError as e:
            raise _damaged(file, e) from None
        return found

    def note(self, **changes: Any) -> None:
        write_json(self.folder.with_suffix(".json"), self.record | changes)

    @property
    def scores(self) -> list[Score]:
        return [Score(r["value"], r["low"], r["high"], r["note"]) for r in self.record["reports"]]

    @property
    def outcome(self) -> str | None:
        """How it ended, if it did. One that failed is tried again by the next command."""
        file = self.folder.with_suffix(".end")
        if file.exists():
            return file.read_text().strip()
        return None if self.record["error"] is None else FAILED

    def end(self, outcome: str) -> None:
        write_atomically(self.folder.with_suffix(".end"), f"{outcome}\n".encode())

    def digest(self, stages: int) -> str:
        """Of all that decides what its first stages learn: the same where these can be shared."""
        shared = ("data.", *(f"{name}." for name in list(self.algorithm.stages)[:stages]))
        values = {path: repr(s.value) for path, s in config.settings(self.algorithm).items() if path.startswith(shared)}
        return hashlib.sha256(json.dumps([stages, values]).encode()).hexdigest()[:12]

    def alike(self, stages: int) -> list[Trial]:
        """All trials, this one among them, whose first stages learn the same."""
        mine = self.digest(stages)
        return [trial for trial in self.job.trials if trial.digest(stages) == mine]


def _difference(found: Any, mine: dict[str, Any]) -> str:
    """The first thing that differs, in words."""
    for key, value in mine.items():
        other = found.get(key) if isinstance(found, dict) else None
        if other != value:
            return _difference(other, value) if isinstance(value, dict) else f"{key}: {other}, not {value}"
    return ""


def _read(file: Path) -> dict[str, Any]:
    """Raises ConfigError for what is no JSON object."""
    try:
        found = json.loads(read_bytes(file, LARGEST))
    except (OSError, ValueError, RecursionError) as e:
        raise _damaged(file, e) from None
    if not isinstance(found, dict):
        raise _damaged(file, "no object")
    return found


def _damaged(file: Path, why: object) -> ConfigError:
    return ConfigError(f"{file} is damaged ({plain(why, 200)}); restore it, or remove the folder")


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first: of those that came as far by their last score, those that came further before the others, failures last."""

    def order(trial: Trial) -> tuple[bool, int, float]:
        scores = trial.scores
        return trial.outcome == FAILED, -len(scores), -scores[-1].value if scores else 0.0

    return sorted(trials, key=order)
