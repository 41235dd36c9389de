"""What run.json must say, checked strictly before anything of it is used: a run folder may come from anybody.

Format 2 adds the SHA-256 of every stage file. Runs of format 1 still load: their files are only checked for names,
shapes, types and finite numbers.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from srpo.config import MOST
from srpo.errors import ConfigError, UserError
from srpo.system import strict_json
from srpo.system.files import amount, read_bytes
from srpo.text import NAME, plain

FORMAT = 2
LARGEST = 64 << 20  # bytes of run.json
RUNS = 100_000  # seeds times swept values
EPISODES, KEPT = 10**6, 10_000  # per evaluation; policies of a run
SEEDS = 2**32  # a seed is below it

METRIC = r"^[A-Za-z0-9_.:/+ -]{1,100}$"  # also what metrics.csv takes

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@:+-]{1,200}$")]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Meta(max_length=4096)]
Source = Annotated[str, Meta(max_length=1 << 20)]  # a table's names its columns
Step = Annotated[int, Meta(ge=0, lt=2**31)]
Size = Annotated[int, Meta(ge=1, lt=2**40)]
Columns = Annotated[int, Meta(ge=1, le=10**6)]
Seed = Annotated[int, Meta(ge=0, lt=SEEDS)]
Value = bool | int | float | str | None


class RunError(UserError):
    """A run folder that cannot be used as asked."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing but its fields."""


class Failure(Strict):
    stage: Word
    step: Step
    metric: Annotated[str, Meta(pattern=METRIC)]
    seed: Seed
    point: Annotated[list[tuple[Word, float]], Meta(max_length=20)]


class File(Strict):
    file: Line
    sha256: Hash


class ActionRange(Strict):
    low: list[float]
    high: list[float]
    origin: Line


class Data(Strict):
    name: Annotated[str, Meta(min_length=1, max_length=300)]
    source: Source
    sha256: Hash
    rows: Size
    transitions: Size
    obs_size: Columns
    action_size: Columns
    env_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,100}$")] | None
    reference: tuple[float, float] | None
    mean_return: float | None = None
    obs_statistics: tuple[list[float], list[float]] | None = None
    longest_episode: Size | None = None
    obs_offset: list[float] | None = None
    obs_deviation: list[float] | None = None  # of the columns, where there are offsets
    action_range: ActionRange | None = None
    labels: tuple[list[Line], list[Line]] | None = None
    reward: Line | None = None


class Info(Strict):
    """run.json. What has a default was not always written."""

    format: Annotated[int, Meta(ge=1)]
    algorithm: Word
    settings: dict[Word, Value | Annotated[list[Value], Meta(max_length=MOST)]]
    seeds: Annotated[list[Seed], Meta(min_length=1, max_length=RUNS)]
    sweep: Annotated[dict[Word, Annotated[list[float], Meta(min_length=1, max_length=RUNS)]], Meta(max_length=20)]
    data: Data
    eval_every: Step
    eval_episodes: Annotated[int, Meta(ge=1, le=EPISODES)]
    created: Annotated[str, Meta(max_length=100)]
    device: Annotated[str, Meta(max_length=300)]
    versions: dict[Word, Annotated[str, Meta(max_length=100)]]
    sources: dict[Word, Annotated[str, Meta(max_length=300)]] = {}
    start_from: Line = ""
    failures: Annotated[list[Failure], Meta(max_length=RUNS)] = []
    stages: dict[Word, Hash] = {}  # SHA-256 of each file in stages/ by its stem
    compact: dict[Word, Hash] | None = None  # of the policies' files, which are all that a compact run has
    max_steps: Annotated[int, Meta(ge=1, lt=2**31)] | None = None  # of an episode of an evaluation
    keep: Annotated[int, Meta(ge=1, le=KEPT)] = 1
    precision: Word = "float32"
    class_: Line | None = msgspec.field(default=None, name="class")  # of an algorithm of another package
    converted: dict[Word, list[File]] | None = None


class Checkpoint(Strict):
    """What a file in state/ says beside its arrays."""

    step: Step
    failures: Annotated[list[Failure], Meta(max_length=RUNS)]
    run: dict[str, Any] | None = None  # whose it is; None in runs of format 1


def read_info(file: Path) -> dict[str, Any]:
    """The contents of run.json. Raises RunError, with the place of the first thing that cannot be."""
    try:
        found = json.loads(read_bytes(file, LARGEST), parse_constant=_no_number, parse_float=_finite)
        if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise RunError(f"{file} has format {found['format']}, this version reads up to {FORMAT}; update srpo")
        _check(found)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{file.parent} holds no run (no run.json); give the folder that `srpo train` named") from None
    except OSError as e:
        raise RunError(f"{file} cannot be read ({e.strerror}); give yourself the right to, or restore it") from None
    except RunError:
        raise
    except (ValueError, RecursionError, MemoryError) as e:
        raise RunError(f"{file} is damaged ({plain(e, 200)}); restore it or train again") from None
    return found


def require_few(seeds: int) -> None:
    """Raises ConfigError for more seeds than a run can have: one was meant, not so many."""
    if seeds > RUNS:
        raise ConfigError(
            f"seeds: found {seeds} of them, expected at most {RUNS}; for one seed write --seeds {seeds}, (with the comma)"
        )


def require_metrics(who: str, names: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of the metrics of a stage, which `who` says. Raises ConfigError for one that run.json and metrics.csv cannot hold."""
    odd = [name for name in names if not (isinstance(name, str) and re.fullmatch(METRIC, name))]
    if odd:
        raise ConfigError(
            f"{who}: metric {plain(repr(odd[0]), NAME)}: expected a name of letters, digits, spaces and _.:/+-, at most 100 of them; rename it"
        )
    return names


def require_readable(info: dict[str, Any]) -> None:
    """Raises ConfigError for what `read_info` would refuse: before training, not when it is over."""
    text = strict_json.dumps(info, indent=1)
    try:
        if len(text) > LARGEST:
            raise ValueError(f"it would have {amount(len(text))}, expected at most {amount(LARGEST)}")
        _check(json.loads(text))
    except ValueError as e:
        raise ConfigError(f"run.json cannot hold this training ({plain(e, 200)}); ask for less, or for shorter names") from None


def _check(found: Any) -> None:
    """Raises ValueError, naming the place, for what no run.json says."""
    info = convert(found, Info)
    if len(info.seeds) * math.prod(map(len, info.sweep.values())) > RUNS:
        raise ValueError(f"more than {RUNS} runs")
    _check_columns(info.data)


def convert(found: Any, kind: type) -> Any:
    """Plain JSON as one of the structs above. Raises ValueError, naming the place."""
    return msgspec.convert(found, kind, strict=True)


def _check_columns(data: Data) -> None:
    """Raises ValueError for numbers per column that are not one per column, or make no sense."""
    mean, std = data.obs_statistics or ([0.0] * data.obs_size, [1.0] * data.obs_size)
    offset = data.obs_offset or [0.0] * data.obs_size
    spread = data.obs_deviation or [0.0] * data.obs_size
    if not len(mean) == len(std) == len(offset) == len(spread) == data.obs_size or min(std) <= 0 or min(spread) < 0:
        raise ValueError(
            f"obs_statistics, obs_offset or obs_deviation are not for {data.obs_size} columns, or a deviation is not above zero"
        )
    if data.labels and tuple(map(len, data.labels)) != (data.obs_size, data.action_size):
        raise ValueError(f"labels are not for {data.obs_size} observations and {data.action_size} actions")
    if (bounds := data.action_range) is not None:
        same = len(bounds.low) == len(bounds.high) == data.action_size
        if not same or any(low >= high for low, high in zip(bounds.low, bounds.high, strict=True)):
            raise ValueError(f"action_range is not for {data.action_size} columns, or a low bound is not below its high one")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} in the place of a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)
